//! Scaled dot-product attention: `softmax(scale · Q Kᵀ + mask) V` for each head, also where several heads of queries
//! share one of keys and values, with soft-capped scores, and with more keys than queries as with a cache.
//! Sources: Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, equation 1; Ainslie et al. 2023,
//! <https://arxiv.org/abs/2305.13245>, section 2.2; Gemma Team 2024, <https://arxiv.org/abs/2408.00118>, section 2.

use candle_core::{D, Result, Tensor};

use super::attention_mask::Mask;
use super::function::function3;
use super::fused_attention::Saved;
use super::rows;
use super::scope::is_tracked;

/// Sizes of an attention layer. The number of heads of keys and values follows from their width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads of the query.
    pub num_heads: usize,
    /// Factor of the scores, usually `1 / √(head size)`.
    pub scale: f64,
    /// Bound of the scores before the mask, `cap · tanh(score / cap)`.
    pub softcap: Option<f64>,
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
    pub(super) softcap: Option<f64>,
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
            softcap: sizes.softcap,
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
        && let Some(mask) = Mask::new(mask, sizes)?
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
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        head_size,
        ..
    } = sizes;
    let share = heads / kv_heads;
    // The queries of all heads that share keys lie in one matrix: (batch, key heads, share · queries, size).
    let gather =
        move |x: &Tensor| split(x, heads)?.reshape((batch, kv_heads, share * queries, head_size));
    let scatter = move |x: &Tensor| merge(&x.reshape((batch, heads, queries, head_size))?);
    let (q, k, v) = (gather(&q)?, split(&k, kv_heads)?, split(&v, kv_heads)?);
    let mut scores = (q.matmul(&k.t()?)? * sizes.scale)?;
    let mut slope = None;
    if let Some(cap) = sizes.softcap {
        let bounded = (scores / cap)?.tanh()?;
        slope = Some(bounded.sqr()?.affine(-1.0, 1.0)?);
        scores = (bounded * cap)?;
    }
    if let Some(mask) = mask {
        scores = scores
            .reshape((batch, heads, queries, keys))?
            .broadcast_add(mask)?
            .reshape((batch, kv_heads, share * queries, keys))?;
    }
    let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    let output = scatter(&probabilities.matmul(&v)?)?;
    let tracked = inputs.map(is_tracked);
    function3("attention", inputs, output, move |gradient| {
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
    })
}

/// (batch, length, heads · size) to (batch, heads, length, size).
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    x.reshape((batch, length, heads, width / heads))?
        .transpose(1, 2)?
        .contiguous()
}

/// The inverse of [`split`].
fn merge(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, size) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, length, heads * size))
}
