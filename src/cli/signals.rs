//! Ctrl-C: the first asks for an orderly stop, the second stops at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::status::ExitStatus;

/// Calls `stop` at the first Ctrl-C (or termination signal), and ends the process at the second.
///
/// # Errors
/// When the handler cannot be installed, or is installed already.
pub fn on_interrupt(stop: impl Fn() + Send + 'static) -> Result<(), ctrlc::Error> {
    let count = AtomicUsize::new(0);
    ctrlc::try_set_handler(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            stop();
        } else {
            std::process::exit(i32::from(ExitStatus::Interrupted.code()));
        }
    })
}
