//! `autopeft eval`: the value of a result on labelled rows.

use std::sync::Arc;

use serde_json::json;

use crate::cli::args::EvalArgs;
use crate::cli::{ExitStatus, Printer};
use crate::data::{self, ColumnNames, Source};
use crate::progress::{Event, EventKind};

/// Runs the verb.
///
/// # Errors
/// When the result, its base model or the rows cannot be used.
pub fn run(args: &EvalArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    let adapted = super::open(&args.dir, &recipe, &args.compute)?;
    let columns = ColumnNames {
        text: recipe.data.text_column.clone(),
        pair: recipe.data.pair_column.clone(),
        label: recipe.data.label_column.clone(),
    };
    let source = Source::File(args.data.clone());
    let rows = data::load_labelled(
        &source,
        &columns,
        &adapted.manifest.labels,
        recipe.data.skip_bad_rows,
    )?;
    if let Some(skipped) = rows.skipped.as_ref().filter(|skipped| skipped.total > 0) {
        printer.warn(&format!(
            "skipped {} bad rows of `{}`",
            skipped.total, skipped.file
        ));
    }
    let evaluation = adapted.evaluate(&rows.rows)?;
    let mut lines = vec![
        format!("{:<16} {}", "rows", evaluation.examples),
        format!("{:<16} {:.4}", "loss", evaluation.loss),
    ];
    for (name, value) in evaluation.named() {
        lines.push(format!("{name:<16} {value:.4}"));
    }
    printer.result(&lines.join("\n"))?;
    printer.event(&Event::new(EventKind::Result, &json!(evaluation)))?;
    Ok(ExitStatus::Done)
}
