//! Scaled dot-product attention: `softmax(scale · Q Kᵀ + mask) V` for each head.
//! Source: Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, equation 1.

use candle_core::{D, Result, Tensor};

use super::function::function3;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / √(head size)`.
    pub scale: f64,
}

/// `query`, `key`, `value`: (batch, sequence, hidden) with the heads side by side in `hidden`; `mask`,
/// added to the scores: broadcastable to (batch, heads, sequence, sequence). Returns the shape of
/// `query`.
///
/// # Errors
/// When the shapes do not fit, or a tensor operation fails.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    sizes: Attention,
) -> Result<Tensor> {
    let heads = sizes.num_heads;
    let (q, k, v) = (
        split(query, heads)?,
        split(key, heads)?,
        split(value, heads)?,
    );
    let mut scores = (q.matmul(&k.t()?)? * sizes.scale)?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    let output = merge(&probabilities.matmul(&v)?)?;
    let tracked = [query, key, value].map(Tensor::track_op);
    function3(
        "attention",
        [query, key, value],
        output,
        move |_, gradient| {
            let gradient = split(gradient, heads)?;
            let value = if tracked[2] {
                Some(merge(&probabilities.t()?.matmul(&gradient)?)?)
            } else {
                None
            };
            let along = gradient.matmul(&v.t()?)?;
            // The gradient through a softmax: P ⊙ (dP - Σ dP ⊙ P).
            let inner = (&along * &probabilities)?.sum_keepdim(D::Minus1)?;
            let scores =
                (along.broadcast_sub(&inner)? * &probabilities)?.affine(sizes.scale, 0.0)?;
            let query = if tracked[0] {
                Some(merge(&scores.matmul(&k)?)?)
            } else {
                None
            };
            let key = if tracked[1] {
                Some(merge(&scores.t()?.matmul(&q)?)?)
            } else {
                None
            };
            Ok([query, key, value])
        },
    )
}

/// (batch, sequence, hidden) to (batch, heads, sequence, head size).
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, sequence, hidden) = x.dims3()?;
    x.detach()
        .reshape((batch, sequence, heads, hidden / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// The inverse of [`split`].
fn merge(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, sequence, size) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, sequence, heads * size))
}
