//! From a model's name to its files: a folder as it is, or a repository of the Hugging Face hub through its local cache.
//!
//! Only what is needed is downloaded: `config.json`, the tokenizer's files and the safetensors weights. The cache is the one that
//! `transformers` uses, so nothing is fetched twice. hf-hub 1.0 does the transfers; this module adds what it leaves out: a limit on
//! silence, retries of a broken transfer, checks of length and SHA-256, and a branch name in the cache only once all its files are there.
//!
//! ```no_run
//! # use autopeft::hub::{HubOptions, resolve};
//! let files = resolve("sentence-transformers/all-MiniLM-L6-v2", &HubOptions::from_env())?;
//! println!("{} weight files", files.weights.len());
//! # Ok::<(), autopeft::hub::HubError>(())
//! ```

mod answer;
mod cache;
mod error;
mod fetch;
mod name;
mod options;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};

use crate::models::checkpoint::{CheckpointError, file_names, weight_files};

pub use error::{Access, HubError};
pub use options::{DEFAULT_ENDPOINT, HubOptions};

/// The files of a model, all of them present on this machine.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The folder that has all the other files.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    /// The safetensors files, sorted by name.
    pub weights: Vec<PathBuf>,
    /// `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<PathBuf>,
    /// The vocabulary files of old models that have no `tokenizer.json`: `vocab.txt`, or `vocab.json` and `merges.txt`.
    pub vocabulary: Vec<PathBuf>,
    /// Where the files come from.
    pub source: Source,
    /// What the user should know, a sentence each: say it on stderr.
    pub notes: Vec<String>,
}

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder of the user.
    Folder,
    /// A repository of the hub.
    Hub {
        /// The hub id, `name` or `organisation/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// The commit, 40 hexadecimal digits.
        commit: String,
    },
}

/// The state of one file's download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The file's name in the repository.
    pub file: String,
    /// Bytes that have come.
    pub done: u64,
    /// Bytes in all; 0 if the hub did not say.
    pub total: u64,
}

/// Finds the files of `model`: a folder, else a hub id.
///
/// # Errors
/// See [`HubError`]; its `hint` says what to do.
pub fn resolve(model: &str, options: &HubOptions) -> Result<ModelFiles, HubError> {
    resolve_with_progress(model, options, &mut |_| {})
}

/// As [`resolve`]; calls `on_download` on the caller's thread for each piece of a file that arrives.
///
/// # Errors
/// See [`resolve`].
pub fn resolve_with_progress(
    model: &str,
    options: &HubOptions,
    on_download: &mut dyn FnMut(Download),
) -> Result<ModelFiles, HubError> {
    let path = Path::new(model);
    if path.is_dir() {
        return ModelFiles::from_folder(path, Source::Folder);
    }
    if path.exists() {
        return Err(HubError::NotAFolder { path: path.into() });
    }
    if name::looks_like_path(model) {
        return Err(HubError::NoSuchFolder { path: path.into() });
    }
    name::validate_id(model)?;
    name::validate_revision(options.revision())?;
    let cache = cache::RepoCache::new(&options.cache_folder(), model);
    if options.offline || cache::is_commit(options.revision()) {
        match cache.lookup(model, options.revision()) {
            Ok(files) => return Ok(files),
            Err(error) if options.offline => return Err(error),
            Err(_) => {}
        }
    }
    match fetch_watched(model, options, on_download) {
        Err(error) if error.is_network() => match cache.lookup(model, options.revision()) {
            Ok(mut files) => {
                files.notes.push(format!(
                    "using the cached copy of `{model}`, which may be old: {error}"
                ));
                Ok(files)
            }
            Err(_) => Err(error),
        },
        result => result,
    }
}

/// What the downloading thread says.
enum Message {
    Alive,
    Download(Download),
    Done(Box<Result<ModelFiles, HubError>>),
}

/// Downloads on a second thread and gives up when it has said nothing for `options.timeout`.
///
/// hf-hub has no time limits, and a connection can stay open without a byte for hours. A limit on the whole time would break slow but
/// healthy downloads of large models.
fn fetch_watched(
    repo: &str,
    options: &HubOptions,
    on_download: &mut dyn FnMut(Download),
) -> Result<ModelFiles, HubError> {
    let (sender, receiver) = mpsc::channel();
    let worker = fetch::Fetch::new(repo, options, sender.clone())?;
    let spawned = std::thread::Builder::new()
        .name("hub".into())
        .spawn(move || {
            // A closed channel means that the caller has given up.
            let _ = sender.send(Message::Done(Box::new(worker.run())));
        });
    spawned.map_err(|source| HubError::Cache {
        path: options.cache_folder(),
        source,
    })?;
    loop {
        match receiver.recv_timeout(options.timeout) {
            Ok(Message::Alive) => {}
            Ok(Message::Download(download)) => on_download(download),
            Ok(Message::Done(result)) => return *result,
            Err(RecvTimeoutError::Timeout) => {
                return Err(HubError::Stalled {
                    endpoint: options.endpoint().into(),
                    waited: options.timeout,
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = "the download ended without a result".into();
                return Err(HubError::Network {
                    endpoint: options.endpoint().into(),
                    reason,
                });
            }
        }
    }
}

/// The small files beside `config.json`, in the order of the fields of [`ModelFiles`].
const TOKENIZER_FILES: [&str; 3] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];
/// What makes a tokenizer where there is no `tokenizer.json`.
const VOCABULARY_FILES: [&str; 3] = ["vocab.txt", "vocab.json", "merges.txt"];

impl ModelFiles {
    /// The files of a folder in the format of `save_pretrained`.
    ///
    /// # Errors
    /// When `config.json` or the weights are missing, the weights are only pickled, or an index is wrong.
    pub fn from_folder(folder: &Path, source: Source) -> Result<Self, HubError> {
        let existing = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let Some(config) = existing("config.json") else {
            return Err(HubError::NotAModelFolder {
                folder: folder.into(),
                found: file_names(folder)?,
            });
        };
        let [tokenizer, tokenizer_config, special_tokens_map] = TOKENIZER_FILES.map(existing);
        let vocabulary = if tokenizer.is_some() {
            Vec::new()
        } else {
            VOCABULARY_FILES.into_iter().filter_map(existing).collect()
        };
        Ok(Self {
            folder: folder.into(),
            config,
            weights: weight_files(folder)?,
            tokenizer,
            tokenizer_config,
            special_tokens_map,
            vocabulary,
            source,
            notes: Vec::new(),
        })
    }
}

/// The reason of an unusable snapshot, without the hub's own hash-named paths where possible.
fn plain_reason(error: &HubError) -> String {
    match error {
        HubError::NotAModelFolder { .. } => "`config.json` is missing".into(),
        HubError::Checkpoint(CheckpointError::NoWeights { .. }) => "the weights are missing".into(),
        HubError::Checkpoint(CheckpointError::ShardMissing { shard, .. }) => {
            format!("`{shard}` is missing")
        }
        other => other.to_string(),
    }
}
