//! Fits the height of all learning rates to the step that they make together.

use std::sync::Arc;

use autopeft_adapters::Directions;

use super::estimator::Point;
use super::rates::{Height, Reach, StepLosses};
use crate::data::TrainOrder;
use crate::error::Result;
use crate::groups::Group;
use crate::task::Objective;
use crate::train::{Rows, Trainer};

/// Fits follow so much faster on each other while they move the rates.
const HASTE: usize = 4;
/// Factor from which on a fit has moved them.
const MOVED: f64 = 1.25;

/// Keeps the height of a trainer's rates where its steps are good, by three forward passes of a batch of other rows than the
/// step's (GeN: Bu and Xu 2024, <https://arxiv.org/abs/2407.02772>). The ratios of the rates stay.
///
/// It ends early in a training, with the mean height until then, in logarithms. The best single step becomes short as soon as
/// the gradient's noise outweighs its mean, while a training gains from longer ones, and from a decay that the schedule has
/// already (short-horizon bias: Wu et al. 2018, <https://arxiv.org/abs/1803.02021>).
#[derive(Clone)]
pub struct HeightFit<'a> {
    model: &'a dyn Objective,
    rows: Rows<'a>,
    groups: &'a [Group],
    order: TrainOrder,
    pace: FitPace,
    due: usize,
    height: Height,
    fits: usize,
    mean: MeanHeight,
}

/// When [`HeightFit`] fits.
#[derive(Debug, Clone, PartialEq)]
pub struct FitPace {
    /// At most so many steps from one fit to the next, and a quarter of that while the rates are far from where they should
    /// be; at least 1.
    pub every: usize,
    /// The last step with a fit.
    pub until: usize,
    /// How far they move the height.
    pub reach: Reach,
}

impl<'a> HeightFit<'a> {
    /// For the rates of `groups`, the trainer's, by batches of `rows` in this order.
    pub fn new(
        model: &'a dyn Objective,
        rows: Rows<'a>,
        groups: &'a [Group],
        order: TrainOrder,
        pace: FitPace,
    ) -> Self {
        Self {
            model,
            rows,
            groups,
            order,
            height: Height::within(pace.reach.clone()),
            pace,
            due: 0,
            fits: 0,
            mean: MeanHeight::default(),
        }
    }

    /// Fits so far.
    pub fn fits(&self) -> usize {
        self.fits
    }

    /// Fits once, if it is time; after the last step with a fit, takes the mean height.
    ///
    /// # Errors
    /// When the model cannot be evaluated.
    pub fn fit(&mut self, trainer: &mut Trainer<'_>, directions: &Arc<Directions>) -> Result<()> {
        if trainer.step() > self.pace.until {
            if let Some(mean) = self.mean.end(trainer.step()) {
                scale(trainer, mean / self.height.value());
            }
            return Ok(());
        }
        if trainer.step() < self.due {
            return Ok(());
        }
        let rows = self.order.next_rows_beside(trainer.examples_of_step());
        let batch = self.rows.batch(&rows)?;
        let groups: Vec<&Group> = self.groups.iter().collect();
        let rates = trainer.decayed_rates();
        let point = Point {
            model: self.model,
            batch: &batch,
            groups: &groups,
            directions,
            rates: &rates,
            step: trainer.step(),
        };
        let losses = point.along_the_step(point.loss()?)?;
        self.fits += 1;
        self.take(trainer, losses);
        Ok(())
    }

    /// Moves the rates by losses that somebody else measured along the present step.
    pub(super) fn take(&mut self, trainer: &mut Trainer<'_>, losses: StepLosses) {
        let factor = self.height.factor(losses);
        let is_far = factor.max(factor.recip()) > MOVED;
        let pause = match is_far {
            true => self.pace.every.div_ceil(HASTE),
            false => self.pace.every,
        };
        self.due = trainer.step() + pause;
        self.mean.go_on(trainer.step(), self.height.value());
        scale(trainer, factor);
    }
}

fn scale(trainer: &mut Trainer<'_>, factor: f64) {
    for (number, rate) in trainer.rates().to_vec().into_iter().enumerate() {
        trainer.set_rate(number, rate * factor);
    }
}

/// Mean over steps of the logarithm of a height.
#[derive(Debug, Clone, Copy, Default)]
struct MeanHeight {
    /// The height since a step.
    last: Option<(usize, f64)>,
    sum: f64,
    steps: usize,
}

impl MeanHeight {
    /// From this step on, it is this high.
    fn go_on(&mut self, step: usize, height: f64) {
        if let Some((since, last)) = self.last.replace((step, height)) {
            self.sum += last.ln() * (step - since) as f64;
            self.steps += step - since;
        }
    }

    /// The mean until this step; `None` without a height, and after the first call.
    fn end(&mut self, step: usize) -> Option<f64> {
        let (_, height) = self.last?;
        self.go_on(step, height);
        self.last = None;
        (self.steps > 0).then(|| (self.sum / self.steps as f64).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_height_weighs_each_by_its_steps_and_is_taken_once() {
        let mut mean = MeanHeight::default();
        assert_eq!(mean.end(5), None);
        mean.go_on(10, 8.0);
        mean.go_on(11, 2.0);
        let got = mean.end(13).expect("there is a height");
        assert!((got - 32.0_f64.cbrt()).abs() < 1e-12, "{got}");
        assert_eq!(mean.end(14), None);
    }
}
