//! One trainable tensor of an adapter.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::{DType, Result as CandleResult, Tensor};

use crate::kind::{Kind, Part};
use crate::ops::wide;
use crate::{Error, Result};

/// What happens to a parameter in a training pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets a gradient.
    Trainable,
    /// It is applied, but gets no gradient.
    Frozen,
    /// It is left out of the computation, as if it had never been attached.
    Dropped,
}

/// A named tensor that an optimizer may change. The value is replaced, never changed in place, so a
/// tensor that was read stays what it was.
///
/// Where its layer computes in half precision, the parameter itself is kept in `f32`: a step of 1e-3 would not change a
/// gain of 1 in `bf16`, whose next numbers are 4e-3 and 8e-3 away. What is near 0 at its start is read rounded by its
/// layer; a gain, an offset or the bias of a linear layer, which may be far from 0, as it is.
#[derive(Debug)]
pub struct Parameter {
    index: usize,
    module: String,
    kind: Kind,
    part: Part,
    value: RwLock<Held>,
    initial: Held,
    state: AtomicU8,
}

/// A value, and the same in the number type in which the layer computes.
#[derive(Debug, Clone)]
struct Held {
    value: Tensor,
    rounded: Tensor,
}

impl Held {
    fn new(value: &Tensor, computed_in: DType) -> CandleResult<Self> {
        let value = value.detach().to_dtype(wide(computed_in))?;
        let rounded = value.to_dtype(computed_in)?;
        Ok(Self { value, rounded })
    }
}

impl Parameter {
    /// `initial` has the number type in which the layer computes.
    pub(crate) fn new(
        index: usize,
        module: &str,
        kind: Kind,
        part: Part,
        initial: &Tensor,
        state: State,
    ) -> CandleResult<Self> {
        let initial = Held::new(initial, initial.dtype())?;
        Ok(Self {
            index,
            module: module.to_string(),
            kind,
            part,
            value: RwLock::new(initial.clone()),
            initial,
            state: AtomicU8::new(encode(state)),
        })
    }

    /// Position in the order of registration, from 0.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Path of the module it belongs to, as in the checkpoint, such as `bert.encoder.layer.0.attention.self.query`.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The kind of module it belongs to.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is within its module.
    pub const fn part(&self) -> Part {
        self.part
    }

    /// Unique name: module path, kind of part, and rank block, such as `….query.lora_A.0`.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Base => format!("{}.base.{}", self.module, self.part.name()),
            _ => format!("{}.{}", self.module, self.part.name()),
        }
    }

    /// Number of scalars.
    pub fn elem_count(&self) -> usize {
        self.initial.value.elem_count()
    }

    /// The present value, not tracked by autograd.
    pub fn value(&self) -> Tensor {
        self.held().value
    }

    /// The value as its layer computes with it.
    pub(crate) fn rounded(&self) -> Tensor {
        self.held().rounded
    }

    /// [`Parameter::initial`] as its layer computes with it.
    pub(crate) const fn rounded_initial(&self) -> &Tensor {
        &self.initial.rounded
    }

    fn held(&self) -> Held {
        match self.value.read() {
            Ok(value) => value.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// The value at attachment, at which the module changes no output (LoRA: `B = 0`).
    pub const fn initial(&self) -> &Tensor {
        &self.initial.value
    }

    /// Replaces the value.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape differs.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        if value.dims() != self.initial().dims() {
            return Err(Error::Shape {
                name: self.name(),
                expected: self.initial().dims().to_vec(),
                got: value.dims().to_vec(),
            });
        }
        self.hold(Held::new(value, self.initial.rounded.dtype())?);
        Ok(())
    }

    /// Puts the value back to [`Parameter::initial`].
    pub fn reset(&self) {
        self.hold(self.initial.clone());
    }

    fn hold(&self, value: Held) {
        match self.value.write() {
            Ok(mut guard) => *guard = value,
            Err(poisoned) => *poisoned.into_inner() = value,
        }
    }

    /// What happens to it in a training pass.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Trainable,
            1 => State::Frozen,
            _ => State::Dropped,
        }
    }

    /// Changes what happens to it in a training pass.
    pub fn set_state(&self, state: State) {
        self.state.store(encode(state), Ordering::Relaxed);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state() != State::Dropped
    }
}

const fn encode(state: State) -> u8 {
    match state {
        State::Trainable => 0,
        State::Frozen => 1,
        State::Dropped => 2,
    }
}
