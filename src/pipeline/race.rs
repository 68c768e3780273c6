//! Trains sets of groups against each other for a while, and goes on with the one that is ahead.
//!
//! A probe predicts from slope and curvature what a set will be worth, along the few directions that the superset's training
//! takes. What people attach without measuring may train better all the same. So, on request, the rule's set and the usual uniform ones, all
//! within the budget, train from the same start, and each fits the height of its own learning rates. All see the same batches in
//! the same order, so that their training losses, each of rows not seen before, compare them without an evaluation. After a
//! round the two best, by the mean loss of its second half, train on for as long again (successive halving: Jamieson and Talwalkar
//! 2016, <https://arxiv.org/abs/1502.07943>). The favourite, norms, is always one of them, and wins unless the other one is clearly
//! ahead. The winner goes on from where it is, so that only the steps of the others were spent on choosing.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::choose::{self, Chosen, selection_input};
use super::finish::begin;
use super::fitted::FittedTrainer;
use super::measure::Measured;
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::{Error, Result};
use crate::groups::{Family, Group, Snapshot, uniform};
use crate::interrupt::Interrupt;
use crate::progress::EventKind;
use crate::select::{ReportedSet, Solver};
use crate::train::{StepReport, Trainer};

/// So many go into the second round.
const FINALISTS: usize = 2;

/// Uniform sets that take part, the favourite first.
const UNIFORM: [&[Family]; 4] = [
    &[Family::Norm],
    &[Family::LoraQv],
    &[Family::Norm, Family::LoraQv],
    &[Family::Norm, Family::Lora],
];

/// How far one set came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placing {
    /// The rule or the families that it comes from.
    pub set: String,
    /// Parameters, the head apart.
    pub parameters: usize,
    /// Steps that it trained in the race.
    pub steps: usize,
    /// Mean training loss of the second half of its last round; `None` where its training diverged.
    pub loss: Option<f64>,
}

/// A set in the race.
struct Runner<'a> {
    name: String,
    kept: Vec<bool>,
    fitted: FittedTrainer<'a>,
    begun: usize,
    values: Snapshot,
    is_favourite: bool,
    /// Training losses of the second half of the last round; none where the training diverged.
    losses: Vec<f64>,
}

/// The winner, where the race left it.
pub struct Raced<'a> {
    /// Its training so far.
    pub(super) fitted: FittedTrainer<'a>,
    /// Its values.
    pub(super) values: Snapshot,
}

/// The race of the recipe, if it has one; leaves the parameters as they were. `None` also where there is a single set.
///
/// # Errors
/// When a model cannot be trained for another reason than too large a step.
pub fn run<'a>(
    prepared: &'a Prepared<'_>,
    measured: &mut Measured,
    chosen: &mut Chosen,
    trainer: &Trainer<'a>,
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<Option<Raced<'a>>> {
    let Some(capacity) = chosen.selection.budget else {
        return Ok(None);
    };
    let sets = sets(prepared, measured, chosen, capacity);
    // The winner of a short training has to have half of it left.
    let round = (prepared.recipe.select.race).min(prepared.horizon.after / 4);
    if sets.len() < 2 || round == 0 {
        return Ok(None);
    }
    let superset = Snapshot::of(&prepared.groups);
    let mut runners = (sets.into_iter().enumerate())
        .map(|(place, (name, kept))| {
            superset.restore()?;
            let fitted = begin(prepared, measured, &kept, trainer, Some(round))?;
            Ok(Runner {
                is_favourite: place == 0,
                begun: fitted.trainer.step(),
                values: Snapshot::of(&prepared.groups),
                losses: Vec::new(),
                name,
                kept,
                fitted,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut placings, mut steps) = (Vec::new(), 0);
    let total = (runners.len() + FINALISTS) * round;
    recorder.progress.start("race", Some(total));
    for next in [FINALISTS, 1] {
        for runner in &mut runners {
            runner.losses.clear();
            runner.values.restore()?;
            for step in 0..round {
                if interrupt.is_raised() {
                    measured.stop();
                    superset.restore()?;
                    return Ok(None);
                }
                let Some(report) = runner.step()? else {
                    runner.losses.clear();
                    break;
                };
                steps += 1;
                recorder.step("race", steps, &report)?;
                if step >= round / 2 {
                    runner.losses.push(report.loss);
                }
                measured.steps += 1;
            }
            runner.values = Snapshot::of(&prepared.groups);
        }
        rank(&mut runners, next);
        for runner in runners.drain(next..) {
            measured.fits += runner.fitted.fits();
            placings.push(runner.placing(prepared));
        }
    }
    recorder.progress.finish();
    superset.restore()?;
    let Some(winner) = runners.pop().filter(|winner| winner.loss().is_finite()) else {
        recorder
            .progress
            .warn("every set of the race diverged at this learning rate: the rule's set goes on from the probe");
        return Ok(None);
    };
    placings.sort_by(|a, b| {
        let loss = |placing: &Placing| placing.loss.unwrap_or(f64::INFINITY);
        (b.steps.cmp(&a.steps)).then(loss(a).total_cmp(&loss(b)))
    });
    placings.insert(0, winner.placing(prepared));
    recorder.event(
        EventKind::Race,
        &json!({"won": winner.name, "sets": placings}),
    )?;
    tell(&placings, recorder);
    measured.race = placings;
    take(prepared, measured, chosen, &winner)?;
    Ok(Some(Raced {
        fitted: winner.fitted,
        values: winner.values,
    }))
}

/// The best first, of which `next` go on. The favourite is always among them, and the last one left unless the best is ahead.
fn rank(runners: &mut [Runner<'_>], next: usize) {
    runners.sort_by(|a, b| a.loss().total_cmp(&b.loss()));
    let Some(rule) = runners.iter().position(|runner| runner.is_favourite) else {
        return;
    };
    let (Some(best), Some(own)) = (runners.first(), runners.get(rule)) else {
        return;
    };
    let is_beaten = is_ahead(&best.losses, &own.losses);
    if rule >= next && (next > 1 || !is_beaten) {
        runners.swap(next - 1, rule);
    }
}

/// Whether the losses `a` are below `b` on the mean and in three quarters of the batches: a single wild batch decides nothing.
fn is_ahead(a: &[f64], b: &[f64]) -> bool {
    if a.is_empty() || b.is_empty() {
        return b.is_empty();
    }
    let lead: f64 = a.iter().zip(b).map(|(a, b)| b - a).sum();
    let won = a.iter().zip(b).filter(|(a, b)| a < b).count();
    lead > 0.0 && 4 * won >= 3 * a.len()
}

/// The sets that take part, the favourite first, which is norms where there are any; each set once. What stopped training within
/// the probe takes no part: it may have lost its moments.
fn sets(
    prepared: &Prepared<'_>,
    probed: &Measured,
    chosen: &Chosen,
    capacity: usize,
) -> Vec<(String, Vec<bool>)> {
    let groups = &prepared.groups;
    let is_racing = |set: &&ReportedSet| set.used || set.solver == Solver::Coupled;
    let mut measured: Vec<_> = chosen.selection.sets.iter().filter(is_racing).collect();
    measured.sort_by_key(|set| !set.used);
    let by_rules = measured.into_iter().map(|set| {
        let name = match set.solver {
            Solver::Slope => "slope",
            Solver::Exact => "exact",
            Solver::Greedy => "greedy",
            Solver::Coupled => "coupled",
        };
        let is_kept = |group: &Group| group.is_head() || set.groups.contains(&group.name);
        (name.to_owned(), groups.iter().map(is_kept).collect())
    });
    let mut by_habit = UNIFORM.iter().map(|families| {
        let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
        let mut kept = uniform(families, groups, capacity);
        for number in &probed.outcome.frozen {
            if let Some(entry) = kept.get_mut(*number) {
                *entry = false;
            }
        }
        (names.join("+"), kept)
    });
    let mut sets: Vec<(String, Vec<bool>)> = Vec::new();
    let favourite = by_habit.next();
    for (name, kept) in favourite.into_iter().chain(by_rules).chain(by_habit) {
        let is_empty = (groups.iter().zip(&kept)).all(|(group, kept)| !kept || group.is_head());
        if !is_empty && sets.iter().all(|(_, other)| *other != kept) {
            sets.push((name, kept));
        }
    }
    sets
}

impl Runner<'_> {
    /// One step; `None` when the training has diverged.
    fn step(&mut self) -> Result<Option<StepReport>> {
        match self.fitted.advance() {
            Ok(report) => Ok(Some(report)),
            Err(Error::Diverged { .. } | Error::GradientNotFinite) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Mean of the last round's second half.
    fn loss(&self) -> f64 {
        match self.losses.len() {
            0 => f64::INFINITY,
            count => self.losses.iter().sum::<f64>() / count as f64,
        }
    }

    fn placing(&self, prepared: &Prepared<'_>) -> Placing {
        let sizes = (prepared.groups.iter().zip(&self.kept))
            .filter(|(group, kept)| **kept && !group.is_head())
            .map(|(group, _)| group.size);
        Placing {
            set: self.name.clone(),
            parameters: sizes.sum(),
            steps: self.fitted.trainer.step() - self.begun,
            loss: Some(self.loss()).filter(|loss| loss.is_finite()),
        }
    }
}

fn tell(placings: &[Placing], recorder: &Recorder<'_>) {
    let words: Vec<String> = (placings.iter())
        .map(|placing| match placing.loss {
            Some(loss) => format!("{} {loss:.4} after {} steps", placing.set, placing.steps),
            None => format!("{} diverged", placing.set),
        })
        .collect();
    recorder
        .progress
        .note(&format!("race: {}", words.join(", ")));
}

/// Makes the winner the choice.
fn take(
    prepared: &Prepared<'_>,
    measured: &Measured,
    chosen: &mut Chosen,
    winner: &Runner<'_>,
) -> Result<()> {
    if chosen.kept == winner.kept {
        return Ok(());
    }
    let input = selection_input(prepared, measured)?;
    let is_kept = |number: usize| winner.kept.get(number).copied().unwrap_or(false);
    let positions: Vec<usize> = (choose::candidates(prepared).into_iter().enumerate())
        .filter(|(_, number)| is_kept(*number))
        .map(|(position, _)| position)
        .collect();
    chosen.selection = chosen
        .selection
        .after_race(&input, &positions, &winner.name);
    chosen.kept.clone_from(&winner.kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_ahead_when_it_leads_in_most_batches_and_on_the_mean() {
        let rule = [1.0, 0.9, 1.1, 0.95];
        let lead = |by: [f64; 4]| -> Vec<f64> { rule.iter().zip(by).map(|(r, b)| r - b).collect() };
        assert!(is_ahead(&lead([0.1, 0.12, 0.08, -0.1]), &rule));
        // One wild batch makes the mean.
        assert!(!is_ahead(&lead([5.0, -0.2, 0.1, -0.1]), &rule));
        assert!(!is_ahead(&lead([0.1, 0.1, 0.1, -0.9]), &rule));
        assert!(!is_ahead(&rule, &rule));
    }

    #[test]
    fn a_training_that_diverged_is_behind_every_other() {
        assert!(is_ahead(&[9.0], &[]));
        assert!(!is_ahead(&[], &[9.0]));
    }
}
