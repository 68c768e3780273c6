//! Ctrl-C: the first asks for an orderly stop, the second stops at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::status::ExitStatus;

/// Calls `stop` at the first Ctrl-C (or termination signal), and ends the process at the second.
///
/// # Errors
/// When the handler cannot be installed. One that is there already, or an ignored signal, is left as it is.
pub fn on_interrupt(stop: impl Fn() + Send + 'static) -> Result<(), ctrlc::Error> {
    let count = AtomicUsize::new(0);
    let installed = ctrlc::try_set_handler(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            stop();
        } else {
            std::process::exit(i32::from(ExitStatus::Interrupted.code()));
        }
    });
    match installed {
        // A shell starts background jobs with Ctrl-C ignored: it shall not reach them, which is no error.
        Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        other => other,
    }
}
