//! A trainer whose learning rates are fitted on the way.

use crate::error::Result;
use crate::probe::{HeightFit, Reach};
use crate::recipe::Recipe;
use crate::train::{StepReport, Trainer};

/// That of a probe: beyond, all groups together are too fast to measure by.
pub(super) const REACH_OF_A_PROBE: Reach = Reach {
    bounds: 0.0..=3.0,
    longest: 2.0,
};
/// That of a kept set: up until the best step is no longer than the one that is taken, or the recipe's highest rate is reached.
///
/// Where a training sees its rows often, those that fits take were learnt by heart too, and the best step by them may be one that the
/// model does not stand for long. What too large a rate has spoilt, no later fit mends, hence the bound.
pub(super) fn reach_of_a_kept_set(recipe: &Recipe) -> Reach {
    let highest = recipe.select.max_learning_rate / recipe.train.learning_rate;
    Reach {
        bounds: 1.0..=highest.max(1.0),
        longest: 1.0,
    }
}

/// A trainer, and the fit of its rates' height where the recipe measures rates.
pub struct FittedTrainer<'a> {
    /// The trainer.
    pub trainer: Trainer<'a>,
    /// `None` keeps the rates.
    pub heights: Option<HeightFit<'a>>,
}

impl FittedTrainer<'_> {
    /// One step, with a fit if it is time.
    ///
    /// # Errors
    /// Those of [`Trainer::advance`].
    pub fn advance(&mut self) -> Result<StepReport> {
        let heights = &mut self.heights;
        self.trainer.advance(|trainer, directions| match heights {
            Some(heights) => heights.fit(trainer, directions),
            None => Ok(()),
        })
    }

    /// Fits so far.
    pub fn fits(&self) -> usize {
        self.heights.as_ref().map_or(0, HeightFit::fits)
    }
}
