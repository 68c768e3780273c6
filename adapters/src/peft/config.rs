//! `adapter_config.json`: the keys that every PEFT release since 0.13 reads, and no newer ones, since
//! older releases refuse keys they do not know.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::CONFIG_FILE;
use crate::{Error, Result};

/// Kind of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeftType {
    /// LoRA, with whatever else the checkpoint carries.
    #[serde(rename = "LORA")]
    Lora,
    /// Norms (and saved modules) only.
    #[serde(rename = "LN_TUNING")]
    LnTuning,
}

/// Task, by which PEFT knows the names of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskType {
    /// Sequence classification.
    #[serde(rename = "SEQ_CLS")]
    SequenceClassification,
    /// Causal language modelling.
    #[serde(rename = "CAUSAL_LM")]
    CausalLanguageModel,
}

/// Modules that carry an adapter: a list of names, or one regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Names, matched exactly or as a `.`-suffix.
    List(Vec<String>),
    /// A regular expression over whole module paths.
    Pattern(String),
}

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// Kind of checkpoint.
    pub peft_type: PeftType,
    /// Task, or none where the head is not saved.
    pub task_type: Option<TaskType>,
    /// Hub id or folder of the base model.
    pub base_model_name_or_path: Option<String>,
    /// Loaded frozen, unless asked otherwise.
    #[serde(default)]
    pub inference_mode: bool,
    /// Rank of modules without an entry in `rank_pattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<usize>,
    /// Alpha of modules without an entry in `alpha_pattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Dropout of the LoRA input in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// Which biases PEFT trains and saves again: `none`, `all` or `lora_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
    /// Whether base weights are stored as (in, out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fan_in_fan_out: Option<bool>,
    /// Modules with an adapter.
    pub target_modules: Option<TargetModules>,
    /// Rank by module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<Patterns<usize>>,
    /// Alpha by module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_pattern: Option<Patterns<f64>>,
    /// Modules saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Scale by `alpha / √r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_rslora: Option<bool>,
    /// Weight-decomposed LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_dora: Option<bool>,
    /// A bias on `lora_B`.
    #[serde(default, skip_serializing)]
    pub lora_bias: Option<bool>,
}

impl PeftConfig {
    /// Reads the configuration of an adapter folder.
    ///
    /// # Errors
    /// When the file is missing, is no such configuration, or asks for a feature that is not computed here.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text =
            std::fs::read_to_string(&path).map_err(|source| Error::io("reading", &path, source))?;
        let malformed = |error: serde_json::Error| Error::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        };
        let config: Self = serde_json::from_str(&text).map_err(malformed)?;
        let others: Others = serde_json::from_str(&text).map_err(malformed)?;
        let features = [
            (config.use_dora, "DoRA"),
            (config.lora_bias, "biases on lora_B"),
        ];
        let named = features
            .into_iter()
            .find(|(used, _)| *used == Some(true))
            .map(|(_, feature)| feature.to_string());
        match named.or_else(|| others.unsupported()) {
            Some(feature) => Err(Error::Unsupported { path, feature }),
            None => Ok(config),
        }
    }

    /// Factor of a module's low-rank product.
    pub(crate) fn scale(&self, module: &str, rank: usize) -> f64 {
        let matches = |key: &str| super::matching::pattern_matches(key, module);
        let alpha = (self.alpha_pattern.as_ref())
            .and_then(|alphas| alphas.first(matches))
            .or(self.lora_alpha)
            .unwrap_or(rank as f64);
        if self.use_rslora == Some(true) {
            alpha / (rank as f64).sqrt()
        } else {
            alpha / rank as f64
        }
    }
}

/// Keys that are never written, and change what is computed.
#[derive(Deserialize)]
struct Others {
    /// A boolean, or a name.
    #[serde(default)]
    init_lora_weights: Value,
    /// The tokens behind which the adapter counts.
    #[serde(default)]
    alora_invocation_tokens: Value,
    #[serde(default)]
    use_qalora: Option<bool>,
}

/// Initial values of A and B that leave the base weights as they are.
const OWN_INITIAL_VALUES: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl Others {
    /// The feature that is not computed here, if there is one.
    fn unsupported(&self) -> Option<String> {
        let is_plain = match &self.init_lora_weights {
            Value::Null | Value::Bool(_) => true,
            Value::String(name) => OWN_INITIAL_VALUES.contains(&name.to_lowercase().as_str()),
            _ => false,
        };
        if !is_plain {
            let value = &self.init_lora_weights;
            return Some(format!(
                "base weights changed by `init_lora_weights` ({value})"
            ));
        }
        if !self.alora_invocation_tokens.is_null() {
            return Some("an activated LoRA (`alora_invocation_tokens`)".to_string());
        }
        (self.use_qalora == Some(true)).then(|| "QALoRA (`use_qalora`)".to_string())
    }
}

/// Values by regular expressions over the ends of module paths, in the order of the file: the first that matches counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns<T>(Vec<(String, T)>);

impl<T: Copy> Patterns<T> {
    /// The value under exactly this expression.
    pub fn get(&self, key: &str) -> Option<&T> {
        let mut entries = self.0.iter();
        entries
            .find(|(known, _)| known == key)
            .map(|(_, value)| value)
    }

    /// Expressions and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, T)> {
        self.0.iter().map(|(key, value)| (key.as_str(), *value))
    }

    /// The value of the first expression that `matches`.
    pub(crate) fn first(&self, matches: impl Fn(&str) -> bool) -> Option<T> {
        self.iter()
            .find(|(key, _)| matches(key))
            .map(|(_, value)| value)
    }
}

impl<T> FromIterator<(String, T)> for Patterns<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

struct InOrder<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
    type Value = Patterns<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("values by patterns of module names")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Patterns(entries))
    }
}

/// Whole numbers are written without a fraction, since some engines read `lora_alpha` as an integer.
pub(crate) fn to_json(config: &PeftConfig) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(config)?;
    whole_numbers(&mut value);
    if let Some(dropout) = value.get_mut("lora_dropout") {
        *dropout = serde_json::json!(config.lora_dropout);
    }
    serde_json::to_string_pretty(&value).map(|text| text + "\n")
}

fn whole_numbers(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 1e15
            {
                *value = serde_json::json!(float as i64);
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        serde_json::Value::Object(values) => values.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(extra: &[(&str, Value)]) -> Result<PeftConfig> {
        let mut config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base",
            "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": null,
        });
        for (key, value) in extra {
            config[*key] = value.clone();
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(CONFIG_FILE), config.to_string()).expect("written");
        PeftConfig::read(folder.path())
    }

    #[test]
    fn keys_that_change_what_is_computed_are_refused_by_name() {
        for (key, value) in [
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("init_lora_weights", json!("olora")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("alora_invocation_tokens", json!([27, 91])),
            ("use_qalora", json!(true)),
            ("use_dora", json!(true)),
        ] {
            let error = read(&[(key, value.clone())]).expect_err(key);
            assert!(matches!(error, Error::Unsupported { .. }), "{key}: {error}");
            let message = error.to_string();
            assert!(key == "use_dora" || message.contains(key), "{message}");
            assert!(error.hint().is_some(), "{key}");
        }
        for value in [
            json!(null),
            json!(true),
            json!(false),
            json!("gaussian"),
            json!("eva"),
            json!("orthogonal"),
        ] {
            assert!(read(&[("init_lora_weights", value)]).is_ok());
        }
        let unused = [
            ("alora_invocation_tokens", json!(null)),
            ("use_qalora", json!(false)),
        ];
        assert!(read(&unused).is_ok());
    }

    /// As `get_pattern_key` of PEFT.
    #[test]
    fn of_two_patterns_that_match_the_first_of_the_file_counts() {
        let alphas =
            json!({"layers.0.q_proj": 16, "q_proj": 32, "k_proj": 2, "layers.0.k_proj": 6});
        let config = read(&[("alpha_pattern", alphas.clone())]).expect("a configuration");
        for (module, scale) in [
            ("model.layers.0.q_proj", 4.0),
            ("model.layers.1.q_proj", 8.0),
            ("model.layers.0.k_proj", 0.5),
            ("model.layers.0.v_proj", 2.0),
        ] {
            assert_eq!(config.scale(module, 4), scale, "{module}");
        }
        let written: Value = serde_json::from_str(&to_json(&config).expect("text")).expect("JSON");
        assert_eq!(written["alpha_pattern"], alphas);
    }
}
