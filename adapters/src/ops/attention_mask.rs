//! What is added to the scores of an attention, and which keys each query can see at all.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::attention::Sizes;
use super::rows;

/// A number in a mask that leaves nothing of a score: next to any other key its probability is exactly 0.
const HIDDEN: f32 = -1e37;

/// A mask of `f32` on the CPU, with the strides of batch, head and query.
#[derive(Debug)]
pub(super) struct Mask {
    numbers: Option<Tensor>,
    strides: [usize; 3],
    keys: usize,
    /// For each row of the mask the first key that is not hidden and the one behind the last.
    spans: Vec<(usize, usize)>,
}

impl Mask {
    /// `None` when its layout is one that only candle's operators know.
    pub(super) fn new(mask: Option<&Tensor>, sizes: Sizes) -> Result<Option<Self>> {
        let Some(mask) = mask else {
            return Ok(Some(Self {
                numbers: None,
                strides: [0; 3],
                keys: sizes.keys,
                spans: Vec::new(),
            }));
        };
        let mask = mask.detach().contiguous()?;
        if !rows::is_plain(&mask) || mask.dims().len() > 4 {
            return Ok(None);
        }
        let mut dims = [1; 4];
        let missing = 4 - mask.dims().len();
        for (to, from) in dims.iter_mut().skip(missing).zip(mask.dims()) {
            *to = *from;
        }
        let full = [sizes.batch, sizes.heads, sizes.queries, sizes.keys];
        let fits = dims
            .iter()
            .zip(full)
            .all(|(dim, full)| *dim == 1 || *dim == full);
        if !fits {
            candle_core::bail!("a mask of shape {:?} does not fit {full:?}", mask.dims());
        }
        if dims[3] != sizes.keys {
            return Ok(None);
        }
        let steps = [dims[1] * dims[2], dims[2], 1];
        let strides = std::array::from_fn(|i| if dims[i] == 1 { 0 } else { steps[i] });
        let spans = rows::with_slice(&mask, |numbers| {
            Ok(numbers.chunks(sizes.keys).map(span).collect())
        })?;
        Ok(Some(Self {
            numbers: Some(mask),
            strides,
            keys: sizes.keys,
            spans,
        }))
    }

    /// Whether every query sees every key, as far as the mask tells.
    pub(super) fn is_dense(&self) -> bool {
        self.spans.iter().all(|span| *span == (0, self.keys))
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(MaskView<'_>) -> Result<T>) -> Result<T> {
        let mask = self;
        match &self.numbers {
            Some(tensor) => rows::with_slice(tensor, |numbers| {
                let numbers = Some(numbers);
                read(MaskView { numbers, mask })
            }),
            None => read(MaskView {
                numbers: None,
                mask,
            }),
        }
    }
}

/// A query that sees nothing spreads its attention over all keys, as a softmax of equal numbers does.
fn span(row: &[f32]) -> (usize, usize) {
    let is_seen = |x: &f32| *x > HIDDEN;
    match (row.iter().position(is_seen), row.iter().rposition(is_seen)) {
        (Some(first), Some(last)) => (first, last + 1),
        _ => (0, row.len()),
    }
}

/// A mask whose numbers are at hand.
#[derive(Clone, Copy)]
pub(super) struct MaskView<'a> {
    numbers: Option<&'a [f32]>,
    mask: &'a Mask,
}

impl<'a> MaskView<'a> {
    /// The keys that this query of this head sees, and what is added to their scores.
    pub(super) fn row(
        &self,
        example: usize,
        head: usize,
        query: usize,
    ) -> (Range<usize>, Option<&'a [f32]>) {
        let keys = self.mask.keys;
        let [batch, heads, queries] = self.mask.strides;
        let row = example * batch + head * heads + query * queries;
        match (self.numbers, self.mask.spans.get(row)) {
            (Some(numbers), Some((start, end))) => {
                let row = &numbers[row * keys..][..keys];
                (*start..*end, Some(&row[*start..*end]))
            }
            _ => (0..keys, None),
        }
    }

    /// The keys that one of these queries sees.
    pub(super) fn span(&self, example: usize, head: usize, queries: Range<usize>) -> Range<usize> {
        let spans = queries.map(|query| self.row(example, head, query).0);
        let both = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        spans.reduce(both).unwrap_or(0..self.mask.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_span_holds_all_keys_that_are_seen() {
        let low = f32::MIN;
        assert_eq!(span(&[low, 0.0, low, -3.0, low]), (1, 4));
        assert_eq!(span(&[0.0, -1e9]), (0, 2)); // -1e9 may outlive a large score
        assert_eq!(span(&[low, low]), (0, 2));
        assert_eq!(span(&[low, f32::NAN, f32::NEG_INFINITY]), (0, 3));
    }
}
