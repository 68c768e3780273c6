//! How the library tells what it is doing, without knowing who listens.
//!
//! ```
//! use autopeft::progress::{Event, EventKind, Progress, Silent, StepInfo};
//!
//! fn train(progress: &dyn Progress) {
//!     progress.start("probe", Some(2));
//!     for step in 1..=2 {
//!         progress.step(&StepInfo { step, loss: Some(0.5), ..StepInfo::default() });
//!     }
//!     progress.finish();
//!     progress.event(&Event::new(EventKind::Select, &serde_json::json!({"kept": 12})));
//! }
//! train(&Silent);
//! ```

use serde::Serialize;
use serde_json::{Map, Value};

/// A listener. Its methods cannot fail: a lost message must not stop a training.
pub trait Progress: Send + Sync {
    /// A stage begins; `total_steps` is `None` where the length is not known.
    fn start(&self, stage: &str, total_steps: Option<usize>);

    /// A step of the current stage is done.
    fn step(&self, step: &StepInfo);

    /// The current stage is over.
    fn finish(&self);

    /// Something worth knowing.
    fn note(&self, message: &str);

    /// Something that may spoil the result.
    fn warn(&self, message: &str);

    /// Something a program may want to read.
    fn event(&self, event: &Event);
}

/// What a step reports. Only `step` is always there.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StepInfo {
    /// Steps of the stage that are done, this one included.
    pub step: usize,
    /// Training loss of the step, in nats an example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Tokens a second, padding not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
}

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// A run, or one of its stages, begins.
    Start,
    /// A training step is done.
    Step,
    /// A stage is over.
    Finish,
    /// A held-out set was evaluated.
    Evaluation,
    /// The influence of the groups was measured.
    Influence,
    /// Groups were chosen.
    Select,
    /// A result was written.
    Export,
    /// Something worth knowing.
    Note,
    /// Something that may spoil the result.
    Warning,
    /// The run failed.
    Error,
    /// The answer of a command.
    Result,
    /// The run is over.
    Summary,
}

/// An event as a flat JSON object: `{"event": …}` and its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    kind: EventKind,
    fields: Map<String, Value>,
}

impl Event {
    /// An event with the fields of a struct or map. Anything else becomes the one field `value`; numbers that JSON
    /// does not have (NaN, infinite) become `null`.
    pub fn new(kind: EventKind, fields: &impl Serialize) -> Self {
        let fields = match serde_json::to_value(fields) {
            Ok(Value::Object(fields)) => fields,
            Ok(Value::Null) => Map::new(),
            Ok(value) => Map::from_iter([("value".to_owned(), value)]),
            Err(error) => {
                Map::from_iter([("unreadable".to_owned(), Value::String(error.to_string()))])
            }
        };
        Self { kind, fields }
    }

    /// What it tells of.
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// Its fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// One line of JSON; `schema` is written into it where given.
    pub fn line(&self, schema: Option<u32>) -> String {
        let mut object = Map::new();
        object.insert(
            "event".to_owned(),
            serde_json::to_value(self.kind).unwrap_or_default(),
        );
        if let Some(schema) = schema {
            object.insert("schema".to_owned(), schema.into());
        }
        for (name, value) in &self.fields {
            object.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Value::Object(object).to_string()
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _stage: &str, _total_steps: Option<usize>) {}
    fn step(&self, _step: &StepInfo) {}
    fn finish(&self) {}
    fn note(&self, _message: &str) {}
    fn warn(&self, _message: &str) {}
    fn event(&self, _event: &Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_flat_line() {
        let event = Event::new(
            EventKind::Influence,
            &json!({"group": "a\nb", "influence": f64::NAN}),
        );
        assert_eq!(
            event.line(Some(1)),
            r#"{"event":"influence","schema":1,"group":"a\nb","influence":null}"#
        );
        assert_eq!(
            event.line(None),
            r#"{"event":"influence","group":"a\nb","influence":null}"#
        );
    }

    #[test]
    fn fields_cannot_hide_the_kind() {
        let event = Event::new(EventKind::Step, &json!({"event": "other"}));
        assert_eq!(event.line(None), r#"{"event":"step"}"#);
        assert_eq!(
            Event::new(EventKind::Note, &"text").line(None),
            r#"{"event":"note","value":"text"}"#
        );
    }
}
