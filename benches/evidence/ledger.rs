//! Finished arms as lines of a CSV file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result, bail};
use autopeft::groups::Group;
use autopeft::metrics::Evaluation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bench::Bench;

/// The file of finished arms.
const RUNS: &str = "runs.csv";
/// The file of measured groups.
const GROUPS: &str = "groups.csv";

/// What makes an arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    pub task: String,
    pub arm: String,
    pub budget: String,
    pub seed: u64,
    pub rate: f64,
}

impl Key {
    fn text(&self) -> String {
        format!("{}{:e}", self.text_without_rate(), self.rate)
    }

    fn text_without_rate(&self) -> String {
        format!("{} {} {} {} ", self.task, self.arm, self.budget, self.seed)
    }
}

/// A finished arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub task: String,
    pub arm: String,
    pub budget: String,
    pub seed: u64,
    pub rate: f64,
    /// Trained numbers, the head apart.
    pub parameters: usize,
    /// Training steps, measurements counted as such.
    pub steps: usize,
    pub metric: String,
    pub value: f64,
    pub loss: f64,
    pub examples: usize,
    /// CPU time, the evaluation included.
    pub seconds: f64,
    /// Parameters by kind.
    pub kinds: String,
    /// Names of the kept groups.
    pub groups: String,
}

impl Row {
    fn key(&self) -> Key {
        Key {
            task: self.task.clone(),
            arm: self.arm.clone(),
            budget: self.budget.clone(),
            seed: self.seed,
            rate: self.rate,
        }
    }

    /// The same training under the name of another arm, which comes to the same groups.
    pub fn named(&self, arm: &str) -> Self {
        Self {
            arm: arm.to_owned(),
            ..self.clone()
        }
    }

    /// Whether it has these groups, the head apart.
    pub fn has_groups(&self, groups: &[Group], kept: &[bool]) -> bool {
        let groups = without_head(groups, kept);
        let size: usize = groups.iter().map(|group| group.size).sum();
        self.parameters == size && self.groups == names(&groups)
    }

    pub fn new(
        key: Key,
        bench: &Bench<'_>,
        kept: &[bool],
        evaluation: &Evaluation,
        steps: usize,
        seconds: f64,
    ) -> Self {
        let groups = without_head(&bench.prepared.groups, kept);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for group in &groups {
            *kinds.entry(group.kind.name()).or_default() += group.size;
        }
        let kinds: Vec<String> = (kinds.iter())
            .map(|(kind, size)| format!("{kind}:{size}"))
            .collect();
        let (metric, value) = evaluation
            .named()
            .first()
            .copied()
            .unwrap_or(("loss", evaluation.loss));
        Self {
            parameters: groups.iter().map(|group| group.size).sum(),
            steps,
            metric: metric.to_owned(),
            value,
            loss: evaluation.loss,
            examples: evaluation.examples,
            seconds,
            kinds: kinds.join(" "),
            groups: names(&groups),
            task: key.task,
            arm: key.arm,
            budget: key.budget,
            seed: key.seed,
            rate: key.rate,
        }
    }
}

fn without_head<'a>(groups: &'a [Group], kept: &[bool]) -> Vec<&'a Group> {
    (groups.iter().zip(kept))
        .filter(|(group, kept)| **kept && !group.is_head())
        .map(|(group, _)| group)
        .collect()
}

fn names(groups: &[&Group]) -> String {
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    names.join(" ")
}

/// One score that a probe gave to a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupRow {
    pub task: String,
    pub probe: String,
    pub seed: u64,
    pub rate: f64,
    pub group: String,
    pub parameters: usize,
    pub score: String,
    pub number: f64,
}

impl GroupRow {
    /// Whether it is the head, or a part of it.
    pub fn is_head(&self) -> bool {
        self.group.starts_with("head/")
    }

    /// Whether both come from one probe.
    pub fn same_run(&self, other: &Self) -> bool {
        (self.task == other.task && self.probe == other.probe)
            && (self.seed == other.seed && self.rate == other.rate)
    }
}

/// The files of a comparison.
pub struct Ledger {
    /// The finished arms.
    done: BTreeMap<String, Row>,
    /// Probes whose scores are written.
    scored: BTreeSet<String>,
    runs: csv::Writer<File>,
    groups: csv::Writer<File>,
}

impl Ledger {
    /// Opens a folder, and reads what is there.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(RUNS);
        let rows = rows(folder)?;
        let done = (rows.into_iter())
            .map(|row| (row.key().text(), row))
            .collect();
        let scored = (group_rows(folder)?.iter())
            .map(|row| scored_key(&row.task, &row.probe, row.seed, row.rate))
            .collect();
        Ok(Self {
            done,
            scored,
            runs: appended(&path)?,
            groups: appended(&folder.join(GROUPS))?,
        })
    }

    pub fn has(&self, key: &Key) -> bool {
        self.done.contains_key(&key.text())
    }

    pub fn get(&self, key: &Key) -> Option<&Row> {
        self.done.get(&key.text())
    }

    /// Steps of a finished arm, measurements counted as such; where it was not run at this rate, of another one.
    pub fn steps(&self, key: &Key) -> Option<usize> {
        let text = key.text_without_rate();
        let mut others = self.done.iter().filter(|(arm, _)| arm.starts_with(&text));
        let row = self
            .get(key)
            .or_else(|| others.next().map(|(_, row)| row))?;
        Some(row.steps)
    }

    pub fn add(&mut self, row: Row) -> Result<()> {
        println!(
            "{:12} {:24} {:>6} seed {} rate {:e}: {} {:.4} loss {:.4}, {} parameters ({}), {} steps, {:.1} s",
            row.task,
            row.arm,
            row.budget,
            row.seed,
            row.rate,
            row.metric,
            row.value,
            row.loss,
            row.parameters,
            row.kinds,
            row.steps,
            row.seconds
        );
        self.runs.serialize(&row)?;
        self.done.insert(row.key().text(), row);
        Ok(self.runs.flush()?)
    }

    /// Whether this probe's scores are there.
    pub fn has_scores(&self, task: &str, probe: &str, seed: u64, rate: f64) -> bool {
        self.scored.contains(&scored_key(task, probe, seed, rate))
    }

    /// What a probe says of its groups.
    pub fn scores(
        &mut self,
        task: &str,
        probe: &str,
        seed: u64,
        rate: f64,
        groups: &[Group],
        scores: &[(&str, Vec<f64>)],
    ) -> Result<()> {
        for (score, numbers) in scores {
            for (group, number) in groups.iter().zip(numbers) {
                self.groups.serialize(GroupRow {
                    task: task.to_owned(),
                    probe: probe.to_owned(),
                    seed,
                    rate,
                    group: group.name.clone(),
                    parameters: group.size,
                    score: (*score).to_owned(),
                    number: *number,
                })?;
            }
        }
        self.scored.insert(scored_key(task, probe, seed, rate));
        Ok(self.groups.flush()?)
    }
}

fn scored_key(task: &str, probe: &str, seed: u64, rate: f64) -> String {
    format!("{task} {probe} {seed} {rate:e}")
}

/// All finished arms of a folder.
///
/// # Errors
/// When an arm is there twice: two runs have written into one folder, and neither's number may count twice.
pub fn rows(folder: &Path) -> Result<Vec<Row>> {
    let rows: Vec<Row> = read(&folder.join(RUNS))?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = rows.iter().find(|row| !seen.insert(row.key().text())) {
        bail!(
            "`{}` has `{}` twice: remove one of the two lines",
            folder.join(RUNS).display(),
            twice.key().text()
        );
    }
    Ok(rows)
}

/// All groups that were measured by probes of a folder.
pub fn group_rows(folder: &Path) -> Result<Vec<GroupRow>> {
    read(&folder.join(GROUPS))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let rows = csv::Reader::from_path(path)?
        .into_deserialize()
        .collect::<Result<_, _>>();
    rows.with_context(|| format!("in {}", path.display()))
}

fn appended(path: &Path) -> Result<csv::Writer<File>> {
    let is_new = std::fs::metadata(path).map_or(true, |file| file.len() == 0);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(csv::WriterBuilder::new()
        .has_headers(is_new)
        .from_writer(file))
}
