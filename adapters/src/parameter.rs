//! One trainable tensor of an adapter.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::Tensor;

use crate::kind::{Kind, Part};
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
#[derive(Debug)]
pub struct Parameter {
    index: usize,
    module: String,
    kind: Kind,
    part: Part,
    value: RwLock<Tensor>,
    initial: Tensor,
    state: AtomicU8,
}

impl Parameter {
    pub(crate) fn new(
        index: usize,
        module: &str,
        kind: Kind,
        part: Part,
        initial: Tensor,
        state: State,
    ) -> Self {
        Self {
            index,
            module: module.to_string(),
            kind,
            part,
            value: RwLock::new(initial.clone()),
            initial,
            state: AtomicU8::new(encode(state)),
        }
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
        self.initial.elem_count()
    }

    /// The present value, not tracked by autograd.
    pub fn value(&self) -> Tensor {
        match self.value.read() {
            Ok(value) => value.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// The value at attachment, at which the module changes no output (LoRA: `B = 0`).
    pub const fn initial(&self) -> &Tensor {
        &self.initial
    }

    /// Replaces the value.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shape differs.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        if value.dims() != self.initial.dims() {
            return Err(Error::Shape {
                name: self.name(),
                expected: self.initial.dims().to_vec(),
                got: value.dims().to_vec(),
            });
        }
        let value = value.detach();
        match self.value.write() {
            Ok(mut guard) => *guard = value,
            Err(poisoned) => *poisoned.into_inner() = value,
        }
        Ok(())
    }

    /// Puts the value back to [`Parameter::initial`].
    pub fn reset(&self) {
        match self.value.write() {
            Ok(mut guard) => *guard = self.initial.clone(),
            Err(poisoned) => *poisoned.into_inner() = self.initial.clone(),
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
