//! The on-disk format of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A trimmed adapter becomes one `LORA` checkpoint: LoRA pairs of different ranks, some biases, some
//! norms and the head. The scale `alpha / r` is folded into `B` ([`LoraScale`]), so that `alpha_i = r_i` and engines
//! that ignore `alpha_pattern` still compute the same; [`LoraLayout`] is for those that know one rank. Checked against peft 0.13.2, 0.17.1 and 0.21.2.

mod config;
mod matching;
mod read;
mod write;

pub use config::{Patterns, PeftConfig, PeftType, TargetModules, TaskType};
pub(crate) use read::read;
pub use write::{LoraLayout, LoraScale, PeftOptions, PeftSummary, write};

/// Name of the folder within an export whose adapter is more than this checkpoint.
pub const FOLDER: &str = "peft";
/// Name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What every tensor name starts with.
pub const PREFIX: &str = "base_model.model.";
