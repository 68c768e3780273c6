//! DistilBERT with a sequence-classification head: BERT without token types and pooler, with names of its own,
//! then `classifier(relu(pre_classifier(first token)))`.
//! Source: Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>; values are held to those of `transformers` 5.23.

use autopeft_adapters::{Adapters, Bottleneck, LayerNorm, Linear, Pass, Place, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::bert::look_up;
use super::head::{MeanHead, Reads, first_token};
use super::{Config, Head, HiddenActivation, Inputs, Model, ModelError, Pooling};

/// `DistilBertForSequenceClassification`.
#[derive(Debug)]
pub(super) struct DistilBert {
    config: Config,
    num_labels: usize,
    word: Tensor,     // (vocabulary, hidden)
    position: Tensor, // (positions, hidden)
    embedding_norm: LayerNorm,
    layers: Vec<Layer>,
    head: DistilBertHead,
}

#[derive(Debug)]
enum DistilBertHead {
    FirstToken {
        pre_classifier: Linear,
        classifier: Linear,
    },
    Mean(MeanHead),
}

impl DistilBert {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let (hidden, epsilon) = (config.hidden_size, config.layer_norm_epsilon);
        let distilbert = vb.pp("distilbert");
        let embeddings = distilbert.pp("embeddings");
        let table = |rows: usize, name: &str| embeddings.pp(name).get((rows, hidden), "weight");
        Ok(Self {
            config: config.clone(),
            num_labels: head.num_labels,
            word: table(config.vocab_size, "word_embeddings")?,
            position: table(config.max_positions, "position_embeddings")?,
            embedding_norm: adapters.layer_norm(hidden, epsilon, embeddings.pp("LayerNorm"))?,
            layers: (0..config.num_layers)
                .map(|index| {
                    Layer::load(
                        config,
                        adapters,
                        distilbert.pp("transformer.layer").pp(index),
                    )
                })
                .collect::<Result<_, _>>()?,
            head: DistilBertHead::load(config, adapters, head, &vb)?,
        })
    }
}

impl Model for DistilBert {
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        inputs.check(&self.config)?;
        let sum = pass.before_layers(|| {
            let (_, length) = inputs.input_ids.dims2()?;
            let positions = self.position.narrow(0, 0, length)?; // (sequence, hidden)
            let words = look_up(&self.word, &inputs.input_ids)?;
            Ok::<_, ModelError>(words.broadcast_add(&positions)?)
        })?;
        ops::scope(&sum, |sum| {
            // (batch, sequence, hidden)
            let hidden = pass.before_layers(|| {
                let embedded = self.embedding_norm.forward(sum, pass)?;
                Ok::<_, ModelError>(pass.dropout(embedded)?)
            })?;
            let hidden = self.encode(hidden, inputs, pass)?;
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

impl DistilBert {
    /// `hidden`: (batch, sequence, hidden). Returns the positions that the head reads, (batch, positions, hidden).
    fn encode(
        &self,
        mut hidden: Tensor,
        inputs: &Inputs,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let mask = inputs.additive_mask(hidden.dtype())?;
        let reads = self.head.reads();
        for (number, layer) in self.layers.iter().enumerate() {
            let reads = match number + 1 == self.layers.len() {
                true => reads,
                false => Reads::All,
            };
            hidden = pass.layer(number, hidden, |hidden| {
                layer.forward(&hidden, mask.as_ref(), reads, pass)
            })?;
        }
        Ok(hidden)
    }
}

impl DistilBertHead {
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
        Ok(Self::FirstToken {
            pre_classifier: head.layer(hidden, hidden, adapters, vb.pp("pre_classifier"))?,
            classifier: head.layer(hidden, head.num_labels, adapters, vb.pp("classifier"))?,
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
            Self::FirstToken {
                pre_classifier,
                classifier,
            } => {
                let first = pass.features(hidden, first_token)?;
                let inner = ops::relu(&pre_classifier.forward(&first, pass)?)?;
                Ok(classifier.forward(&pass.dropout(inner)?, pass)?)
            }
            Self::Mean(head) => head.forward(hidden, inputs, pass),
        }
    }
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: ops::Attention,
    out: Linear,
    attention_norm: LayerNorm,
    attention_adapter: Bottleneck,
    lin1: Linear,
    activation: HiddenActivation,
    lin2: Linear,
    output_norm: LayerNorm,
    output_adapter: Bottleneck,
}

impl Layer {
    fn load(config: &Config, adapters: &Adapters, vb: VarBuilder) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let epsilon = config.layer_norm_epsilon;
        let (attention, ffn) = (vb.pp("attention"), vb.pp("ffn"));
        Ok(Self {
            query: adapters.linear(hidden, hidden, attention.pp("q_lin"))?,
            key: adapters.linear_inert_bias(hidden, hidden, attention.pp("k_lin"))?,
            value: adapters.linear(hidden, hidden, attention.pp("v_lin"))?,
            attention: config.attention(),
            out: adapters.linear(hidden, hidden, attention.pp("out_lin"))?,
            attention_norm: adapters.layer_norm(hidden, epsilon, vb.pp("sa_layer_norm"))?,
            // AdapterHub keeps these in modules of their own.
            attention_adapter: adapters.bottleneck(
                hidden,
                Place::Attention,
                vb.pp("attention_adapters"),
            )?,
            lin1: adapters.linear(hidden, inner, ffn.pp("lin1"))?,
            activation: config.activation,
            lin2: adapters.linear(inner, hidden, ffn.pp("lin2"))?,
            output_norm: adapters.layer_norm(hidden, epsilon, vb.pp("output_layer_norm"))?,
            output_adapter: adapters.bottleneck(
                hidden,
                Place::FeedForward,
                vb.pp("output_adapters"),
            )?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        reads: Reads,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let (key, value) = (self.key.forward(x, pass)?, self.value.forward(x, pass)?);
        let read = match reads {
            Reads::First => &ops::first_token(x)?,
            Reads::All => x,
        };
        let query = self.query.forward(read, pass)?;
        let context = ops::attention(&query, &key, &value, mask, self.attention)?;
        let block = self.out.forward(&context, pass)?;
        let attended =
            self.attention_adapter
                .finish_block(&block, read, &self.attention_norm, pass)?;
        let inner = self
            .activation
            .forward(&self.lin1.forward(&attended, pass)?)?;
        let block = pass.dropout(self.lin2.forward(&inner, pass)?)?;
        Ok(self
            .output_adapter
            .finish_block(&block, &attended, &self.output_norm, pass)?)
    }
}
