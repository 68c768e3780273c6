//! Drops what was not chosen, and trains what was.

use autopeft_adapters::State;

use super::choose::{drop_groups, split};
use super::fitted::{FittedTrainer, reach_of_a_kept_set};
use super::information::sees_rows_often;
use super::measure::{Measured, held_out, warm_up};
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::Result;
use crate::groups::Group;
use crate::interrupt::Interrupt;
use crate::recipe::{After, LearningRates};
use crate::report::Stage;
use crate::train::{Average, Trainer, geometric_mean};

/// Puts the dropped groups back to the identity, and goes on with the others for the rest of the horizon; `kept` says of every
/// group whether it stays.
pub fn run<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    kept: &[bool],
    probed: &Trainer<'a>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    let survivors = trim(&prepared.groups, kept);
    held_out(prepared, measured, Stage::Dropped, recorder)?;
    let fitted = begin(prepared, measured, kept, &survivors, probed)?;
    let steps = prepared.horizon.after;
    go_on(prepared, measured, fitted, steps, recorder, interrupt)?;
    if !measured.interrupted() {
        held_out(prepared, measured, Stage::Trimmed, recorder)?;
    }
    Ok(())
}

/// Trains a set that needs no probe over the whole horizon, from the present values, after the head's warm-up; everything else
/// is dropped. The height of the rates is fitted at most `every` steps, 0 keeps it.
///
/// # Errors
/// When the training diverges, or a tensor operation fails.
pub fn train_set(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    kept: &[bool],
    every: usize,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    warm_up(prepared, measured, recorder, interrupt)?;
    if measured.interrupted() {
        return Ok(());
    }
    for group in trim(&prepared.groups, kept) {
        group.set_state(State::Trainable);
    }
    let mut trainer = prepared.whole_trainer()?;
    trainer.retain(|number| kept.get(number).copied().unwrap_or(false))?;
    let whole = prepared.horizon.probe + prepared.horizon.after;
    let fitted = FittedTrainer {
        heights: prepared.height_fit(every, 0..whole, reach_of_a_kept_set(prepared.recipe))?,
        trainer,
    };
    go_on(prepared, measured, fitted, whole, recorder, interrupt)
}

/// Trains until `whole` steps are taken, and leaves the mean of the last values (`train.average`) where the rows are seen often.
fn go_on(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    mut fitted: FittedTrainer<'_>,
    whole: usize,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    fitted.trainer.set_dropout(prepared.recipe.train.dropout);
    let steps = whole.saturating_sub(fitted.trainer.step());
    let share = match sees_rows_often(prepared, steps) {
        true => prepared.recipe.train.average,
        false => 0.0,
    };
    let mut average = Average::over(share, steps);
    recorder.progress.start("train", Some(steps));
    for step in 1..=steps {
        if interrupt.is_raised() {
            measured.stop();
            break;
        }
        let report = fitted.advance()?;
        recorder.step("train", step, &report)?;
        measured.steps += 1;
        average.step(step, fitted.trainer.trained())?;
    }
    average.put()?;
    recorder.progress.finish();
    measured.rates = fitted.trainer.rates().to_vec();
    measured.fits += fitted.fits();
    Ok(())
}

/// Puts everything else back to the identity and out of the computation, and gives what is kept.
pub(super) fn trim<'g>(groups: &'g [Group], kept: &[bool]) -> Vec<&'g Group> {
    let (survivors, dropped) = split(groups, kept);
    dropped.iter().for_each(|group| group.reset());
    drop_groups(&dropped, &survivors);
    survivors
}

/// The training of what is kept after the probe: from its first values, with the head as it was warmed up, or from the
/// probe's values and behind its rows, without the probe's moments, which are those of steps with the whole superset.
fn begin<'a>(
    prepared: &'a Prepared<'_>,
    measured: &Measured,
    kept: &[bool],
    survivors: &[&Group],
    probed: &Trainer<'a>,
) -> Result<FittedTrainer<'a>> {
    for group in survivors {
        // Early freezing never concerns what was chosen in the end, but a frozen group may be kept by a rule without a budget.
        group.set_state(State::Trainable);
    }
    let mut trainer = match prepared.recipe.select.after {
        After::Continue => probed.afresh(prepared.schedule_of_kept()),
        After::Rewind => {
            survivors.iter().for_each(|group| group.reset());
            measured.start.restore()?;
            prepared.rewound_trainer()?
        }
    };
    for (number, rate) in measured.rates.iter().enumerate() {
        trainer.set_rate(number, *rate);
    }
    trainer.retain(|number| kept.get(number).copied().unwrap_or(false))?;
    if prepared.recipe.probe.learning_rates != LearningRates::Fixed {
        raise_rates(prepared, kept, &mut trainer);
    }
    let steps = 0..prepared.horizon.after;
    let every = prepared.recipe.select.refit;
    Ok(FittedTrainer {
        heights: prepared.height_fit(every, steps, reach_of_a_kept_set(prepared.recipe))?,
        trainer,
    })
}

/// The height of the measured rates was that of the whole superset, whose groups step together. What is kept steps at the
/// recipe's rate, by the same measured ratios.
fn raise_rates(prepared: &Prepared<'_>, kept: &[bool], trainer: &mut Trainer<'_>) {
    let starts = prepared.rates(&prepared.groups);
    let moved = (trainer.rates().iter().zip(&starts).zip(kept))
        .filter_map(|((rate, start), kept)| kept.then_some(rate / start))
        .filter(|ratio| ratio.ln().is_finite());
    let Some(height) = geometric_mean(moved) else {
        return;
    };
    for number in 0..prepared.groups.len() {
        if let Some(rate) = trainer.rates().get(number).copied() {
            trainer.set_rate(number, rate / height);
        }
    }
}
