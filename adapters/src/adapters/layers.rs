//! The layers themselves: linear, head, norms and places for bottleneck adapters.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Adapters;
use crate::Result;
use crate::bottleneck::{Bottleneck, Place};
use crate::error::InModule;
use crate::frozen::FrozenWeight;
use crate::kind::{Kind, Part};
use crate::linear::{Linear, LoraBlock, Value};
use crate::norm::{LayerNorm, RmsNorm};
use crate::plan::{LoraPlan, SiteShape};

/// Standard deviation of a fresh head's weights (`initializer_range` of the BERT family).
const HEAD_DEVIATION: f64 = 0.02;

/// What a linear layer is beside its sizes.
#[derive(Debug, Clone)]
pub struct LinearKind {
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether that bias can change no output, as in [`Adapters::linear_inert_bias`].
    pub inert_bias: bool,
    /// Whether the checkpoint has the weight as (in, out), as the `Conv1D` of GPT-2.
    pub transposed: bool,
    /// The weight (out, in), where it is not to be read as a tensor of `vb`.
    pub weight: Option<FrozenWeight>,
}

impl Default for LinearKind {
    fn default() -> Self {
        Self {
            bias: true,
            inert_bias: false,
            transposed: false,
            weight: None,
        }
    }
}

impl Adapters {
    /// A linear layer with a bias; tensors `weight` (out, in) and `bias` (out).
    ///
    /// # Errors
    /// When the checkpoint lacks a tensor or has it in another shape.
    pub fn linear(
        &self,
        in_features: usize,
        out_features: usize,
        vb: VarBuilder,
    ) -> Result<Linear> {
        self.linear_of(in_features, out_features, LinearKind::default(), vb)
    }

    /// A linear layer without a bias.
    ///
    /// # Errors
    /// As for [`Adapters::linear`].
    pub fn linear_no_bias(
        &self,
        in_features: usize,
        out_features: usize,
        vb: VarBuilder,
    ) -> Result<Linear> {
        let kind = LinearKind {
            bias: false,
            ..LinearKind::default()
        };
        self.linear_of(in_features, out_features, kind, vb)
    }

    /// A linear layer whose bias can change no output: the key projection of softmax attention without
    /// rotary positions. That bias is attached only on request.
    ///
    /// # Errors
    /// As for [`Adapters::linear`].
    pub fn linear_inert_bias(
        &self,
        in_features: usize,
        out_features: usize,
        vb: VarBuilder,
    ) -> Result<Linear> {
        let kind = LinearKind {
            inert_bias: true,
            ..LinearKind::default()
        };
        self.linear_of(in_features, out_features, kind, vb)
    }

    /// A linear layer of any kind. `vb`'s number type is that of the computation, the adapter and the bias.
    ///
    /// # Errors
    /// As for [`Adapters::linear`].
    pub fn linear_of(
        &self,
        in_features: usize,
        out_features: usize,
        kind: LinearKind,
        vb: VarBuilder,
    ) -> Result<Linear> {
        let LinearKind {
            bias,
            inert_bias,
            transposed,
            weight: stored,
        } = kind;
        let path = vb.prefix();
        let plan = self.visit(
            &path,
            SiteShape::Linear {
                in_features,
                out_features,
                bias,
                inert_bias,
                transposed,
            },
        );
        let stored = match stored {
            Some(stored) => stored,
            None if transposed => FrozenWeight::Dense(
                vb.get((in_features, out_features), "weight")?
                    .t()?
                    .contiguous()?,
            ),
            None => FrozenWeight::Dense(vb.get((out_features, in_features), "weight")?),
        };
        let mut lora = Vec::new();
        let (scale, dropout) = plan
            .lora
            .as_ref()
            .map_or((1.0, 0.0), |plan| (plan.scale, plan.dropout));
        if let Some(plan) = &plan.lora {
            let like = Tensor::zeros(1, vb.dtype(), vb.device())?;
            let shape = (out_features, in_features);
            lora = self
                .lora_blocks(&path, plan, shape, &like)
                .in_module(&path)?;
        }
        let bias = if !bias {
            None
        } else {
            let value = vb.get(out_features, "bias")?;
            Some(if plan.bias {
                Value::Trained(self.register(&path, Kind::Bias, Part::Bias, value)?)
            } else {
                Value::Frozen(value)
            })
        };
        let weight = if plan.base {
            let wide = stored.widen(vb.dtype())?;
            Value::Trained(self.register(&path, Kind::Base, Part::Weight, wide)?)
        } else {
            match stored {
                FrozenWeight::Dense(weight) if weight.dtype() == vb.dtype() => {
                    Value::Frozen(weight)
                }
                stored => Value::Stored(stored),
            }
        };
        Ok(Linear::new(path, weight, bias, lora, scale, dropout))
    }

    fn lora_blocks(
        &self,
        path: &str,
        plan: &LoraPlan,
        (out_features, in_features): (usize, usize),
        like: &Tensor,
    ) -> candle_core::Result<Vec<LoraBlock>> {
        // Uniform(-1/√in, 1/√in), as PEFT's `kaiming_uniform_(a=√5)`.
        let bound = 1.0 / (in_features as f64).sqrt();
        plan.rank_blocks
            .iter()
            .enumerate()
            .map(|(block, rank)| {
                let mut random = self.random(&format!("{path}.lora_A.{block}"));
                let a = draw((*rank, in_features), like, || {
                    random.random_range(-bound..bound)
                })?;
                let b = Tensor::zeros((out_features, *rank), like.dtype(), like.device())?;
                Ok(LoraBlock {
                    a: self
                        .register(path, Kind::Lora, Part::LoraA { block }, a)
                        .map_err(candle_core::Error::wrap)?,
                    b: self
                        .register(path, Kind::Lora, Part::LoraB { block }, b)
                        .map_err(candle_core::Error::wrap)?,
                })
            })
            .collect()
    }

    /// A layer of a task head: trained whole. Where the checkpoint lacks it, it starts at random (normal,
    /// standard deviation 0.02; zero bias) and is listed by [`Adapters::fresh`].
    ///
    /// # Errors
    /// As for [`Adapters::linear`].
    pub fn head(&self, in_features: usize, out_features: usize, vb: VarBuilder) -> Result<Linear> {
        self.make_head(in_features, out_features, true, vb)
    }

    /// The same without a bias.
    ///
    /// # Errors
    /// As for [`Adapters::linear`].
    pub fn head_no_bias(
        &self,
        in_features: usize,
        out_features: usize,
        vb: VarBuilder,
    ) -> Result<Linear> {
        self.make_head(in_features, out_features, false, vb)
    }

    fn make_head(
        &self,
        in_features: usize,
        out_features: usize,
        has_bias: bool,
        vb: VarBuilder,
    ) -> Result<Linear> {
        let path = vb.prefix();
        self.visit(
            &path,
            SiteShape::Head {
                in_features,
                out_features,
            },
        );
        let shape = (out_features, in_features);
        let (weight, bias) = if vb.contains_tensor("weight") {
            let bias = has_bias.then(|| vb.get(out_features, "bias"));
            (vb.get(shape, "weight")?, bias.transpose()?)
        } else {
            self.registry().fresh.push(path.clone());
            let like = Tensor::zeros(1, vb.dtype(), vb.device())?;
            let mut random = self.random(&path);
            let weight =
                draw(shape, &like, || HEAD_DEVIATION * normal(&mut random)).in_module(&path)?;
            let bias = has_bias.then(|| Tensor::zeros(out_features, vb.dtype(), vb.device()));
            (weight, bias.transpose()?)
        };
        let weight = Value::Trained(self.register(&path, Kind::Head, Part::Weight, weight)?);
        let bias = match bias {
            Some(bias) => Some(Value::Trained(self.register(
                &path,
                Kind::Head,
                Part::Bias,
                bias,
            )?)),
            None => None,
        };
        Ok(Linear::new(path, weight, bias, Vec::new(), 1.0, 0.0))
    }

    /// A LayerNorm over the last dimension; tensors `weight` and `bias` (hidden).
    ///
    /// # Errors
    /// When the checkpoint lacks a tensor or has it in another shape.
    pub fn layer_norm(
        &self,
        hidden_size: usize,
        epsilon: f64,
        vb: VarBuilder,
    ) -> Result<LayerNorm> {
        let path = vb.prefix();
        let plan = self.visit(
            &path,
            SiteShape::Norm {
                hidden_size,
                bias: true,
            },
        );
        let weight = vb.get(hidden_size, "weight")?;
        let bias = vb.get(hidden_size, "bias")?;
        let (weight, bias) = if plan.norm {
            (
                Value::Trained(self.register(&path, Kind::Norm, Part::Weight, weight)?),
                Value::Trained(self.register(&path, Kind::Norm, Part::Bias, bias)?),
            )
        } else {
            (Value::Frozen(weight), Value::Frozen(bias))
        };
        Ok(LayerNorm::new(path, weight, bias, epsilon))
    }

    /// An RMSNorm over the last dimension; tensor `weight` (hidden).
    ///
    /// # Errors
    /// When the checkpoint lacks the tensor or has it in another shape.
    pub fn rms_norm(&self, hidden_size: usize, epsilon: f64, vb: VarBuilder) -> Result<RmsNorm> {
        self.rms_norm_offset(hidden_size, epsilon, 0.0, vb)
    }

    /// An RMSNorm whose gain is `offset` more than its tensor says, as in the Gemma family.
    ///
    /// # Errors
    /// As for [`Adapters::rms_norm`].
    pub fn rms_norm_offset(
        &self,
        hidden_size: usize,
        epsilon: f64,
        offset: f64,
        vb: VarBuilder,
    ) -> Result<RmsNorm> {
        let path = vb.prefix();
        let plan = self.visit(
            &path,
            SiteShape::Norm {
                hidden_size,
                bias: false,
            },
        );
        let weight = vb.get(hidden_size, "weight")?;
        let weight = if plan.norm {
            Value::Trained(self.register(&path, Kind::Norm, Part::Weight, weight)?)
        } else {
            Value::Frozen(weight)
        };
        Ok(RmsNorm::new(path, weight, epsilon, offset))
    }

    /// A place for a bottleneck adapter, at the module that AdapterHub keeps it in. Down-projections start
    /// as normal with standard deviation 0.02, up-projections as zero.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn bottleneck(
        &self,
        hidden_size: usize,
        place: Place,
        vb: VarBuilder,
    ) -> Result<Bottleneck> {
        let path = vb.prefix();
        let plan = self.visit(&path, SiteShape::Bottleneck { hidden_size, place });
        let Some(plan) = plan.bottleneck else {
            return Ok(Bottleneck::absent(path));
        };
        let size = plan.size(hidden_size);
        let like = Tensor::zeros(1, vb.dtype(), vb.device())?;
        let mut random = self.random(&path);
        let down = draw((size, hidden_size), &like, || {
            HEAD_DEVIATION * normal(&mut random)
        })
        .in_module(&path)?;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, vb.dtype(), vb.device());
        let register = |part, initial| self.register(&path, Kind::Bottleneck, part, initial);
        let down_weight = register(Part::DownWeight, down)?;
        let down_bias = register(Part::DownBias, zeros(&[size])?)?;
        let up_weight = register(Part::UpWeight, zeros(&[hidden_size, size])?)?;
        let up_bias = register(Part::UpBias, zeros(&[hidden_size])?)?;
        Ok(Bottleneck::new(
            path,
            plan,
            [down_weight, down_bias, up_weight, up_bias],
        ))
    }

    fn random(&self, name: &str) -> ChaCha8Rng {
        // FNV-1a of the name, so that a value depends on its own name and the seed alone.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        ChaCha8Rng::seed_from_u64(self.seed ^ hash)
    }
}

fn draw(
    shape: (usize, usize),
    like: &Tensor,
    mut number: impl FnMut() -> f64,
) -> candle_core::Result<Tensor> {
    let numbers: Vec<f64> = (0..shape.0 * shape.1).map(|_| number()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu)?
        // Through f32, so that f32 and f64 runs start from the same values.
        .to_dtype(DType::F32)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}

/// A standard normal number (Box and Muller 1958).
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let radius: f64 = 1.0 - random.random::<f64>();
    let angle = std::f64::consts::TAU * random.random::<f64>();
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}
