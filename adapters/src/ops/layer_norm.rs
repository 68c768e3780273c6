//! LayerNorm: `y = γ ⊙ x̂ + β`, `x̂ = (x - mean) / √(variance + ε)`, and RMSNorm:
//! `y = γ ⊙ x̂`, `x̂ = x / √(mean(x²) + ε)`, both over the last dimension.
//! Sources: Ba et al. 2016, <https://arxiv.org/abs/1607.06450> (the variance is the biased one, as in
//! PyTorch); Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>, equation 4.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::linear::row_sum;
use super::{rows, vector};

/// Rows whose sums one task makes.
const ROWS: usize = 64;

/// What is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Norm {
    /// The deviation from the mean.
    Layer,
    /// The number itself.
    Rms,
}

/// Output of a normalisation and what its backward pass needs. Not tracked.
pub(crate) struct NormOutput {
    /// `y`, the input's shape.
    pub(crate) output: Tensor,
    /// `x̂`, (rows, hidden).
    pub(crate) normalised: Tensor,
    /// `1 / √(… + ε)`, (rows).
    pub(crate) inverse_deviation: Tensor,
}

/// Normalises `x + residual`. `x`, `residual`: (…, hidden), `weight` and `bias`: (hidden).
pub(crate) fn normalise(
    norm: Norm,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epsilon: f64,
) -> Result<NormOutput> {
    let hidden = x.dim(D::Minus1)?;
    let tensors = [Some(x), residual, Some(weight), bias];
    if residual.is_some_and(|residual| residual.dims() != x.dims())
        || weight.dims() != [hidden]
        || bias.is_some_and(|bias| bias.dims() != [hidden])
    {
        candle_core::bail!(
            "cannot normalise {:?} with a gain of {:?}",
            x.dims(),
            weight.dims()
        );
    }
    if hidden > 0 && tensors.into_iter().flatten().all(rows::is_plain) {
        return fused(norm, x, residual, weight, bias, epsilon);
    }
    let flat = x.reshape((x.elem_count() / hidden, hidden))?;
    let flat = match residual {
        Some(residual) => (&flat + residual.reshape(flat.shape())?)?,
        None => flat,
    };
    let centred = match norm {
        Norm::Layer => flat.broadcast_sub(&flat.mean_keepdim(D::Minus1)?)?,
        Norm::Rms => flat,
    };
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let inverse = (variance + epsilon)?.sqrt()?.recip()?;
    let normalised = centred.broadcast_mul(&inverse)?;
    let mut output = normalised.broadcast_mul(weight)?;
    if let Some(bias) = bias {
        output = output.broadcast_add(bias)?;
    }
    Ok(NormOutput {
        output: output.reshape(x.shape())?,
        normalised,
        inverse_deviation: inverse.flatten_all()?,
    })
}

fn fused(
    norm: Norm,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epsilon: f64,
) -> Result<NormOutput> {
    let hidden = x.dim(D::Minus1)?;
    let count = x.elem_count() / hidden;
    let mut output = vec![0f32; count * hidden];
    let mut normalised = vec![0f32; count * hidden];
    let mut inverses = vec![0f32; count];
    let zeros = vec![0f32; hidden];
    with_optional(residual, |residual| {
        with_optional(bias, |bias| {
            rows::with_slice(x, |x| {
                rows::with_slice(weight, |weight| {
                    let bias = bias.unwrap_or(&zeros);
                    let row = |row: usize, output: &mut [f32], normalised: &mut [f32]| {
                        let x = &x[row * hidden..][..hidden];
                        match residual {
                            Some(residual) => {
                                let residual = &residual[row * hidden..][..hidden];
                                for ((sum, x), r) in normalised.iter_mut().zip(x).zip(residual) {
                                    *sum = x + r;
                                }
                            }
                            None => normalised.copy_from_slice(x),
                        }
                        let mean = match norm {
                            Norm::Layer => vector::sum(normalised, |x| x) / hidden as f32,
                            Norm::Rms => 0.0,
                        };
                        let squares = vector::sum(normalised, |x| (x - mean) * (x - mean));
                        let variance = f64::from(squares) / hidden as f64;
                        let inverse = (1.0 / (variance + epsilon).sqrt()) as f32;
                        for (((output, x), weight), bias) in
                            output.iter_mut().zip(normalised).zip(weight).zip(bias)
                        {
                            *x = (*x - mean) * inverse;
                            *output = *x * weight + bias;
                        }
                        inverse
                    };
                    output
                        .par_chunks_mut(ROWS * hidden)
                        .zip(normalised.par_chunks_mut(ROWS * hidden))
                        .zip(inverses.par_chunks_mut(ROWS))
                        .enumerate()
                        .for_each(|(task, ((output, normalised), inverses))| {
                            vector::run(|| {
                                for (i, ((output, normalised), inverse)) in output
                                    .chunks_mut(hidden)
                                    .zip(normalised.chunks_mut(hidden))
                                    .zip(inverses)
                                    .enumerate()
                                {
                                    *inverse = row(task * ROWS + i, output, normalised);
                                }
                            });
                        });
                    Ok(())
                })
            })
        })
    })?;
    Ok(NormOutput {
        output: Tensor::from_vec(output, x.shape(), &Device::Cpu)?,
        normalised: Tensor::from_vec(normalised, (count, hidden), &Device::Cpu)?,
        inverse_deviation: Tensor::from_vec(inverses, count, &Device::Cpu)?,
    })
}

fn with_optional<T>(
    tensor: Option<&Tensor>,
    read: impl FnOnce(Option<&[f32]>) -> Result<T>,
) -> Result<T> {
    match tensor {
        Some(tensor) => rows::with_slice(tensor, |numbers| read(Some(numbers))),
        None => read(None),
    }
}

/// Gradient of the input: `(g - mean(g) - x̂ mean(g ⊙ x̂)) / deviation` with `g = γ ⊙ dy`; an RMSNorm,
/// which is not centred, lacks the term `mean(g)`. All (rows, hidden).
pub(crate) fn input_gradient(
    norm: Norm,
    gradient: &Tensor,
    weight: &Tensor,
    normalised: &Tensor,
    inverse_deviation: &Tensor,
) -> Result<Tensor> {
    let tensors = [gradient, weight, normalised, inverse_deviation];
    if tensors.into_iter().all(rows::is_plain) {
        return fused_input_gradient(norm, gradient, weight, normalised, inverse_deviation);
    }
    let scaled = gradient.broadcast_mul(weight)?;
    let along = (&scaled * normalised)?.mean_keepdim(D::Minus1)?;
    let mut result = (&scaled - normalised.broadcast_mul(&along)?)?;
    if norm == Norm::Layer {
        result = result.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
    }
    result.broadcast_mul(&inverse_deviation.unsqueeze(1)?)
}

fn fused_input_gradient(
    norm: Norm,
    gradient: &Tensor,
    weight: &Tensor,
    normalised: &Tensor,
    inverse_deviation: &Tensor,
) -> Result<Tensor> {
    let (count, hidden) = gradient.dims2()?;
    let mut result = vec![0f32; count * hidden];
    rows::with_slice(gradient, |gradient| {
        rows::with_slice(normalised, |normalised| {
            rows::with_slice(inverse_deviation, |inverses| {
                rows::with_slice(weight, |weight| {
                    let scale = 1.0 / hidden as f32;
                    rows::for_each_row(&mut result, hidden, |row, result| {
                        let g = &gradient[row * hidden..][..hidden];
                        let x = &normalised[row * hidden..][..hidden];
                        let inverse = inverses[row];
                        vector::run(|| {
                            let along = vector::sum3(g, weight, x, |g, w, x| g * w * x) * scale;
                            let mean = match norm {
                                Norm::Layer => vector::sum2(g, weight, |g, w| g * w) * scale,
                                Norm::Rms => 0.0,
                            };
                            for (((result, g), w), x) in result.iter_mut().zip(g).zip(weight).zip(x)
                            {
                                *result = (g * w - mean - x * along) * inverse;
                            }
                        });
                    });
                    Ok(())
                })
            })
        })
    })?;
    Tensor::from_vec(result, (count, hidden), &Device::Cpu)
}

/// Gradient of the gain: `Σ dy ⊙ x̂` over the rows, (hidden). Both (rows, hidden).
pub(crate) fn gain_gradient(gradient: &Tensor, normalised: &Tensor) -> Result<Tensor> {
    if !(rows::is_plain(gradient) && rows::is_plain(normalised)) {
        return row_sum(&(gradient * normalised)?);
    }
    let (_, hidden) = gradient.dims2()?;
    // Parts of a fixed number of rows, added in their order: the same for any number of threads.
    let parts: Vec<Vec<f32>> = rows::with_slice(gradient, |gradient| {
        rows::with_slice(normalised, |normalised| {
            Ok(gradient
                .par_chunks(ROWS * hidden)
                .zip(normalised.par_chunks(ROWS * hidden))
                .map(|(gradient, normalised)| {
                    let mut sums = vec![0f32; hidden];
                    vector::run(|| {
                        for (g, x) in gradient.chunks(hidden).zip(normalised.chunks(hidden)) {
                            for ((sum, g), x) in sums.iter_mut().zip(g).zip(x) {
                                *sum += g * x;
                            }
                        }
                    });
                    sums
                })
                .collect())
        })
    })?;
    let mut sums = vec![0f32; hidden];
    for part in parts {
        sums.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    Tensor::from_vec(sums, hidden, &Device::Cpu)
}
