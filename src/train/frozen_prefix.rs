//! What the layers below the lowest trained group give of each row, kept from its first batch on and not computed again.
//!
//! It is kept by row, without padding, since a row meets others in each epoch. What has dropout counts as trained, a frozen LoRA or the base
//! model: what it gives is drawn anew each time.

use std::collections::HashMap;
use std::sync::Arc;

use autopeft_adapters::{Parameter, Pass, Prefix, Start, State};
use candle_core::{Tensor, TensorId};

use crate::data::{Batch, Encoded, Targets};
use crate::error::Result;

/// The kept outputs, and for which parameters they hold.
#[derive(Debug, Clone, Default)]
pub(super) struct FrozenPrefix {
    /// Every parameter's state, and the value of those that are not trained.
    of: Vec<(State, Option<TensorId>)>,
    kept: Kept,
}

#[derive(Debug, Clone, Default)]
enum Kept {
    /// No batch was seen yet.
    #[default]
    Unknown,
    /// The lowest trained group is in the first layer or below.
    Nothing,
    /// What enters a layer by row, (tokens, hidden); behind the layers (hidden).
    Rows {
        layer: usize,
        layers: usize,
        entering: HashMap<usize, Tensor>,
    },
}

impl FrozenPrefix {
    /// A training pass of this batch: from the lowest trained layer on where all of its rows are known, else one whose record
    /// [`FrozenPrefix::keep`] takes.
    pub(super) fn pass(
        &mut self,
        parameters: &[Arc<Parameter>],
        batch: &Batch,
        seed: u64,
        dropout: f64,
    ) -> Result<(Pass, Option<Prefix>)> {
        let of: Vec<_> = parameters
            .iter()
            .map(|parameter| match parameter.state() {
                State::Frozen => (State::Frozen, Some(parameter.value().id())),
                state => (state, None),
            })
            .collect();
        if of != self.of {
            *self = Self {
                of,
                kept: Kept::Unknown,
            };
        }
        let pass = Pass::train_dropping(seed, dropout);
        match self.start(batch)? {
            Some(start) => Ok((pass.starting(start), None)),
            None if matches!(self.kept, Kept::Nothing) => Ok((pass, None)),
            None => {
                let record = Prefix::new();
                Ok((record.record_training(seed, dropout), Some(record)))
            }
        }
    }

    /// What the rows of this batch enter the lowest trained layer with, put together with their padding.
    fn start(&self, batch: &Batch) -> Result<Option<Start>> {
        let Kept::Rows {
            layer,
            layers,
            entering,
        } = &self.kept
        else {
            return Ok(None);
        };
        let rows: Option<Vec<&Tensor>> = batch.rows.iter().map(|row| entering.get(row)).collect();
        let Some(rows) = rows else {
            return Ok(None);
        };
        let length = batch.inputs.input_ids.dim(1)?;
        let padded = rows
            .into_iter()
            .map(|row| match row.rank() {
                1 => Ok(row.clone()),
                _ => row.pad_with_zeros(0, 0, length.saturating_sub(row.dim(0)?)),
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Some(Start {
            layer: *layer,
            entering: Tensor::stack(&padded, 0)?,
            layers: *layers,
        }))
    }

    /// Keeps what a pass recorded of the rows of its batch.
    pub(super) fn keep(
        &mut self,
        parameters: &[Arc<Parameter>],
        batch: &Batch,
        encoded: &Encoded,
        record: &Prefix,
    ) -> Result<()> {
        let trained = parameters
            .iter()
            .filter(|parameter| parameter.state() == State::Trainable);
        let shape = batch.inputs.input_ids.dims2()?;
        let has_rows = |start: &Start| match *start.entering.dims() {
            [rows, length, _] => (rows, length) == shape,
            // Of a language model these are the tokens with a label.
            [rows, _] => rows == shape.0 && !matches!(batch.targets, Some(Targets::Tokens(_))),
            _ => false,
        };
        let start = record.start(trained).filter(|start| start.layer > 0);
        let Some(start) = start.filter(has_rows) else {
            self.kept = Kept::Nothing;
            return Ok(());
        };
        if !matches!(&self.kept, Kept::Rows { layer, .. } if *layer == start.layer) {
            self.kept = Kept::Rows {
                layer: start.layer,
                layers: start.layers,
                entering: HashMap::new(),
            };
        }
        let Kept::Rows { entering, .. } = &mut self.kept else {
            return Ok(());
        };
        for (at, row) in batch.rows.iter().enumerate() {
            let mut own = start.entering.get(at)?;
            if own.rank() > 1 {
                let tokens = encoded.rows.get(*row).map_or(0, |row| row.input_ids.len());
                own = own.narrow(0, 0, tokens)?;
            }
            // A copy, so that the batch with its padding is not kept.
            entering.insert(*row, own.force_contiguous()?);
        }
        Ok(())
    }
}
