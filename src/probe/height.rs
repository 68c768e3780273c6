//! Fits the height of all learning rates to the step that they make together.

use std::sync::Arc;

use autopeft_adapters::Directions;

use super::estimator::Point;
use crate::data::{Batch, TrainOrder};
use crate::error::Result;
use crate::groups::Group;
use crate::task::Objective;
use crate::train::{Rows, Trainer};

/// Moves the height of a trainer's rates towards the optimum of its steps, by three forward passes of a batch of other
/// rows than the step's (GeN: Bu and Xu 2024, <https://arxiv.org/abs/2407.02772>). The ratios of the rates stay.
#[derive(Clone)]
pub struct HeightFit<'a> {
    /// The model.
    pub model: &'a dyn Objective,
    /// Training rows.
    pub rows: Rows<'a>,
    /// The trainer's groups.
    pub groups: &'a [Group],
    /// Order of the rows for measuring.
    pub order: TrainOrder,
    /// Steps from one fit to the next; 0 fits nothing.
    pub every: usize,
}

impl HeightFit<'_> {
    /// Fits once, if it is time.
    ///
    /// # Errors
    /// When the model cannot be evaluated.
    pub fn fit(&mut self, trainer: &mut Trainer<'_>, directions: &Arc<Directions>) -> Result<()> {
        if self.every == 0 || !trainer.step().is_multiple_of(self.every) {
            return Ok(());
        }
        let batch = self.rows.batch(&self.order.next_rows())?;
        fit_on(&batch, self.model, self.groups, trainer, directions)
    }
}

/// One fit, on this batch.
pub(super) fn fit_on(
    batch: &Batch,
    model: &dyn Objective,
    groups: &[Group],
    trainer: &mut Trainer<'_>,
    directions: &Arc<Directions>,
) -> Result<()> {
    let groups: Vec<&Group> = groups.iter().collect();
    let rates = trainer.rates().to_vec();
    let point = Point {
        model,
        batch,
        groups: &groups,
        directions,
        rates: &rates,
        step: trainer.step(),
    };
    let factor = point.along_the_step(point.loss()?)?.factor();
    for (number, rate) in rates.iter().enumerate() {
        trainer.set_rate(number, rate * factor);
    }
    Ok(())
}
