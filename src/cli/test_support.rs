//! A writer that tests can read.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::printer::lock;

/// Bytes shared between a writer and a test.
#[derive(Clone, Default)]
pub(super) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// A writer into this capture.
    pub(super) fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(self.clone())
    }

    /// What was written.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
