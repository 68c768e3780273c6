//! Flags that several verbs share.

use std::num::NonZeroUsize;
use std::path::Path;

use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::recipe::{Dtype, Override, Recipe, RecipeError};

/// Collects overrides from flags that were given.
#[derive(Debug, Default)]
pub(super) struct Overrides(Vec<Override>);

impl Overrides {
    /// Sets `path` to the text as it is, if the flag has one. File names may look like YAML of another kind.
    pub(super) fn text(&mut self, path: &str, flag: &str, value: Option<&String>) {
        if let Some(text) = value {
            self.0.push(Override::new(
                path,
                text.as_str(),
                &format!("{flag} {text}"),
            ));
        }
    }

    /// Sets `path` to the YAML value, if the flag has one.
    pub(super) fn set<T: ToString>(&mut self, path: &str, flag: &str, value: Option<&T>) {
        if let Some(value) = value {
            let text = value.to_string();
            self.0
                .push(Override::typed(path, &text, &format!("{flag} {text}")));
        }
    }

    /// Sets `path` to `true` if the switch was given.
    pub(super) fn switch(&mut self, path: &str, flag: &str, given: bool) {
        if given {
            self.0.push(Override::new(path, true, flag));
        }
    }

    /// Adds the overrides of `--set`, which have the last word.
    pub(super) fn finish(mut self, set: &[Override]) -> Vec<Override> {
        self.0.extend_from_slice(set);
        self.0
    }
}

/// Which base model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model and data")]
pub struct ModelArgs {
    /// Base model: a folder, a GGUF file, a hub id, or `embedded:quickstart`
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Branch, tag or commit of a hub id
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
}

impl ModelArgs {
    pub(super) fn add_to(&self, overrides: &mut Overrides) {
        overrides.text("model", "--model", self.model.as_ref());
        overrides.text("revision", "--revision", self.revision.as_ref());
    }
}

/// Which columns of the data, and what to do with bad rows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model and data")]
pub struct ColumnArgs {
    /// Column of the text (found by its usual names if not given)
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column of the second text of a pair
    #[arg(long, value_name = "NAME")]
    pub pair_column: Option<String>,
    /// Column of the label
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Column of the prompt of a completion
    #[arg(long, value_name = "NAME")]
    pub prompt_column: Option<String>,
    /// Column of the completion
    #[arg(long, value_name = "NAME")]
    pub completion_column: Option<String>,
    /// Column of the messages of a chat
    #[arg(long, value_name = "NAME")]
    pub messages_column: Option<String>,
    /// Count and skip rows that cannot be used, in place of stopping
    #[arg(long)]
    pub skip_bad_rows: bool,
}

impl ColumnArgs {
    pub(super) fn add_to(&self, overrides: &mut Overrides) {
        overrides.text(
            "data.text_column",
            "--text-column",
            self.text_column.as_ref(),
        );
        overrides.text(
            "data.pair_column",
            "--pair-column",
            self.pair_column.as_ref(),
        );
        overrides.text(
            "data.label_column",
            "--label-column",
            self.label_column.as_ref(),
        );
        overrides.text(
            "data.prompt_column",
            "--prompt-column",
            self.prompt_column.as_ref(),
        );
        overrides.text(
            "data.completion_column",
            "--completion-column",
            self.completion_column.as_ref(),
        );
        overrides.text(
            "data.messages_column",
            "--messages-column",
            self.messages_column.as_ref(),
        );
        overrides.switch("data.skip_bad_rows", "--skip-bad-rows", self.skip_bad_rows);
    }
}

/// Where and how to compute.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Compute")]
pub struct ComputeArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Number type of weights and computation
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(Dtype::WORDS))]
    pub dtype: Option<String>,
    /// Language models: number type in which frozen matrices stay in memory
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(Dtype::WORDS))]
    pub storage: Option<String>,
    /// CPU threads (all cores if not given); changes the time only, never the result
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

impl ComputeArgs {
    pub(super) fn add_to(&self, overrides: &mut Overrides) {
        overrides.set("device", "--device", self.device.as_ref());
        overrides.set("dtype", "--dtype", self.dtype.as_ref());
        overrides.set("storage", "--storage", self.storage.as_ref());
    }
}

/// Any key of the recipe.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Recipe")]
pub struct OverrideArgs {
    /// Set any key of the recipe, as in train.learning_rate=5e-4; has the last word; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
}

/// The recipe of a run's folder with overrides over it.
pub(super) fn recipe_of(dir: &Path, overrides: &[Override]) -> Result<Recipe, RecipeError> {
    let path = dir.join("recipe.yaml");
    let text = std::fs::read_to_string(&path).map_err(|source| RecipeError::Read {
        path: path.clone(),
        source,
    })?;
    Recipe::read(&path.display().to_string(), &text, overrides)
}
