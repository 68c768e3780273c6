//! Softmax cross-entropy: `mean over examples of log Σ_c exp z_c - z_label`.

use candle_core::{D, DType, Result, Tensor};

use super::function::function1;
use super::wide;

/// Mean cross-entropy of `logits` (batch, classes) against `labels` (batch), `u32`. A scalar, in `f32` where the logits have half
/// precision.
///
/// # Errors
/// When a label is not below the number of classes, or a tensor operation fails.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    let input = logits.detach().to_dtype(wide(logits.dtype()))?;
    let maximum = input.max_keepdim(D::Minus1)?;
    let shifted = input.broadcast_sub(&maximum)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let log_probabilities = shifted.broadcast_sub(&log_sum)?;
    let picked = log_probabilities.gather(&labels.unsqueeze(1)?, 1)?;
    let value = picked.mean_all()?.neg()?;
    let targets = one_hot(labels, classes, input.dtype())?;
    let dtype = logits.dtype();
    function1("cross-entropy", logits, value, move |gradient| {
        let residual = (log_probabilities.exp()? - &targets)?;
        residual
            .affine(1.0 / batch as f64, 0.0)?
            .broadcast_mul(gradient)?
            .to_dtype(dtype)
    })
}

fn one_hot(labels: &Tensor, classes: usize, dtype: DType) -> Result<Tensor> {
    let all = Tensor::arange(0u32, u32::try_from(classes)?, labels.device())?;
    labels
        .unsqueeze(1)?
        .broadcast_eq(&all.unsqueeze(0)?)?
        .to_dtype(dtype)
}
