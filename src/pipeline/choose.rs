//! From scores to the groups that are kept.

use std::collections::HashSet;

use autopeft_adapters::{Kind, Part, State};
use serde_json::json;

use super::information::nats;
use super::measure::Measured;
use super::prepare::Prepared;
use super::recorder::Recorder;
use crate::error::Result;
use crate::groups::Group;
use crate::progress::EventKind;
use crate::recipe::{self, Recipe};
use crate::select::{
    self, Budget, Candidate, Method, SelectError, SelectOptions, Selection, SelectionInput, Solver,
    Term,
};
use crate::train::evaluate;

/// The choice, over all groups of the model.
#[derive(Debug)]
pub struct Chosen {
    /// The choice among the candidates.
    pub selection: Selection,
    /// Number of the group of each candidate.
    pub candidates: Vec<usize>,
    /// Whether each group is kept.
    pub kept: Vec<bool>,
}

/// The groups that are kept, and the others.
pub(super) fn split<'g>(groups: &'g [Group], kept: &[bool]) -> (Vec<&'g Group>, Vec<&'g Group>) {
    let is_kept = |number: usize| kept.get(number).copied().unwrap_or(false);
    let (kept, dropped): (Vec<_>, Vec<_>) =
        (groups.iter().enumerate()).partition(|(number, _)| is_kept(*number));
    let groups = |side: Vec<(usize, &'g Group)>| side.into_iter().map(|(_, group)| group).collect();
    (groups(kept), groups(dropped))
}

/// Whether the choice goes by the influence of each group alone.
pub(super) fn is_by_influence(recipe: &Recipe) -> bool {
    use recipe::Solver;
    matches!(recipe.select.solver, Solver::Exact | Solver::Greedy)
}

/// When the budget is spent on a group: after all of a lower number. LoRA has a turn for each rank block, the first blocks of all
/// modules before the second ones.
pub(super) fn turn(recipe: &Recipe, group: &Group) -> usize {
    let mut turn = 0;
    for kind in recipe.select.order.iter().copied().map(Kind::from) {
        let is_lora = kind == Kind::Lora;
        if kind == group.kind {
            return turn + group.block.filter(|_| is_lora).unwrap_or(0);
        }
        turn += match is_lora {
            true => recipe.superset.lora.rank_blocks.len(),
            false => 1,
        };
    }
    turn
}

/// The recipe's budget.
pub(super) fn budget(recipe: &Recipe) -> Result<Budget> {
    Ok(recipe
        .select
        .budget
        .parse::<Budget>()
        .map_err(SelectError::from)?)
}

/// The recipe's budget for a model of this size, where its rule has one.
pub(super) fn limit(recipe: &Recipe, base_parameters: usize) -> Result<Option<usize>> {
    if recipe.select.method != recipe::Method::Budget {
        return Ok(None);
    }
    let limit = budget(recipe)?.resolve(base_parameters);
    Ok(Some(limit.map_err(SelectError::from)?))
}

/// Takes groups out of the computation. Where a LoRA is split, its `A` cannot go while its `B` stays: it is
/// frozen instead.
pub(super) fn drop_groups(dropped: &[&Group], kept: &[&Group]) {
    let parameters = kept.iter().flat_map(|group| &group.parameters);
    let kept_halves: HashSet<(&str, usize)> = parameters
        .filter_map(|parameter| match parameter.part() {
            Part::LoraB { block } => Some((parameter.module(), block)),
            _ => None,
        })
        .collect();
    for parameter in dropped.iter().flat_map(|group| &group.parameters) {
        let is_needed = match parameter.part() {
            Part::LoraA { block } => kept_halves.contains(&(parameter.module(), block)),
            _ => false,
        };
        parameter.set_state(if is_needed {
            State::Frozen
        } else {
            State::Dropped
        });
    }
}

/// Chooses, and leaves every group kept: dropping is the next stage's.
pub fn run(
    prepared: &Prepared<'_>,
    measured: &mut Measured,
    recorder: &Recorder<'_>,
) -> Result<Chosen> {
    let recipe = prepared.recipe;
    let candidates = candidates(prepared);
    let input = selection_input(prepared, measured)?;
    let method = match recipe.select.method {
        recipe::Method::Budget => Method::Budget {
            budget: budget(recipe)?,
            solver: match recipe.select.solver {
                recipe::Solver::Slope => Solver::Slope,
                recipe::Solver::Coupled => Solver::Coupled,
                recipe::Solver::Exact => Solver::Exact,
                recipe::Solver::Greedy => Solver::Greedy,
            },
        },
        recipe::Method::Pareto => Method::Pareto,
        recipe::Method::Psi => Method::Psi {
            psi: recipe.select.psi,
        },
        recipe::Method::Top => Method::Top {
            k: recipe.select.top,
        },
        recipe::Method::Threshold => Method::Threshold {
            share: recipe.select.threshold,
        },
    };
    let mut selection = select::select(&input, method, &SelectOptions::default())?;
    if method == Method::Pareto {
        selection = best_prefix(prepared, &candidates, &input, selection, recorder)?;
    }
    selection
        .notes
        .iter()
        .for_each(|note| recorder.progress.note(note));
    let mut kept = vec![false; prepared.groups.len()];
    for position in selection.kept() {
        if let Some(entry) = candidates
            .get(position)
            .and_then(|number| kept.get_mut(*number))
        {
            *entry = true;
        }
    }
    recorder.event(
        EventKind::Select,
        &json!({"kept": selection.kept().count(), "of": candidates.len(), "parameters": selection.parameters,
                "budget": selection.budget}),
    )?;
    Ok(Chosen {
        selection,
        candidates,
        kept,
    })
}

/// Numbers of the groups that a rule may keep, and of the head.
fn candidates(prepared: &Prepared<'_>) -> Vec<usize> {
    let numbered = prepared.groups.iter().enumerate();
    numbered
        .filter(|(_, group)| !group.is_reference())
        .map(|(number, _)| number)
        .collect()
}

/// What the rules choose from: every group but the reference groups, in their order.
///
/// # Errors
/// When the measurements do not fit the groups.
pub fn selection_input(prepared: &Prepared<'_>, measured: &Measured) -> Result<SelectionInput> {
    let candidates = candidates(prepared);
    let scores = &measured.scores;
    let score_of = |number: usize| scores.get(number);
    let list = candidates
        .iter()
        .filter_map(|number| {
            let (group, score) = (prepared.groups.get(*number)?, score_of(*number)?);
            Some(Candidate {
                name: group.name.clone(),
                parameters: group.size,
                value: score.value,
                influence: score.influence,
                slope: score.slope_mean.max(0.0),
                always: group.is_head(),
                turn: turn(prepared.recipe, group),
                frozen_early: measured.outcome.frozen.contains(number),
            })
        })
        .collect();
    let references = prepared
        .groups
        .iter()
        .zip(scores)
        .filter(|(group, _)| group.is_reference())
        .map(|(_, score)| score.influence)
        .collect();
    let per_nat = prepared.recipe.select.per_nat;
    let determined = per_nat.and_then(|per_nat| Some(per_nat * nats(prepared, measured)?));
    let mut terms = Vec::new();
    for measurement in &measured.outcome.measurements {
        let coupled = measurement.coupled().map_err(|_| SelectError::NoCoupling)?;
        if let Some(coupled) = coupled {
            terms.push(among(&coupled.slope, &coupled.curvature, &candidates));
        }
    }
    Ok(SelectionInput {
        candidates: list,
        base_parameters: prepared.base.num_parameters(),
        references,
        determined: determined.map(|parameters| parameters as usize),
        terms,
    })
}

/// The part of a measurement that concerns the candidates.
fn among(slope: &[f64], curvature: &[f64], candidates: &[usize]) -> Term {
    let count = slope.len();
    let number = |values: &[f64], at: usize| values.get(at).copied().unwrap_or(0.0);
    Term {
        slope: candidates.iter().map(|i| number(slope, *i)).collect(),
        curvature: candidates
            .iter()
            .flat_map(|i| candidates.iter().map(move |j| (*i, *j)))
            .map(|(i, j)| number(curvature, i * count + j))
            .collect(),
    }
}

/// Of the prefixes around the knee, the one with the lowest loss on held-out rows; of equals the
/// shortest.
fn best_prefix(
    prepared: &Prepared<'_>,
    candidates: &[usize],
    input: &SelectionInput,
    selection: Selection,
    recorder: &Recorder<'_>,
) -> Result<Selection> {
    let lengths = selection
        .frontier
        .as_ref()
        .map(|frontier| frontier.candidates.clone());
    let mut best: Option<(f64, Selection)> = None;
    for length in lengths.unwrap_or_default() {
        let prefix = select::select_prefix(input, length)?;
        let (mut kept, mut dropped): (Vec<&Group>, Vec<&Group>) = (Vec::new(), Vec::new());
        let positions: HashSet<usize> = prefix.kept().collect();
        for (position, number) in candidates.iter().enumerate() {
            let side = if positions.contains(&position) {
                &mut kept
            } else {
                &mut dropped
            };
            side.extend(prepared.groups.get(*number));
        }
        drop_groups(&dropped, &kept);
        let evaluation = evaluate(
            &*prepared.model,
            &prepared.data.validation,
            prepared.padding(),
            prepared.eval_batch_size(),
            &prepared.device,
        );
        dropped
            .iter()
            .for_each(|group| group.set_state(State::Trainable));
        let loss = evaluation?.loss;
        recorder.event(
            EventKind::Select,
            &json!({"prefix": length, "parameters": prefix.parameters, "held_out_loss": loss}),
        )?;
        if best.as_ref().is_none_or(|(least, _)| loss < *least) {
            best = Some((loss, prefix));
        }
    }
    Ok(best.map_or(selection, |(_, prefix)| prefix))
}
