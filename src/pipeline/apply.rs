//! Uses a result: values on rows with targets, predictions for new ones, and generated text.

use std::path::Path;

use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::prepare::pooling;
use super::rows::passage_encoder;
use crate::base::BaseModel;
use crate::data::language::Passage;
use crate::data::{self, Encoded, Example, Padding, Target};
use crate::error::{Error, Result};
use crate::hub::Download;
use crate::metrics::{Evaluation, likeliest, probabilities, sigmoid};
use crate::models::{CausalLm, Model};
use crate::recipe::{Recipe, TaskKind};
use crate::report::Manifest;
use crate::task::{Answer, Objective};
use crate::train::{evaluate, outputs};

/// What is said of one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prediction {
    /// One class.
    Class {
        /// The likeliest label.
        label: String,
        /// Probability of each label.
        probabilities: Map<String, Value>,
    },
    /// Any number of labels.
    Labels {
        /// Labels with a probability above one half.
        labels: Vec<String>,
        /// Probability of each label.
        probabilities: Map<String, Value>,
    },
    /// Numbers.
    Numbers {
        /// One for each output.
        values: Vec<f64>,
    },
}

/// Opens the base model of a result: a folder or file by its name, else where it was when the result was made; a hub id at
/// the commit that it was then, unless another `revision` is asked for.
///
/// # Errors
/// [`Error::BaseMissing`] when a folder or file is in neither place; those of [`BaseModel::open`].
pub fn open_base(
    manifest: &Manifest,
    revision: Option<&str>,
    report: &mut dyn FnMut(Download),
) -> Result<BaseModel> {
    let name = &manifest.base_model;
    let revision = revision
        .or(manifest.commit.as_deref())
        .unwrap_or(&manifest.revision);
    match &manifest.base_path {
        Some(path) if !Path::new(name).exists() => match path.exists() {
            true => BaseModel::open(&path.to_string_lossy(), revision, report),
            false => Err(Error::BaseMissing {
                model: name.clone(),
                path: path.clone(),
            }),
        },
        _ => BaseModel::open(name, revision, report),
    }
}

/// A base model with the adapter of a result.
#[derive(Debug)]
pub struct Adapted {
    /// What the result says of itself.
    pub manifest: Manifest,
    pub(super) base: BaseModel,
    pub(super) network: Network,
    pub(super) device: Device,
    batch_size: usize,
}

/// With a head, or with a vocabulary.
#[derive(Debug)]
pub(super) enum Network {
    Head(Box<dyn Model>),
    Language(Box<dyn CausalLm>),
}

impl Network {
    /// The network that a result is for, over this base model.
    pub(super) fn build(
        base: &BaseModel,
        adapters: &Adapters,
        manifest: &Manifest,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Ok(if manifest.task.is_language() {
            Self::Language(base.build_causal(adapters, dtype, device)?)
        } else {
            let labels = manifest.label_names().len();
            let pooling = pooling(manifest.pooling);
            Self::Head(base.build(adapters, labels, pooling, dtype, device)?)
        })
    }

    pub(super) fn objective(&self) -> &dyn Objective {
        match self {
            Self::Head(model) => model,
            Self::Language(model) => model,
        }
    }
}

impl Adapted {
    /// Opens a result over its base model; `batch_size` rows go through the model at once.
    ///
    /// # Errors
    /// When the folder is no result, or does not fit the base model.
    pub fn open(
        folder: &Path,
        base: BaseModel,
        batch_size: usize,
        device: Device,
        dtype: DType,
    ) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let adapters = Adapters::load(folder)?;
        let network = Network::build(&base, &adapters, &manifest, dtype, &device)?;
        adapters.check_used()?;
        Ok(Self {
            manifest,
            base,
            network,
            device,
            batch_size,
        })
    }

    pub(super) fn padding(&self) -> Padding {
        Padding::new(
            self.base.padding_token(),
            &self.base.tokenizer,
            self.manifest.max_length,
        )
    }

    /// Outputs of rows, in their order.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn outputs(&self, rows: &[Example]) -> Result<Vec<Vec<f64>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let encoded: Encoded = data::encode(&self.base.tokenizer, rows, self.manifest.max_length)?;
        outputs(
            self.network.objective(),
            &encoded,
            self.padding(),
            self.batch_size,
            &self.device,
        )
    }

    /// Loss and agreement with the targets of rows that all have one.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn evaluate(&self, rows: &[Example]) -> Result<Evaluation> {
        let answers: Vec<Answer> = (self.outputs(rows)?.into_iter())
            .map(Answer::Outputs)
            .collect();
        let targets: Vec<&Target> = rows.iter().filter_map(|row| row.target.as_ref()).collect();
        Ok(Evaluation::of(&answers, &targets))
    }

    /// Loss and token accuracy of passages, which become tokens as the recipe says.
    ///
    /// # Errors
    /// When a passage cannot be rendered or tokenized.
    pub fn evaluate_passages(&self, recipe: &Recipe, passages: &[Passage]) -> Result<Evaluation> {
        self.evaluate_encoded(&self.encode_passages(recipe, passages)?)
    }

    /// Passages as tokens, as the recipe says; those without anything to learn are left out and counted.
    ///
    /// # Errors
    /// When a passage cannot be rendered or tokenized, or none is left.
    pub fn encode_passages(&self, recipe: &Recipe, passages: &[Passage]) -> Result<Encoded> {
        Ok(passage_encoder(recipe, &self.base, self.manifest.max_length)?.encode(passages)?)
    }

    /// Loss and token accuracy of passages that are tokens.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn evaluate_encoded(&self, encoded: &Encoded) -> Result<Evaluation> {
        evaluate(
            self.network.objective(),
            encoded,
            self.padding(),
            self.batch_size,
            &self.device,
        )
    }

    /// What is said of each row, in their order.
    ///
    /// # Errors
    /// When a row cannot be tokenized.
    pub fn predict(&self, rows: &[Example]) -> Result<Vec<Prediction>> {
        let names = self.manifest.label_names();
        let by_name = |numbers: &[f64]| -> Map<String, Value> {
            let named = names.iter().zip(numbers);
            named.map(|(name, p)| (name.clone(), json!(p))).collect()
        };
        let outputs = self.outputs(rows)?.into_iter();
        let prediction = |outputs: Vec<f64>| match self.manifest.task {
            TaskKind::Regression => Prediction::Numbers { values: outputs },
            TaskKind::MultiLabel => {
                let p: Vec<f64> = outputs.iter().map(|z| sigmoid(*z)).collect();
                let chosen = names.iter().zip(&p).filter(|(_, p)| **p > 0.5);
                Prediction::Labels {
                    labels: chosen.map(|(name, _)| name.clone()).collect(),
                    probabilities: by_name(&p),
                }
            }
            TaskKind::TextClassification | TaskKind::CausalLm | TaskKind::Instruction => {
                Prediction::Class {
                    label: names.get(likeliest(&outputs)).cloned().unwrap_or_default(),
                    probabilities: by_name(&probabilities(&outputs)),
                }
            }
        };
        Ok(outputs.map(prediction).collect())
    }
}
