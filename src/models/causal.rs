//! Language models: hidden states of sequences, and the vocabulary's logits of single ones.

use std::fmt::Debug;

use autopeft_adapters::Pass;
use candle_core::Tensor;

use super::{Inputs, ModelError};

/// A language model that predicts each token from those before it.
pub trait CausalLm: Debug + Send + Sync {
    /// Hidden states after the last norm, (batch, length, hidden).
    ///
    /// # Errors
    /// When the inputs do not fit the model, or a tensor operation fails.
    fn hidden(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError>;

    /// Logits of the token that follows: (rows, hidden) to (rows, vocabulary). Differentiable by the rows.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn unembed(&self, hidden: &Tensor) -> Result<Tensor, ModelError>;
}
