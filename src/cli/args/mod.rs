//! What may be typed: one struct a verb. Flags that mean a recipe key become overrides of it.

mod common;
mod merge;
mod run;
mod select;
mod serve;
mod transfer;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

pub use common::{ColumnArgs, ComputeArgs, ModelArgs, OverrideArgs};
pub use merge::MergeArgs;
pub use run::RunArgs;
pub use select::SelectArgs;
pub use serve::{EvalArgs, GenerationArgs, InspectArgs, PredictArgs};
pub use transfer::TransferArgs;

use super::printer::{ColorChoice, Format, Printer, Verbosity};
use crate::recipe::Override;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Measures which parameter-efficient fine-tuning modules a model and task need, and exports the trimmed adapter.
#[derive(Debug, Parser)]
#[command(name = "autopeft", version, styles = STYLES, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 the answer is no, 2 error, 130 interrupted.")]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure which modules a model and task need, and export the trimmed adapter
    Select(Box<SelectArgs>),
    /// Carry a choice to a larger model of the same family, without measuring again
    Transfer(Box<TransferArgs>),
    /// Evaluate a result on labelled rows
    Eval(EvalArgs),
    /// Label rows of a file, or lines from standard input
    Predict(PredictArgs),
    /// Write the base model with the adapter in its weights, for servers
    Merge(MergeArgs),
    /// Show what could be attached to a model, or what an adapter holds
    Inspect(InspectArgs),
    /// Show what this machine and build can do, and what would be faster
    Doctor(DoctorArgs),
    /// List, show and check recipes
    Recipe(RecipeArgs),
    /// Write a completion script for a shell
    Completions(CompletionsArgs),
}

/// Flags of every verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Terminal")]
pub struct GlobalArgs {
    /// Show the result, warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show details too
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Write JSON lines to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colour; `auto` respects NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
}

impl GlobalArgs {
    /// The printer these flags ask for.
    pub fn printer(&self) -> Printer {
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, false) => Verbosity::Normal,
            (false, true) => Verbosity::Verbose,
        };
        let format = if self.json {
            Format::Json
        } else {
            Format::Text
        };
        Printer::new(verbosity, format, self.color)
    }
}

/// `autopeft doctor`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  autopeft doctor --threads 4")]
pub struct DoctorArgs {
    /// CPU threads to measure with (all cores if not given)
    #[arg(long, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
}

/// `autopeft recipe`.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RecipeCommand,
}

/// What to do with recipes.
#[derive(Debug, Clone, Subcommand)]
pub enum RecipeCommand {
    /// List the embedded recipes
    Ls,
    /// Print a recipe, or the meaning of every key
    #[command(
        after_help = "Examples:\n  autopeft recipe show text-classification > mine.yaml\n  autopeft recipe show quickstart --resolved\n  autopeft recipe show --docs"
    )]
    Show(RecipeShowArgs),
    /// Find everything that is wrong with recipes; exits with 1 if there is anything
    #[command(after_help = "Example:\n  autopeft recipe check mine.yaml --set select.budget=0.1%")]
    Check(RecipeCheckArgs),
}

/// `autopeft recipe show`.
#[derive(Debug, Clone, Args)]
pub struct RecipeShowArgs {
    /// An embedded recipe, or a file
    #[arg(required_unless_present = "docs", value_name = "RECIPE")]
    pub name: Option<String>,
    /// Print every key, defaults included
    #[arg(long)]
    pub resolved: bool,
    /// Set a key before printing (implies --resolved)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
    /// Print the table of all keys in Markdown
    #[arg(long, conflicts_with_all = ["name", "resolved", "set"])]
    pub docs: bool,
}

/// `autopeft recipe check`.
#[derive(Debug, Clone, Args)]
pub struct RecipeCheckArgs {
    /// Embedded recipes, or files
    #[arg(required = true, value_name = "RECIPE")]
    pub names: Vec<String>,
    /// Set a key before checking
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
}

/// `autopeft completions`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  autopeft completions bash > ~/.local/share/bash-completion/completions/autopeft"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
