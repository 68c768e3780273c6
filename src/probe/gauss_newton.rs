//! The Gauss-Newton estimator: `b` and all of `A`, for every group at once, from per-example gates.
//!
//! With `J_s` the derivatives of example `s`'s logits along the K directions and `p_s` its
//! probabilities, `b = mean_s J_sᵀ (p_s - y_s)` and
//! `A = mean_s J_sᵀ (diag p_s - p_s p_sᵀ) J_s`, which is positive semi-definite. One backward pass of a
//! logit gives a row of every `J_s`: C - 1 passes for C classes, since adding the same number to all
//! logits of an example changes nothing. For many classes, one pass with labels drawn from the model
//! gives the same in expectation (Martens 2014, <https://arxiv.org/abs/1412.1193>, section 5).

use autopeft_adapters::Pass;
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::estimator::{Estimate, Estimator, Point, host_rows, mean_loss};
use super::influence::Curvature;
use crate::error::Result;
use crate::metrics;

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
        let examples = point.labels.len();
        let mut rows = vec![vec![0.0; point.groups.len()]; examples];
        for (k, group) in point.groups.iter().enumerate() {
            for parameter in &group.parameters {
                let Some(column) = delivered.get(parameter.index()) else {
                    continue;
                };
                let column = column
                    .to_device(&Device::Cpu)?
                    .to_dtype(DType::F64)?
                    .to_vec1::<f64>()?;
                for (row, number) in rows.iter_mut().zip(column) {
                    if let Some(entry) = row.get_mut(k) {
                        *entry += number;
                    }
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

    fn measures_coupling(&self) -> bool {
        true
    }

    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate> {
        let pass = Pass::measure(point.directions.clone());
        let logits = point.model.forward(point.inputs, &pass)?;
        let rows = host_rows(&logits)?;
        let loss = mean_loss(&rows, point.labels);
        let probabilities: Vec<Vec<f64>> =
            rows.iter().map(|row| metrics::probabilities(row)).collect();
        let classes = logits.dim(1)?;
        let (slope, curvature) = if classes <= self.exact_classes.max(2) {
            exact(point, &pass, &logits, &probabilities)?
        } else {
            self.sampled(point, &pass, &logits, &probabilities)?
        };
        Ok(Estimate {
            slope,
            curvature: Curvature::Full(curvature),
            loss,
            // One forward pass: there is no difference of losses that could drown in noise.
            noise: 0.0,
            fit: None,
        })
    }
}

/// C - 1 backward passes, of `z_c - z_0`.
fn exact(
    point: &Point<'_>,
    pass: &Pass,
    logits: &Tensor,
    probabilities: &[Vec<f64>],
) -> Result<(Vec<f64>, Vec<f64>)> {
    let first = logits.narrow(1, 0, 1)?;
    let jacobians = (1..logits.dim(1)?)
        .map(|class| {
            let difference = (logits.narrow(1, class, 1)? - &first)?.sum_all()?;
            Tangents::backward(point, pass, &difference)
        })
        .collect::<Result<Vec<_>>>()?;
    let groups = point.groups.len();
    let examples = point.labels.len() as f64;
    let mut slope = vec![0.0; groups];
    let mut curvature = vec![0.0; groups * groups];
    for (s, (p, label)) in probabilities.iter().zip(point.labels).enumerate() {
        let mut mean = vec![0.0; groups];
        for (class, jacobian) in jacobians.iter().enumerate() {
            let (Some(row), Some(p)) = (jacobian.rows.get(s), p.get(class + 1)) else {
                continue;
            };
            let residual = p - f64::from(u8::from(class + 1 == *label as usize));
            for ((slope, mean), j) in slope.iter_mut().zip(&mut mean).zip(row) {
                // The gradient along g; `b` is its value for the step that is subtracted.
                *slope += residual * j / examples;
                *mean += p * j;
            }
            add_outer(&mut curvature, row, p / examples);
        }
        add_outer(&mut curvature, &mean, -1.0 / examples);
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
        logits: &Tensor,
        probabilities: &[Vec<f64>],
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (point.step as u64).rotate_left(32));
        let drawn: Vec<u32> = probabilities
            .iter()
            .map(|p| draw(p, random.random()))
            .collect();
        let examples = point.labels.len() as f64;
        let groups = point.groups.len();
        let truth = Tangents::backward(point, pass, &along(logits, probabilities, point.labels)?)?;
        let mut slope = vec![0.0; groups];
        for row in &truth.rows {
            for (slope, j) in slope.iter_mut().zip(row) {
                *slope += j / examples;
            }
        }
        let model = Tangents::backward(point, pass, &along(logits, probabilities, &drawn)?)?;
        let mut curvature = vec![0.0; groups * groups];
        for row in &model.rows {
            add_outer(&mut curvature, row, 1.0 / examples);
        }
        Ok((slope, curvature))
    }
}

/// `Σ_s (p_s - y_s)ᵀ z_s`, whose derivative is that of the summed loss, example by example.
fn along(
    logits: &Tensor,
    probabilities: &[Vec<f64>],
    labels: &[u32],
) -> candle_core::Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let mut residuals = Vec::with_capacity(rows * classes);
    for (p, label) in probabilities.iter().zip(labels) {
        residuals.extend(
            p.iter()
                .enumerate()
                .map(|(class, p)| p - f64::from(u8::from(class == *label as usize))),
        );
    }
    let residuals = Tensor::from_vec(residuals, (rows, classes), &Device::Cpu)?
        .to_dtype(logits.dtype())?
        .to_device(logits.device())?;
    (logits * residuals)?.sum_all()
}

fn draw(probabilities: &[f64], uniform: f64) -> u32 {
    let mut rest = uniform;
    for (class, p) in (0u32..).zip(probabilities) {
        rest -= p;
        if rest < 0.0 {
            return class;
        }
    }
    (probabilities.len().max(1) - 1) as u32
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
