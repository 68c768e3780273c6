//! A probe that ran once, from which many choices go on.

use std::sync::Arc;

use anyhow::{Context, Result};
use autopeft::groups::{Group, Snapshot};
use autopeft::interrupt::Interrupt;
use autopeft::metrics::Evaluation;
use autopeft::pipeline::{self, Measured, Recorder};
use autopeft::probe::influence::Curvature;
use autopeft::probe::{Estimator, GaussNewton, Point};
use autopeft::progress::Silent;
use autopeft::select::{
    Damping, Method, SelectOptions, SelectionInput, SetModel, Solver, Term, select,
};
use autopeft::train::Trainer;
use autopeft_adapters::{Directions, Pass};
use candle_core::{DType, Tensor};

use crate::bench::Bench;
use crate::choice::{Choice, by_lot};
use crate::cost;

/// Batches of the training's size by which gradients are scored after the probe.
const SCORED_BATCHES: usize = 16;

pub struct Probed<'b> {
    bench: &'b Bench<'b>,
    trainer: Trainer<'b>,
    pub measured: Measured,
    saved: Snapshot,
}

impl<'b> Probed<'b> {
    pub fn run(bench: &'b Bench<'b>) -> Result<Self> {
        let prepared = &bench.prepared;
        for group in &prepared.groups {
            group.reset();
        }
        let mut trainer = prepared.trainer()?;
        let recorder = Recorder::listener(&Silent);
        let measured = pipeline::measure(prepared, &mut trainer, &recorder, &Interrupt::default())?;
        let saved = Snapshot::of(&prepared.groups);
        Ok(Self {
            bench,
            trainer,
            measured,
            saved,
        })
    }

    pub fn groups(&self) -> &[Group] {
        &self.bench.prepared.groups
    }

    fn restore(&self) -> Result<()> {
        Ok(self.saved.restore()?)
    }

    /// Drops everything else, trains on, and evaluates; also says what measurements and fits took, in training steps.
    pub fn finish(&self, kept: &[bool]) -> Result<(Evaluation, usize)> {
        self.restore()?;
        let prepared = &self.bench.prepared;
        let mut measured = self.measured.clone();
        pipeline::finish(
            prepared,
            &mut measured,
            kept,
            &self.trainer,
            &Recorder::listener(&Silent),
            &Interrupt::default(),
        )?;
        Ok((self.bench.evaluate()?, cost::of(prepared, &measured)))
    }

    /// What the measurements say of each group.
    pub fn scores(&self) -> Vec<(&'static str, Vec<f64>)> {
        let scores = &self.measured.scores;
        vec![
            ("value", scores.iter().map(|score| score.value).collect()),
            (
                "influence",
                scores.iter().map(|score| score.influence).collect(),
            ),
            (
                "slope",
                scores.iter().map(|score| score.slope_mean).collect(),
            ),
            (
                "curvature",
                scores.iter().map(|score| score.curvature_mean).collect(),
            ),
            ("learning rate", self.measured.rates.clone()),
        ]
    }

    /// The same, what a set is worth with and without each, and the scores of the gradient and of the way at the probe's end.
    pub fn all_scores(&self) -> Result<Vec<(&'static str, Vec<f64>)>> {
        self.restore()?;
        let input = pipeline::selection_input(&self.bench.prepared, &self.measured)?;
        let way = self.way()?;
        let mut scores = self.scores();
        scores.extend([
            ("value lost without it", self.lost(&input.terms)?),
            ("value along the way", own_values(&way)),
            (
                "the same lost without it",
                self.lost(std::slice::from_ref(&way))?,
            ),
            ("gradient norm", self.cheap(Choice::GradientNorm)?),
            ("Fisher", self.cheap(Choice::Fisher)?),
            ("SNIP", self.cheap(Choice::Snip)?),
            ("magnitude", self.cheap(Choice::Magnitude)?),
        ]);
        Ok(scores)
    }

    /// The value of all groups together less that of all but one.
    fn lost(&self, terms: &[Term]) -> Result<Vec<f64>> {
        let groups = self.groups();
        let heads: Vec<usize> = (groups.iter().enumerate())
            .filter(|(_, group)| group.is_head())
            .map(|(number, _)| number)
            .collect();
        let count = groups.len();
        let model = SetModel::new(terms, count, &heads, Damping::default())?;
        let value = |left_out: Option<usize>| {
            let set: Vec<usize> = (0..count)
                .filter(|group| Some(*group) != left_out)
                .collect();
            model.value(&set, count)
        };
        let whole = value(None);
        Ok((0..count).map(|group| whole - value(Some(group))).collect())
    }

    /// The groups that a rule keeps.
    pub fn choose(&self, choice: Choice, capacity: usize) -> Result<Vec<bool>> {
        self.restore()?;
        let groups = self.groups();
        let mut input = pipeline::selection_input(&self.bench.prepared, &self.measured)?;
        let solver = match choice {
            Choice::Coupled => Solver::Coupled,
            Choice::Diagonal => Solver::Exact,
            Choice::Ppi => Solver::Greedy,
            Choice::Slope => Solver::Slope,
            Choice::Way | Choice::WayDiagonal => {
                let term = self.way()?;
                revalue(&mut input, &own_values(&term));
                input.terms = vec![term];
                match choice {
                    Choice::Way => Solver::Coupled,
                    _ => Solver::Exact,
                }
            }
            Choice::GradientNorm | Choice::Fisher | Choice::Snip | Choice::Magnitude => {
                revalue(&mut input, &self.cheap(choice)?);
                Solver::Exact
            }
            Choice::Random => {
                return Ok(by_lot(groups, capacity, self.bench.prepared.recipe.seed));
            }
        };
        let budget = capacity.to_string().parse()?;
        let method = Method::Budget { budget, solver };
        let selection = select(&input, method, &SelectOptions::default())?;
        let mut kept = vec![false; groups.len()];
        for number in selection.kept() {
            if let Some(entry) = kept.get_mut(number) {
                *entry = true;
            }
        }
        Ok(kept)
    }

    /// The loss as a quadratic function of gates `c`, one for each group: 1 at the probe's end, 0 with the group gone.
    ///
    /// With `b` and `A` measured along `Δ = w − w₀`, `L(c) = L(1) − bᵀ(1 − c) + ½ (1 − c)ᵀA(1 − c)`; as a function of `c`
    /// its slope is `A1 − b`.
    fn way(&self) -> Result<Term> {
        let prepared = &self.bench.prepared;
        let groups = self.groups();
        let mut way = Directions::default();
        for group in groups.iter().filter(|group| !group.is_head()) {
            for parameter in &group.parameters {
                way.insert(
                    parameter.index(),
                    (parameter.value() - parameter.initial())?,
                );
            }
        }
        let way = Arc::new(way);
        let mut order = prepared.measuring_order()?;
        let rows = prepared.measuring_rows();
        let all: Vec<&Group> = groups.iter().collect();
        let rates = vec![0.0; groups.len()];
        let count = groups.len();
        let (mut slope, mut curvature) = (vec![0.0; count], vec![0.0; count * count]);
        let measurements = self.measured.outcome.measurements.len().max(1);
        for step in 0..measurements {
            let batch = rows.batch(&order.next_rows())?;
            let mut estimator = GaussNewton {
                exact_classes: prepared.recipe.probe.exact_classes,
                seed: prepared.recipe.seed,
            };
            let estimate = estimator.measure(&Point {
                model: &*prepared.model,
                batch: &batch,
                groups: &all,
                directions: &way,
                rates: &rates,
                step: 1_000_000 + step,
            })?;
            let Curvature::Full(matrix) = estimate.curvature else {
                unreachable!("gauss-newton measures all of A")
            };
            add(&mut slope, &estimate.slope, 1.0 / measurements as f64);
            add(&mut curvature, &matrix, 1.0 / measurements as f64);
        }
        let slope = (slope.iter().zip(curvature.chunks(count)))
            .map(|(b, row)| row.iter().sum::<f64>() - b)
            .collect();
        Ok(Term { slope, curvature })
    }

    /// Scores of the gradient at the probe's end.
    fn cheap(&self, choice: Choice) -> Result<Vec<f64>> {
        let prepared = &self.bench.prepared;
        let rows = prepared.measuring_rows();
        let mut order = prepared.measuring_order()?;
        let mut mean: Vec<Option<Tensor>> = vec![None; prepared.adapters.parameters().len()];
        let mut fisher = vec![0.0; self.groups().len()];
        let batches = match choice {
            Choice::Magnitude => 0,
            _ => SCORED_BATCHES,
        };
        for _ in 0..batches {
            let batch = rows.batch(&order.next_rows())?;
            let pass = Pass::gradients();
            let outcome = prepared.model.outcome(&batch, &pass)?;
            let gradients = pass.backward(&outcome.scalar()?)?;
            for (group, fisher) in self.groups().iter().zip(&mut fisher) {
                for parameter in &group.parameters {
                    let Some(gradient) = gradients.get(parameter.index()) else {
                        continue;
                    };
                    *fisher += square(gradient)? / batches as f64;
                    let entry = mean
                        .get_mut(parameter.index())
                        .context("a parameter that is not registered")?;
                    let share = (gradient * (1.0 / batches as f64))?;
                    *entry = Some(match entry.take() {
                        Some(sum) => (sum + share)?,
                        None => share,
                    });
                }
            }
        }
        if choice == Choice::Fisher {
            return Ok(fisher);
        }
        self.groups()
            .iter()
            .map(|group| {
                let mut score = 0.0;
                for parameter in &group.parameters {
                    let way = (parameter.value() - parameter.initial())?;
                    let gradient = mean.get(parameter.index()).and_then(Option::as_ref);
                    score += match (choice, gradient) {
                        (Choice::Magnitude, _) => square(&way)?,
                        (Choice::Snip, Some(gradient)) => f64::from(
                            (gradient * way)?
                                .sum_all()?
                                .to_dtype(DType::F32)?
                                .to_scalar::<f32>()?,
                        ),
                        (_, Some(gradient)) => square(gradient)?,
                        (_, None) => 0.0,
                    };
                }
                Ok(score.abs())
            })
            .collect()
    }
}

/// Other values for the groups; their influence is the value per parameter.
fn revalue(input: &mut SelectionInput, values: &[f64]) {
    for (candidate, value) in input.candidates.iter_mut().zip(values) {
        candidate.value = *value;
        candidate.influence = value / candidate.parameters.max(1) as f64;
    }
}

/// `b²/2A` of each group.
fn own_values(term: &Term) -> Vec<f64> {
    let diagonal = term.curvature.iter().step_by(term.slope.len() + 1);
    (term.slope.iter().zip(diagonal))
        .map(|(b, a)| match *a > 0.0 && *b > 0.0 {
            true => 0.5 * b * b / a,
            false => 0.0,
        })
        .collect()
}

fn add(sum: &mut [f64], numbers: &[f64], factor: f64) {
    for (sum, number) in sum.iter_mut().zip(numbers) {
        *sum += factor * number;
    }
}

fn square(numbers: &Tensor) -> candle_core::Result<f64> {
    numbers
        .to_dtype(DType::F64)?
        .sqr()?
        .sum_all()?
        .to_scalar::<f64>()
}
