//! How the program ends.

use std::process::ExitCode;

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done: 0. A reader that closed the pipe early counts as done.
    Done,
    /// The request was understood and the answer is no: 1.
    No,
    /// An error: 2.
    Error,
    /// Stopped by Ctrl-C; what was measured so far is saved: 130.
    Interrupted,
}

impl ExitStatus {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Error => 2,
            Self::Interrupted => 130,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
