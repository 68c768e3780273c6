//! Sizes of a model, from the `config.json` that `transformers` writes.
//!
//! ```
//! use autopeft::models::Config;
//!
//! let config = Config::parse(br#"{"model_type": "distilbert", "vocab_size": 100, "dim": 32, "n_layers": 2,
//!     "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40}"#)?;
//! assert_eq!((config.hidden_size, config.max_length()), (32, 40));
//! # Ok::<(), autopeft::models::ModelError>(())
//! ```

use std::path::Path;

use autopeft_adapters::ops;
use candle_core::Tensor;
use serde_json::{Map, Value};

use super::{DecoderConfig, Family, ModelError, RopeConfig, RopeScaling};

/// Sizes of a model. Names are those of BERT's configuration.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The architecture.
    pub family: Family,
    /// The value of `model_type`, such as `xlm-roberta`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of transformer layers.
    pub num_layers: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Non-linearity of the feed-forward block.
    pub activation: HiddenActivation,
    /// Rows of the position embedding; [`Config::max_length`] is what a sequence can use.
    pub max_positions: usize,
    /// Rows of the token type embedding, 0 where the family has none.
    pub type_vocab_size: usize,
    /// The ε of the LayerNorms.
    pub layer_norm_epsilon: f64,
    /// The token that fills a batch up. RoBERTa's positions are counted from it. A language model that names none has 0 here, which
    /// the mask hides, and `None` in its [`DecoderConfig`].
    pub pad_token_id: u32,
    /// What a language model has besides; `None` for an encoder.
    pub decoder: Option<DecoderConfig>,
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`Config::parse`].
    pub fn read(file: &Path) -> Result<Self, ModelError> {
        let json = std::fs::read(file).map_err(|source| ModelError::Io {
            file: file.to_path_buf(),
            source,
        })?;
        Self::parse(&json)
    }

    /// Reads the content of a `config.json`. Keys that change nothing here are ignored.
    ///
    /// # Errors
    /// When it is not JSON, the model type is not supported, a size is missing or impossible, or it asks for
    /// something that is not computed (relative positions, a decoder, another activation). All faults are
    /// reported together.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let keys: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| ModelError::Json {
                reason: error.to_string(),
            })?;
        let model_type = match keys.get("model_type").and_then(Value::as_str) {
            Some(model_type) => model_type.to_string(),
            None => return Err(ModelError::NoModelType),
        };
        let Some(family) = Family::of(&model_type) else {
            return Err(ModelError::UnsupportedModelType { model_type });
        };
        let mut reader = Reader {
            keys: &keys,
            faults: Vec::new(),
        };
        let config = match family {
            Family::Bert | Family::Roberta => reader.bert(family, model_type),
            Family::DistilBert => reader.distilbert(family, model_type),
            Family::Llama | Family::Gpt2 | Family::GptNeoX => reader.decoder(family, model_type),
        };
        reader.check(&config);
        if reader.faults.is_empty() {
            Ok(config)
        } else {
            Err(ModelError::Config {
                faults: reader.faults,
            })
        }
    }

    /// The most tokens a sequence can have, special ones included.
    pub fn max_length(&self) -> usize {
        match self.family {
            // Positions start behind the padding token's.
            Family::Roberta => self
                .max_positions
                .saturating_sub(self.pad_token_id as usize)
                .saturating_sub(1),
            Family::Llama => match self.decoder.iter().flat_map(|d| &d.ropes).next() {
                Some(RopeConfig {
                    scaling: RopeScaling::Dynamic { factor, .. },
                    ..
                }) => (self.max_positions as f64 * factor) as usize,
                _ => self.max_positions,
            },
            Family::Bert | Family::DistilBert | Family::Gpt2 | Family::GptNeoX => {
                self.max_positions
            }
        }
    }

    /// The class in `transformers` that has a head for labels.
    pub fn classifier_class(&self) -> String {
        let stem = match self.model_type.as_str() {
            "gemma3_text" => "Gemma3Text",
            _ => self.class_stem(),
        };
        format!("{stem}ForSequenceClassification")
    }

    /// The class in `transformers` that predicts the next token.
    pub fn language_model_class(&self) -> String {
        let head = match self.family {
            Family::Bert | Family::Gpt2 => "LMHeadModel",
            Family::Roberta | Family::DistilBert | Family::Llama | Family::GptNeoX => "ForCausalLM",
        };
        format!("{}{head}", self.class_stem())
    }

    /// What the names of the classes of a `model_type` begin with.
    fn class_stem(&self) -> &'static str {
        match (self.model_type.as_str(), self.family) {
            ("xlm-roberta", _) => "XLMRoberta",
            ("camembert", _) => "Camembert",
            ("mistral", _) => "Mistral",
            ("qwen2", _) => "Qwen2",
            ("qwen3", _) => "Qwen3",
            ("smollm3", _) => "SmolLM3",
            ("phi3", _) => "Phi3",
            ("gemma2", _) => "Gemma2",
            ("gemma3_text", _) => "Gemma3",
            (_, Family::Bert) => "Bert",
            (_, Family::Roberta) => "Roberta",
            (_, Family::DistilBert) => "DistilBert",
            (_, Family::Llama) => "Llama",
            (_, Family::Gpt2) => "GPT2",
            (_, Family::GptNeoX) => "GPTNeoX",
        }
    }

    /// Sizes of the attention.
    pub(super) fn attention(&self) -> ops::Attention {
        ops::Attention {
            num_heads: self.num_heads,
            scale: 1.0 / ((self.hidden_size / self.num_heads) as f64).sqrt(),
            softcap: None,
        }
    }
}

/// Non-linearity of the feed-forward block (`hidden_act`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenActivation {
    /// `gelu`: the exact one.
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: the approximation by tanh.
    GeluTanh,
    /// `relu`.
    Relu,
    /// `silu`, `swish`.
    Silu,
}

impl HiddenActivation {
    const NAMES: [(&'static str, Self); 6] = [
        ("gelu", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
    ];

    /// Any shape, differentiable.
    pub(super) fn forward(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Gelu => ops::gelu(x),
            Self::Relu => ops::relu(x),
            Self::Silu => ops::silu(x),
            Self::GeluTanh => ops::gelu_tanh(x),
        }
    }
}

/// Takes values out of a `config.json` and gathers what is wrong.
pub(super) struct Reader<'a> {
    pub(super) keys: &'a Map<String, Value>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn bert(&mut self, family: Family, model_type: String) -> Config {
        let (type_vocab_size, pad_token_id) = match family {
            Family::Roberta => (1, 1),
            _ => (2, 0),
        };
        Config {
            family,
            model_type,
            vocab_size: self.size("vocab_size"),
            hidden_size: self.size("hidden_size"),
            num_layers: self.size("num_hidden_layers"),
            num_heads: self.size("num_attention_heads"),
            intermediate_size: self.size("intermediate_size"),
            activation: self.activation("hidden_act"),
            max_positions: self.size("max_position_embeddings"),
            type_vocab_size: self.size_or("type_vocab_size", type_vocab_size),
            layer_norm_epsilon: self.epsilon("layer_norm_eps"),
            pad_token_id: self.token("pad_token_id", pad_token_id),
            decoder: None,
        }
    }

    fn distilbert(&mut self, family: Family, model_type: String) -> Config {
        Config {
            family,
            model_type,
            vocab_size: self.size("vocab_size"),
            hidden_size: self.size("dim"),
            num_layers: self.size("n_layers"),
            num_heads: self.size("n_heads"),
            intermediate_size: self.size("hidden_dim"),
            activation: self.activation("activation"),
            max_positions: self.size("max_position_embeddings"),
            type_vocab_size: 0,
            layer_norm_epsilon: 1e-12, // fixed in `transformers`
            pad_token_id: self.token("pad_token_id", 0),
            decoder: None,
        }
    }

    fn check(&mut self, config: &Config) {
        let has_own_size = config.family == Family::Llama; // `head_dim`
        if !has_own_size
            && config.num_heads > 0
            && !config.hidden_size.is_multiple_of(config.num_heads)
        {
            self.fault(format!(
                "the hidden size {} is not a multiple of the {} attention heads",
                config.hidden_size, config.num_heads
            ));
        }
        if self.faults.is_empty() && config.max_length() == 0 {
            self.fault("`max_position_embeddings` leaves no position behind `pad_token_id`".into());
        }
        if let Some(kind) = self.present("position_embedding_type")
            && kind != "absolute"
        {
            self.fault(format!(
                "`position_embedding_type` is {kind}, only \"absolute\" is supported"
            ));
        }
        let is_decoder = config.decoder.is_some();
        for key in ["is_decoder", "add_cross_attention"] {
            if is_decoder && key == "is_decoder" {
                continue;
            }
            if self.present(key) == Some(&Value::Bool(true)) {
                self.fault(format!(
                    "`{key}` is set, but only encoders can classify here"
                ));
            }
        }
        if self
            .present("pruned_heads")
            .and_then(Value::as_object)
            .is_some_and(|heads| !heads.is_empty())
        {
            self.fault("`pruned_heads` is not supported".into());
        }
    }

    /// The value of a key that is there and not null.
    pub(super) fn present(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    pub(super) fn size(&mut self, key: &str) -> usize {
        if self.present(key).is_none() {
            self.fault(format!("`{key}` is missing"));
        }
        self.size_or(key, 1)
    }

    pub(super) fn size_or(&mut self, key: &str, default: usize) -> usize {
        let Some(value) = self.present(key) else {
            return default;
        };
        // Bounded, so that products of sizes cannot overflow.
        let size = value.as_u64().filter(|size| (1..=1 << 28).contains(size));
        match size.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => size,
            None => {
                self.faults
                    .push(format!("`{key}` is {value}, expected a size"));
                default
            }
        }
    }

    pub(super) fn token(&mut self, key: &str, default: u32) -> u32 {
        let Some(value) = self.present(key) else {
            return default;
        };
        match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => id,
            None => {
                self.faults
                    .push(format!("`{key}` is {value}, expected a token number"));
                default
            }
        }
    }

    fn epsilon(&mut self, key: &str) -> f64 {
        self.epsilon_or(key, 1e-12)
    }

    pub(super) fn epsilon_or(&mut self, key: &str, default: f64) -> f64 {
        let Some(value) = self.present(key) else {
            return default;
        };
        match value
            .as_f64()
            .filter(|epsilon| (0.0..1.0).contains(epsilon))
        {
            Some(epsilon) => epsilon,
            None => {
                self.faults.push(format!(
                    "`{key}` is {value}, expected a small positive number"
                ));
                default
            }
        }
    }

    fn activation(&mut self, key: &str) -> HiddenActivation {
        self.activation_or(key, HiddenActivation::Gelu)
    }

    pub(super) fn activation_or(
        &mut self,
        key: &str,
        default: HiddenActivation,
    ) -> HiddenActivation {
        let Some(value) = self.present(key) else {
            return default;
        };
        let known = HiddenActivation::NAMES
            .iter()
            .find(|(name, _)| value.as_str() == Some(name));
        match known {
            Some((_, activation)) => *activation,
            None => {
                let names: Vec<&str> = HiddenActivation::NAMES
                    .iter()
                    .map(|(name, _)| *name)
                    .collect();
                let fault = format!("`{key}` is {value}, supported are {}", names.join(", "));
                self.faults.push(fault);
                default
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn bert(change: impl Fn(&mut Map<String, Value>)) -> Result<Config, ModelError> {
        let mut keys: Map<String, Value> = serde_json::from_str(
            r#"{"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 40}"#,
        )
        .unwrap();
        change(&mut keys);
        Config::parse(&serde_json::to_vec(&keys).unwrap())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = bert(|_| {}).unwrap();
        assert_eq!(config.activation, HiddenActivation::Gelu);
        assert_eq!((config.type_vocab_size, config.pad_token_id), (2, 0));
        assert_eq!(config.layer_norm_epsilon, 1e-12);
    }

    #[test]
    fn roberta_loses_the_positions_up_to_the_padding_token() {
        let change = |model_type: &str| {
            let config = bert(|keys| drop(keys.insert("model_type".into(), model_type.into())));
            config.unwrap().max_length()
        };
        assert_eq!((change("bert"), change("camembert")), (40, 38));
    }

    #[test]
    fn all_faults_are_reported_together() {
        let error = bert(|keys| {
            keys.remove("hidden_size");
            keys.insert("num_hidden_layers".into(), 0.into());
            keys.insert("hidden_act".into(), "quick_gelu".into());
            keys.insert("position_embedding_type".into(), "relative_key".into());
            keys.insert("is_decoder".into(), true.into());
        });
        let text = error.unwrap_err().to_string();
        for part in [
            "`hidden_size` is missing",
            "`num_hidden_layers` is 0",
            "quick_gelu",
            "relative_key",
            "is_decoder",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn heads_must_divide_the_hidden_size() {
        let error = bert(|keys| drop(keys.insert("num_attention_heads".into(), 5.into())));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("not a multiple of the 5")
        );
    }

    #[test]
    fn an_unknown_model_type_lists_the_supported_ones() {
        let error = bert(|keys| drop(keys.insert("model_type".into(), "t5".into()))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("`t5`") && text.contains("xlm-roberta"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("CONTRIBUTING.md"));
    }

    #[test]
    fn what_is_not_a_model_configuration_is_refused() {
        assert!(matches!(
            Config::parse(b"[1]"),
            Err(ModelError::Json { .. })
        ));
        assert!(matches!(Config::parse(b"{}"), Err(ModelError::NoModelType)));
    }

    #[test]
    fn tanh_gelu_has_the_values_of_its_formula() {
        // 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), Python 3
        let x = Tensor::new(&[-2.0f64, -0.5, 0.0, 1.0, 3.0], &candle_core::Device::Cpu).unwrap();
        let y = HiddenActivation::GeluTanh.forward(&x).unwrap();
        let expected = [
            -0.045_402_305_9,
            -0.154_285_988_4,
            0.0,
            0.841_191_990_6,
            2.996_362_607_9,
        ];
        for (got, expected) in y.to_vec1::<f64>().unwrap().iter().zip(expected) {
            assert!((got - expected).abs() < 1e-8, "{got} {expected}");
        }
    }
}
