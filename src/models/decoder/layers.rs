//! Where the matrices of a decoder come from, and how they stay in memory.

use autopeft_adapters::{Adapters, FrozenWeight, LayerNorm, Linear, LinearKind, RmsNorm};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::models::ModelError;

/// The maker of a decoder's layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) adapters: &'a Adapters,
    /// The type in which frozen matrices are kept.
    pub(super) storage: DType,
}

impl Layers<'_> {
    pub(super) fn linear(
        &self,
        in_features: usize,
        out_features: usize,
        bias: bool,
        vb: VarBuilder,
    ) -> Result<Linear, ModelError> {
        let weight = match self.storage == vb.dtype() {
            true => None,
            false => Some(self.matrix((out_features, in_features), &vb)?),
        };
        let kind = LinearKind {
            bias,
            weight,
            ..LinearKind::default()
        };
        Ok(self
            .adapters
            .linear_of(in_features, out_features, kind, vb)?)
    }

    /// A layer whose weight the checkpoint has as (in, out), with a bias.
    pub(super) fn transposed(
        &self,
        in_features: usize,
        out_features: usize,
        vb: VarBuilder,
    ) -> Result<Linear, ModelError> {
        let weight = match self.storage == vb.dtype() {
            true => None,
            false => {
                let stored = self.tensor((in_features, out_features), &vb)?;
                Some(FrozenWeight::Dense(stored.t()?.contiguous()?))
            }
        };
        let kind = LinearKind {
            transposed: true,
            weight,
            ..LinearKind::default()
        };
        Ok(self
            .adapters
            .linear_of(in_features, out_features, kind, vb)?)
    }

    /// A matrix that is never trained, (rows, columns), called `weight`.
    pub(super) fn matrix(
        &self,
        shape: (usize, usize),
        vb: &VarBuilder,
    ) -> Result<FrozenWeight, ModelError> {
        Ok(FrozenWeight::Dense(self.tensor(shape, vb)?))
    }

    fn tensor(&self, shape: (usize, usize), vb: &VarBuilder) -> Result<Tensor, ModelError> {
        Ok(vb.get_with_hints_dtype(shape, "weight", candle_nn::Init::Const(0.0), self.storage)?)
    }
}

/// The norm of a family.
#[derive(Debug, Clone)]
pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    pub(super) fn forward(
        &self,
        x: &Tensor,
        pass: &autopeft_adapters::Pass,
    ) -> Result<Tensor, ModelError> {
        Ok(match self {
            Self::Layer(norm) => norm.forward(x, pass)?,
            Self::Rms(norm) => norm.forward(x, pass)?,
        })
    }
}
