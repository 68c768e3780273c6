//! `autopeft merge`: one model of a base model and an adapter.

use std::sync::Arc;

use serde_json::json;

use crate::cli::args::MergeArgs;
use crate::cli::table::count;
use crate::cli::{ExitStatus, Printer, signals};
use crate::export::OutputFolder;
use crate::interrupt::Interrupt;
use crate::pipeline::{self, MergedModel};
use crate::progress::{Event, EventKind};

/// Runs the verb.
///
/// # Errors
/// Those of [`pipeline::merge`].
pub fn run(args: &MergeArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    super::use_threads(args.threads)?;
    super::check_products()?;
    let recipe = args.recipe()?;
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    signals::on_interrupt(move || flag.raise())?;
    // Before a model is fetched.
    let inputs = pipeline::merge_inputs(&args.result, &recipe.model);
    OutputFolder::check(&args.out, args.force, &inputs)?;
    let base = super::open_base(&args.result, &recipe, &args.model)?;
    for note in &base.notes {
        printer.warn(note);
    }
    let merged = pipeline::merge(&args.result, base, &args.out, args.options(), &interrupt)?;
    printer.result(&text(&merged))?;
    printer.event(&Event::new(EventKind::Result, &json!(merged)))?;
    Ok(ExitStatus::Done)
}

fn text(merged: &MergedModel) -> String {
    let folder = merged.folder.display();
    let weights = match merged.weights.as_slice() {
        [file] => file.clone(),
        files => format!("{} files", files.len()),
    };
    [
        format!(
            "merged    LoRA into {} weights; {} tensors of norms, biases and heads replaced or added",
            merged.low_rank, merged.own
        ),
        format!(
            "weights   {weights}: {} numbers in {}, for {}",
            count(merged.parameters),
            merged.dtype,
            merged.class
        ),
        format!(
            "verified  logits differ by at most {:.1e} on {} sequences, read back",
            merged.difference, merged.verified_rows
        ),
        format!("folder    {folder}"),
    ]
    .join("\n")
}
