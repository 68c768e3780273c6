//! The threads that compute on the CPU.

use std::num::NonZeroUsize;

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

/// Makes the calling thread and others the pool of everything that computes, as many as the machine has unless `count` or
/// `RAYON_NUM_THREADS` says otherwise. For the main thread at the start of a program: outside of the pool it would hand every loop to
/// another thread and sleep, which took a tenth of a training step.
///
/// # Errors
/// When there is a pool already, or the system starts no thread.
pub fn start(count: Option<NonZeroUsize>) -> Result<(), ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(count.map_or(0, NonZeroUsize::get)) // 0: as many as the machine has
        .use_current_thread()
        .build_global()
}
