//! Where the matrices of a decoder come from, and how they stay in memory.

use autopeft_adapters::{Adapters, FrozenWeight, LayerNorm, Linear, LinearKind, RmsNorm};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::models::ModelError;
use crate::models::checkpoint::Checkpoint;

/// The maker of a decoder's layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) adapters: &'a Adapters,
    /// The type in which frozen matrices are kept.
    pub(super) storage: DType,
    /// Where matrices may lie in blocks, which are kept as they are.
    pub(super) blocks: Option<&'a Checkpoint>,
}

impl Layers<'_> {
    pub(super) fn linear(
        &self,
        in_features: usize,
        out_features: usize,
        bias: bool,
        vb: VarBuilder,
    ) -> Result<Linear, ModelError> {
        let weight = match self.in_blocks((out_features, in_features), &vb)? {
            None if self.storage == vb.dtype() => None,
            None => Some(FrozenWeight::Dense(
                self.tensor((out_features, in_features), &vb)?,
            )),
            blocks => blocks,
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
        let weight = match self.in_blocks((out_features, in_features), &vb)? {
            None if self.storage == vb.dtype() => None,
            None => {
                let stored = self.tensor((in_features, out_features), &vb)?;
                Some(FrozenWeight::Dense(stored.t()?.contiguous()?))
            }
            blocks => blocks,
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
        match self.in_blocks(shape, vb)? {
            Some(blocks) => Ok(blocks),
            None => Ok(FrozenWeight::Dense(self.tensor(shape, vb)?)),
        }
    }

    fn in_blocks(
        &self,
        shape: (usize, usize),
        vb: &VarBuilder,
    ) -> Result<Option<FrozenWeight>, ModelError> {
        let Some(checkpoint) = self.blocks else {
            return Ok(None);
        };
        let name = format!("{}.weight", vb.prefix());
        Ok(checkpoint.matrix(&name, shape, vb.device())?)
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
