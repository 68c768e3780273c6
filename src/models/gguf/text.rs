//! What a GGUF file says about texts: special tokens, chat template, where generation stops.

use serde_json::{Map, Value, json};

use super::Gguf;

/// Of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufText {
    /// In the form of a `tokenizer_config.json`: special tokens by name, and `chat_template`.
    pub tokenizer_config: Map<String, Value>,
    /// The token that ends a text.
    pub end: Option<u32>,
    /// Tokens that end what is generated.
    pub stops: Vec<u32>,
}

impl Gguf {
    /// What it says about texts.
    pub fn text(&self) -> GgufText {
        let metadata = self.metadata();
        let tokens = metadata.texts("tokenizer.ggml.tokens").unwrap_or_default();
        let id = |name: &str| metadata.token(&format!("tokenizer.ggml.{name}_token_id"));
        let mut config = Map::new();
        for (name, key) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        ] {
            if let Some(text) = id(key).and_then(|id| tokens.get(id as usize)) {
                config.insert(name.to_string(), json!(text));
            }
        }
        let mut templates = Vec::new();
        for name in metadata
            .texts("tokenizer.chat_templates")
            .into_iter()
            .flatten()
        {
            if let Some(template) = metadata.text(&format!("tokenizer.chat_template.{name}")) {
                templates.push(json!({"name": name, "template": template}));
            }
        }
        if let Some(template) = metadata.text("tokenizer.chat_template") {
            let template = match templates.is_empty() {
                true => json!(template),
                false => {
                    templates.insert(0, json!({"name": "default", "template": template}));
                    json!(templates)
                }
            };
            config.insert("chat_template".to_string(), template);
        }
        let mut stops: Vec<u32> = ["eos", "eot"].into_iter().filter_map(id).collect();
        stops.dedup();
        GgufText {
            tokenizer_config: config,
            end: id("eos"),
            stops,
        }
    }
}
