//! What trains, measures and fits a prepared model: orders of its rows, schedules, rates and optimizers, as the recipe has them.

use std::ops::Range;

use super::super::information::loraplus_lr_ratio;
use super::Prepared;
use crate::data::{Batching, TrainOrder};
use crate::error::Result;
use crate::groups::Group;
use crate::probe::{FitPace, HeightFit, Reach};
use crate::recipe::{self, LearningRates};
use crate::train::{
    AdamWConfig, LinearProbe, Rows, Schedule, ScheduleKind, Trainer, TrainerConfig,
};

/// Different streams of one seed: the rows of training, of measuring, of fitting rates, and of the head's warm-up.
const MEASURING: u64 = 0x6d65_6173;
const FITTING: u64 = 0x6669_7473;
const WARM_UP: u64 = 0x6865_6164;

/// Batches by which the head alone is trained, over and over: the layers below it run once for each.
const HEAD_BATCHES: usize = 32;

/// The part of a training in which the height of its rates is fitted: one of so many.
const FITTED: usize = 4;

impl Prepared<'_> {
    fn order(&self, rows: &Rows<'_>, batch_size: usize, stream: u64) -> Result<TrainOrder> {
        let seed = self.recipe.seed ^ stream.rotate_left(32);
        Ok(TrainOrder::new(
            rows.encoded.lengths(),
            batch_size,
            Batching::ByLength,
            seed,
        )?)
    }

    /// The order of the measuring batches.
    pub fn measuring_order(&self) -> Result<TrainOrder> {
        let examples = (self.recipe.probe.examples).min(self.data.train.rows.len());
        self.order(&self.measuring_rows(), examples, MEASURING)
    }

    /// Fits the height of the learning rates within the first quarter of the steps `from..to`, at most `every` steps from one fit
    /// to the next and as far as `reach` says, by batches of the training's size; `None` where the recipe's rates are
    /// fixed, or `every` is 0.
    pub fn height_fit(
        &self,
        every: usize,
        steps: Range<usize>,
        reach: Reach,
    ) -> Result<Option<HeightFit<'_>>> {
        if self.recipe.probe.learning_rates == LearningRates::Fixed || every == 0 {
            return Ok(None);
        }
        let examples = (self.recipe.train.batch_size).min(self.data.train.rows.len());
        let rows = self.measuring_rows();
        let order = self.order(&rows, examples, FITTING)?;
        let pace = FitPace {
            every,
            until: steps.start + steps.len() / FITTED,
            reach,
        };
        Ok(Some(HeightFit::new(
            &*self.model,
            rows,
            &self.groups,
            order,
            pace,
        )))
    }

    /// A trainer of all groups, over the whole horizon. Its warm-up is over before the first measurement: slopes and curvatures
    /// shall be those of the training's own rates.
    pub fn trainer(&self) -> Result<Trainer<'_>> {
        let whole = self.schedule(self.horizon.probe + self.horizon.after);
        let schedule = Schedule {
            warmup: whole.warmup.min(self.recipe.probe.burn_in_steps()),
            ..whole
        };
        self.trainer_of(&self.groups, 0, schedule)
    }

    /// The schedule of what is kept after the selection.
    pub fn schedule_of_kept(&self) -> Schedule {
        self.schedule(self.horizon.after)
    }

    /// A trainer that starts again after the selection, for `after: rewind`.
    pub fn rewound_trainer(&self) -> Result<Trainer<'_>> {
        self.trainer_of(&self.groups, 0, self.schedule_of_kept())
    }

    /// A trainer of all groups over the whole horizon, with nothing measured on the way.
    pub fn whole_trainer(&self) -> Result<Trainer<'_>> {
        let steps = self.horizon.probe + self.horizon.after;
        self.trainer_of(&self.groups, 0, self.schedule(steps))
    }

    /// A trainer of these head groups alone, on the first batches of an epoch.
    pub fn linear_probe(&self, heads: &[Group]) -> Result<LinearProbe<'_>> {
        let rows = self.training_rows();
        let order = self.order(&rows, self.recipe.train.batch_size, WARM_UP)?;
        let most = HEAD_BATCHES.min(order.batches_per_epoch());
        let batches = (order.take(most.min(self.horizon.head_warmup)))
            .map(|numbers| rows.batch(&numbers))
            .collect::<Result<_>>()?;
        let optimizer = self.optimizer_config();
        Ok(LinearProbe::new(&*self.model, heads, batches, optimizer))
    }

    fn trainer_of<'a>(
        &'a self,
        groups: &'a [Group],
        stream: u64,
        schedule: Schedule,
    ) -> Result<Trainer<'a>> {
        let rows = self.training_rows();
        let order = self.order(&rows, self.recipe.train.batch_size, stream)?;
        let (rates, config) = (self.rates(groups), self.trainer_config(schedule));
        Ok(Trainer::new(
            &*self.model,
            rows,
            order,
            groups,
            rates,
            config,
        ))
    }

    /// The recipe's schedule over so many steps.
    fn schedule(&self, steps: usize) -> Schedule {
        let train = &self.recipe.train;
        Schedule {
            kind: match train.schedule {
                recipe::Schedule::Linear => ScheduleKind::Linear,
                recipe::Schedule::Constant => ScheduleKind::Constant,
            },
            warmup: (train.warmup * steps as f64).round() as usize,
            steps,
        }
    }

    /// Learning rates at the start.
    pub fn rates(&self, groups: &[Group]) -> Vec<f64> {
        let train = &self.recipe.train;
        groups
            .iter()
            .map(|group| {
                if group.is_reference() {
                    0.0
                } else if group.is_head() {
                    train.head_learning_rate.unwrap_or(train.learning_rate)
                } else {
                    train.learning_rate
                }
            })
            .collect()
    }

    fn trainer_config(&self, schedule: Schedule) -> TrainerConfig {
        TrainerConfig {
            optimizer: self.optimizer_config(),
            schedule,
            accumulate: self.recipe.train.accumulate,
            seed: self.recipe.seed,
            keep_frozen_layers: self.recipe.train.keep_frozen_layers,
        }
    }

    fn optimizer_config(&self) -> AdamWConfig {
        let train = &self.recipe.train;
        AdamWConfig {
            beta1: train.beta1,
            beta2: train.beta2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
            clip: (train.clip > 0.0).then_some(train.clip),
            loraplus_lr_ratio: loraplus_lr_ratio(self),
        }
    }
}
