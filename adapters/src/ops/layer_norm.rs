//! LayerNorm: `y = γ ⊙ x̂ + β`, `x̂ = (x - mean) / √(variance + ε)` over the last dimension.
//! Source: Ba et al. 2016, <https://arxiv.org/abs/1607.06450>; the variance is the biased one, as in
//! PyTorch.

use candle_core::{D, Device, Result, Tensor};

use super::rows;

/// Output of a normalisation and what its backward pass needs.
pub(crate) struct NormOutput {
    /// `y`, the input's shape.
    pub(crate) output: Tensor,
    /// `1 / √(variance + ε)`, shape (rows).
    pub(crate) inverse_deviation: Tensor,
    /// Mean of each row, shape (rows).
    pub(crate) mean: Tensor,
}

/// `x`: (…, hidden), `weight` and `bias`: (hidden). Not tracked.
pub(crate) fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<NormOutput> {
    let hidden = x.dim(D::Minus1)?;
    let count = x.elem_count() / hidden;
    if rows::is_plain(x) && rows::is_plain(weight) && rows::is_plain(bias) {
        return fused(x, weight, bias, epsilon, hidden, count);
    }
    let flat = x.reshape((count, hidden))?;
    let mean = flat.mean_keepdim(D::Minus1)?;
    let centred = flat.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let inverse_deviation = (variance + epsilon)?.sqrt()?.recip()?;
    let output = centred
        .broadcast_mul(&inverse_deviation)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)?
        .reshape(x.shape())?;
    Ok(NormOutput {
        output,
        inverse_deviation: inverse_deviation.flatten_all()?,
        mean: mean.flatten_all()?,
    })
}

fn fused(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
    hidden: usize,
    count: usize,
) -> Result<NormOutput> {
    let (output, statistics) = rows::with_slice(x, |input| {
        rows::with_slice(weight, |weight| {
            rows::with_slice(bias, |bias| {
                // Each row is followed by its mean and inverse deviation, so that one parallel loop
                // writes all three.
                let mut packed = vec![0f32; count * (hidden + 2)];
                rows::for_each_row(&mut packed, hidden + 2, |row, packed| {
                    let x = &input[row * hidden..(row + 1) * hidden];
                    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / hidden as f64;
                    let variance = x
                        .iter()
                        .map(|x| (f64::from(*x) - mean).powi(2))
                        .sum::<f64>()
                        / hidden as f64;
                    let inverse = 1.0 / (variance + epsilon).sqrt();
                    let (mean, inverse) = (mean as f32, inverse as f32);
                    let (output, statistics) = packed.split_at_mut(hidden);
                    for (((output, x), weight), bias) in
                        output.iter_mut().zip(x).zip(weight).zip(bias)
                    {
                        *output = (x - mean) * inverse * weight + bias;
                    }
                    statistics.copy_from_slice(&[mean, inverse]);
                });
                let mut output = Vec::with_capacity(count * hidden);
                let mut statistics = (Vec::with_capacity(count), Vec::with_capacity(count));
                for row in packed.chunks(hidden + 2) {
                    output.extend_from_slice(&row[..hidden]);
                    statistics.0.push(row[hidden]);
                    statistics.1.push(row[hidden + 1]);
                }
                Ok((output, statistics))
            })
        })
    })?;
    Ok(NormOutput {
        output: Tensor::from_vec(output, x.shape(), &Device::Cpu)?,
        mean: Tensor::from_vec(statistics.0, count, &Device::Cpu)?,
        inverse_deviation: Tensor::from_vec(statistics.1, count, &Device::Cpu)?,
    })
}

/// `x̂` again from the input and the row statistics; (rows, hidden).
pub(crate) fn normalised(
    x: &Tensor,
    mean: Option<&Tensor>,
    inverse_deviation: &Tensor,
) -> Result<Tensor> {
    let hidden = x.dim(D::Minus1)?;
    let flat = x.reshape((x.elem_count() / hidden, hidden))?;
    let centred = match mean {
        Some(mean) => flat.broadcast_sub(&mean.unsqueeze(1)?)?,
        None => flat,
    };
    centred.broadcast_mul(&inverse_deviation.unsqueeze(1)?)
}

/// Gradient of the input: `(g - mean(g) - x̂ mean(g ⊙ x̂)) / deviation` with `g = γ ⊙ dy`; an RMSNorm,
/// which is not centred, lacks the term `mean(g)`. All (rows, hidden).
pub(crate) fn input_gradient(
    gradient: &Tensor,
    weight: &Tensor,
    normalised: &Tensor,
    inverse_deviation: &Tensor,
    centred: bool,
) -> Result<Tensor> {
    let scaled = gradient.broadcast_mul(weight)?;
    let along = (&scaled * normalised)?.mean_keepdim(D::Minus1)?;
    let mut result = (&scaled - normalised.broadcast_mul(&along)?)?;
    if centred {
        result = result.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
    }
    result.broadcast_mul(&inverse_deviation.unsqueeze(1)?)
}
