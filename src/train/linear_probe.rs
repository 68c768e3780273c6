//! Trains the head alone, on what the frozen layers below it give of some rows.
//!
//! A head that has just been drawn sends random gradients down: they distort the layers (Kumar et al. 2022,
//! <https://arxiv.org/abs/2202.10054>), and no group below can be told from another by them. The layers run once for each batch,
//! so that a step of the head costs next to nothing. It is not fitted to the end: a head with large weights leaves little to
//! learn to the layers below it.

use std::sync::Arc;
use std::time::Instant;

use autopeft_adapters::{Directions, Parameter, Prefix};

use super::adamw::{AdamW, AdamWConfig};
use super::trainer::StepReport;
use crate::data::{Batch, DataError};
use crate::error::{Error, Result};
use crate::groups::Group;
use crate::task::{Answer, Objective};

/// Root mean square change of the outputs by one step, in the loss's own units (logits of classes), of which the learning rate is made:
/// that depends on how large and how many the head's inputs are.
const STEP: f64 = 0.1;
/// Learning rate of the step by which that change is measured.
const TRIAL: f64 = 1e-3;

/// A head and the batches that it learns from.
pub struct LinearProbe<'a> {
    model: &'a dyn Objective,
    parameters: Vec<Arc<Parameter>>,
    batches: Vec<Below>,
    optimizer: AdamW,
    rate: Option<f64>,
    step: usize,
}

/// A batch, with what the layers below the head give of it; `None` before its first step.
struct Below {
    batch: Batch,
    prefix: Option<Prefix>,
}

impl<'a> LinearProbe<'a> {
    /// Of these heads, by these batches. All other groups of the model must be frozen.
    pub fn new(
        model: &'a dyn Objective,
        head: &[Group],
        batches: Vec<Batch>,
        optimizer: AdamWConfig,
    ) -> Self {
        let parameters: Vec<_> = (head.iter())
            .flat_map(|group| group.parameters.iter().cloned())
            .collect();
        let below = |batch| Below {
            batch,
            prefix: None,
        };
        Self {
            model,
            batches: batches.into_iter().map(below).collect(),
            optimizer: AdamW::new(parameters.clone(), optimizer),
            parameters,
            rate: None,
            step: 0,
        }
    }

    /// One step, by the next of the batches, which come around.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is not finite, before anything was changed; and when a tensor operation fails.
    pub fn advance(&mut self) -> Result<StepReport> {
        let start = Instant::now();
        let number = self.step % self.batches.len().max(1);
        let Some(Below { batch, prefix }) = self.batches.get_mut(number) else {
            return Err(DataError::NoBatches.into());
        };
        let prefix = match prefix {
            Some(prefix) => prefix,
            None => {
                let record = Prefix::new();
                self.model.outcome(batch, &record.record())?;
                record.keep_for(&self.parameters);
                prefix.insert(record)
            }
        };
        let (batch, prefix) = (&*batch, &*prefix);
        let pass = prefix.resume_training(0, &self.parameters);
        let outcome = self.model.outcome(batch, &pass)?;
        let loss = outcome.loss();
        if !loss.is_finite() {
            return Err(Error::Diverged {
                step: self.step,
                loss,
            });
        }
        let gradients = pass.backward(&outcome.scalar()?)?;
        let flat = self.optimizer.direction(&gradients)?;
        let directions = self.optimizer.split(&flat)?;
        let rate = match self.rate {
            Some(rate) => rate,
            None => match speed(self.model, &self.parameters, batch, prefix, &directions)? {
                speed if speed > 0.0 => STEP / speed,
                _ => TRIAL, // The outputs do not depend on it.
            },
        };
        self.rate = Some(rate);
        self.optimizer.apply(&directions, |_| rate)?;
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            loss,
            learning_rate: rate,
            tokens: batch.num_tokens,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Root mean square change of a batch's outputs along the directions, per unit of the learning rate.
fn speed(
    model: &dyn Objective,
    parameters: &[Arc<Parameter>],
    batch: &Batch,
    prefix: &Prefix,
    directions: &Directions,
) -> Result<f64> {
    let outputs = || -> Result<Vec<f64>> {
        let pass = prefix.resume(parameters);
        let answers = model.outcome(batch, &pass)?.answers();
        let rows = answers.into_iter().filter_map(|answer| match answer {
            Answer::Outputs(row) => Some(row),
            Answer::Tokens { .. } => None,
        });
        Ok(rows.flatten().collect())
    };
    let before = outputs()?;
    let values: Vec<_> = parameters.iter().map(|p| p.value()).collect();
    for (parameter, value) in parameters.iter().zip(&values) {
        if let Some(direction) = directions.get(parameter.index()) {
            parameter.set(&(value - (direction * TRIAL)?)?)?;
        }
    }
    let after = outputs();
    for (parameter, value) in parameters.iter().zip(&values) {
        parameter.set(value)?;
    }
    let squares: Vec<f64> = (before.iter().zip(&after?))
        .map(|(before, after)| ((after - before) / TRIAL).powi(2))
        .collect();
    Ok((squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt())
}
