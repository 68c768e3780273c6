//! A model with the superset attached, and rows to evaluate on that no arm sees before its end.

use anyhow::{Context, Result};
use autopeft::data::Encoded;
use autopeft::groups::Group;
use autopeft::interrupt::Interrupt;
use autopeft::metrics::Evaluation;
use autopeft::pipeline::{self, Measured, Prepared, Recorder};
use autopeft::progress::Silent;
use autopeft::recipe::Recipe;
use autopeft::select::Budget;
use autopeft::train::evaluate;

use crate::cost;

/// Rows that the pipeline's own evaluations look at, for its report alone.
const PIPELINE_ROWS: usize = 32;

pub struct Bench<'r> {
    pub prepared: Prepared<'r>,
    test: Encoded,
}

/// What a selection came to.
pub struct Selected {
    pub kept: Vec<bool>,
    pub evaluation: Evaluation,
    /// What it took beyond the steps of its training, in training steps.
    pub cost: usize,
}

impl<'r> Bench<'r> {
    /// Attaches the recipe's superset; the validation rows become the test rows, at most `rows` of them.
    pub fn new(recipe: &'r Recipe, rows: Option<usize>) -> Result<Self> {
        let mut prepared = Prepared::new(recipe, &Recorder::listener(&Silent))?;
        let mut test = prepared.data.validation.clone();
        if let Some(rows) = rows.filter(|rows| *rows < test.rows.len()) {
            let every = test.rows.len() as f64 / rows as f64;
            let at = |row: usize| test.rows.get((row as f64 * every) as usize).cloned();
            test.rows = (0..rows).filter_map(at).collect();
        }
        prepared.data.validation.rows.truncate(PIPELINE_ROWS);
        Ok(Self { prepared, test })
    }

    /// Parameters within a budget.
    pub fn capacity(&self, budget: &str) -> Result<usize> {
        let budget = budget.parse::<Budget>()?;
        Ok(budget.resolve(self.prepared.base.num_parameters())?)
    }

    /// From the probe to the trimmed model, as the program does it.
    pub fn select(&self) -> Result<Selected> {
        let prepared = &self.prepared;
        prepared.groups.iter().for_each(Group::reset);
        let (recorder, interrupt) = (Recorder::listener(&Silent), Interrupt::default());
        let (measured, chosen) = pipeline::train(prepared, &recorder, &interrupt)?;
        let chosen = chosen.context("nobody asks for a stop")?;
        Ok(Selected {
            cost: cost::of(prepared, &measured),
            kept: chosen.kept,
            evaluation: self.evaluate()?,
        })
    }

    /// Trains what is kept from its first values over the whole horizon; `fitted` fits the height of the rates on the way, as
    /// it is done after a selection. Also says what the fits took, in training steps.
    pub fn train(&self, kept: &[bool], fitted: bool) -> Result<(Evaluation, usize)> {
        let prepared = &self.prepared;
        prepared.groups.iter().for_each(Group::reset);
        let mut measured = Measured::default();
        pipeline::train_set(
            prepared,
            &mut measured,
            kept,
            if fitted {
                prepared.recipe.select.refit
            } else {
                0
            },
            &Recorder::listener(&Silent),
            &Interrupt::default(),
        )?;
        Ok((self.evaluate()?, cost::of_fits(prepared, measured.fits)))
    }

    /// The present model on the test rows.
    pub fn evaluate(&self) -> Result<Evaluation> {
        let prepared = &self.prepared;
        Ok(evaluate(
            &*prepared.model,
            &self.test,
            prepared.padding(),
            prepared.eval_batch_size(),
            &prepared.device,
        )?)
    }
}

/// CPU time of the process so far, all threads.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
