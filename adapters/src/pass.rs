//! How a forward pass runs: for its value, for gradients, or for per-example directional derivatives.
//!
//! Layers deliver the gradients of their parameters to a tape that belongs to the pass, by parameter
//! index. Only activations travel through candle's graph, so no gradient of a frozen weight is ever
//! computed, and a layer may have any number of parameters.

use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ops::function1;
use crate::parameter::{Parameter, State};
use crate::prefix::Prefix;
use crate::tape::{Directions, Gradients, Tape};
use crate::variant::{Variant, by_copy};
use crate::{Error, Result};

/// How a forward pass runs. Passed to every layer.
#[derive(Debug)]
pub struct Pass {
    mode: Mode,
    /// Where it starts, if not with the inputs.
    start: Option<Start>,
    /// Keeps what enters each layer.
    record: Option<Prefix>,
}

/// Where a pass starts that does not start with the inputs: see [`Prefix`].
#[derive(Debug, Clone)]
pub struct Start {
    /// The first layer that it computes.
    pub layer: usize,
    /// What enters this layer.
    pub entering: Tensor,
    /// How many layers a whole pass has, with what stands for one behind them.
    pub layers: usize,
}

/// Which activations a training pass drops.
#[derive(Debug)]
struct Dropout {
    random: Mutex<ChaCha8Rng>,
    /// Rate of the base model's own, beside those that modules have.
    hidden: f64,
}

impl Dropout {
    fn new(seed: u64, hidden: f64) -> Box<Self> {
        Box::new(Self {
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            hidden,
        })
    }

    fn random(&self) -> MutexGuard<'_, ChaCha8Rng> {
        match self.random.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Another source of masks, at the same rate.
    fn seed(&self) -> Seed {
        Seed {
            seed: self.random().random(),
            hidden: self.hidden,
        }
    }
}

/// What makes the same [`Dropout`] again.
#[derive(Debug, Clone, Copy)]
struct Seed {
    seed: u64,
    hidden: f64,
}

impl Seed {
    fn dropout(self) -> Box<Dropout> {
        Dropout::new(self.seed, self.hidden)
    }
}

/// One part of a pass, to be run twice with the same dropout: for its value, and later with a graph.
#[derive(Debug)]
pub(crate) struct Twice {
    tape: Arc<Tape>,
    seed: Option<Seed>,
    directions: Option<Arc<Directions>>,
    record: Option<Prefix>,
}

impl Twice {
    /// A pass for the value alone.
    pub(crate) fn value(&self) -> Pass {
        let pass = match self.seed {
            Some(seed) => Pass::whole(Mode::Value(seed.dropout())),
            None => Pass::eval(),
        };
        Pass {
            record: self.record.clone(),
            ..pass
        }
    }

    /// A pass that delivers to the tape of the whole.
    pub(crate) fn graph(&self) -> Pass {
        let tape = self.tape.clone();
        Pass::whole(match &self.directions {
            Some(directions) => Mode::Measure {
                tape,
                directions: directions.clone(),
            },
            None => Mode::Train {
                tape,
                dropout: self.seed.map(Seed::dropout),
            },
        })
    }

    pub(crate) fn anchor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.tape.anchor(device)?.as_tensor().clone())
    }
}

#[derive(Debug)]
enum Mode {
    Eval,
    /// The value alone, each copy of the batch with a variant of its own.
    Variants(Vec<Variant>),
    /// The value alone, but with the dropout of a training pass.
    Value(Box<Dropout>),
    Train {
        tape: Arc<Tape>,
        dropout: Option<Box<Dropout>>,
    },
    Measure {
        tape: Arc<Tape>,
        directions: Arc<Directions>,
    },
}

/// What a layer must deliver for its parameters in the backward pass.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Gradients of the trainable parameters.
    Gradients(Arc<Tape>),
    /// Per-example derivatives along the directions.
    Tangents(Arc<Tape>, Arc<Directions>),
}

impl Wanted {
    pub(crate) fn tape(&self) -> &Tape {
        match self {
            Self::Gradients(tape) | Self::Tangents(tape, _) => tape,
        }
    }
}

impl Pass {
    /// A pass for the value alone: no graph, no dropout.
    pub const fn eval() -> Self {
        Self::whole(Mode::Eval)
    }

    /// A pass for gradients of the trainable parameters, with the modules' dropout masks drawn from `seed`.
    pub fn train(seed: u64) -> Self {
        Self::train_dropping(seed, 0.0)
    }

    /// The same, which drops activations of the base model too, at the rate `hidden`: see [`Pass::dropout`].
    pub fn train_dropping(seed: u64, hidden: f64) -> Self {
        Self::whole(Mode::Train {
            tape: Tape::new(),
            dropout: Some(Dropout::new(seed, hidden)),
        })
    }

    /// A pass for gradients of the trainable parameters without dropout, as in a measurement.
    pub fn gradients() -> Self {
        Self::whole(Mode::Train {
            tape: Tape::new(),
            dropout: None,
        })
    }

    /// A pass for derivatives along `directions`, one number per example and parameter. No dropout.
    pub fn measure(directions: Arc<Directions>) -> Self {
        Self::whole(Mode::Measure {
            tape: Tape::new(),
            directions,
        })
    }

    pub(crate) fn recording(self, prefix: Prefix) -> Self {
        Self {
            record: Some(prefix),
            ..self
        }
    }

    /// A pass for the value alone of a batch with one copy for each variant, one after the other: see [`Variant`].
    pub const fn variants(variants: Vec<Variant>) -> Self {
        Self::whole(Mode::Variants(variants))
    }

    /// The same pass from a layer on.
    pub fn starting(self, start: Start) -> Self {
        Self {
            start: Some(start),
            ..self
        }
    }

    const fn whole(mode: Mode) -> Self {
        Self {
            mode,
            start: None,
            record: None,
        }
    }

    /// The first layer that it computes, if it does not start with the inputs.
    pub fn first_layer(&self) -> Option<usize> {
        self.start.as_ref().map(|start| start.layer)
    }

    /// What enters the layers, from the inputs; in a pass that starts later, what enters the layer at which it starts, which the
    /// layers below hand on.
    ///
    /// # Errors
    /// Those of `embed`.
    pub fn before_layers<E>(
        &self,
        embed: impl FnOnce() -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Tensor, E> {
        match &self.start {
            Some(start) => Ok(start.entering.clone()),
            None => embed(),
        }
    }

    /// Runs layer `number`, counted from 0 without gaps, on what enters it: see [`Prefix`]. A last call, with the
    /// number of layers, stands for what comes behind them, up to the end of the pass.
    ///
    /// # Errors
    /// Those of `layer`.
    pub fn layer<E>(
        &self,
        number: usize,
        hidden: Tensor,
        layer: impl FnOnce(Tensor) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Tensor, E> {
        if let Some(record) = &self.record {
            record.note_entering(&hidden);
        }
        match &self.start {
            Some(start) if number < start.layer => Ok(hidden),
            Some(start) if number == start.layer => layer(start.entering.clone()),
            _ => layer(hidden),
        }
    }

    /// What the head's own layers get, made by `read` of what the layers before give. It counts as one more layer, behind which a pass
    /// that changes the head alone starts.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn features<E>(
        &self,
        hidden: Tensor,
        read: impl FnOnce(Tensor) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Tensor, E> {
        let number = match (&self.record, &self.start) {
            (Some(record), _) => record.noted(),
            // Of all that was recorded, this and its output are the last.
            (_, Some(start)) => start.layers.saturating_sub(2),
            (_, None) => return read(hidden),
        };
        let features = self.layer(number, hidden, read)?;
        self.layer(number + 1, features, Ok)
    }

    /// Runs the backward pass of a scalar that was computed in this pass, and returns what the layers
    /// delivered. May be called several times with different scalars of one forward pass.
    ///
    /// # Errors
    /// [`Error::NoGradient`] when the scalar depends on nothing that this pass tracks.
    pub fn backward(&self, scalar: &Tensor) -> Result<Gradients> {
        let (Mode::Train { tape, .. } | Mode::Measure { tape, .. }) = &self.mode else {
            return Err(Error::NoGradient);
        };
        if !scalar.track_op() {
            return Err(Error::NoGradient);
        }
        scalar.backward()?;
        Ok(tape.take())
    }

    /// Computes a layer with these parameters on inputs of (batch, …); in a pass of variants, on each copy of the batch whose variant
    /// changes one of them by itself.
    pub(crate) fn by_copy<'a, const N: usize>(
        &self,
        parameters: impl Iterator<Item = &'a Arc<Parameter>>,
        inputs: [&Tensor; N],
        compute: impl Fn([&Tensor; N]) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        match &self.mode {
            Mode::Variants(variants) => by_copy(variants, parameters, inputs, compute),
            _ => compute(inputs),
        }
    }

    /// What a layer with these parameters must deliver, or `None` when there is nothing to.
    pub(crate) fn wanted<'a>(
        &self,
        parameters: impl IntoIterator<Item = &'a Arc<Parameter>>,
    ) -> Option<Wanted> {
        let parameters: Vec<_> = parameters.into_iter().collect();
        if let Some(record) = &self.record {
            record.note_use(parameters.iter().copied());
        }
        match &self.mode {
            Mode::Eval | Mode::Value(_) | Mode::Variants(_) => None,
            Mode::Train { tape, .. } => parameters
                .into_iter()
                .any(|parameter| parameter.state() == State::Trainable)
                .then(|| Wanted::Gradients(tape.clone())),
            Mode::Measure { tape, directions } => parameters
                .into_iter()
                .any(|parameter| {
                    parameter.is_active() && directions.get(parameter.index()).is_some()
                })
                .then(|| Wanted::Tangents(tape.clone(), directions.clone())),
        }
    }

    /// The means to run a part of this pass twice; `None` when it needs no graph.
    pub(crate) fn twice(&self) -> Option<Twice> {
        match &self.mode {
            Mode::Eval | Mode::Value(_) | Mode::Variants(_) => None,
            Mode::Train { tape, dropout } => Some(Twice {
                tape: tape.clone(),
                seed: dropout.as_ref().map(|dropout| dropout.seed()),
                directions: None,
                record: self.record.clone(),
            }),
            Mode::Measure { tape, directions } => Some(Twice {
                tape: tape.clone(),
                seed: None,
                directions: Some(directions.clone()),
                record: self.record.clone(),
            }),
        }
    }

    /// Activations of the base model where it has its dropout (behind its embeddings, on what a block adds to the residual stream, before
    /// its head), dropped at the rate that the pass has for them; as they are in all other passes. Any shape, differentiable.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn dropout(&self, x: Tensor) -> candle_core::Result<Tensor> {
        let rate = self.drops().map_or(0.0, |dropout| dropout.hidden);
        let Some(mask) = self.dropout_mask(rate, &x)? else {
            return Ok(x);
        };
        let kept = (x.detach() * &mask)?;
        function1("dropout", &x, kept, move |gradient| gradient * &mask)
    }

    fn drops(&self) -> Option<&Dropout> {
        match &self.mode {
            Mode::Train { dropout, .. } => dropout.as_deref(),
            Mode::Value(dropout) => Some(dropout),
            Mode::Eval | Mode::Variants(_) | Mode::Measure { .. } => None,
        }
    }

    /// An inverted-dropout mask of zeros and `1 / (1 - rate)`, or `None` when nothing is dropped.
    pub(crate) fn dropout_mask(
        &self,
        rate: f64,
        like: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let Some(dropout) = self.drops() else {
            return Ok(None);
        };
        if rate <= 0.0 {
            return Ok(None);
        }
        if let Some(record) = &self.record {
            record.note_draw();
        }
        let keep = (1.0 / (1.0 - rate)) as f32;
        let mut random = dropout.random();
        let mask: Vec<f32> = (0..like.elem_count())
            .map(|_| {
                if f64::from(random.random::<f32>()) < rate {
                    0.0
                } else {
                    keep
                }
            })
            .collect();
        Tensor::from_vec(mask, like.shape(), &Device::Cpu)?
            .to_dtype(like.dtype())?
            .to_device(like.device())
            .map(Some)
    }
}
