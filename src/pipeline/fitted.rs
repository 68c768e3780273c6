//! A trainer whose learning rates are fitted on the way.

use crate::error::Result;
use crate::probe::HeightFit;
use crate::train::{StepReport, Trainer};

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
