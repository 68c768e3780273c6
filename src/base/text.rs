//! What a model's folder or file says about its text: special tokens, the chat template, and where generation stops.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::chat::{self, ChatError, ChatTemplate, SpecialTokens};
use crate::models::gguf::GgufText;

/// Of one model.
#[derive(Debug, Clone, Default)]
pub struct TextFacts {
    /// Its special tokens by name.
    pub special: SpecialTokens,
    /// Its chat template.
    pub template: Option<ChatTemplate>,
    /// The token that ends a text.
    pub end: Option<u32>,
    /// Tokens at which generation stops.
    pub stops: Vec<u32>,
    /// Whether it was trained with the mean over its tokens as the vector of a text.
    pub is_mean_pooled: bool,
}

/// Where sentence-transformers says how it makes one vector of a text.
pub(crate) const POOLING_FILE: &str = "1_Pooling/config.json";

impl TextFacts {
    /// Reads `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`, `config.json` and `1_Pooling/config.json`,
    /// as far as they are there. The end is the tokenizer's `eos_token`, or else the first of the configuration; generation
    /// stops at the tokens of `generation_config.json`, or else of `config.json`, and at the end.
    ///
    /// # Errors
    /// When a file is there and cannot be used.
    pub fn read(folder: &Path, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let (special, template) = chat::read(folder)?;
        let mut stops = ["generation_config.json", "config.json"]
            .into_iter()
            .map(|file| ends(&folder.join(file)))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .find(|ends| !ends.is_empty())
            .unwrap_or_default();
        let end = special
            .get("eos_token")
            .and_then(|token| tokenizer.token_to_id(token))
            .or(stops.first().copied());
        if let Some(end) = end.filter(|end| !stops.contains(end)) {
            stops.push(end);
        }
        Ok(Self {
            special,
            template,
            end,
            stops,
            is_mean_pooled: is_mean_pooled(&folder.join(POOLING_FILE))?,
        })
    }
}

impl TryFrom<GgufText> for TextFacts {
    type Error = ChatError;

    fn try_from(text: GgufText) -> Result<Self, ChatError> {
        let (special, template) = chat::of_config(&text.tokenizer_config)?;
        Ok(Self {
            special,
            template,
            end: text.end,
            stops: text.stops,
            is_mean_pooled: false,
        })
    }
}

/// A JSON file; null where there is none.
fn json(path: &Path) -> Result<Value, ChatError> {
    let failed = |reason: String| ChatError::File {
        path: path.to_path_buf(),
        reason,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => return Err(failed(error.to_string())),
    };
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

fn is_mean_pooled(path: &Path) -> Result<bool, ChatError> {
    let pooling = json(path)?;
    Ok(pooling.get("pooling_mode_mean_tokens") == Some(&Value::Bool(true)))
}

/// `eos_token_id` of a configuration: a number or a list.
fn ends(path: &Path) -> Result<Vec<u32>, ChatError> {
    let config = json(path)?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(match config.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    })
}
