//! What can be wrong with a model's configuration, its head, or what it is given.

use std::path::PathBuf;

use super::SUPPORTED;
use super::checkpoint::CheckpointError;

/// A model that cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An encoder where a language model is needed.
    #[error("a model of type `{model_type}` does not predict the next token")]
    NotCausal {
        /// The value of `model_type`.
        model_type: String,
    },
    /// The configuration could not be read.
    #[error("cannot read `{}`: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The configuration is not JSON, or not an object.
    #[error("`config.json` is not a JSON object: {reason}")]
    Json {
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration does not say what architecture the model has.
    #[error("`config.json` has no `model_type`, so it does not describe a model")]
    NoModelType,
    /// The architecture is not one of ours.
    #[error("the model type `{model_type}` is not supported; supported are {}", SUPPORTED.join(", "))]
    UnsupportedModelType {
        /// The value in the configuration.
        model_type: String,
    },
    /// Keys of the configuration are missing, of a wrong type, or ask for something that is not computed.
    #[error("`config.json`: {}", faults.join("; "))]
    Config {
        /// All faults found.
        faults: Vec<String>,
    },
    /// The head of the checkpoint is for another task.
    #[error("the checkpoint's head `{name}` has shape {got:?}, the task needs {expected:?}")]
    HeadShape {
        /// The tensor.
        name: String,
        /// (labels, hidden) as the task needs it.
        expected: Vec<usize>,
        /// The shape in the checkpoint.
        got: Vec<usize>,
    },
    /// A sequence has more tokens than the model has positions.
    #[error("a sequence of {length} tokens is longer than the model's {max_length} positions")]
    TooLong {
        /// Tokens, special ones included.
        length: usize,
        /// The most tokens the model takes.
        max_length: usize,
    },
    /// A token, or its type, has a number that the embedding does not have.
    #[error("example {example}, token {position}: {what} is {value}, the model has {size}")]
    OutOfVocabulary {
        /// Row of the batch, from 0.
        example: usize,
        /// Column of the batch, from 0.
        position: usize,
        /// `token id` or `token type`.
        what: &'static str,
        /// The number found.
        value: u32,
        /// Size of the embedding.
        size: usize,
    },
    /// The tensors of a batch do not belong together.
    #[error("`{name}` has shape {got:?} and type {dtype}, expected {expected:?} and u32")]
    Inputs {
        /// Which tensor.
        name: &'static str,
        /// The shape of `input_ids`, (batch, sequence).
        expected: Vec<usize>,
        /// Its shape.
        got: Vec<usize>,
        /// Its type.
        dtype: &'static str,
    },
    /// The checkpoint cannot be read, or lacks a tensor.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A layer failed.
    #[error(transparent)]
    Layer(#[from] autopeft_adapters::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<CheckpointError> for ModelError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl ModelError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } | Self::Json { .. } | Self::NoModelType => {
                Some("point to a folder made by `save_pretrained`, or to a model on the hub".into())
            }
            Self::UnsupportedModelType { .. } => Some(
                "the page \"Add a model family\" of CONTRIBUTING.md says how: one file and one variant"
                    .into(),
            ),
            Self::NotCausal { .. } => {
                Some("use a decoder such as Llama, or the task `text-classification`".into())
            }
            Self::Config { .. } => Some(
                "compare the file with the one of the model that this one was made from".into(),
            ),
            Self::HeadShape { .. } => Some(
                "start the task with a fresh head, or check the number of labels in the data"
                    .into(),
            ),
            Self::TooLong { max_length, .. } => {
                Some(format!("cut sequences at {max_length} tokens or fewer"))
            }
            Self::OutOfVocabulary { .. } => {
                Some("the tokenizer and the weights must come from the same model".into())
            }
            Self::Inputs { .. } | Self::Candle(_) => None,
            Self::Checkpoint(error) => error.hint(),
            Self::Layer(error) => error.hint(),
        }
    }
}
