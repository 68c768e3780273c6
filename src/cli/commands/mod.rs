//! One file a verb.

pub mod completions;
pub mod doctor;
pub mod eval;
pub mod inspect;
pub mod merge;
pub mod predict;
pub mod recipe;
pub mod select;
pub mod transfer;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft_adapters::hardware;

use super::args::{Command, ComputeArgs, ModelArgs, RunArgs};
use super::{ExitStatus, Failure, Printer, TerminalProgress, run_folder, signals};
use crate::base::BaseModel;
use crate::device;
use crate::error::{Error, Result};
use crate::export::{Input, check_inputs};
use crate::interrupt::Interrupt;
use crate::pipeline::{self, Adapted};
use crate::recipe::Recipe;
use crate::report::{HeldOut, Manifest, Stage};
use crate::threads;

/// Runs a command.
///
/// # Errors
/// Whatever the command cannot do; a "no" is no error.
pub fn run(command: &Command, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    match command {
        Command::Select(args) => select::run(args, printer),
        Command::Transfer(args) => transfer::run(args, printer),
        Command::Eval(args) => eval::run(args, printer),
        Command::Predict(args) => predict::run(args, printer),
        Command::Merge(args) => merge::run(args, printer),
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Doctor(args) => doctor::run(args, printer),
        Command::Recipe(args) => recipe::run(args, printer),
        Command::Completions(args) => completions::run(args, printer),
    }
}

/// Starts the threads. A caller that has a pool of its own keeps it unless another number is asked for.
fn use_threads(threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
    match threads::start(threads) {
        Err(error) if threads.is_some() => {
            Err(Failure::new(format!("cannot start the threads: {error}")).into())
        }
        _ => Ok(()),
    }
}

/// Where runs without `--out` go.
const RUNS: &str = "runs";

/// Runs what writes a result: sets threads and products, listens for the user's stop, and finds a folder.
fn write_result<T>(
    args: &RunArgs,
    printer: &Arc<Printer>,
    job: impl FnOnce(&Path, &TerminalProgress, &Interrupt) -> Result<T>,
) -> anyhow::Result<T> {
    use_threads(args.compute.threads)?;
    let products = check_products()?;
    if hardware::HAS_SYSTEM_BLAS && products == hardware::CRATE && !hardware::is_blas_chosen() {
        printer.warn(&format!(
            "no BLAS was found on this system, so {products} computes; `autopeft doctor` says more"
        ));
    }
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    signals::on_interrupt(move || flag.raise())?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => fresh_folder()?,
    };
    // An embedded recipe is no file.
    if let Some(recipe) = args
        .recipe
        .as_ref()
        .filter(|name| Path::new(name).is_file())
    {
        check_inputs(&out, &[Input::new("the recipe", recipe)])?;
    }
    let progress = TerminalProgress::new(printer.clone());
    let outcome = job(&out, &progress, &interrupt);
    if outcome.is_err() && args.out.is_none() {
        // An empty numbered folder says nothing; one with a partial result is not empty and stays.
        let _ = std::fs::remove_dir(&out);
    }
    Ok(outcome?)
}

fn fresh_folder() -> Result<PathBuf> {
    run_folder::fresh(Path::new(RUNS)).map_err(Error::io("creating", RUNS))
}

/// The main metric of the held-out values, and its value at each stage.
fn metrics(held_out: &[HeldOut], head_parameters: usize) -> (String, Vec<(String, f64)>) {
    let name = (held_out.first()).map_or("loss", |held_out| held_out.evaluation.main().0);
    let values = held_out.iter().filter_map(|held_out| {
        let stage = match held_out.stage {
            Stage::Untrained if head_parameters == 0 => "base model",
            Stage::Untrained => "untrained head",
            Stage::Superset => "superset",
            Stage::Dropped => return None,
            Stage::Trimmed => "trimmed",
        };
        Some((stage.to_string(), held_out.evaluation.main().1))
    });
    (name.to_string(), values.collect())
}

/// What to type next at a trained result.
fn next(folder: &Path) -> Vec<String> {
    let folder = folder.display();
    vec![
        format!("autopeft eval {folder} --data test.jsonl"),
        format!("echo 'some text' | autopeft predict {folder}"),
    ]
}

/// What computes products. Refuses a library that was asked for and cannot be had.
fn check_products() -> anyhow::Result<String> {
    hardware::products().map_err(|error| Failure::new(error.to_string()).hint(error.hint()).into())
}

/// Opens the base model of a result, or another one where the flags or its recipe name one.
fn open_base(dir: &Path, recipe: &Recipe, flags: &ModelArgs) -> Result<BaseModel> {
    let manifest = Manifest::read(dir)?;
    if flags.model.is_some() || recipe.model != manifest.base_model {
        return BaseModel::open(&recipe.model, &recipe.revision, &mut |_| {});
    }
    let is_other = recipe.revision != manifest.revision || flags.revision.is_some();
    let revision = is_other.then_some(recipe.revision.as_str());
    pipeline::open_base(&manifest, revision, &mut |_| {})
}

/// Opens a result as its recipe, with the flags over it, says.
fn open(
    dir: &Path,
    recipe: &Recipe,
    flags: &ModelArgs,
    compute: &ComputeArgs,
) -> anyhow::Result<Adapted> {
    use_threads(compute.threads)?;
    check_products()?;
    let device = device::open(recipe.device)?;
    let dtype = device::dtype(recipe.dtype, &device)?;
    let options = device::load_options(recipe.storage, false, dtype)?;
    let base = open_base(dir, recipe, flags)?;
    Ok(Adapted::open(
        dir,
        base.with_options(options)?,
        recipe.train.batch_size,
        device,
        dtype,
    )?)
}
