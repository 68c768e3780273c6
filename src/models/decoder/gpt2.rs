//! The layer of GPT-2: LayerNorm before each block, one projection for queries, keys and values, weights stored as
//! (in, out).
//! Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; values are held to those of
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
pub(super) struct Gpt2Layer {
    first_norm: LayerNorm,
    query_key_value: Linear,
    attention: Attention,
    output: Linear,
    second_norm: LayerNorm,
    up: Linear,
    activation: HiddenActivation,
    down: Linear,
    hidden: usize,
}

impl Gpt2Layer {
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
        let (own, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            first_norm: norm("ln_1")?,
            query_key_value: layers.transposed(hidden, 3 * hidden, own.pp("c_attn"))?,
            attention: Attention::new(config, decoder, layer),
            output: layers.transposed(hidden, hidden, own.pp("c_proj"))?,
            second_norm: norm("ln_2")?,
            up: layers.transposed(hidden, inner, mlp.pp("c_fc"))?,
            activation: config.activation,
            down: layers.transposed(inner, hidden, mlp.pp("c_proj"))?,
            hidden,
        })
    }
}

impl Layer for Gpt2Layer {
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
            .forward(&self.first_norm.forward(x, pass)?, pass)?;
        let part = |number: usize| ops::features(&all, number * self.hidden, self.hidden);
        let mixed = self
            .attention
            .forward(part(0)?, part(1)?, part(2)?, context, cache)?;
        let [x, mixed] = reads::narrow(x, mixed, reads)?;
        let block = pass.dropout(self.output.forward(&mixed, pass)?)?;
        let x = ops::add(&x, &block)?;
        let inner = self
            .up
            .forward(&self.second_norm.forward(&x, pass)?, pass)?;
        let block = pass.dropout(self.down.forward(&self.activation.forward(&inner)?, pass)?)?;
        Ok(ops::add(&x, &block)?)
    }
}
