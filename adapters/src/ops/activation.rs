//! Activation functions with exact derivatives.
//!
//! GELU is the exact one of `transformers`: `x Φ(x) = x/2 (1 + erf(x/√2))` (Hendrycks and Gimpel 2016,
//! <https://arxiv.org/abs/1606.08415>). For `f32` on the CPU, erf is the rational approximation of
//! Abramowitz and Stegun 7.1.26, whose error of 1.5e-7 is that of `f32` itself.

use candle_core::{Result, Tensor};

use super::function::{function1, function2};
use super::rows;
use crate::plan::Activation;

const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

/// `erf(x)` with an absolute error below 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let polynomial = t
        * (0.254_829_6
            + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - polynomial * (-a * a).exp()).copysign(x)
}

/// The standard normal distribution function, `Φ(x)`.
#[inline]
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline]
fn gelu_derivative(x: f32) -> f32 {
    phi(x) + x * FRAC_1_SQRT_2PI as f32 * (-0.5 * x * x).exp()
}

/// Exact GELU, any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let input = x.detach().contiguous()?;
    let fused = rows::is_plain(&input);
    let value = if fused {
        rows::map(&input, |x| x * phi(x))?
    } else {
        input.gelu_erf()?
    };
    function1("gelu", x, value, move |_, gradient| {
        let gradient = gradient.contiguous()?;
        if fused {
            return rows::zip_map(&gradient, &input, |gradient, x| {
                gradient * gelu_derivative(x)
            });
        }
        let cumulative =
            ((input.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()? + 1.0)? * 0.5)?;
        let density = (input.sqr()?.affine(-0.5, 0.0)?.exp()? * FRAC_1_SQRT_2PI)?;
        gradient * (cumulative + (&input * density)?)?
    })
}

/// `max(x, 0)`, any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    let value = x.detach().relu()?;
    function1("relu", x, value, |output, gradient| {
        gradient * output.gt(0.0)?.to_dtype(gradient.dtype())?
    })
}

/// `tanh(x)`, any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    let value = x.detach().tanh()?;
    function1("tanh", x, value, |output, gradient| {
        gradient * output.sqr()?.affine(-1.0, 1.0)?
    })
}

/// `cap · tanh(x / cap)`, any shape: the identity for small numbers, bounded by `cap` for large ones.
/// Source: Gemma Team 2024, <https://arxiv.org/abs/2408.00118>, section 2.
///
/// # Errors
/// When a tensor operation fails.
pub fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    tanh(&(x / cap)?)? * cap
}

/// `a ⊙ b` of two tensors of one shape. Unlike candle's own product it computes no gradient for an input that is not
/// tracked.
///
/// # Errors
/// When the shapes differ.
pub fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, right) = (a.detach(), b.detach());
    let value = (&left * &right)?;
    let tracked = [a.track_op(), b.track_op()];
    function2("multiply", [a, b], value, move |_, gradient| {
        let when = |wanted: bool, other: &Tensor| wanted.then(|| gradient * other).transpose();
        Ok([when(tracked[0], &right)?, when(tracked[1], &left)?])
    })
}

/// `x σ(x)` (SiLU, swish), any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let input = x.detach();
    let value = input.silu()?;
    function1("silu", x, value, move |output, gradient| {
        let sigmoid = candle_nn::ops::sigmoid(&input)?;
        let derivative = (&sigmoid + (output * sigmoid.affine(-1.0, 1.0)?)?)?;
        gradient * derivative
    })
}

/// Applies the activation and returns it with its derivative at `x`, neither tracked.
pub(crate) fn apply(activation: Activation, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let variable = candle_core::Var::from_tensor(&x.detach().contiguous()?.copy()?)?;
    let value = match activation {
        Activation::Relu => relu(&variable)?,
        Activation::Gelu => gelu(&variable)?,
        Activation::Swish => silu(&variable)?,
    };
    let mut gradients = value.sum_all()?.backward()?;
    match gradients.remove(&variable) {
        Some(derivative) => Ok((value.detach(), derivative)),
        None => candle_core::bail!("the activation delivered no derivative"),
    }
}
