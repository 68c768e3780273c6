//! BERT with a sequence-classification head: embeddings, layers of self-attention and feed-forward blocks with
//! the LayerNorm behind each residual, then `classifier(tanh(pooler(first token)))`.
//! Source: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; values are held to those of `transformers` 5.23.

use autopeft_adapters::{Adapters, Bottleneck, LayerNorm, Linear, Pass, Place, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::{MeanHead, Reads, first_token};
use super::{Config, Head, HiddenActivation, Inputs, Model, ModelError, Pooling};

/// `BertForSequenceClassification`.
#[derive(Debug)]
pub(super) struct Bert {
    config: Config,
    num_labels: usize,
    embeddings: Embeddings,
    encoder: Encoder,
    head: BertHead,
}

#[derive(Debug)]
enum BertHead {
    FirstToken { pooler: Linear, classifier: Linear },
    Mean(MeanHead),
}

impl Bert {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let bert = vb.pp("bert");
        Ok(Self {
            config: config.clone(),
            num_labels: head.num_labels,
            embeddings: Embeddings::load(config, adapters, bert.pp("embeddings"))?,
            encoder: Encoder::load(config, adapters, bert.pp("encoder"))?,
            head: BertHead::load(config, adapters, head, &vb)?,
        })
    }
}

impl Model for Bert {
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        inputs.check(&self.config)?;
        let embedded = pass.before_layers(|| {
            let (_, length) = inputs.input_ids.dims2()?;
            let positions = self.embeddings.position.narrow(0, 0, length)?; // (sequence, hidden)
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

impl BertHead {
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
        let pooler = vb.pp("bert.pooler.dense");
        // A pooler that was pre-trained is part of the encoder; one that was not is part of the head.
        let pooler = if pooler.contains_tensor("weight") {
            adapters.linear(hidden, hidden, pooler)?
        } else {
            adapters.head(hidden, hidden, pooler)?
        };
        let classifier = head.layer(hidden, head.num_labels, adapters, vb.pp("classifier"))?;
        Ok(Self::FirstToken { pooler, classifier })
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
            Self::FirstToken { pooler, classifier } => {
                let pooled = pass.features(hidden, |hidden| {
                    let pooled = pooler.forward(&first_token(hidden)?, pass)?;
                    Ok::<_, ModelError>(ops::tanh(&pooled)?)
                })?;
                Ok(classifier.forward(&pass.dropout(pooled)?, pass)?)
            }
            Self::Mean(head) => head.forward(hidden, inputs, pass),
        }
    }
}

/// Word, position and token type embeddings, and the norm of their sum. The tables themselves are fixed.
#[derive(Debug)]
pub(super) struct Embeddings {
    word: Tensor,       // (vocabulary, hidden)
    token_type: Tensor, // (types, hidden)
    /// (positions, hidden)
    pub(super) position: Tensor,
    pub(super) norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let table = |rows: usize, name: &str| vb.pp(name).get((rows, hidden), "weight");
        Ok(Self {
            word: table(config.vocab_size, "word_embeddings")?,
            position: table(config.max_positions, "position_embeddings")?,
            token_type: table(config.type_vocab_size, "token_type_embeddings")?,
            norm: adapters.layer_norm(hidden, config.layer_norm_epsilon, vb.pp("LayerNorm"))?,
        })
    }

    /// The sum. `positions`: broadcastable to (batch, sequence, hidden), which is also what is returned.
    pub(super) fn forward(
        &self,
        inputs: &Inputs,
        positions: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let words = look_up(&self.word, &inputs.input_ids)?;
        let types = look_up(&self.token_type, &inputs.token_type_ids)?;
        Ok((words + types)?.broadcast_add(positions)?)
    }
}

/// Rows of `table` (n, hidden) by number: (batch, sequence) to (batch, sequence, hidden).
pub(super) fn look_up(table: &Tensor, ids: &Tensor) -> Result<Tensor, ModelError> {
    let (batch, length) = ids.dims2()?;
    let rows = table.index_select(&ids.flatten_all()?, 0)?;
    Ok(rows.reshape((batch, length, table.dim(1)?))?)
}

/// The layers, shared with RoBERTa.
#[derive(Debug)]
pub(super) struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let layers = (0..config.num_layers)
            .map(|index| Layer::load(config, adapters, vb.pp("layer").pp(index)))
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// `hidden`: (batch, sequence, hidden). Returns the positions that `reads` names, (batch, positions, hidden).
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        inputs: &Inputs,
        reads: Reads,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let mask = inputs.additive_mask(hidden.dtype())?;
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

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: ops::Attention,
    attention_dense: Linear,
    attention_norm: LayerNorm,
    attention_adapter: Bottleneck,
    intermediate: Linear,
    activation: HiddenActivation,
    output_dense: Linear,
    output_norm: LayerNorm,
    output_adapter: Bottleneck,
}

impl Layer {
    fn load(config: &Config, adapters: &Adapters, vb: VarBuilder) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let epsilon = config.layer_norm_epsilon;
        let (own, after) = (vb.pp("attention.self"), vb.pp("attention.output"));
        let output = vb.pp("output");
        Ok(Self {
            query: adapters.linear(hidden, hidden, own.pp("query"))?,
            key: adapters.linear_inert_bias(hidden, hidden, own.pp("key"))?,
            value: adapters.linear(hidden, hidden, own.pp("value"))?,
            attention: config.attention(),
            attention_dense: adapters.linear(hidden, hidden, after.pp("dense"))?,
            attention_norm: adapters.layer_norm(hidden, epsilon, after.pp("LayerNorm"))?,
            attention_adapter: adapters.bottleneck(hidden, Place::Attention, after)?,
            intermediate: adapters.linear(hidden, inner, vb.pp("intermediate.dense"))?,
            activation: config.activation,
            output_dense: adapters.linear(inner, hidden, output.pp("dense"))?,
            output_norm: adapters.layer_norm(hidden, epsilon, output.pp("LayerNorm"))?,
            output_adapter: adapters.bottleneck(hidden, Place::FeedForward, output)?,
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
        let block = pass.dropout(self.attention_dense.forward(&context, pass)?)?;
        let attended =
            self.attention_adapter
                .finish_block(&block, read, &self.attention_norm, pass)?;
        let inner = self
            .activation
            .forward(&self.intermediate.forward(&attended, pass)?)?;
        let block = pass.dropout(self.output_dense.forward(&inner, pass)?)?;
        Ok(self
            .output_adapter
            .finish_block(&block, &attended, &self.output_norm, pass)?)
    }
}
