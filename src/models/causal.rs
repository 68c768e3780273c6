//! Language models: hidden states of sequences, logits of single ones, and generation with a cache.

use std::fmt::Debug;

use autopeft_adapters::Pass;
use autopeft_adapters::ops::Unembedding;
use candle_core::Tensor;

use super::{Inputs, ModelError};

/// A language model that predicts each token from those before it.
pub trait CausalLm: Debug + Send + Sync {
    /// Hidden states after the last norm, (batch, length, hidden). Passages that share a row do not see each other.
    ///
    /// # Errors
    /// When the inputs do not fit the model, or a tensor operation fails.
    fn hidden(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError>;

    /// The same at some places of the batch, which count all its tokens and ascend: (places, hidden). A model may leave
    /// out what only the other places need.
    ///
    /// # Errors
    /// As [`CausalLm::hidden`], and when a place is not in the batch.
    fn hidden_at(
        &self,
        inputs: &Inputs,
        places: &[u32],
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let hidden = self.hidden(inputs, pass)?;
        let places = Tensor::from_slice(places, places.len(), hidden.device())?;
        Ok(hidden.flatten(0, 1)?.index_select(&places, 0)?)
    }

    /// What makes logits of hidden states.
    fn unembedding(&self) -> Unembedding<'_>;

    /// Logits of the token that follows: (rows, hidden) to (rows, vocabulary). Differentiable by the rows.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn unembed(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.unembedding().logits(hidden)?)
    }

    /// Reads tokens behind those of the cache, keeps theirs there, and gives the logits of the next one,
    /// (vocabulary).
    ///
    /// # Errors
    /// When there are more tokens than the model has positions, or a tensor operation fails.
    fn advance(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor, ModelError>;

    /// An empty cache for one sequence.
    fn cache(&self) -> Cache;
}

/// Keys and values of the tokens of one sequence, by layer.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    length: usize,
}

impl Cache {
    /// An empty one.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![None; layers],
            length: 0,
        }
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All keys and values of a layer, with those of new tokens, (1, tokens, heads · size), at the end.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        key: &Tensor,
        value: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let Some(entry) = self.layers.get_mut(layer) else {
            candle_core::bail!("the cache has no layer {layer}");
        };
        let both = match entry.take() {
            Some((keys, values)) => (
                Tensor::cat(&[&keys, key], 1)?,
                Tensor::cat(&[&values, value], 1)?,
            ),
            None => (key.clone(), value.clone()),
        };
        *entry = Some(both.clone());
        Ok(both)
    }

    pub(super) fn grow(&mut self, tokens: usize) {
        self.length += tokens;
    }
}
