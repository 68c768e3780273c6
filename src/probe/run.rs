//! The probe: a short training of the superset that measures every group on its way.

use std::sync::Arc;

use autopeft_adapters::Directions;

use super::estimator::{Estimate, Estimator, Point};
use super::height::HeightFit;
use super::influence::{Floor, Measurement, judge_all, rounding_floor};
use super::rates::next_ratios;
use crate::data::TrainOrder;
use crate::error::Result;
use crate::groups::Group;
use crate::interrupt::Interrupt;
use crate::task::Objective;
use crate::train::{Rows, StepReport, Trainer};

/// How the probe runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeConfig {
    /// Training steps.
    pub steps: usize,
    /// Steps before the first measurement. A LoRA's `A` has no gradient while `B` is zero, so the first
    /// directions say nothing.
    pub burn_in: usize,
    /// Steps between measurements.
    pub every: usize,
    /// Whether the measured curvatures set the ratios of the rates, where their height is set.
    pub ratios: bool,
}

/// What the probe saw.
#[derive(Debug, Clone, Default)]
pub struct ProbeOutcome {
    /// The measurements, in order; every one has an entry for every group.
    pub measurements: Vec<Measurement>,
    /// Steps taken.
    pub steps: usize,
    /// Groups that stopped training before the end.
    pub frozen: Vec<usize>,
    /// Fits of the rates' height besides the measurements.
    pub fits: usize,
    /// Whether a stop was asked for.
    pub interrupted: bool,
}

/// Decides after each measurement which groups stop training; gets all measurements so far, and answers
/// with group numbers.
pub type Freeze<'a> = dyn FnMut(&[Measurement]) -> Vec<usize> + 'a;

/// What a probe works with.
pub struct Probe<'a> {
    /// The model with the superset attached.
    pub model: &'a dyn Objective,
    /// Training rows, from which measuring batches are drawn too.
    pub rows: Rows<'a>,
    /// The groups; the trainer's, in the same order.
    pub groups: &'a [Group],
    /// Order of the rows for measuring: other batches than the training's.
    pub measuring: TrainOrder,
    /// The estimator.
    pub estimator: Box<dyn Estimator>,
    /// How it runs.
    pub config: ProbeConfig,
    /// Sets the height of the rates; `None` keeps them.
    pub heights: Option<HeightFit<'a>>,
}

impl Probe<'_> {
    /// Trains and measures. `freeze` is asked after each measurement, `report` sees each step.
    ///
    /// # Errors
    /// When the training diverges, or a tensor operation fails.
    pub fn run(
        &mut self,
        trainer: &mut Trainer<'_>,
        freeze: &mut Freeze<'_>,
        interrupt: &Interrupt,
        report: &mut dyn FnMut(&StepReport, Option<&Measurement>),
    ) -> Result<ProbeOutcome> {
        let mut outcome = ProbeOutcome::default();
        for step in 0..self.config.steps {
            if interrupt.is_raised() {
                outcome.interrupted = true;
                break;
            }
            let is_measured = step >= self.config.burn_in
                && (step - self.config.burn_in).is_multiple_of(self.config.every);
            let mut measured = None;
            let frozen = &outcome.frozen;
            let step_report = trainer.advance(|trainer, directions| {
                if is_measured {
                    measured = Some(self.measure(trainer, directions, step, frozen)?);
                } else if let Some(heights) = &mut self.heights {
                    heights.fit(trainer, directions)?;
                }
                Ok(())
            })?;
            report(&step_report, measured.as_ref());
            outcome.steps = step + 1;
            if let Some(measurement) = measured {
                outcome.measurements.push(measurement);
                let stopping: Vec<usize> = freeze(&outcome.measurements)
                    .into_iter()
                    .filter(|group| !outcome.frozen.contains(group))
                    .collect();
                if !stopping.is_empty() {
                    outcome.frozen.extend(stopping);
                    trainer.retain(|group| !outcome.frozen.contains(&group))?;
                }
            }
        }
        outcome.fits = self.heights.as_ref().map_or(0, HeightFit::fits);
        Ok(outcome)
    }

    fn measure(
        &mut self,
        trainer: &mut Trainer<'_>,
        directions: &Arc<Directions>,
        step: usize,
        frozen: &[usize],
    ) -> Result<Measurement> {
        let rows = self.measuring.next_rows_beside(trainer.examples_of_step());
        let batch = self.rows.batch(&rows)?;
        let active: Vec<usize> = (0..self.groups.len())
            .filter(|group| !frozen.contains(group))
            .collect();
        let groups: Vec<&Group> = active
            .iter()
            .filter_map(|number| self.groups.get(*number))
            .collect();
        let all = trainer.decayed_rates();
        let rates: Vec<f64> = active
            .iter()
            .map(|number| all.get(*number).copied().unwrap_or(0.0))
            .collect();
        let point = Point {
            model: self.model,
            batch: &batch,
            groups: &groups,
            directions,
            rates: &rates,
            step,
        };
        let estimate = self.estimator.measure(&point)?;
        let along = match self.heights {
            Some(_) => Some(point.along_the_step(estimate.loss)?),
            None => None,
        };
        let floor = floor(&estimate, &rates);
        let verdict = judge_all(
            &estimate.slope,
            &estimate.curvature,
            estimate.fit.as_deref(),
            floor,
        );
        let measured: Vec<bool> = (0..self.groups.len())
            .map(|group| active.contains(&group))
            .collect();
        let measurement = Measurement {
            step,
            loss: estimate.loss,
            noise_floor: estimate.noise,
            slope: estimate.slope,
            curvature: estimate.curvature,
            verdict,
        }
        .spread(&measured)?;
        if let (Some(heights), Some(along)) = (&mut self.heights, along) {
            if self.config.ratios {
                let members: Vec<bool> = self
                    .groups
                    .iter()
                    .zip(&measured)
                    .map(|(group, measured)| *measured && !group.is_reference())
                    .collect();
                let ratios = next_ratios(
                    trainer.rates(),
                    &measurement.slope,
                    &measurement.curvature.diagonal(self.groups.len()),
                    &measurement.verdict,
                    &members,
                );
                for (number, rate) in ratios.into_iter().enumerate() {
                    trainer.set_rate(number, rate);
                }
            }
            heights.take(trainer, along);
        }
        Ok(measurement)
    }
}

/// Most curvature that a fitted parabola takes from losses that are each off by one unit, at rate 1 ([`super::fit`]):
/// `2 Σx² / Σx⁴` over its points.
const CURVATURE_OF_NOISE: f64 = 2.0 * 2.5 / 2.125;

/// What is no signal: what rounding leaves of a group without effect, or what a step of the smallest rate cannot tell from
/// the noise of the loss.
fn floor(estimate: &Estimate, rates: &[f64]) -> Floor {
    let smallest = rates
        .iter()
        .copied()
        .filter(|rate| *rate > 0.0)
        .fold(f64::INFINITY, f64::min);
    let noise = if smallest.is_finite() {
        estimate.noise / smallest
    } else {
        0.0
    };
    let rounding = rounding_floor(&estimate.curvature.diagonal(estimate.slope.len()));
    let floor = Floor::from(noise.max(rounding));
    match estimate.fit {
        // Not made of slopes, but of losses.
        Some(_) if smallest.is_finite() => Floor {
            curvature: (rounding * rounding).max(CURVATURE_OF_NOISE * noise / smallest),
            ..floor
        },
        _ => floor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::influence::{Curvature, Verdict};

    #[test]
    fn what_the_noise_of_the_losses_makes_of_a_fit_is_no_signal() {
        let (noise, rates) = (1e-7, [1e-3, 2e-3]);
        // The first as rounding makes them, the second a group that matters.
        let estimate = Estimate {
            slope: vec![0.8 * noise / rates[0], 0.3],
            curvature: Curvature::Diagonal(vec![2.3 * noise / rates[0].powi(2), 40.0]),
            loss: 0.7,
            noise,
            fit: Some(vec![0.995, 0.999]),
        };
        let judged = |estimate: &Estimate| {
            let fit = estimate.fit.as_deref();
            let floor = floor(estimate, &rates);
            judge_all(&estimate.slope, &estimate.curvature, fit, floor)
        };
        let expected = [Verdict::InsufficientSignal, Verdict::Accepted];
        assert_eq!(judged(&estimate), expected);
        // A curvature of slopes or of tangents has no such error.
        let of_slopes = Estimate {
            fit: None,
            ..estimate
        };
        assert_eq!(judged(&of_slopes), [Verdict::Accepted; 2]);
    }
}
