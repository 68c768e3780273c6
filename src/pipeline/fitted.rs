//! A trainer whose learning rates are fitted on the way.

use std::ops::RangeInclusive;

use super::information::sees_rows_often;
use super::prepare::Prepared;
use crate::error::Result;
use crate::probe::HeightFit;
use crate::train::{StepReport, Trainer};

/// Multiple of the recipe's rates up to which those of a probe rise: beyond, all groups together are too fast to measure by.
pub(super) const HIGHEST_OF_A_PROBE: f64 = 3.0;
/// The same for a kept set whose training sees its rows often: those that fits take were learnt by heart too, and the best step by them
/// may be one that the model does not stand for long. What too large a rate has spoilt, no later fit mends.
const HIGHEST: f64 = 3.0;
/// The same where it does not.
const HIGHEST_ON_NEW_ROWS: f64 = 10.0;

/// Multiples of the recipe's rates between which those of a kept set stay in a training of so many steps.
pub(super) fn heights(prepared: &Prepared<'_>, steps: usize) -> RangeInclusive<f64> {
    match sees_rows_often(prepared, steps) {
        true => 1.0..=HIGHEST,
        false => 1.0..=HIGHEST_ON_NEW_ROWS,
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
