//! What is learned: a network together with the loss of its task, as training, measuring and evaluating see it.
//!
//! The loss of a batch is `L = (1/N) Σ_s ℓ_s` over its examples `s`. For the Gauss-Newton matrix an example's loss
//! is a function of the network's outputs `z_s` with gradient `∂ℓ_s/∂z_s` and Hessian `H_s`:
//!
//! | targets | ℓ | ∂ℓ/∂z | H |
//! |---|---|---|---|
//! | a class | `log Σ exp z - z_y` | `p - y` | `diag p - p pᵀ` |
//! | C numbers | `Σ (z - y)² / C` | `2 (z - y) / C` | `2 I / C` |
//! | C flags | `Σ log(1 + e^z) - y z`, over C | `(σ(z) - y) / C` | `diag σ(1 - σ) / C` |
//!
//! as in `transformers` for each `problem_type`; of a language model every token is a class. The kind of the targets decides which it is.

mod heads;
mod language;

use std::fmt::Debug;

use autopeft_adapters::Pass;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

use crate::data::Batch;
use crate::error::Result;

/// A network with the loss of its task.
pub trait Objective: Debug + Send + Sync {
    /// Runs the network on a batch.
    ///
    /// # Errors
    /// When the inputs do not fit the network, the targets not its outputs, or a tensor operation fails.
    fn outcome<'a>(&'a self, batch: &'a Batch, pass: &Pass) -> Result<Box<dyn Outcome + 'a>>;

    /// The outputs of each example, targets or not: by them predictions are made, and two networks told apart.
    ///
    /// # Errors
    /// As for [`Objective::outcome`].
    fn outputs(&self, batch: &Batch) -> Result<Vec<Vec<f64>>>;
}

/// What a forward pass gave, seen through the loss.
pub trait Outcome {
    /// Mean loss, reduced in f64.
    fn loss(&self) -> f64 {
        self.losses(1).iter().sum()
    }

    /// The mean loss of each of the equal copies of which the batch is made ([`Batch::repeated`]).
    fn losses(&self, copies: usize) -> Vec<f64>;

    /// `N`, by which the sum of the examples' losses is divided.
    fn count(&self) -> f64;

    /// What is kept of each example for the measures of the task, in the order of the batch.
    fn answers(&self) -> Vec<Answer>;

    /// A scalar whose derivatives are those of the mean loss; its value may be another.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn scalar(&self) -> Result<Tensor>;

    /// The loss as a function of the outputs, when these are at most `most` (classes count once more, since one
    /// of them is the reference of the others).
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn exact(&self, most: usize) -> Result<Option<Local>>;

    /// A scalar `Σ_s v_sᵀ z_s` with random `v_s` such that `E v_s v_sᵀ = H_s`: for classes the gradient of the
    /// loss with a label that is drawn from the model.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn drawn(&self, random: &mut ChaCha8Rng) -> Result<Tensor>;
}

/// What a network says of one example.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The outputs of a head: logits, or numbers.
    Outputs(Vec<f64>),
    /// Of its predicted tokens.
    Tokens {
        /// Sum of their losses, in nats.
        loss: f64,
        /// How many they are.
        tokens: usize,
        /// How many of them were the likeliest.
        correct: usize,
    },
}

/// The loss of each example as a function of a few outputs.
#[derive(Debug)]
pub struct Local {
    /// For each output its sum over the examples, from whose backward pass each example's derivative comes.
    pub scalars: Vec<Tensor>,
    /// `∂ℓ_s/∂z_s`, by example and output.
    pub gradients: Vec<Vec<f64>>,
    /// `H_s`, by example.
    pub hessians: Vec<Hessian>,
}

/// The Hessian of an example's loss in its outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Hessian {
    /// `diag h`.
    Diagonal(Vec<f64>),
    /// `diag p - p pᵀ`.
    Softmax(Vec<f64>),
}
