//! The value of a *set* of groups, with their coupling, and a search for a good set within a budget.
//!
//! `f(S) = Σ_t ½ b_{t,S}ᵀ (A_{t,SS} + damping)⁻¹ b_{t,S}`: the predicted decrease when all groups of the set take
//! their jointly best rates, summed over measurements because the update direction turns during a probe. Two groups
//! that do the same are worth little more than one; the diagonal knapsack counts both.
//! The search is forward selection by marginal gain, then exchanges of one group for another until none helps, from
//! several starts. It is a heuristic: its sets are optimal against any single exchange, not against all sets.
//! Forward selection on such a value is orthogonal matching pursuit: Das and Kempe 2011, *Submodular meets
//! spectral*, <https://arxiv.org/abs/1102.3975>.
//!
//! ```
//! use autopeft::select::coupled::{CoupledOptions, SetModel, Term};
//! use autopeft::select::knapsack::Item;
//! // `a` and `b` do nearly the same; `c` is weaker but independent.
//! let term = Term { slope: vec![2.0, 1.9, 1.0], curvature: vec![1.0, 0.9, 0.0, 0.9, 1.0, 0.0, 0.0, 0.0, 1.0] };
//! let model = SetModel::new(&[term], 3, &[], Default::default())?;
//! let items = ["a", "b", "c"].map(|name| Item { name, parameters: 1, value: 1.0 });
//! assert_eq!(model.select(&items, &[0, 1, 2], 2, &[], &CoupledOptions::default()).chosen, [0, 2]);
//! # Ok::<(), autopeft::select::SelectError>(())
//! ```

mod search;

use serde::{Deserialize, Serialize};

use super::error::SelectError;
use super::knapsack::Item;
use super::sweep::Sweep;
use search::Search;

/// Slope and whole curvature of one measurement, over K groups.
///
/// Groups without a usable measurement have zeros in `slope` and in their row and column of `curvature`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// `b`, length K, loss per unit rate.
    pub slope: Vec<f64>,
    /// `A`, K·K row-major, loss per unit rate squared.
    pub curvature: Vec<f64>,
}

/// What is added to the diagonal of the curvature, so that rates stay bounded and `A` can be inverted.
///
/// When a matrix is indefinite (the `full` estimator), the damping is raised tenfold until it is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damping {
    /// This share of the mean diagonal entry, for all groups alike. Groups that hardly move the output along the
    /// optimizer's own step lose value, as they would need a rate far from everyone else's.
    OfMean(f64),
    /// This share of each group's own diagonal entry: unchanged when the direction of a group is rescaled.
    OfOwn(f64),
}

impl Default for Damping {
    /// A thousandth of the mean: small beside every group that matters, large beside rounding.
    fn default() -> Self {
        Self::OfMean(1e-3)
    }
}

/// What forward selection maximises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gain {
    /// The marginal gain. In first measurements better than per parameter, which collects many tiny groups.
    #[default]
    Total,
    /// The marginal gain divided by the group's parameters.
    PerParameter,
}

/// Options of the coupled search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoupledOptions {
    /// What forward selection maximises.
    pub gain: Gain,
    /// Damping of the curvature.
    pub damping: Damping,
    /// Most exchanges after forward selection; 0 turns them off.
    pub max_swaps: usize,
}

impl Default for CoupledOptions {
    fn default() -> Self {
        Self {
            gain: Gain::default(),
            damping: Damping::default(),
            max_swaps: 1_000,
        }
    }
}

/// A set found by the coupled search.
#[derive(Debug, Clone, PartialEq)]
pub struct CoupledSet {
    /// Positions of the chosen groups, ascending.
    pub chosen: Vec<usize>,
    /// `f(S)` beyond the groups that are always kept, loss.
    pub value: f64,
    /// Sum of their sizes.
    pub parameters: usize,
    /// Exchanges made.
    pub swaps: usize,
    /// Whether no single exchange or addition within the budget helps any more.
    pub locally_optimal: bool,
}

/// The set value `f`, ready to be asked.
#[derive(Debug, Clone)]
pub struct SetModel {
    /// One conditioned model a measurement; the groups that are always kept are already swept.
    terms: Vec<Sweep>,
    /// Value of the groups that are always kept.
    base: f64,
    always: Vec<usize>,
    damping: f64,
}

/// A gain or an exchange must be at least this share of the value, else it is rounding.
const NEGLIGIBLE: f64 = 1e-10;

impl SetModel {
    /// Prepares the measurements of `groups` groups; those in `always` (the head) belong to every set.
    /// A measurement without any curvature is left out.
    ///
    /// # Errors
    /// When lengths do not fit, a number is not finite, or no reasonable damping makes a curvature positive definite.
    pub fn new(
        terms: &[Term],
        groups: usize,
        always: &[usize],
        damping: Damping,
    ) -> Result<Self, SelectError> {
        let mut model = Self {
            terms: Vec::new(),
            base: 0.0,
            always: Vec::new(),
            damping: 0.0,
        };
        for (index, term) in terms.iter().enumerate() {
            check(term, index, groups)?;
            if let Some((sweep, used)) = damped(term, index, groups, damping)? {
                model.terms.push(sweep);
                model.damping = model.damping.max(used);
            }
        }
        for &group in always.iter().filter(|&&group| group < groups) {
            if !model.always.contains(&group) {
                model.always.push(group);
                model.terms.iter_mut().for_each(|term| term.toggle(group));
            }
        }
        model.base = model.terms.iter().map(Sweep::value).sum();
        Ok(model)
    }

    /// Greatest damping used, as a share; above the one asked for when a curvature was indefinite.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// `f` of a set, beyond the groups that are always kept. Positions that are unknown or repeated count once or not
    /// at all.
    pub fn value(&self, set: &[usize], groups: usize) -> f64 {
        let mut member = vec![false; groups];
        set.iter().for_each(|&group| {
            if let Some(member) = member.get_mut(group) {
                *member = true;
            }
        });
        self.always.iter().for_each(|&group| member[group] = false);
        let value = |term: &Sweep| {
            let mut term = term.clone();
            (0..groups)
                .filter(|&group| member[group])
                .for_each(|group| term.toggle(group));
            term.value()
        };
        self.terms.iter().map(value).sum::<f64>() - self.base
    }

    /// Searches a set of the groups `from` (positions in `items`) within `capacity` parameters: from nothing, and from
    /// each of the sets `starts`; the best set found counts. Item values are not used.
    pub fn select(
        &self,
        items: &[Item],
        from: &[usize],
        capacity: usize,
        starts: &[&[usize]],
        options: &CoupledOptions,
    ) -> CoupledSet {
        let mut best = self.climb(items, from, capacity, &[], options);
        for start in starts {
            let set = self.climb(items, from, capacity, start, options);
            if set.value > best.value * (1.0 + NEGLIGIBLE) {
                best = set;
            }
        }
        best
    }

    /// Additions and exchanges from one start, until none helps.
    fn climb(
        &self,
        items: &[Item],
        from: &[usize],
        capacity: usize,
        start: &[usize],
        options: &CoupledOptions,
    ) -> CoupledSet {
        let mut outside: Vec<usize> = from.to_vec();
        outside.retain(|&group| group < items.len() && !self.always.contains(&group));
        let mut search = Search::new(self.terms.clone(), items, outside, capacity);
        start.iter().for_each(|&group| search.take(group));
        let mut swaps = 0;
        let locally_optimal = loop {
            search.add_all(options.gain);
            let Some((out, into)) = search.best_exchange() else {
                break true;
            };
            if swaps >= options.max_swaps {
                break false;
            }
            search.exchange(out, into);
            swaps += 1;
        };
        let mut chosen = search.inside;
        chosen.sort_unstable();
        let parameters = chosen.iter().map(|&group| items[group].parameters).sum();
        // Afresh, without the rounding that many sweeps may have left.
        let value = self.value(&chosen, items.len());
        CoupledSet {
            chosen,
            value,
            parameters,
            swaps,
            locally_optimal,
        }
    }
}

/// Refuses wrong lengths and numbers that are not finite.
fn check(term: &Term, index: usize, groups: usize) -> Result<(), SelectError> {
    for (what, values, expected) in [
        ("slope", &term.slope, groups),
        ("curvature", &term.curvature, groups * groups),
    ] {
        if values.len() != expected {
            return Err(SelectError::ShapeMismatch {
                index,
                what,
                got: values.len(),
                expected,
                groups,
            });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(SelectError::NotFinite { index, what });
        }
    }
    Ok(())
}

/// The damped model of one measurement and the damping used; `None` when there is no curvature at all.
fn damped(
    term: &Term,
    index: usize,
    groups: usize,
    damping: Damping,
) -> Result<Option<(Sweep, f64)>, SelectError> {
    let (mut share, own) = match damping {
        Damping::OfMean(share) => (share, false),
        Damping::OfOwn(share) => (share, true),
    };
    if !(share > 0.0 && share.is_finite()) {
        return Err(SelectError::InvalidRule {
            what: "damping",
            value: share,
            expected: "positive",
        });
    }
    let diagonal: Vec<f64> = (0..groups)
        .map(|k| term.curvature[k * groups + k].abs())
        .collect();
    let mean = diagonal.iter().sum::<f64>() / groups.max(1) as f64;
    if mean <= 0.0 {
        return Ok(None);
    }
    // Ten decades up from a thousandth, a matrix that is still indefinite has a diagonal that says nothing.
    for _ in 0..10 {
        // A group without curvature has no diagonal of its own; its slope is zero, so any damping will do.
        let added = |&own_entry: &f64| {
            share
                * if own && own_entry > 0.0 {
                    own_entry
                } else {
                    mean
                }
        };
        let damping: Vec<f64> = diagonal.iter().map(added).collect();
        let sweep = Sweep::new(&term.slope, &term.curvature, &damping);
        if sweep.clone().all_pivots_positive() {
            return Ok(Some((sweep, share)));
        }
        share *= 10.0;
    }
    Err(SelectError::Indefinite {
        index,
        damping: share * mean,
    })
}

#[cfg(test)]
mod tests;
