//! Decoders: a table of embeddings, layers that each read the tokens before theirs, and a norm; as a language model
//! or as a sequence classifier.
//!
//! A family is the file of its layer and its part of `config.rs`. Bottleneck adapters have no place here: neither PEFT
//! nor AdapterHub would load them with these models' exports.

mod attention;
mod config;
mod context;
mod gpt2;
mod gpt_neox;
mod layers;
mod llama;
mod reads;
mod rope;

use std::fmt::Debug;
use std::sync::Arc;

use autopeft_adapters::ops::{self, Unembedding};
use autopeft_adapters::{Adapters, FrozenWeight, Linear, Pass, checkpoint};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

pub use config::{DecoderConfig, LayerConfig};
use context::Context;
use layers::{Layers, Norm};
use reads::Reads;
pub use rope::{RopeConfig, RopeScaling};

use super::checkpoint::Checkpoint;
use super::head::MeanHead;
use super::{
    Cache, CausalLm, Config, Family, Head, Inputs, LoadOptions, Model, ModelError, Pooling,
};

/// One layer of a decoder.
trait Layer: Debug + Send + Sync {
    /// (batch, length, hidden), in and out; the last layer, of the tokens that are read. With a cache, `x` is what
    /// follows the tokens there.
    fn forward(
        &self,
        x: &Tensor,
        context: &Context,
        cache: Option<&mut Cache>,
        reads: Option<&Reads>,
        pass: &Pass,
    ) -> Result<Tensor, ModelError>;
}

/// Everything but the head.
#[derive(Debug)]
struct Decoder {
    config: Config,
    decoder: DecoderConfig,
    tokens: FrozenWeight, // (vocabulary, hidden)
    /// Learned positions, (positions, hidden).
    positions: Option<Tensor>,
    layers: Vec<Arc<dyn Layer>>,
    norm: Norm,
    dtype: DType,
    device: Device,
    has_checkpoints: bool,
}

impl Decoder {
    fn load(
        config: &Config,
        adapters: &Adapters,
        options: LoadOptions,
        blocks: Option<&Checkpoint>,
        vb: &VarBuilder,
    ) -> Result<Self, ModelError> {
        let Some(decoder) = config.decoder.clone() else {
            return Err(ModelError::NotCausal {
                model_type: config.model_type.clone(),
            });
        };
        let storage = options.storage.unwrap_or(vb.dtype());
        let layers = Layers {
            adapters,
            storage,
            blocks,
        };
        let hidden = config.hidden_size;
        let vb = vb.pp(config.family.base_model_prefix());
        let names = match config.family {
            Family::Gpt2 => ("wte", "h", "ln_f"),
            Family::GptNeoX => ("embed_in", "layers", "final_layer_norm"),
            _ => ("embed_tokens", "layers", "norm"),
        };
        let tokens = layers.matrix((config.vocab_size, hidden), &vb.pp(names.0))?;
        let positions = match config.family {
            Family::Gpt2 => Some(vb.pp("wpe").get((config.max_positions, hidden), "weight")?),
            _ => None,
        };
        let mut blocks: Vec<Arc<dyn Layer>> = Vec::with_capacity(config.num_layers);
        for number in 0..config.num_layers {
            let vb = vb.pp(names.1).pp(number);
            let (config, decoder) = (config, &decoder);
            blocks.push(match config.family {
                Family::Gpt2 => {
                    Arc::new(gpt2::Gpt2Layer::load(config, decoder, number, layers, vb)?)
                }
                Family::GptNeoX => Arc::new(gpt_neox::GptNeoXLayer::load(
                    config, decoder, number, layers, vb,
                )?),
                _ => Arc::new(llama::LlamaLayer::load(
                    config, decoder, number, layers, vb,
                )?),
            });
        }
        let (norm, epsilon) = (vb.pp(names.2), config.layer_norm_epsilon);
        let norm = match config.family {
            Family::Gpt2 | Family::GptNeoX => {
                Norm::Layer(adapters.layer_norm(hidden, epsilon, norm)?)
            }
            _ => {
                let offset = decoder.norm_offset;
                Norm::Rms(adapters.rms_norm_offset(hidden, epsilon, offset, norm)?)
            }
        };
        Ok(Self {
            config: config.clone(),
            decoder,
            tokens,
            positions,
            layers: blocks,
            norm,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            has_checkpoints: options.checkpointing,
        })
    }

    fn embed(&self, ids: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        let (batch, length) = ids.dims2()?;
        let rows = self.tokens.rows(&ids.flatten_all()?, self.dtype)?;
        let mut x = rows.reshape((batch, length, self.config.hidden_size))?;
        if self.decoder.embedding_scale != 1.0 {
            x = (x * self.decoder.embedding_scale)?;
        }
        if let Some(table) = &self.positions {
            let rows = context.positions.len();
            let numbers: Vec<u32> = context.positions.iter().flatten().copied().collect();
            let numbers = Tensor::from_vec(numbers, rows * length, table.device())?;
            let learned = table.index_select(&numbers, 0)?;
            x = x.broadcast_add(&learned.reshape((rows, length, self.config.hidden_size))?)?;
        }
        Ok(x)
    }

    /// Hidden states of a batch, (batch, length, hidden), or (places, hidden) at the places of the batch that are
    /// given, ascending.
    fn hidden(
        &self,
        inputs: &Inputs,
        places: Option<&[u32]>,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        inputs.check(&self.config)?;
        let context = Arc::new(Context::of_batch(&self.decoder, inputs, self.dtype)?);
        let (rows, length) = inputs.input_ids.dims2()?;
        let reads = places.map(|places| Reads::new(rows, length, places));
        let reads = reads.transpose()?.map(Arc::new);
        let embedded = pass.before_layers(|| {
            let embedded = self.embed(&inputs.input_ids, &context)?;
            Ok::<_, ModelError>(match self.config.family {
                Family::Gpt2 | Family::GptNeoX => pass.dropout(embedded)?,
                _ => embedded,
            })
        })?;
        ops::scope(&embedded, |x| {
            let mut x = x.clone();
            for (number, layer) in self.layers.iter().enumerate() {
                let is_last = number + 1 == self.layers.len();
                let reads = reads.clone().filter(|_| is_last);
                x = pass.layer(number, x, |x| self.run(layer, &x, &context, reads, pass))?;
            }
            pass.layer(self.layers.len(), x, |x| {
                let x = self.norm.forward(&x, pass)?;
                Ok(match &reads {
                    Some(reads) => reads.rows(&x)?,
                    None => x,
                })
            })
        })
    }

    /// One layer, which computes itself again in the backward pass where that is wanted.
    fn run(
        &self,
        layer: &Arc<dyn Layer>,
        x: &Tensor,
        context: &Arc<Context>,
        reads: Option<Arc<Reads>>,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        if !self.has_checkpoints {
            return layer.forward(x, context, None, reads.as_deref(), pass);
        }
        let (layer, context) = (layer.clone(), context.clone());
        let block = move |x: &Tensor, pass: &Pass| {
            let output = ops::scope(x, |x| {
                layer.forward(x, &context, None, reads.as_deref(), pass)
            });
            output.map_err(candle_core::Error::wrap)
        };
        Ok(checkpoint(x, pass, Arc::new(block))?)
    }

    /// Hidden states of tokens behind those of the cache, (1, length, hidden).
    fn next(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor, ModelError> {
        let (past, length) = (cache.len(), tokens.len());
        if past + length > self.config.max_length() {
            return Err(ModelError::TooLong {
                length: past + length,
                max_length: self.config.max_length(),
            });
        }
        let inputs = Inputs::single(&Tensor::from_slice(tokens, (1, length), &self.device)?)?;
        inputs.check(&self.config)?;
        let context = Context::of_next(&self.decoder, past, length, self.dtype, &self.device)?;
        let mut x = self.embed(&inputs.input_ids, &context)?;
        let pass = Pass::eval();
        for layer in &self.layers {
            x = layer.forward(&x, &context, Some(cache), None, &pass)?;
        }
        cache.grow(length);
        self.norm.forward(&x, &pass)
    }
}

/// The `…ForCausalLM` of a family.
#[derive(Debug)]
pub(super) struct LanguageModel {
    decoder: Decoder,
    out: FrozenWeight, // (vocabulary, hidden)
}

impl LanguageModel {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        options: LoadOptions,
        blocks: Option<&Checkpoint>,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let decoder = Decoder::load(config, adapters, options, blocks, &vb)?;
        let out = if decoder.decoder.tied {
            decoder.tokens.clone()
        } else {
            let name = match config.family {
                Family::GptNeoX => "embed_out",
                _ => "lm_head",
            };
            let storage = options.storage.unwrap_or(vb.dtype());
            let shape = (config.vocab_size, config.hidden_size);
            let layers = Layers {
                adapters,
                storage,
                blocks,
            };
            layers.matrix(shape, &vb.pp(name))?
        };
        Ok(Self { decoder, out })
    }
}

impl CausalLm for LanguageModel {
    fn hidden(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        self.decoder.hidden(inputs, None, pass)
    }

    fn hidden_at(
        &self,
        inputs: &Inputs,
        places: &[u32],
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        self.decoder.hidden(inputs, Some(places), pass)
    }

    fn unembedding(&self) -> Unembedding<'_> {
        Unembedding {
            weight: &self.out,
            softcap: self.decoder.decoder.final_softcap,
        }
    }

    fn advance(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor, ModelError> {
        let hidden = self.decoder.next(tokens, cache)?;
        let last = hidden.narrow(1, tokens.len() - 1, 1)?.squeeze(1)?;
        Ok(self.unembed(&last.contiguous()?)?.squeeze(0)?)
    }

    fn cache(&self) -> Cache {
        Cache::new(self.decoder.layers.len())
    }
}

/// The `…ForSequenceClassification` of a family: a layer `score` on the last token that is not padding.
#[derive(Debug)]
pub(super) struct Classifier {
    decoder: Decoder,
    head: ClassifierHead,
    num_labels: usize,
}

#[derive(Debug)]
enum ClassifierHead {
    Score(Linear),
    Mean(MeanHead),
}

impl Classifier {
    pub(super) fn load(
        config: &Config,
        adapters: &Adapters,
        head: Head,
        options: LoadOptions,
        blocks: Option<&Checkpoint>,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let decoder = Decoder::load(config, adapters, options, blocks, &vb)?;
        Ok(Self {
            num_labels: head.num_labels,
            head: match head.pooling {
                Pooling::Default => {
                    ClassifierHead::Score(head.score(config.hidden_size, adapters, vb)?)
                }
                Pooling::Mean => ClassifierHead::Mean(MeanHead::load(config, adapters, head, &vb)?),
            },
            decoder,
        })
    }

    /// The place of each row's last token in the batch. `transformers` takes the last token that is not the padding
    /// token, whatever the mask says; without a padding token the mask decides.
    fn places(&self, inputs: &Inputs) -> Result<Vec<u32>, ModelError> {
        let (_, length) = inputs.input_ids.dims2()?;
        let rows = match self.decoder.decoder.pad_token_id {
            Some(pad) => inputs
                .input_ids
                .ne(pad)?
                .to_dtype(DType::U32)?
                .to_vec2::<u32>()?,
            None => inputs.attention_mask.to_vec2::<u32>()?,
        };
        let places = rows.iter().enumerate().map(|(number, row)| {
            let last = row.iter().rposition(|real| *real != 0).unwrap_or(0);
            (number * length + last) as u32
        });
        Ok(places.collect())
    }
}

impl Model for Classifier {
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        match &self.head {
            ClassifierHead::Score(score) => {
                let places = self.places(inputs)?;
                let last = self.decoder.hidden(inputs, Some(&places), pass)?;
                let last = pass.features(last, Ok::<_, ModelError>)?;
                Ok(score.forward(&last, pass)?)
            }
            ClassifierHead::Mean(head) => {
                let hidden = self.decoder.hidden(inputs, None, pass)?;
                head.forward(hidden, inputs, pass)
            }
        }
    }

    fn config(&self) -> &Config {
        &self.decoder.config
    }

    fn num_labels(&self) -> usize {
        self.num_labels
    }
}
