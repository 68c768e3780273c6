//! What can go wrong between a model's name and its files, and what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::models::checkpoint::{CheckpointError, conversion_command, listed};
use crate::models::gguf::Gguf;

/// A model whose files could not be found, fetched or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name is written like a path, and nothing is there.
    #[error("no such folder or file: `{}`", path.display())]
    NoSuchFolder {
        /// The path.
        path: PathBuf,
    },
    /// The path is a file.
    #[error("`{}` is a file, a model is a folder with `config.json` and weights, or a GGUF file", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder has no `config.json`.
    #[error("`{}` is not a model folder: it has no `config.json`, but {}", folder.display(), listed(found))]
    NotAModelFolder {
        /// The folder.
        folder: PathBuf,
        /// The file names that are there.
        found: Vec<String>,
    },
    /// The name can be neither a path nor a hub id.
    #[error("`{id}` is not a model id: {reason}")]
    InvalidId {
        /// The name as given.
        id: String,
        /// The rule it breaks.
        reason: String,
    },
    /// The revision can be no branch, tag or commit.
    #[error("`{revision}` is not a revision")]
    InvalidRevision {
        /// The revision as given.
        revision: String,
    },
    /// The hub does not know the repository, or does not show it to this user.
    #[error("no model `{repo}` on {endpoint}")]
    RepoNotFound {
        /// The hub id.
        repo: String,
        /// The hub's address.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("the model `{repo}` has no revision `{revision}`")]
    RevisionNotFound {
        /// The hub id.
        repo: String,
        /// The revision asked for.
        revision: String,
    },
    /// The hub wants a token, another token, or the licence accepted.
    #[error("access to `{repo}` refused{}", message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    AccessRefused {
        /// The hub id.
        repo: String,
        /// Why.
        access: Access,
        /// The hub's own words.
        message: Option<String>,
    },
    /// The repository lacks a file without which nothing works.
    #[error("the model `{repo}` has no `{file}`, but {}", listed(found))]
    FileNotFound {
        /// The hub id.
        repo: String,
        /// The file.
        file: String,
        /// The files that are there.
        found: Vec<String>,
    },
    /// The repository has weights only in a format that runs code when it is read (pickle), or that this program does not read.
    #[error("the model `{repo}` has weights only as `{file}`, which is not safetensors")]
    OtherFormatOnly {
        /// The hub id.
        repo: String,
        /// The first such file.
        file: String,
    },
    /// The transfer of a file broke off each time.
    #[error("the download of `{file}` of `{repo}` broke off {attempts} times: {reason}")]
    Interrupted {
        /// The hub id.
        repo: String,
        /// The file.
        file: String,
        /// How often it was tried.
        attempts: usize,
        /// The last reason.
        reason: String,
    },
    /// A downloaded file has another length than the hub said.
    #[error("`{file}` of `{repo}` came with {got} bytes instead of {expected}; it was deleted")]
    WrongLength {
        /// The hub id.
        repo: String,
        /// The file.
        file: String,
        /// Bytes the hub announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A downloaded file has another SHA-256 than the hub said.
    #[error("`{file}` of `{repo}` has the SHA-256 {got} instead of {expected}; it was deleted")]
    WrongChecksum {
        /// The hub id.
        repo: String,
        /// The file.
        file: String,
        /// The sum the hub announced.
        expected: String,
        /// The sum of what came.
        got: String,
    },
    /// The hub cannot be reached.
    #[error("cannot reach {endpoint}: {reason}")]
    Network {
        /// The hub's address.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The hub stopped answering.
    #[error("{endpoint} sent nothing for {} s", waited.as_secs_f32())]
    Stalled {
        /// The hub's address.
        endpoint: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// The network may not be used, and the cache has not all files.
    #[error("`{repo}` at `{revision}` is not in the cache `{}`, and the hub may not be asked (offline): {reason}", cache.display())]
    NotCached {
        /// The hub id.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// The cache's folder.
        cache: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Any other answer of the hub.
    #[error("{endpoint} answered for `{repo}`: {reason}")]
    Server {
        /// The hub's address.
        endpoint: String,
        /// The hub id.
        repo: String,
        /// Status and message.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot use the cache `{}`: {source}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The folder has no usable weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Why the hub refuses access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Its owner asks users to accept a licence first.
    Gated,
    /// The token is not valid.
    BadToken,
    /// The repository is private, or does not exist: the hub does not tell which.
    PrivateOrMissing,
}

impl HubError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoSuchFolder { .. } => "check the path; a model of the hub is written `name` or `organisation/name`".into(),
            Self::NotAFolder { .. } => "give the folder that the file is in, or a file that ends in `.gguf`".into(),
            Self::NotAModelFolder { found, .. } if found.iter().any(|name| name == "adapter_config.json") => {
                "this is an adapter; give the model it was trained on".into()
            }
            Self::NotAModelFolder { .. } => "give a folder made by `save_pretrained`, or a hub id".into(),
            Self::InvalidId { .. } => "write `name`, `organisation/name`, or a path such as `./folder`".into(),
            Self::InvalidRevision { .. } => "give a branch, a tag or a commit".into(),
            Self::RepoNotFound { repo, .. } => {
                format!("check the spelling; there is no folder `{repo}` either. A private model needs HF_TOKEN")
            }
            Self::RevisionNotFound { repo, .. } => format!("the branches and tags of `{repo}` are listed on its page, under Files"),
            Self::AccessRefused { repo, access, .. } => match access {
                Access::Gated => format!("accept the licence on the page of `{repo}`, then set HF_TOKEN to a token of that account"),
                Access::BadToken => "make a new token in the hub's settings and set HF_TOKEN".into(),
                Access::PrivateOrMissing => {
                    format!("check the spelling of `{repo}`; a private model needs HF_TOKEN, a gated one also its licence accepted")
                }
            },
            Self::FileNotFound { .. } => "choose a model in the format of Hugging Face transformers".into(),
            Self::OtherFormatOnly { repo, file } if Gguf::is_name(Path::new(file)) => {
                format!("download `{file}` of `{repo}`, and name the file: `--model {file}`")
            }
            Self::OtherFormatOnly { repo, .. } => format!("convert it once: {}", conversion_command(repo)),
            Self::Interrupted { .. } | Self::WrongLength { .. } => "run the command again; complete files are kept".into(),
            Self::WrongChecksum { .. } => "run the command again; if it happens again, do not use this source".into(),
            Self::Network { .. } | Self::Stalled { .. } => {
                "check the connection (HTTPS_PROXY, HF_ENDPOINT), or use a folder with `--model PATH`".into()
            }
            Self::NotCached { .. } => "unset HF_HUB_OFFLINE once to download it, or use a folder".into(),
            Self::Server { .. } => "try again later".into(),
            Self::Cache { .. } => "free space there, or set HF_HUB_CACHE to a folder that you may write".into(),
            Self::Checkpoint(error) => return error.hint(),
        };
        Some(hint)
    }

    /// Whether the network is at fault, so that a cached copy may stand in.
    pub(super) fn is_network(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::Stalled { .. })
    }
}
