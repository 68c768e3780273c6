//! The rules that turn scores into a decision.
//!
//! ```
//! use autopeft::select::{Candidate, Method, SelectOptions, SelectionInput, Solver, select};
//! let group = |name: &str, parameters, value: f64| Candidate {
//!     name: name.into(), parameters, value, influence: 2.0 * value / parameters as f64, slope: value,
//!     always: name == "head", turn: 0, frozen_early: false,
//! };
//! let input = SelectionInput {
//!     candidates: vec![group("head", 100, 0.0), group("lora", 60, 7.0), group("bias", 50, 5.0), group("norm", 50, 5.0)],
//!     base_parameters: 10_000,
//!     ..SelectionInput::default()
//! };
//! let method = Method::Budget { budget: "1%".parse()?, solver: Solver::Exact };
//! let selection = select(&input, method, &SelectOptions::default())?;
//! assert_eq!(selection.kept().collect::<Vec<_>>(), [0, 2, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::coupled::CoupledOptions;
use super::error::SelectError;
use super::knapsack::{self, Item, Limits, Packing};
use super::pareto::Frontier;
use super::selection::{Candidate, Optimality, Reason, ReportedSet, Selection, SelectionInput};
use super::turns::{Turns, set_model};

/// What finds the set within a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solver {
    /// The set with the greatest sum of slopes: what falls fastest at one rate for all. No curvature enters.
    Slope,
    /// The most valuable set, coupling ignored.
    #[default]
    Exact,
    /// By value per parameter, coupling ignored.
    Greedy,
    /// The search over set values with coupling.
    Coupled,
}

/// A rule of selection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Method {
    /// The best set within a budget. All solvers' sets are reported.
    Budget {
        /// The limit, without the head.
        budget: Budget,
        /// Whose set is used.
        #[serde(default)]
        solver: Solver,
    },
    /// The chain of prefixes in the order of influence, cut at its knee until held-out data says better
    /// ([`select_prefix`]).
    Pareto,
    /// Keeps what is at least `psi` times as influential as the least influential base weights (Hi-DLR's rule), of those that show
    /// any influence.
    Psi {
        /// The factor; 10 in the paper.
        psi: f64,
    },
    /// The `k` most influential groups.
    Top {
        /// How many.
        k: usize,
    },
    /// The fewest groups, in the order of influence, that hold this share of all predicted decrease.
    Threshold {
        /// Above 0, at most 1.
        share: f64,
    },
}

/// Options that are no part of the rule.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SelectOptions {
    /// Work of the exact knapsack.
    pub limits: Limits,
    /// The coupled search.
    pub coupled: CoupledOptions,
}

/// Applies a rule.
///
/// # Errors
/// When the input or the rule makes no sense, or when the answer is no ([`SelectError::is_answer_no`]): nothing fits,
/// nothing showed any influence, or nothing is left to train.
pub fn select(
    input: &SelectionInput,
    method: Method,
    options: &SelectOptions,
) -> Result<Selection, SelectError> {
    input.check()?;
    let order = input.by_influence();
    let candidates = &input.candidates;
    let (kept, reasons) = match method {
        Method::Budget { budget, solver } => {
            let capacity = budget.resolve(input.base_parameters)?;
            return within_budget(input, &order, capacity, method, solver, options);
        }
        Method::Pareto => {
            let knee = Frontier::new(input, &order).knee;
            return select_prefix(input, knee.max(1));
        }
        Method::Psi { psi } => {
            let limit = reference_limit(&input.references, psi)?;
            let above = |&&index: &&usize| candidates[index].influence >= limit;
            let kept: Vec<usize> = order.iter().filter(above).copied().collect();
            if kept.is_empty() && !candidates.iter().any(|candidate| candidate.always) {
                return Err(SelectError::NothingKept {
                    groups: candidates.len(),
                });
            }
            (kept, (Reason::AboveReference, Reason::BelowReference))
        }
        Method::Top { k } => {
            if k == 0 {
                return Err(SelectError::InvalidRule {
                    what: "k",
                    value: 0.0,
                    expected: "at least 1",
                });
            }
            signal(input, &order)?;
            (
                order.iter().take(k).copied().collect(),
                (Reason::WithinTop, Reason::BelowTop),
            )
        }
        Method::Threshold { share } => {
            if !(share > 0.0 && share <= 1.0) {
                let expected = "above 0 and at most 1";
                return Err(SelectError::InvalidRule {
                    what: "share",
                    value: share,
                    expected,
                });
            }
            signal(input, &order)?;
            let values: Vec<f64> = order.iter().map(|&index| candidates[index].value).collect();
            let length = smallest_prefix(&values, share);
            (
                order.iter().take(length).copied().collect(),
                (Reason::WithinThreshold, Reason::BelowThreshold),
            )
        }
    };
    Ok(Selection::new(method, input, &kept, reasons))
}

/// Keeps the `length` most influential groups: [`Method::Pareto`] once held-out data has chosen a prefix.
///
/// # Errors
/// When the input makes no sense, no group has a signal, or there is no prefix of this length.
pub fn select_prefix(input: &SelectionInput, length: usize) -> Result<Selection, SelectError> {
    input.check()?;
    let order = input.by_influence();
    signal(input, &order)?;
    let Some(kept) = order.get(..length).filter(|kept| !kept.is_empty()) else {
        let expected = "between 1 and the number of influential groups";
        return Err(SelectError::InvalidRule {
            what: "prefix",
            value: length as f64,
            expected,
        });
    };
    let reasons = (Reason::WithinPrefix, Reason::BeyondPrefix);
    let mut selection = Selection::new(Method::Pareto, input, kept, reasons);
    selection.frontier = Some(Frontier::new(input, &order));
    Ok(selection)
}

/// All solvers' sets, and the decisions of the one that is used.
fn within_budget(
    input: &SelectionInput,
    order: &[usize],
    capacity: usize,
    method: Method,
    solver: Solver,
    options: &SelectOptions,
) -> Result<Selection, SelectError> {
    signal(input, order)?;
    let candidates = &input.candidates;
    let smallest = order
        .iter()
        .map(|&index| candidates[index].parameters)
        .min()
        .unwrap_or(0);
    if smallest > capacity {
        return Err(SelectError::Unreachable {
            budget: capacity,
            smallest,
        });
    }
    // What the rule may not choose has no value to the knapsack.
    let mut items: Vec<Item> = candidates
        .iter()
        .map(
            |Candidate {
                 name, parameters, ..
             }| Item {
                name,
                parameters: *parameters,
                value: 0.0,
            },
        )
        .collect();
    order
        .iter()
        .for_each(|&index| items[index].value = candidates[index].value);

    let mut slopes = items.clone();
    (order.iter()).for_each(|&index| slopes[index].value = candidates[index].slope);
    let turns = Turns { input, capacity };
    let exactly = |items: &[Item], room| knapsack::exact(items, room, &options.limits);
    let slope = turns.pack(&slopes, exactly)?;
    let exact = turns.pack(&items, exactly)?;
    let greedy = turns.pack(&items, knapsack::greedy)?;
    let mut notes = Vec::new();
    if !exact.optimal {
        notes.push(
            "the search for the most valuable set was cut short: it may not be the best".to_owned(),
        );
    }
    let model = match set_model(input, &[], options) {
        Ok(model) => model,
        Err(error) if solver == Solver::Coupled => return Err(error),
        Err(error) => {
            notes.push(format!("no coupled set: {error}"));
            None
        }
    };
    if model.is_none() && solver == Solver::Coupled {
        return Err(SelectError::NoCoupling);
    }

    let coupled = match model {
        Some(_) => {
            let starts = [exact.chosen.as_slice(), greedy.chosen.as_slice()];
            Some(turns.search(&items, order, starts, options)?)
        }
        None => None,
    };
    let value = |chosen: &[usize]| {
        let values = chosen.iter().map(|&index| candidates[index].value);
        values.sum::<f64>()
    };
    let slope = Packing {
        value: value(&slope.chosen),
        ..slope
    };
    let mut found = vec![
        (Solver::Slope, slope),
        (Solver::Exact, exact),
        (Solver::Greedy, greedy),
    ];
    if let Some(coupled) = coupled {
        let value = value(&coupled.chosen);
        found.push((Solver::Coupled, Packing { value, ..coupled }));
    }
    let used = found
        .iter()
        .find(|(name, _)| *name == solver)
        .map(|(_, packing)| packing.chosen.clone());
    let kept = used.unwrap_or_default();
    let mut selection = Selection::new(
        method,
        input,
        &kept,
        (Reason::WithinBudget, Reason::OverBudget),
    );
    selection.budget = Some(capacity);
    if let (Some(limit), Some(first)) = (turns.limit(&kept), turns.first(&kept)) {
        for (decision, candidate) in selection.groups.iter_mut().zip(candidates) {
            if decision.reason == Reason::OverBudget && candidate.turn > first {
                decision.reason = Reason::Undetermined;
                selection.determined = Some(limit);
            }
        }
    }
    if let Some(count) = selection.determined {
        notes.push(format!(
            "what the training rows have to say is enough for {count} parameters: after its first turn the budget of \
             {capacity} is filled no further"
        ));
    }
    selection.notes = notes;
    selection.sets = found
        .into_iter()
        .map(|(name, packing)| ReportedSet {
            solver: name,
            used: name == solver,
            coupled_value: model
                .as_ref()
                .map(|model| model.value(&packing.chosen, candidates.len())),
            groups: packing
                .chosen
                .iter()
                .map(|&index| candidates[index].name.clone())
                .collect(),
            parameters: packing.parameters,
            value: packing.value,
            optimality: match (name, packing.optimal) {
                (Solver::Slope | Solver::Exact, true) => Optimality::Proven,
                (Solver::Coupled, true) => Optimality::Local,
                (Solver::Slope | Solver::Exact | Solver::Coupled, false) | (Solver::Greedy, _) => {
                    Optimality::Unproven
                }
            },
        })
        .collect();
    Ok(selection)
}

/// `ψ · PPI_ref` with the least influence of the base weights.
fn reference_limit(references: &[f64], psi: f64) -> Result<f64, SelectError> {
    if !(psi > 0.0 && psi.is_finite()) {
        return Err(SelectError::InvalidRule {
            what: "psi",
            value: psi,
            expected: "positive",
        });
    }
    if let Some(&value) = references
        .iter()
        .find(|value| !(value.is_finite() && **value >= 0.0))
    {
        let name = "base weights".to_owned();
        return Err(SelectError::InvalidScore {
            what: "influence",
            name,
            value,
        });
    }
    // What showed no influence is no measure of any: with 0 as the least, the rule would keep everything.
    let measured = references.iter().copied().filter(|value| *value > 0.0);
    let least = measured.reduce(f64::min).ok_or(SelectError::NoReferences)?;
    Ok(psi * least)
}

/// Length of the shortest prefix whose sum reaches the share of the whole sum.
fn smallest_prefix(values: &[f64], share: f64) -> usize {
    let mut sums: Vec<f64> = Vec::with_capacity(values.len());
    values
        .iter()
        .for_each(|value| sums.push(sums.last().unwrap_or(&0.0) + value));
    let needed = share * sums.last().unwrap_or(&0.0);
    // `1 − 2⁻⁴⁰`: 0.9 of 1.0 is reached by nine tenths, whatever their rounding.
    let reached = sums
        .iter()
        .position(|sum| *sum >= needed * (1.0 - 2_f64.powi(-40)));
    reached.map_or(values.len(), |last| last + 1)
}

/// # Errors
/// When no group may be chosen at all.
fn signal(input: &SelectionInput, order: &[usize]) -> Result<(), SelectError> {
    if order.is_empty() {
        let groups = input
            .candidates
            .iter()
            .filter(|candidate| !candidate.always)
            .count();
        return Err(SelectError::NoSignal { groups });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
