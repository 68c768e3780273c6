//! Parameter-efficient fine-tuning (PEFT) modules for [candle](https://github.com/huggingface/candle):
//! LoRA, biases, norms, bottleneck adapters and task heads, with gradients and per-example
//! directional derivatives, the file formats of Hugging Face PEFT and AdapterHub, and merging.
//!
//! A model asks [`Adapters`] for its layers instead of `candle_nn`. The same model file then serves
//! three uses: an empty configuration is the base model, a [`Superset`] is what a search trains, and
//! [`Adapters::load`] is inference with an exported adapter.
//!
//! ```
//! use autopeft_adapters::{Adapters, Pass};
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::VarBuilder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let weights = VarBuilder::zeros(DType::F32, &Device::Cpu);
//! let adapters = Adapters::none();
//! let query = adapters.linear(4, 3, weights.pp("encoder.layer.0.query"))?;
//! let output = query.forward(&Tensor::ones((2, 4), DType::F32, &Device::Cpu)?, &Pass::eval())?;
//! assert_eq!(output.dims(), &[2, 3]);
//! # Ok(())
//! # }
//! ```

pub mod adapterhub;
mod adapters;
mod bottleneck;
mod checkpoint;
mod error;
mod files;
mod frozen;
pub mod hardware;
mod kind;
mod linear;
mod merge;
mod norm;
pub mod ops;
mod parameter;
mod pass;
pub mod peft;
mod plan;
mod prefix;
mod tape;
mod variant;

pub use adapters::{Adapters, LinearKind};
pub use bottleneck::{Bottleneck, Place};
pub use checkpoint::{Block, checkpoint};
pub use error::{Error, Result};
pub use frozen::FrozenWeight;
pub use kind::{Kind, Part};
pub use linear::Linear;
pub use merge::{Mergeable, merged_var_builder};
pub use norm::{LayerNorm, RmsNorm};
pub use parameter::{Parameter, State};
pub use pass::{Pass, Start};
pub use plan::{
    Activation, BottleneckPlan, BottleneckStyle, LoraPlan, LoraTargets, ModulePlan, Site,
    SiteShape, Superset,
};
pub use prefix::Prefix;
pub use tape::{Directions, Gradients};
pub use variant::{Applied, Variant};
