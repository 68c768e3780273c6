//! Sends what a run tells to the listener and to `metrics.jsonl`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::export::OutputFolder;
use crate::metrics::Evaluation;
use crate::progress::{Event, EventKind, Progress, StepInfo};
use crate::report::Stage;
use crate::train::StepReport;

/// Name of the file.
const METRICS_FILE: &str = "metrics.jsonl";

/// Both receivers of a run's events.
pub struct Recorder<'a> {
    /// The listener.
    pub progress: &'a dyn Progress,
    file: Option<Mutex<BufWriter<File>>>,
}

impl<'a> Recorder<'a> {
    /// Opens the file in the output folder.
    pub fn new(progress: &'a dyn Progress, folder: &OutputFolder) -> Result<Self> {
        let path = folder.path().join(METRICS_FILE);
        let file = File::create(&path)
            .map_err(Error::io("creating", folder.target().join(METRICS_FILE)))?;
        Ok(Self {
            progress,
            file: Some(Mutex::new(BufWriter::new(file))),
        })
    }

    /// Without a file: the listener alone is told.
    pub fn listener(progress: &'a dyn Progress) -> Self {
        Self {
            progress,
            file: None,
        }
    }

    /// Tells of something.
    pub fn event(&self, kind: EventKind, fields: &impl Serialize) -> Result<()> {
        let event = Event::new(kind, fields);
        self.progress.event(&event);
        self.write(&event)
    }

    fn file(&self) -> Option<MutexGuard<'_, BufWriter<File>>> {
        let file = self.file.as_ref()?;
        Some(match file.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        })
    }

    fn write(&self, event: &Event) -> Result<()> {
        let Some(mut file) = self.file() else {
            return Ok(());
        };
        writeln!(file, "{}", event.line(None)).map_err(Error::io("writing", METRICS_FILE))
    }

    /// Tells of a training step.
    pub fn step(&self, stage: &str, number: usize, report: &StepReport) -> Result<()> {
        self.progress.step(&StepInfo {
            step: number,
            loss: Some(report.loss),
            learning_rate: Some(report.learning_rate),
            tokens_per_second: Some(report.tokens as f64 / report.seconds.max(1e-9)),
        });
        let fields = json!({
            "stage": stage, "step": number, "loss": report.loss, "learning_rate": report.learning_rate,
            "tokens": report.tokens, "seconds": report.seconds,
        });
        self.write(&Event::new(EventKind::Step, &fields))
    }

    /// Tells of a value on held-out rows.
    pub fn evaluation(&self, stage: Stage, evaluation: &Evaluation) -> Result<()> {
        let mut fields = serde_json::to_value(evaluation).unwrap_or_default();
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("stage".to_string(), json!(stage));
        }
        self.event(EventKind::Evaluation, &fields)
    }

    /// Writes out what is buffered.
    pub fn flush(&self) -> Result<()> {
        let Some(mut file) = self.file() else {
            return Ok(());
        };
        file.flush()
            .and_then(|()| file.get_ref().sync_all())
            .map_err(Error::io("writing", METRICS_FILE))
    }
}
