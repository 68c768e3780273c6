//! Where a model keeps its chat template and the names of its special tokens.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChatError, ChatTemplate};

/// Special tokens of `tokenizer_config.json`, by their names there, such as `eos_token`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens(Map<String, Value>);

impl SpecialTokens {
    /// From the content of a `tokenizer_config.json`.
    pub fn of(config: &Map<String, Value>) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => Some(Value::from(text.as_str())),
            Value::Object(token) => token
                .get("content")
                .filter(|text| text.is_string())
                .cloned(),
            _ => None,
        };
        let tokens = config
            .iter()
            .filter(|(name, _)| name.ends_with("_token") && !name.starts_with("add_"))
            .filter_map(|(name, value)| Some((name.clone(), text(value)?)));
        Self(tokens.collect())
    }

    /// The token of this name, such as `eos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}

/// The special tokens and the chat template of a model's folder; `None` where there are none. A file
/// `chat_template.jinja` goes before the entry of `tokenizer_config.json`; of several named templates the one
/// called `default` is taken.
///
/// # Errors
/// [`ChatError::File`] when a file is there and cannot be read, [`ChatError::Template`] when the template does not
/// compile.
pub fn read(folder: &Path) -> Result<(SpecialTokens, Option<ChatTemplate>), ChatError> {
    let path = folder.join("tokenizer_config.json");
    let config: Map<String, Value> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| ChatError::File {
            path,
            reason: error.to_string(),
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => {
            return Err(ChatError::File {
                path,
                reason: error.to_string(),
            });
        }
    };
    let tokens = SpecialTokens::of(&config);
    let path = folder.join("chat_template.jinja");
    let source = match std::fs::read_to_string(&path) {
        Ok(source) => Some(source),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            config.get("chat_template").and_then(in_config)
        }
        Err(error) => {
            return Err(ChatError::File {
                path,
                reason: error.to_string(),
            });
        }
    };
    let template = source
        .map(|source| ChatTemplate::with_tokens(&source, tokens.0.clone()))
        .transpose()?;
    Ok((tokens, template))
}

/// One template, or the default of several.
fn in_config(entry: &Value) -> Option<String> {
    match entry {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let is_default =
                |template: &&Value| template.get("name").and_then(Value::as_str) == Some("default");
            let template = named.iter().find(is_default)?;
            template.get("template")?.as_str().map(str::to_string)
        }
        _ => None,
    }
}
