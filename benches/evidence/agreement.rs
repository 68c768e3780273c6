//! How probes agree about the order of groups, with another seed and with another probe, and selections about what they keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::ledger::{GroupRow, Row};
use crate::statistics::{Spread, pairs, spearman};

/// The score that is compared.
const SCORE: &str = "value";

/// A table for each task with several probes or seeds, in Markdown: rank correlations of the groups' values between any two
/// probes with the same seed, and in the diagonal with another seed. The head is no group that competes.
pub fn tables(groups: &[GroupRow]) -> String {
    let mut text = String::new();
    let tasks: BTreeSet<&str> = groups.iter().map(|row| row.task.as_str()).collect();
    for task in tasks {
        // Numbers by group, of each probe with each seed and rate.
        let mut runs: BTreeMap<(String, u64), BTreeMap<&str, f64>> = BTreeMap::new();
        let mut probes: Vec<&str> = Vec::new();
        for row in groups
            .iter()
            .filter(|row| row.task == task && row.score == SCORE && !row.is_head())
        {
            if !probes.contains(&row.probe.as_str()) {
                probes.push(&row.probe);
            }
            let key = (format!("{} {:e}", row.probe, row.rate), row.seed);
            runs.entry(key).or_default().insert(&row.group, row.number);
        }
        if runs.len() < 2 {
            continue;
        }
        let of = |probe: &str, (name, _): &(String, u64)| {
            name.rsplit_once(' ').is_some_and(|(own, _)| own == probe)
        };
        let rate =
            |(name, _): &(String, u64)| name.rsplit_once(' ').map(|(_, rate)| rate.to_owned());
        // Writing into a `String` cannot fail.
        let _ = writeln!(
            text,
            "\n{task}: Spearman of the groups' values between two probes; in the diagonal between two seeds\n\n| | {} |\n|---{}|",
            probes.join(" | "),
            "|---".repeat(probes.len()),
        );
        for a in &probes {
            let mut line = format!("| {a} |");
            for b in &probes {
                let mut values = Vec::new();
                for (of_a, numbers) in runs.iter().filter(|(key, _)| of(a, key)) {
                    for (of_b, others) in runs.iter().filter(|(key, _)| of(b, key)) {
                        let is_pair = match a == b {
                            true => of_a.1 < of_b.1,
                            false => of_a.1 == of_b.1,
                        };
                        if is_pair && rate(of_a) == rate(of_b) {
                            values.extend(agreement(numbers, others));
                        }
                    }
                }
                let spread = Spread::of(&values);
                let _ = match spread.count {
                    0 => write!(line, " – |"),
                    _ => write!(line, " {:.2} |", spread.mean),
                };
            }
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// Share of the groups that an arm keeps with two seeds (twice what is kept with both, of all that is kept), for each pair of seeds. In
/// Markdown; empty with one seed or without such an arm.
pub fn sets(rows: &[Row], arm: Option<&str>) -> String {
    let Some(arm) = arm else {
        return String::new();
    };
    let mut of_seeds: BTreeMap<(&str, &str, String), Vec<BTreeSet<&str>>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.arm == arm) {
        let place = (
            row.task.as_str(),
            row.budget.as_str(),
            format!("{:e}", row.rate),
        );
        let groups = row.groups.split_whitespace().collect();
        of_seeds.entry(place).or_default().push(groups);
    }
    let mut text = String::new();
    for ((task, budget, rate), sets) in of_seeds {
        let shares: Vec<String> = pairs(&sets)
            .map(|(a, b)| {
                let both = a.intersection(b).count();
                format!(
                    "{:.2}",
                    2.0 * both as f64 / (a.len() + b.len()).max(1) as f64
                )
            })
            .collect();
        if !shares.is_empty() {
            // Writing into a `String` cannot fail.
            let _ = writeln!(
                text,
                "| {task} | {budget} | {rate} | {} |",
                shares.join(", ")
            );
        }
    }
    if !text.is_empty() {
        let head = "| task | budget | rate | shared |\n|---|---|---|---|\n";
        text = format!(
            "\nShare of the groups that two seeds of `{arm}` have in common:\n\n{head}{text}"
        );
    }
    text
}

/// Over the groups that both have.
fn agreement(a: &BTreeMap<&str, f64>, b: &BTreeMap<&str, f64>) -> Option<f64> {
    let both = a
        .iter()
        .filter_map(|(group, number)| Some((*number, *b.get(group)?)));
    let (a, b): (Vec<f64>, Vec<f64>) = both.unzip();
    spearman(&a, &b)
}
