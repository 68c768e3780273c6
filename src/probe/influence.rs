//! Influence of groups of parameters, from measurements of slope and curvature along the optimizer's direction.
//!
//! Near the present weights the loss along group `k`'s update direction is `L − η b_k + ½ η² A_kk`. So its best rate is
//! `η* = b/A`, its predicted decrease `v = b²/2A`, and its influence per parameter `PPI = b²/(A d)`.
//! Source: Hi-DLR, Xu, Bu, Zhang and Barnett 2025, <https://arxiv.org/abs/2501.06954v1>, sections on per-parameter
//! influence and learning rates.
//!
//! ```
//! use autopeft::probe::influence::{Verdict, judge, optimal_rate, value};
//! let (slope, curvature) = (0.4, 8.0);
//! assert_eq!(judge(slope, curvature, None, 0.0), Verdict::Accepted);
//! assert_eq!(optimal_rate(slope, curvature), Some(0.05));
//! assert!((value(slope, curvature) - 0.01).abs() < 1e-12);
//! assert_eq!(judge(slope, -8.0, None, 0.0), Verdict::BadCurvature);
//! ```

mod freezing;
mod score;

use serde::{Deserialize, Serialize};

pub use freezing::{FreezeOptions, cut_off, to_freeze};
pub use score::{GroupScore, Rejections, ScoreOptions, score};

/// One measurement at one step of the probe, over K groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Training step at which it was made.
    pub step: usize,
    /// Loss on the measuring batch.
    pub loss: f64,
    /// Difference of two evaluations of that loss: what rounding alone does.
    pub noise_floor: f64,
    /// `b_k`, length K, loss per unit rate.
    pub slope: Vec<f64>,
    /// `A`, loss per unit rate squared.
    pub curvature: Curvature,
    /// What to make of each group's numbers, length K.
    pub verdict: Vec<Verdict>,
}

impl Measurement {
    /// Slope and whole curvature without the groups that carry no number (frozen, no signal, not finite): their
    /// entries are zero. A diagonal curvature gives `None`.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn coupled(&self) -> Result<Option<Coupled>, InfluenceError> {
        let count = self.slope.len();
        self.check(count)?;
        let Curvature::Full(matrix) = &self.curvature else {
            return Ok(None);
        };
        let usable: Vec<bool> = self.verdict.iter().map(Verdict::is_measured).collect();
        let slope = self
            .slope
            .iter()
            .zip(&usable)
            .map(|(b, usable)| if *usable { *b } else { 0.0 })
            .collect();
        let pair = |at: usize| usable[at / count] && usable[at % count];
        let curvature = matrix
            .iter()
            .enumerate()
            .map(|(at, a)| if pair(at) { *a } else { 0.0 })
            .collect();
        Ok(Some(Coupled { slope, curvature }))
    }

    /// The same measurement over all groups, where only those marked in `measured` took part: the others are frozen,
    /// with zeros for numbers.
    ///
    /// # Errors
    /// When the lengths do not fit, or `measured` does not mark as many groups as were measured.
    pub fn spread(&self, measured: &[bool]) -> Result<Self, InfluenceError> {
        let at: Vec<usize> = (0..measured.len())
            .filter(|&group| measured[group])
            .collect();
        self.check(at.len())?;
        let count = measured.len();
        let mut all = Self {
            slope: vec![0.0; count],
            verdict: vec![Verdict::Frozen; count],
            curvature: match self.curvature {
                Curvature::Diagonal(_) => Curvature::Diagonal(vec![0.0; count]),
                Curvature::Full(_) => Curvature::Full(vec![0.0; count * count]),
            },
            ..*self
        };
        for (from, &to) in at.iter().enumerate() {
            all.slope[to] = self.slope[from];
            all.verdict[to] = self.verdict[from];
            match (&self.curvature, &mut all.curvature) {
                (Curvature::Diagonal(some), Curvature::Diagonal(all)) => all[to] = some[from],
                (Curvature::Full(some), Curvature::Full(all)) => {
                    let row = some.iter().skip(from * at.len());
                    row.zip(&at)
                        .for_each(|(&entry, &column)| all[to * count + column] = entry);
                }
                (Curvature::Diagonal(_), Curvature::Full(_))
                | (Curvature::Full(_), Curvature::Diagonal(_)) => {}
            }
        }
        Ok(all)
    }

    /// # Errors
    /// When a length is not that of `groups` groups.
    fn check(&self, groups: usize) -> Result<(), InfluenceError> {
        let curvature = match &self.curvature {
            Curvature::Diagonal(diagonal) => (diagonal.len(), groups),
            Curvature::Full(matrix) => (matrix.len(), groups * groups),
        };
        for (what, (got, expected)) in [
            ("slope", (self.slope.len(), groups)),
            ("curvature", curvature),
            ("verdict", (self.verdict.len(), groups)),
        ] {
            if got != expected {
                return Err(InfluenceError::ShapeMismatch {
                    step: self.step,
                    what,
                    got,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Slope and whole curvature of a measurement, for the value of sets of groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Coupled {
    /// `b`, length K.
    pub slope: Vec<f64>,
    /// `A`, K·K row-major.
    pub curvature: Vec<f64>,
}

/// Second derivatives along the groups' directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curvature {
    /// `A_kk`, length K.
    Diagonal(Vec<f64>),
    /// `A_ij`, K·K row-major, symmetric.
    Full(Vec<f64>),
}

impl Curvature {
    /// `A_kk` for each of `groups` groups.
    pub fn diagonal(&self, groups: usize) -> Vec<f64> {
        match self {
            Self::Diagonal(diagonal) => diagonal.clone(),
            Self::Full(matrix) => matrix.iter().step_by(groups + 1).copied().collect(),
        }
    }
}

/// What to make of one group's numbers in one measurement. All but [`Verdict::Accepted`] contribute no value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Slope and curvature are positive and, where it is known, the parabola fits.
    Accepted,
    /// The curvature is not positive: there is no best rate.
    BadCurvature,
    /// The slope is not positive: the optimizer's direction does not lower the loss.
    WrongDirection,
    /// The losses do not lie on a parabola.
    PoorFit {
        /// Coefficient of determination of the fit.
        r2: f64,
    },
    /// Slope and curvature are both nothing (0/0), as for LoRA's A while its B is zero.
    InsufficientSignal,
    /// A number is infinite or not a number.
    NotFinite,
    /// The group has stopped training and was not measured.
    Frozen,
}

impl Verdict {
    /// Whether the group's slope and curvature are numbers to reckon with, accepted or not.
    pub fn is_measured(&self) -> bool {
        match self {
            Self::Accepted | Self::BadCurvature | Self::WrongDirection | Self::PoorFit { .. } => {
                true
            }
            Self::InsufficientSignal | Self::NotFinite | Self::Frozen => false,
        }
    }
}

/// Least coefficient of determination of an accepted fit.
pub const LEAST_R2: f64 = 0.99;

/// What rounding alone can produce.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// `|b|`, loss per unit rate.
    pub slope: f64,
    /// `|A|`, loss per unit rate squared.
    pub curvature: f64,
}

/// Of a curvature that is made of slopes: its root is of their size. 0 knows exact zeros only.
impl From<f64> for Floor {
    fn from(slope: f64) -> Self {
        Self {
            slope,
            curvature: slope * slope,
        }
    }
}

/// Judges one group's slope and curvature.
///
/// `r2` is the fit's coefficient of determination, where more points than unknowns were measured. With a slope and a
/// curvature at or below the floor there is no signal. A group whose true slope is zero (an attention key's bias) still
/// shows rounding in both, and `b²/A` is blind to scale, so that only such a floor tells it from a group that matters.
pub fn judge(slope: f64, curvature: f64, r2: Option<f64>, floor: impl Into<Floor>) -> Verdict {
    let floor = floor.into();
    if !(slope.is_finite() && curvature.is_finite()) {
        return Verdict::NotFinite;
    }
    if slope.abs() <= floor.slope && curvature.abs() <= floor.curvature {
        return Verdict::InsufficientSignal;
    }
    if curvature <= 0.0 {
        return Verdict::BadCurvature;
    }
    if slope <= 0.0 {
        return Verdict::WrongDirection;
    }
    match r2 {
        None => Verdict::Accepted,
        Some(r2) if r2 >= LEAST_R2 => Verdict::Accepted,
        // Also a fit of unknown quality, not a number.
        Some(r2) => Verdict::PoorFit { r2 },
    }
}

/// Judges all groups of a measurement; `fit` holds a coefficient of determination a group, if the estimator has one.
pub fn judge_all(
    slope: &[f64],
    curvature: &Curvature,
    fit: Option<&[f64]>,
    floor: impl Into<Floor>,
) -> Vec<Verdict> {
    let floor = floor.into();
    let diagonal = curvature.diagonal(slope.len());
    let rows = slope.iter().zip(diagonal).enumerate();
    rows.map(|(k, (&b, a))| judge(b, a, fit.and_then(|fit| fit.get(k)).copied(), floor))
        .collect()
}

/// Share of the strongest group's tangent below which another group's is taken for rounding, in single precision.
///
/// Measured on tiny BERT and DistilBERT models (`tests/probe`): the biases of attention keys, which have no effect,
/// reach 3.6e-8 along directions of their own size and 4e-9 along AdamW's; the weakest of all other groups has 8e-4.
/// Rounding grows with the depth and width of a model, so the floor lies far above what was measured.
const ROUNDING: f64 = 1e-5;

/// A floor for [`judge`] from the curvatures `A_kk` of one measurement in single precision.
///
/// The root of a Gauss-Newton curvature is the typical size of the group's effect on the logits, and `|b|` is of that
/// size or below, so the strongest group tells how large rounding can be.
pub fn rounding_floor(diagonal: &[f64]) -> f64 {
    let largest = diagonal
        .iter()
        .copied()
        .filter(|a| a.is_finite())
        .fold(0.0, f64::max);
    ROUNDING * largest.sqrt()
}

/// Rate that minimises the parabola, `b/A`; `None` when it has no minimum at a positive rate.
pub fn optimal_rate(slope: f64, curvature: f64) -> Option<f64> {
    let rate = slope / curvature;
    (slope > 0.0 && curvature > 0.0 && rate.is_finite()).then_some(rate)
}

/// Decrease of the loss at the best rate, `b²/2A`, loss; zero when there is no best rate.
pub fn value(slope: f64, curvature: f64) -> f64 {
    optimal_rate(slope, curvature).map_or(0.0, |rate| 0.5 * slope * rate)
}

/// Share of the old rate that the next one keeps.
const MEMORY: f64 = 0.9;
/// Greatest factor by which a measured optimum may differ from the present rate.
const GREATEST_STEP: f64 = 2.0;

/// The next learning rate, `0.9 η + 0.1 · clip(η*, η/2, 2η)`; unchanged without an optimum.
pub fn next_rate(rate: f64, optimum: Option<f64>) -> f64 {
    match optimum {
        // `max` and `min` instead of `clamp`, which panics on bounds that are not numbers.
        Some(optimum) if optimum.is_finite() => {
            MEMORY * rate
                + (1.0 - MEMORY) * optimum.max(rate / GREATEST_STEP).min(rate * GREATEST_STEP)
        }
        _ => rate,
    }
}

/// Error of the aggregation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfluenceError {
    /// A list does not have one entry per group.
    #[error(
        "the measurement at step {step} has {got} entries of {what}, but {expected} are needed"
    )]
    ShapeMismatch {
        /// Step of the measurement.
        step: usize,
        /// `slope`, `curvature` or `verdict`.
        what: &'static str,
        /// Length found.
        got: usize,
        /// Length needed.
        expected: usize,
    },
    /// Nothing was measured.
    #[error("there are no measurements to score")]
    NoMeasurements,
    /// The interval's confidence is not between 0 and 1.
    #[error("the confidence of an interval must lie between 0 and 1")]
    InvalidConfidence,
}

impl InfluenceError {
    /// What the user can do, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ShapeMismatch { .. } => {
                Some("the saved measurements belong to other groups: start the probe afresh".into())
            }
            Self::NoMeasurements => Some("probe for more steps, or measure more often".into()),
            Self::InvalidConfidence => Some("0.95 is usual".into()),
        }
    }
}

#[cfg(test)]
mod tests;
