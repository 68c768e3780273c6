//! What a GGUF file says beside its tensors: typed access by key.

use std::path::PathBuf;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::models::checkpoint::CheckpointError;

/// The key-value pairs of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) content: &'a Content,
    pub(super) path: &'a PathBuf,
}

impl<'a> Metadata<'a> {
    pub(super) fn fault(&self, reason: String) -> CheckpointError {
        CheckpointError::Metadata {
            file: self.path.clone(),
            reason,
        }
    }

    pub(super) fn missing(&self, key: &str) -> CheckpointError {
        self.fault(format!("it has no `{key}`"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.to_bool().ok()
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        number(self.get(key)?)
    }

    /// A count; of one count for each layer, the one that all share.
    ///
    /// # Errors
    /// When layers differ, which no family here has.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        let not_a_count = || self.fault(format!("`{key}` is not a count"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let mut counts = values.iter().map(count);
                let first = counts.next().flatten().ok_or_else(not_a_count)?;
                match counts.all(|count| count == Some(first)) {
                    true => Ok(Some(first)),
                    false => Err(self.fault(format!(
                        "`{key}` differs from layer to layer, which is not supported"
                    ))),
                }
            }
            Some(value) => count(value).map(Some).ok_or_else(not_a_count),
        }
    }

    /// Token number `key`.
    pub(super) fn token(&self, key: &str) -> Option<u32> {
        self.get(key)
            .and_then(count)
            .and_then(|id| u32::try_from(id).ok())
    }

    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        self.list(key, |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        self.list(key, number)
    }

    fn list<T>(&self, key: &str, of: impl Fn(&'a Value) -> Option<T>) -> Option<Vec<T>> {
        match self.get(key)? {
            Value::Array(values) => values.iter().map(of).collect(),
            _ => None,
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::F32(x) => Some(f64::from(*x)),
        Value::F64(x) => Some(*x),
        other => integer(other).map(|x| x as f64),
    }
}

fn count(value: &Value) -> Option<u64> {
    integer(value).and_then(|x| u64::try_from(x).ok())
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::I8(x) => Some((*x).into()),
        Value::I16(x) => Some((*x).into()),
        Value::I32(x) => Some((*x).into()),
        Value::I64(x) => Some(*x),
        Value::Bool(_) => None,
        other => i64::try_from(other.to_u64().ok()?).ok(),
    }
}
