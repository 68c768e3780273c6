//! Training steps of the groups that are trained at present, each with its own learning rate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use autopeft_adapters::{Directions, Gradients, Parameter, Pass, State};
use candle_core::Device;

use super::AdamWConfig;
use super::adamw::AdamW;
use super::frozen_prefix::FrozenPrefix;
use super::mean::geometric_mean;
use super::schedule::Schedule;
use crate::data::{Batch, Encoded, Padding, TrainOrder, collate};
use crate::error::{Error, Result};
use crate::groups::Group;
use crate::task::Objective;

/// The rows that training and measuring draw from.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Token ids and targets.
    pub encoded: &'a Encoded,
    /// How batches are padded.
    pub padding: Padding,
    /// Where they go.
    pub device: &'a Device,
}

impl Rows<'_> {
    /// The batch of these rows.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn batch(&self, rows: &[usize]) -> Result<Batch> {
        Ok(collate(self.encoded, rows, self.padding, self.device)?)
    }
}

/// Settings of [`Trainer`].
#[derive(Debug, Clone, Copy)]
pub struct TrainerConfig {
    /// The optimizer's.
    pub optimizer: AdamWConfig,
    /// Factor of all learning rates by step.
    pub schedule: Schedule,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Seed of the dropout masks.
    pub seed: u64,
    /// Whether what the layers below the lowest trained group give of each row is kept in memory, and not computed again.
    pub keep_frozen_layers: bool,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: usize,
    /// Mean loss of the training batch before the step.
    pub loss: f64,
    /// Geometric mean of the learning rates of the groups that it moved, the schedule's factor included.
    pub learning_rate: f64,
    /// Tokens read, padding not counted.
    pub tokens: usize,
    /// Seconds.
    pub seconds: f64,
}

/// Trains a model's groups, step by step. A clone goes on from the same step with the same moments; the parameters' values
/// are not part of it.
#[derive(Clone)]
pub struct Trainer<'a> {
    model: &'a dyn Objective,
    rows: Rows<'a>,
    order: TrainOrder,
    config: TrainerConfig,
    optimizer: AdamW,
    groups: &'a [Group],
    rates: Vec<f64>,
    dropout: f64,
    group_of: HashMap<usize, usize>,
    parameters: Vec<Arc<Parameter>>,
    below: FrozenPrefix,
    step: usize,
    examples_of_step: Vec<usize>,
}

impl<'a> Trainer<'a> {
    /// A trainer of all `groups`, with a learning rate for each. What is not trained is left out by
    /// [`Trainer::retain`].
    pub fn new(
        model: &'a dyn Objective,
        rows: Rows<'a>,
        order: TrainOrder,
        groups: &'a [Group],
        rates: Vec<f64>,
        config: TrainerConfig,
    ) -> Self {
        let parameters: Vec<_> = groups
            .iter()
            .flat_map(|group| group.parameters.iter().cloned())
            .collect();
        let group_of = groups
            .iter()
            .enumerate()
            .flat_map(|(number, group)| group.parameters.iter().map(move |p| (p.index(), number)))
            .collect();
        Self {
            model,
            rows,
            order,
            config,
            optimizer: AdamW::new(parameters.clone(), config.optimizer),
            groups,
            rates,
            dropout: 0.0,
            group_of,
            parameters,
            below: FrozenPrefix::default(),
            step: 0,
            examples_of_step: Vec::new(),
        }
    }

    /// A trainer that goes on behind the rows that this one has read, from its first step and without moments.
    pub fn afresh(&self, schedule: Schedule) -> Self {
        let config = TrainerConfig {
            schedule,
            ..self.config
        };
        Self {
            config,
            optimizer: AdamW::new(self.parameters.clone(), config.optimizer),
            step: 0,
            ..self.clone()
        }
    }

    /// Steps taken.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Numbers of the examples of the last step, or, while it is measured, of the present one.
    pub fn examples_of_step(&self) -> &[usize] {
        &self.examples_of_step
    }

    /// What it trains at present.
    pub fn trained(&self) -> &[Arc<Parameter>] {
        self.optimizer.parameters()
    }

    /// Learning rate of each group, before the schedule's factor.
    pub fn rates(&self) -> &[f64] {
        &self.rates
    }

    /// Learning rate of each group, as far as the schedule has lowered it by now; the warm-up does not count.
    pub fn decayed_rates(&self) -> Vec<f64> {
        let factor = self.config.schedule.decay(self.step);
        self.rates.iter().map(|rate| factor * rate).collect()
    }

    /// Geometric mean of the rates of the groups that are trained.
    fn mean_rate(&self) -> f64 {
        let is_trained = |group: &Group| {
            let mut parameters = group.parameters.iter();
            parameters.any(|parameter| parameter.state() == State::Trainable)
        };
        let rates = (self.groups.iter().zip(&self.rates))
            .filter(|(group, rate)| **rate > 0.0 && is_trained(group))
            .map(|(_, rate)| *rate);
        geometric_mean(rates).unwrap_or(0.0)
    }

    /// Changes the learning rate of one group.
    pub fn set_rate(&mut self, group: usize, rate: f64) {
        if let Some(entry) = self.rates.get_mut(group) {
            *entry = rate;
        }
    }

    /// From the next step on, drops the base model's activations at this rate, 0 at first: see [`Pass::dropout`].
    pub fn set_dropout(&mut self, rate: f64) {
        self.dropout = rate;
        self.below = FrozenPrefix::default(); // of passes at another rate
    }

    /// Goes on with the groups for which `keep` holds. The others are frozen where they are, and lose
    /// their moments.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn retain(&mut self, keep: impl Fn(usize) -> bool) -> Result<()> {
        for (number, group) in self.groups.iter().enumerate() {
            if !keep(number)
                && group
                    .parameters
                    .iter()
                    .any(|p| p.state() == State::Trainable)
            {
                group.set_state(State::Frozen);
            }
        }
        let group_of = &self.group_of;
        self.optimizer.retain(|parameter| {
            group_of
                .get(&parameter.index())
                .is_some_and(|group| keep(*group))
        })
    }

    /// One step. `measure` sees the update direction before the step is taken, and may change rates.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss is not finite, before anything was changed; and when a tensor
    /// operation fails.
    pub fn advance(
        &mut self,
        measure: impl FnOnce(&mut Self, &Arc<Directions>) -> Result<()>,
    ) -> Result<StepReport> {
        let start = Instant::now();
        let (loss, tokens, gradients) = self.gradients()?;
        if !loss.is_finite() {
            return Err(Error::Diverged {
                step: self.step,
                loss,
            });
        }
        let flat = self.optimizer.direction(&gradients)?;
        let directions = Arc::new(self.optimizer.split(&flat)?);
        measure(self, &directions)?;
        let factor = self.config.schedule.factor(self.step);
        let (rates, group_of) = (&self.rates, &self.group_of);
        self.optimizer.apply(&directions, |parameter| {
            let group = group_of.get(&parameter.index());
            factor
                * group
                    .and_then(|group| rates.get(*group))
                    .copied()
                    .unwrap_or(0.0)
        })?;
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            loss,
            learning_rate: factor * self.mean_rate(),
            tokens,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn gradients(&mut self) -> Result<(f64, usize, Gradients)> {
        let mut sum = Gradients::default();
        let (mut loss, mut count, mut tokens) = (0.0, 0.0, 0);
        self.examples_of_step.clear();
        for part in 0..self.config.accumulate {
            let rows = self.order.next_rows();
            let batch = self.rows.batch(&rows)?;
            let examples = rows
                .iter()
                .flat_map(|row| self.rows.encoded.examples_of(*row));
            self.examples_of_step.extend(examples);
            let draw = (self.step * self.config.accumulate + part) as u64;
            let seed = self.config.seed.rotate_left(24) ^ draw;
            let (pass, record) = if self.config.keep_frozen_layers {
                self.below
                    .pass(&self.parameters, &batch, seed, self.dropout)?
            } else {
                (Pass::train_dropping(seed, self.dropout), None)
            };
            let outcome = self.model.outcome(&batch, &pass)?;
            let mut gradients = pass.backward(&outcome.scalar()?)?;
            if let Some(record) = record {
                self.below
                    .keep(&self.parameters, &batch, self.rows.encoded, &record)?;
            }
            if self.config.accumulate > 1 {
                // So that the sum is the gradient of the mean over all examples of the step.
                gradients.scale(outcome.count())?;
            }
            loss += outcome.loss() * outcome.count();
            count += outcome.count();
            tokens += batch.num_tokens;
            sum.accumulate(gradients)?;
        }
        if self.config.accumulate > 1 {
            sum.scale(1.0 / count)?;
        }
        Ok((loss / count, tokens, sum))
    }
}
