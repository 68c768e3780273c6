//! Drops what was not chosen, and trains what was.

use autopeft_adapters::State;

use super::choose::{drop_groups, split};
use super::measure::{Measured, held_out};
use super::prepare::Prepared;
use super::race::Raced;
use super::recorder::Recorder;
use crate::error::Result;
use crate::groups::Group;
use crate::interrupt::Interrupt;
use crate::probe::HeightFit;
use crate::recipe::{After, LearningRates};
use crate::report::Stage;
use crate::train::Trainer;

/// Where the training goes on.
pub enum Start<'a> {
    /// From the probe.
    Probe(Trainer<'a>),
    /// From the race that the set has won.
    Race(Raced<'a>),
}

/// Puts the dropped groups back to the identity, and goes on with the others for the rest of the horizon; `kept` says of every
/// group whether it stays.
pub fn run<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    kept: &[bool],
    start: Start<'a>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    trim(&prepared.groups, kept);
    held_out(prepared, measured, Stage::Dropped, recorder)?;
    let (trainer, heights) = match start {
        Start::Race(raced) => {
            raced.values.restore()?;
            (raced.trainer, raced.heights)
        }
        Start::Probe(trainer) => begin(prepared, measured, kept, &trainer)?,
    };
    let horizon = prepared.horizon;
    let whole = match prepared.recipe.select.after {
        After::Rewind => horizon.after,
        After::Continue => horizon.probe + horizon.after,
    };
    go_on(
        prepared, measured, trainer, heights, whole, recorder, interrupt,
    )?;
    if !measured.interrupted() {
        held_out(prepared, measured, Stage::Trimmed, recorder)?;
    }
    Ok(())
}

/// Trains a set that needs no probe over the whole horizon, from the present values; everything else is dropped. The head is
/// as its warm-up left it, if it had one. `heights` fits the height of the rates on the way.
///
/// # Errors
/// When the training diverges, or a tensor operation fails.
pub fn train_set<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    kept: &[bool],
    heights: HeightFit<'a>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    for group in trim(&prepared.groups, kept) {
        group.set_state(State::Trainable);
    }
    let mut trainer = prepared.trainer()?;
    trainer.retain(|number| kept.get(number).copied().unwrap_or(false))?;
    let whole = prepared.horizon.probe + prepared.horizon.after;
    go_on(
        prepared, measured, trainer, heights, whole, recorder, interrupt,
    )
}

/// Trains until `whole` steps are taken.
fn go_on<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    mut trainer: Trainer<'a>,
    mut heights: HeightFit<'a>,
    whole: usize,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    let steps = whole.saturating_sub(trainer.step());
    recorder.progress.start("train", Some(steps));
    for step in 1..=steps {
        if interrupt.is_raised() {
            measured.stop();
            break;
        }
        let report = trainer.advance(|trainer, directions| heights.fit(trainer, directions))?;
        recorder.step("train", step, &report, prepared.recipe.train.learning_rate)?;
        measured.steps += 1;
    }
    recorder.progress.finish();
    measured.rates = trainer.rates().to_vec();
    Ok(())
}

/// Puts everything else back to the identity and out of the computation, and gives what is kept.
pub(super) fn trim<'g>(groups: &'g [Group], kept: &[bool]) -> Vec<&'g Group> {
    let (survivors, dropped) = split(groups, kept);
    dropped.iter().for_each(|group| group.reset());
    drop_groups(&dropped, &survivors);
    survivors
}

/// The training of a set from the probe's end: everything else is dropped, and the survivors go on from their values, or from
/// their first ones with the head as it was warmed up.
pub(super) fn begin<'a>(
    prepared: &'a Prepared<'_>,
    measured: &Measured,
    kept: &[bool],
    probed: &Trainer<'a>,
) -> Result<(Trainer<'a>, HeightFit<'a>)> {
    let survivors = trim(&prepared.groups, kept);
    let mut trainer = match prepared.recipe.select.after {
        After::Continue => probed.clone(),
        After::Rewind => {
            for group in survivors {
                group.reset();
                // Early freezing never concerns what was chosen in the end, but a frozen group may be kept by
                // a rule without a budget.
                group.set_state(State::Trainable);
            }
            measured.start.restore()?;
            let mut trainer = prepared.rewound_trainer()?;
            for (number, rate) in measured.rates.iter().enumerate() {
                trainer.set_rate(number, *rate);
            }
            trainer
        }
    };
    trainer.retain(|number| kept.get(number).copied().unwrap_or(false))?;
    if prepared.recipe.probe.learning_rates == LearningRates::HiDlr {
        raise_rates(prepared, kept, &mut trainer);
    }
    Ok((trainer, prepared.height_fit()?))
}

/// The height of the measured rates was that of the whole superset, whose groups step together. What is kept steps at the
/// recipe's rate, by the same measured ratios.
fn raise_rates(prepared: &Prepared<'_>, kept: &[bool], trainer: &mut Trainer<'_>) {
    let starts = prepared.rates(&prepared.groups);
    let moved: Vec<f64> = trainer
        .rates()
        .iter()
        .zip(&starts)
        .zip(kept)
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
