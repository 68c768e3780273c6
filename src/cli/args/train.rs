//! `autopeft train`: train a trimmed adapter to the end.

use std::path::PathBuf;

use clap::Args;

use super::common::{ColumnArgs, ComputeArgs, ModelArgs, OverrideArgs, Overrides};
use crate::recipe::{Override, Recipe, RecipeError};

/// Train the trimmed adapter of a run, with the run's own recipe.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  autopeft train out/ --data train.jsonl --epochs 5")]
pub struct TrainArgs {
    /// Folder that `autopeft select` wrote
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Which base model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Training rows (those of the run if not given)
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub data: Option<String>,
    /// Held-out rows
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub validation: Option<String>,
    /// Which columns.
    #[command(flatten)]
    pub columns: ColumnArgs,

    /// Training steps
    #[arg(
        long,
        help_heading = "Recipe",
        value_name = "N",
        conflicts_with = "epochs"
    )]
    pub steps: Option<usize>,
    /// Passes over the training rows
    #[arg(long, help_heading = "Recipe", value_name = "N")]
    pub epochs: Option<f64>,
    /// Seed of every random draw
    #[arg(long, help_heading = "Recipe", value_name = "N")]
    pub seed: Option<u64>,
    /// Any key.
    #[command(flatten)]
    pub set: OverrideArgs,

    /// Where and how to compute.
    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Folder of the result (DIR itself if not given)
    #[arg(long, help_heading = "Output", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace a result that is there
    #[arg(long, help_heading = "Output", conflicts_with = "resume")]
    pub force: bool,
    /// Go on where an interrupted training stopped
    #[arg(long, help_heading = "Output")]
    pub resume: bool,
}

impl TrainArgs {
    /// What the flags change in the run's recipe; `--set` has the last word.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = Overrides::default();
        self.model.add_to(&mut overrides);
        overrides.text("data.train", "--data", self.data.as_ref());
        overrides.text("data.validation", "--validation", self.validation.as_ref());
        self.columns.add_to(&mut overrides);
        overrides.set("train.steps", "--steps", self.steps.as_ref());
        overrides.set("train.epochs", "--epochs", self.epochs.as_ref());
        overrides.set("seed", "--seed", self.seed.as_ref());
        self.compute.add_to(&mut overrides);
        overrides.switch("export.force", "--force", self.force);
        overrides.finish(&self.set.set)
    }

    /// The run's recipe with the flags over it.
    ///
    /// # Errors
    /// Those of [`Recipe::load`].
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        super::common::recipe_of(&self.dir, &self.overrides())
    }
}
