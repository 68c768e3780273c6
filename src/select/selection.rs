//! What goes into a selection and what comes out of it, as written to `selection.json`.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::coupled::Term;
use super::error::SelectError;
use super::method::{Method, Solver};
use super::pareto::Frontier;

/// A group, as far as the selection has to know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Unique name; breaks ties.
    pub name: String,
    /// Trainable numbers `d_k`.
    pub parameters: usize,
    /// Predicted decrease `v_k`, loss; zero when nothing was measured.
    pub value: f64,
    /// Influence per parameter, `PPI_k`.
    pub influence: f64,
    /// Mean slope `b_k`, loss per unit rate; zero when it does not fall.
    pub slope: f64,
    /// The task head: kept whatever its score, and outside the budget.
    pub always: bool,
    /// When a budget is spent on it: after all of a lower number.
    #[serde(default)]
    pub turn: usize,
    /// Stopped training during the probe, so it can no longer be kept.
    pub frozen_early: bool,
}

/// Everything a selection is made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionInput {
    /// The groups of the superset.
    pub candidates: Vec<Candidate>,
    /// Parameters of the base model, for budgets in percent.
    pub base_parameters: usize,
    /// Influence per parameter of base weights that were measured but not trained, for [`Method::Psi`].
    pub references: Vec<f64>,
    /// Parameters that the training rows determine: after the first turn that keeps anything, a budget is filled no further. `None`
    /// fills it.
    pub determined: Option<usize>,
    /// Measurements with the whole curvature, over the candidates in their order, for the coupled set; may be empty.
    pub terms: Vec<Term>,
}

impl SelectionInput {
    /// # Errors
    /// When there is no group, a name is taken twice, or a score is negative or not finite.
    pub(super) fn check(&self) -> Result<(), SelectError> {
        if self.candidates.is_empty() {
            return Err(SelectError::NoGroups);
        }
        let mut names = HashSet::new();
        for candidate in &self.candidates {
            let name = &candidate.name;
            if !names.insert(name) {
                return Err(SelectError::DuplicateName { name: name.clone() });
            }
            for (what, value) in [
                ("value", candidate.value),
                ("influence", candidate.influence),
                ("slope", candidate.slope),
            ] {
                if !(value.is_finite() && value >= 0.0) {
                    return Err(SelectError::InvalidScore {
                        what,
                        name: name.clone(),
                        value,
                    });
                }
            }
        }
        Ok(())
    }

    /// Positions of the groups that the rule may keep or drop, the most influential first; ties by fewer parameters,
    /// then by name.
    pub(super) fn by_influence(&self) -> Vec<usize> {
        let eligible =
            |c: &Candidate| !c.always && !c.frozen_early && c.value > 0.0 && c.influence > 0.0;
        let mut order: Vec<(usize, &Candidate)> = self
            .candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| eligible(candidate))
            .collect();
        order.sort_by(|(_, a), (_, b)| {
            b.influence
                .total_cmp(&a.influence)
                .then(a.parameters.cmp(&b.parameters))
                .then(a.name.cmp(&b.name))
        });
        order.into_iter().map(|(index, _)| index).collect()
    }
}

/// Why a group is kept or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Kept: the task head, outside every rule.
    Always,
    /// Kept: in the best set within the budget.
    WithinBudget,
    /// Kept: in the chosen prefix of the chain of influence.
    WithinPrefix,
    /// Kept: clearly more influential than base weights.
    AboveReference,
    /// Kept: among the most influential ones asked for.
    WithinTop,
    /// Kept: needed to reach the share asked for.
    WithinThreshold,
    /// Dropped: not in the best set within the budget.
    OverBudget,
    /// Dropped: not in the best set of as many parameters as the training rows determine.
    Undetermined,
    /// Dropped: beyond the chosen prefix.
    BeyondPrefix,
    /// Dropped: not clearly more influential than base weights.
    BelowReference,
    /// Dropped: not among the most influential ones asked for.
    BelowTop,
    /// Dropped: the share is reached without it.
    BelowThreshold,
    /// Dropped: no accepted measurement showed a decrease.
    NoSignal,
    /// Dropped: stopped training during the probe.
    FrozenEarly,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always kept",
            Self::WithinBudget => "within the budget",
            Self::WithinPrefix => "within the prefix",
            Self::AboveReference => "above the base weights",
            Self::WithinTop => "among the top",
            Self::WithinThreshold => "within the share",
            Self::OverBudget => "over the budget",
            Self::Undetermined => "more than the rows determine",
            Self::BeyondPrefix => "beyond the prefix",
            Self::BelowReference => "below the base weights",
            Self::BelowTop => "not among the top",
            Self::BelowThreshold => "beyond the share",
            Self::NoSignal => "no signal",
            Self::FrozenEarly => "frozen early",
        })
    }
}

/// What becomes of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Name of the group.
    pub name: String,
    /// Its size.
    pub parameters: usize,
    /// Whether it is trained and exported.
    pub kept: bool,
    /// Why.
    pub reason: Reason,
}

/// How good a set is known to be under its own measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimality {
    /// No set within the budget is better.
    Proven,
    /// No single exchange makes it better.
    Local,
    /// A heuristic's or a cut search's answer.
    Unproven,
}

/// A set within the budget, chosen or only reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportedSet {
    /// What found it.
    pub solver: Solver,
    /// Whether it is the one that is used.
    pub used: bool,
    /// Names of its groups, in the order of the candidates, without the always kept ones.
    pub groups: Vec<String>,
    /// Sum of their parameters.
    pub parameters: usize,
    /// Sum of their predicted decreases, coupling ignored, loss.
    pub value: f64,
    /// Predicted decrease with coupling, summed over measurements, where the whole curvature was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupled_value: Option<f64>,
    /// How good it is known to be.
    pub optimality: Optimality,
}

/// The result of a selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The rule that made it.
    pub method: Method,
    /// The budget in parameters, if the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// Parameters that the training rows determine, where that is less than the budget and cut the choice short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub determined: Option<usize>,
    /// One decision a candidate, in their order.
    pub groups: Vec<Decision>,
    /// Parameters of the kept groups, without the always kept ones.
    pub parameters: usize,
    /// Parameters of the always kept groups.
    pub always_parameters: usize,
    /// Parameters of the base model.
    pub base_parameters: usize,
    /// Sum of the kept groups' predicted decreases, coupling ignored, loss.
    pub value: f64,
    /// Sets that different solvers found within the budget; empty for rules without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<ReportedSet>,
    /// The chain of prefixes, for [`Method::Pareto`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier: Option<Frontier>,
    /// What a reader should know about this result, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Selection {
    /// The decisions for `kept` positions, with the rule's reasons for kept and for dropped groups.
    pub(super) fn new(
        method: Method,
        input: &SelectionInput,
        kept: &[usize],
        reasons: (Reason, Reason),
    ) -> Self {
        let eligible: HashSet<usize> = input.by_influence().into_iter().collect();
        let mut selection = Self {
            method,
            budget: None,
            determined: None,
            groups: Vec::with_capacity(input.candidates.len()),
            parameters: 0,
            always_parameters: 0,
            base_parameters: input.base_parameters,
            value: 0.0,
            sets: Vec::new(),
            frontier: None,
            notes: Vec::new(),
        };
        for (index, candidate) in input.candidates.iter().enumerate() {
            let (kept, reason) = if candidate.always {
                selection.always_parameters += candidate.parameters;
                (true, Reason::Always)
            } else if kept.contains(&index) {
                selection.parameters += candidate.parameters;
                selection.value += candidate.value;
                (true, reasons.0)
            } else if candidate.frozen_early {
                (false, Reason::FrozenEarly)
            } else if !eligible.contains(&index) {
                (false, Reason::NoSignal)
            } else {
                (false, reasons.1)
            };
            let (name, parameters) = (candidate.name.clone(), candidate.parameters);
            selection.groups.push(Decision {
                name,
                parameters,
                kept,
                reason,
            });
        }
        selection
    }

    /// Positions of the kept groups among the candidates, the always kept ones included.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        self.groups
            .iter()
            .enumerate()
            .filter(|(_, decision)| decision.kept)
            .map(|(index, _)| index)
    }
}
