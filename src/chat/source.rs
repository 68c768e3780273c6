//! Where a model keeps its chat template and the names of its special tokens.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChatError, ChatTemplate, NAME, WITH_TOOLS};

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
/// called `default` is taken, or for a conversation with tools the one called `tool_use`, as `transformers` does.
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
    let path = folder.join("chat_template.jinja");
    let file = match std::fs::read_to_string(&path) {
        Ok(source) => Some(Value::from(source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(ChatError::File {
                path,
                reason: error.to_string(),
            });
        }
    };
    match file {
        Some(source) => {
            let mut config = config;
            config.insert("chat_template".to_string(), source);
            of_config(&config)
        }
        None => of_config(&config),
    }
}

/// The special tokens and the chat template of the content of a `tokenizer_config.json`.
///
/// # Errors
/// [`ChatError::Template`] when the template does not compile.
pub fn of_config(
    config: &Map<String, Value>,
) -> Result<(SpecialTokens, Option<ChatTemplate>), ChatError> {
    let tokens = SpecialTokens::of(config);
    let named = |name: &str| match config.get("chat_template")? {
        Value::String(source) => (name == NAME).then_some(source.as_str()),
        Value::Array(templates) => {
            let is_named =
                |template: &&Value| template.get("name").and_then(Value::as_str) == Some(name);
            templates.iter().find(is_named)?.get("template")?.as_str()
        }
        _ => None,
    };
    let template = named(NAME)
        .map(|source| ChatTemplate::with_tokens(source, named(WITH_TOOLS), tokens.0.clone()))
        .transpose()?;
    Ok((tokens, template))
}
