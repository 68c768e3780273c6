//! `autopeft predict`: a label, numbers or a text for every row.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use serde_json::json;

use crate::cli::args::PredictArgs;
use crate::cli::printer::Format as OutputFormat;
use crate::cli::{ExitStatus, Printer};
use crate::data::language::{Passage, PassageNames, read_passages};
use crate::data::{self, BadRows, ColumnNames, Format, Source};
use crate::error::{Error, Result};
use crate::pipeline::{self, Adapted};
use crate::recipe::Recipe;

/// Runs the verb. The lines are JSON with and without `--json`: they are the result. Prompts from standard input
/// are answered in plain text, piece by piece, unless `--json` is given.
///
/// # Errors
/// When the result, its base model or the rows cannot be used.
pub fn run(args: &PredictArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    let adapted = super::open(&args.dir, &recipe, &args.model, &args.compute)?;
    let source = match &args.data {
        Some(path) => Source::File(path.clone()),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(Error::io("reading", "standard input"))?;
            Source::Memory {
                name: "standard input".to_string(),
                format: Format::Lines,
                bytes: Cow::Owned(bytes),
            }
        }
    };
    if adapted.is_language() {
        generate(args, &adapted, &recipe, &source, printer)?;
        return Ok(ExitStatus::Done);
    }
    let named = match &args.data {
        Some(_) => pipeline::column_names(&recipe),
        None => ColumnNames::default(),
    };
    let columns = ColumnNames {
        label: None,
        pairing: adapted.manifest.pairing(),
        ..named
    };
    let rows = data::load_unlabelled(&source, &columns, recipe.data.skip_bad_rows)?;
    warn(rows.skipped.as_ref(), printer);
    for prediction in adapted.predict(&rows.rows)? {
        printer.line(&serde_json::to_string(&prediction)?)?;
    }
    Ok(ExitStatus::Done)
}

/// One text for each prompt.
fn generate(
    args: &PredictArgs,
    adapted: &Adapted,
    recipe: &Recipe,
    source: &Source,
    printer: &Arc<Printer>,
) -> anyhow::Result<()> {
    let names = match &args.data {
        Some(_) => pipeline::passage_names(recipe),
        None => PassageNames::default(),
    };
    let skip = recipe.data.skip_bad_rows;
    let (mut passages, _, bad) = read_passages(source, &names, false, skip)?;
    if adapted.manifest.prompts {
        passages.iter_mut().for_each(Passage::ask);
    }
    warn(Some(&bad), printer);
    let options = args.generation.options();
    let is_streamed = args.data.is_none() && printer.format() == OutputFormat::Text;
    for passage in &passages {
        let mut on_text = |piece: &str| -> Result<()> {
            if !is_streamed {
                return Ok(());
            }
            printer
                .piece(piece)
                .map_err(Error::io("writing", "standard output"))
        };
        let text = adapted.generate(recipe, passage, &options, &mut on_text)?;
        if is_streamed {
            printer.piece("\n")?;
        } else {
            printer.line(&json!({"completion": text}).to_string())?;
        }
    }
    Ok(())
}

fn warn(skipped: Option<&BadRows>, printer: &Arc<Printer>) {
    if let Some(skipped) = skipped.filter(|skipped| skipped.total > 0) {
        printer.warn(&format!(
            "skipped {} bad rows of `{}`",
            skipped.total, skipped.file
        ));
    }
}
