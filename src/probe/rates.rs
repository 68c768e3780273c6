//! Learning rates from measurements: the ratios of the groups' rates, and their common height.
//!
//! A group's own optimum `b_k / A_kk` (Hi-DLR: Xu et al. 2025, <https://arxiv.org/abs/2501.06954>) knows nothing of the
//! others: among a hundred groups that do much the same, a hundred such steps overshoot a hundredfold. So the groups'
//! optima set the ratios of the rates alone. Their height is measured on the step that all groups take together,
//! `s ↦ L(w − s η∘g)`, by its losses at `s = −1, 0, 1`, whose parabola is least at `s*` (GeN: Bu and Xu 2024,
//! <https://arxiv.org/abs/2407.02772>).

use std::ops::RangeInclusive;

use super::influence::{Verdict, next_rate, optimal_rate};
use crate::train::geometric_mean;

/// Greatest factor that one fit asks for.
const GREATEST_FACTOR: f64 = 4.0;
/// Multiple of the present step below which its best length lowers the rates: a quarter of one half, which it is in a training
/// that has settled, where the expected change of the loss is none. Closer than that, fits follow their noise.
const SHORTEST: f64 = 0.125;
/// Share of the way to that factor, in logarithms, that is gone.
const PACE: f64 = 0.5;
/// Weight of a fit in the next one, and of that in the one after: a batch is noisy.
const MEMORY: f64 = 0.7;

/// How far fits move a height.
#[derive(Debug, Clone, PartialEq)]
pub struct Reach {
    /// Multiples of the start between which the height stays; it goes below them only where a loss is no number.
    pub bounds: RangeInclusive<f64>,
    /// Multiple of the present step beyond which its best length raises the rates.
    pub longest: f64,
}

/// Losses along the step of all groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLosses {
    /// `L(w + η∘g)`.
    pub back: f64,
    /// `L(w)`.
    pub here: f64,
    /// `L(w − η∘g)`: after the step.
    pub ahead: f64,
}

/// The common height of the rates, and the parabola along the step as the fits of late saw it.
///
/// Slopes and curvatures are averaged at the height of the start, and divided afterwards: a single fit's minimum is the
/// ratio of two noisy numbers, and late in a training little but noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Height {
    /// Product of all factors so far.
    height: f64,
    /// Decaying sums over the fits, loss per unit of height and of its square.
    slope: f64,
    curvature: f64,
    reach: Reach,
}

impl Height {
    /// One that starts at 1.
    pub fn within(reach: Reach) -> Self {
        Self {
            height: 1.0,
            slope: 0.0,
            curvature: 0.0,
            reach,
        }
    }

    /// By how much all rates were raised so far.
    pub fn value(&self) -> f64 {
        self.height
    }

    /// The factor for all rates after another fit: up when the parabola's minimum is far beyond the step, down when it is far
    /// before it; else 1, also when the losses show no minimum, or none in this direction.
    pub fn factor(&mut self, losses: StepLosses) -> f64 {
        let StepLosses { back, here, ahead } = losses;
        let slope = 0.5 * (back - ahead) / self.height;
        let curvature = (back + ahead - 2.0 * here) / self.height.powi(2);
        let is_finite = slope.is_finite() && curvature.is_finite();
        if is_finite {
            self.slope = MEMORY * self.slope + slope;
            self.curvature = MEMORY * self.curvature + curvature;
        }
        // Fall and bend of the loss over the present step.
        let fall = self.slope * self.height;
        let bend = self.curvature * self.height.powi(2);
        let factor = if !is_finite {
            0.0 // A loss that is no number is too large a step.
        } else if bend <= 0.0 || fall <= -0.5 * bend {
            1.0 // No minimum; or the loss rises for its slope more than for its bend, and a shorter step would be as wrong.
        } else {
            let best = fall.max(0.0) / bend;
            best / best.clamp(SHORTEST, self.reach.longest)
        };
        let bounds = &self.reach.bounds;
        let floor = match is_finite {
            true => (bounds.start() / self.height).min(1.0),
            false => 0.0,
        };
        let factor = factor
            .clamp(1.0 / GREATEST_FACTOR, GREATEST_FACTOR)
            .powf(PACE)
            .max(floor)
            .min(bounds.end() / self.height);
        self.height *= factor;
        factor
    }
}

/// The rates with ratios nearer to those of the groups' own optima, at the same geometric mean. Groups outside `members`
/// and those that were rejected keep their rates.
pub fn next_ratios(
    rates: &[f64],
    slope: &[f64],
    diagonal: &[f64],
    verdict: &[Verdict],
    members: &[bool],
) -> Vec<f64> {
    let optima: Vec<Option<f64>> = (slope.iter().zip(diagonal))
        .zip(verdict.iter().zip(members))
        .map(|((b, a), (verdict, member))| match verdict {
            Verdict::Accepted if *member => optimal_rate(*b, *a),
            _ => None,
        })
        .collect();
    let above = (rates.iter().zip(&optima))
        .filter_map(|(rate, optimum)| Some(rate / (*optimum)?))
        .filter(|ratio| ratio.ln().is_finite());
    let height = geometric_mean(above).unwrap_or(1.0);
    (rates.iter().zip(&optima))
        .map(|(rate, optimum)| next_rate(*rate, optimum.map(|optimum| optimum * height)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses of `L(s) = 1 - slope s + curvature s²/2` at -1, 0 and 1.
    fn parabola(slope: f64, curvature: f64) -> StepLosses {
        StepLosses {
            back: 1.0 + slope + 0.5 * curvature,
            here: 1.0,
            ahead: 1.0 - slope + 0.5 * curvature,
        }
    }

    fn height(bounds: RangeInclusive<f64>) -> Height {
        let longest = 2.0;
        Height::within(Reach { bounds, longest })
    }

    fn first(losses: StepLosses) -> f64 {
        height(0.0..=3.0).factor(losses)
    }

    #[test]
    fn the_height_goes_half_way_to_a_good_length_in_logarithms_and_never_far() {
        for (slope, curvature, expected) in [
            (0.1, 0.1, 1.0),
            (0.2, 0.1, 1.0),
            (0.015, 0.1, 1.0),
            (0.3, 0.1, 1.5_f64.sqrt()),
            (0.1, 1.2, 1.5_f64.sqrt().recip()),
            (5.0, 0.1, 2.0),
            (0.1, 50.0, 0.5),
        ] {
            let factor = first(parabola(slope, curvature));
            assert!(
                (factor - expected).abs() < 1e-9,
                "{slope} {curvature}: {factor}"
            );
        }
    }

    #[test]
    fn rates_rise_earlier_where_the_best_length_has_a_shorter_reach() {
        let losses = parabola(0.2, 0.1);
        let bounds = 0.0..=3.0;
        let mut height = Height::within(Reach {
            bounds,
            longest: 1.0,
        });
        assert!((height.factor(losses) - 2.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(first(losses), 1.0);
    }

    #[test]
    fn a_step_that_raises_the_loss_lowers_the_rates_if_its_curvature_does_it() {
        for (curvature, expected) in [(-0.1, 1.0), (0.0, 1.0), (0.3, 1.0), (3.0, 0.5)] {
            let factor = first(parabola(-0.2, curvature));
            assert_eq!(factor, expected, "{curvature}");
        }
    }

    #[test]
    fn losses_without_a_minimum_change_nothing_and_a_loss_that_is_no_number_lowers_the_rates() {
        assert_eq!(first(parabola(0.2, -0.1)), 1.0);
        let lost = StepLosses {
            ahead: f64::NAN,
            ..parabola(0.2, 0.1)
        };
        let mut height = height(0.0..=3.0);
        assert!(height.factor(lost) < 1.0);
        assert!(height.slope == 0.0, "it does not stay in memory");
    }

    #[test]
    fn one_wild_fit_moves_less_after_others_than_alone() {
        let wild = parabola(0.0, 0.1);
        let mut height = height(0.0..=3.0);
        for _ in 0..5 {
            assert_eq!(height.factor(parabola(0.1, 0.1)), 1.0);
        }
        assert_eq!(height.factor(wild), 1.0);
        assert_eq!(first(wild), 0.5);
    }

    #[test]
    fn repeated_fits_come_from_far_above_and_below_to_where_steps_are_good() {
        // Along the whole step the loss is least when the rates sum to 0.1.
        for (start, end) in [(1e-3, 0.012), (5e-3, 0.05), (10.0, 0.8), (0.02, 0.08)] {
            let mut height = height(0.0..=3.0);
            let rates = (0..80).fold([start; 4], |rates, _| {
                let sum: f64 = rates.iter().sum();
                let factor = height.factor(parabola(sum, 10.0 * sum * sum));
                rates.map(|rate| rate * factor)
            });
            let sum = rates.iter().sum::<f64>();
            assert!((sum - end).abs() < 1e-6, "{start}: {sum}");
        }
    }

    #[test]
    fn a_height_with_a_floor_goes_below_it_for_a_loss_that_is_no_number_alone() {
        let far_too_long = parabola(0.0, 10.0);
        let mut height = height(1.0..=3.0);
        assert_eq!(height.factor(parabola(10.0, 1.0)), 2.0);
        let factors: Vec<f64> = (0..9).map(|_| height.factor(far_too_long)).collect();
        assert!((height.value() - 1.0).abs() < 1e-12, "{factors:?}");
        let no_number = StepLosses {
            ahead: f64::NAN,
            ..far_too_long
        };
        assert_eq!(height.factor(no_number), 0.5);
        // And is not jerked back.
        assert_eq!(height.factor(far_too_long), 1.0);
    }

    fn ratios(rates: &[f64], slope: &[f64], diagonal: &[f64], members: &[bool]) -> Vec<f64> {
        next_ratios(
            rates,
            slope,
            diagonal,
            &vec![Verdict::Accepted; rates.len()],
            members,
        )
    }

    #[test]
    fn ratios_approach_those_of_the_optima_and_keep_the_height() {
        let mut rates = vec![1e-3, 1e-3];
        for _ in 0..300 {
            rates = ratios(&rates, &[1.0, 3.0], &[10.0, 10.0], &[true, true]);
        }
        assert!((rates[1] / rates[0] - 3.0).abs() < 1e-6, "{rates:?}");
        // The optima themselves are a hundred times higher; a mean of differences is not one of logarithms.
        let height = (rates[0] * rates[1]).sqrt();
        assert!((5e-4..2e-3).contains(&height), "{height}");
    }

    #[test]
    fn rejected_groups_and_groups_outside_keep_their_rates() {
        let verdict = [Verdict::Accepted, Verdict::BadCurvature, Verdict::Accepted];
        let next = next_ratios(
            &[1e-3, 2e-3, 0.0],
            &[1.0, 1.0, 1.0],
            &[10.0, -10.0, 10.0],
            &verdict,
            &[true, true, false],
        );
        assert_eq!(next[1..], [2e-3, 0.0]);
    }
}
