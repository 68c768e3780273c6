//! What a forward pass computed below each layer, so that a pass with other parameters from some layer on starts there.
//!
//! A model runs its layers through [`Pass::layer`]. A pass of [`Prefix::record`] keeps what enters each of them, and
//! where each parameter is used first; one of [`Prefix::resume`] or [`Prefix::resume_training`] computes nothing below that
//! place. A model that does not do so, or a parameter that is used before the layers, costs a whole pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::pass::{Pass, Start};
use crate::{Parameter, Result, Variant};

/// The record of one forward pass.
#[derive(Debug, Clone, Default)]
pub struct Prefix(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    /// What enters layer 0, 1, …; the last one is what leaves the layers.
    /// `None` where it was forgotten.
    entering: Vec<Option<Tensor>>,
    /// The layer in which a parameter is used first, by its index. `None`: before the layers.
    first_use: HashMap<usize, Option<usize>>,
    /// The first layer that draws a dropout mask, likewise: what it gives is another thing in each pass.
    first_draw: Option<Option<usize>>,
}

impl Record {
    /// The lowest layer that uses one of these, or draws; `None` when that lies below the layers.
    fn lowest<'a>(
        &self,
        parameters: impl IntoIterator<Item = &'a Arc<Parameter>>,
    ) -> Option<usize> {
        let mut lowest = self.entering.len().checked_sub(1);
        for parameter in parameters {
            let layer = self.first_use.get(&parameter.index()).copied().flatten();
            lowest = lowest.min(layer); // `None` is less than any layer
        }
        self.first_draw.map_or(lowest, |layer| lowest.min(layer))
    }
}

impl Prefix {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pass for the value alone that fills this record, from its start.
    pub fn record(&self) -> Pass {
        self.filled_by(Pass::eval())
    }

    /// The same for gradients, with dropout as in [`Pass::train_dropping`].
    pub fn record_training(&self, seed: u64, hidden: f64) -> Pass {
        self.filled_by(Pass::train_dropping(seed, hidden))
    }

    fn filled_by(&self, pass: Pass) -> Pass {
        *self.lock() = Record::default();
        pass.recording(self.clone())
    }

    /// Keeps of what enters the layers only that from which a pass with these parameters changed starts.
    pub fn keep_for<'a>(&self, changed: impl IntoIterator<Item = &'a Arc<Parameter>>) {
        let mut record = self.lock();
        let start = record.lowest(changed);
        for (layer, entering) in record.entering.iter_mut().enumerate() {
            if Some(layer) != start {
                *entering = None;
            }
        }
    }

    /// A pass for the value alone, with the same inputs and with parameters that differ from those of the record in
    /// `changed` at most: it starts at the lowest layer that uses one of them.
    pub fn resume<'a>(&self, changed: impl IntoIterator<Item = &'a Arc<Parameter>>) -> Pass {
        self.start_of(Pass::eval(), changed)
    }

    /// The same for gradients, with dropout masks drawn from `seed`; no other parameter may be trainable.
    pub fn resume_training<'a>(
        &self,
        seed: u64,
        changed: impl IntoIterator<Item = &'a Arc<Parameter>>,
    ) -> Pass {
        self.start_of(Pass::train(seed), changed)
    }

    /// The same for several variants, with the inputs of the record once for each, one copy after the other.
    ///
    /// # Errors
    /// When what enters the first layer cannot be copied.
    pub fn resume_variants(&self, variants: Vec<Variant>) -> Result<Pass> {
        let mut start = self.start(variants.iter().flat_map(Variant::parameters));
        if let Some(Start { entering, .. }) = &mut start {
            *entering = Tensor::cat(&vec![&*entering; variants.len()], 0)?;
        }
        let pass = Pass::variants(variants);
        Ok(match start {
            Some(start) => pass.starting(start),
            None => pass,
        })
    }

    /// Where a pass with these parameters changed starts: the lowest layer that uses one of them. `None` when that lies below the
    /// layers, or what enters it was forgotten.
    pub fn start<'a>(
        &self,
        changed: impl IntoIterator<Item = &'a Arc<Parameter>>,
    ) -> Option<Start> {
        let record = self.lock();
        let layer = record.lowest(changed)?;
        Some(Start {
            layer,
            entering: record.entering.get(layer).cloned().flatten()?,
            layers: record.entering.len(),
        })
    }

    /// Layers of which a pass with these parameters changed computes nothing.
    pub fn layers_below<'a>(&self, changed: impl IntoIterator<Item = &'a Arc<Parameter>>) -> usize {
        self.start(changed).map_or(0, |start| start.layer)
    }

    fn start_of<'a>(
        &self,
        pass: Pass,
        changed: impl IntoIterator<Item = &'a Arc<Parameter>>,
    ) -> Pass {
        match self.start(changed) {
            Some(start) => pass.starting(start),
            None => pass,
        }
    }

    pub(crate) fn note_use<'a>(&self, parameters: impl IntoIterator<Item = &'a Arc<Parameter>>) {
        let mut record = self.lock();
        let layer = record.entering.len().checked_sub(1);
        for parameter in parameters {
            record.first_use.entry(parameter.index()).or_insert(layer);
        }
    }

    pub(crate) fn note_draw(&self) {
        let mut record = self.lock();
        let layer = record.entering.len().checked_sub(1);
        record.first_draw.get_or_insert(layer);
    }

    pub(crate) fn note_entering(&self, hidden: &Tensor) {
        self.lock().entering.push(Some(hidden.detach()));
    }

    /// How many layers were noted.
    pub(crate) fn noted(&self) -> usize {
        self.lock().entering.len()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A record is replaced or appended to: it is whole also when a holder of the lock panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
