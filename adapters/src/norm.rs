//! LayerNorm and RMSNorm with trainable gain and offset. They compute in `f32` where their input has half precision: a mean
//! of squares needs it, and so does a gain near 1 that changes by less than the 4e-3 between numbers of `bf16`.

use std::sync::Arc;

use candle_core::{Result as CandleResult, Tensor};

use crate::Result;
use crate::error::InModule;
use crate::kind::Part;
use crate::linear::{Value, per_example};
use crate::ops::{self, Norm, wide};
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
        let inputs = Inputs { x, residual: None };
        self.compute(inputs, pass).in_module(&self.path)
    }

    /// The norm of `x + residual`, both (batch, …, hidden), in one pass over them.
    ///
    /// # Errors
    /// When the shapes do not fit; the error names the module.
    pub fn forward_sum(&self, x: &Tensor, residual: &Tensor, pass: &Pass) -> Result<Tensor> {
        let inputs = Inputs {
            x,
            residual: Some(residual),
        };
        self.compute(inputs, pass).in_module(&self.path)
    }

    fn compute(&self, inputs: Inputs<'_>, pass: &Pass) -> CandleResult<Tensor> {
        let layer = Layer {
            norm: Norm::Layer,
            weight: &self.weight,
            bias: Some(&self.bias),
            epsilon: self.epsilon,
            offset: 0.0,
        };
        layer.run(inputs, pass)
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
        let inputs = Inputs { x, residual: None };
        self.compute(inputs, pass).in_module(&self.path)
    }

    fn compute(&self, inputs: Inputs<'_>, pass: &Pass) -> CandleResult<Tensor> {
        let layer = Layer {
            norm: Norm::Rms,
            weight: &self.weight,
            bias: None,
            epsilon: self.epsilon,
            offset: self.offset,
        };
        layer.run(inputs, pass)
    }
}

/// What is normalised: `x`, or `x + residual`.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    x: &'a Tensor,
    residual: Option<&'a Tensor>,
}

/// What both norms have.
struct Layer<'a> {
    norm: Norm,
    weight: &'a Value,
    bias: Option<&'a Value>,
    epsilon: f64,
    /// Added to the gain.
    offset: f64,
}

impl Layer<'_> {
    fn run(&self, inputs: Inputs<'_>, pass: &Pass) -> CandleResult<Tensor> {
        let values = [Some(self.weight), self.bias].into_iter().flatten();
        let parameters = values.filter_map(Value::parameter);
        match inputs.residual {
            Some(residual) => pass.by_copy(parameters, [inputs.x, residual], |[x, residual]| {
                let residual = Some(residual);
                self.compute(Inputs { x, residual }, pass)
            }),
            None => pass.by_copy(parameters, [inputs.x], |[x]| {
                self.compute(Inputs { x, residual: None }, pass)
            }),
        }
    }

    fn compute(&self, Inputs { x, residual }: Inputs<'_>, pass: &Pass) -> CandleResult<Tensor> {
        let dtype = x.dtype();
        let exact = |tensor: &Tensor| tensor.detach().contiguous()?.to_dtype(wide(dtype));
        let input = exact(x)?;
        let other = residual.map(exact).transpose()?;
        let mut weight = exact(&self.weight.unrounded(dtype)?)?;
        if self.offset != 0.0 {
            weight = (weight + self.offset)?;
        }
        let bias = self.bias.map(|bias| exact(&bias.unrounded(dtype)?));
        let bias = bias.transpose()?;
        let ops::NormOutput {
            output,
            normalised,
            inverse_deviation,
        } = ops::normalise(
            self.norm,
            &input,
            other.as_ref(),
            &weight,
            bias.as_ref(),
            self.epsilon,
        )?;
        let output = output.to_dtype(dtype)?;
        let parameters: Vec<(Part, Arc<Parameter>)> =
            [(Part::Weight, Some(self.weight)), (Part::Bias, self.bias)]
                .into_iter()
                .filter_map(|(part, value)| Some((part, value?.parameter()?.clone())))
                .collect();
        let wanted = pass.wanted(parameters.iter().map(|(_, parameter)| parameter));
        let tracked = ops::is_tracked(x);
        let residual_tracked = residual.is_some_and(ops::is_tracked);
        if wanted.is_none() && !tracked && !residual_tracked {
            return Ok(output);
        }
        let anchor = match &wanted {
            Some(wanted) => wanted.tape().anchor(x.device())?.as_tensor().clone(),
            None => x.detach(),
        };
        let backward = Backward {
            norm: self.norm,
            batch: x.dim(0)?,
            shape: x.dims().to_vec(),
            weight,
            normalised,
            inverse_deviation,
            parameters,
            wanted,
        };
        let residual = residual.unwrap_or(&anchor);
        ops::function3("norm", [x, residual, &anchor], output, move |gradient| {
            let rows = gradient
                .contiguous()?
                .reshape(backward.normalised.shape())?
                .to_dtype(backward.normalised.dtype())?;
            backward.deliver(&rows)?;
            if !tracked && !residual_tracked {
                return Ok([None, None, None]);
            }
            let gradient = backward.input(&rows)?.to_dtype(dtype)?;
            Ok([
                tracked.then(|| gradient.clone()),
                residual_tracked.then_some(gradient),
                None,
            ])
        })
    }
}

/// What the backward pass needs.
struct Backward {
    norm: Norm,
    batch: usize,
    shape: Vec<usize>,
    weight: Tensor,
    normalised: Tensor,
    inverse_deviation: Tensor,
    parameters: Vec<(Part, Arc<Parameter>)>,
    wanted: Option<Wanted>,
}

impl Backward {
    /// `rows`: the gradient of the output, (rows, hidden).
    fn deliver(&self, rows: &Tensor) -> CandleResult<()> {
        for (part, parameter) in &self.parameters {
            let is_weight = *part == Part::Weight;
            match &self.wanted {
                Some(Wanted::Gradients(tape)) if parameter.state() == State::Trainable => {
                    let gradient = if is_weight {
                        ops::gain_gradient(rows, &self.normalised)?
                    } else {
                        ops::row_sum(rows)?
                    };
                    tape.deliver(parameter.index(), gradient)?;
                }
                Some(Wanted::Tangents(tape, directions)) => {
                    let Some(direction) = directions.of(parameter, rows.dtype())? else {
                        continue;
                    };
                    let direction = direction.unsqueeze(0)?;
                    let along = if is_weight {
                        ops::project(&(rows * &self.normalised)?, &direction)?
                    } else {
                        ops::project(rows, &direction)?
                    };
                    let along = per_example(&along, self.batch)?.squeeze(1)?;
                    tape.deliver(parameter.index(), along)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn input(&self, rows: &Tensor) -> CandleResult<Tensor> {
        ops::norm_input_gradient(
            self.norm,
            rows,
            &self.weight,
            &self.normalised,
            &self.inverse_deviation,
        )?
        .reshape(self.shape.as_slice())
    }
}
