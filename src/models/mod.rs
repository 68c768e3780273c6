//! Model families (the BERT family; decoders such as Llama, Gemma, GPT-2) with the sequence-classification heads of
//! `transformers` or as language models, and the reader of their checkpoints.
//!
//! A family is one file: an ordinary model that asks [`Adapters`] for its layers. Its module paths are those of
//! the `…ForSequenceClassification` class in `transformers`, so names in a checkpoint, an adapter and a report
//! are the same. The base model's own dropout, like that of a LoRA, acts in training passes alone: measured
//! derivatives are those of one function. It has one rate for all places, and attention probabilities are not dropped.
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
mod decoder;
mod distilbert;
mod error;
pub mod gguf;
mod head;
mod inputs;
mod roberta;

use std::fmt::Debug;
use std::sync::Arc;

use autopeft_adapters::{Adapters, Pass};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use self::checkpoint::Checkpoint;
pub use causal::{Cache, CausalLm};
pub use config::{Config, HiddenActivation};
pub use decoder::{DecoderConfig, LayerConfig, RopeConfig, RopeScaling};
pub use error::ModelError;
pub use head::{Head, HeadSource, Pooling};
pub use inputs::Inputs;

/// The values of `model_type` in a `config.json` that can be loaded.
pub const SUPPORTED: &[&str] = &[
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
];

/// A model architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>.
    Bert,
    /// Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; also XLM-RoBERTa and CamemBERT.
    Roberta,
    /// Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>.
    DistilBert,
    /// Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>, and the decoders that its blocks fit: Mistral, Qwen,
    /// SmolLM, Phi-3, Gemma.
    Llama,
    /// Radford et al. 2019.
    Gpt2,
    /// Black et al. 2022, <https://arxiv.org/abs/2204.06745>; also Pythia.
    GptNeoX,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 6] = [
        Self::Bert,
        Self::Roberta,
        Self::DistilBert,
        Self::Llama,
        Self::Gpt2,
        Self::GptNeoX,
    ];

    /// The family of a `model_type`, or `None` when it is not in [`SUPPORTED`].
    pub fn of(model_type: &str) -> Option<Self> {
        match model_type {
            "bert" => Some(Self::Bert),
            "roberta" | "xlm-roberta" | "camembert" => Some(Self::Roberta),
            "distilbert" => Some(Self::DistilBert),
            "llama" | "mistral" | "qwen2" | "qwen3" | "smollm3" | "phi3" | "gemma2"
            | "gemma3_text" => Some(Self::Llama),
            "gpt2" => Some(Self::Gpt2),
            "gpt_neox" => Some(Self::GptNeoX),
            _ => None,
        }
    }

    /// The name under which a classifier holds its encoder, the first part of the encoder's tensor names.
    pub const fn base_model_prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::DistilBert => "distilbert",
            Self::Llama => "model",
            Self::Gpt2 => "transformer",
            Self::GptNeoX => "gpt_neox",
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

/// How a model keeps its weights and its activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The type in which a decoder's frozen matrices stay in memory; they are widened one by one when used. `None`:
    /// that of the computation. The matrices of a GGUF file stay as they are there.
    pub storage: Option<DType>,
    /// Whether a decoder keeps only the input of each layer for the backward pass, and computes the layer again there.
    pub checkpointing: bool,
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
    let options = LoadOptions::default();
    load_with(config, checkpoint, adapters, head, dtype, device, options)
}

/// The same with a choice of how weights and activations are kept.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    config: &Config,
    checkpoint: &Arc<Checkpoint>,
    adapters: &Adapters,
    head: Head,
    dtype: DType,
    device: &Device,
    options: LoadOptions,
) -> Result<Box<dyn Model>, ModelError> {
    head.check(config, checkpoint)?;
    checkpoint.take_failure(); // of an earlier use
    let vb = checkpoint.var_builder(config.family.base_model_prefix(), dtype, device);
    build_with(config, vb, adapters, head, options, Some(checkpoint)).map_err(|error| {
        match checkpoint.take_failure() {
            Some(failure) => failure.into(),
            None => error,
        }
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
    build_with(config, vb, adapters, head, LoadOptions::default(), None)
}

fn build_with(
    config: &Config,
    vb: VarBuilder,
    adapters: &Adapters,
    head: Head,
    options: LoadOptions,
    blocks: Option<&Checkpoint>,
) -> Result<Box<dyn Model>, ModelError> {
    Ok(match config.family {
        Family::Bert => Box::new(bert::Bert::load(config, adapters, head, vb)?),
        Family::Roberta => Box::new(roberta::Roberta::load(config, adapters, head, vb)?),
        Family::DistilBert => Box::new(distilbert::DistilBert::load(config, adapters, head, vb)?),
        Family::Llama | Family::Gpt2 | Family::GptNeoX => Box::new(decoder::Classifier::load(
            config, adapters, head, options, blocks, vb,
        )?),
    })
}

/// Loads a language model from a checkpoint. Activations, adapters and norms are of type `dtype`.
///
/// # Errors
/// [`ModelError::NotCausal`] for an encoder; when a tensor is missing, has another shape, or holds values that are
/// not finite.
pub fn load_causal(
    config: &Config,
    checkpoint: &Arc<Checkpoint>,
    adapters: &Adapters,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn CausalLm>, ModelError> {
    load_causal_with(
        config,
        checkpoint,
        adapters,
        dtype,
        device,
        LoadOptions::default(),
    )
}

/// The same with a choice of how weights and activations are kept.
///
/// # Errors
/// As [`load_causal`].
pub fn load_causal_with(
    config: &Config,
    checkpoint: &Arc<Checkpoint>,
    adapters: &Adapters,
    dtype: DType,
    device: &Device,
    options: LoadOptions,
) -> Result<Box<dyn CausalLm>, ModelError> {
    checkpoint.take_failure(); // of an earlier use
    let vb = checkpoint.var_builder(config.family.base_model_prefix(), dtype, device);
    match decoder::LanguageModel::load(config, adapters, options, Some(checkpoint), vb) {
        Ok(model) => Ok(Box::new(model)),
        Err(error) => Err(match checkpoint.take_failure() {
            Some(failure) => failure.into(),
            None => error,
        }),
    }
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
