//! Activation functions with exact derivatives.
//!
//! GELU is the exact one of `transformers`: `x Φ(x) = x/2 (1 + erf(x/√2))` (Hendrycks and Gimpel 2016,
//! <https://arxiv.org/abs/1606.08415>). For `f32` on the CPU, erf is the rational approximation of
//! Abramowitz and Stegun 7.1.26, whose error of 1.5e-7 is that of `f32` itself.

use candle_core::{Result, Tensor};

use super::function::{function1, function2};
use super::{rows, vector};
use crate::plan::Activation;

const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

/// The standard normal distribution function `Φ(x)`, and `exp(-x²/2)`, which both have in common.
#[inline(always)]
fn phi(x: f32) -> (f32, f32) {
    let a = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let polynomial = t
        * (0.254_829_6
            + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let density = vector::exp(-a * a);
    let erf = (1.0 - polynomial * density).copysign(x);
    (0.5 + 0.5 * erf, density)
}

#[inline(always)]
fn gelu_derivative(x: f32) -> f32 {
    let (phi, density) = phi(x);
    phi + x * FRAC_1_SQRT_2PI as f32 * density
}

/// Exact GELU, any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let input = x.detach().contiguous()?;
    let fused = rows::is_plain(&input);
    let value = if fused {
        rows::map(&input, |x| x * phi(x).0)?
    } else {
        input.gelu_erf()?
    };
    function1("gelu", x, value, move |gradient| {
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
    let input = x.detach();
    let value = input.relu()?;
    function1("relu", x, value, move |gradient| {
        gradient * input.gt(0.0)?.to_dtype(gradient.dtype())?
    })
}

/// `tanh(x)`, any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    let value = x.detach().tanh()?;
    let output = value.clone();
    function1("tanh", x, value, move |gradient| {
        gradient * output.sqr()?.affine(-1.0, 1.0)?
    })
}

/// `cap · tanh(x / cap)`, any shape: the identity for small numbers, bounded by `cap` for large ones.
/// Source: Gemma Team 2024, <https://arxiv.org/abs/2408.00118>, section 2.
///
/// # Errors
/// When a tensor operation fails.
pub fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    let bounded = (x.detach() / cap)?.tanh()?;
    let value = (&bounded * cap)?;
    function1("softcap", x, value, move |gradient| {
        gradient * bounded.sqr()?.affine(-1.0, 1.0)?
    })
}

/// `a ⊙ b` of two tensors of one shape. Unlike candle's own product it computes no gradient for an input that is not
/// tracked.
///
/// # Errors
/// When the shapes differ.
pub fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, right) = (a.detach(), b.detach());
    let value = (&left * &right)?;
    let tracked = [a, b].map(super::is_tracked);
    function2("multiply", [a, b], value, move |gradient| {
        let when = |wanted: bool, other: &Tensor| wanted.then(|| gradient * other).transpose();
        Ok([when(tracked[0], &right)?, when(tracked[1], &left)?])
    })
}

/// `x σ(x)` (SiLU, swish), any shape.
///
/// # Errors
/// When a tensor operation fails.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let input = x.detach().contiguous()?;
    let fused = rows::is_plain(&input);
    let value = if fused {
        rows::map(&input, |x| x * sigmoid(x))?
    } else {
        input.silu()?
    };
    function1("silu", x, value, move |gradient| {
        if fused {
            return rows::zip_map(&gradient.contiguous()?, &input, |gradient, x| {
                let sigmoid = sigmoid(x);
                gradient * sigmoid * (1.0 + x * (1.0 - sigmoid))
            });
        }
        let sigmoid = candle_nn::ops::sigmoid(&input)?;
        let derivative = (&sigmoid * (&input * sigmoid.affine(-1.0, 1.0)?)?.affine(1.0, 1.0)?)?;
        gradient * derivative
    })
}

/// `silu(gate) ⊙ up`, of one shape, in one pass each way.
///
/// # Errors
/// When the shapes differ.
pub fn silu_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated(gate, up, silu, |x| {
        let sigmoid = sigmoid(x);
        (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
    })
}

/// `gelu_tanh(gate) ⊙ up`, of one shape, in one pass each way.
///
/// # Errors
/// When the shapes differ.
pub fn gelu_tanh_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated(gate, up, gelu_tanh, gelu_tanh_with_derivative)
}

/// `f(gate) ⊙ up`. `of` is `f` as an operation, `parts` its value and derivative.
fn gated(
    gate: &Tensor,
    up: &Tensor,
    of: fn(&Tensor) -> Result<Tensor>,
    parts: impl Fn(f32) -> (f32, f32) + Copy + Send + Sync + 'static,
) -> Result<Tensor> {
    let (x, y) = (gate.detach().contiguous()?, up.detach().contiguous()?);
    if !(rows::is_plain(&x) && rows::is_plain(&y)) {
        return multiply(&of(gate)?, up);
    }
    let value = rows::zip_map(&x, &y, |x, y| parts(x).0 * y)?;
    let tracked = [gate, up].map(super::is_tracked);
    function2("gate", [gate, up], value, move |gradient| {
        let gradient = gradient.contiguous()?;
        let [of_gate, of_up] = rows::zip_map3(&gradient, &x, &y, |gradient, x, y| {
            let (value, derivative) = parts(x);
            [gradient * y * derivative, gradient * value]
        })?;
        Ok([tracked[0].then_some(of_gate), tracked[1].then_some(of_up)])
    })
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-x))
}

const GELU_SLOPE: f64 = 1.595_769_121_605_731; // 2 √(2/π)
const GELU_CUBIC: f64 = 0.044_715;

#[inline(always)]
fn gelu_tanh_with_derivative(x: f32) -> (f32, f32) {
    const SLOPE: f32 = GELU_SLOPE as f32;
    const CUBIC: f32 = GELU_CUBIC as f32;
    let s = sigmoid(SLOPE * (x + CUBIC * x * x * x));
    let slope = SLOPE * (1.0 + 3.0 * CUBIC * x * x);
    (x * s, s + x * s * (1.0 - s) * slope)
}

/// GELU in its approximation by tanh, any shape: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, which is
/// `x σ(2 √(2/π) (x + 0.044715 x³))`.
///
/// # Errors
/// When a tensor operation fails.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let input = x.detach().contiguous()?;
    let fused = rows::is_plain(&input);
    let value = if fused {
        rows::map(&input, |x| gelu_tanh_with_derivative(x).0)?
    } else {
        input.gelu()?
    };
    function1("gelu-tanh", x, value, move |gradient| {
        if fused {
            return rows::zip_map(&gradient.contiguous()?, &input, |gradient, x| {
                gradient * gelu_tanh_with_derivative(x).1
            });
        }
        let square = input.sqr()?;
        let inner = ((&input * square.affine(GELU_CUBIC, 1.0)?)? * GELU_SLOPE)?;
        let s = candle_nn::ops::sigmoid(&inner)?;
        let slope = (square.affine(3.0 * GELU_CUBIC, 1.0)? * GELU_SLOPE)?;
        let rest = ((&input * &s)? * s.affine(-1.0, 1.0)?)?;
        gradient * (s + (rest * slope)?)?
    })
}

/// Applies the activation and returns it with its derivative at `x`, neither tracked.
pub(crate) fn apply(activation: Activation, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = x.detach().contiguous()?;
    Ok(match activation {
        Activation::Relu => (x.relu()?, x.gt(0.0)?.to_dtype(x.dtype())?),
        Activation::Gelu => {
            let cumulative =
                ((x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()? + 1.0)? * 0.5)?;
            let density = (x.sqr()?.affine(-0.5, 0.0)?.exp()? * FRAC_1_SQRT_2PI)?;
            (x.gelu_erf()?, (cumulative + (&x * density)?)?)
        }
        Activation::Swish => {
            let sigmoid = candle_nn::ops::sigmoid(&x)?;
            let value = (&x * &sigmoid)?;
            let derivative = (&sigmoid + (&value * sigmoid.affine(-1.0, 1.0)?)?)?;
            (value, derivative)
        }
    })
}
