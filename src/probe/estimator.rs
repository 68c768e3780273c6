//! What a measurement of slope and curvature needs, and what it gives.
//!
//! Along the update direction `g` of the optimizer, with one rate `η_k` for each group,
//! `L(w - η∘g) - L(w) ≈ -ηᵀb + ½ ηᵀAη`, `b_k = G_(k)ᵀ g_(k)`, `A_ij = g_(i)ᵀ H_(ij) g_(j)`.
//! Source: Xu et al. 2025 (Hi-DLR), <https://arxiv.org/abs/2501.06954>.

use std::sync::Arc;

use autopeft_adapters::{Directions, Gradients, Pass, Variant};
use candle_core::{DType, Tensor};

use super::influence::Curvature;
use super::rates::StepLosses;
use crate::data::Batch;
use crate::error::Result;
use crate::groups::Group;
use crate::task::Objective;

/// Slope and curvature of K groups at one point of the training.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// `b_k`, in loss per unit rate; positive where a step along the direction lowers the loss.
    pub slope: Vec<f64>,
    /// `A`, in loss per unit rate squared.
    pub curvature: Curvature,
    /// Mean loss of the measuring batch.
    pub loss: f64,
    /// Difference of two evaluations of the loss at the same point: the noise floor.
    pub noise: f64,
    /// How well a parabola fits, by group; only for an estimator that fits one.
    pub fit: Option<Vec<f64>>,
}

/// Where a measurement is taken.
#[derive(Debug)]
pub struct Point<'a> {
    /// The model, at its present parameters.
    pub model: &'a dyn Objective,
    /// The measuring batch: other rows than those whose gradient made the direction.
    pub batch: &'a Batch,
    /// The groups to measure.
    pub groups: &'a [&'a Group],
    /// The update direction of every parameter of these groups.
    pub directions: &'a Arc<Directions>,
    /// Present learning rate of each group.
    pub rates: &'a [f64],
    /// Number of the training step; seeds what an estimator draws.
    pub step: usize,
}

/// Measures slope and curvature of all groups at one point. The parameters are the same afterwards.
pub trait Estimator: Send {
    /// Name, as in a recipe.
    fn name(&self) -> &'static str;

    /// One measurement.
    ///
    /// # Errors
    /// When the model cannot be evaluated.
    fn measure(&mut self, point: &Point<'_>) -> Result<Estimate>;
}

impl Point<'_> {
    /// Mean loss of the measuring batch at the present parameters, reduced in f64.
    pub(super) fn loss(&self) -> Result<f64> {
        self.loss_of(&Pass::eval())
    }

    /// The same in a pass for the value alone.
    pub(super) fn loss_of(&self, pass: &Pass) -> Result<f64> {
        Ok(self.model.outcome(self.batch, pass)?.loss())
    }

    /// Gradients of the mean loss at the present parameters, dropout off.
    pub(super) fn gradients(&self) -> Result<(f64, Gradients)> {
        let pass = Pass::gradients();
        let outcome = self.model.outcome(self.batch, &pass)?;
        let gradients = pass.backward(&outcome.scalar()?)?;
        Ok((outcome.loss(), gradients))
    }

    /// `G_(k)ᵀ g_(k)` for each group, in f64.
    pub(super) fn slopes(&self, gradients: &Gradients) -> Result<Vec<f64>> {
        self.groups
            .iter()
            .map(|group| {
                let mut sum = 0.0;
                for parameter in &group.parameters {
                    let index = parameter.index();
                    if let (Some(gradient), Some(direction)) =
                        (gradients.get(index), self.directions.get(index))
                    {
                        sum += dot(gradient, direction)?;
                    }
                }
                Ok(sum)
            })
            .collect()
    }

    /// The parameters with every group moved by its factor along its direction, `w + factor_k g_(k)`.
    pub(super) fn moved(&self, factors: &[f64]) -> Result<Variant> {
        let mut variant = Variant::default();
        for (group, factor) in self.groups.iter().zip(factors) {
            if *factor == 0.0 {
                continue;
            }
            for parameter in &group.parameters {
                if let Some(direction) = self.directions.get(parameter.index()) {
                    variant.insert(parameter, (parameter.value() + (direction * *factor)?)?);
                }
            }
        }
        Ok(variant)
    }

    /// Losses along the step that all groups would take together at their present rates.
    pub(super) fn along_the_step(&self, here: f64) -> Result<StepLosses> {
        let at = |sign: f64| {
            let factors: Vec<f64> = self.rates.iter().map(|rate| sign * rate).collect();
            let _applied = self.moved(&factors)?.apply()?;
            self.loss()
        };
        Ok(StepLosses {
            back: at(1.0)?,
            here,
            ahead: at(-1.0)?,
        })
    }

    /// Norm of the parameters of the groups, and of their directions.
    pub(super) fn norms(&self) -> Result<(f64, f64)> {
        let (mut values, mut directions) = (0.0, 0.0);
        for parameter in self.groups.iter().flat_map(|group| &group.parameters) {
            if let Some(direction) = self.directions.get(parameter.index()) {
                let value = parameter.value();
                values += dot(&value, &value)?;
                directions += dot(direction, direction)?;
            }
        }
        Ok((values.sqrt(), directions.sqrt()))
    }
}

/// Inner product of two tensors of one shape, accumulated in f64.
pub(super) fn dot(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let product = (a.to_dtype(DType::F64)? * b.to_dtype(DType::F64)?)?;
    product.sum_all()?.to_scalar()
}
