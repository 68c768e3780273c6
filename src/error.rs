//! The library's error, with what to do about it.

use std::path::PathBuf;

use crate::chat::ChatError;
use crate::data::{DataError, list};
use crate::groups::TransferError;
use crate::hub::HubError;
use crate::models::ModelError;
use crate::probe::influence::InfluenceError;
use crate::recipe::RecipeError;
use crate::select::SelectError;

/// The result of an operation of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// The message of a backend without the stack trace behind it.
pub(crate) fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}

/// An error of this library. Messages are lower case; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe is at fault.
    #[error(transparent)]
    Recipe(#[from] RecipeError),

    /// A model's files could not be found or fetched.
    #[error(transparent)]
    Hub(#[from] HubError),

    /// A model could not be made from its files.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The data are at fault.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A chat template, or a conversation for it, is at fault.
    #[error(transparent)]
    Chat(#[from] ChatError),

    /// Measurements cannot be scored.
    #[error(transparent)]
    Influence(#[from] InfluenceError),

    /// The selection has no answer.
    #[error(transparent)]
    Select(#[from] SelectError),

    /// A choice cannot be carried over to another model.
    #[error(transparent)]
    Transfer(#[from] TransferError),

    /// A module could not be attached, run, read or written.
    #[error(transparent)]
    Adapters(#[from] autopeft_adapters::Error),

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// A file could not be read or written.
    #[error("{action} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried, such as `reading`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },

    /// A file of a result has content that this version cannot use.
    #[error("`{path}` cannot be used: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The output folder already holds a result.
    #[error("`{path}` already holds a result", path = path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },

    /// The output folder holds what this program did not write, and never replaces.
    #[error("`{path}` is not empty, and no result of autopeft", path = path.display())]
    OutputForeign {
        /// The folder.
        path: PathBuf,
    },

    /// A file is in the place of the output folder.
    #[error("`{path}` is not a folder", path = path.display())]
    OutputNoFolder {
        /// The file.
        path: PathBuf,
    },

    /// The output is, or contains, what the run reads.
    #[error("`{path}` {relation}, and cannot be the output", path = path.display())]
    OutputIsInput {
        /// The folder.
        path: PathBuf,
        /// What it is or contains, as in `is the base model`.
        relation: String,
    },

    /// What was written could not get its name. It is kept.
    #[error("`{target}` could not be completed; {what} is in `{folder}`", target = target.display(), folder = folder.display())]
    Uncommitted {
        /// Where it should have gone.
        target: PathBuf,
        /// What was written, as in `the finished result`.
        what: &'static str,
        /// Where it is.
        folder: PathBuf,
        /// What went wrong.
        source: Box<Self>,
    },

    /// The base model of a result is neither where it was nor where its name leads from here.
    #[error("the base model `{model}` is not there: no folder or file `{path}`", path = path.display())]
    BaseMissing {
        /// Its name in the result.
        model: String,
        /// Where it was.
        path: PathBuf,
    },

    /// The tokenizer of a model could not be read.
    #[error("the tokenizer `{path}` cannot be used: {reason}")]
    Tokenizer {
        /// The file.
        path: String,
        /// The reason.
        reason: String,
    },

    /// A device that this machine or this build does not have.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// The device, as asked for.
        device: String,
        /// The reason.
        reason: String,
    },

    /// The loss became infinite or not a number.
    #[error("the loss is {loss} at step {step}")]
    Diverged {
        /// The training step.
        step: usize,
        /// The loss.
        loss: f64,
    },

    /// A gradient became infinite or not a number, though the loss did not.
    #[error("a gradient is not a finite number")]
    GradientNotFinite,

    /// The exported files do not compute what was trained.
    #[error("what was exported, read back, differs by {difference:.1e} in its logits; nothing was kept in `{path}`", path = path.display())]
    NotVerified {
        /// Where it should have gone.
        path: PathBuf,
        /// Largest difference of two logits.
        difference: f64,
    },

    /// Expressions of a setting that none of the model's modules matches.
    #[error(
        "no module of `{model}` is matched by {} of `{setting}`",
        list(patterns)
    )]
    NothingMatches {
        /// The setting.
        setting: &'static str,
        /// The expressions.
        patterns: Vec<String>,
        /// The model.
        model: String,
        /// Paths of some modules that it could have named.
        modules: Vec<String>,
    },

    /// Two settings that cannot be had together.
    #[error("{what}")]
    Conflict {
        /// The settings, and why not.
        what: String,
        /// What to change.
        hint: String,
    },

    /// The user stopped the run.
    #[error("interrupted; what was measured so far is in `{path}`", path = path.display())]
    Interrupted {
        /// The folder with the partial result.
        path: PathBuf,
    },

    /// The user stopped what has no partial result.
    #[error("interrupted; nothing was written")]
    Stopped,
}

impl Error {
    /// What the user can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe(error) => error.hint(),
            Self::Hub(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Chat(error) => error.hint(),
            Self::Influence(error) => error.hint(),
            Self::Select(error) => error.hint(),
            Self::Transfer(error) => Some(error.hint()),
            Self::Adapters(error) => error.hint(),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some space, or choose another folder with `--out`".to_string())
            }
            Self::OutputExists { .. } => {
                Some("choose another folder with `--out`, or replace it with `--force`".to_string())
            }
            Self::OutputForeign { .. } | Self::OutputNoFolder { .. } | Self::OutputIsInput { .. } => {
                Some("name another folder with `--out`".to_string())
            }
            Self::Uncommitted { target, folder, .. } => (target != folder)
                .then(|| "nothing is missing in it: move it to where you want it".to_string()),
            Self::BaseMissing { .. } => {
                Some("say with `--model` where it is now".to_string())
            }
            Self::Tokenizer { .. } => Some(
                "save the tokenizer as `tokenizer.json`: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
                    .to_string(),
            ),
            Self::Device { .. } => Some("use `--device cpu` or `--device auto`".to_string()),
            Self::Diverged { .. } | Self::GradientNotFinite => {
                Some("lower `--set train.learning_rate=…`, or check the data for extreme rows".to_string())
            }
            Self::NotVerified { .. } => {
                Some("this is a defect of the program; please report it with the recipe".to_string())
            }
            Self::NothingMatches { model, modules, .. } => Some(format!(
                "its modules are {} and so on; `autopeft inspect {model}` shows all",
                list(modules)
            )),
            Self::Conflict { hint, .. } => Some(hint.clone()),
            Self::Tensor(_) | Self::Io { .. } | Self::Malformed { .. } | Self::Interrupted { .. } | Self::Stopped => None,
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
