//! What every run that writes a result may be told.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::common::{ColumnArgs, ComputeArgs, ModelArgs, OverrideArgs, Overrides};
use crate::recipe::Target;

/// Model, rows, recipe, device and output of a run.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Which base model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Training rows: a JSONL, CSV, TSV or Parquet file
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: Option<String>,
    /// Held-out rows; a share of the training rows is cut off if not given
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub validation: Option<String>,
    /// Which columns.
    #[command(flatten)]
    pub columns: ColumnArgs,

    /// An embedded recipe, or a YAML file
    #[arg(long, help_heading = "Recipe", value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// Training steps in all, the probe's included
    #[arg(long, help_heading = "Recipe", value_name = "N")]
    pub steps: Option<usize>,
    /// Language models: keep only the input of each layer, and compute the layer again for its gradient
    #[arg(long, help_heading = "Compute")]
    pub checkpointing: bool,
    /// Seed of every random draw
    #[arg(long, help_heading = "Recipe", value_name = "N")]
    pub seed: Option<u64>,
    /// Any key.
    #[command(flatten)]
    pub set: OverrideArgs,

    /// Where and how to compute.
    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Who shall load the result; restricts the modules from the start
    #[arg(long, help_heading = "Output", value_parser = PossibleValuesParser::new(Target::WORDS))]
    pub target: Option<String>,
    /// Folder of the result; a fresh numbered folder under runs/ if not given
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace a result that is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

impl RunArgs {
    /// All but `--set`, which has the last word.
    pub(super) fn add_to(&self, overrides: &mut Overrides) {
        self.model.add_to(overrides);
        overrides.text("data.train", "--data", self.data.as_ref());
        overrides.text("data.validation", "--validation", self.validation.as_ref());
        self.columns.add_to(overrides);
        overrides.set("export.target", "--target", self.target.as_ref());
        overrides.set("train.steps", "--steps", self.steps.as_ref());
        overrides.set("seed", "--seed", self.seed.as_ref());
        self.compute.add_to(overrides);
        overrides.switch("train.checkpointing", "--checkpointing", self.checkpointing);
        overrides.switch("export.force", "--force", self.force);
    }
}
