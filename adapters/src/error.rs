//! What can go wrong while attaching, running, reading or writing adapters.

use std::path::PathBuf;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. Messages are lower case; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A tensor operation failed in a known module.
    #[error("in module `{module}`: {source}")]
    Module {
        /// Path of the module, as in the checkpoint.
        module: String,
        /// The tensor error.
        source: candle_core::Error,
    },

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

    /// A file has content that cannot be an adapter.
    #[error("`{path}` is not a usable adapter file: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// An adapter asks for something that this crate does not compute.
    #[error("the adapter in `{path}` uses {feature}, which is not supported", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature, in the words of the format.
        feature: String,
    },

    /// Tensors of an adapter that no module of the model asked for.
    #[error("{} of the adapter's tensors fit no module of this model, the first is `{}`", names.len(), names.first().map_or("", String::as_str))]
    Unused {
        /// Their names.
        names: Vec<String>,
    },

    /// A tensor does not have the shape that the model needs.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },

    /// A regular expression of the configuration does not compile.
    #[error("`{pattern}` is not a regular expression: {source}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// The reason.
        source: Box<regex::Error>,
    },

    /// The adapter cannot be written in the wanted format without changing what it computes.
    #[error("the adapter cannot be written for {target}: {reason}")]
    NotExpressible {
        /// The format.
        target: &'static str,
        /// What it cannot hold.
        reason: String,
    },

    /// A loss that depends on no trainable parameter.
    #[error("the loss depends on no trainable parameter")]
    NoGradient,
}

impl Error {
    /// What the user can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unused { .. } => Some("check that the adapter was made for this base model".to_string()),
            Self::Malformed { .. } => Some("copy the adapter folder again, or export it again".to_string()),
            Self::Unsupported { .. } => Some(
                "save it again as a plain LoRA, or merge it into its base model, with the library that made it"
                    .to_string(),
            ),
            Self::NotExpressible { .. } => Some(
                "choose the export target before the selection, so that only groups it can hold are measured"
                    .to_string(),
            ),
            Self::NoGradient => Some("attach at least one kind of module to train".to_string()),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Adds the module's path to a tensor error.
pub(crate) trait InModule<T> {
    fn in_module(self, module: &str) -> Result<T>;
}

impl<T> InModule<T> for candle_core::Result<T> {
    fn in_module(self, module: &str) -> Result<T> {
        self.map_err(|source| Error::Module {
            module: module.to_string(),
            source,
        })
    }
}
