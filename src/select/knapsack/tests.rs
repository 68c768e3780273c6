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
    (0..count)
        .map(|index| format!("{:02}", index * 7 % 16))
        .collect()
}

/// All subsets: greatest value (whole numbers, so exact), then fewest parameters, then first by name.
fn brute_force(items: &[Item], capacity: usize) -> Vec<usize> {
    let mut best: Option<(f64, usize, Vec<&str>, Vec<usize>)> = None;
    for mask in 0_u32..1 << items.len() {
        let chosen: Vec<usize> = (0..items.len())
            .filter(|index| mask >> index & 1 == 1)
            .collect();
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
    #![proptest_config(crate::select::fixed_cases(128))]

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
    let packing = exact(
        &items,
        20_001,
        &Limits {
            cells: 0,
            nodes: 100,
        },
    );
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
