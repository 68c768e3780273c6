//! Cross-entropy over a large vocabulary, `Σ_r log Σ_v exp z_rv - z_r,label` with `z = unembed(hidden)`, a slice of
//! the rows at a time.
//!
//! The logits of all rows together (rows × vocabulary) are never held: each slice's loss and gradient `(p - y)` are
//! carried back to its hidden states at once, and only these, (rows, hidden), are kept for the backward pass. The
//! idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, <https://arxiv.org/abs/2410.10989>,
//! section 3.2). The unembedding itself gets no gradient.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::function::function1;
use super::rows::{for_each_row, is_plain, with_slice};

/// Numbers of a slice of the logits that are held at once: 32 MiB of `f32`.
const SLICE: usize = 1 << 23;

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
    /// The sum over the rows, a scalar, differentiable by the hidden states.
    pub sum: Tensor,
    /// The loss of each row, in nats.
    pub losses: Vec<f64>,
    /// The likeliest token of each row.
    pub likeliest: Vec<u32>,
}

/// Cross-entropy of `unembed(hidden)` (rows, vocabulary) with a label for each row of `hidden` (rows, width).
/// `unembed` is called with a few rows at a time, at most `slice` (`None`: as many as fit 32 MiB).
///
/// # Errors
/// When the numbers of rows and labels differ, a label is not below the vocabulary, or a tensor operation fails.
pub fn sliced_cross_entropy(
    hidden: &Tensor,
    labels: TokenLabels<'_>,
    slice: Option<usize>,
    unembed: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<SlicedLoss> {
    let (rows, _) = hidden.dims2()?;
    if rows != labels.len() || rows == 0 {
        candle_core::bail!("{rows} rows of hidden states with {} labels", labels.len());
    }
    let is_tracked = super::is_tracked(hidden);
    let (mut losses, mut likeliest) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut gradients = Vec::new();
    let mut start = 0;
    // The first row alone tells the size of the vocabulary.
    let mut size = slice.unwrap_or(1).max(1);
    while start < rows {
        let len = size.min(rows - start);
        let part = hidden.detach().narrow(0, start, len)?.contiguous()?;
        let part = if is_tracked {
            Var::from_tensor(&part)?.into_inner()
        } else {
            part
        };
        let logits = unembed(&part)?;
        let (_, vocabulary) = logits.dims2()?;
        let row_losses = residuals(&logits.detach(), labels.narrow(start, len), is_tracked)?;
        losses.extend(row_losses.losses);
        likeliest.extend(row_losses.likeliest);
        if let Some(residual) = row_losses.residual {
            // d(Σ z ⊙ residual)/dz is the residual: what the chain rule carries back to the hidden states.
            let along = (&logits * residual)?.sum_all()?;
            let store = along.backward()?;
            match store.get(&part) {
                Some(gradient) => gradients.push(gradient.detach()),
                None => candle_core::bail!("the unembedding has no backward"),
            }
        }
        start += len;
        size = slice.unwrap_or((SLICE / vocabulary).max(1));
    }
    let total: f64 = losses.iter().sum();
    let value = Tensor::full(total, (), &Device::Cpu)?
        .to_dtype(hidden.dtype())?
        .to_device(hidden.device())?;
    let sum = if is_tracked {
        let stored = Tensor::cat(&gradients, 0)?;
        function1("sliced-cross-entropy", hidden, value, move |gradient| {
            stored.broadcast_mul(gradient)
        })?
    } else {
        value
    };
    Ok(SlicedLoss {
        sum,
        losses,
        likeliest,
    })
}

/// Of one slice.
struct Residuals {
    losses: Vec<f64>,
    likeliest: Vec<u32>,
    /// `p - y`, (rows, vocabulary), when it was wanted.
    residual: Option<Tensor>,
}

fn residuals(logits: &Tensor, labels: TokenLabels<'_>, wanted: bool) -> Result<Residuals> {
    let logits = logits.contiguous()?;
    let (rows, vocabulary) = logits.dims2()?;
    if let TokenLabels::Given(labels) = labels
        && let Some(label) = labels.iter().find(|label| **label as usize >= vocabulary)
    {
        candle_core::bail!("label {label} is not below the vocabulary of {vocabulary}");
    }
    if is_plain(&logits) {
        fused(&logits, labels, wanted)
    } else {
        composed(&logits, labels, rows, vocabulary, wanted)
    }
}

/// One pass over each row.
fn fused(logits: &Tensor, labels: TokenLabels<'_>, wanted: bool) -> Result<Residuals> {
    let (rows, vocabulary) = logits.dims2()?;
    // Loss, likeliest token and label of each row, found in parallel with the residuals.
    let facts = std::sync::Mutex::new(vec![(0.0f64, 0u32); rows]);
    let mut numbers = with_slice(logits, |numbers| Ok(numbers.to_vec()))?;
    for_each_row(&mut numbers, vocabulary, |row, z| {
        let (mut maximum, mut likeliest) = (f32::NEG_INFINITY, 0u32);
        for (token, z) in (0u32..).zip(z.iter()) {
            if *z > maximum {
                (maximum, likeliest) = (*z, token);
            }
        }
        let of = |token: u32, z: &[f32]| z.get(token as usize).copied().unwrap_or(f32::NAN);
        let given = match labels {
            TokenLabels::Given(labels) => labels.get(row).copied(),
            TokenLabels::Drawn(_) => None,
        };
        let mut chosen = given.map(|label| of(label, z));
        let mut sum = 0.0f64;
        for z in z.iter_mut() {
            *z = (*z - maximum).exp();
            sum += f64::from(*z);
        }
        let label = match labels {
            TokenLabels::Given(_) => given.unwrap_or(0),
            TokenLabels::Drawn(uniforms) => {
                let mut rest = uniforms.get(row).copied().unwrap_or(0.0) * sum;
                let mut drawn = likeliest;
                for (token, e) in (0u32..).zip(z.iter()) {
                    rest -= f64::from(*e);
                    if rest < 0.0 {
                        drawn = token;
                        break;
                    }
                }
                chosen = Some(of(drawn, z).ln() + maximum);
                drawn
            }
        };
        let loss = sum.ln() + f64::from(maximum) - f64::from(chosen.unwrap_or(f32::NAN));
        if wanted {
            let scale = (1.0 / sum) as f32;
            z.iter_mut().for_each(|z| *z *= scale);
            if let Some(z) = z.get_mut(label as usize) {
                *z -= 1.0;
            }
        }
        let mut facts = match facts.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(entry) = facts.get_mut(row) {
            *entry = (loss, likeliest);
        }
    });
    let facts = match facts.into_inner() {
        Ok(facts) => facts,
        Err(poisoned) => poisoned.into_inner(),
    };
    let (losses, likeliest) = facts.into_iter().unzip();
    let residual = wanted
        .then(|| Tensor::from_vec(numbers, (rows, vocabulary), &Device::Cpu))
        .transpose()?;
    Ok(Residuals {
        losses,
        likeliest,
        residual,
    })
}

/// By candle's operators, on any device and in any number type.
fn composed(
    logits: &Tensor,
    labels: TokenLabels<'_>,
    rows: usize,
    vocabulary: usize,
    wanted: bool,
) -> Result<Residuals> {
    let exact = match logits.dtype() {
        DType::F64 => logits.clone(),
        _ => logits.to_dtype(DType::F32)?,
    };
    let shifted = exact.broadcast_sub(&exact.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let log_probabilities = shifted.broadcast_sub(&log_sum)?;
    let labels: Vec<u32> = match labels {
        TokenLabels::Given(labels) => labels.to_vec(),
        TokenLabels::Drawn(uniforms) => {
            let host: Vec<Vec<f64>> = log_probabilities
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .to_vec2()?;
            host.iter()
                .zip(uniforms)
                .map(|(row, uniform)| draw(row, *uniform))
                .collect()
        }
    };
    let labels = Tensor::from_vec(labels, (rows, 1), logits.device())?;
    let losses = log_probabilities
        .gather(&labels, 1)?
        .squeeze(1)?
        .neg()?
        .to_dtype(DType::F64)?
        .to_device(&Device::Cpu)?
        .to_vec1()?;
    let likeliest = exact
        .argmax(D::Minus1)?
        .to_device(&Device::Cpu)?
        .to_vec1()?;
    let residual = if wanted {
        let tokens = Tensor::arange(0u32, u32::try_from(vocabulary)?, logits.device())?;
        let hit = labels.broadcast_eq(&tokens.unsqueeze(0)?)?;
        let residual = (log_probabilities.exp()? - hit.to_dtype(exact.dtype())?)?;
        Some(residual.to_dtype(logits.dtype())?)
    } else {
        None
    };
    Ok(Residuals {
        losses,
        likeliest,
        residual,
    })
}

fn draw(log_probabilities: &[f64], uniform: f64) -> u32 {
    let mut rest = uniform;
    for (token, log) in (0u32..).zip(log_probabilities) {
        rest -= log.exp();
        if rest < 0.0 {
            return token;
        }
    }
    (log_probabilities.len().max(1) - 1) as u32
}
