//! Uses a result: values on labelled rows, and predictions for new ones.

use std::path::Path;

use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::prepare::pooling;
use crate::base::BaseModel;
use crate::data::{self, Encoded, Example, Padding, Targets};
use crate::error::Result;
use crate::metrics::{Evaluation, likeliest, probabilities};
use crate::models::Model;
use crate::report::Manifest;
use crate::train::outputs;

/// The label of one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The likeliest label.
    pub label: String,
    /// Probability of each label.
    pub probabilities: Map<String, Value>,
}

/// A base model with the adapter of a result.
#[derive(Debug)]
pub struct Adapted {
    /// What the result says of itself.
    pub manifest: Manifest,
    base: BaseModel,
    model: Box<dyn Model>,
    device: Device,
    batch_size: usize,
}

impl Adapted {
    /// Opens a result and its base model, which is at `base`; `batch_size` rows go through the model at
    /// once.
    ///
    /// # Errors
    /// When the folder is no result, or the base model cannot be opened.
    pub fn open(
        folder: &Path,
        base: &str,
        batch_size: usize,
        device: Device,
        dtype: DType,
    ) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let base = BaseModel::open(base, &manifest.revision, &mut |_| {})?;
        let adapters = Adapters::load(folder)?;
        let labels = manifest.labels.len();
        let model = base.build(&adapters, labels, pooling(manifest.pooling), dtype, &device)?;
        adapters.check_used()?;
        Ok(Self {
            manifest,
            base,
            model,
            device,
            batch_size,
        })
    }

    /// Logits of rows, in their order.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn logits(&self, rows: &[Example]) -> Result<Vec<Vec<f64>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let encoded: Encoded = data::encode(&self.base.tokenizer, rows, self.manifest.max_length)?;
        let padding = Padding::new(
            Some(self.base.config.pad_token_id),
            &self.base.tokenizer,
            self.manifest.max_length,
        );
        outputs(
            &self.model,
            &encoded,
            padding,
            self.batch_size,
            &self.device,
        )
    }

    /// Loss and agreement with the labels of rows that all have one.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn evaluate(&self, rows: &[Example]) -> Result<Evaluation> {
        let classes = rows
            .iter()
            .filter_map(|row| row.label.and_then(|label| u32::try_from(label).ok()))
            .collect();
        let targets = Targets::Classes(classes);
        Ok(Evaluation::new(&self.logits(rows)?, &targets))
    }

    /// Label and probabilities of each row, in their order.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn predict(&self, rows: &[Example]) -> Result<Vec<Prediction>> {
        let name = |class: usize| {
            self.manifest
                .labels
                .name(class)
                .unwrap_or_default()
                .to_string()
        };
        Ok(self
            .logits(rows)?
            .iter()
            .map(|logits| Prediction {
                label: name(likeliest(logits)),
                probabilities: probabilities(logits)
                    .into_iter()
                    .enumerate()
                    .map(|(class, p)| (name(class), json!(p)))
                    .collect(),
            })
            .collect())
    }
}
