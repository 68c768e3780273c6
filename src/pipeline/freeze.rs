//! Which groups stop training before the probe ends, since they will hardly be selected.

use super::choose;
use super::measure::scores;
use super::prepare::Prepared;
use crate::error::{Error, Result};
use crate::groups::Group;
use crate::probe::influence::{FreezeOptions, Measurement, Verdict, to_freeze};
use crate::recipe::Method;
use crate::select::coupled::{CoupledOptions, SetModel, Term};
use crate::select::knapsack::Item;

/// A coupled choice takes a group for what it adds to the others, which its own influence does not bound. So a group is
/// frozen when the search leaves it out of a set this many times the budget,
const ROOM: usize = 2;
/// after so many measurements in a row.
const TIMES: usize = 3;

/// Asked after every measurement.
pub(super) struct EarlyFreezing<'a> {
    prepared: &'a Prepared<'a>,
    budget: Option<usize>,
    sizes: Vec<usize>,
    always: Vec<bool>,
    /// How many times in a row the coupled search has left each group out.
    left_out: Vec<usize>,
    failure: Option<Error>,
}

impl<'a> EarlyFreezing<'a> {
    pub(super) fn new(prepared: &'a Prepared<'a>) -> Result<Self> {
        let recipe = prepared.recipe;
        let budget = if recipe.probe.early_freeze && recipe.select.method == Method::Budget {
            choose::limit(recipe, prepared.base.num_parameters())?
        } else {
            None
        };
        let is_always = |group: &Group| group.is_head() || group.is_reference();
        Ok(Self {
            prepared,
            budget,
            sizes: prepared.groups.iter().map(|group| group.size).collect(),
            always: prepared.groups.iter().map(is_always).collect(),
            left_out: vec![0; prepared.groups.len()],
            failure: None,
        })
    }

    /// Groups to freeze after these measurements.
    pub(super) fn ask(&mut self, measurements: &[Measurement]) -> Vec<usize> {
        let (Some(budget), Some(last)) = (self.budget, measurements.last()) else {
            return Vec::new();
        };
        let is_frozen = |verdict: &Verdict| *verdict == Verdict::Frozen;
        let frozen: Vec<bool> = last.verdict.iter().map(is_frozen).collect();
        let groups = if choose::is_coupled(self.prepared.recipe) {
            self.coupled(measurements, &frozen, budget)
        } else {
            self.diagonal(measurements, &frozen, budget)
        };
        groups.unwrap_or_else(|error| {
            self.failure = Some(error);
            Vec::new()
        })
    }

    /// The first error, if there was one.
    pub(super) fn check(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    fn diagonal(
        &self,
        measurements: &[Measurement],
        frozen: &[bool],
        budget: usize,
    ) -> Result<Vec<usize>> {
        let scores = scores(self.prepared, measurements, &self.sizes)?;
        let options = FreezeOptions::default();
        Ok(to_freeze(
            &scores,
            &self.sizes,
            &self.always,
            frozen,
            budget,
            &options,
        ))
    }

    fn coupled(
        &mut self,
        measurements: &[Measurement],
        frozen: &[bool],
        budget: usize,
    ) -> Result<Vec<usize>> {
        let mut terms = Vec::new();
        for measurement in measurements {
            if let Some(coupled) = measurement.coupled()? {
                terms.push(Term {
                    slope: coupled.slope,
                    curvature: coupled.curvature,
                });
            }
        }
        let groups = &self.prepared.groups;
        let items: Vec<Item> = groups
            .iter()
            .map(|group| Item {
                name: &group.name,
                parameters: group.size,
                value: 0.0,
            })
            .collect();
        let heads: Vec<usize> = (0..groups.len()).filter(|k| self.always[*k]).collect();
        let open: Vec<usize> = (0..groups.len())
            .filter(|k| !self.always[*k] && !frozen[*k])
            .collect();
        let options = CoupledOptions::default();
        let model = SetModel::new(&terms, groups.len(), &heads, options.damping)?;
        let set = model.select(&items, &open, budget.saturating_mul(ROOM), &[], &options);
        for &group in &open {
            let is_left_out = set.chosen.binary_search(&group).is_err();
            self.left_out[group] = if is_left_out {
                self.left_out[group] + 1
            } else {
                0
            };
        }
        let is_lost = |group: &usize| self.left_out[*group] >= TIMES;
        Ok(open.into_iter().filter(is_lost).collect())
    }
}
