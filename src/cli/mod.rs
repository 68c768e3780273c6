//! The command line: arguments in, a result on stdout, an exit status out.
//!
//! The work is in the library; here is only what a terminal needs. Arguments are read in two steps: what was typed
//! ([`args`]) becomes overrides, and these make a [`crate::recipe::Recipe`] that has been checked as a whole.

pub mod args;
pub mod commands;
pub mod failure;
pub mod printer;
pub mod progress;
pub mod run_folder;
pub mod signals;
pub mod status;
mod style;
pub mod summary;
pub mod table;
#[cfg(test)]
mod test_support;

use std::ffi::OsString;
use std::sync::Arc;

use clap::Parser;

use args::Cli;
pub use failure::Failure;
pub use printer::Printer;
pub use progress::TerminalProgress;
pub use status::ExitStatus;

/// Runs the program with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitStatus {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version end here too. If stdout or stderr is gone, there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() {
                ExitStatus::Error
            } else {
                ExitStatus::Done
            };
        }
    };
    let printer = Arc::new(cli.global.printer());
    match commands::run(&cli.command, &printer) {
        Ok(status) => status,
        Err(error) => {
            let status = failure::status_of(&error);
            if status != ExitStatus::Done {
                failure::show(&error, &printer);
            }
            status
        }
    }
}
