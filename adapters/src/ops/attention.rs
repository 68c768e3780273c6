//! Scaled dot-product attention: `softmax(scale · Q Kᵀ + mask) V` for each head.
//! Source: Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, equation 1; heads that share keys and
//! values: Ainslie et al. 2023, <https://arxiv.org/abs/2305.13245>.

use candle_core::{D, Result, Tensor};

use super::function::function3;
use super::fused_attention::{self, Saved};
use super::rows;
use super::scope::is_tracked;

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads of the query.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / √(head size)`.
    pub scale: f64,
}

/// The sizes of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    /// Positions of the query.
    pub(super) queries: usize,
    /// Positions of key and value.
    pub(super) keys: usize,
    pub(super) heads: usize,
    /// Heads of key and value; consecutive heads of the query share one.
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
    pub(super) scale: f64,
}

impl Sizes {
    fn new(query: &Tensor, key: &Tensor, value: &Tensor, sizes: Attention) -> Result<Self> {
        let (batch, queries, hidden) = query.dims3()?;
        let (key_batch, keys, kv_hidden) = key.dims3()?;
        let heads = sizes.num_heads;
        let head_size = hidden.checked_div(heads).unwrap_or(0);
        let kv_heads = kv_hidden.checked_div(head_size).unwrap_or(0);
        if heads == 0
            || kv_heads == 0
            || head_size * heads != hidden
            || head_size * kv_heads != kv_hidden
            || !heads.is_multiple_of(kv_heads)
            || key_batch != batch
            || value.dims() != key.dims()
            || keys == 0
        {
            candle_core::bail!(
                "attention of {heads} heads does not fit a query {:?}, key {:?} and value {:?}",
                query.dims(),
                key.dims(),
                value.dims()
            );
        }
        Ok(Self {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            head_size,
            scale: sizes.scale,
        })
    }
}

/// `query`: (batch, queries, heads · size), the heads side by side; `key` and `value`: (batch, keys,
/// key heads · size), where the number of key heads divides that of the heads; `mask`, added to the scores:
/// broadcastable to (batch, heads, queries, keys). Returns the shape of `query`.
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
    let inputs = [query, key, value];
    let sizes = Sizes::new(query, key, value, sizes)?;
    let plain = |x: &Tensor| x.detach().contiguous();
    let [q, k, v] = [plain(query)?, plain(key)?, plain(value)?];
    let tracked = inputs.map(is_tracked);
    if [&q, &k, &v].into_iter().all(rows::is_plain)
        && let Some(mask) = fused_attention::Mask::new(mask, sizes)?
    {
        let (output, saved) = Saved::forward([q, k, v], mask, sizes)?;
        return function3("attention", inputs, output, move |gradient| {
            let gradients = saved.backward(&gradient.contiguous()?)?;
            let mut wanted = tracked.iter();
            Ok(gradients.map(|gradient| wanted.next().is_some_and(|t| *t).then_some(gradient)))
        });
    }
    composed(inputs, [q, k, v], mask, sizes)
}

/// By candle's operators, on any device.
fn composed(
    inputs: [&Tensor; 3],
    [q, k, v]: [Tensor; 3],
    mask: Option<&Tensor>,
    sizes: Sizes,
) -> Result<Tensor> {
    let share = sizes.heads / sizes.kv_heads;
    let (q, k, v) = (
        split(&q, sizes.heads, 1)?,
        split(&k, sizes.kv_heads, share)?,
        split(&v, sizes.kv_heads, share)?,
    );
    let mut scores = (q.matmul(&k.t()?)? * sizes.scale)?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    let output = merge(&probabilities.matmul(&v)?, 1)?;
    let tracked = inputs.map(is_tracked);
    function3("attention", inputs, output, move |gradient| {
        let gradient = split(gradient, sizes.heads, 1)?;
        let value = if tracked[2] {
            Some(merge(&probabilities.t()?.matmul(&gradient)?, share)?)
        } else {
            None
        };
        let along = gradient.matmul(&v.t()?)?;
        // The gradient through a softmax: P ⊙ (dP - Σ dP ⊙ P).
        let inner = (&along * &probabilities)?.sum_keepdim(D::Minus1)?;
        let scores = (along.broadcast_sub(&inner)? * &probabilities)?.affine(sizes.scale, 0.0)?;
        let query = if tracked[0] {
            Some(merge(&scores.matmul(&k)?, 1)?)
        } else {
            None
        };
        let key = if tracked[1] {
            Some(merge(&scores.t()?.matmul(&q)?, share)?)
        } else {
            None
        };
        Ok([query, key, value])
    })
}

/// (batch, sequence, heads · size) to (batch, heads · share, sequence, size), each head `share` times.
fn split(x: &Tensor, heads: usize, share: usize) -> Result<Tensor> {
    let (batch, sequence, hidden) = x.dims3()?;
    let size = hidden / heads;
    let x = x.reshape((batch, sequence, heads, size))?.transpose(1, 2)?;
    if share == 1 {
        return x.contiguous();
    }
    x.unsqueeze(2)?
        .expand((batch, heads, share, sequence, size))?
        .contiguous()?
        .reshape((batch, heads * share, sequence, size))
}

/// The inverse of [`split`]; heads that were one are added up.
fn merge(x: &Tensor, share: usize) -> Result<Tensor> {
    let (batch, heads, sequence, size) = x.dims4()?;
    let x = if share == 1 {
        x.clone()
    } else {
        x.reshape((batch, heads / share, share, sequence, size))?
            .sum(2)?
    };
    x.transpose(1, 2)?
        .reshape((batch, sequence, heads / share * size))
}
