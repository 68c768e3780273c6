//! What all layers share in one pass: where each token is, and which others it sees.

use candle_core::{DType, Device, Tensor};

use super::DecoderConfig;
use crate::models::{Inputs, ModelError};

/// Angles and masks of one batch.
#[derive(Debug)]
pub(super) struct Context {
    /// Position of each token within its passage, (rows or 1, length).
    pub(super) positions: Vec<Vec<u32>>,
    /// Cosine and sine for each of [`DecoderConfig::ropes`].
    pub(super) ropes: Vec<(Tensor, Tensor)>,
    /// By window; what is added to the scores, (rows or 1, 1, length, keys).
    masks: Vec<(Option<usize>, Option<Tensor>)>,
}

/// What one row of a batch says of its tokens: passage, and whether it is a token at all.
type Row = Vec<(u32, bool)>;

impl Context {
    /// Of a whole batch. Positions count all places, padding too, as in `transformers`, and start anew in each passage.
    pub(super) fn of_batch(
        config: &DecoderConfig,
        inputs: &Inputs,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let mask = inputs.attention_mask.to_vec2::<u32>()?;
        let segments = inputs.segment_rows()?;
        let mut rows: Vec<Row> = match segments {
            Some(segments) => (segments.into_iter().zip(&mask))
                .map(|(segments, mask)| {
                    let real = mask.iter().map(|real| *real != 0);
                    segments.into_iter().zip(real).collect()
                })
                .collect(),
            None => (mask.iter())
                .map(|mask| mask.iter().map(|real| (0, *real != 0)).collect())
                .collect(),
        };
        // One row serves a batch of equal ones.
        if rows.iter().zip(rows.iter().skip(1)).all(|(a, b)| a == b) {
            rows.truncate(1);
        }
        let positions = rows.iter().map(positions).collect();
        Self::new(
            config,
            &rows,
            positions,
            0,
            dtype,
            inputs.input_ids.device(),
        )
    }

    /// Of `length` tokens behind `past` others, of one sequence.
    pub(super) fn of_next(
        config: &DecoderConfig,
        past: usize,
        length: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let rows = [vec![(0, true); past + length]];
        let positions = vec![(past..past + length).map(|p| p as u32).collect()];
        Self::new(config, &rows, positions, past, dtype, device)
    }

    fn new(
        config: &DecoderConfig,
        rows: &[Row],
        positions: Vec<Vec<u32>>,
        past: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let ropes = (config.ropes.iter())
            .map(|rope| rope.angles(&positions, dtype, device))
            .collect::<candle_core::Result<_>>()?;
        let mut masks: Vec<(Option<usize>, Option<Tensor>)> = Vec::new();
        for layer in &config.layers {
            if masks.iter().all(|(window, _)| *window != layer.window) {
                masks.push((layer.window, mask(rows, past, layer.window, dtype, device)?));
            }
        }
        Ok(Self {
            positions,
            ropes,
            masks,
        })
    }

    pub(super) fn mask(&self, window: Option<usize>) -> Option<&Tensor> {
        let found = self.masks.iter().find(|(known, _)| *known == window);
        found.and_then(|(_, mask)| mask.as_ref())
    }
}

fn positions(row: &Row) -> Vec<u32> {
    let mut positions: Vec<u32> = Vec::with_capacity(row.len());
    let mut before = None;
    for (segment, _) in row {
        let next = match (before, positions.last()) {
            (Some(before), Some(position)) if before == *segment => position + 1,
            _ => 0,
        };
        positions.push(next);
        before = Some(*segment);
    }
    positions
}

/// The type's lowest number where a token may not look: later, padding, too far back, or in another passage. `None`
/// when every token sees all.
fn mask(
    rows: &[Row],
    past: usize,
    window: Option<usize>,
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    let keys = rows.first().map_or(0, Vec::len);
    let lowest = match dtype {
        DType::F16 => -65504.0,
        DType::BF16 => f32::MIN * 0.99,
        _ => f32::MIN,
    };
    let mut numbers = Vec::with_capacity(rows.len() * (keys - past) * keys);
    for row in rows {
        for (at, (own, _)) in row.iter().enumerate().skip(past) {
            numbers.extend(row.iter().enumerate().map(|(key, (segment, real))| {
                let near = window.is_none_or(|window| at < key + window);
                if key <= at && near && *real && segment == own {
                    0.0
                } else {
                    lowest
                }
            }));
        }
    }
    if numbers.iter().all(|number| *number == 0.0) {
        return Ok(None);
    }
    Tensor::from_vec(numbers, (rows.len(), 1, keys - past, keys), &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)
        .map(Some)
}
