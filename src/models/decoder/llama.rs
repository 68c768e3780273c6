//! The layer of Llama and its like: a norm before each block, rotary positions, grouped queries, a gated feed-forward
//! block. By configuration also that of Mistral, Qwen, SmolLM, Phi-3 (fused projections) and Gemma (norms behind each
//! block as well).
//! Source: Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>; values are held to those of `transformers` 5.23.

use autopeft_adapters::{Linear, Pass, RmsNorm, ops};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::attention::Attention;
use super::context::Context;
use super::layers::Layers;
use super::reads::{self, Reads};
use super::{Cache, DecoderConfig, Layer};
use crate::models::{Config, HiddenActivation, ModelError};

#[derive(Debug)]
pub(super) struct LlamaLayer {
    input_norm: RmsNorm,
    projections: Projections,
    head_norms: Option<(RmsNorm, RmsNorm)>,
    attention: Attention,
    output: Linear,
    /// Behind the attention, where there is a norm.
    behind_attention: Option<RmsNorm>,
    feed_forward_norm: RmsNorm,
    gated: Gated,
    activation: HiddenActivation,
    down: Linear,
    behind_feed_forward: Option<RmsNorm>,
    /// Features of all query heads, of all key heads, and of one head.
    widths: (usize, usize, usize),
}

#[derive(Debug)]
enum Projections {
    Apart([Linear; 3]),
    Fused(Linear),
}

#[derive(Debug)]
enum Gated {
    Apart { gate: Linear, up: Linear },
    Fused(Linear),
}

impl LlamaLayer {
    pub(super) fn load(
        config: &Config,
        decoder: &DecoderConfig,
        layer: usize,
        layers: Layers<'_>,
        vb: VarBuilder,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let size = decoder.head_dim;
        let (wide, narrow) = (config.num_heads * size, decoder.num_kv_heads * size);
        let norm = |size: usize, vb: VarBuilder| {
            layers.adapters.rms_norm_offset(
                size,
                config.layer_norm_epsilon,
                decoder.norm_offset,
                vb,
            )
        };
        let (own, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        let input_norm = norm(hidden, vb.pp("input_layernorm"))?;
        let projections = if decoder.fused {
            let vb = own.pp("qkv_proj");
            Projections::Fused(layers.linear(hidden, wide + 2 * narrow, decoder.qkv_bias, vb)?)
        } else {
            let project = |width: usize, name: &str| {
                layers.linear(hidden, width, decoder.qkv_bias, own.pp(name))
            };
            Projections::Apart([
                project(wide, "q_proj")?,
                project(narrow, "k_proj")?,
                project(narrow, "v_proj")?,
            ])
        };
        let head_norms = match decoder.qk_norm {
            true => Some((norm(size, own.pp("q_norm"))?, norm(size, own.pp("k_norm"))?)),
            false => None,
        };
        let output = layers.linear(wide, hidden, decoder.output_bias, own.pp("o_proj"))?;
        let second = norm(hidden, vb.pp("post_attention_layernorm"))?;
        let (behind_attention, feed_forward_norm) = match decoder.post_norms {
            true => (
                Some(second),
                norm(hidden, vb.pp("pre_feedforward_layernorm"))?,
            ),
            false => (None, second),
        };
        let gated = if decoder.fused {
            let vb = mlp.pp("gate_up_proj");
            Gated::Fused(layers.linear(hidden, 2 * inner, decoder.mlp_bias, vb)?)
        } else {
            Gated::Apart {
                gate: layers.linear(hidden, inner, decoder.mlp_bias, mlp.pp("gate_proj"))?,
                up: layers.linear(hidden, inner, decoder.mlp_bias, mlp.pp("up_proj"))?,
            }
        };
        let down = layers.linear(inner, hidden, decoder.mlp_bias, mlp.pp("down_proj"))?;
        let behind_feed_forward = match decoder.post_norms {
            true => Some(norm(hidden, vb.pp("post_feedforward_layernorm"))?),
            false => None,
        };
        Ok(Self {
            input_norm,
            projections,
            head_norms,
            attention: Attention::new(config, decoder, layer),
            output,
            behind_attention,
            feed_forward_norm,
            gated,
            activation: config.activation,
            down,
            behind_feed_forward,
            widths: (wide, narrow, size),
        })
    }

    /// Queries, keys and values, (batch, length, heads · size).
    fn project(&self, x: &Tensor, pass: &Pass) -> Result<[Tensor; 3], ModelError> {
        let (wide, narrow, _) = self.widths;
        let [query, key, value] = match &self.projections {
            Projections::Apart([query, key, value]) => [
                query.forward(x, pass)?,
                key.forward(x, pass)?,
                value.forward(x, pass)?,
            ],
            Projections::Fused(fused) => {
                let all = fused.forward(x, pass)?;
                [
                    ops::features(&all, 0, wide)?,
                    ops::features(&all, wide, narrow)?,
                    ops::features(&all, wide + narrow, narrow)?,
                ]
            }
        };
        match &self.head_norms {
            Some((query_norm, key_norm)) => Ok([
                self.by_head(query_norm, &query, pass)?,
                self.by_head(key_norm, &key, pass)?,
                value,
            ]),
            None => Ok([query, key, value]),
        }
    }

    fn by_head(&self, norm: &RmsNorm, x: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let (batch, length, width) = x.dims3()?;
        let size = self.widths.2;
        let heads = ops::reshape(x, &[batch, length, width / size, size])?;
        let heads = norm.forward(&heads, pass)?;
        Ok(ops::reshape(&heads, &[batch, length, width])?)
    }

    fn feed_forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let (gate, up) = match &self.gated {
            Gated::Apart { gate, up } => (gate.forward(x, pass)?, up.forward(x, pass)?),
            Gated::Fused(fused) => {
                let both = fused.forward(x, pass)?;
                let inner = both.dim(2)? / 2;
                (
                    ops::features(&both, 0, inner)?,
                    ops::features(&both, inner, inner)?,
                )
            }
        };
        let inner = match self.activation {
            HiddenActivation::Silu => ops::silu_gate(&gate, &up)?,
            HiddenActivation::GeluTanh => ops::gelu_tanh_gate(&gate, &up)?,
            HiddenActivation::Gelu | HiddenActivation::Relu => {
                ops::multiply(&self.activation.forward(&gate)?, &up)?
            }
        };
        drop((gate, up));
        Ok(self.down.forward(&inner, pass)?)
    }
}

impl Layer for LlamaLayer {
    fn forward(
        &self,
        x: &Tensor,
        context: &Context,
        cache: Option<&mut Cache>,
        reads: Option<&Reads>,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let [query, key, value] = self.project(&self.input_norm.forward(x, pass)?, pass)?;
        let mixed = self.attention.forward(query, key, value, context, cache)?;
        let [x, mixed] = reads::narrow(x, mixed, reads)?;
        let mut block = self.output.forward(&mixed, pass)?;
        if let Some(norm) = &self.behind_attention {
            block = norm.forward(&block, pass)?;
        }
        let x = ops::add(&x, &pass.dropout(block)?)?;
        let mut block = self.feed_forward(&self.feed_forward_norm.forward(&x, pass)?, pass)?;
        if let Some(norm) = &self.behind_feed_forward {
            block = norm.forward(&block, pass)?;
        }
        Ok(ops::add(&x, &pass.dropout(block)?)?)
    }
}
