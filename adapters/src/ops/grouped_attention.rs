//! Scaled dot-product attention in which several heads of queries share one of keys and values, with soft-capped
//! scores, and with more keys than queries where there is a cache.
//! Source: Ainslie et al. 2023, <https://arxiv.org/abs/2305.13245>, section 2.2.

use candle_core::{D, Result, Tensor};

use super::function::function3;

/// Sizes of such an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupedAttention {
    /// Heads of queries.
    pub num_heads: usize,
    /// Heads of keys and values, a divisor of `num_heads`.
    pub num_kv_heads: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Bound of the scores, `cap · tanh(score / cap)`.
    pub softcap: Option<f64>,
}

/// `query`: (batch, queries, heads · size), `key` and `value`: (batch, keys, kv heads · size); `mask`, added to the
/// scores: broadcastable to (batch, heads, queries, keys). Returns the shape of `query`.
///
/// # Errors
/// When the shapes do not fit, or a tensor operation fails.
pub fn grouped_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    sizes: GroupedAttention,
) -> Result<Tensor> {
    let (heads, kv_heads) = (sizes.num_heads, sizes.num_kv_heads);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        candle_core::bail!("{heads} heads cannot share {kv_heads} heads of keys");
    }
    let (batch, queries, _) = query.dims3()?;
    let keys = key.dim(1)?;
    // The queries of all heads that share keys lie in one matrix: (batch, kv heads, group · queries, size).
    let gather = move |x: &Tensor| -> Result<Tensor> {
        let x = split(x, heads)?;
        let size = x.dim(3)?;
        x.reshape((batch, kv_heads, heads / kv_heads * queries, size))
    };
    let scatter = move |x: &Tensor| -> Result<Tensor> {
        let size = x.dim(3)?;
        merge(&x.reshape((batch, heads, queries, size))?)
    };
    let by_head = (batch, heads, queries, keys);
    let by_group = (batch, kv_heads, heads / kv_heads * queries, keys);

    let (q, k, v) = (
        gather(query)?,
        split(key, kv_heads)?,
        split(value, kv_heads)?,
    );
    let mut scores = (q.matmul(&k.t()?)? * sizes.scale)?;
    let mut slope = None;
    if let Some(cap) = sizes.softcap {
        let bounded = (scores / cap)?.tanh()?;
        slope = Some(bounded.sqr()?.affine(-1.0, 1.0)?);
        scores = (bounded * cap)?;
    }
    if let Some(mask) = mask {
        scores = scores
            .reshape(by_head)?
            .broadcast_add(mask)?
            .reshape(by_group)?;
    }
    let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    let output = scatter(&probabilities.matmul(&v)?)?;
    let tracked = [query, key, value].map(super::is_tracked);
    function3(
        "grouped-attention",
        [query, key, value],
        output,
        move |gradient| {
            let gradient = gather(gradient)?;
            let when = |wanted: bool, f: &dyn Fn() -> Result<Tensor>| wanted.then(f).transpose();
            let value = when(tracked[2], &|| {
                merge(&probabilities.t()?.matmul(&gradient)?)
            })?;
            if !(tracked[0] || tracked[1]) {
                return Ok([None, None, value]);
            }
            let along = gradient.matmul(&v.t()?)?;
            // The gradient through a softmax: P ⊙ (dP - Σ dP ⊙ P).
            let inner = (&along * &probabilities)?.sum_keepdim(D::Minus1)?;
            let mut scores =
                (along.broadcast_sub(&inner)? * &probabilities)?.affine(sizes.scale, 0.0)?;
            if let Some(slope) = &slope {
                scores = (scores * slope)?;
            }
            let query = when(tracked[0], &|| scatter(&scores.matmul(&k)?))?;
            let key = when(tracked[1], &|| merge(&scores.t()?.matmul(&q)?))?;
            Ok([query, key, value])
        },
    )
}

/// (batch, length, heads · size) to (batch, heads, length, size).
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    x.detach()
        .reshape((batch, length, heads, width / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// The inverse of [`split`].
fn merge(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, size) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, length, heads * size))
}
