//! What goes into a backward pass beside the loss, and what the layers deliver in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use candle_core::{DType, Device, Tensor, Var};

use crate::Result;
use crate::ops::wide;
use crate::parameter::Parameter;

/// A direction in parameter space: one tensor per parameter index, of that parameter's shape.
#[derive(Debug, Clone, Default)]
pub struct Directions(HashMap<usize, Tensor>);

impl Directions {
    /// Sets the direction of the parameter with this index.
    pub fn insert(&mut self, index: usize, direction: Tensor) {
        self.0.insert(index, direction);
    }

    /// The direction of the parameter with this index, if it is to be measured.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(&index)
    }

    /// The direction of a parameter in the number type in which its layer computes.
    pub(crate) fn of(
        &self,
        parameter: &Parameter,
        dtype: DType,
    ) -> candle_core::Result<Option<Tensor>> {
        let direction = self.get(parameter.index());
        direction
            .map(|direction| direction.to_dtype(dtype))
            .transpose()
    }
}

impl FromIterator<(usize, Tensor)> for Directions {
    fn from_iter<I: IntoIterator<Item = (usize, Tensor)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// What a backward pass delivered, by parameter index: gradients with the parameter's shape after
/// [`train`](crate::Pass::train); directional derivatives of shape (batch) after [`measure`](crate::Pass::measure).
#[derive(Debug, Default)]
pub struct Gradients(HashMap<usize, Tensor>);

impl Gradients {
    /// The entry of the parameter with this index, if the backward pass reached it.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(&index)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was delivered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds another set of gradients, as in accumulation over micro-batches.
    ///
    /// # Errors
    /// When the shapes of an entry differ.
    pub fn accumulate(&mut self, other: Self) -> Result<()> {
        for (index, gradient) in other.0 {
            add(&mut self.0, index, gradient)?;
        }
        Ok(())
    }

    /// Multiplies every entry.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.0.values_mut() {
            *gradient = (&*gradient * factor)?;
        }
        Ok(())
    }
}

fn add(
    entries: &mut HashMap<usize, Tensor>,
    index: usize,
    gradient: Tensor,
) -> candle_core::Result<()> {
    let sum = match entries.remove(&index) {
        Some(before) => (before + gradient)?,
        None => gradient,
    };
    entries.insert(index, sum);
    Ok(())
}

/// Collects what the layers deliver during a backward pass.
#[derive(Debug)]
pub(crate) struct Tape {
    /// A dummy variable: an operation that takes it as an input is part of the graph even where its
    /// activation input is not (the lowest trainable layer).
    anchor: OnceLock<Var>,
    delivered: Mutex<HashMap<usize, Tensor>>,
}

impl Tape {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            anchor: OnceLock::new(),
            delivered: Mutex::new(HashMap::new()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Tensor>> {
        match self.delivered.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    pub(crate) fn anchor(&self, device: &Device) -> candle_core::Result<&Var> {
        match self.anchor.get() {
            Some(anchor) => Ok(anchor),
            None => {
                let anchor = Var::zeros(1, DType::F32, device)?;
                Ok(self.anchor.get_or_init(|| anchor))
            }
        }
    }

    pub(crate) fn deliver(&self, index: usize, gradient: Tensor) -> candle_core::Result<()> {
        let gradient = gradient.to_dtype(wide(gradient.dtype()))?;
        add(&mut self.lock(), index, gradient)
    }

    /// What was delivered since the last call.
    pub(crate) fn take(&self) -> Gradients {
        Gradients(std::mem::take(&mut *self.lock()))
    }
}
