//! Drops what was not chosen, and trains what was.

use autopeft_adapters::State;

use super::choose::{Chosen, drop_groups};
use super::measure::{Measured, held_out};
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::Result;
use crate::interrupt::Interrupt;
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
    if prepared.recipe.probe.learning_rates == LearningRates::HiDlr {
        raise_rates(prepared, chosen, &mut trainer);
        measured.rates = trainer.rates().to_vec();
    }
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

/// The height of the measured rates was that of the whole superset, whose groups step together. What is kept steps at the
/// recipe's rate, by the same measured ratios.
fn raise_rates(prepared: &Prepared<'_>, chosen: &Chosen, trainer: &mut Trainer<'_>) {
    let starts = prepared.rates(&prepared.groups);
    let moved: Vec<f64> = trainer
        .rates()
        .iter()
        .zip(&starts)
        .zip(&chosen.kept)
        .filter_map(|((rate, start), kept)| kept.then_some((rate / start).ln()))
        .filter(|moved| moved.is_finite())
        .collect();
    if moved.is_empty() {
        return;
    }
    let height = (moved.iter().sum::<f64>() / moved.len() as f64).exp();
    for number in 0..prepared.groups.len() {
        if let Some(rate) = trainer.rates().get(number).copied() {
            trainer.set_rate(number, rate / height);
        }
    }
}
