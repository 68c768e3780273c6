//! The `fit` estimator: the paper's, a parabola through losses along each group's own axis.
//!
//! At `x ∈ {h, h/2, -h/2, -h}` with `h` the group's learning rate, `y = L(w - x g_(k)) - L(w)` is fitted
//! by `-b x + ½ A x²`. The points are symmetric, so the odd part gives `b` and the even part `A`:
//! `b = -Σxy / Σx²`, `A = 2 Σx²y / Σx⁴`. Source: Bu and Xu 2024 (GeN), <https://arxiv.org/abs/2407.02772>,
//! section 3; one axis at a time, since random directions through all groups leak their coupling into A. A group that does not
//! move (rate 0, as what is measured as a reference) is measured at the geometric mean of the others' rates.
//!
//! What a forward pass computes below the lowest layer that has a parameter of the group is kept from one pass at
//! the present parameters and not computed again. Small batches are stacked: points of groups that start at the same layer go through
//! one pass, each with its own copy of the batch.

use autopeft_adapters::{Pass, Prefix, Variant};

use super::estimator::{Estimate, Estimator, Point};
use super::influence::Curvature;
use crate::error::{Error, Result};
use crate::train::geometric_mean;

const POINTS: [f64; 4] = [1.0, 0.5, -0.5, -1.0];

/// Beyond so many tokens larger products gain nothing (docs/performance.md).
const STACKED_TOKENS: usize = 2048;

/// The `fit` estimator. Costs 4K + 4 forward passes, all but four of them from the group's lowest layer on.
#[derive(Debug, Clone, Copy)]
pub struct ParabolaFit {
    stacked_tokens: usize,
}

impl ParabolaFit {
    /// Stacks copies of the measuring batch up to this many tokens, padding included; with 0 none.
    pub const fn stacking(stacked_tokens: usize) -> Self {
        Self { stacked_tokens }
    }
}

impl Default for ParabolaFit {
    fn default() -> Self {
        Self::stacking(STACKED_TOKENS)
    }
}

impl Estimator for ParabolaFit {
    fn name(&self) -> &'static str {
        "fit"
    }

    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate> {
        let below = Prefix::new();
        let loss = point.loss_of(&below.record())?;
        let most = (self.stacked_tokens / point.batch.inputs.input_ids.elem_count()).max(1);
        let losses = |copies: usize, pass: Pass| {
            let batch = point.batch.repeated(copies)?;
            Ok::<_, Error>(point.model.outcome(&batch, &pass)?.losses(copies))
        };
        // Also of two copies beside one, since a stacked pass may add up in another order.
        let copies = most.min(2);
        let again = losses(copies, Pass::variants(vec![Variant::default(); copies]))?;
        let noise = (again.iter().chain([&point.loss()?]))
            .map(|again| (again - loss).abs())
            .fold(0.0, f64::max);

        let usual =
            geometric_mean(point.rates.iter().copied().filter(|rate| *rate > 0.0)).unwrap_or(0.0);
        let mut order: Vec<(usize, usize)> = (point.groups.iter().enumerate())
            .map(|(k, group)| (below.layers_below(&group.parameters), k))
            .collect();
        order.sort_unstable();
        let mut samples = vec![Vec::with_capacity(POINTS.len()); order.len()];
        for level in order.chunk_by(|a, b| a.0 == b.0) {
            let places: Vec<(usize, f64)> = (level.iter())
                .flat_map(|(_, k)| {
                    let own = point.rates.get(*k).copied().unwrap_or(0.0);
                    let rate = if own == 0.0 { usual } else { own };
                    POINTS.map(|position| (*k, position * rate))
                })
                .collect();
            for stack in places.chunks(most) {
                let moved = |(k, x): &(usize, f64)| {
                    let mut factors = vec![0.0; order.len()];
                    factors[*k] = -x;
                    point.moved(&factors)
                };
                let variants = stack.iter().map(moved).collect::<Result<_>>()?;
                let displaced = losses(stack.len(), below.resume_variants(variants)?)?;
                for ((k, x), displaced) in stack.iter().zip(displaced) {
                    samples[*k].push((*x, displaced - loss));
                }
            }
        }
        let fits: Vec<Parabola> = (samples.iter())
            .map(|samples| Parabola::through(samples))
            .collect();
        Ok(Estimate {
            slope: fits.iter().map(|fit| fit.slope).collect(),
            curvature: Curvature::Diagonal(fits.iter().map(|fit| fit.curvature).collect()),
            loss,
            noise,
            fit: Some(fits.iter().map(|fit| fit.r2).collect()),
        })
    }
}

/// `y = -b x + ½ A x²`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Parabola {
    slope: f64,
    curvature: f64,
    /// Share of the samples' spread that the parabola explains, at most 1.
    r2: f64,
}

impl Parabola {
    /// Least squares through samples (x, y) that are symmetric in x.
    fn through(samples: &[(f64, f64)]) -> Self {
        let sum = |of: fn(f64, f64) -> f64| samples.iter().map(|(x, y)| of(*x, *y)).sum::<f64>();
        let (squares, fourths) = (sum(|x, _| x * x), sum(|x, _| x.powi(4)));
        if squares == 0.0 {
            return Self {
                slope: 0.0,
                curvature: 0.0,
                r2: 0.0,
            };
        }
        let slope = -sum(|x, y| x * y) / squares;
        let curvature = 2.0 * sum(|x, y| x * x * y) / fourths;
        let mean = sum(|_, y| y) / samples.len() as f64;
        let spread: f64 = samples.iter().map(|(_, y)| (y - mean).powi(2)).sum();
        let rest: f64 = samples
            .iter()
            .map(|(x, y)| (y + slope * x - 0.5 * curvature * x * x).powi(2))
            .sum();
        Self {
            slope,
            curvature,
            r2: if spread > 0.0 {
                1.0 - rest / spread
            } else {
                0.0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_parabola_is_recovered() {
        let samples =
            POINTS.map(|x| (0.3 * x, -2.0 * (0.3 * x) + 0.5 * 7.0 * (0.3f64 * x).powi(2)));
        let parabola = Parabola::through(&samples);
        assert!((parabola.slope - 2.0).abs() < 1e-12);
        assert!((parabola.curvature - 7.0).abs() < 1e-10);
        assert!((parabola.r2 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_cubic_lowers_the_share_explained() {
        let samples = POINTS.map(|x| (x, x.powi(3) - 0.75 * x + x * x));
        assert!(Parabola::through(&samples).r2 < 0.99);
    }
}
