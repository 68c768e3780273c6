//! The way of the data: `recipe → data → model → groups → probe → select → export`; for a choice that is carried over from
//! another model, without probe and select.
//!
//! Each stage takes and returns plain values. What a run tells goes to a [`Progress`] listener and to
//! `metrics.jsonl` in the result.

mod apply;
mod choose;
mod finish;
mod fitted;
mod freeze;
mod generate;
mod information;
mod inspect;
mod measure;
mod merge;
mod prepare;
mod recorder;
mod rows;
mod summary;
mod transfer;
mod write;

use std::path::Path;

pub use apply::{Adapted, Prediction, open_base};
pub use choose::{Chosen, selection_input};
pub use finish::{run as finish, train_set};
pub use generate::GenerateOptions;
pub use inspect::{
    AdaptedModule, AdapterContents, GroupSize, KindContents, ModelContents, ModuleKind,
    inspect_adapter, inspect_model, is_adapter,
};
pub use measure::{Measured, run as measure};
pub use merge::{MergeOptions, MergedModel, merge, merge_inputs};
pub use prepare::Prepared;
pub use recorder::Recorder;
pub use rows::{TaskRows, column_names, label_kind, lost_rows, passage_names};
pub use transfer::{Origin, Training, Transferred, transfer};
pub use write::Written;

use crate::error::{Error, Result};
use crate::export::{Input, OutputFolder};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::report::{Report, SelectionReport};

/// What a run of [`select`] made.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub report: SelectionReport,
    /// The files.
    pub written: Written,
}

/// The main job: measures which modules the recipe's model and task need, keeps those, and writes the
/// trimmed adapter to `out`.
///
/// # Errors
/// [`Error::Interrupted`] when a stop was asked for: then what was measured so far is in the folder that
/// the error names, which is `out` unless a result is there already. Any other error leaves `out` as it
/// was.
pub fn select(
    recipe: &Recipe,
    out: &Path,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    // First, so that an unusable target costs no training.
    let folder = OutputFolder::prepare(out, recipe.export.force, &inputs(recipe))?;
    let recorder = Recorder::new(progress, &folder)?;
    let prepared = Prepared::new(recipe, &recorder)?;
    let (measured, chosen) = train(&prepared, &recorder, interrupt)?;
    let Some(chosen) = chosen.filter(|_| !measured.interrupted()) else {
        return interrupted(&prepared, &measured, folder, &recorder);
    };
    let report = prepared.report(&measured, Some(&chosen))?;
    let written = write::run(&prepared, Report::Selection(&report), folder, &recorder)?;
    Ok(Outcome { report, written })
}

/// The line without its files: the probe, the choice, and the training of what is kept, with which it leaves the
/// model. No choice when a stop was asked for before there was one.
///
/// # Errors
/// When the training diverges, nothing can be chosen, or a tensor operation fails.
pub fn train(
    prepared: &Prepared<'_>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<(Measured, Option<Chosen>)> {
    let mut trainer = prepared.trainer()?;
    let mut measured = measure::run(prepared, &mut trainer, recorder, interrupt)?;
    if measured.interrupted() {
        return Ok((measured, None));
    }
    let chosen = choose::run(prepared, &mut measured, recorder)?;
    finish::run(
        prepared,
        &mut measured,
        &chosen.kept,
        &trainer,
        recorder,
        interrupt,
    )?;
    Ok((measured, Some(chosen)))
}

/// What a run of the recipe reads.
fn inputs(recipe: &Recipe) -> Vec<Input<'_>> {
    let mut inputs = vec![
        Input::new("the base model", &recipe.model),
        Input::new("the training rows", &recipe.data.train),
    ];
    let validation = recipe.data.validation.as_ref();
    inputs.extend(validation.map(|path| Input::new("the held-out rows", path)));
    inputs
}

/// Keeps the measurements of a run that was stopped.
fn interrupted(
    prepared: &Prepared<'_>,
    measured: &Measured,
    folder: OutputFolder,
    recorder: &Recorder<'_>,
) -> Result<Outcome> {
    write::partial(prepared, measured, &folder)?;
    recorder.flush()?;
    let path = folder.commit_partial()?;
    Err(Error::Interrupted { path })
}
