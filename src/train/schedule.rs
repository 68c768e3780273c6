//! The learning rate over a run: a linear warm-up, then constant or linear to zero.

use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Linear to zero at the last step.
    Linear,
    /// Constant.
    Constant,
}

/// Factor of the learning rate by step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// Steps that warm up.
    pub warmup: usize,
    /// Steps of the whole run.
    pub steps: usize,
}

impl Schedule {
    /// The factor at `step` without the warm-up, which is no statement about the rates: 1 until its end.
    pub fn decay(&self, step: usize) -> f64 {
        match step < self.warmup {
            true => 1.0,
            false => self.factor(step),
        }
    }

    /// The factor at `step`, counted from 0. In (0, 1] within the run.
    pub fn factor(&self, step: usize) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => {
                let rest = self.steps.saturating_sub(self.warmup).max(1);
                self.steps.saturating_sub(step) as f64 / rest as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_is_the_factor_from_the_end_of_the_warm_up_on() {
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: 10,
            steps: 100,
        };
        assert!((0..10).all(|step| schedule.decay(step) == 1.0));
        assert!((10..100).all(|step| schedule.decay(step) == schedule.factor(step)));
    }

    #[test]
    fn linear_rises_to_one_and_falls_towards_zero() {
        let schedule = Schedule {
            kind: ScheduleKind::Linear,
            warmup: 10,
            steps: 100,
        };
        let factors: Vec<f64> = (0..100).map(|step| schedule.factor(step)).collect();
        assert!(factors[..10].windows(2).all(|pair| pair[0] < pair[1]));
        assert!((factors[10] - 1.0).abs() < 1e-12);
        assert!(factors[10..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(factors.iter().all(|factor| *factor > 0.0));
    }
}
