//! Which hidden states are read behind the last layer: all, or those at some places of the batch.
//!
//! Keys and values are needed of every token, so the last layer leaves out the others only behind its attention: of
//! its work five sixths and more, then the last norm, and the unembedding.

use autopeft_adapters::ops;
use candle_core::{Result, Tensor};

/// Places by row of the batch, each row with as many as the one that has most: derivatives by example need a batch
/// that is a rectangle. What fills it up is never read.
#[derive(Debug)]
pub(super) struct Reads {
    /// Among all tokens of the batch.
    tokens: Vec<u32>,
    /// Of those, the ones that were asked for.
    wanted: Vec<u32>,
}

impl Reads {
    /// Of places in a batch of `rows` rows of `length` tokens, ascending.
    ///
    /// # Errors
    /// When a place is not in the batch.
    pub(super) fn new(rows: usize, length: usize, places: &[u32]) -> Result<Self> {
        let mut by_row = vec![Vec::new(); rows];
        for place in places {
            match by_row.get_mut((*place as usize).checked_div(length).unwrap_or(rows)) {
                Some(row) => row.push(*place),
                None => {
                    candle_core::bail!("place {place} is not in {rows} rows of {length} tokens")
                }
            }
        }
        let width = by_row.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut tokens, mut wanted) = (Vec::with_capacity(rows * width), Vec::new());
        for (number, row) in by_row.iter().enumerate() {
            wanted.extend((0..row.len()).map(|at| (number * width + at) as u32));
            tokens.extend(row);
            let filler = (number * length) as u32;
            tokens.extend((row.len()..width).map(|_| filler));
        }
        Ok(Self { tokens, wanted })
    }

    /// What the places asked for have, (places, hidden), of what [`narrow`] gave.
    pub(super) fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, width, hidden) = x.dims3()?;
        let flat = ops::reshape(x, &[1, rows * width, hidden])?;
        let picked = match self.wanted.len() == rows * width {
            true => flat,
            false => ops::tokens_at(&flat, &self.wanted)?,
        };
        ops::reshape(&picked, &[self.wanted.len(), hidden])
    }
}

/// The input of a layer and what its attention gave, (batch, length, …), for the tokens that are read behind it.
pub(super) fn narrow(x: &Tensor, mixed: Tensor, reads: Option<&Reads>) -> Result<[Tensor; 2]> {
    Ok(match reads {
        Some(reads) => [
            ops::tokens_at(x, &reads.tokens)?,
            ops::tokens_at(&mixed, &reads.tokens)?,
        ],
        None => [x.clone(), mixed],
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_states_at_the_places_are_read_whatever_the_rows_have() {
        let x = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap();
        let x = x.reshape((3, 4, 2)).unwrap();
        for places in [vec![1u32, 2, 3, 9], vec![2, 4, 8], vec![11], vec![]] {
            let reads = Reads::new(3, 4, &places).unwrap();
            let [narrowed, _] = narrow(&x, x.clone(), Some(&reads)).unwrap();
            let most = if places.len() == 4 { 3 } else { 1 };
            assert_eq!(narrowed.dims(), [3, most, 2]);
            let rows: Vec<Vec<f32>> = reads.rows(&narrowed).unwrap().to_vec2().unwrap();
            let expected: Vec<Vec<f32>> = (places.iter())
                .map(|place| vec![2.0 * *place as f32, 2.0 * *place as f32 + 1.0])
                .collect();
            assert_eq!(rows, expected);
        }
        assert!(Reads::new(3, 4, &[12]).is_err());
    }
}
