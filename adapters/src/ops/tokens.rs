//! What joins sub-layers: sums of activations, and what a head reads of a sequence.

use candle_core::{D, Result, Tensor};

use super::function::{function1, function2};
use super::rows;
use super::scope::is_tracked;

/// `a + b` of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (left, right) = (a.detach(), b.detach());
    let fused = rows::is_plain(&left) && rows::is_plain(&right) && left.dims() == right.dims();
    let value = if fused {
        rows::zip_map(&left, &right, |a, b| a + b)?
    } else {
        (left + right)?
    };
    let tracked = [a, b].map(is_tracked);
    function2("add", [a, b], value, move |gradient| {
        Ok(tracked.map(|tracked| tracked.then(|| gradient.clone())))
    })
}

/// The first token of every sequence: (batch, sequence, hidden) to (batch, 1, hidden).
///
/// # Errors
/// When `x` has another number of dimensions, or no tokens.
pub fn first_token(x: &Tensor) -> Result<Tensor> {
    let (batch, sequence, hidden) = x.dims3()?;
    let value = x.detach().narrow(1, 0, 1)?.contiguous()?;
    function1("first-token", x, value, move |gradient| {
        if sequence == 1 {
            return Ok(gradient.clone());
        }
        let shape = (batch, sequence - 1, hidden);
        let rest = Tensor::zeros(shape, gradient.dtype(), gradient.device())?;
        Tensor::cat(&[gradient, &rest], 1)
    })
}

/// Tokens by their place among all of the batch: `x` (batch, length, hidden), `places` (batch · count), `count` for
/// each row of the batch. Returns (batch, count, hidden).
///
/// # Errors
/// When there is no such place, or the places cannot be dealt to the rows evenly.
pub fn tokens_at(x: &Tensor, places: &[u32]) -> Result<Tensor> {
    let (batch, length, hidden) = x.dims3()?;
    let count = places.len().checked_div(batch).unwrap_or(0);
    let places = Tensor::from_slice(places, places.len(), x.device())?;
    let flat = move |x: &Tensor, length: usize| x.reshape((batch * length, hidden));
    let value = flat(&x.detach(), length)?
        .index_select(&places, 0)?
        .reshape((batch, count, hidden))?;
    function1("tokens-at", x, value, move |gradient| {
        let shape = (batch * length, hidden);
        Tensor::zeros(shape, gradient.dtype(), gradient.device())?
            .index_add(&places, &flat(gradient, count)?, 0)?
            .reshape((batch, length, hidden))
    })
}

/// `len` features from `start` on, of the last dimension.
///
/// # Errors
/// When there are not so many.
pub fn features(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let value = x.detach().narrow(D::Minus1, start, len)?.contiguous()?;
    let all = x.dim(D::Minus1)?;
    function1("features", x, value, move |gradient| {
        gradient.pad_with_zeros(D::Minus1, start, all - start - len)
    })
}

/// The same numbers in another shape.
///
/// # Errors
/// When the number of elements differs.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let before = x.dims().to_vec();
    let value = x.detach().reshape(shape)?;
    function1("reshape", x, value, move |gradient| {
        gradient.reshape(before.as_slice())
    })
}

/// Mean over the tokens of every sequence: `x` (batch, sequence, hidden), `mask` (batch, sequence) with 1
/// for a token and 0 for padding. Returns (batch, hidden); a sequence without tokens has the mean 0.
///
/// # Errors
/// When the shapes do not fit.
pub fn mean_tokens(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.to_dtype(x.dtype())?;
    let count = mask.sum_keepdim(1)?.maximum(1.0)?;
    let weights = mask.broadcast_div(&count)?.unsqueeze(1)?; // (batch, 1, sequence)
    let value = weights.matmul(&x.detach().contiguous()?)?.squeeze(1)?;
    function1("mean-tokens", x, value, move |gradient| {
        weights
            .t()?
            .contiguous()?
            .matmul(&gradient.contiguous()?.unsqueeze(1)?)
    })
}
