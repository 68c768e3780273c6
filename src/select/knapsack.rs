//! The 0-1 knapsack `maximise Σ z_k v_k subject to Σ z_k d_k ≤ budget`, exactly and greedily.
//!
//! Values become integers once, to about 2⁻⁶⁴ of their sum, so that sums have no order and ties are real ties. Among
//! sets of equal value the one with fewer parameters wins, and among those the one that comes first by name:
//! `value · M − parameters` with `M` above all parameters is one integer that carries both rules.
//! Dynamic programming over the common divisor of the sizes when its table is small (Martello and Toth 1990,
//! *Knapsack Problems*, section 2.6), otherwise branch and bound with Dantzig's fractional bound (section 2.2).
//!
//! ```
//! use autopeft::select::knapsack::{Item, Limits, exact, greedy};
//! let item = |name, parameters, value| Item { name, parameters, value };
//! let items = [item("a", 6, 7.0), item("b", 5, 5.0), item("c", 5, 5.0)];
//! assert_eq!(greedy(&items, 10).chosen, [0]);
//! assert_eq!(exact(&items, 10, &Limits::default()).chosen, [1, 2]);
//! ```

mod branch;

use std::cmp::Ordering;

/// A group as the knapsack sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item<'a> {
    /// Name, for ties.
    pub name: &'a str,
    /// Size `d_k`, in parameters.
    pub parameters: usize,
    /// Value `v_k`, loss. What is not positive and finite is never chosen.
    pub value: f64,
}

/// How much work [`exact`] may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Cells of the dynamic programming's table, groups times steps of capacity; above it, branch and bound runs.
    pub cells: usize,
    /// Nodes of the branch and bound; above it, the best set so far is returned as not proven optimal.
    pub nodes: usize,
}

impl Default for Limits {
    /// Some tenths of a second of table, about a second of nodes.
    fn default() -> Self {
        Self {
            cells: 1 << 27,
            nodes: 20_000_000,
        }
    }
}

/// A set of groups within a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    /// Positions of the chosen items, ascending.
    pub chosen: Vec<usize>,
    /// Sum of their values.
    pub value: f64,
    /// Sum of their sizes.
    pub parameters: usize,
    /// Whether no other set within the budget is worth more.
    pub optimal: bool,
}

impl Packing {
    fn new(items: &[Item], mut chosen: Vec<usize>, optimal: bool) -> Self {
        chosen.sort_unstable();
        let (mut value, mut parameters) = (0.0, 0);
        for item in chosen.iter().filter_map(|&index| items.get(index)) {
            value += item.value;
            parameters += item.parameters;
        }
        Self {
            chosen,
            value,
            parameters,
            optimal,
        }
    }

    /// Both sets, which share no item; optimal if each is.
    pub fn with(mut self, other: Self) -> Self {
        self.chosen.extend(other.chosen);
        self.chosen.sort_unstable();
        Self {
            chosen: self.chosen,
            value: self.value + other.value,
            parameters: self.parameters + other.parameters,
            optimal: self.optimal && other.optimal,
        }
    }
}

impl Default for Packing {
    /// The empty set.
    fn default() -> Self {
        Self {
            chosen: Vec::new(),
            value: 0.0,
            parameters: 0,
            optimal: true,
        }
    }
}

/// The most valuable set of items within `capacity` parameters.
pub fn exact(items: &[Item], capacity: usize, limits: &Limits) -> Packing {
    let problem = Problem::new(items, capacity);
    let total: u128 = problem.things.iter().map(|thing| thing.size).sum();
    if total <= capacity as u128 {
        let all = problem.things.iter().map(|thing| thing.index).collect();
        return Packing::new(items, all, true);
    }
    let divisor = problem
        .things
        .iter()
        .fold(0, |divisor, thing| gcd(divisor, thing.size))
        .max(1);
    let steps = capacity as u128 / divisor;
    // 16 bytes a step, one bit a cell.
    let small = steps < 1 << 22 && steps * problem.things.len() as u128 <= limits.cells as u128;
    let (chosen, optimal) = if small {
        (problem.dynamic_programming(divisor, steps as usize), true)
    } else {
        problem.branch_and_bound(limits.nodes)
    };
    Packing::new(items, chosen, optimal)
}

/// Takes items by value per parameter, skipping those that no longer fit. Never claims to be optimal.
pub fn greedy(items: &[Item], capacity: usize) -> Packing {
    let mut problem = Problem::new(items, capacity);
    problem.things.sort_by(Thing::denser_first);
    Packing::new(items, problem.greedy(), false)
}

/// An item that fits and is worth something; things are kept in the order of their names.
#[derive(Debug, Clone, Copy)]
struct Thing {
    /// Position in the caller's list.
    index: usize,
    /// Position by name.
    place: usize,
    size: u128,
    /// Value as an integer.
    value: u128,
    /// `value · M − size`.
    profit: u128,
}

impl Thing {
    /// By value per parameter, then the smaller, then by name.
    fn denser_first(&self, other: &Self) -> Ordering {
        (other.value * self.size)
            .cmp(&(self.value * other.size))
            .then(self.size.cmp(&other.size))
            .then(self.place.cmp(&other.place))
    }

    /// Equal in everything but the name.
    fn interchangeable(&self, other: &Self) -> bool {
        self.size == other.size && self.value == other.value
    }
}

struct Problem {
    things: Vec<Thing>,
    capacity: u128,
    /// `M`, above the sum of all sizes.
    weight: u128,
}

impl Problem {
    fn new(items: &[Item], capacity: usize) -> Self {
        let useful =
            |item: &Item| item.value > 0.0 && item.value.is_finite() && item.parameters <= capacity;
        let mut kept: Vec<(usize, &Item)> = items
            .iter()
            .enumerate()
            .filter(|(_, item)| useful(item))
            .collect();
        kept.sort_by(|(i, a), (j, b)| a.name.cmp(b.name).then(i.cmp(j)));
        let weight = kept
            .iter()
            .map(|(_, item)| item.parameters as u128)
            .sum::<u128>()
            + 1;
        // The bound multiplies value, `M` and a size: all three together must fit 126 bits.
        let size_bits = u128::BITS - weight.leading_zeros();
        let value_bits = 126_u32.saturating_sub(2 * size_bits).clamp(1, 64);
        let largest = kept.iter().map(|(_, item)| item.value).fold(0.0, f64::max);
        let headroom = (kept.len().max(1) as f64).log2().ceil();
        // A power of two, so that values keep their digits and 2 + 2 still equals 4. Applied in halves, because the
        // whole may be beyond what an `f64` holds.
        let exponent = f64::from(value_bits) - headroom - largest.log2().ceil();
        let (half, rest) = ((exponent / 2.0).floor(), (exponent / 2.0).ceil());
        let things = kept
            .iter()
            .enumerate()
            .map(|(place, (index, item))| {
                let size = item.parameters as u128;
                // At least 1: a useful item must stay useful, however small beside the others.
                let value = ((item.value * half.exp2() * rest.exp2()).round() as u128).max(1);
                Thing {
                    index: *index,
                    place,
                    size,
                    value,
                    profit: value * weight - size,
                }
            })
            .collect();
        Self {
            things,
            capacity: capacity as u128,
            weight,
        }
    }

    /// Takes what fits, in the present order.
    fn greedy(&self) -> Vec<usize> {
        let mut room = self.capacity;
        let mut chosen = Vec::new();
        for thing in &self.things {
            if thing.size <= room {
                room -= thing.size;
                chosen.push(thing.index);
            }
        }
        chosen
    }

    /// `best[c]` is the greatest profit within `c` steps of capacity. Going from the last name to the first, and
    /// taking on a tie, makes the first name's choice the last one, so that it is taken if any best set has it.
    fn dynamic_programming(&self, divisor: u128, steps: usize) -> Vec<usize> {
        let words = steps / 64 + 1;
        let mut taken = vec![0_u64; words * self.things.len()];
        let mut best = vec![0_u128; steps + 1];
        for (thing, row) in self.things.iter().zip(taken.chunks_exact_mut(words)).rev() {
            let size = (thing.size / divisor) as usize;
            for capacity in (size..=steps).rev() {
                let with = best[capacity - size] + thing.profit;
                if with >= best[capacity] {
                    best[capacity] = with;
                    row[capacity / 64] |= 1 << (capacity % 64);
                }
            }
        }
        let mut capacity = steps;
        let mut chosen = Vec::new();
        for (thing, row) in self.things.iter().zip(taken.chunks_exact(words)) {
            if row[capacity / 64] >> (capacity % 64) & 1 == 1 {
                chosen.push(thing.index);
                capacity -= (thing.size / divisor) as usize;
            }
        }
        chosen
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
