//! Stratified choice of rows: every class keeps its share. The same seed gives the same rows.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Streams of random numbers: one seed, independent uses.
const SPLIT: u64 = 1;
const SUBSET: u64 = 2;

/// Cuts off about `share` of the rows for validation: at least one row of each class that has two
/// or more, and never all rows of a class.
///
/// `labels` has the class of each row. Returns the rows for training and for validation, both in
/// ascending order; together they are all rows, each once.
pub(super) fn cut_off(labels: &[usize], share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut classes = shuffled_classes(labels, seed, SPLIT);
    let counts: Vec<usize> = classes.iter().map(Vec::len).collect();
    let total = (labels.len() as f64 * share).round() as usize;
    let mut train = Vec::new();
    let mut validation = Vec::new();
    for (rows, wanted) in classes.iter_mut().zip(allocate(&counts, total)) {
        let held_out = if rows.len() < 2 {
            0
        } else {
            wanted.clamp(1, rows.len() - 1)
        };
        validation.extend(rows.drain(..held_out));
        train.append(rows);
    }
    train.sort_unstable();
    validation.sort_unstable();
    (train, validation)
}

/// At most `max_rows` rows, every class by its share and with at least one row, in ascending order.
pub(super) fn subset(labels: &[usize], max_rows: usize, seed: u64) -> Vec<usize> {
    let classes = shuffled_classes(labels, seed, SUBSET);
    let counts: Vec<usize> = classes.iter().map(Vec::len).collect();
    let mut wanted = allocate(&counts, max_rows);
    // A rare class may round to nothing: it takes a row of the class that got the most.
    while let Some(empty) =
        (0..wanted.len()).find(|class| wanted[*class] == 0 && counts[*class] > 0)
    {
        let Some(largest) = (0..wanted.len()).max_by_key(|class| wanted[*class]) else {
            break;
        };
        if wanted[largest] < 2 {
            break;
        }
        wanted[largest] -= 1;
        wanted[empty] = 1;
    }
    let mut rows: Vec<usize> = classes
        .iter()
        .zip(wanted)
        .flat_map(|(rows, wanted)| rows.iter().take(wanted))
        .copied()
        .collect();
    rows.sort_unstable();
    rows
}

/// The rows of each class, shuffled.
fn shuffled_classes(labels: &[usize], seed: u64, stream: u64) -> Vec<Vec<usize>> {
    let mut classes = vec![Vec::new(); labels.iter().max().map_or(0, |max| max + 1)];
    for (row, label) in labels.iter().enumerate() {
        classes[*label].push(row);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    for rows in &mut classes {
        rows.shuffle(&mut rng);
    }
    classes
}

/// Shares `total` in proportion to `counts` by largest remainder (ties to the earlier class).
fn allocate(counts: &[usize], total: usize) -> Vec<usize> {
    let all: usize = counts.iter().sum();
    let total = total.min(all);
    if all == 0 {
        return vec![0; counts.len()];
    }
    let exact = |count: usize| count as u128 * total as u128;
    let mut shares: Vec<usize> = counts
        .iter()
        .map(|count| (exact(*count) / all as u128) as usize)
        .collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    by_remainder.sort_by_key(|class| std::cmp::Reverse(exact(counts[*class]) % all as u128));
    let left = total - shares.iter().sum::<usize>();
    for class in by_remainder.into_iter().take(left) {
        shares[class] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(labels: &[usize], rows: &[usize], class: usize) -> usize {
        rows.iter().filter(|row| labels[**row] == class).count()
    }

    fn without_files() -> ProptestConfig {
        ProptestConfig {
            cases: 200,
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    proptest! {
        #![proptest_config(without_files())]

        #[test]
        fn cut_off_partitions_rows_and_leaves_every_class_on_both_sides(
            labels in prop::collection::vec(0_usize..5, 1..120),
            share in 0.01_f64..0.99,
            seed: u64,
        ) {
            let (train, validation) = cut_off(&labels, share, seed);
            let mut all = [train.clone(), validation.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..5 {
                let (kept, held) = (count(&labels, &train, class), count(&labels, &validation, class));
                prop_assert!(kept > 0 || held == 0);
                prop_assert!(held > 0 || kept < 2);
                let expected = (kept + held) as f64 * share;
                prop_assert!((held as f64 - expected).abs() < 2.0 || held == 1 || kept == 1);
            }
            prop_assert_eq!(cut_off(&labels, share, seed), (train, validation));
        }

        #[test]
        fn subset_has_the_size_asked_for_and_every_class(
            labels in prop::collection::vec(0_usize..5, 1..120),
            max_rows in 5_usize..130,
            seed: u64,
        ) {
            let rows = subset(&labels, max_rows, seed);
            prop_assert_eq!(rows.len(), max_rows.min(labels.len()));
            prop_assert!(rows.is_sorted_by(|a, b| a < b));
            for class in labels.iter().copied() {
                prop_assert!(count(&labels, &rows, class) > 0);
            }
        }
    }

    #[test]
    fn another_seed_holds_out_other_rows() {
        let labels: Vec<usize> = (0..100).map(|row| row % 2).collect();
        assert_ne!(cut_off(&labels, 0.1, 1), cut_off(&labels, 0.1, 2));
        assert_eq!(cut_off(&labels, 0.1, 1).1.len(), 10);
    }

    #[test]
    fn shares_sum_to_the_total_in_proportion() {
        assert_eq!(allocate(&[70, 20, 10], 10), [7, 2, 1]);
        assert_eq!(allocate(&[1, 1, 1], 2), [1, 1, 0]);
        assert_eq!(allocate(&[3], 9), [3]);
        assert_eq!(allocate(&[], 9), [0; 0]);
    }
}
