//! RMSNorm: `y = γ ⊙ x̂`, `x̂ = x / √(mean(x²) + ε)` over the last dimension.
//! Source: Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>, equation 4.

use candle_core::{D, Result, Tensor};

/// `x`: (…, hidden), `weight`: (hidden). Returns the output and `1 / √(mean(x²) + ε)` of shape (rows).
/// Not tracked.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<(Tensor, Tensor)> {
    let hidden = x.dim(D::Minus1)?;
    let flat = x.reshape((x.elem_count() / hidden, hidden))?;
    let inverse = (flat.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?
        .sqrt()?
        .recip()?;
    let output = flat
        .broadcast_mul(&inverse)?
        .broadcast_mul(weight)?
        .reshape(x.shape())?;
    Ok((output, inverse.flatten_all()?))
}
