//! Fits the common height of all rates without measuring the groups one by one.

use std::sync::Arc;

use autopeft_adapters::Directions;

use super::estimator::Point;
use crate::data::TrainOrder;
use crate::error::Result;
use crate::groups::Group;
use crate::task::Objective;
use crate::train::{Rows, Trainer};

/// What a fit of the height works with; three forward passes of one measuring batch.
///
/// For when the groups' own numbers are not there or not needed: before the first measurement, while half of a fresh LoRA
/// has no gradient but the whole step may be too large already, and after a selection, when fewer groups may take larger
/// steps.
pub struct Height<'a> {
    /// The model.
    pub model: &'a dyn Objective,
    /// Training rows.
    pub rows: Rows<'a>,
    /// The trainer's groups, in the same order.
    pub groups: &'a [Group],
    /// Order of the rows for measuring.
    pub measuring: &'a mut TrainOrder,
}

impl Height<'_> {
    /// Scales all rates of the trainer towards the best step along `directions`, and returns the factor.
    ///
    /// # Errors
    /// When the model cannot be evaluated.
    pub fn fit(
        &mut self,
        trainer: &mut Trainer<'_>,
        directions: &Arc<Directions>,
        step: usize,
    ) -> Result<f64> {
        let batch = self.rows.batch(&self.measuring.next_rows())?;
        let groups: Vec<&Group> = self.groups.iter().collect();
        let rates = trainer.rates().to_vec();
        let point = Point {
            model: self.model,
            batch: &batch,
            groups: &groups,
            directions,
            rates: &rates,
            step,
        };
        let factor = point.along_the_step(point.loss()?)?.factor();
        for (number, rate) in rates.iter().enumerate() {
            trainer.set_rate(number, rate * factor);
        }
        Ok(factor)
    }
}
