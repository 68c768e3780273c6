//! AdamW with one learning rate for each parameter, over flat buffers.
//!
//! `m ← β₁ m + (1-β₁) G`, `v ← β₂ v + (1-β₂) G²`, direction `g = m̂ / (√v̂ + ε)`, then
//! `w ← w - η (g + λ w)`. Source: Loshchilov and Hutter 2017, <https://arxiv.org/abs/1711.05101>,
//! algorithm 2. The direction is a step of its own, since the probe measures along it; the moments
//! advance once for each direction, never in a measurement.
//!
//! LoRA+ (Hayou, Ghosh and Yu 2024, <https://arxiv.org/abs/2402.12354>) is AdamW on an `A` that is `λ` times larger, under a scale as
//! much smaller: the gradient of such an `A` is a `λ`-th, in the norm too, and `A` itself moves by a `λ`-th of its direction. So a
//! group has one rate, and measurements and fits see the step as it is taken.

use std::sync::Arc;

use autopeft_adapters::{Directions, Gradients, Kind, Parameter, Part};
use candle_core::{D, DType, Device, Tensor};

use crate::error::{Error, Result};

/// Settings of [`AdamW`]; names as in the literature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment, `β₁`.
    pub beta1: f64,
    /// Decay of the second moment, `β₂`.
    pub beta2: f64,
    /// `ε`.
    pub epsilon: f64,
    /// `λ`, for matrices; biases and norms do not decay.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; a longer one is scaled down to it.
    pub clip: Option<f64>,
    /// Rate of a LoRA's `B` as a multiple of its `A`'s, LoRA+'s `λ`; the rates of [`AdamW::apply`] are those of `B`.
    pub loraplus_lr_ratio: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip: Some(1.0),
            loraplus_lr_ratio: 1.0,
        }
    }
}

impl AdamWConfig {
    /// Share of a group's rate that this parameter of it steps by, and of its gradient that counts.
    fn share(&self, parameter: &Parameter) -> f64 {
        match parameter.part() {
            Part::LoraA { .. } => self.loraplus_lr_ratio.recip(),
            _ => 1.0,
        }
    }
}

/// First and second moment, flat.
type Moments = (Tensor, Tensor);

/// The optimizer, with its moments.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<Arc<Parameter>>,
    moments: Option<Moments>,
    steps: i32,
}

impl AdamW {
    /// An optimizer of these parameters.
    pub fn new(parameters: Vec<Arc<Parameter>>, config: AdamWConfig) -> Self {
        Self {
            config,
            parameters,
            moments: None,
            steps: 0,
        }
    }

    /// The parameters, in the order of the flat buffers.
    pub fn parameters(&self) -> &[Arc<Parameter>] {
        &self.parameters
    }

    /// Advances the moments by one gradient and returns the direction, flat. A parameter that the
    /// backward pass did not reach counts as having a gradient of zero.
    ///
    /// # Errors
    /// [`Error::GradientNotFinite`] before any moment is changed; and when a tensor operation fails.
    pub fn direction(&mut self, gradients: &Gradients) -> Result<Tensor> {
        let parts = self
            .parameters
            .iter()
            .map(|parameter| match gradients.get(parameter.index()) {
                Some(gradient) => scaled(gradient.flatten_all()?, self.config.share(parameter)),
                None => parameter.initial().zeros_like()?.flatten_all(),
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut gradient = Tensor::cat(&parts, 0)?;
        let norm = self.norm(&gradient, &parts)?;
        if !norm.is_finite() {
            return Err(Error::GradientNotFinite);
        }
        if let Some(limit) = self.config.clip.filter(|limit| norm > *limit) {
            gradient = (gradient * (limit / norm))?;
        }
        let before = self.moments.take();
        self.steps += 1;
        let (direction, moments) = if gradient.device().is_cpu() && gradient.dtype() == DType::F32 {
            self.advance_plain(&gradient, before)?
        } else {
            self.advance(&gradient, before)?
        };
        self.moments = Some(moments);
        Ok(direction)
    }

    /// The direction and the new moments, by candle's operators.
    fn advance(&self, gradient: &Tensor, before: Option<Moments>) -> Result<(Tensor, Moments)> {
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            ..
        } = self.config;
        let (first, second) = match before {
            Some((first, second)) => (
                ((first * beta1)? + (gradient * (1.0 - beta1))?)?,
                ((second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?,
            ),
            None => (
                (gradient * (1.0 - beta1))?,
                (gradient.sqr()? * (1.0 - beta2))?,
            ),
        };
        let first_hat = (&first / (1.0 - beta1.powi(self.steps)))?;
        let second_hat = (&second / (1.0 - beta2.powi(self.steps)))?;
        let direction = (first_hat / (second_hat.sqrt()? + epsilon)?)?;
        Ok((direction, (first, second)))
    }

    /// The same in one pass over `f32` numbers on the CPU.
    fn advance_plain(
        &self,
        gradient: &Tensor,
        before: Option<Moments>,
    ) -> Result<(Tensor, Moments)> {
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            ..
        } = self.config;
        let gradient = gradient.to_vec1::<f32>()?;
        let (mut first, mut second) = match before {
            Some((first, second)) => (first.to_vec1()?, second.to_vec1()?),
            None => (vec![0f32; gradient.len()], vec![0f32; gradient.len()]),
        };
        // The complements are taken in f64: 1 - 0.999 in f32 is wrong in its fifth digit.
        let (new1, new2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (beta1, beta2) = (beta1 as f32, beta2 as f32);
        let first_scale = (1.0 / (1.0 - self.config.beta1.powi(self.steps))) as f32;
        let second_scale = (1.0 / (1.0 - self.config.beta2.powi(self.steps))) as f32;
        let epsilon = epsilon as f32;
        let mut direction = gradient;
        for ((g, m), v) in direction.iter_mut().zip(&mut first).zip(&mut second) {
            *m = beta1 * *m + new1 * *g;
            *v = beta2 * *v + new2 * *g * *g;
            *g = *m * first_scale / ((*v * second_scale).sqrt() + epsilon);
        }
        let tensor = |numbers: Vec<f32>| {
            let count = numbers.len();
            Tensor::from_vec(numbers, count, &Device::Cpu)
        };
        Ok((tensor(direction)?, (tensor(first)?, tensor(second)?)))
    }

    /// Norm of the whole gradient, without that of reference weights: they are not trained, so measuring
    /// them must not change the training of the others.
    fn norm(&self, gradient: &Tensor, parts: &[Tensor]) -> Result<f64> {
        let square = |numbers: &Tensor| -> Result<f64> {
            Ok(numbers
                .to_dtype(DType::F64)?
                .sqr()?
                .sum_all()?
                .to_scalar::<f64>()?)
        };
        let is_reference = |parameter: &Parameter| parameter.kind() == Kind::Base;
        if !self
            .parameters
            .iter()
            .any(|parameter| is_reference(parameter))
        {
            return Ok(square(gradient)?.sqrt());
        }
        let mut sum = 0.0;
        for (parameter, part) in self.parameters.iter().zip(parts) {
            if !is_reference(parameter) {
                sum += square(part)?;
            }
        }
        Ok(sum.sqrt())
    }

    /// A flat direction as one tensor for each parameter, that of a LoRA's `A` shorter by LoRA+'s ratio.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn split(&self, flat: &Tensor) -> Result<Directions> {
        let mut start = 0;
        let mut directions = Directions::default();
        for parameter in &self.parameters {
            let shape = parameter.initial().shape();
            let part = flat
                .narrow(D::Minus1, start, shape.elem_count())?
                .reshape(shape)?;
            directions.insert(
                parameter.index(),
                scaled(part, self.config.share(parameter))?,
            );
            start += shape.elem_count();
        }
        Ok(directions)
    }

    /// Takes the step `w ← w - η (g + λ w)` with the rate that `rate` gives for each parameter.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn apply(&self, directions: &Directions, rate: impl Fn(&Parameter) -> f64) -> Result<()> {
        for parameter in &self.parameters {
            let Some(direction) = directions.get(parameter.index()) else {
                continue;
            };
            let rate = rate(parameter);
            if rate == 0.0 {
                continue;
            }
            let mut value = parameter.value();
            if decays(parameter) && self.config.weight_decay > 0.0 {
                let own_rate = rate * self.config.share(parameter);
                value = (value * (1.0 - own_rate * self.config.weight_decay))?;
            }
            parameter.set(&(value - (direction * rate)?)?)?;
        }
        Ok(())
    }

    /// Goes on with fewer parameters, keeping their moments.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn retain(&mut self, keep: impl Fn(&Parameter) -> bool) -> Result<()> {
        if let Some((first, second)) = &self.moments {
            let mut start = 0;
            let mut kept = (Vec::new(), Vec::new());
            for parameter in &self.parameters {
                let count = parameter.elem_count();
                if keep(parameter) {
                    kept.0.push(first.narrow(0, start, count)?);
                    kept.1.push(second.narrow(0, start, count)?);
                }
                start += count;
            }
            self.moments = if kept.0.is_empty() {
                None
            } else {
                Some((Tensor::cat(&kept.0, 0)?, Tensor::cat(&kept.1, 0)?))
            };
        }
        self.parameters.retain(|parameter| keep(parameter));
        Ok(())
    }
}

fn scaled(tensor: Tensor, factor: f64) -> candle_core::Result<Tensor> {
    if factor == 1.0 {
        return Ok(tensor);
    }
    tensor * factor
}

fn decays(parameter: &Parameter) -> bool {
    let is_bias = matches!(parameter.part(), Part::Bias | Part::DownBias | Part::UpBias);
    !is_bias && parameter.kind() != Kind::Norm
}
