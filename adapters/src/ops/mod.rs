//! Differentiable operations, one per sub-layer.
//!
//! Each is computed by candle's own operators on any device, and by a fused loop for `f32` on the CPU
//! where that was measured to be worth it. Tests hold both to the same numbers and to finite
//! differences.

mod activation;
mod attention;
mod cross_entropy;
mod function;
mod grouped_attention;
mod layer_norm;
mod linear;
mod rms_norm;
mod rope;
mod rows;
mod sliced_cross_entropy;

pub(crate) use activation::apply as activate;
pub use activation::{gelu, multiply, relu, silu, softcap, tanh};
pub use attention::{Attention, attention};
pub use cross_entropy::cross_entropy;
pub(crate) use function::{function1, function2};
pub use grouped_attention::{GroupedAttention, grouped_attention};
pub(crate) use layer_norm::{input_gradient as norm_input_gradient, layer_norm, normalised};
pub(crate) use linear::{matmul_rows, row_sum};
pub(crate) use rms_norm::rms_norm;
pub use rope::rope;
pub use sliced_cross_entropy::{SlicedLoss, TokenLabels, sliced_cross_entropy};
