//! Model families (BERT, RoBERTa, DistilBERT) with the sequence-classification heads of `transformers`, and the
//! reader of their checkpoints.
//!
//! A family is one file: an ordinary model that asks [`Adapters`] for its layers. Its module paths are those of
//! the `…ForSequenceClassification` class in `transformers`, so names in a checkpoint, an adapter and a report
//! are the same. The base model's own dropout is never applied, also not in training: measured derivatives and
//! gradients are those of one function. LoRA has dropout of its own.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use autopeft::models::{self, Config, Head, Inputs, checkpoint::Checkpoint};
//! # use autopeft_adapters::{Adapters, Pass};
//! # use candle_core::{DType, Device};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("roberta-base");
//! let config = Config::read(&folder.join("config.json"))?;
//! let checkpoint = Arc::new(Checkpoint::open_folder(folder)?);
//! let (adapters, cpu) = (Adapters::none(), Device::Cpu);
//! let model = models::load(&config, &checkpoint, &adapters, Head::new(2), DType::F32, &cpu)?;
//! let inputs = Inputs::padded(&[vec![0, 31414, 2], vec![0, 2]], config.pad_token_id, &cpu)?;
//! let logits = model.forward(&inputs, &Pass::eval())?;
//! assert_eq!(logits.dims(), &[2, 2]);
//! # Ok(())
//! # }
//! ```

mod bert;
mod causal;
pub mod checkpoint;
mod config;
mod distilbert;
mod error;
mod head;
mod inputs;
mod roberta;

use std::fmt::Debug;
use std::sync::Arc;

use autopeft_adapters::{Adapters, Pass};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use self::checkpoint::Checkpoint;
pub use causal::CausalLm;
pub use config::{Config, HiddenActivation};
pub use error::ModelError;
pub use head::{Head, HeadSource, Pooling};
pub use inputs::Inputs;

/// The values of `model_type` in a `config.json` that can be loaded.
pub const SUPPORTED: &[&str] = &["bert", "roberta", "xlm-roberta", "camembert", "distilbert"];

/// A model architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>.
    Bert,
    /// Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; also XLM-RoBERTa and CamemBERT.
    Roberta,
    /// Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>.
    DistilBert,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 3] = [Self::Bert, Self::Roberta, Self::DistilBert];

    /// The family of a `model_type`, or `None` when it is not in [`SUPPORTED`].
    pub fn of(model_type: &str) -> Option<Self> {
        match model_type {
            "bert" => Some(Self::Bert),
            "roberta" | "xlm-roberta" | "camembert" => Some(Self::Roberta),
            "distilbert" => Some(Self::DistilBert),
            _ => None,
        }
    }

    /// The name under which a classifier holds its encoder, the first part of the encoder's tensor names.
    pub const fn base_model_prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::DistilBert => "distilbert",
        }
    }

    /// The name of the class in `transformers` that has the same head.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::Bert => "BertForSequenceClassification",
            Self::Roberta => "RobertaForSequenceClassification",
            Self::DistilBert => "DistilBertForSequenceClassification",
        }
    }
}

/// A sequence classifier.
pub trait Model: Debug + Send + Sync {
    /// The logits, (batch, labels).
    ///
    /// # Errors
    /// When the inputs do not fit the model (length, token numbers, shapes), or a tensor operation fails.
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError>;

    /// Sizes of the model.
    fn config(&self) -> &Config;

    /// Number of logits per example.
    fn num_labels(&self) -> usize;
}

/// Loads a model from a checkpoint. Weights are converted to `dtype`.
///
/// # Errors
/// When a tensor is missing, has another shape, or holds values that are not finite; when the checkpoint's
/// head is for another number of labels and `head` does not ask for a fresh one.
pub fn load(
    config: &Config,
    checkpoint: &Arc<Checkpoint>,
    adapters: &Adapters,
    head: Head,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Model>, ModelError> {
    head.check(config, checkpoint)?;
    checkpoint.take_failure(); // of an earlier use
    let vb = checkpoint.var_builder(config.family.base_model_prefix(), dtype, device);
    build(config, vb, adapters, head).map_err(|error| match checkpoint.take_failure() {
        Some(failure) => failure.into(),
        None => error,
    })
}

/// Makes a model over any source of tensors, such as the one of `autopeft_adapters::merged_var_builder`. The
/// names asked for start with the family's prefix.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn build(
    config: &Config,
    vb: VarBuilder,
    adapters: &Adapters,
    head: Head,
) -> Result<Box<dyn Model>, ModelError> {
    Ok(match config.family {
        Family::Bert => Box::new(bert::Bert::load(config, adapters, head, vb)?),
        Family::Roberta => Box::new(roberta::Roberta::load(config, adapters, head, vb)?),
        Family::DistilBert => Box::new(distilbert::DistilBert::load(config, adapters, head, vb)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_model_type_has_a_family_and_every_family_a_model_type() {
        let families: Vec<Family> = SUPPORTED
            .iter()
            .filter_map(|name| Family::of(name))
            .collect();
        assert_eq!(families.len(), SUPPORTED.len());
        assert!(Family::ALL.iter().all(|family| families.contains(family)));
    }
}
