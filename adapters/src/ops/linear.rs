//! Products of row-major activations, (rows, features).

use candle_core::{DType, Result, Tensor};

/// `x · weightᵀ` over all leading dimensions: (…, in) by (out, in) gives (rows, out).
pub(crate) fn matmul_rows(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// Sum over the rows: (rows, n) to (n). A product with ones, since candle's strided sum is several
/// times slower on the CPU.
pub(crate) fn row_sum(x: &Tensor) -> Result<Tensor> {
    let (rows, _) = x.dims2()?;
    if !x.device().is_cpu() || !matches!(x.dtype(), DType::F32 | DType::F64) {
        return x.sum(0);
    }
    Tensor::ones((1, rows), x.dtype(), x.device())?
        .matmul(x)?
        .squeeze(0)
}
