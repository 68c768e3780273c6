//! A budget that is spent turn by turn: on some groups first, and on others with what is left.

use std::collections::BTreeSet;

use super::coupled::SetModel;
use super::error::SelectError;
use super::knapsack::{Item, Packing};
use super::method::SelectOptions;
use super::selection::SelectionInput;

/// A budget that is spent on the groups turn by turn.
pub(super) struct Turns<'a> {
    /// What there is to choose from.
    pub(super) input: &'a SelectionInput,
    /// The budget, parameters.
    pub(super) capacity: usize,
}

impl Turns<'_> {
    /// Whether a group has this turn.
    fn has(&self, turn: usize, index: usize) -> bool {
        (self.input.candidates.get(index)).is_some_and(|candidate| candidate.turn == turn)
    }

    /// The first turn that has kept something.
    pub(super) fn first(&self, kept: &[usize]) -> Option<usize> {
        let kept = (kept.iter()).filter_map(|index| self.input.candidates.get(*index));
        let competing = kept.filter(|candidate| !candidate.always);
        competing.map(|candidate| candidate.turn).min()
    }

    /// Where the turns after the first that has kept something end, if that is before the budget: at what the training rows determine.
    pub(super) fn limit(&self, kept: &[usize]) -> Option<usize> {
        self.first(kept)?;
        self.input
            .determined
            .filter(|determined| *determined < self.capacity)
    }

    /// Adds, turn by turn, what is chosen for the room that is left beside the set so far.
    fn spend(
        &self,
        mut choose: impl FnMut(usize, &Packing, usize) -> Result<Packing, SelectError>,
    ) -> Result<Packing, SelectError> {
        let turns: BTreeSet<usize> = (self.input.candidates.iter())
            .map(|candidate| candidate.turn)
            .collect();
        let mut set = Packing::default();
        for turn in turns {
            let end = self.limit(&set.chosen).unwrap_or(self.capacity);
            let room = end.saturating_sub(set.parameters);
            let added = choose(turn, &set, room)?;
            set = set.with(added);
        }
        Ok(set)
    }

    /// The set by the items' values.
    pub(super) fn pack(
        &self,
        items: &[Item],
        pack: impl Fn(&[Item], usize) -> Packing,
    ) -> Result<Packing, SelectError> {
        self.spend(|turn, _, room| {
            // Without a value an item is not chosen.
            let value = |index, item: &Item| match self.has(turn, index) {
                true => item.value,
                false => 0.0,
            };
            let items: Vec<Item> = (items.iter().enumerate())
                .map(|(index, item)| Item {
                    value: value(index, item),
                    ..*item
                })
                .collect();
            Ok(pack(&items, room))
        })
    }

    /// The set by the value of groups together, in which the turns before count as given.
    pub(super) fn search(
        &self,
        items: &[Item],
        order: &[usize],
        starts: [&[usize]; 2],
        options: &SelectOptions,
    ) -> Result<Packing, SelectError> {
        self.spend(|turn, given, room| {
            let of_turn = |set: &[usize]| -> Vec<usize> {
                let set = set.iter().copied();
                set.filter(|index| self.has(turn, *index)).collect()
            };
            let model =
                set_model(self.input, &given.chosen, options)?.ok_or(SelectError::NoCoupling)?;
            let starts = starts.map(of_turn);
            let starts = starts.each_ref().map(Vec::as_slice);
            let set = model.select(items, &of_turn(order), room, &starts, &options.coupled);
            Ok(Packing {
                chosen: set.chosen,
                value: set.value,
                parameters: set.parameters,
                optimal: set.locally_optimal,
            })
        })
    }
}

/// The set values, where these are `given` beside what is always kept, if the whole curvature was measured.
pub(super) fn set_model(
    input: &SelectionInput,
    given: &[usize],
    options: &SelectOptions,
) -> Result<Option<SetModel>, SelectError> {
    if input.terms.is_empty() {
        return Ok(None);
    }
    let candidates = &input.candidates;
    let always: Vec<usize> = (0..candidates.len())
        .filter(|index| candidates[*index].always || given.contains(index))
        .collect();
    SetModel::new(
        &input.terms,
        candidates.len(),
        &always,
        options.coupled.damping,
    )
    .map(Some)
}
