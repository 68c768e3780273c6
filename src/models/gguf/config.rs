//! The metadata of a GGUF file as the `config.json` that the same model has in `transformers`.

use serde_json::{Map, Value, json};

use super::Gguf;
use super::layout::{ARCHITECTURES, Architecture};
use crate::models::checkpoint::CheckpointError;

/// Layers of the models of 27 billion parameters, whose attention scores have another factor than their smaller kin
/// (`llama.cpp`, `llama-model.cpp`; the file does not say it).
const GEMMA2_27B: u64 = 46;
const GEMMA3_27B: u64 = 62;

impl Gguf {
    /// `config.json` in the words of `transformers`.
    ///
    /// # Errors
    /// When the architecture is not supported, or a size is missing.
    pub(super) fn configuration(&self) -> Result<Value, CheckpointError> {
        let metadata = self.metadata();
        let architecture = self.architecture()?;
        let word = metadata.text("general.architecture").unwrap_or_default();
        let key = |name: &str| format!("{word}.{name}");
        let size = |name: &str| {
            let key = key(name);
            metadata.count(&key)?.ok_or_else(|| metadata.missing(&key))
        };
        let number = |name: &str| metadata.number(&key(name));
        if metadata.count(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(metadata.fault("mixtures of experts are not supported".to_string()));
        }
        let (layers, heads) = (size("block_count")?, size("attention.head_count")?);
        let (hidden, context) = (size("embedding_length")?, size("context_length")?);
        let inner = size("feed_forward_length")?;
        let mut config = Map::new();
        let mut set = |name: &str, value: Value| config.insert(name.to_string(), value);
        set("model_type", json!(architecture.model_type()));
        set("vocab_size", json!(self.vocabulary_size()?));
        set("tie_word_embeddings", json!(!self.has("output.weight")));
        for (name, id) in [
            ("bos_token_id", "bos"),
            ("eos_token_id", "eos"),
            ("pad_token_id", "padding"),
        ] {
            if let Some(id) = metadata.token(&format!("tokenizer.ggml.{id}_token_id")) {
                set(name, json!(id));
            }
        }
        if architecture == Architecture::Gpt2 {
            set("n_embd", json!(hidden));
            set("n_layer", json!(layers));
            set("n_head", json!(heads));
            set("n_inner", json!(inner));
            set("n_positions", json!(context));
        } else {
            set("hidden_size", json!(hidden));
            set("num_hidden_layers", json!(layers));
            set("num_attention_heads", json!(heads));
            set("intermediate_size", json!(inner));
            set("max_position_embeddings", json!(context));
        }
        if let Some(heads) = metadata.count(&key("attention.head_count_kv"))? {
            set("num_key_value_heads", json!(heads));
        }
        let head_dim = match metadata.count(&key("attention.key_length"))? {
            Some(size) => size,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        set("head_dim", json!(head_dim));
        let epsilons = [
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("attention.layer_norm_epsilon", "layer_norm_eps"),
            ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
            ("rope.freq_base", "rope_theta"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ];
        for (name, value) in epsilons {
            if let Some(number) = number(name) {
                set(value, json!(number));
            }
        }
        set(
            "sliding_window",
            json!(metadata.count(&key("attention.sliding_window"))?),
        );
        match architecture {
            Architecture::Llama | Architecture::Qwen3 | Architecture::SmolLm3 => {
                set("attention_bias", json!(self.has("blk.0.attn_q.bias")));
                set("mlp_bias", json!(self.has("blk.0.ffn_up.bias")));
                set("use_sliding_window", json!(false));
            }
            Architecture::Gemma2 | Architecture::Gemma3 => {
                let large = match architecture {
                    Architecture::Gemma2 => GEMMA2_27B,
                    _ => GEMMA3_27B,
                };
                let scale = match layers == large {
                    true => hidden / heads.max(1),
                    false => head_dim,
                };
                set("query_pre_attn_scalar", json!(scale));
            }
            Architecture::GptNeoX => {
                let turned = metadata
                    .count(&key("rope.dimension_count"))?
                    .unwrap_or(head_dim);
                set("rotary_pct", json!(turned as f64 / head_dim.max(1) as f64));
                if let Some(base) = number("rope.freq_base") {
                    set("rotary_emb_base", json!(base));
                }
                if let Some(parallel) = metadata.flag(&key("use_parallel_residual")) {
                    set("use_parallel_residual", json!(parallel));
                }
                set("attention_bias", json!(self.has("blk.0.attn_qkv.bias")));
            }
            Architecture::Phi3 => {
                // Phi-4-mini turns 96 of the 128 features of a head.
                let turned = metadata.count(&key("rope.dimension_count"))?;
                if let Some(turned) = turned.filter(|turned| *turned < head_dim) {
                    let share = turned as f64 / head_dim as f64;
                    set("partial_rotary_factor", json!(share));
                }
            }
            Architecture::Qwen2 | Architecture::Gpt2 => {}
        }
        if let Some(scaling) = self.rope_scaling(word, context)? {
            set("rope_scaling", scaling);
        }
        Ok(Value::Object(config))
    }

    /// The architecture.
    ///
    /// # Errors
    /// When it is not one of [`ARCHITECTURES`].
    pub(super) fn architecture(&self) -> Result<Architecture, CheckpointError> {
        let metadata = self.metadata();
        let key = "general.architecture";
        let word = metadata.text(key).ok_or_else(|| metadata.missing(key))?;
        Architecture::of(word).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|(word, _)| *word).collect();
            metadata.fault(format!(
                "its architecture is `{word}`, supported are {}",
                known.join(", ")
            ))
        })
    }

    fn rope_scaling(&self, word: &str, context: u64) -> Result<Option<Value>, CheckpointError> {
        let metadata = self.metadata();
        let number = |name: &str| metadata.number(&format!("{word}.rope.scaling.{name}"));
        let trained = number("original_context_length").unwrap_or(context as f64);
        let divisors = |name: &str| match self.has(name) {
            true => self.small(name).map(Some),
            false => Ok(None),
        };
        // A divisor of each frequency, computed by the converter of Llama 3.1: the same within the old context and beyond.
        if let Some(divisors) = divisors("rope_freqs.weight")? {
            return Ok(Some(json!({
                "rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                "attention_factor": 1.0, "original_max_position_embeddings": trained,
            })));
        }
        let (short, long) = (
            divisors("rope_factors_short.weight")?,
            divisors("rope_factors_long.weight")?,
        );
        if let (Some(short), Some(long)) = (short, long) {
            let mut scaling = json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "original_max_position_embeddings": trained,
            });
            if let (Some(scaling), Some(factor)) = (scaling.as_object_mut(), number("attn_factor"))
            {
                scaling.insert("attention_factor".to_string(), json!(factor));
            }
            return Ok(Some(scaling));
        }
        let kind = metadata.text(&format!("{word}.rope.scaling.type"));
        Ok(match kind {
            None | Some("none") => None,
            Some(kind) => {
                let factor = number("factor")
                    .ok_or_else(|| metadata.missing(&format!("{word}.rope.scaling.factor")))?;
                let mut scaling = json!({
                    "rope_type": kind, "factor": factor, "original_max_position_embeddings": trained,
                });
                if let Some(scaling) = scaling.as_object_mut() {
                    for (name, value) in [
                        ("yarn_beta_fast", "beta_fast"),
                        ("yarn_beta_slow", "beta_slow"),
                    ] {
                        if let Some(number) = number(name) {
                            scaling.insert(value.to_string(), json!(number));
                        }
                    }
                }
                Some(scaling)
            }
        })
    }
}
