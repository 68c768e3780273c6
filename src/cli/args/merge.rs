//! `autopeft merge`: one model of a base model and an adapter.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use candle_core::DType;
use clap::{Args, ValueEnum};

use super::common::{ModelArgs, Overrides, recipe_of};
use crate::pipeline::MergeOptions;
use crate::recipe::{Recipe, RecipeError};

/// Write the base model with the adapter of a result in its weights, as a folder that transformers and servers load like
/// any other model. LoRA, biases, norms and heads can be merged, bottleneck adapters cannot.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Examples:\n  autopeft merge out/ --out merged/\n  autopeft merge out/ --out merged/ --dtype bf16"
)]
pub struct MergeArgs {
    /// Folder that `autopeft select` or `autopeft transfer` wrote
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// Which base model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder of the merged model
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    pub out: PathBuf,
    /// Replace a result or a merged model that is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Number type of the weights (that of the base model's if not given)
    #[arg(long, help_heading = "Output", value_name = "TYPE")]
    pub dtype: Option<StoredType>,
    /// CPU threads (all cores if not given)
    #[arg(long, help_heading = "Compute", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// A number type in which models are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoredType {
    /// 32-bit floats
    F32,
    /// 16-bit IEEE floats
    F16,
    /// 16-bit brain floats
    Bf16,
}

impl MergeArgs {
    /// The result's recipe with the flags over it.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let mut overrides = Overrides::default();
        self.model.add_to(&mut overrides);
        recipe_of(&self.result, &overrides.finish(&[]))
    }

    /// How it is merged.
    pub fn options(&self) -> MergeOptions {
        MergeOptions {
            dtype: self.dtype.map(|dtype| match dtype {
                StoredType::F32 => DType::F32,
                StoredType::F16 => DType::F16,
                StoredType::Bf16 => DType::BF16,
            }),
            force: self.force,
        }
    }
}
