//! The 0-1 knapsack `maximise Σ z_k v_k subject to Σ z_k d_k ≤ budget`, exactly and greedily.
//!
//! Values become integers once, at 2⁻⁵² of their sum, so that sums have no order and ties are real ties. Among
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
        let useful = |item: &Item| item.value > 0.0 && item.value.is_finite() && item.parameters <= capacity;
        let mut kept: Vec<(usize, &Item)> = items
            .iter()
            .enumerate()
            .filter(|(_, item)| useful(item))
            .collect();
        kept.sort_by(|(i, a), (j, b)| a.name.cmp(b.name).then(i.cmp(j)));
        let weight = kept.iter().map(|(_, item)| item.parameters as u128).sum::<u128>() + 1;
        // The bound multiplies value, `M` and a size: all three together must fit 126 bits.
        let size_bits = u128::BITS - weight.leading_zeros();
        let value_bits = 126_u32.saturating_sub(2 * size_bits).clamp(1, 52);
        let largest = kept.iter().map(|(_, item)| item.value).fold(0.0, f64::max);
        // Dividing first keeps the sum finite for any finite values.
        let sum: f64 = kept.iter().map(|(_, item)| item.value / largest).sum();
        let scale = f64::from(value_bits).exp2() / sum;
        let things = kept
            .iter()
            .enumerate()
            .map(|(place, (index, item))| {
                let size = item.parameters as u128;
                // At least 1: a useful item must stay useful, however small beside the others.
                let value = ((item.value / largest * scale).round() as u128).max(1);
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

    /// Depth first, the denser item first, taking before leaving. Returns the set and whether it is proven best.
    fn branch_and_bound(mut self, nodes: usize) -> (Vec<usize>, bool) {
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
                let twin_left =
                    position > 0 && !taken[position - 1] && self.things[position - 1].interchangeable(thing);
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

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: Limits = Limits {
        cells: usize::MAX,
        nodes: 0,
    };
    const TREE: Limits = Limits {
        cells: 0,
        nodes: usize::MAX,
    };

    fn items<'a>(names: &'a [String], rows: &[(usize, f64)]) -> Vec<Item<'a>> {
        let item = |(name, &(parameters, value)): (&'a String, _)| Item {
            name,
            parameters,
            value,
        };
        names.iter().zip(rows).map(item).collect()
    }

    /// Names in an order that differs from the items'.
    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("{:02}", index * 7 % 16)).collect()
    }

    /// All subsets: greatest value (whole numbers, so exact), then fewest parameters, then first by name.
    fn brute_force(items: &[Item], capacity: usize) -> Vec<usize> {
        let mut best: Option<(f64, usize, Vec<&str>, Vec<usize>)> = None;
        for mask in 0_u32..1 << items.len() {
            let chosen: Vec<usize> = (0..items.len()).filter(|index| mask >> index & 1 == 1).collect();
            let parameters = chosen.iter().map(|&index| items[index].parameters).sum();
            if parameters > capacity || chosen.iter().any(|&index| items[index].value <= 0.0) {
                continue;
            }
            let value = chosen.iter().map(|&index| items[index].value).sum();
            let mut names: Vec<&str> = chosen.iter().map(|&index| items[index].name).collect();
            names.sort_unstable();
            let better = best.as_ref().is_none_or(|(v, p, n, _)| {
                value > *v || value == *v && (parameters < *p || parameters == *p && names < *n)
            });
            if better {
                best = Some((value, parameters, names, chosen));
            }
        }
        best.map(|(.., chosen)| chosen).unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Small whole numbers make ties common, at every level.
        #[test]
        fn both_exact_ways_are_brute_force_with_its_ties(
            rows in prop::collection::vec((1..12_usize, 0..8_u32), 0..12), capacity in 0..60_usize,
        ) {
            let rows: Vec<_> = rows.iter().map(|&(size, value)| (size, f64::from(value))).collect();
            let names = names(rows.len());
            let items = items(&names, &rows);
            let expected = brute_force(&items, capacity);
            for limits in [TABLE, TREE] {
                let packing = exact(&items, capacity, &limits);
                prop_assert!(packing.optimal);
                prop_assert_eq!(&packing.chosen, &expected, "{:?}", limits);
            }
        }

        #[test]
        fn exact_is_brute_force_up_to_fifteen_real_values(
            rows in prop::collection::vec((1..5_000_usize, 1e-9..1.0_f64), 1..=15), share in 0.0..1.1_f64,
        ) {
            let names = names(rows.len());
            let items = items(&names, &rows);
            let total: usize = rows.iter().map(|(size, _)| size).sum();
            let capacity = (total as f64 * share) as usize;
            let value = |chosen: &[usize]| chosen.iter().map(|&index| rows[index].1).sum::<f64>();
            let expected = value(&brute_force(&items, capacity));
            let greedy = greedy(&items, capacity);
            prop_assert!(greedy.parameters <= capacity);
            for limits in [TABLE, TREE] {
                let packing = exact(&items, capacity, &limits);
                prop_assert!(packing.parameters <= capacity);
                prop_assert!((packing.value - expected).abs() <= 1e-12 * expected);
                prop_assert!(greedy.value <= packing.value * (1.0 + 1e-12));
            }
        }

        #[test]
        fn the_order_of_the_items_does_not_matter(
            rows in prop::collection::vec((1..6_usize, 1..4_u32), 1..12), capacity in 0..30_usize,
        ) {
            let rows: Vec<_> = rows.iter().map(|&(size, value)| (size, f64::from(value))).collect();
            let names = names(rows.len());
            let forward = items(&names, &rows);
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            let chosen = |items: &[Item], packing: Packing| {
                let mut names: Vec<_> = packing.chosen.iter().map(|&i| items[i].name.to_owned()).collect();
                names.sort_unstable();
                names
            };
            for limits in [TABLE, TREE] {
                prop_assert_eq!(
                    chosen(&forward, exact(&forward, capacity, &limits)),
                    chosen(&backward, exact(&backward, capacity, &limits))
                );
            }
            prop_assert_eq!(chosen(&forward, greedy(&forward, capacity)), chosen(&backward, greedy(&backward, capacity)));
        }
    }

    #[test]
    fn table_and_tree_agree_on_a_real_size() {
        // 200 groups of sizes with a common divisor of 4, and values over four decades.
        let mut state = 7_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        let rows: Vec<(usize, f64)> = (0..200)
            .map(|_| {
                (
                    4 * (100.0 + random() * 900.0) as usize,
                    10_f64.powf(-4.0 * random()),
                )
            })
            .collect();
        let names: Vec<String> = (0..200).map(|index| format!("{index:03}")).collect();
        let items = items(&names, &rows);
        let table = exact(&items, 100_000, &TABLE);
        let tree = exact(
            &items,
            100_000,
            &Limits {
                cells: 0,
                ..Limits::default()
            },
        );
        assert!(table.optimal && tree.optimal);
        assert_eq!(table, tree);
        assert!(table.value >= greedy(&items, 100_000).value);
    }

    #[test]
    fn a_cut_search_says_so_and_is_no_worse_than_greedy() {
        let rows: Vec<(usize, f64)> = (0..40)
            .map(|i| (1_000 + i * i, 1_000.0 + (i * i) as f64))
            .collect();
        let names: Vec<String> = (0..40).map(|index| format!("{index:02}")).collect();
        let items = items(&names, &rows);
        let packing = exact(&items, 20_001, &Limits { cells: 0, nodes: 100 });
        assert!(!packing.optimal);
        assert!(packing.parameters <= 20_001);
        assert!(packing.value >= greedy(&items, 20_001).value);
    }

    #[test]
    fn what_has_no_value_or_does_not_fit_is_never_chosen() {
        let names = names(5);
        let rows = [(1, 0.0), (1, -1.0), (1, f64::NAN), (100, 5.0), (2, 1e-300)];
        let items = items(&names, &rows);
        for limits in [TABLE, TREE] {
            assert_eq!(exact(&items, 10, &limits).chosen, [4]);
        }
        assert_eq!(greedy(&items, 10).chosen, [4]);
        assert_eq!(exact(&[], 10, &TABLE).chosen, [0; 0]);
    }

    #[test]
    fn enormous_values_and_sizes_do_not_overflow() {
        let names = names(3);
        let rows = [
            (usize::MAX / 4, f64::MAX),
            (usize::MAX / 4, f64::MAX),
            (usize::MAX / 4, f64::MAX / 2.0),
        ];
        let items = items(&names, &rows);
        let chosen = exact(&items, usize::MAX / 2, &TREE).chosen;
        assert_eq!(chosen, [0, 1]);
    }
}
