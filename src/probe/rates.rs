//! Learning rates from measurements: each group's own, and the factor that all of them have in common.
//!
//! Along all groups at once, the step `η∘g` changes the loss by `−s ηᵀb + ½ s² ηᵀAη` when it is scaled by `s`, which is
//! least at `s = ηᵀb / ηᵀAη` (GeN: Bu and Xu 2024, <https://arxiv.org/abs/2407.02772>, for one group of all parameters).
//! A group's own optimum `b_k / A_kk` (Hi-DLR: Xu et al. 2025, <https://arxiv.org/abs/2501.06954>) knows nothing of the
//! others: among a hundred groups that do much the same, a hundred such steps overshoot a hundredfold. So where the whole
//! of `A` is measured, the groups' optima set the ratios of the rates, and `s` sets their height.

use super::influence::{
    Coupled, Curvature, InfluenceError, Measurement, Verdict, next_rate, optimal_rate,
};

/// Greatest factor by which one measurement moves all rates.
const GREATEST_FACTOR: f64 = 2.0;
/// Share of the way to the measured factor that one measurement goes: a single batch is noisy.
const PACE: f64 = 0.5;

/// The best common factor of the step `η∘g`, `Σ_t ηᵀb / Σ_t ηᵀAη` over the measurements, of the groups in `members`;
/// `None` when the step does not lower the loss, or no measurement has the whole curvature.
///
/// # Errors
/// When the lengths of a measurement do not fit.
pub fn common_factor(
    rates: &[f64],
    measurements: &[Measurement],
    members: &[bool],
) -> Result<Option<f64>, InfluenceError> {
    let step: Vec<f64> = rates
        .iter()
        .zip(members)
        .map(|(rate, member)| if *member { *rate } else { 0.0 })
        .collect();
    let (mut decrease, mut curvature) = (0.0, 0.0);
    for measurement in measurements {
        if let Some(coupled) = measurement.coupled()? {
            let (b, a) = along(&coupled, &step);
            decrease += b;
            curvature += a;
        }
    }
    Ok(optimal_rate(decrease, curvature))
}

/// `ηᵀb` and `ηᵀAη`.
fn along(coupled: &Coupled, step: &[f64]) -> (f64, f64) {
    let dot = |values: &[f64]| values.iter().zip(step).map(|(v, r)| v * r).sum::<f64>();
    let curvature = coupled
        .curvature
        .chunks(step.len().max(1))
        .zip(step)
        .map(|(row, rate)| rate * dot(row))
        .sum();
    (dot(&coupled.slope), curvature)
}

/// The rates after a measurement; those of groups outside `members` stay.
///
/// # Errors
/// When the lengths of the measurement do not fit.
pub fn next_rates(
    rates: &[f64],
    measurement: &Measurement,
    members: &[bool],
) -> Result<Vec<f64>, InfluenceError> {
    let diagonal = measurement.curvature.diagonal(rates.len());
    let optima: Vec<Option<f64>> = measurement
        .slope
        .iter()
        .zip(diagonal)
        .zip(&measurement.verdict)
        .zip(members)
        .map(|(((b, a), verdict), member)| match verdict {
            Verdict::Accepted if *member => optimal_rate(*b, a),
            _ => None,
        })
        .collect();
    let one = std::slice::from_ref(measurement);
    let is_whole = matches!(measurement.curvature, Curvature::Full(_));
    // The groups' optima, lowered to what they may be together.
    let height = if is_whole {
        let own: Vec<f64> = optima.iter().map(|o| o.unwrap_or(0.0)).collect();
        common_factor(&own, one, members)?.unwrap_or(1.0)
    } else {
        1.0
    };
    let mut next: Vec<f64> = rates
        .iter()
        .zip(&optima)
        .map(|(rate, optimum)| next_rate(*rate, optimum.map(|optimum| optimum * height)))
        .collect();
    if let Some(factor) = common_factor(&next, one, members)? {
        let factor = factor
            .clamp(1.0 / GREATEST_FACTOR, GREATEST_FACTOR)
            .powf(PACE);
        next.iter_mut()
            .zip(members)
            .filter(|(_, member)| **member)
            .for_each(|(rate, _)| *rate *= factor);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A measurement at rates near which the loss is a parabola; all groups accepted.
    fn measurement(slope: &[f64], curvature: Curvature) -> Measurement {
        Measurement {
            step: 0,
            loss: 1.0,
            noise_floor: 0.0,
            slope: slope.to_vec(),
            curvature,
            verdict: vec![Verdict::Accepted; slope.len()],
        }
    }

    /// `count` groups that all do the same: one step of each is `count` steps of one.
    fn identical(count: usize) -> Measurement {
        measurement(
            &vec![1.0; count],
            Curvature::Full(vec![10.0; count * count]),
        )
    }

    fn settle(measurement: &Measurement, rates: &[f64], members: &[bool]) -> Vec<f64> {
        (0..400).fold(rates.to_vec(), |rates, _| {
            next_rates(&rates, measurement, members).unwrap()
        })
    }

    #[test]
    fn identical_groups_share_the_rate_that_one_of_them_would_take() {
        // One group's optimum is b/A = 0.1.
        for count in [1, 5, 100] {
            let rates = settle(&identical(count), &vec![1e-3; count], &vec![true; count]);
            let sum: f64 = rates.iter().sum();
            assert!((sum - 0.1).abs() < 1e-6, "{count} groups: {sum}");
        }
    }

    #[test]
    fn independent_groups_take_their_own_optima() {
        let measurement = measurement(&[1.0, 3.0], Curvature::Full(vec![10.0, 0.0, 0.0, 10.0]));
        let rates = settle(&measurement, &[1e-3, 1e-3], &[true, true]);
        assert!(
            (rates[0] - 0.1).abs() < 1e-6 && (rates[1] - 0.3).abs() < 1e-6,
            "{rates:?}"
        );
    }

    #[test]
    fn a_diagonal_measurement_moves_each_group_towards_its_own_optimum_alone() {
        let measurement = measurement(&[1.0, 3.0], Curvature::Diagonal(vec![10.0, 10.0]));
        let rates = next_rates(&[1e-3, 0.4], &measurement, &[true, true]).unwrap();
        assert_eq!(
            rates,
            [next_rate(1e-3, Some(0.1)), next_rate(0.4, Some(0.3))]
        );
    }

    #[test]
    fn rates_that_are_not_to_be_adapted_stay_and_do_not_count() {
        let rates = settle(&identical(2), &[1e-3, 0.7], &[true, false]);
        assert!((rates[0] - 0.1).abs() < 1e-6, "{rates:?}");
        assert_eq!(rates[1], 0.7);
    }

    #[test]
    fn the_fewer_groups_step_the_larger_their_common_factor() {
        let rates = [0.02; 5];
        let factor = |members: [bool; 5]| {
            common_factor(&rates, &[identical(5)], &members)
                .unwrap()
                .unwrap()
        };
        assert!((factor([true; 5]) - 1.0).abs() < 1e-12);
        assert!((factor([true, false, false, false, false]) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn a_step_that_raises_the_loss_has_no_factor() {
        let measurement = measurement(&[-1.0], Curvature::Full(vec![1.0]));
        assert_eq!(
            common_factor(&[0.1], &[measurement], &[true]).unwrap(),
            None
        );
    }
}
