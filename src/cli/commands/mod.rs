//! One file a verb.

pub mod completions;
pub mod doctor;
pub mod eval;
pub mod inspect;
pub mod predict;
pub mod recipe;
pub mod select;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use autopeft_adapters::hardware;

use super::args::{Command, ComputeArgs};
use super::{ExitStatus, Failure, Printer};
use crate::device;
use crate::pipeline::Adapted;
use crate::recipe::Recipe;

/// Runs a command.
///
/// # Errors
/// Whatever the command cannot do; a "no" is no error.
pub fn run(command: &Command, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    match command {
        Command::Select(args) => select::run(args, printer),
        Command::Eval(args) => eval::run(args, printer),
        Command::Predict(args) => predict::run(args, printer),
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Doctor(args) => doctor::run(args, printer),
        Command::Recipe(args) => recipe::run(args, printer),
        Command::Completions(args) => completions::run(args, printer),
    }
}

/// Sets the number of threads of everything that computes on the CPU.
fn use_threads(threads: Option<NonZeroUsize>) -> anyhow::Result<()> {
    let Some(threads) = threads else {
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .map_err(|error| Failure::new(format!("cannot use {threads} threads: {error}")).into())
}

/// What computes products. Refuses a library that was asked for and cannot be had.
fn check_products() -> anyhow::Result<String> {
    hardware::products().map_err(|error| Failure::new(error.to_string()).hint(error.hint()).into())
}

/// Opens a result as its recipe, with the flags over it, says.
fn open(dir: &Path, recipe: &Recipe, compute: &ComputeArgs) -> anyhow::Result<Adapted> {
    use_threads(compute.threads)?;
    check_products()?;
    let device = device::open(recipe.device)?;
    let dtype = device::dtype(recipe.dtype, &device)?;
    Ok(Adapted::open(
        dir,
        &recipe.model,
        recipe.train.batch_size,
        device,
        dtype,
        device::load_options(recipe.storage, false, dtype)?,
    )?)
}
