//! Drops what was not chosen, and trains what was.

use autopeft_adapters::State;
use serde_json::json;

use super::choose::{Chosen, drop_groups};
use super::measure::{Measured, held_out};
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::probe::rates::common_factor;
use crate::progress::EventKind;
use crate::recipe::{After, LearningRates};
use crate::report::Stage;
use crate::train::Trainer;

/// Puts the dropped groups back to the identity, and goes on with the others for the rest of the horizon.
pub fn run<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    chosen: &Chosen,
    mut trainer: Trainer<'a>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    let is_kept = |number: usize| chosen.kept.get(number).copied().unwrap_or(false);
    let (kept, dropped) = chosen.split(&prepared.groups);
    dropped.iter().for_each(|group| group.reset());
    drop_groups(&dropped, &kept);
    held_out(prepared, measured, Stage::Dropped, recorder)?;
    if prepared.recipe.select.after == After::Rewind {
        for group in kept {
            group.reset();
            // Early freezing never concerns what was chosen in the end, but a frozen group may be kept by
            // a rule without a budget.
            group.set_state(State::Trainable);
        }
        trainer = prepared.rewound_trainer()?;
        for (number, rate) in measured.rates.iter().enumerate() {
            trainer.set_rate(number, *rate);
        }
    }
    trainer.retain(is_kept)?;
    fit_rates(prepared, measured, chosen, &mut trainer, recorder)?;
    recorder
        .progress
        .start("train", Some(prepared.horizon.after));
    for step in 1..=prepared.horizon.after {
        if interrupt.is_raised() {
            measured.stop();
            break;
        }
        let report = trainer.advance(|_, _| Ok(()))?;
        recorder.step("train", step, &report, prepared.recipe.train.learning_rate)?;
        measured.steps += 1;
    }
    recorder.progress.finish();
    if !measured.interrupted() {
        held_out(prepared, measured, Stage::Trimmed, recorder)?;
    }
    Ok(())
}

/// Fewer groups may take larger steps than all of them together could. The last measurements say how much larger.
fn fit_rates(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    chosen: &Chosen,
    trainer: &mut Trainer<'_>,
    recorder: &Recorder<'_>,
) -> Result<()> {
    if prepared.recipe.probe.learning_rates != LearningRates::HiDlr {
        return Ok(());
    }
    let measurements = &measured.outcome.measurements;
    let last = &measurements[measurements.len().saturating_sub(RATE_WINDOW)..];
    let Some(factor) = common_factor(trainer.rates(), last, &chosen.kept)? else {
        return Ok(());
    };
    let factor = factor.clamp(1.0, GREATEST_RISE);
    let rates: Vec<f64> = trainer.rates().iter().map(|rate| rate * factor).collect();
    for (number, rate) in rates.iter().enumerate() {
        trainer.set_rate(number, *rate);
    }
    measured.rates = rates;
    recorder.event(EventKind::Rates, &json!({"factor": factor}))
}

/// Measurements from which the factor is taken.
const RATE_WINDOW: usize = 4;
/// Greatest factor by which the rates rise when the other groups go.
const GREATEST_RISE: f64 = 10.0;
