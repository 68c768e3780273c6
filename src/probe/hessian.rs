//! Estimators of the true Hessian, from central differences of gradients:
//! `H d ≈ (∇L(w + εd) - ∇L(w - εd)) / 2ε`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::estimator::{Estimate, Estimator, Point};
use super::influence::Curvature;
use crate::error::Result;

/// The `hvp` estimator: the diagonal of `A` from one product along `d = Σ_k s_k g_(k)` with random signs,
/// `A_kk ≈ s_k g_(k)ᵀ (H d)_(k)`. Unbiased; its noise is the coupling between groups, and averages out.
#[derive(Debug, Clone)]
pub struct HessianVectorProduct {
    /// Seed of the signs.
    pub seed: u64,
}

/// The `full` estimator: all of `A` from one product for each group.
#[derive(Debug, Clone, Copy, Default)]
pub struct FullHessian;

/// `ε` that balances the error of the difference, of order ε², against rounding, of order 1/ε.
fn spacing(point: &Point<'_>) -> Result<f64> {
    let mut parameters = point.groups.iter().flat_map(|group| &group.parameters);
    let epsilon = match parameters
        .next()
        .map(|parameter| parameter.initial().dtype())
    {
        Some(candle_core::DType::F64) => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    };
    let (values, directions) = point.norms()?;
    Ok(epsilon.cbrt() * (1.0 + values) / directions.max(f64::MIN_POSITIVE))
}

/// `g_(j)ᵀ (H d)_(j)` for each group j, with `d = Σ_k factors_k g_(k)`.
fn product(point: &Point<'_>, factors: &[f64], epsilon: f64) -> Result<Vec<f64>> {
    let side = |sign: f64| -> Result<Vec<f64>> {
        let factors: Vec<f64> = factors
            .iter()
            .map(|factor| factor * sign * epsilon)
            .collect();
        let applied = point.moved(&factors)?.apply()?;
        let (_, gradients) = point.gradients()?;
        drop(applied);
        point.slopes(&gradients)
    };
    let (above, below) = (side(1.0)?, side(-1.0)?);
    Ok(above
        .iter()
        .zip(&below)
        .map(|(above, below)| (above - below) / (2.0 * epsilon))
        .collect())
}

impl Estimator for HessianVectorProduct {
    fn name(&self) -> &'static str {
        "hvp"
    }

    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate> {
        let (loss, gradients) = point.gradients()?;
        let slope = point.slopes(&gradients)?;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (point.step as u64).rotate_left(32));
        let signs: Vec<f64> = slope
            .iter()
            .map(|_| if random.random::<bool>() { 1.0 } else { -1.0 })
            .collect();
        let along = product(point, &signs, spacing(point)?)?;
        Ok(Estimate {
            slope,
            curvature: Curvature::Diagonal(along.iter().zip(&signs).map(|(a, s)| a * s).collect()),
            loss,
            noise: (loss - point.loss()?).abs(),
            fit: None,
        })
    }
}

impl Estimator for FullHessian {
    fn name(&self) -> &'static str {
        "full"
    }

    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate> {
        let (loss, gradients) = point.gradients()?;
        let slope = point.slopes(&gradients)?;
        let groups = slope.len();
        let epsilon = spacing(point)?;
        let mut columns = Vec::with_capacity(groups);
        for k in 0..groups {
            let mut factors = vec![0.0; groups];
            if let Some(factor) = factors.get_mut(k) {
                *factor = 1.0;
            }
            columns.push(product(point, &factors, epsilon)?);
        }
        // The exact matrix is symmetric; averaging the two halves halves the rounding.
        let entry = |i: usize, j: usize| {
            columns
                .get(j)
                .and_then(|column| column.get(i))
                .copied()
                .unwrap_or(0.0)
        };
        let curvature = (0..groups * groups)
            .map(|at| 0.5 * (entry(at / groups, at % groups) + entry(at % groups, at / groups)))
            .collect();
        Ok(Estimate {
            slope,
            curvature: Curvature::Full(curvature),
            loss,
            noise: (loss - point.loss()?).abs(),
            fit: None,
        })
    }
}
