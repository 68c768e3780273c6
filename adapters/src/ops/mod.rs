//! Differentiable operations, one per sub-layer.
//!
//! Each is computed by candle's own operators on any device, and by a fused loop for `f32` on the CPU
//! where that was measured to be worth it. Tests hold both to the same numbers and to finite
//! differences.

mod activation;
mod attention;
mod attention_mask;
mod cross_entropy;
mod function;
mod fused_attention;
mod gemm;
mod layer_norm;
mod linear;
mod rope;
mod rows;
mod scope;
mod sliced_cross_entropy;
mod thin;
mod tokens;
mod vector;

use candle_core::DType;

pub(crate) use activation::apply as activate;
pub use activation::{
    gelu, gelu_tanh, gelu_tanh_gate, multiply, relu, silu, silu_gate, softcap, tanh,
};
pub use attention::{Attention, attention};
pub use cross_entropy::cross_entropy;
pub(crate) use function::{function1, function2, function3};
pub(crate) use gemm::{blas, time_of_product};
pub(crate) use layer_norm::{
    Norm, NormOutput, gain_gradient, input_gradient as norm_input_gradient, normalise,
};
pub(crate) use linear::{Beside, Way, affine, gather, matmul_rows, project, row_sum};
pub use rope::rope;
pub(crate) use rows::is_plain;
#[cfg(test)]
pub(crate) use scope::noted;
pub use scope::scope;
pub(crate) use scope::{is_tracked, suspended};
pub use sliced_cross_entropy::{SlicedLoss, TokenLabels, Unembedding, sliced_cross_entropy};
pub use tokens::{add, features, first_token, mean_tokens, reshape, tokens_at};

/// The number type of what half precision is too coarse for where layers compute in `dtype`: parameters with their gradients and
/// directions, norms and losses.
pub(crate) const fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        dtype => dtype,
    }
}
