//! `autopeft completions SHELL`: a completion script on stdout.

use clap::CommandFactory;

use crate::cli::args::{Cli, CompletionsArgs};
use crate::cli::printer::Format;
use crate::cli::{ExitStatus, Printer};
use crate::progress::{Event, EventKind};

/// Writes the script.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(args: &CompletionsArgs, printer: &Printer) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "autopeft", &mut script);
    let script = String::from_utf8_lossy(&script);
    match printer.format() {
        Format::Text => printer.result(&script)?,
        Format::Json => printer.event(&Event::new(
            EventKind::Result,
            &serde_json::json!({ "shell": args.shell.to_string(), "script": script }),
        ))?,
    }
    Ok(ExitStatus::Done)
}
