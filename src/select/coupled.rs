//! The value of a *set* of groups, with their coupling, and a search for a good set within a budget.
//!
//! `f(S) = Σ_t ½ b_{t,S}ᵀ (A_{t,SS} + damping)⁻¹ b_{t,S}`: the predicted decrease when all groups of the set take
//! their jointly best rates, summed over measurements because the update direction turns during a probe. Two groups
//! that do the same are worth little more than one; the diagonal knapsack counts both.
//! The search is forward selection by marginal gain, then exchanges of one group for another until none helps. It is
//! a heuristic: its sets are optimal against any single exchange, not against all sets.
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
//! assert_eq!(model.select(&items, &[0, 1, 2], 2, &CoupledOptions::default()).chosen, [0, 2]);
//! # Ok::<(), autopeft::select::SelectError>(())
//! ```

use serde::{Deserialize, Serialize};

use super::error::SelectError;
use super::knapsack::Item;
use super::sweep::Sweep;

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

    /// Searches a set of the groups `from` (positions in `items`) within `capacity` parameters.
    /// Item values are not used.
    pub fn select(
        &self,
        items: &[Item],
        from: &[usize],
        capacity: usize,
        options: &CoupledOptions,
    ) -> CoupledSet {
        let mut outside: Vec<usize> = from.to_vec();
        outside.retain(|&group| group < items.len() && !self.always.contains(&group));
        // In the order of ties, so that the first of equals is the right one.
        outside.sort_by(|&a, &b| {
            items[a]
                .parameters
                .cmp(&items[b].parameters)
                .then(items[a].name.cmp(items[b].name))
        });
        outside.dedup();
        let mut search = Search {
            terms: self.terms.clone(),
            items,
            outside,
            inside: Vec::new(),
            room: capacity,
        };
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

struct Search<'a> {
    terms: Vec<Sweep>,
    items: &'a [Item<'a>],
    /// Groups that may come in; by size, then name.
    outside: Vec<usize>,
    inside: Vec<usize>,
    room: usize,
}

impl Search<'_> {
    /// Adds the group with the greatest gain among those that fit, until none fits or helps.
    fn add_all(&mut self, criterion: Gain) {
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
    fn best_exchange(&self) -> Option<(usize, usize)> {
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

    fn exchange(&mut self, out: usize, into: usize) {
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
            let key = |group: usize| (items[group].parameters, items[group].name);
            let at = self.outside.partition_point(|&other| key(other) < key(group));
            self.outside.insert(at, group);
        } else {
            self.outside.retain(|&other| other != group);
            self.inside.push(group);
            self.room -= size;
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
        let added = |&own_entry: &f64| share * if own && own_entry > 0.0 { own_entry } else { mean };
        let damping: Vec<f64> = diagonal.iter().map(added).collect();
        let sweep = Sweep::new(&term.slope, &term.curvature, &damping);
        if sweep.clone().is_positive_definite() {
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
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 10] = ["j", "i", "h", "g", "f", "e", "d", "c", "b", "a"];

    fn items(sizes: &[usize]) -> Vec<Item<'static>> {
        sizes
            .iter()
            .zip(NAMES)
            .map(|(&parameters, name)| Item {
                name,
                parameters,
                value: 1.0,
            })
            .collect()
    }

    fn diagonal(values: &[f64]) -> Vec<f64> {
        let count = values.len();
        (0..count * count)
            .map(|at| {
                if at / count == at % count {
                    values[at / count]
                } else {
                    0.0
                }
            })
            .collect()
    }

    /// `Σ_s j_s j_sᵀ` from rows of examples, which is how a Gauss-Newton matrix arises.
    fn gram(rows: &[Vec<f64>], count: usize) -> Vec<f64> {
        let entry = |at: usize| {
            rows.iter()
                .map(|row| row[at / count] * row[at % count])
                .sum::<f64>()
        };
        (0..count * count).map(entry).collect()
    }

    fn subsets(items: &[Item], capacity: usize) -> Vec<Vec<usize>> {
        let sets = (0_u32..1 << items.len()).map(|mask| {
            (0..items.len())
                .filter(|index| mask >> index & 1 == 1)
                .collect::<Vec<usize>>()
        });
        sets.filter(|set| set.iter().map(|&index| items[index].parameters).sum::<usize>() <= capacity)
            .collect()
    }

    fn brute_force(model: &SetModel, items: &[Item], capacity: usize) -> f64 {
        subsets(items, capacity)
            .iter()
            .map(|set| model.value(set, items.len()))
            .fold(0.0, f64::max)
    }

    fn all(items: &[Item]) -> Vec<usize> {
        (0..items.len()).collect()
    }

    /// Sizes, measurements of (slope, example rows), and a capacity.
    type Case = (Vec<usize>, Vec<(Vec<f64>, Vec<Vec<f64>>)>, usize);

    fn cases() -> impl Strategy<Value = Case> {
        (2..=8_usize).prop_flat_map(|count| {
            let numbers = move || prop::collection::vec(-1.0..1.0_f64, count);
            let term = (numbers(), prop::collection::vec(numbers(), 1..12));
            (
                prop::collection::vec(1..6_usize, count),
                prop::collection::vec(term, 1..4),
                1..20_usize,
            )
        })
    }

    fn model_of(case: &Case, damping: Damping) -> SetModel {
        let count = case.0.len();
        let term = |(slope, rows): &(Vec<f64>, Vec<Vec<f64>>)| Term {
            slope: slope.clone(),
            curvature: gram(rows, count),
        };
        SetModel::new(&case.1.iter().map(term).collect::<Vec<_>>(), count, &[], damping).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_set_found_is_feasible_and_no_exchange_or_addition_improves_it(case in cases()) {
            let items = items(&case.0);
            let model = model_of(&case, Damping::default());
            for gain in [Gain::Total, Gain::PerParameter] {
                let options = CoupledOptions { gain, ..CoupledOptions::default() };
                let found = model.select(&items, &all(&items), case.2, &options);
                prop_assert!(found.parameters <= case.2 && found.locally_optimal);
                let best = brute_force(&model, &items, case.2);
                prop_assert!(found.value <= best * (1.0 + 1e-9));
                for other in subsets(&items, case.2) {
                    let gone = found.chosen.iter().filter(|group| !other.contains(group)).count();
                    let come = other.iter().filter(|group| !found.chosen.contains(group)).count();
                    if gone <= 1 && come <= 1 {
                        prop_assert!(model.value(&other, items.len()) <= found.value * (1.0 + 1e-6) + 1e-12);
                    }
                }
            }
        }

        /// Groups of one size on a diagonal: the best set is the best groups.
        #[test]
        fn independent_groups_of_one_size_are_chosen_as_brute_force_does(
            rows in prop::collection::vec((0.01..1.0_f64, 0.01..1.0_f64), 1..=10), capacity in 0..35_usize,
        ) {
            let (slope, curvature): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
            let term = Term { slope, curvature: diagonal(&curvature) };
            let items = items(&vec![3; rows.len()]);
            let model = SetModel::new(&[term], items.len(), &[], Damping::default()).unwrap();
            let found = model.select(&items, &all(&items), capacity, &CoupledOptions::default());
            prop_assert!((found.value - brute_force(&model, &items, capacity)).abs() < 1e-9 * (1.0 + found.value));
        }

        #[test]
        fn own_damping_makes_the_value_invariant_to_rescaled_directions(
            case in cases(), scales in prop::collection::vec(0.01..100.0_f64, 8),
        ) {
            let count = case.0.len();
            let mut scaled = case.clone();
            for (slope, rows) in &mut scaled.1 {
                for k in 0..count {
                    slope[k] *= scales[k];
                    rows.iter_mut().for_each(|row| row[k] *= scales[k]);
                }
            }
            let (a, b) = (model_of(&case, Damping::OfOwn(1e-2)), model_of(&scaled, Damping::OfOwn(1e-2)));
            let set = all(&items(&case.0));
            let (a, b) = (a.value(&set, count), b.value(&set, count));
            prop_assert!((a - b).abs() <= 1e-6 * (a + b));
        }
    }

    #[test]
    fn of_two_redundant_groups_only_one_is_chosen() {
        // `j` and `i` coincide; `h` has a third of their value alone, but adds all of it.
        let curvature = gram(&[vec![1.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]], 3);
        let term = Term {
            slope: vec![1.0, 1.0, 0.6],
            curvature,
        };
        let items = items(&[1, 1, 1]);
        let model = SetModel::new(&[term], 3, &[], Damping::default()).unwrap();
        let found = model.select(&items, &[0, 1, 2], 2, &CoupledOptions::default());
        // `i` before `j`, by name.
        assert_eq!(found.chosen, [1, 2]);
        assert!((found.value - brute_force(&model, &items, 2)).abs() < 1e-12);
    }

    #[test]
    fn an_exchange_repairs_what_forward_selection_took_too_early() {
        // The third direction is nearly the sum of two independent ones: best alone, needless beside both.
        let rows = [vec![1.0, 0.0, 0.8], vec![0.0, 1.0, 0.8], vec![0.0, 0.0, 0.9]];
        let term = Term {
            slope: vec![1.0, 1.0, 1.6],
            curvature: gram(&rows, 3),
        };
        let items = items(&[1, 1, 1]);
        let model = SetModel::new(&[term], 3, &[], Damping::OfMean(1e-9)).unwrap();
        let forward = CoupledOptions {
            max_swaps: 0,
            ..CoupledOptions::default()
        };
        let stuck = model.select(&items, &[0, 1, 2], 2, &forward);
        assert!(stuck.chosen.contains(&2) && !stuck.locally_optimal);
        let found = model.select(&items, &[0, 1, 2], 2, &CoupledOptions::default());
        assert_eq!((found.chosen.as_slice(), found.swaps), ([0, 1].as_slice(), 1));
        assert!((found.value - brute_force(&model, &items, 2)).abs() < 1e-12);
    }

    #[test]
    fn what_the_head_already_does_is_worth_nothing() {
        let term = Term {
            slope: vec![1.0, 1.0, 0.1],
            curvature: gram(&[vec![1.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]], 3),
        };
        let items = items(&[1, 1, 1]);
        let model = SetModel::new(&[term], 3, &[0], Damping::OfMean(1e-9)).unwrap();
        let found = model.select(&items, &[0, 1, 2], 1, &CoupledOptions::default());
        assert_eq!(found.chosen, [2]);
        assert!((found.value - 0.005).abs() < 1e-6);
    }

    #[test]
    fn an_indefinite_curvature_is_damped_until_it_is_definite() {
        let term = Term {
            slope: vec![1.0, 1.0],
            curvature: vec![1.0, 3.0, 3.0, 1.0],
        };
        let model = SetModel::new(&[term], 2, &[], Damping::default()).unwrap();
        assert!(model.damping() > 2.0, "{}", model.damping());
    }

    #[test]
    fn faulty_measurements_are_refused_and_empty_ones_ignored() {
        let new = |slope: &[f64], curvature: &[f64]| {
            let term = Term {
                slope: slope.to_vec(),
                curvature: curvature.to_vec(),
            };
            SetModel::new(&[term], 1, &[], Damping::default())
        };
        assert!(matches!(
            new(&[1.0, 2.0], &[1.0]),
            Err(SelectError::ShapeMismatch { what: "slope", .. })
        ));
        assert!(matches!(
            new(&[1.0], &[f64::NAN]),
            Err(SelectError::NotFinite {
                what: "curvature",
                ..
            })
        ));
        assert_eq!(new(&[0.0], &[0.0]).unwrap().value(&[0], 1), 0.0);
        let term = Term {
            slope: vec![1.0],
            curvature: vec![1.0],
        };
        assert!(SetModel::new(&[term], 1, &[], Damping::OfMean(0.0)).is_err());
    }

    #[test]
    fn three_hundred_groups_and_ten_measurements_take_a_moment() {
        let count = 300;
        let mut state = 3_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1_u64 << 30) as f64 - 1.0
        };
        let mut term = || {
            let rows: Vec<Vec<f64>> = (0..64).map(|_| (0..count).map(|_| random()).collect()).collect();
            let slope = (0..count).map(|_| random()).collect();
            Term {
                slope,
                curvature: gram(&rows, count),
            }
        };
        let terms: Vec<Term> = (0..10).map(|_| term()).collect();
        let names: Vec<String> = (0..count).map(|k| format!("{k:03}")).collect();
        let items: Vec<Item> = names
            .iter()
            .enumerate()
            .map(|(k, name)| Item {
                name,
                parameters: 100 + k,
                value: 1.0,
            })
            .collect();
        let start = std::time::Instant::now();
        let model = SetModel::new(&terms, count, &[], Damping::default()).unwrap();
        let found = model.select(&items, &all(&items), 20_000, &CoupledOptions::default());
        assert!(found.parameters <= 20_000 && found.locally_optimal);
        // A guard against a change of order, not a benchmark: 2 s expected in an unoptimised, busy run.
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}
