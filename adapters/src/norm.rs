//! LayerNorm and RMSNorm with trainable gain and offset.

use std::sync::Arc;

use candle_core::{D, Result as CandleResult, Tensor};

use crate::Result;
use crate::error::InModule;
use crate::linear::{Value, per_example};
use crate::ops;
use crate::parameter::{Parameter, State};
use crate::pass::{Pass, Wanted};

/// `y = γ ⊙ (x - mean) / √(variance + ε) + β` over the last dimension, made by [`crate::Adapters`].
#[derive(Debug, Clone)]
pub struct LayerNorm {
    path: String,
    weight: Value,
    bias: Value,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(path: String, weight: Value, bias: Value, epsilon: f64) -> Self {
        Self {
            path,
            weight,
            bias,
            epsilon,
        }
    }

    /// Path of the layer, as in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `x`: (batch, …, hidden), same shape out.
    ///
    /// # Errors
    /// When the shapes do not fit; the error names the module.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.compute(x, pass).in_module(&self.path)
    }

    fn compute(&self, x: &Tensor, pass: &Pass) -> CandleResult<Tensor> {
        let input = x.detach().contiguous()?;
        let weight = self.weight.tensor(x.dtype())?;
        let bias = self.bias.tensor(x.dtype())?;
        let normed = ops::layer_norm(&input, &weight, &bias, self.epsilon)?;
        let parameters = Parameters {
            weight: self.weight.parameter().cloned(),
            bias: self.bias.parameter().cloned(),
        };
        normalise(
            x,
            pass,
            parameters,
            weight,
            normed.output,
            Some(normed.mean),
            normed.inverse_deviation,
        )
    }
}

/// `y = (γ + offset) ⊙ x / √(mean(x²) + ε)` over the last dimension, made by [`crate::Adapters`]. The offset is 1 in
/// the Gemma family, otherwise 0.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    path: String,
    weight: Value,
    epsilon: f64,
    offset: f64,
}

impl RmsNorm {
    pub(crate) fn new(path: String, weight: Value, epsilon: f64, offset: f64) -> Self {
        Self {
            path,
            weight,
            epsilon,
            offset,
        }
    }

    /// Path of the layer, as in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `x`: (batch, …, hidden), same shape out.
    ///
    /// # Errors
    /// When the shapes do not fit; the error names the module.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.compute(x, pass).in_module(&self.path)
    }

    fn compute(&self, x: &Tensor, pass: &Pass) -> CandleResult<Tensor> {
        let mut weight = self.weight.tensor(x.dtype())?;
        if self.offset != 0.0 {
            weight = (weight + self.offset)?;
        }
        let (output, inverse) = ops::rms_norm(&x.detach().contiguous()?, &weight, self.epsilon)?;
        let parameters = Parameters {
            weight: self.weight.parameter().cloned(),
            bias: None,
        };
        normalise(x, pass, parameters, weight, output, None, inverse)
    }
}

struct Parameters {
    weight: Option<Arc<Parameter>>,
    bias: Option<Arc<Parameter>>,
}

impl Parameters {
    fn iter(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.weight.iter().chain(&self.bias)
    }
}

/// Ties a computed normalisation into the graph. `mean` is absent for an RMSNorm.
fn normalise(
    x: &Tensor,
    pass: &Pass,
    parameters: Parameters,
    weight: Tensor,
    output: Tensor,
    mean: Option<Tensor>,
    inverse: Tensor,
) -> CandleResult<Tensor> {
    let wanted = pass.wanted(parameters.iter());
    let tracked = x.track_op();
    if wanted.is_none() && !tracked {
        return Ok(output);
    }
    let anchor = match &wanted {
        Some(wanted) => wanted.tape().anchor(x.device())?.as_tensor().clone(),
        None => x.detach(),
    };
    let input = x.detach().contiguous()?;
    ops::function2("norm", [x, &anchor], output, move |_, gradient| {
        let normalised = ops::normalised(&input, mean.as_ref(), &inverse)?; // (rows, hidden)
        let rows = gradient.contiguous()?.reshape(normalised.shape())?;
        let batch = input.dim(0)?;
        for parameter in parameters.iter() {
            let is_weight = parameters
                .weight
                .as_ref()
                .is_some_and(|weight| Arc::ptr_eq(weight, parameter));
            match &wanted {
                Some(Wanted::Gradients(tape)) if parameter.state() == State::Trainable => {
                    let gradient = if is_weight {
                        (&rows * &normalised)?
                    } else {
                        rows.clone()
                    };
                    tape.deliver(parameter.index(), ops::row_sum(&gradient)?)?;
                }
                Some(Wanted::Tangents(tape, directions)) => {
                    if let Some(direction) = directions.get(parameter.index()) {
                        let factor = if is_weight {
                            (&rows * &normalised)?
                        } else {
                            rows.clone()
                        };
                        let along = factor.matmul(&direction.unsqueeze(D::Minus1)?)?; // (rows, 1)
                        tape.deliver(parameter.index(), per_example(&along, batch)?.squeeze(1)?)?;
                    }
                }
                _ => {}
            }
        }
        if !tracked {
            return Ok([None, None]);
        }
        let result =
            ops::norm_input_gradient(&rows, &weight, &normalised, &inverse, mean.is_some())?;
        Ok([Some(result.reshape(input.shape())?), None])
    })
}
