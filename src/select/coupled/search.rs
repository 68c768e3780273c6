//! Forward selection and exchanges over a set value.

use super::{Gain, NEGLIGIBLE};
use crate::select::knapsack::Item;
use crate::select::sweep::Sweep;

/// A search under way.
pub(super) struct Search<'a> {
    terms: Vec<Sweep>,
    items: &'a [Item<'a>],
    /// Groups that may come in; by size, then name.
    outside: Vec<usize>,
    /// Groups of the set, in the order they came in.
    pub(super) inside: Vec<usize>,
    /// Parameters still free.
    room: usize,
}

impl<'a> Search<'a> {
    /// An empty set of at most `room` parameters; `outside` holds positions in `items`.
    pub(super) fn new(
        terms: Vec<Sweep>,
        items: &'a [Item<'a>],
        mut outside: Vec<usize>,
        room: usize,
    ) -> Self {
        // In the order of ties, so that the first of equals is the right one.
        outside.sort_by_key(|&group| (items[group].parameters, items[group].name, group));
        outside.dedup();
        Self {
            terms,
            items,
            outside,
            inside: Vec::new(),
            room,
        }
    }

    /// Takes a group in, if it may come in and fits.
    pub(super) fn take(&mut self, group: usize) {
        if self.outside.contains(&group) && self.items[group].parameters <= self.room {
            self.toggle(group);
        }
    }

    /// Adds the group with the greatest gain among those that fit, until none fits or helps.
    pub(super) fn add_all(&mut self, criterion: Gain) {
        loop {
            let value: f64 = self.terms.iter().map(Sweep::value).sum();
            let mut best: Option<(f64, usize)> = None;
            for &group in &self.outside {
                let size = self.items[group].parameters;
                let gain: f64 = self.terms.iter().map(|term| term.gain(group)).sum();
                if size > self.room || gain <= NEGLIGIBLE * value {
                    continue;
                }
                let score = match criterion {
                    Gain::Total => gain,
                    Gain::PerParameter => gain / size.max(1) as f64,
                };
                if best.is_none_or(|(best, _)| score > best * (1.0 + NEGLIGIBLE)) {
                    best = Some((score, group));
                }
            }
            let Some((_, group)) = best else { return };
            self.toggle(group);
        }
    }

    /// The exchange within the budget that adds most, if one adds anything.
    pub(super) fn best_exchange(&self) -> Option<(usize, usize)> {
        let value: f64 = self.terms.iter().map(Sweep::value).sum();
        let (mut best, mut pair) = (NEGLIGIBLE * value, None);
        for &out in &self.inside {
            let room = self.room + self.items[out].parameters;
            for &into in self
                .outside
                .iter()
                .filter(|&&group| self.items[group].parameters <= room)
            {
                let gain: f64 = self.terms.iter().map(|term| term.exchange(out, into)).sum();
                if gain > best * (1.0 + NEGLIGIBLE) {
                    (best, pair) = (gain, Some((out, into)));
                }
            }
        }
        pair
    }

    /// Takes one group out and another in.
    pub(super) fn exchange(&mut self, out: usize, into: usize) {
        self.toggle(out);
        self.toggle(into);
    }

    /// Moves a group across, keeping the order of what is outside.
    fn toggle(&mut self, group: usize) {
        self.terms.iter_mut().for_each(|term| term.toggle(group));
        let (items, size) = (self.items, self.items[group].parameters);
        if let Some(at) = self.inside.iter().position(|&member| member == group) {
            self.inside.remove(at);
            self.room += size;
            let key = |group: usize| (items[group].parameters, items[group].name, group);
            let at = self
                .outside
                .partition_point(|&other| key(other) < key(group));
            self.outside.insert(at, group);
        } else {
            self.outside.retain(|&other| other != group);
            self.inside.push(group);
            self.room -= size;
        }
    }
}
