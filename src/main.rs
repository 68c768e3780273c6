//! The `autopeft` program; the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    autopeft::memory::keep_freed();
    autopeft::cli::run(std::env::args_os()).into()
}
