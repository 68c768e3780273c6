//! What the configuration of a language model says beside the sizes that an encoder has too.

mod rotary;

use serde_json::Value;

use super::rope::RopeConfig;
use crate::models::config::Reader;
use crate::models::{Config, Family, HiddenActivation};

/// What a language model has that an encoder does not.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// Heads of keys and values; each serves several heads of queries.
    pub num_kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Rotary positions; layers name them by number. Empty where positions are learned.
    pub ropes: Vec<RopeConfig>,
    /// What differs from layer to layer.
    pub layers: Vec<LayerConfig>,
    /// Whether the output table is the input table.
    pub tied: bool,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection behind the attention has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward block has biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised head by head.
    pub qk_norm: bool,
    /// Whether queries, keys and values are one projection, and so gate and up (Phi-3).
    pub fused: bool,
    /// Whether each block has a norm behind it as well (Gemma).
    pub post_norms: bool,
    /// What is added to the gain of a norm: 1 in the Gemma family.
    pub norm_offset: f64,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// Bound of the attention scores.
    pub attention_softcap: Option<f64>,
    /// Bound of the logits.
    pub final_softcap: Option<f64>,
    /// Whether attention and feed-forward block read the same input (GPT-NeoX).
    pub parallel_residual: bool,
    /// The padding token, if the configuration names one.
    pub pad_token_id: Option<u32>,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Number of its rotary positions in [`DecoderConfig::ropes`]; `None` where it has none.
    pub rope: Option<usize>,
    /// How many tokens back it sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Factor of the attention scores.
    pub scale: f64,
}

impl Reader<'_> {
    pub(in crate::models) fn decoder(&mut self, family: Family, model_type: String) -> Config {
        if self.is_true("use_bidirectional_attention") {
            self.fault("`use_bidirectional_attention` is not supported".to_string());
        }
        match family {
            Family::Gpt2 => self.gpt2(model_type),
            Family::GptNeoX => self.gpt_neox(model_type),
            _ => self.llama(model_type),
        }
    }

    fn llama(&mut self, model_type: String) -> Config {
        let kind = model_type.as_str();
        let is_gemma = kind.starts_with("gemma");
        let (hidden_size, num_heads) = (self.size("hidden_size"), self.size("num_attention_heads"));
        let num_layers = self.size("num_hidden_layers");
        let max_positions = self.size("max_position_embeddings");
        let head_dim = self.size_or(
            "head_dim",
            match kind {
                "qwen3" => 128,
                _ if is_gemma => 256,
                _ => (hidden_size / num_heads.max(1)).max(1),
            },
        );
        let num_kv_heads = self.size_or("num_key_value_heads", num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            self.fault(format!(
                "{num_heads} attention heads cannot share {num_kv_heads} heads of keys"
            ));
        }
        let rotary = |reader: &mut Self, layer_type: Option<&str>, theta: f64| {
            reader.rope(layer_type, theta, head_dim, 1.0, max_positions)
        };
        let ropes = match kind {
            "gemma3_text" => vec![
                rotary(self, Some("full_attention"), 1e6),
                rotary(self, Some("sliding_attention"), 1e4),
            ],
            "smollm3" => vec![rotary(self, None, 2e6)],
            _ => vec![rotary(self, None, 1e4)],
        };
        let scale = if is_gemma {
            self.number_or("query_pre_attn_scalar", 256.0).powf(-0.5)
        } else {
            (head_dim as f64).powf(-0.5)
        };
        let layers = self.layers(kind, num_layers, scale);
        let attention_bias = self.is_true("attention_bias");
        let decoder = DecoderConfig {
            num_kv_heads,
            head_dim,
            ropes,
            layers,
            tied: self.flag("tie_word_embeddings", is_gemma || kind == "smollm3"),
            qkv_bias: kind == "qwen2" || attention_bias,
            output_bias: kind != "qwen2" && attention_bias,
            mlp_bias: self.is_true("mlp_bias"),
            qk_norm: matches!(kind, "qwen3" | "gemma3_text"),
            fused: kind == "phi3",
            post_norms: is_gemma,
            norm_offset: if is_gemma { 1.0 } else { 0.0 },
            embedding_scale: if is_gemma {
                f64::from((hidden_size as f64).sqrt() as f32)
            } else {
                1.0
            },
            attention_softcap: self
                .cap("attn_logit_softcapping", (kind == "gemma2").then_some(50.0)),
            final_softcap: self.cap(
                "final_logit_softcapping",
                (kind == "gemma2").then_some(30.0),
            ),
            parallel_residual: false,
            pad_token_id: self.optional_token("pad_token_id"),
        };
        let activation = if is_gemma {
            self.activation_or("hidden_activation", HiddenActivation::GeluTanh)
        } else {
            self.activation_or("hidden_act", HiddenActivation::Silu)
        };
        Config {
            family: Family::Llama,
            vocab_size: self.size("vocab_size"),
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size: self.size("intermediate_size"),
            activation,
            max_positions,
            type_vocab_size: 0,
            layer_norm_epsilon: self
                .epsilon_or("rms_norm_eps", if kind == "phi3" { 1e-5 } else { 1e-6 }),
            pad_token_id: decoder.pad_token_id.unwrap_or(0),
            decoder: Some(decoder),
            model_type,
        }
    }

    fn gpt2(&mut self, model_type: String) -> Config {
        let (hidden_size, num_heads) = (self.size("n_embd"), self.size("n_head"));
        let num_layers = self.size("n_layer");
        let head_dim = (hidden_size / num_heads.max(1)).max(1);
        let scale = if self.flag("scale_attn_weights", true) {
            (head_dim as f64).powf(-0.5)
        } else {
            1.0
        };
        let by_layer = self.is_true("scale_attn_by_inverse_layer_idx");
        let layers = (0..num_layers)
            .map(|layer| LayerConfig {
                rope: None,
                window: None,
                scale: if by_layer {
                    scale / (layer + 1) as f64
                } else {
                    scale
                },
            })
            .collect();
        let tied = self.flag("tie_word_embeddings", true);
        let decoder = DecoderConfig {
            layers,
            pad_token_id: self.optional_token("pad_token_id"),
            ..plain(num_heads, head_dim, tied)
        };
        Config {
            family: Family::Gpt2,
            model_type,
            vocab_size: self.size("vocab_size"),
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size: self.size_or("n_inner", 4 * hidden_size),
            activation: self.activation_or("activation_function", HiddenActivation::GeluTanh),
            max_positions: self.size("n_positions"),
            type_vocab_size: 0,
            layer_norm_epsilon: self.epsilon_or("layer_norm_epsilon", 1e-5),
            pad_token_id: decoder.pad_token_id.unwrap_or(0),
            decoder: Some(decoder),
        }
    }

    fn gpt_neox(&mut self, model_type: String) -> Config {
        let (hidden_size, num_heads) = (self.size("hidden_size"), self.size("num_attention_heads"));
        let num_layers = self.size("num_hidden_layers");
        let max_positions = self.size("max_position_embeddings");
        let head_dim = (hidden_size / num_heads.max(1)).max(1);
        let partial = self.number_or("rotary_pct", 0.25);
        let theta = self.number_or("rotary_emb_base", 1e4);
        let rope = self.rope(None, theta, head_dim, partial, max_positions);
        let bias = self.flag("attention_bias", true);
        let tied = self.flag("tie_word_embeddings", false);
        let layer = LayerConfig {
            rope: Some(0),
            window: None,
            scale: (head_dim as f64).powf(-0.5),
        };
        let decoder = DecoderConfig {
            ropes: vec![rope],
            layers: vec![layer; num_layers],
            qkv_bias: bias,
            output_bias: bias,
            parallel_residual: self.flag("use_parallel_residual", true),
            pad_token_id: self.optional_token("pad_token_id"),
            ..plain(num_heads, head_dim, tied)
        };
        Config {
            family: Family::GptNeoX,
            model_type,
            vocab_size: self.size("vocab_size"),
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size: self.size("intermediate_size"),
            activation: self.activation_or("hidden_act", HiddenActivation::Gelu),
            max_positions,
            type_vocab_size: 0,
            layer_norm_epsilon: self.epsilon_or("layer_norm_eps", 1e-5),
            pad_token_id: decoder.pad_token_id.unwrap_or(0),
            decoder: Some(decoder),
        }
    }

    fn layers(&mut self, kind: &str, num_layers: usize, scale: f64) -> Vec<LayerConfig> {
        let window = match kind {
            "llama" => None,
            "qwen2" | "qwen3" | "smollm3" if !self.is_true("use_sliding_window") => None,
            "gemma2" | "gemma3_text" => Some(self.size_or("sliding_window", 4096)),
            _ if self.present("sliding_window").is_some() => {
                Some(self.size_or("sliding_window", 4096))
            }
            _ => None,
        };
        let types: Vec<Option<bool>> = match self.present("layer_types").and_then(Value::as_array) {
            Some(types) => types
                .iter()
                .map(|name| match name.as_str() {
                    Some("sliding_attention") => Some(true),
                    Some("full_attention") => Some(false),
                    _ => None,
                })
                .collect(),
            None => Vec::new(),
        };
        if types.contains(&None) || !(types.is_empty() || types.len() == num_layers) {
            self.fault("`layer_types` does not name the attention of each layer".to_string());
        }
        let pattern = self.size_or(
            "sliding_window_pattern",
            if kind == "gemma2" { 2 } else { 6 },
        );
        let from = self.size_or("max_window_layers", 28);
        let interval = self.size_or("no_rope_layer_interval", 4);
        let no_rope: Option<Vec<bool>> = self
            .present("no_rope_layers")
            .and_then(Value::as_array)
            .map(|layers| layers.iter().map(|has| has.as_u64() == Some(0)).collect());
        (0..num_layers)
            .map(|layer| {
                let without_rope = kind == "smollm3"
                    && match &no_rope {
                        Some(layers) => layers.get(layer) == Some(&true),
                        None => (layer + 1) % interval == 0,
                    };
                let slides = match types.get(layer).copied().flatten() {
                    Some(slides) => slides,
                    None => match kind {
                        "gemma2" | "gemma3_text" => (layer + 1) % pattern != 0,
                        "qwen2" | "qwen3" => layer >= from,
                        "smollm3" => without_rope,
                        _ => true,
                    },
                };
                LayerConfig {
                    rope: (!without_rope).then_some(usize::from(kind == "gemma3_text" && slides)),
                    window: window.filter(|_| slides),
                    scale,
                }
            })
            .collect()
    }

    fn is_true(&self, key: &str) -> bool {
        self.present(key) == Some(&Value::Bool(true))
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.present(key)
            .and_then(Value::as_bool)
            .unwrap_or(default)
    }

    fn number_or(&self, key: &str, default: f64) -> f64 {
        self.present(key).and_then(Value::as_f64).unwrap_or(default)
    }

    /// A bound: `default` where the key is missing, none where it is null.
    fn cap(&self, key: &str, default: Option<f64>) -> Option<f64> {
        match self.keys.get(key) {
            Some(value) => value.as_f64(),
            None => default,
        }
    }

    fn optional_token(&mut self, key: &str) -> Option<u32> {
        self.present(key).is_some().then(|| self.token(key, 0))
    }
}

/// What GPT-2 and GPT-NeoX have in common.
fn plain(num_heads: usize, head_dim: usize, tied: bool) -> DecoderConfig {
    DecoderConfig {
        num_kv_heads: num_heads,
        head_dim,
        ropes: Vec::new(),
        layers: Vec::new(),
        tied,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: false,
        fused: true,
        post_norms: false,
        norm_offset: 0.0,
        embedding_scale: 1.0,
        attention_softcap: None,
        final_softcap: None,
        parallel_residual: false,
        pad_token_id: None,
    }
}
