//! Cross-entropy over a large vocabulary, `Σ_r log Σ_v exp z_rv - z_r,label` with `z = cap(hidden · Wᵀ)`, a slice of the
//! rows at a time.
//!
//! The logits of all rows together (rows × vocabulary) are never held: each slice's loss and gradient `(p - y)` are
//! carried back to its hidden states at once, and only these, (rows, hidden), are kept for the backward pass. The
//! idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, <https://arxiv.org/abs/2410.10989>,
//! section 3.2). The unembedding itself gets no gradient.

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::activation::softcap;
use super::function::function1;
use super::gemm::{Matrix, Target, Threads, gemm};
use super::rows::{is_plain, with_slice};
use super::vector;
use super::wide;
use crate::frozen::FrozenWeight;

/// Numbers of a slice of the logits that are held at once: 64 MiB of `f32`. In smaller ones a product spends more of
/// its time on packing the unembedding.
const SLICE: usize = 1 << 24;

/// From hidden states to logits.
#[derive(Debug, Clone, Copy)]
pub struct Unembedding<'a> {
    /// (vocabulary, hidden).
    pub weight: &'a FrozenWeight,
    /// Bound of the logits, `cap · tanh(logit / cap)`.
    pub softcap: Option<f64>,
}

impl Unembedding<'_> {
    /// (rows, hidden) to (rows, vocabulary), differentiable by the hidden states.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.weight.project(hidden)?;
        match self.softcap {
            Some(cap) => softcap(&logits, cap),
            None => Ok(logits),
        }
    }
}

/// Which token each row has.
#[derive(Debug, Clone, Copy)]
pub enum TokenLabels<'a> {
    /// These.
    Given(&'a [u32]),
    /// One that is drawn from the row's own probabilities, by a uniform number from 0 to 1 for each.
    Drawn(&'a [f64]),
}

impl TokenLabels<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Given(labels) => labels.len(),
            Self::Drawn(uniforms) => uniforms.len(),
        }
    }

    fn narrow(&self, start: usize, len: usize) -> Self {
        let range = start..start + len;
        match self {
            Self::Given(labels) => Self::Given(labels.get(range).unwrap_or_default()),
            Self::Drawn(uniforms) => Self::Drawn(uniforms.get(range).unwrap_or_default()),
        }
    }
}

/// What [`sliced_cross_entropy`] gives.
#[derive(Debug)]
pub struct SlicedLoss {
    /// The sum over the rows, a scalar, differentiable by the hidden states; in `f32` where these have half precision.
    pub sum: Tensor,
    /// The loss of each row, in nats.
    pub losses: Vec<f64>,
    /// The likeliest token of each row.
    pub likeliest: Vec<u32>,
}

/// Cross-entropy of the logits of `hidden` (rows, width) with a label for each row, at most `slice` rows at a time
/// (`None`: as many as fit 64 MiB).
///
/// # Errors
/// When the numbers of rows and labels differ, a label is not below the vocabulary, or a tensor operation fails.
pub fn sliced_cross_entropy(
    hidden: &Tensor,
    labels: TokenLabels<'_>,
    slice: Option<usize>,
    unembedding: Unembedding<'_>,
) -> Result<SlicedLoss> {
    let (rows, width) = hidden.dims2()?;
    let (vocabulary, inner) = unembedding.weight.dims2()?;
    if rows != labels.len() || rows == 0 || width != inner {
        candle_core::bail!(
            "{rows} rows of {width} hidden states with {} labels and an unembedding of {inner}",
            labels.len()
        );
    }
    if let TokenLabels::Given(labels) = labels
        && let Some(label) = labels.iter().find(|label| **label as usize >= vocabulary)
    {
        candle_core::bail!("label {label} is not below the vocabulary of {vocabulary}");
    }
    let input = hidden.detach().contiguous()?;
    let weight = unembedding.weight.widen(hidden.dtype())?;
    let size = slice.unwrap_or(SLICE / vocabulary.max(1)).clamp(1, rows);
    let slices = Slices {
        labels,
        size,
        softcap: unembedding.softcap,
        is_wanted: super::is_tracked(hidden),
    };
    let (facts, gradient) = if is_plain(&input) && is_plain(&weight) {
        slices.fused(&input, &weight)?
    } else {
        slices.composed(&input, &weight)?
    };
    let total: f64 = facts.iter().map(|fact| fact.loss).sum();
    let value = Tensor::full(total, (), &Device::Cpu)?
        .to_dtype(wide(hidden.dtype()))?
        .to_device(hidden.device())?;
    let sum = match gradient {
        Some(stored) => function1("sliced-cross-entropy", hidden, value, move |gradient| {
            stored.broadcast_mul(&gradient.to_dtype(stored.dtype())?)
        })?,
        None => value,
    };
    let (losses, likeliest) = facts.iter().map(|fact| (fact.loss, fact.likeliest)).unzip();
    Ok(SlicedLoss {
        sum,
        losses,
        likeliest,
    })
}

/// Of one row.
#[derive(Debug, Clone, Copy, Default)]
struct Fact {
    loss: f64,
    likeliest: u32,
}

/// How the rows are gone through.
#[derive(Clone, Copy)]
struct Slices<'a> {
    labels: TokenLabels<'a>,
    /// Rows of one.
    size: usize,
    softcap: Option<f64>,
    /// Whether the gradient of the hidden states is.
    is_wanted: bool,
}

impl Slices<'_> {
    /// In one buffer: it holds the logits of a slice, then their gradients.
    fn fused(&self, hidden: &Tensor, weight: &Tensor) -> Result<(Vec<Fact>, Option<Tensor>)> {
        let ((rows, width), vocabulary) = (hidden.dims2()?, weight.dim(0)?);
        let mut facts = vec![Fact::default(); rows];
        let mut gradient = vec![0f32; if self.is_wanted { rows * width } else { 0 }];
        let mut buffer = vec![0f32; self.size * vocabulary];
        with_slice(hidden, |hidden| {
            with_slice(weight, |weight| {
                let weight = Matrix::new(weight, vocabulary, width);
                let of_slices = hidden.chunks(self.size * width);
                for (number, hidden) in of_slices.enumerate() {
                    let (start, count) = (number * self.size, hidden.len() / width);
                    let logits = &mut buffer[..count * vocabulary];
                    let hidden = Matrix::new(hidden, count, width);
                    let all = Threads::All;
                    let replace = Target::Replace;
                    gemm(logits, vocabulary, replace, 1.0, hidden, weight.t(), all);
                    logits
                        .par_chunks_mut(vocabulary)
                        .zip(&mut facts[start..start + count])
                        .enumerate()
                        .for_each(|(row, (z, fact))| {
                            *fact = vector::run(|| self.residual(z, start + row));
                        });
                    if self.is_wanted {
                        let logits = Matrix::new(logits, count, vocabulary);
                        let gradient = &mut gradient[start * width..];
                        gemm(gradient, width, replace, 1.0, logits, weight, all);
                    }
                }
                Ok(())
            })
        })?;
        let gradient = match self.is_wanted {
            true => Some(Tensor::from_vec(gradient, (rows, width), &Device::Cpu)?),
            false => None,
        };
        Ok((facts, gradient))
    }

    /// One row: `z`, at first the products with the unembedding, becomes their gradient when that is wanted.
    #[inline(always)]
    fn residual(&self, z: &mut [f32], row: usize) -> Fact {
        if let Some(cap) = self.softcap {
            let cap = cap as f32;
            for z in z.iter_mut() {
                *z = cap * vector::tanh(*z / cap);
            }
        }
        let maximum = vector::max(z);
        let likeliest = z.iter().position(|z| *z == maximum).unwrap_or(0) as u32;
        let at = |token: u32, z: &[f32]| z.get(token as usize).copied().unwrap_or(f32::NAN);
        let mut sum = 0.0;
        for z in z.chunks(1024) {
            sum += f64::from(vector::sum(z, |z| vector::exp(z - maximum)));
        }
        let label = match self.labels {
            TokenLabels::Given(labels) => labels.get(row).copied().unwrap_or(0),
            TokenLabels::Drawn(uniforms) => {
                let mut rest = uniforms.get(row).copied().unwrap_or(0.0) * sum;
                let drawn = z.iter().position(|z| {
                    rest -= f64::from(vector::exp(*z - maximum));
                    rest < 0.0
                });
                drawn.map_or(likeliest, |token| token as u32)
            }
        };
        let loss = sum.ln() + f64::from(maximum) - f64::from(at(label, z));
        if self.is_wanted {
            let scale = (1.0 / sum) as f32;
            let own = self.slope(at(label, z));
            match self.softcap {
                Some(_) => {
                    for z in z.iter_mut() {
                        *z = vector::exp(*z - maximum) * scale * self.slope(*z);
                    }
                }
                None => {
                    for z in z.iter_mut() {
                        *z = vector::exp(*z - maximum) * scale;
                    }
                }
            }
            if let Some(z) = z.get_mut(label as usize) {
                *z -= own;
            }
        }
        Fact { loss, likeliest }
    }

    /// The derivative of a bounded logit by what it was before.
    #[inline(always)]
    fn slope(&self, z: f32) -> f32 {
        match self.softcap {
            Some(cap) => {
                let bounded = z / cap as f32;
                1.0 - bounded * bounded
            }
            None => 1.0,
        }
    }

    /// By candle's operators, on any device and in any number type.
    fn composed(&self, hidden: &Tensor, weight: &Tensor) -> Result<(Vec<Fact>, Option<Tensor>)> {
        let rows = hidden.dim(0)?;
        let (mut facts, mut gradients) = (Vec::with_capacity(rows), Vec::new());
        for start in (0..rows).step_by(self.size) {
            let len = self.size.min(rows - start);
            let mut logits = hidden.narrow(0, start, len)?.matmul(&weight.t()?)?;
            let mut slope = None;
            if let Some(cap) = self.softcap {
                let bounded = (logits / cap)?.tanh()?;
                slope = Some(bounded.sqr()?.affine(-1.0, 1.0)?);
                logits = (bounded * cap)?;
            }
            let labels = self.labels.narrow(start, len);
            let (of_rows, residual) = residuals(&logits, labels, self.is_wanted)?;
            facts.extend(of_rows);
            if let Some(mut residual) = residual {
                if let Some(slope) = slope {
                    residual = (residual * slope)?;
                }
                gradients.push(residual.matmul(weight)?);
            }
        }
        let gradient = match self.is_wanted {
            true => Some(Tensor::cat(&gradients, 0)?),
            false => None,
        };
        Ok((facts, gradient))
    }
}

/// Of a slice: each row's numbers, and `p - y`, (rows, vocabulary), when it is wanted.
fn residuals(
    logits: &Tensor,
    labels: TokenLabels<'_>,
    is_wanted: bool,
) -> Result<(Vec<Fact>, Option<Tensor>)> {
    let (rows, vocabulary) = logits.dims2()?;
    let exact = match logits.dtype() {
        DType::F64 => logits.clone(),
        _ => logits.to_dtype(DType::F32)?,
    };
    let shifted = exact.broadcast_sub(&exact.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let log_probabilities = shifted.broadcast_sub(&log_sum)?;
    let labels: Vec<u32> = match labels {
        TokenLabels::Given(labels) => labels.to_vec(),
        TokenLabels::Drawn(uniforms) => draw(&log_probabilities.exp()?, uniforms)?,
    };
    let labels = Tensor::from_vec(labels, (rows, 1), logits.device())?;
    let losses: Vec<f64> = log_probabilities
        .gather(&labels, 1)?
        .squeeze(1)?
        .neg()?
        .to_dtype(DType::F64)?
        .to_device(&Device::Cpu)?
        .to_vec1()?;
    let likeliest: Vec<u32> = exact
        .argmax(D::Minus1)?
        .to_device(&Device::Cpu)?
        .to_vec1()?;
    let facts = losses.into_iter().zip(likeliest);
    let facts = facts.map(|(loss, likeliest)| Fact { loss, likeliest });
    let residual = if is_wanted {
        let tokens = Tensor::arange(0u32, u32::try_from(vocabulary)?, logits.device())?;
        let hit = labels.broadcast_eq(&tokens.unsqueeze(0)?)?;
        let residual = (log_probabilities.exp()? - hit.to_dtype(exact.dtype())?)?;
        Some(residual.to_dtype(logits.dtype())?)
    } else {
        None
    };
    Ok((facts.collect(), residual))
}

/// For each row of `probabilities` the first token at which their sum exceeds the row's number of `uniforms`. The tokens are
/// taken in about √vocabulary runs: the sums of all runs and the numbers of one run for each row go to the host, not the matrix.
fn draw(probabilities: &Tensor, uniforms: &[f64]) -> Result<Vec<u32>> {
    let (rows, vocabulary) = probabilities.dims2()?;
    let width = vocabulary.isqrt().max(1);
    let runs = vocabulary.div_ceil(width);
    let padded = probabilities.pad_with_zeros(1, 0, runs * width - vocabulary)?;
    let host = |numbers: Tensor| -> Result<Vec<Vec<f64>>> {
        numbers
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .to_vec2()
    };
    let sums = host(padded.reshape((rows, runs, width))?.sum(2)?)?;
    let of_rows: Vec<(usize, f64)> = (sums.iter().zip(uniforms))
        .map(|(sums, uniform)| reach(sums, *uniform))
        .collect();
    let tokens = of_rows
        .iter()
        .flat_map(|(run, _)| run * width..(run + 1) * width);
    let tokens = tokens
        .map(|token| Ok(u32::try_from(token)?))
        .collect::<Result<Vec<_>>>()?;
    let tokens = Tensor::from_vec(tokens, (rows, width), padded.device())?;
    let numbers = host(padded.gather(&tokens, 1)?)?;
    (numbers.iter().zip(of_rows))
        .map(|(numbers, (run, rest))| Ok(u32::try_from(run * width + reach(numbers, rest).0)?))
        .collect()
}

/// The first place at which the sum of the numbers exceeds `limit`, and what of the limit is left before it. Where rounding leaves
/// the sum below the limit, the last number that is not zero.
fn reach(numbers: &[f64], limit: f64) -> (usize, f64) {
    let mut rest = limit;
    for (at, number) in numbers.iter().enumerate() {
        if rest < *number {
            return (at, rest);
        }
        rest -= number;
    }
    let last = numbers.iter().rposition(|number| *number > 0.0);
    (last.unwrap_or(0), rest)
}
