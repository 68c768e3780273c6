//! The head's warm-up and the probe, with the values on held-out rows around them.

use std::time::Instant;

use autopeft_adapters::{Kind, State};
use serde_json::json;

use super::fitted::REACH_OF_A_PROBE;
use super::freeze::EarlyFreezing;
use super::information;
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::Result;
use crate::groups::{Group, Snapshot};
use crate::interrupt::Interrupt;
use crate::metrics::Evaluation;
use crate::probe::influence::{self, GroupScore, Measurement, ScoreOptions};
use crate::probe::{
    Estimator, FullHessian, GaussNewton, HessianVectorProduct, ParabolaFit, Probe, ProbeConfig,
    ProbeOutcome,
};
use crate::progress::EventKind;
use crate::recipe::{self, LearningRates, Method};
use crate::report::{HeldOut, Stage};
use crate::train::{Trainer, evaluate};

/// What the probe found.
#[derive(Debug, Default, Clone)]
pub struct Measured {
    /// The measurements and what else the probe saw.
    pub outcome: ProbeOutcome,
    /// Score of each group; empty when a stop came before the first measurement.
    pub scores: Vec<GroupScore>,
    /// Learning rate of each group at the end.
    pub rates: Vec<f64>,
    /// Values on held-out rows so far.
    pub held_out: Vec<HeldOut>,
    /// Loss of a measuring batch before any training, where it is needed to tell how much the rows have to say.
    pub untrained_loss: Option<f64>,
    /// Seconds of the probe.
    pub seconds: f64,
    /// Training steps so far, the warm-up included.
    pub steps: usize,
    /// Fits of the rates' height so far, each of three forward passes of a training batch; measurements fit it too, by their own
    /// batch.
    pub fits: usize,
    /// The head after its warm-up, from which what is kept starts again.
    pub start: Snapshot,
    stopped: bool,
}

impl Measured {
    /// Whether a stop was asked for.
    pub fn interrupted(&self) -> bool {
        self.stopped || self.outcome.interrupted
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }
}

/// Warms up the head, then trains and measures the superset.
pub fn run(
    prepared: &Prepared<'_>,
    trainer: &mut Trainer<'_>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<Measured> {
    let mut measured = Measured::default();
    held_out(prepared, &mut measured, Stage::Untrained, recorder)?;
    measured.untrained_loss = information::untrained_loss(prepared)?;
    warm_up(prepared, &mut measured, recorder, interrupt)?;
    if measured.interrupted() {
        return Ok(measured);
    }
    let recipe = prepared.recipe;
    let steps = prepared.horizon.probe;
    let mut probe = Probe {
        model: &*prepared.model,
        rows: prepared.measuring_rows(),
        groups: &prepared.groups,
        measuring: prepared.measuring_order()?,
        estimator: estimator(recipe),
        config: ProbeConfig {
            steps,
            burn_in: recipe.probe.burn_in_steps(),
            every: recipe.probe.every,
            ratios: recipe.probe.learning_rates == LearningRates::HiDlr,
        },
        heights: prepared.height_fit(recipe.probe.every, 0..usize::MAX, REACH_OF_A_PROBE)?,
    };
    let sizes: Vec<usize> = prepared.groups.iter().map(|group| group.size).collect();
    let mut freezing = EarlyFreezing::new(prepared)?;
    let mut freeze = |measurements: &[Measurement]| freezing.ask(measurements);
    let start = Instant::now();
    recorder.progress.start("probe", Some(steps));
    let mut recorded = Ok(());
    let outcome = probe.run(trainer, &mut freeze, interrupt, &mut |step, measurement| {
        let told = recorder.step("probe", step.step, step).and_then(|()| match measurement {
            Some(measurement) => recorder.event(
                EventKind::Influence,
                &json!({"step": measurement.step, "loss": measurement.loss, "noise_floor": measurement.noise_floor,
                        "groups": measurement.slope.len()}),
            ),
            None => Ok(()),
        });
        if recorded.is_ok() {
            recorded = told;
        }
    })?;
    recorder.progress.finish();
    recorded?;
    freezing.check()?;
    measured.steps += outcome.steps;
    measured.fits += outcome.fits;
    measured.outcome = outcome;
    measured.seconds = start.elapsed().as_secs_f64();
    measured.rates = trainer.rates().to_vec();
    if !measured.outcome.measurements.is_empty() {
        measured.scores = scores(prepared, &measured.outcome.measurements, &sizes)?;
    }
    if !measured.interrupted() {
        held_out(prepared, &mut measured, Stage::Superset, recorder)?;
    }
    Ok(measured)
}

/// Adds the present value on the held-out rows.
pub(super) fn held_out(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    stage: Stage,
    recorder: &Recorder<'_>,
) -> Result<Evaluation> {
    let evaluation = evaluate(
        &*prepared.model,
        &prepared.data.validation,
        prepared.padding(),
        prepared.eval_batch_size(),
        &prepared.device,
    )?;
    recorder.evaluation(stage, &evaluation)?;
    measured.held_out.push(HeldOut {
        stage,
        steps: measured.steps,
        evaluation,
    });
    Ok(evaluation)
}

/// Trains the head alone, so that the first directions of the other groups are not those of a random
/// head.
pub(super) fn warm_up(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    let (heads, others): (Vec<Group>, Vec<Group>) =
        prepared.groups.iter().cloned().partition(Group::is_head);
    if heads.is_empty() || prepared.horizon.head_warmup == 0 {
        measured.start = Snapshot::of(&heads);
        set_trainable(&others, prepared);
        return Ok(());
    }
    others
        .iter()
        .for_each(|group| group.set_state(State::Frozen));
    let steps = prepared.horizon.head_warmup;
    recorder.progress.start("head", Some(steps));
    let mut trainer = prepared.linear_probe(&heads)?;
    for step in 1..=steps {
        if interrupt.is_raised() {
            measured.stop();
            break;
        }
        let report = trainer.advance()?;
        recorder.step("head", step, &report)?;
        measured.steps += 1;
    }
    recorder.progress.finish();
    measured.start = Snapshot::of(&heads);
    set_trainable(&others, prepared);
    Ok(())
}

/// Reference groups get gradients too, for their directions; their learning rate is zero.
fn set_trainable(groups: &[Group], prepared: &Prepared<'_>) {
    let measures_base = prepared.recipe.select.method == Method::Psi;
    for group in groups {
        if group.kind != Kind::Base || measures_base {
            group.set_state(State::Trainable);
        }
    }
}

fn estimator(recipe: &recipe::Recipe) -> Box<dyn Estimator> {
    match recipe.probe.estimator {
        recipe::Estimator::GaussNewton => Box::new(GaussNewton {
            exact_classes: recipe.probe.exact_classes,
            seed: recipe.seed,
        }),
        recipe::Estimator::Hvp => Box::new(HessianVectorProduct { seed: recipe.seed }),
        recipe::Estimator::Full => Box::new(FullHessian),
        recipe::Estimator::Fit => Box::new(ParabolaFit::default()),
    }
}

pub(super) fn scores(
    prepared: &Prepared<'_>,
    measurements: &[Measurement],
    sizes: &[usize],
) -> Result<Vec<GroupScore>> {
    let probe = &prepared.recipe.probe;
    let options = ScoreOptions {
        resamples: probe.resamples,
        confidence: probe.confidence,
        seed: prepared.recipe.seed,
        // A single product along random signs carries the coupling as noise, which a window averages out.
        window: (probe.estimator == recipe::Estimator::Hvp).then_some(HVP_WINDOW),
    };
    Ok(influence::score(measurements, sizes, &options)?)
}

/// Measurements whose curvatures are averaged before a slope is divided by them.
const HVP_WINDOW: usize = 4;
