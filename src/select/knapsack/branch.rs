//! Branch and bound over the items in the order of their density.

use super::{Problem, Thing};

impl Problem {
    /// Depth first, the denser item first, taking before leaving. Returns the set and whether it is proven best.
    pub(super) fn branch_and_bound(mut self, nodes: usize) -> (Vec<usize>, bool) {
        self.things.sort_by(Thing::denser_first);
        let bound = Bound::new(&self);
        let mut best = Best {
            profit: 0,
            set: Vec::new(),
        };
        let mut taken = vec![false; self.things.len()];
        let (mut profit, mut room, mut position, mut visited) = (0_u128, self.capacity, 0, 0_usize);
        loop {
            // Down: take whatever fits, unless its twin of an earlier name was left out.
            while let Some(thing) = self.things.get(position) {
                if profit + bound.of(position, room) < best.profit {
                    break;
                }
                visited += 1;
                let twin_left = position > 0
                    && !taken[position - 1]
                    && self.things[position - 1].interchangeable(thing);
                if thing.size <= room && !twin_left {
                    taken[position] = true;
                    profit += thing.profit;
                    room -= thing.size;
                }
                position += 1;
            }
            if position == self.things.len() && profit >= best.profit {
                best.offer(profit, &taken, &self.things);
            }
            if visited > nodes {
                return (best.indices(&self.things), false);
            }
            // Up: leave out the last item taken.
            let Some(last) = taken[..position].iter().rposition(|&is_taken| is_taken) else {
                return (best.indices(&self.things), true);
            };
            taken[last] = false;
            profit -= self.things[last].profit;
            room += self.things[last].size;
            position = last + 1;
        }
    }
}

/// The best set met so far.
struct Best {
    profit: u128,
    /// Places by name, ascending.
    set: Vec<usize>,
}

impl Best {
    fn offer(&mut self, profit: u128, taken: &[bool], things: &[Thing]) {
        let mut set: Vec<usize> = things
            .iter()
            .zip(taken)
            .filter(|(_, taken)| **taken)
            .map(|(thing, _)| thing.place)
            .collect();
        set.sort_unstable();
        if profit > self.profit || set < self.set {
            *self = Self { profit, set };
        }
    }

    fn indices(&self, things: &[Thing]) -> Vec<usize> {
        let has = |thing: &&Thing| self.set.binary_search(&thing.place).is_ok();
        things.iter().filter(has).map(|thing| thing.index).collect()
    }
}

/// Dantzig's bound from any position: whole items while they fit, then a fraction of the next.
struct Bound<'a> {
    problem: &'a Problem,
    /// Sums over the items before each position, in the order of density.
    sizes: Vec<u128>,
    profits: Vec<u128>,
}

impl<'a> Bound<'a> {
    fn new(problem: &'a Problem) -> Self {
        let sums = |of: fn(&Thing) -> u128| {
            let mut sum = 0;
            let mut sums = vec![0];
            for thing in &problem.things {
                sum += of(thing);
                sums.push(sum);
            }
            sums
        };
        Self {
            problem,
            sizes: sums(|thing| thing.size),
            profits: sums(|thing| thing.profit),
        }
    }

    /// No set of the items from `position` on, within `room`, has more profit than this.
    fn of(&self, position: usize, room: u128) -> u128 {
        let limit = self.sizes[position] + room;
        // The first position whose sum of sizes is too much; the item before it is the one that is cut.
        let end = position + self.sizes[position..].partition_point(|&sum| sum <= limit);
        let whole = self.profits[end - 1] - self.profits[position];
        let Some(cut) = self.problem.things.get(end - 1) else {
            return whole;
        };
        let left = limit - self.sizes[end - 1];
        whole + (cut.value * left * self.problem.weight).div_ceil(cut.size.max(1)) - left
    }
}
