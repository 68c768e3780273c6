//! The layer of GPT-NeoX and Pythia: attention and feed-forward block side by side, positions that turn a part of each
//! head, one projection in which each head has its query, key and value next to each other.
//! Source: Black et al. 2022, <https://arxiv.org/abs/2204.06745>, section 2.1; values are held to those of
//! `transformers` 5.23.

use autopeft_adapters::{LayerNorm, Linear, Pass, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::attention::Attention;
use super::context::Context;
use super::layers::Layers;
use super::reads::{self, Reads};
use super::{Cache, DecoderConfig, Layer};
use crate::models::{Config, HiddenActivation, ModelError};

#[derive(Debug)]
pub(super) struct GptNeoXLayer {
    input_norm: LayerNorm,
    second_norm: LayerNorm,
    query_key_value: Linear,
    attention: Attention,
    output: Linear,
    up: Linear,
    activation: HiddenActivation,
    down: Linear,
    is_parallel: bool,
    num_heads: usize,
}

impl GptNeoXLayer {
    pub(super) fn load(
        config: &Config,
        decoder: &DecoderConfig,
        layer: usize,
        layers: Layers<'_>,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| {
            (layers.adapters).layer_norm(hidden, config.layer_norm_epsilon, vb.pp(name))
        };
        let (own, mlp) = (vb.pp("attention"), vb.pp("mlp"));
        let fused = own.pp("query_key_value");
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            second_norm: norm("post_attention_layernorm")?,
            query_key_value: layers.linear(hidden, 3 * hidden, decoder.qkv_bias, fused)?,
            attention: Attention::new(config, decoder, layer),
            output: layers.linear(hidden, hidden, decoder.output_bias, own.pp("dense"))?,
            up: layers.linear(hidden, inner, true, mlp.pp("dense_h_to_4h"))?,
            activation: config.activation,
            down: layers.linear(inner, hidden, true, mlp.pp("dense_4h_to_h"))?,
            is_parallel: decoder.parallel_residual,
            num_heads: config.num_heads,
        })
    }

    fn feed_forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let inner = self.up.forward(&self.second_norm.forward(x, pass)?, pass)?;
        Ok(self.down.forward(&self.activation.forward(&inner)?, pass)?)
    }
}

impl Layer for GptNeoXLayer {
    fn forward(
        &self,
        x: &Tensor,
        context: &Context,
        cache: Option<&mut Cache>,
        reads: Option<&Reads>,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let all = self
            .query_key_value
            .forward(&self.input_norm.forward(x, pass)?, pass)?;
        let (batch, length, width) = all.dims3()?;
        let size = width / 3 / self.num_heads;
        let by_head = ops::reshape(&all, &[batch, length, self.num_heads, 3 * size])?;
        let part = |number: usize| {
            let part = ops::features(&by_head, number * size, size)?;
            ops::reshape(&part, &[batch, length, width / 3])
        };
        let mixed = self
            .attention
            .forward(part(0)?, part(1)?, part(2)?, context, cache)?;
        let [x, mixed] = reads::narrow(x, mixed, reads)?;
        let block = pass.dropout(self.output.forward(&mixed, pass)?)?;
        let attended = ops::add(&x, &block)?;
        let read = if self.is_parallel { &x } else { &attended };
        let block = pass.dropout(self.feed_forward(read, pass)?)?;
        Ok(ops::add(&attended, &block)?)
    }
}
