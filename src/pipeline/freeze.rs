//! Which groups stop training before the probe ends, since they will hardly be selected.

use std::collections::BTreeSet;

use super::choose;
use super::measure::scores;
use super::prepare::Prepared;
use crate::error::{Error, Result};
use crate::groups::Group;
use crate::probe::influence::{FreezeOptions, Measurement, Verdict, to_freeze};

/// Asked after every measurement. Groups compete with those of their turn, for what earlier ones may leave of the budget.
///
/// Only for choices by influence. A coupled choice takes a group for what it adds to the others, which its own influence does not
/// bound, and slopes are another order, so there nothing is frozen before the end. Freezing what the coupled search itself leaves out of twice the budget three times in a row
/// was tried and made the choice less stable: on the quickstart, the sets of two seeds then shared 0.22 to 0.29 of their
/// groups, without it 0.53 to 0.57.
pub(super) struct EarlyFreezing<'a> {
    prepared: &'a Prepared<'a>,
    budget: Option<usize>,
    sizes: Vec<usize>,
    /// When the budget is spent on each group; `None` for those that take no part.
    turns: Vec<Option<usize>>,
    failure: Option<Error>,
}

impl<'a> EarlyFreezing<'a> {
    pub(super) fn new(prepared: &'a Prepared<'a>) -> Result<Self> {
        let recipe = prepared.recipe;
        let budget = if recipe.probe.early_freeze && choose::is_by_influence(recipe) {
            choose::limit(recipe, prepared.base.num_parameters())?
        } else {
            None
        };
        let is_always = |group: &Group| group.is_head() || group.is_reference();
        let turn = |group: &Group| (!is_always(group)).then(|| choose::turn(recipe, group));
        Ok(Self {
            prepared,
            budget,
            sizes: prepared.groups.iter().map(|group| group.size).collect(),
            turns: prepared.groups.iter().map(turn).collect(),
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
        self.lost(measurements, &frozen, budget)
            .unwrap_or_else(|error| {
                self.failure = Some(error);
                Vec::new()
            })
    }

    /// The first error, if there was one.
    pub(super) fn check(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    fn lost(
        &self,
        measurements: &[Measurement],
        frozen: &[bool],
        budget: usize,
    ) -> Result<Vec<usize>> {
        let scores = scores(self.prepared, measurements, &self.sizes)?;
        let options = FreezeOptions::default();
        let turns: BTreeSet<usize> = self.turns.iter().copied().flatten().collect();
        let (mut lost, mut room) = (Vec::new(), budget);
        for turn in turns {
            let others: Vec<bool> = (self.turns.iter()).map(|own| *own != Some(turn)).collect();
            let sizes = &self.sizes;
            lost.extend(to_freeze(&scores, sizes, &others, frozen, room, &options));
            let own = (sizes.iter().zip(&others)).filter(|(_, is_other)| !**is_other);
            room = room.saturating_sub(own.map(|(size, _)| size).sum());
        }
        Ok(lost)
    }
}
