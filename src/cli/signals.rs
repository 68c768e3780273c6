//! Ctrl-C and termination: the first asks for an orderly stop, the second stops at once.
//!
//! A signal that the parent has told the program to ignore stays ignored: a run started with `nohup`, or with `&` in
//! a script, must not end with the terminal that started it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::status::ExitStatus;

/// Calls `stop` at the first Ctrl-C or termination signal, and ends the process at the second.
///
/// # Errors
/// When a handler cannot be installed.
pub fn on_interrupt(stop: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    let count = AtomicUsize::new(0);
    let handle = Arc::new(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            stop();
        } else {
            std::process::exit(i32::from(ExitStatus::Interrupted.code()));
        }
    });
    on_termination(handle.clone())?;
    match ctrlc::try_set_handler(move || handle()) {
        // There is a handler already, or Ctrl-C is ignored on the parent's wish.
        Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(ctrlc::Error::System(error)) => Err(error),
        Err(error @ ctrlc::Error::NoSuchSignal(_)) => Err(io::Error::other(error)),
        Ok(()) => Ok(()),
    }
}

/// What `kill`, service managers and batch schedulers send.
#[cfg(unix)]
fn on_termination(handle: Arc<dyn Fn() + Send + Sync>) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    std::thread::Builder::new()
        .name("termination".to_owned())
        .spawn(move || signals.forever().for_each(|_| handle()))?;
    Ok(())
}

#[cfg(not(unix))]
fn on_termination(_: Arc<dyn Fn() + Send + Sync>) -> io::Result<()> {
    Ok(())
}
