//! The task head: where it reads the encoder, and where its weights come from.

use std::collections::HashMap;

use autopeft_adapters::{Adapters, Linear, Pass, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::{Config, Family, Inputs, ModelError};

/// What a sequence classifier needs to know about its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of logits.
    pub num_labels: usize,
    /// What the head reads.
    pub pooling: Pooling,
    /// Where its weights come from.
    pub source: HeadSource,
}

impl Head {
    /// The head of `transformers`, with the checkpoint's weights where it has them.
    pub const fn new(num_labels: usize) -> Self {
        Self {
            num_labels,
            pooling: Pooling::Default,
            source: HeadSource::Checkpoint,
        }
    }

    /// Whether the checkpoint has weights for this head.
    pub fn is_in(self, config: &Config, checkpoint: &Checkpoint) -> bool {
        checkpoint.shape(self.weight(config)) == Some(&[self.num_labels, config.hidden_size])
    }

    /// Name of the weight that has a row for each label.
    fn weight(self, config: &Config) -> &'static str {
        match (config.family, self.pooling) {
            (Family::Roberta, Pooling::Default) => "classifier.out_proj.weight",
            (Family::Llama | Family::Gpt2 | Family::GptNeoX, Pooling::Default) => "score.weight",
            (Family::Bert | Family::DistilBert, Pooling::Default) | (_, Pooling::Mean) => {
                "classifier.weight"
            }
        }
    }

    /// Refuses a checkpoint whose head is for another number of labels.
    pub(super) fn check(self, config: &Config, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        if self.num_labels == 0 {
            let faults = vec!["the task has no labels".to_string()];
            return Err(ModelError::Config { faults });
        }
        let name = self.weight(config);
        let expected = [self.num_labels, config.hidden_size];
        match (self.source, checkpoint.shape(name)) {
            (HeadSource::Checkpoint, Some(got)) if got != expected => Err(ModelError::HeadShape {
                name: name.to_string(),
                expected: expected.to_vec(),
                got: got.to_vec(),
            }),
            _ => Ok(()),
        }
    }

    /// A trained layer of the head.
    pub(super) fn layer(
        self,
        in_features: usize,
        out_features: usize,
        adapters: &Adapters,
        vb: VarBuilder,
    ) -> Result<Linear, ModelError> {
        Ok(adapters.head(in_features, out_features, self.tensors(vb))?)
    }

    /// The layer `score` that decoders have, without a bias.
    pub(super) fn score(
        self,
        in_features: usize,
        adapters: &Adapters,
        vb: VarBuilder,
    ) -> Result<Linear, ModelError> {
        let vb = self.tensors(vb.pp("score"));
        Ok(adapters.head_no_bias(in_features, self.num_labels, vb)?)
    }

    fn tensors<'a>(self, vb: VarBuilder<'a>) -> VarBuilder<'a> {
        match self.source {
            HeadSource::Checkpoint => vb,
            // The same path over no tensors.
            HeadSource::Fresh => VarBuilder::from_tensors(HashMap::new(), vb.dtype(), vb.device())
                .set_prefix(vb.prefix()),
        }
    }
}

/// What the head reads of the encoder's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The first token, through the layers that the family's class in `transformers` has.
    #[default]
    Default,
    /// The mean over the tokens of an example, then one linear layer called `classifier`. Suits encoders that
    /// were trained for sentence embeddings.
    Mean,
}

/// Where the weights of the head come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadSource {
    /// The checkpoint, where it has a head; otherwise they start at random.
    #[default]
    Checkpoint,
    /// They start at random.
    Fresh,
}

/// Mean pooling and one linear layer.
#[derive(Debug)]
pub(super) struct MeanHead {
    classifier: Linear,
}

impl MeanHead {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        vb: &VarBuilder,
    ) -> Result<Self, ModelError> {
        let classifier = head.layer(
            config.hidden_size,
            head.num_labels,
            adapters,
            vb.pp("classifier"),
        )?;
        Ok(Self { classifier })
    }

    /// `hidden`: (batch, sequence, hidden). Returns (batch, labels).
    pub(super) fn forward(
        &self,
        hidden: Tensor,
        inputs: &Inputs,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        // (batch, hidden)
        let mean = pass.features(hidden, |x| ops::mean_tokens(&x, &inputs.attention_mask))?;
        Ok(self.classifier.forward(&pass.dropout(mean)?, pass)?)
    }
}

/// Which positions of the encoder's output the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// The first alone: the last layer computes its queries and all that follows them for one position.
    First,
    /// All.
    All,
}

/// The first token of what the encoder gives a head that [`Reads::First`]: (batch, 1, hidden) to (batch, hidden).
pub(super) fn first_token(hidden: Tensor) -> Result<Tensor, ModelError> {
    let (batch, _, size) = hidden.dims3()?;
    Ok(ops::reshape(&hidden, &[batch, size])?)
}
