//! The order in which rows are visited: shuffled anew each epoch for training, by length for
//! evaluation. Both cover every row exactly once.

use std::collections::HashSet;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::DataError;

/// Batches whose rows are sorted together by [`Batching::ByLength`].
const WINDOW: usize = 50;

/// How the rows of an epoch are gathered into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batching {
    /// Any rows share a batch.
    Shuffled,
    /// Rows of similar length share a batch, which saves padding. Batches still come shuffled, and
    /// which rows meet differs from epoch to epoch.
    ByLength,
}

/// Where training stands, to be saved and resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs completed.
    pub epoch: u64,
    /// Batches taken of the current epoch.
    pub position: usize,
}

/// Endless batches of row numbers for training.
///
/// The order of an epoch depends on the seed and the number of the epoch alone, so that training
/// resumes from a [`Cursor`] at once. The last batch of an epoch may be smaller.
#[derive(Debug, Clone)]
pub struct TrainOrder {
    lengths: Vec<usize>,
    batch_size: usize,
    batching: Batching,
    seed: u64,
    cursor: Cursor,
    batches: Vec<Vec<usize>>,
}

impl TrainOrder {
    /// Starts at the first epoch. `lengths` has the tokens of each row.
    ///
    /// # Errors
    /// [`DataError::BatchSize`] for a batch size of 0, [`DataError::NoBatches`] without rows.
    pub fn new(
        lengths: Vec<usize>,
        batch_size: usize,
        batching: Batching,
        seed: u64,
    ) -> Result<Self, DataError> {
        if batch_size == 0 {
            return Err(DataError::BatchSize);
        }
        if lengths.is_empty() {
            return Err(DataError::NoBatches);
        }
        let cursor = Cursor::default();
        let mut order = Self {
            lengths,
            batch_size,
            batching,
            seed,
            cursor,
            batches: Vec::new(),
        };
        order.batches = order.epoch(0);
        Ok(order)
    }

    /// Goes to a saved place.
    ///
    /// # Errors
    /// [`DataError::Resume`] if an epoch has fewer batches: data or batch size are not the same.
    pub fn resume(mut self, cursor: Cursor) -> Result<Self, DataError> {
        if cursor.position > self.batches_per_epoch() {
            let batches = self.batches_per_epoch();
            return Err(DataError::Resume {
                position: cursor.position,
                batches,
            });
        }
        self.batches = self.epoch(cursor.epoch);
        self.cursor = cursor;
        Ok(self)
    }

    /// Where training stands: the next batch comes from here.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The batches of one epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.lengths.len().div_ceil(self.batch_size)
    }

    /// The rows of the next batch.
    pub fn next_rows(&mut self) -> Vec<usize> {
        if self.cursor.position >= self.batches.len() {
            self.cursor = Cursor {
                epoch: self.cursor.epoch + 1,
                position: 0,
            };
            self.batches = self.epoch(self.cursor.epoch);
        }
        let rows = self
            .batches
            .get_mut(self.cursor.position)
            .map(std::mem::take)
            .unwrap_or_default();
        self.cursor.position += 1;
        rows
    }

    /// As many rows as a batch has, none of them among `taken`: where batches have some of these, or come to the end of an epoch with
    /// fewer rows, the next ones fill it up. Fewer rows where there are no more, and any where all are taken.
    pub fn next_rows_beside(&mut self, taken: &[usize]) -> Vec<usize> {
        let mut taken: HashSet<usize> = taken.iter().copied().collect();
        let free = self.lengths.len().saturating_sub(taken.len());
        let wanted = self.batch_size.min(free);
        if wanted == 0 {
            return self.next_rows();
        }
        let mut rows = Vec::with_capacity(wanted);
        while rows.len() < wanted {
            rows.extend(
                self.next_rows()
                    .into_iter()
                    .filter(|row| taken.insert(*row)),
            );
        }
        rows.truncate(wanted);
        rows
    }

    /// The batches of an epoch, computed from its number alone.
    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // Streams below 2^32 serve other uses of the seed.
        rng.set_stream((1 << 32) | epoch);
        let mut rows: Vec<usize> = (0..self.lengths.len()).collect();
        rows.shuffle(&mut rng);
        match self.batching {
            Batching::Shuffled => cut(&rows, self.batch_size),
            Batching::ByLength => {
                for window in rows.chunks_mut(self.batch_size.saturating_mul(WINDOW)) {
                    window.sort_by_key(|row| self.lengths.get(*row));
                }
                let mut batches = cut(&rows, self.batch_size);
                batches.shuffle(&mut rng);
                batches
            }
        }
    }
}

impl Iterator for TrainOrder {
    type Item = Vec<usize>;

    /// Never ends.
    fn next(&mut self) -> Option<Vec<usize>> {
        Some(self.next_rows())
    }
}

/// Batches for evaluation: longest rows first, so that batches need little padding and a lack of
/// memory shows at once. Rows of equal length keep their order.
///
/// # Errors
/// [`DataError::BatchSize`] for a batch size of 0.
pub fn eval_order(lengths: &[usize], batch_size: usize) -> Result<Vec<Vec<usize>>, DataError> {
    if batch_size == 0 {
        return Err(DataError::BatchSize);
    }
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(lengths.get(*row)));
    Ok(cut(&rows, batch_size))
}

/// Puts results back into the order of the rows; `numbered` has each row number once.
///
/// ```
/// use autopeft::data::in_row_order;
/// assert_eq!(in_row_order([(2, 'c'), (0, 'a'), (1, 'b')]), ['a', 'b', 'c']);
/// ```
pub fn in_row_order<T>(numbered: impl IntoIterator<Item = (usize, T)>) -> Vec<T> {
    let mut numbered: Vec<(usize, T)> = numbered.into_iter().collect();
    numbered.sort_by_key(|(row, _)| *row);
    numbered.into_iter().map(|(_, result)| result).collect()
}

fn cut(rows: &[usize], batch_size: usize) -> Vec<Vec<usize>> {
    rows.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(rows: usize, batch_size: usize, batching: Batching, seed: u64) -> TrainOrder {
        let lengths = (0..rows).map(|row| 1 + row * 7 % 31).collect();
        TrainOrder::new(lengths, batch_size, batching, seed).expect("order")
    }

    fn batching() -> impl Strategy<Value = Batching> {
        prop_oneof![Just(Batching::Shuffled), Just(Batching::ByLength)]
    }

    fn without_files() -> ProptestConfig {
        ProptestConfig {
            cases: 100,
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    proptest! {
        #![proptest_config(without_files())]

        #[test]
        fn every_epoch_has_every_row_exactly_once(
            rows in 1_usize..200, batch_size in 1_usize..40, seed: u64, batching in batching(),
        ) {
            let mut order = order(rows, batch_size, batching, seed);
            for epoch in 0..3 {
                let batches: Vec<_> = (0..order.batches_per_epoch()).map(|_| order.next_rows()).collect();
                prop_assert_eq!(order.cursor().epoch, epoch);
                prop_assert!(batches.iter().all(|batch| (1..=batch_size).contains(&batch.len())));
                let mut seen = batches.concat();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
            }
        }

        #[test]
        fn resuming_continues_as_if_never_stopped(
            rows in 1_usize..100, batch_size in 1_usize..20, seed: u64, batching in batching(),
            taken in 0_usize..60,
        ) {
            let mut whole = order(rows, batch_size, batching, seed);
            whole.by_ref().take(taken).for_each(drop);
            let resumed = order(rows, batch_size, batching, seed).resume(whole.cursor()).expect("fits");
            prop_assert_eq!(
                whole.take(20).collect::<Vec<_>>(),
                resumed.take(20).collect::<Vec<_>>()
            );
        }

        #[test]
        fn rows_beside_others_are_none_of_these_and_fill_a_batch(
            rows in 1_usize..100, batch_size in 1_usize..40, seed: u64, batching in batching(),
            step in 1_usize..30,
        ) {
            let mut steps = order(rows, step, batching, seed);
            let mut beside = order(rows, batch_size, batching, seed ^ 1);
            for _ in 0..10 {
                let taken = steps.next_rows();
                let found = beside.next_rows_beside(&taken);
                let mut distinct = found.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), found.len());
                if taken.len() < rows {
                    prop_assert!(found.iter().all(|row| !taken.contains(row)));
                    prop_assert_eq!(found.len(), batch_size.min(rows - taken.len()));
                } else {
                    prop_assert!(!found.is_empty());
                }
            }
        }

        #[test]
        fn evaluation_covers_rows_once_longest_first(
            lengths in prop::collection::vec(1_usize..50, 0..80), batch_size in 1_usize..20,
        ) {
            let rows = eval_order(&lengths, batch_size).expect("order").concat();
            prop_assert!(rows.is_sorted_by_key(|row| (std::cmp::Reverse(lengths[*row]), *row)));
            let results = in_row_order(rows.iter().map(|row| (*row, *row)));
            prop_assert_eq!(results, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let first = |seed| order(100, 100, Batching::Shuffled, seed).next_rows();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        let epochs: Vec<_> = order(100, 100, Batching::Shuffled, 1).take(2).collect();
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn batching_by_length_saves_padding() {
        let padding = |batching| -> usize {
            let order = order(1000, 8, batching, 3);
            let lengths = order.lengths.clone();
            let longest =
                |batch: &[usize]| batch.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            order
                .take(125)
                .map(|batch| batch.len() * longest(&batch))
                .sum()
        };
        let tokens: usize = order(1000, 8, Batching::Shuffled, 3).lengths.iter().sum();
        assert!(padding(Batching::ByLength) < tokens * 11 / 10);
        assert!(padding(Batching::Shuffled) > tokens * 3 / 2);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let new = |lengths, size| TrainOrder::new(lengths, size, Batching::Shuffled, 0);
        assert!(matches!(new(vec![1], 0), Err(DataError::BatchSize)));
        assert!(matches!(new(vec![], 1), Err(DataError::NoBatches)));
        assert!(matches!(eval_order(&[1], 0), Err(DataError::BatchSize)));
        let error = order(10, 5, Batching::Shuffled, 0).resume(Cursor {
            epoch: 0,
            position: 3,
        });
        assert!(matches!(
            error,
            Err(DataError::Resume {
                position: 3,
                batches: 2
            })
        ));
    }
}
