//! The Gauss-Newton estimator: `b` and all of `A`, for every group at once, from per-example gates.
//!
//! With `J_s` the derivatives of example `s`'s outputs along the K directions, and the gradient and the Hessian
//! `H_s` of its loss in these outputs (see [`crate::task`]), `b = mean_s J_sᵀ ∂ℓ_s/∂z_s` and
//! `A = mean_s J_sᵀ H_s J_s`, which is positive semi-definite. One backward pass of an output gives a row of
//! every `J_s`: C - 1 passes for C classes, since adding the same number to all logits of an example changes
//! nothing. For many outputs, one pass with labels drawn from the model gives the same in expectation
//! (Martens 2014, <https://arxiv.org/abs/1412.1193>, section 5).

use autopeft_adapters::Pass;
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::estimator::{Estimate, Estimator, Point};
use super::influence::Curvature;
use crate::error::Result;
use crate::task::{Hessian, Local, Outcome};

/// The `gauss-newton` estimator.
#[derive(Debug, Clone)]
pub struct GaussNewton {
    /// Up to this number of classes, `A` is exact; above, labels are sampled.
    pub exact_classes: usize,
    /// Seed of the sampled labels.
    pub seed: u64,
}

/// Derivatives of one scalar for each example along each group: examples × K, row by row.
struct Tangents {
    rows: Vec<Vec<f64>>,
}

impl Tangents {
    fn backward(point: &Point<'_>, pass: &Pass, scalar: &Tensor) -> Result<Self> {
        let delivered = pass.backward(scalar)?;
        let examples = point.batch.rows.len();
        let mut rows = vec![vec![0.0; point.groups.len()]; examples];
        let (mut columns, mut groups) = (Vec::new(), Vec::new());
        for (k, group) in point.groups.iter().enumerate() {
            for parameter in &group.parameters {
                if let Some(column) = delivered.get(parameter.index()) {
                    columns.push(column);
                    groups.push(k);
                }
            }
        }
        if columns.is_empty() {
            return Ok(Self { rows });
        }
        // Together, since each way from a GPU to the host takes its time.
        let numbers = Tensor::cat(&columns, 0)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        for (column, k) in numbers.chunks(examples.max(1)).zip(groups) {
            for (row, number) in rows.iter_mut().zip(column) {
                if let Some(entry) = row.get_mut(k) {
                    *entry += number;
                }
            }
        }
        Ok(Self { rows })
    }
}

impl Estimator for GaussNewton {
    fn name(&self) -> &'static str {
        "gauss-newton"
    }

    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate> {
        let pass = Pass::measure(point.directions.clone());
        let outcome = point.model.outcome(point.batch, &pass)?;
        let (slope, curvature) = match outcome.exact(self.exact_classes.max(2))? {
            Some(local) => exact(point, &pass, &local)?,
            None => self.sampled(point, &pass, &*outcome)?,
        };
        Ok(Estimate {
            slope,
            curvature: Curvature::Full(curvature),
            loss: outcome.loss(),
            // One forward pass: there is no difference of losses that could drown in noise.
            noise: 0.0,
            fit: None,
        })
    }
}

/// One backward pass for each output.
fn exact(point: &Point<'_>, pass: &Pass, local: &Local) -> Result<(Vec<f64>, Vec<f64>)> {
    let jacobians = (local.scalars.iter())
        .map(|scalar| Tangents::backward(point, pass, scalar))
        .collect::<Result<Vec<_>>>()?;
    let groups = point.groups.len();
    let examples = local.gradients.len() as f64;
    let mut slope = vec![0.0; groups];
    let mut curvature = vec![0.0; groups * groups];
    for (s, (gradient, hessian)) in local.gradients.iter().zip(&local.hessians).enumerate() {
        let (diagonal, is_softmax) = match hessian {
            Hessian::Diagonal(diagonal) => (diagonal, false),
            Hessian::Softmax(p) => (p, true),
        };
        let mut mean = vec![0.0; groups];
        for ((jacobian, residual), h) in jacobians.iter().zip(gradient).zip(diagonal) {
            let Some(row) = jacobian.rows.get(s) else {
                continue;
            };
            for ((slope, mean), j) in slope.iter_mut().zip(&mut mean).zip(row) {
                // The gradient along g; `b` is its value for the step that is subtracted.
                *slope += residual * j / examples;
                *mean += h * j;
            }
            add_outer(&mut curvature, row, h / examples);
        }
        if is_softmax {
            add_outer(&mut curvature, &mean, -1.0 / examples);
        }
    }
    Ok((slope, curvature))
}

impl GaussNewton {
    /// Two backward passes: of the true loss for `b`, and of the loss with labels drawn from the model for
    /// `A`, whose outer product has the Gauss-Newton matrix as its mean.
    fn sampled(
        &self,
        point: &Point<'_>,
        pass: &Pass,
        outcome: &dyn Outcome,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (point.step as u64).rotate_left(32));
        let groups = point.groups.len();
        let truth = Tangents::backward(point, pass, &outcome.scalar()?)?;
        let mut slope = vec![0.0; groups];
        for row in &truth.rows {
            for (slope, j) in slope.iter_mut().zip(row) {
                *slope += j;
            }
        }
        let model = Tangents::backward(point, pass, &outcome.drawn(&mut random)?)?;
        let mut curvature = vec![0.0; groups * groups];
        for row in &model.rows {
            add_outer(&mut curvature, row, 1.0 / outcome.count());
        }
        Ok((slope, curvature))
    }
}

/// `matrix += factor · v vᵀ`.
fn add_outer(matrix: &mut [f64], v: &[f64], factor: f64) {
    for (row, left) in matrix.chunks_mut(v.len().max(1)).zip(v) {
        let scaled = factor * left;
        for (entry, right) in row.iter_mut().zip(v) {
            *entry += scaled * right;
        }
    }
}
