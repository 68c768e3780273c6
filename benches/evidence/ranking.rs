//! Does a score rank groups as training does? Every group is trained alone, and all but it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use autopeft::groups::Group;

use crate::ledger::{GroupRow, Row};
use crate::statistics::{Spread, pairs, spearman, upper_quarter_shared};

/// The arms of a ranking fill no budget.
pub const BUDGET: &str = "none";

/// Arm with every group, and arm with none but the head.
const ALL: &str = "all";
const NONE: &str = "none";

/// Names and sets of the arms.
pub fn arms(ranking: &str, groups: &[Group], leave_out: bool) -> Vec<(String, Vec<bool>)> {
    let set = |keep: &dyn Fn(&Group) -> bool| -> Vec<bool> {
        let keep = |group: &Group| group.is_head() || (!group.is_reference() && keep(group));
        groups.iter().map(keep).collect()
    };
    let mut arms = vec![(arm(ranking, NONE), set(&|_| false))];
    let members = || (groups.iter()).filter(|group| !group.is_head() && !group.is_reference());
    for member in members() {
        let name = arm(ranking, &only(&member.name));
        arms.push((name, set(&|group| group.name == member.name)));
    }
    if leave_out {
        arms.push((arm(ranking, ALL), set(&|_| true)));
        for member in members() {
            let name = arm(ranking, &without(&member.name));
            arms.push((name, set(&|group| group.name != member.name)));
        }
    }
    arms
}

/// Another probe of the same groups.
pub fn variant(ranking: &str, name: &str) -> String {
    format!("{ranking}/{name}")
}

/// A score as it is called in the table of a ranking; `None` if it belongs to another one.
fn label(row: &GroupRow, ranking: &str) -> Option<String> {
    match row.probe.strip_prefix(ranking)? {
        "" => Some(row.score.clone()),
        variant => Some(format!("{}, {}", row.score, variant.strip_prefix('/')?)),
    }
}

fn arm(ranking: &str, what: &str) -> String {
    format!("{ranking}: {what}")
}

fn only(group: &str) -> String {
    format!("only {group}")
}

fn without(group: &str) -> String {
    format!("without {group}")
}

/// One probe with what training said of its groups afterwards.
struct Run {
    /// Names of the groups with a number everywhere.
    groups: Vec<String>,
    /// Numbers of the groups, by score.
    scores: Vec<(String, Vec<f64>)>,
    /// By how much the loss falls with each alone.
    alone: Vec<f64>,
    /// By how much it rises without each; empty if not trained.
    without: Vec<f64>,
}

impl Run {
    /// `None` where trainings are missing.
    fn new(scored: &[&GroupRow], rows: &[&Row], ranking: &str) -> Option<Self> {
        let loss = |what: &str| {
            let name = arm(ranking, what);
            rows.iter().find(|row| row.arm == name).map(|row| row.loss)
        };
        let none = loss(NONE)?;
        let mut by_score: Vec<(String, BTreeMap<&str, f64>)> = Vec::new();
        for row in scored {
            let Some(label) = label(row, ranking) else {
                continue;
            };
            let entry = (row.group.as_str(), row.number);
            match by_score.iter_mut().find(|(score, _)| *score == label) {
                Some((_, numbers)) => drop(numbers.insert(entry.0, entry.1)),
                None => by_score.push((label, BTreeMap::from([entry]))),
            }
        }
        let names: BTreeSet<&str> = scored.iter().map(|row| row.group.as_str()).collect();
        let alone: BTreeMap<&str, f64> = (names.iter())
            .filter_map(|group| Some((*group, none - loss(&only(group))?)))
            .collect();
        let groups: Vec<&str> = alone.keys().copied().collect();
        let without = loss(ALL).and_then(|all| {
            let rise = |group: &&str| Some(loss(&without(group))? - all);
            groups.iter().map(rise).collect::<Option<Vec<_>>>()
        });
        let numbers = |of: &BTreeMap<&str, f64>| {
            let number = |group: &&str| of.get(group).copied();
            groups.iter().map(number).collect::<Option<Vec<f64>>>()
        };
        Some(Self {
            scores: (by_score.into_iter())
                .map(|(score, of)| Some((score, numbers(&of)?)))
                .collect::<Option<_>>()?,
            alone: numbers(&alone)?,
            without: without.unwrap_or_default(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        })
    }
}

/// A table for each ranking of each task, in Markdown: how every score agrees with the trainings, mean and deviation over
/// seeds and rates.
pub fn tables(rows: &[Row], groups: &[GroupRow]) -> String {
    let mut text = String::new();
    let names: BTreeSet<(&str, &str)> = (groups.iter())
        .map(|row| (row.task.as_str(), row.probe.as_str()))
        .collect();
    for (task, ranking) in names {
        let mut of_run: BTreeMap<String, (Vec<&GroupRow>, Vec<&Row>)> = BTreeMap::new();
        let place = |seed: u64, rate: f64| format!("{seed} {rate:e}");
        for row in groups
            .iter()
            .filter(|row| row.task == task && label(row, ranking).is_some())
        {
            of_run
                .entry(place(row.seed, row.rate))
                .or_default()
                .0
                .push(row);
        }
        for row in rows.iter().filter(|row| row.task == task) {
            if let Some(run) = of_run.get_mut(&place(row.seed, row.rate)) {
                run.1.push(row);
            }
        }
        let mut runs: Vec<Run> = (of_run.values())
            .filter_map(|(scored, rows)| Run::new(scored, rows, ranking))
            .collect();
        // One that was interrupted has fewer groups, whose ranks say nothing of the others'.
        let groups = runs.iter().map(|run| run.groups.len()).max();
        runs.retain(|run| Some(run.groups.len()) == groups);
        if let Some(first) = runs.first() {
            write_table(&mut text, task, ranking, first, &runs);
        }
    }
    text
}

// Writing into a `String` cannot fail.
fn write_table(text: &mut String, task: &str, ranking: &str, first: &Run, runs: &[Run]) {
    let _ = writeln!(
        text,
        "\n{task}, {ranking}: {} groups, {} runs\n\n| score | Spearman, each left out | Spearman, each alone | upper quarter shared, alone |\n\
         |---|---|---|---|",
        first.groups.len(),
        runs.len(),
    );
    for (score, _) in &first.scores {
        let numbers = |run: &Run| {
            (run.scores.iter())
                .find(|(name, _)| name == score)
                .map(|entry| entry.1.clone())
        };
        let over = |of: &dyn Fn(&Run, &[f64]) -> Option<f64>| {
            let values: Vec<f64> = (runs.iter())
                .filter_map(|run| of(run, &numbers(run)?))
                .collect();
            cell(&values)
        };
        let _ = writeln!(
            text,
            "| {score} | {} | {} | {} |",
            over(&|run, numbers| spearman(numbers, &run.without)),
            over(&|run, numbers| spearman(numbers, &run.alone)),
            over(&|run, numbers| upper_quarter_shared(numbers, &run.alone)),
        );
    }
    let over = |of: &dyn Fn(&Run, &Run) -> Option<f64>| {
        cell(
            &pairs(runs)
                .filter_map(|(a, b)| of(a, b))
                .collect::<Vec<_>>(),
        )
    };
    let _ = writeln!(
        text,
        "| the same trainings with another seed | {} | {} | {} |",
        over(&|a, b| spearman(&a.without, &b.without)),
        over(&|a, b| spearman(&a.alone, &b.alone)),
        over(&|a, b| upper_quarter_shared(&a.alone, &b.alone)),
    );
}

fn cell(values: &[f64]) -> String {
    let spread = Spread::of(values);
    match spread.count {
        0 => "–".to_owned(),
        1 => format!("{:.2}", spread.mean),
        _ => format!("{:.2} ± {:.2}", spread.mean, spread.deviation),
    }
}
