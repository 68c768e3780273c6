//! One file a verb.

pub mod completions;
pub mod recipe;

use std::sync::Arc;

use super::args::Command;
use super::{ExitStatus, Printer};

/// Runs a command.
///
/// # Errors
/// Whatever the command cannot do; a "no" is no error.
pub fn run(command: &Command, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    match command {
        Command::Recipe(args) => recipe::run(args, printer),
        Command::Completions(args) => completions::run(args, printer),
    }
}
