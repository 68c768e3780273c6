//! How long each stage trains.

use super::schema::{Probe, Recipe};

/// Optimizer steps of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Steps that train the head alone, before the probe.
    pub head_warmup: usize,
    /// Steps of the probe.
    pub probe: usize,
    /// Steps after the selection.
    pub after: usize,
}

impl Recipe {
    /// The length of each stage for this number of training rows.
    ///
    /// The whole is `train.steps`, or `train.epochs` passes over the rows. What the probe leaves of it comes after the
    /// selection, and at least as many steps as the probe took, unless `select.steps` says otherwise.
    ///
    /// ```
    /// use autopeft::recipe::Recipe;
    /// let horizon = Recipe::default().horizon(1600); // 3 epochs of 100 steps
    /// assert_eq!((horizon.probe, horizon.after), (24, 276));
    /// ```
    pub fn horizon(&self, rows: usize) -> Horizon {
        let total = self.total_steps(rows);
        let probe = self.probe.steps;
        let left = match self.train.steps {
            Some(_) => total.saturating_sub(probe),
            None => total.saturating_sub(probe).max(probe),
        };
        Horizon {
            head_warmup: self.probe.head_warmup,
            probe,
            after: self.select.steps.unwrap_or(left),
        }
    }

    /// Optimizer steps of one training from beginning to end, without a probe.
    pub fn total_steps(&self, rows: usize) -> usize {
        match (self.train.steps, self.train.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => {
                let examples = self
                    .train
                    .batch_size
                    .saturating_mul(self.train.accumulate)
                    .max(1);
                let steps_per_epoch = rows.div_ceil(examples).max(1);
                // Half an epoch of an odd number of steps rounds up, so that the last batch counts.
                (epochs.unwrap_or(1.0) * steps_per_epoch as f64).ceil() as usize
            }
        }
    }
}

impl Probe {
    /// Number of measurements: at the first step after the burn-in, and every `every` steps from there.
    ///
    /// ```
    /// let probe = autopeft::recipe::Probe::default(); // 24 steps, 5 of them burn-in
    /// assert_eq!((probe.every, probe.measurements()), (6, 4));
    /// ```
    pub fn measurements(&self) -> usize {
        let steps = self.steps.saturating_sub(self.burn_in_steps());
        steps.div_ceil(self.every.max(1))
    }

    /// Steps before the first measurement.
    pub fn burn_in_steps(&self) -> usize {
        (self.burn_in * self.steps as f64).ceil() as usize
    }
}
