//! The vocabulary of a GGUF file as a tokenizer: byte-level BPE with the file's merges, or SentencePiece's BPE, whose merges
//! follow from the scores. The tokenizer is put together in the form of a `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::metadata::Metadata;
use crate::models::checkpoint::CheckpointError;

/// Values of `tokenizer.ggml.token_type`.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// How GPT-2 cuts a text before it merges.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Before the next expression: each digit by itself.
const DIGITS: &str = r"\p{N}";

/// What is known of a value of `tokenizer.ggml.pre`.
struct Cut {
    words: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a piece that is a token is never split into merges.
    whole: bool,
    /// Whether a text starts with the first special token, where the file does not say it.
    begins: bool,
}

/// Facts from `llama-vocab.cpp` of `llama.cpp` and the `tokenizer.json` of the models.
const CUTS: &[Cut] = &[
    Cut {
        words: &["gpt-2", "olmo", "phi-2", "mpt", "jais"],
        patterns: &[GPT2],
        whole: false,
        begins: false,
    },
    Cut {
        words: &["smollm", "starcoder", "refact", "codeshell", "command-r"],
        patterns: &[DIGITS, GPT2],
        whole: false,
        begins: false,
    },
    Cut {
        words: &["llama-bpe", "llama3", "llama-v3", "smaug-bpe"],
        patterns: &[LLAMA3],
        whole: true,
        begins: true,
    },
    Cut {
        words: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[QWEN2],
        whole: false,
        begins: false,
    },
];

/// The tokenizer of the vocabulary.
pub(super) fn build(metadata: Metadata<'_>) -> Result<Tokenizer, CheckpointError> {
    let key = "tokenizer.ggml.model";
    let kind = metadata.text(key).ok_or_else(|| missing(metadata, key))?;
    let tokens = texts(metadata, "tokens")?;
    let file = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens)?,
        other => {
            return Err(fault(
                metadata,
                format!("it is of the kind `{other}`, known are `gpt2` and `llama`"),
            ));
        }
    };
    Tokenizer::from_bytes(Value::Object(file).to_string().as_bytes())
        .map_err(|error| fault(metadata, format!("{error}")))
}

fn fault(metadata: Metadata<'_>, reason: String) -> CheckpointError {
    CheckpointError::Vocabulary {
        file: metadata.path.clone(),
        reason,
    }
}

fn missing(metadata: Metadata<'_>, key: &str) -> CheckpointError {
    fault(metadata, format!("it has no `{key}`"))
}

fn texts<'a>(metadata: Metadata<'a>, name: &str) -> Result<Vec<&'a str>, CheckpointError> {
    let key = format!("tokenizer.ggml.{name}");
    let texts = metadata.texts(&key);
    texts.ok_or_else(|| missing(metadata, &key))
}

fn byte_level(
    metadata: Metadata<'_>,
    tokens: &[&str],
) -> Result<Map<String, Value>, CheckpointError> {
    let key = "tokenizer.ggml.pre";
    let word = metadata.text(key).ok_or_else(|| missing(metadata, key))?;
    let Some(cut) = CUTS.iter().find(|cut| cut.words.contains(&word)) else {
        let known: Vec<&str> = CUTS.iter().flat_map(|cut| cut.words).copied().collect();
        return Err(fault(
            metadata,
            format!("it cuts texts as `{word}`, known are {}", known.join(", ")),
        ));
    };
    let mut merges = Vec::new();
    for merge in texts(metadata, "merges")? {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(fault(
                metadata,
                format!("`{merge}` is not a merge of two tokens"),
            ));
        };
        merges.push(json!([left, right]));
    }
    let mut steps: Vec<Value> = (cut.patterns.iter())
        .map(|pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    steps.push(bytes.clone());
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": cut.whole, "vocab": vocabulary(tokens), "merges": merges,
    });
    let parts = Parts {
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        decoder: bytes,
        model,
        begins: cut.begins,
    };
    Ok(parts.file(metadata, tokens))
}

fn sentence_piece(
    metadata: Metadata<'_>,
    tokens: &[&str],
) -> Result<Map<String, Value>, CheckpointError> {
    let key = "tokenizer.ggml.scores";
    let scores = metadata
        .numbers(key)
        .ok_or_else(|| missing(metadata, key))?;
    if scores.len() != tokens.len() {
        return Err(fault(
            metadata,
            format!("`{key}` does not have a number for each token"),
        ));
    }
    let unknown = metadata
        .token("tokenizer.ggml.unknown_token_id")
        .unwrap_or(0);
    let prefix = metadata
        .flag("tokenizer.ggml.add_space_prefix")
        .unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": tokens.get(unknown as usize),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
        "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary(tokens),
        "merges": merges(tokens, &scores),
    });
    let parts = Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model,
        begins: true,
    };
    Ok(parts.file(metadata, tokens))
}

fn vocabulary(tokens: &[&str]) -> Map<String, Value> {
    let numbered = tokens.iter().enumerate();
    numbered
        .map(|(id, token)| ((*token).to_string(), json!(id)))
        .collect()
}

/// The merges that SentencePiece would do, the best first: of every token, all cuts into two others, by the token's score.
fn merges(tokens: &[&str], scores: &[f64]) -> Vec<Value> {
    let ids: HashMap<&str, usize> = tokens.iter().copied().zip(0..).collect();
    let mut found = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let cuts = token.char_indices().skip(1);
        let mut pairs: Vec<(usize, usize)> = cuts
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?))
            })
            .collect();
        pairs.sort_unstable();
        found.extend(pairs.into_iter().map(|pair| (*score, pair)));
    }
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a)); // stable: equal scores stay in the order of the vocabulary
    let name = |id: usize| tokens.get(id).copied().unwrap_or_default();
    let merges = found.into_iter();
    merges
        .map(|(_, (left, right))| json!([name(left), name(right)]))
        .collect()
}

struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    begins: bool,
}

impl Parts {
    fn file(self, metadata: Metadata<'_>, tokens: &[&str]) -> Map<String, Value> {
        let types = metadata
            .numbers("tokenizer.ggml.token_type")
            .unwrap_or_default();
        let special = types.iter().zip(tokens).enumerate();
        let added: Vec<Value> = special
            .filter(|(_, (kind, _))| **kind == CONTROL || **kind == USER_DEFINED)
            .map(|(id, (kind, token))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind == CONTROL,
                })
            })
            .collect();
        let mut file = Map::new();
        let mut set = |name: &str, value: Value| file.insert(name.to_string(), value);
        set("version", json!("1.0"));
        set("truncation", Value::Null);
        set("padding", Value::Null);
        set("added_tokens", json!(added));
        set("normalizer", self.normalizer);
        set("pre_tokenizer", self.pre_tokenizer);
        set("post_processor", frame(metadata, tokens, self.begins));
        set("decoder", self.decoder);
        set("model", self.model);
        file
    }
}

/// The special tokens around a text.
fn frame(metadata: Metadata<'_>, tokens: &[&str], begins: bool) -> Value {
    let token = |name: &str, default: bool| {
        let wanted = metadata.flag(&format!("tokenizer.ggml.add_{name}_token"));
        let id = metadata.token(&format!("tokenizer.ggml.{name}_token_id"))?;
        let text = *tokens.get(id as usize)?;
        wanted.unwrap_or(default).then_some((text, id))
    };
    let (first, last) = (token("bos", begins), token("eos", false));
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let piece = |token: Option<(&str, u32)>, type_id: u8| {
        token.map(|(text, _)| json!({"SpecialToken": {"id": text, "type_id": type_id}}))
    };
    let sequence = |id: &str, type_id: u8| {
        let text = json!({"Sequence": {"id": id, "type_id": type_id}});
        let parts = [piece(first, type_id), Some(text), piece(last, type_id)];
        parts.into_iter().flatten().collect::<Vec<Value>>()
    };
    let known = [first, last].into_iter().flatten();
    let specials: Map<String, Value> = known
        .map(|(text, id)| {
            let value = json!({"id": text, "ids": [id], "tokens": [text]});
            (text.to_string(), value)
        })
        .collect();
    let pair: Vec<Value> = [sequence("A", 0), sequence("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": specials})
}
