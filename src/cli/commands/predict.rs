//! `autopeft predict`: a label and probabilities for every row, as JSON lines.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use crate::cli::args::PredictArgs;
use crate::cli::{ExitStatus, Printer};
use crate::data::{self, ColumnNames, Format, Source};
use crate::error::Error;

/// Runs the verb. The lines are JSON with and without `--json`: they are the result.
///
/// # Errors
/// When the result, its base model or the rows cannot be used.
pub fn run(args: &PredictArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    let adapted = super::open(&args.dir, &recipe, &args.compute)?;
    let (source, columns) = match &args.data {
        Some(path) => (
            Source::File(path.clone()),
            ColumnNames {
                text: recipe.data.text_column.clone(),
                pair: recipe.data.pair_column.clone(),
                label: None,
            },
        ),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(Error::io("reading", "standard input"))?;
            let source = Source::Memory {
                name: "standard input".to_string(),
                format: Format::Lines,
                bytes: Cow::Owned(bytes),
            };
            (source, ColumnNames::default())
        }
    };
    let rows = data::load_unlabelled(&source, &columns, recipe.data.skip_bad_rows)?;
    if let Some(skipped) = rows.skipped.as_ref().filter(|skipped| skipped.total > 0) {
        printer.warn(&format!(
            "skipped {} bad rows of `{}`",
            skipped.total, skipped.file
        ));
    }
    for prediction in adapted.predict(&rows.rows)? {
        printer.line(&serde_json::to_string(&prediction)?)?;
    }
    Ok(ExitStatus::Done)
}
