//! The last lines of a run: what was made, how good it is, and what to type next.

use std::path::PathBuf;

use super::style::{Role, paint};
use super::table::count;

/// What a run made.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Groups kept, the head not counted.
    pub groups_kept: usize,
    /// Groups measured, the head not counted.
    pub groups: usize,
    /// Parameters of the superset, the head not counted.
    pub parameters_before: usize,
    /// Parameters kept, the head not counted.
    pub parameters_after: usize,
    /// Parameters of the base model.
    pub parameters_model: usize,
    /// Name of the held-out metric.
    pub metric: String,
    /// The metric at each stage: `untrained head` (or `base model`), `superset`, `trimmed`.
    pub metrics: Vec<(String, f64)>,
    /// The folder that was written.
    pub out: PathBuf,
    /// Commands to type next.
    pub next: Vec<String>,
}

/// Draws the summary.
pub fn render(summary: &Summary, color: bool) -> String {
    let bold = |text: &str| paint(Role::Heading, text, color);
    let share =
        |parameters: usize| 100.0 * parameters as f64 / summary.parameters_model.max(1) as f64;
    let mut lines = vec![
        format!(
            "{} {} of {} groups",
            bold("kept"),
            summary.groups_kept,
            summary.groups
        ),
        format!(
            "{} {} → {} ({:.3}% → {:.3}% of the model's {})",
            bold("parameters"),
            count(summary.parameters_before),
            count(summary.parameters_after),
            share(summary.parameters_before),
            share(summary.parameters_after),
            count(summary.parameters_model),
        ),
    ];
    let metrics: Vec<String> = summary
        .metrics
        .iter()
        .map(|(stage, value)| format!("{stage} {value:.4}"))
        .collect();
    if !metrics.is_empty() {
        lines.push(format!(
            "{} {}",
            bold(&format!("held-out {}", summary.metric)),
            metrics.join(" → ")
        ));
    }
    lines.push(format!(
        "{} {}",
        bold("written to"),
        paint(Role::Good, &summary.out.display().to_string(), color)
    ));
    if !summary.next.is_empty() {
        lines.push(String::new());
        lines.push(bold("next"));
        lines.extend(summary.next.iter().map(|command| format!("  {command}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_was_made_and_what_to_type_next() {
        let summary = Summary {
            groups_kept: 12,
            groups: 91,
            parameters_before: 217_000,
            parameters_after: 41_472,
            parameters_model: 22_713_216,
            metric: "accuracy".to_owned(),
            metrics: vec![
                ("untrained head".to_owned(), 0.5),
                ("superset".to_owned(), 0.85),
                ("trimmed".to_owned(), 0.84375),
            ],
            out: PathBuf::from("out"),
            next: vec!["autopeft eval out --data test.jsonl".to_owned()],
        };
        let expected = "\
kept 12 of 91 groups
parameters 217,000 → 41,472 (0.955% → 0.183% of the model's 22,713,216)
held-out accuracy untrained head 0.5000 → superset 0.8500 → trimmed 0.8438
written to out

next
  autopeft eval out --data test.jsonl
";
        assert_eq!(render(&summary, false), expected);
        assert_eq!(console::strip_ansi_codes(&render(&summary, true)), expected);
    }
}
