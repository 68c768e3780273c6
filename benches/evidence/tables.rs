//! From finished arms to tables and plots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::ledger::Row;
use crate::statistics::Spread;

/// Finished arms, and the one that the others are compared with.
pub struct Comparison<'a> {
    pub reference: Option<&'a str>,
    pub rows: &'a [Row],
}

/// Values of an arm at a rate on one task within one budget, by seed.
#[derive(Debug, Clone)]
struct Cell {
    rate: f64,
    parameters: usize,
    steps: usize,
    /// Metric and loss by seed.
    by_seed: BTreeMap<u64, (f64, f64)>,
}

impl Cell {
    /// Draws of one seed are one value, their mean.
    fn of(rows: &[&Row]) -> Option<Self> {
        let first = rows.first()?;
        let seeds: BTreeSet<u64> = rows.iter().map(|row| row.seed).collect();
        let by_seed = seeds.into_iter().map(|seed| {
            let mean = |of: fn(&Row) -> f64| {
                let of_seed = rows.iter().filter(|row| row.seed == seed);
                let values: Vec<f64> = of_seed.map(|row| of(row)).collect();
                Spread::of(&values).mean
            };
            (seed, (mean(|row| row.value), mean(|row| row.loss)))
        });
        Some(Self {
            rate: first.rate,
            parameters: first.parameters,
            steps: first.steps,
            by_seed: by_seed.collect(),
        })
    }

    fn losses(&self) -> Spread {
        let losses: Vec<f64> = self.by_seed.values().map(|value| value.1).collect();
        Spread::of(&losses)
    }

    /// Mean over the seeds.
    fn loss(&self) -> f64 {
        self.losses().mean
    }

    /// Its mean beyond another cell's over the seeds that both have, and the standard error of that.
    fn difference(&self, other: &Self, of: fn(&(f64, f64)) -> f64) -> String {
        let pairs: Vec<f64> = (self.by_seed.iter())
            .filter_map(|(seed, value)| Some(of(value) - of(other.by_seed.get(seed)?)))
            .collect();
        let spread = Spread::of(&pairs);
        match spread.count {
            0 => "–".to_owned(),
            1 => format!("{:+.4}", spread.mean),
            _ => format!("{:+.4} ± {:.4}", spread.mean, spread.standard_error()),
        }
    }
}

/// Draws of one arm are one arm.
fn family(arm: &str) -> &str {
    if arm.starts_with("random-") {
        "random"
    } else {
        arm
    }
}

impl Comparison<'_> {
    fn names(&self, of: impl Fn(&Row) -> &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for row in self.rows {
            if !names.iter().any(|name| name == of(row)) {
                names.push(of(row).to_owned());
            }
        }
        names
    }

    /// The arms of a task within a budget at each rate; arms of any budget stand in all of them.
    fn at_each_rate(&self, task: &str, budget: &str) -> Vec<(String, Cell)> {
        let mut by_rate: BTreeMap<(String, String), Vec<&Row>> = BTreeMap::new();
        for row in self.rows {
            let is_whole = matches!(row.arm.as_str(), "superset" | "head");
            if row.task == task && (row.budget == budget || is_whole) {
                let key = (family(&row.arm).to_owned(), format!("{:e}", row.rate));
                by_rate.entry(key).or_default().push(row);
            }
        }
        (by_rate.into_iter())
            .filter_map(|((arm, _), rows)| Some((arm, Cell::of(&rows)?)))
            .collect()
    }

    /// The same, each arm at its best rate.
    fn cells(&self, task: &str, budget: &str) -> BTreeMap<String, Cell> {
        let mut best: BTreeMap<String, Cell> = BTreeMap::new();
        for (arm, cell) in self.at_each_rate(task, budget) {
            let is_better = best.get(&arm).is_none_or(|best| cell.loss() < best.loss());
            if is_better {
                best.insert(arm, cell);
            }
        }
        best
    }

    /// Task and budget with the mean losses of the reference and of this arm.
    pub fn losses(&self, arm: &str) -> Vec<(String, f64, f64)> {
        let mut pairs = Vec::new();
        for task in self.names(|row| &row.task) {
            for budget in self.names(|row| &row.budget) {
                let cells = self.cells(&task, &budget);
                let reference = self.reference.and_then(|reference| cells.get(reference));
                if let (Some(reference), Some(other)) = (reference, cells.get(arm)) {
                    pairs.push((format!("{task}, {budget}"), reference.loss(), other.loss()));
                }
            }
        }
        pairs
    }

    /// The reference beside the best arm without a measurement and beside groups by lot; then a table of all arms and rates for each
    /// task and budget. In Markdown.
    pub fn markdown(&self) -> String {
        let mut text = "Values are mean ± standard deviation over the seeds, differences mean ± standard error over pairs of one seed.\n"
            .to_owned();
        let rates: Vec<f64> = (self.rows.iter())
            .filter(|row| self.reference == Some(row.arm.as_str()))
            .map(|row| row.rate)
            .collect();
        if let Some(reference) = self.reference
            && !rates.is_empty()
        {
            let own: Vec<Row> = (self.rows.iter())
                .filter(|row| rates.contains(&row.rate))
                .cloned()
                .collect();
            let at_own_rate = Comparison {
                reference: self.reference,
                rows: &own,
            };
            // Writing into a `String` cannot fail.
            let _ = write!(
                text,
                "\nEvery arm at a rate of `{reference}`:\n\n{}\nEvery arm at its best rate:\n\n{}",
                at_own_rate.verdicts(reference),
                self.verdicts(reference)
            );
        }
        for task in self.names(|row| &row.task) {
            for budget in self.names(|row| &row.budget) {
                self.write_arms(&mut text, &task, &budget);
            }
        }
        text
    }

    /// All arms of a task within a budget, at each rate, the best one first.
    fn write_arms(&self, text: &mut String, task: &str, budget: &str) {
        let mut cells = self.at_each_rate(task, budget);
        cells.sort_by(|a, b| a.1.loss().total_cmp(&b.1.loss()));
        if cells.is_empty() {
            return;
        }
        let metric = (self.rows.iter())
            .find(|row| row.task == task)
            .map_or("metric", |row| &row.metric);
        // The rate at which it is best comes first.
        let reference = (self.reference)
            .and_then(|name| Some((name, &cells.iter().find(|(arm, _)| arm == name)?.1)));
        let (mut head, mut rule) = (
            format!("| arm | rate | parameters | steps | seeds | {metric} | loss |"),
            "|---|---|---|---|---|---|---|".to_owned(),
        );
        if let Some((name, _)) = reference {
            head += &format!(" {metric} − {name} | loss − {name} |");
            rule += "---|---|";
        }
        // Writing into a `String` cannot fail.
        let _ = writeln!(text, "\n{task}, {budget}\n\n{head}\n{rule}");
        for (arm, cell) in &cells {
            let _ = writeln!(text, "{}", line(arm, cell, reference.map(|entry| entry.1)));
        }
    }

    /// How far the reference's loss is below the others', with standard errors over the seeds.
    fn verdicts(&self, name: &str) -> String {
        let mut text = format!(
            "| task | budget | {name}: loss | best other arm | its loss − {name} | random: loss − {name} |\n|---|---|---|---|---|---|\n"
        );
        for task in self.names(|row| &row.task) {
            for budget in self.names(|row| &row.budget) {
                let cells = self.cells(&task, &budget);
                let Some(reference) = cells.get(name) else {
                    continue;
                };
                // No budget holds the superset.
                let is_other =
                    |arm: &str| !arm.starts_with(name) && !["random", "superset"].contains(&arm);
                let best = (cells.iter())
                    .filter(|(arm, _)| is_other(arm))
                    .min_by(|a, b| a.1.loss().total_cmp(&b.1.loss()));
                let best_name = best.map_or("–".to_owned(), |(arm, cell)| {
                    format!("{arm}, {:e}", cell.rate)
                });
                let difference = |cell: Option<&Cell>| {
                    cell.map_or("–".to_owned(), |cell| {
                        cell.difference(reference, |value| value.1)
                    })
                };
                // Writing into a `String` cannot fail.
                let _ = writeln!(
                    text,
                    "| {task} | {budget} | {} | {best_name} | {} | {} |",
                    reference.losses(),
                    difference(best.map(|(_, cell)| cell)),
                    difference(cells.get("random")),
                );
            }
        }
        text
    }

    /// Loss against the budget, one plot for each task.
    pub fn plot(&self, folder: &Path) -> Result<()> {
        for task in self.names(|row| &row.task) {
            let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for budget in self.names(|row| &row.budget) {
                let Ok(share) = budget.trim_end_matches('%').parse::<f64>() else {
                    continue;
                };
                for (arm, cell) in self.cells(&task, &budget) {
                    lines.entry(arm).or_default().push((share, cell.loss()));
                }
            }
            draw(&folder.join(format!("{task}.svg")), &task, lines)
                .with_context(|| format!("cannot draw the plot of {task}"))?;
        }
        Ok(())
    }
}

fn line(arm: &str, cell: &Cell, reference: Option<&Cell>) -> String {
    let metrics: Vec<f64> = cell.by_seed.values().map(|value| value.0).collect();
    let mut line = format!(
        "| {arm} | {:e} | {} | {} | {} | {} | {} |",
        cell.rate,
        cell.parameters,
        cell.steps,
        cell.by_seed.len(),
        Spread::of(&metrics),
        cell.losses(),
    );
    if let Some(reference) = reference {
        let of_metric = cell.difference(reference, |value| value.0);
        let of_loss = cell.difference(reference, |value| value.1);
        line += &format!(" {of_metric} | {of_loss} |");
    }
    line
}

fn draw(path: &Path, task: &str, lines: BTreeMap<String, Vec<(f64, f64)>>) -> Result<()> {
    let points = || lines.values().flatten();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let low = points().map(of).fold(f64::INFINITY, f64::min);
        let high = points().map(of).fold(f64::NEG_INFINITY, f64::max);
        (low, high)
    };
    let ((left, right), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let margin = 0.05 * (high - low).max(1e-3);
    let root = SVGBackend::new(path, (900, 540)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{task}: held-out loss"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (left * 0.8..right * 1.6).log_scale(),
            low - margin..high + margin,
        )?;
    chart
        .configure_mesh()
        .x_desc("budget, % of the model")
        .y_desc("loss")
        .draw()?;
    for (number, (arm, points)) in lines.into_iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(arm)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(root.present()?)
}
