//! Does a measured selection beat what people do instead, at equal parameters and equal compute?
//!
//!     cargo run --release --example evidence -- benches/evidence/settings/grid.yaml --models DIR --data DIR --out DIR
//!
//! Every arm trains the same model on the same rows for the same compute, and is evaluated on rows that nobody chose by.
//! A finished arm is a line of `runs.csv`; a run that is started again goes on behind the last one. What probes measured is
//! in `groups.csv`. At the end come `tables.md` and a plot for each task. Several settings have a folder each.
#![allow(
    clippy::print_stdout,
    reason = "a program that reports its progress on the terminal"
)]
#![allow(
    clippy::result_large_err,
    reason = "an error here ends the program, its size does not matter"
)]

mod agreement;
mod bench;
mod choice;
mod claims;
mod cost;
mod cut;
mod ledger;
mod probed;
mod ranking;
mod setting;
mod statistics;
mod tables;
mod uniform;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use autopeft::groups::{Place, transfer as carry_over, uniform};
use autopeft::recipe::{Override, Recipe};
use clap::Parser;

use bench::{Bench, cpu_seconds};
use ledger::{GroupRow, Key, Ledger, Row};
use probed::Probed;
use setting::{ProbeSetting, RankingSetting, SelectionSetting, Setting, Task, TransferSetting};
use tables::Comparison;
use uniform::Mix;

/// Compares selections with what people do instead.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to compare: a YAML file, or several.
    #[arg(required = true)]
    settings: Vec<PathBuf>,
    /// Folder of the models that the setting names.
    #[arg(long, default_value = ".")]
    models: PathBuf,
    /// Folder of the data sets that the setting names.
    #[arg(long, default_value = ".")]
    data: PathBuf,
    /// Folder of the results; finished arms in it are not run again. With several settings it has one named as each.
    #[arg(long)]
    out: PathBuf,
    /// Only these tasks of the setting.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these seeds of the setting.
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Nothing is run; tables and plots of the arms that are finished.
    #[arg(long)]
    tables: bool,
}

fn main() -> Result<()> {
    autopeft::memory::keep_freed();
    autopeft::threads::start(None)?;
    let arguments = Arguments::parse();
    let settings = (arguments.settings.iter())
        .map(|path| Setting::read(path))
        .collect::<Result<Vec<_>>>()?;
    for only in &arguments.only {
        let mut tasks = settings.iter().flat_map(|setting| &setting.tasks);
        ensure!(
            tasks.any(|task| task.name == *only),
            "`--only {only}` names no task of the setting"
        );
    }
    for (path, setting) in arguments.settings.iter().zip(&settings) {
        let out = match (settings.len(), path.file_stem()) {
            (2.., Some(name)) => arguments.out.join(name),
            _ => arguments.out.clone(),
        };
        if !arguments.tables {
            run(&arguments, setting, &out)?;
        }
        let (rows, groups) = (ledger::rows(&out)?, ledger::group_rows(&out)?);
        if rows.is_empty() && groups.is_empty() {
            ensure!(settings.len() > 1, "no finished arms in {}", out.display());
            println!("{}: nothing of it was run", path.display());
            continue;
        }
        write_tables(setting, &out, &rows, &groups)?;
    }
    Ok(())
}

/// Runs what is not finished of a setting.
fn run(arguments: &Arguments, setting: &Setting, out: &Path) -> Result<()> {
    let mut ledger = Ledger::open(out)?;
    for task in &setting.tasks {
        if !arguments.only.is_empty() && !arguments.only.contains(&task.name) {
            continue;
        }
        for &seed in &setting.seeds {
            if !arguments.seeds.is_empty() && !arguments.seeds.contains(&seed) {
                continue;
            }
            for rate in setting.all_rates() {
                let at = At {
                    arguments,
                    setting,
                    out,
                    task,
                    seed,
                    rate,
                };
                at.run(&mut ledger)
                    .with_context(|| format!("task {}, seed {seed}, rate {rate}", task.name))?;
            }
        }
    }
    Ok(())
}

/// Tables and plots of a setting's finished arms, and whether its claims hold.
fn write_tables(setting: &Setting, out: &Path, rows: &[Row], groups: &[GroupRow]) -> Result<()> {
    let about_groups = ranking::tables(rows, groups) + &agreement::tables(groups);
    if !about_groups.is_empty() {
        println!("{about_groups}");
        std::fs::write(out.join("groups.md"), about_groups)?;
    }
    let reference = setting.equal_to.as_deref();
    let reference = reference.or(setting.selections.first().map(|first| first.name.as_str()));
    let within_budgets: Vec<Row> = (rows.iter())
        .filter(|row| row.budget != ranking::BUDGET)
        .cloned()
        .collect();
    let comparison = Comparison {
        reference,
        rows: &within_budgets,
    };
    if !within_budgets.is_empty() {
        let tables = comparison.markdown() + &agreement::sets(rows, reference);
        println!("{tables}");
        std::fs::write(out.join("tables.md"), tables)?;
        comparison.plot(out)?;
    }
    claims::check(&setting.claims, &comparison, groups)?;
    Ok(())
}

/// What the arms are called whose rates are fitted on the way.
const FITTED: &str = "/fitted";

/// A task with a seed and a learning rate.
#[derive(Clone, Copy)]
struct At<'a> {
    arguments: &'a Arguments,
    setting: &'a Setting,
    out: &'a Path,
    task: &'a Task,
    seed: u64,
    rate: f64,
}

impl At<'_> {
    fn run(self, ledger: &mut Ledger) -> Result<()> {
        for selection in &self.setting.selections {
            let rates = selection.rates.as_ref().unwrap_or(&self.setting.rates);
            if rates.contains(&self.rate) {
                self.selection(selection, ledger)?;
            }
        }
        if !self.setting.rates.contains(&self.rate) {
            return Ok(());
        }
        for probe in &self.setting.probes {
            let seeds = probe.seeds.as_ref().unwrap_or(&self.setting.seeds);
            if seeds.contains(&self.seed) {
                self.probe(probe, ledger)?;
            }
        }
        for transfer in &self.setting.transfers {
            self.transfer(transfer, ledger)?;
        }
        for ranking in &self.setting.rankings {
            self.ranking(ranking, ledger)?;
        }
        self.uniform(&self.setting.uniform, "", ledger)?;
        self.uniform(&self.setting.fitted, FITTED, ledger)?;
        for draw in 0..self.setting.random {
            self.random(draw, ledger)?;
        }
        Ok(())
    }

    /// The task's recipe with these changes.
    fn recipe(self, changes: &[String]) -> Result<Recipe> {
        let Arguments { models, data, .. } = self.arguments;
        let path = |folder: &Path, name: &str, flag: &str| -> Result<String> {
            if name.starts_with("embedded:") {
                return Ok(name.to_owned());
            }
            let path = folder.join(name);
            ensure!(
                path.exists(),
                "no {}: give the folder that `{name}` is in with `{flag}`; docs/evidence.md says where it comes from",
                path.display()
            );
            Ok(path.display().to_string())
        };
        let mut all = vec![
            format!("model={}", path(models, &self.task.model, "--models")?),
            format!("data.train={}", path(data, &self.task.train, "--data")?),
            format!("seed={}", self.seed),
            format!("train.learning_rate={}", self.rate),
            format!("train.steps={}", self.setting.steps),
        ];
        if let Some(test) = &self.task.test {
            all.push(format!("data.validation={}", path(data, test, "--data")?));
        }
        all.extend_from_slice(&self.setting.set);
        all.extend_from_slice(&self.task.set);
        all.extend_from_slice(changes);
        let changes = all
            .iter()
            .map(|change| change.parse::<Override>())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Recipe::load(&self.task.recipe, &changes)?)
    }

    fn key(self, arm: &str, budget: &str) -> Key {
        Key {
            task: self.task.name.clone(),
            arm: arm.to_owned(),
            budget: budget.to_owned(),
            seed: self.seed,
            rate: self.rate,
        }
    }

    /// The program's own line from the data to the trimmed adapter.
    fn selection(self, selection: &SelectionSetting, ledger: &mut Ledger) -> Result<()> {
        for budget in &self.setting.budgets {
            let key = self.key(&selection.name, budget);
            if ledger.has(&key) {
                continue;
            }
            let mut changes = vec![format!("select.budget={budget}")];
            changes.extend_from_slice(&selection.set);
            let recipe = self.recipe(&changes)?;
            let bench = Bench::new(&recipe, self.task.test_rows)?;
            let begin = cpu_seconds();
            let selected = bench.select()?;
            let seconds = cpu_seconds() - begin;
            let horizon = bench.prepared.horizon; // a selection may have steps of its own
            ledger.add(Row::new(
                key,
                &bench,
                &selected.kept,
                &selected.evaluation,
                horizon.probe + horizon.after + selected.cost,
                seconds,
            ))?;
        }
        Ok(())
    }

    /// All choices by one probe, each within each budget; the probe runs once.
    fn probe(self, probe: &ProbeSetting, ledger: &mut Ledger) -> Result<()> {
        let mut open = Vec::new();
        for choice in &probe.choices {
            for budget in &self.setting.budgets {
                let key = self.key(&format!("{}/{choice}", probe.name), budget);
                if !ledger.has(&key) {
                    open.push((*choice, key));
                }
            }
        }
        let has_scores = ledger.has_scores(&self.task.name, &probe.name, self.seed, self.rate);
        if open.is_empty() && has_scores {
            return Ok(());
        }
        let recipe = self.recipe(&probe.set)?;
        let bench = Bench::new(&recipe, self.task.test_rows)?;
        let begin = cpu_seconds();
        let probed = Probed::run(&bench)?;
        let probing = cpu_seconds() - begin;
        if !has_scores {
            self.write_scores(&probe.name, &probed, &probed.scores(), ledger)?;
        }
        for (choice, key) in open {
            let begin = cpu_seconds();
            let capacity = bench.capacity(&key.budget)?;
            let kept = probed.choose(choice, capacity)?;
            let (evaluation, cost) = probed.finish(&kept)?;
            let seconds = probing + cpu_seconds() - begin;
            let steps = self.setting.steps;
            ledger.add(Row::new(
                key,
                &bench,
                &kept,
                &evaluation,
                steps + cost,
                seconds,
            ))?;
        }
        Ok(())
    }

    fn write_scores(
        self,
        probe: &str,
        probed: &Probed<'_>,
        scores: &[(&str, Vec<f64>)],
        ledger: &mut Ledger,
    ) -> Result<()> {
        let (seed, rate) = (self.seed, self.rate);
        ledger.scores(&self.task.name, probe, seed, rate, probed.groups(), scores)
    }

    /// The scores of a probe, then the trainings that say what its groups are worth.
    fn ranking(self, ranking: &RankingSetting, ledger: &mut Ledger) -> Result<()> {
        let recipe = self.recipe(&ranking.set)?;
        let bench = Bench::new(&recipe, self.task.test_rows)?;
        let name = &ranking.name;
        if !ledger.has_scores(&self.task.name, name, self.seed, self.rate) {
            let probed = Probed::run(&bench)?;
            self.write_scores(name, &probed, &probed.all_scores()?, ledger)?;
        }
        for variant in &ranking.probes {
            let probe = ranking::variant(name, &variant.name);
            if !ledger.has_scores(&self.task.name, &probe, self.seed, self.rate) {
                let changes = [ranking.set.as_slice(), &variant.set].concat();
                let recipe = self.recipe(&changes)?;
                let bench = Bench::new(&recipe, self.task.test_rows)?;
                let probed = Probed::run(&bench)?;
                self.write_scores(&probe, &probed, &probed.scores(), ledger)?;
            }
        }
        for (arm, kept) in ranking::arms(name, &bench.prepared.groups, ranking.leave_out) {
            let key = self.key(&arm, ranking::BUDGET);
            if !ledger.has(&key) {
                self.run_alone(&bench, key, &kept, false, ledger)?;
            }
        }
        Ok(())
    }

    /// What a selection keeps of the cut model within its share of the budget, by layers, trained on the whole model.
    fn transfer(self, transfer: &TransferSetting, ledger: &mut Ledger) -> Result<()> {
        for budget in &self.setting.budgets {
            let key = self.key(&transfer.name, budget);
            if ledger.has(&key) {
                continue;
            }
            let recipe = self.without_probe(budget, &[], false, ledger)?;
            let bench = Bench::new(&recipe, self.task.test_rows)?;
            let model = self.arguments.models.join(&self.task.model);
            let (cut, whole) = cut::cut(&model, transfer.layers, self.out)?;
            let capacity = bench.capacity(budget)? * transfer.layers / whole;
            let changes = [
                format!("model={}", cut.display()),
                format!("select.budget={capacity}"),
            ];
            let small_recipe = self.recipe(&changes)?;
            let small = Bench::new(&small_recipe, self.task.test_rows)?;
            let selected = small.select()?;
            let places: Vec<Place> = (small.prepared.groups.iter().zip(&selected.kept))
                .filter(|(_, kept)| **kept)
                .map(|(group, _)| group.place())
                .collect();
            let groups = &bench.prepared.groups;
            let kept = carry_over(&places, transfer.layers, groups, whole)?;
            self.run_alone(&bench, key, &kept, false, ledger)?;
        }
        Ok(())
    }

    /// Uniform adapters within each budget. A mix that comes to the groups of one before it, where its first families fill the budget
    /// or where the others have nothing, is that one.
    fn uniform(self, mixes: &[Mix], suffix: &str, ledger: &mut Ledger) -> Result<()> {
        let fitted = suffix == FITTED;
        for (index, mix) in mixes.iter().enumerate() {
            let (before, arm) = (&mixes[..index], mix.name() + suffix);
            for budget in self.setting.budgets_of(mix) {
                let key = self.key(&arm, budget);
                if ledger.has(&key) {
                    continue;
                }
                let mut recipe = self.without_probe(budget, &[], fitted, ledger)?;
                let bench = Bench::new(&recipe, self.task.test_rows)?;
                let capacity = bench.capacity(budget)?;
                let changes = mix.changes(&bench.prepared.groups, capacity);
                let bench = if changes.is_empty() {
                    bench
                } else {
                    recipe = self.without_probe(budget, &changes, fitted, ledger)?;
                    Bench::new(&recipe, self.task.test_rows)?
                };
                let capacity = if mix.is_whole() { usize::MAX } else { capacity };
                let groups = &bench.prepared.groups;
                let kept = uniform(&mix.0, groups, capacity);
                let twin = before.iter().find_map(|other| {
                    let row = ledger.get(&self.key(&(other.name() + suffix), budget))?;
                    (row.has_groups(groups, &kept)).then(|| row.named(&arm))
                });
                match twin {
                    Some(row) => ledger.add(row)?,
                    None => self.run_alone(&bench, key, &kept, fitted, ledger)?,
                }
            }
        }
        Ok(())
    }

    /// Groups of the superset by lot.
    fn random(self, draw: usize, ledger: &mut Ledger) -> Result<()> {
        for budget in &self.setting.budgets {
            let key = self.key(&format!("random-{draw}"), budget);
            if ledger.has(&key) {
                continue;
            }
            let recipe = self.without_probe(budget, &[], false, ledger)?;
            let bench = Bench::new(&recipe, self.task.test_rows)?;
            let seed = self.seed * 1000 + draw as u64;
            let kept = choice::by_lot(&bench.prepared.groups, bench.capacity(budget)?, seed);
            self.run_alone(&bench, key, &kept, false, ledger)?;
        }
        Ok(())
    }

    /// A recipe that trains from beginning to end, for as long as a selection takes with its measurements. LoRA is plain, and what it
    /// ends with are its last values; `fitted` has LoRA+ and averages, as a selection does.
    fn without_probe(
        self,
        budget: &str,
        changes: &[String],
        fitted: bool,
        ledger: &Ledger,
    ) -> Result<Recipe> {
        let steps = match &self.setting.equal_to {
            None => self.setting.steps,
            Some(arm) => ledger.steps(&self.key(arm, budget)).with_context(|| {
                format!("`equal_to` names `{arm}`, which is none of the setting's selections")
            })?,
        };
        // No group is left out for a budget of the recipe's own: what is trained is named.
        let mut all = vec![
            format!("train.steps={steps}"),
            "select.budget=100%".to_owned(),
        ];
        if !fitted {
            all.extend(["train.average=0", "train.loraplus_lr_ratio=1"].map(str::to_owned));
        }
        all.extend_from_slice(changes);
        self.recipe(&all)
    }

    fn run_alone(
        self,
        bench: &Bench<'_>,
        key: Key,
        kept: &[bool],
        fitted: bool,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let begin = cpu_seconds();
        let (evaluation, fitting) = bench.train(kept, fitted)?;
        let seconds = cpu_seconds() - begin;
        let horizon = bench.prepared.horizon;
        let steps = horizon.probe + horizon.after + fitting;
        ledger.add(Row::new(key, bench, kept, &evaluation, steps, seconds))
    }
}
