//! RoBERTa, XLM-RoBERTa and CamemBERT with a sequence-classification head: BERT's encoder with positions counted
//! from the padding token's number, then `out_proj(tanh(dense(first token)))`.
//! Source: Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; values are held to those of `transformers` 5.23.

use autopeft_adapters::{Adapters, Linear, Pass, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::bert::{Embeddings, Encoder, look_up};
use super::head::{MeanHead, Reads, first_token};
use super::{Config, Head, Inputs, Model, ModelError, Pooling};

/// `RobertaForSequenceClassification`.
#[derive(Debug)]
pub(super) struct Roberta {
    config: Config,
    num_labels: usize,
    embeddings: Embeddings,
    encoder: Encoder,
    head: RobertaHead,
}

#[derive(Debug)]
enum RobertaHead {
    FirstToken { dense: Linear, out_proj: Linear },
    Mean(MeanHead),
}

impl Roberta {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let roberta = vb.pp("roberta");
        Ok(Self {
            config: config.clone(),
            num_labels: head.num_labels,
            embeddings: Embeddings::load(config, adapters, roberta.pp("embeddings"))?,
            encoder: Encoder::load(config, adapters, roberta.pp("encoder"))?,
            head: RobertaHead::load(config, adapters, head, &vb)?,
        })
    }
}

impl Model for Roberta {
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        let ids = inputs.check(&self.config)?;
        let embedded = pass.before_layers(|| {
            let numbers: Vec<u32> = ids
                .iter()
                .flat_map(|row| position_ids(row, self.config.pad_token_id))
                .collect();
            let numbers = Tensor::from_vec(
                numbers,
                inputs.input_ids.dims2()?,
                inputs.input_ids.device(),
            )?;
            let positions = look_up(&self.embeddings.position, &numbers)?; // (batch, sequence, hidden)
            self.embeddings.forward(inputs, &positions)
        })?;
        ops::scope(&embedded, |embedded| {
            let hidden = pass.before_layers(|| {
                let embedded = self.embeddings.norm.forward(embedded, pass)?;
                Ok::<_, ModelError>(pass.dropout(embedded)?)
            })?;
            let hidden = self
                .encoder
                .forward(hidden, inputs, self.head.reads(), pass)?;
            self.head.forward(hidden, inputs, pass)
        })
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn num_labels(&self) -> usize {
        self.num_labels
    }
}

impl RobertaHead {
    fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        vb: &VarBuilder,
    ) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        if head.pooling == Pooling::Mean {
            return Ok(Self::Mean(MeanHead::load(config, adapters, head, vb)?));
        }
        let vb = vb.pp("classifier");
        Ok(Self::FirstToken {
            dense: head.layer(hidden, hidden, adapters, vb.pp("dense"))?,
            out_proj: head.layer(hidden, head.num_labels, adapters, vb.pp("out_proj"))?,
        })
    }

    fn reads(&self) -> Reads {
        match self {
            Self::FirstToken { .. } => Reads::First,
            Self::Mean(_) => Reads::All,
        }
    }

    /// `hidden`: (batch, positions, hidden), the positions that the head reads. Returns (batch, labels).
    fn forward(&self, hidden: Tensor, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        match self {
            Self::FirstToken { dense, out_proj } => {
                let first = pass.features(hidden, first_token)?;
                let inner = ops::tanh(&dense.forward(&pass.dropout(first)?, pass)?)?;
                Ok(out_proj.forward(&pass.dropout(inner)?, pass)?)
            }
            Self::Mean(head) => head.forward(hidden, inputs, pass),
        }
    }
}

/// Position numbers of a row of token numbers: `pad + 1, pad + 2, …` for tokens, `pad` for padding.
fn position_ids(ids: &[u32], pad: u32) -> impl Iterator<Item = u32> {
    let mut last = pad;
    ids.iter().map(move |&id| {
        if id == pad {
            return pad;
        }
        last += 1;
        last
    })
}

#[cfg(test)]
mod tests {
    use super::position_ids;

    #[test]
    fn positions_skip_padding_wherever_it_is() {
        // cumsum(mask) * mask + padding_idx, as `create_position_ids_from_input_ids` of `transformers`: by hand.
        let positions: Vec<u32> = position_ids(&[1, 5, 1, 7, 1], 1).collect();
        assert_eq!(positions, [1, 2, 1, 3, 1]);
    }
}
