//! A fixed matrix, kept in memory as it is stored (half precision, or quantized) and widened to the number type of
//! the computation each time it is used.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Result, Tensor};

use crate::ops::function1;

/// A fixed matrix, (out, in).
#[derive(Clone)]
pub enum FrozenWeight {
    /// Of any float type, also one narrower than that of the computation.
    Dense(Tensor),
    /// In blocks of a few bits for each number.
    Quantized(Arc<QTensor>),
}

impl std::fmt::Debug for FrozenWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense(tensor) => write!(f, "{:?} {:?}", tensor.dtype(), tensor.dims()),
            Self::Quantized(tensor) => write!(f, "{:?} {:?}", tensor.dtype(), tensor.shape()),
        }
    }
}

impl FrozenWeight {
    /// Number of rows and columns.
    ///
    /// # Errors
    /// When it is no matrix.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2(),
            Self::Quantized(tensor) => tensor.shape().dims2(),
        }
    }

    /// Its numbers as `dtype`, on the device where they are; no copy where they already have that type.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn widen(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.to_dtype(dtype),
            Self::Quantized(tensor) => tensor.dequantize(&tensor.device())?.to_dtype(dtype),
        }
    }

    /// Rows by number, `ids` (n), as `dtype`: (n, in). Not tracked.
    ///
    /// # Errors
    /// When a number is not below that of the rows.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => tensor.index_select(ids, 0)?.to_dtype(dtype),
            Self::Quantized(tensor) => tensor.embedding(ids)?.to_dtype(dtype),
        }
    }

    /// `x · Wᵀ`, (rows, in) to (rows, out), differentiable by `x`. The matrix gets no gradient: candle's own product
    /// would compute one for a constant too.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn project(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let value = x.detach().matmul(&self.widen(dtype)?.t()?)?;
        let weight = self.clone();
        function1("fixed-linear", x, value, move |gradient| {
            gradient.matmul(&weight.widen(dtype)?)
        })
    }
}
