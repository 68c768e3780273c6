//! The `autopeft` program; the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    autopeft::cli::run(std::env::args_os()).into()
}
