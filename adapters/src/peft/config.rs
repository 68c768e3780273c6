//! `adapter_config.json`: the keys that every PEFT release since 0.13 reads, and no newer ones, since
//! older releases refuse keys they do not know.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    pub rank_pattern: Option<BTreeMap<String, usize>>,
    /// Alpha by module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_pattern: Option<BTreeMap<String, f64>>,
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
        let config: Self = serde_json::from_str(&text).map_err(|error| Error::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let features = [
            (config.use_dora, "DoRA"),
            (config.lora_bias, "biases on lora_B"),
        ];
        for (used, feature) in features {
            if used == Some(true) {
                return Err(Error::Unsupported {
                    path,
                    feature: feature.to_string(),
                });
            }
        }
        Ok(config)
    }

    /// Factor of a module's low-rank product.
    pub(crate) fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = self
            .alpha_pattern
            .iter()
            .flatten()
            .find(|(key, _)| super::matching::pattern_matches(key, module))
            .map_or_else(
                || self.lora_alpha.unwrap_or(rank as f64),
                |(_, alpha)| *alpha,
            );
        if self.use_rslora == Some(true) {
            alpha / (rank as f64).sqrt()
        } else {
            alpha / rank as f64
        }
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
