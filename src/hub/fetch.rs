//! Downloads of the files of one repository, checked before anybody uses them.
//!
//! Why the checks: hf-hub 1.0 looks neither at the status of the final GET of a cached file nor at its length and hash, so an error page
//! could be stored as weights. For files in LFS or Xet the hub's `ETag` is the SHA-256, and the blob in the cache is named by it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc::Sender};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFError, HFRepositorySync, RepoTypeModel};

use super::cache::{RepoCache, is_commit};
use super::{Download, answer, verify};
use super::{HubError, HubOptions, Message, ModelFiles, Source, TOKENIZER_FILES, VOCABULARY_FILES};
use crate::base::POOLING_FILE;
use crate::models::checkpoint::{CheckpointError, INDEX_FILE, Index, SINGLE_FILE, is_other_format};

/// One run over a repository.
pub(super) struct Fetch {
    repo: String,
    options: HubOptions,
    cache: RepoCache,
    hub: HFRepositorySync<RepoTypeModel>,
    sender: Sender<Message>,
}

/// What the hub has at the revision.
struct Listing {
    commit: String,
    files: BTreeSet<String>,
}

impl Listing {
    fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// The files that are in no folder, for messages.
    fn top(&self) -> Vec<String> {
        self.files
            .iter()
            .filter(|name| !name.contains('/'))
            .cloned()
            .collect()
    }
}

impl Fetch {
    /// `repo` and the revision must be validated.
    pub(super) fn new(
        repo: &str,
        options: &HubOptions,
        sender: Sender<Message>,
    ) -> Result<Self, HubError> {
        let mut builder = HFClient::builder()
            .endpoint(options.endpoint())
            .cache_dir(options.cache_folder())
            .retry_max_attempts(options.attempts)
            .user_agent(concat!("autopeft/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &options.token {
            builder = builder.token(token.trim());
        }
        let client = builder
            .build_sync()
            .map_err(|error| answer::translate(error, repo, options))?;
        let (owner, name) = hf_hub::split_id(repo);
        Ok(Self {
            repo: repo.into(),
            options: options.clone(),
            cache: RepoCache::new(&options.cache_folder(), repo),
            hub: client.model(owner, name),
            sender,
        })
    }

    /// Downloads what is missing and returns the complete set.
    pub(super) fn run(&self) -> Result<ModelFiles, HubError> {
        let listing = self.list()?;
        self.refuse_other_formats(&listing)?;
        let snapshot = self.cache.snapshot(&listing.commit);
        for name in self.small_files(&listing) {
            self.fetch(name, &listing, &snapshot)?;
        }
        if listing.has(SINGLE_FILE) {
            self.fetch(SINGLE_FILE, &listing, &snapshot)?;
        } else {
            self.fetch(INDEX_FILE, &listing, &snapshot)?;
            // Reading checks that no name leads out of the folder, before any of them is asked for.
            let index = Index::read(&snapshot.join(INDEX_FILE))?;
            for shard in index.shards() {
                if !listing.has(shard) {
                    return Err(CheckpointError::ShardMissing {
                        index: INDEX_FILE.into(),
                        shard: shard.into(),
                    }
                    .into());
                }
                self.fetch(shard, &listing, &snapshot)?;
            }
        }
        let revision = self.options.revision();
        self.cache.point(revision, &listing.commit)?;
        let source = Source::Hub {
            repo: self.repo.clone(),
            revision: revision.into(),
            commit: listing.commit,
        };
        ModelFiles::from_folder(&snapshot, source)
    }

    fn list(&self) -> Result<Listing, HubError> {
        let info = self
            .hub
            .info()
            .revision(self.options.revision())
            .send()
            .map_err(|error| self.translate(error))?;
        let malformed = |what: &str| HubError::Server {
            endpoint: self.options.endpoint().into(),
            repo: self.repo.clone(),
            reason: format!("a list of files without {what}"),
        };
        // The commit becomes a part of a path.
        let commit = info
            .sha
            .filter(|sha| is_commit(sha))
            .ok_or_else(|| malformed("a valid commit"))?;
        let files = info.siblings.ok_or_else(|| malformed("files"))?;
        Ok(Listing {
            commit,
            files: files.into_iter().map(|file| file.rfilename).collect(),
        })
    }

    /// Before anything is downloaded.
    fn refuse_other_formats(&self, listing: &Listing) -> Result<(), HubError> {
        let lacks = |file: &str| HubError::FileNotFound {
            repo: self.repo.clone(),
            file: file.into(),
            found: listing.top(),
        };
        if listing.has(SINGLE_FILE) || listing.has(INDEX_FILE) {
            return if listing.has("config.json") {
                Ok(())
            } else {
                Err(lacks("config.json"))
            };
        }
        match listing.top().into_iter().find(|name| is_other_format(name)) {
            Some(file) => Err(HubError::OtherFormatOnly {
                repo: self.repo.clone(),
                file,
            }),
            None => Err(lacks(SINGLE_FILE)),
        }
    }

    fn small_files(&self, listing: &Listing) -> Vec<&'static str> {
        let mut names = vec!["config.json"];
        names.extend(TOKENIZER_FILES);
        names.extend([
            "chat_template.jinja",
            "generation_config.json",
            POOLING_FILE,
        ]);
        if !listing.has("tokenizer.json") {
            names.extend(VOCABULARY_FILES);
        }
        names.retain(|name| listing.has(name));
        names
    }

    /// Brings one file into the snapshot, tries again if the transfer breaks off, and checks it.
    fn fetch(&self, name: &str, listing: &Listing, snapshot: &Path) -> Result<(), HubError> {
        if snapshot.join(name).is_file() {
            return Ok(());
        }
        let mut attempt = 1;
        let watch = Arc::new(Watch {
            file: name.into(),
            expected: AtomicU64::new(0),
            sender: self.sender.clone(),
        });
        let path = loop {
            let request = self
                .hub
                .download_file()
                .filename(name)
                .revision(listing.commit.as_str())
                .progress(Arc::clone(&watch));
            match request.send() {
                Ok(path) => break path,
                Err(error) if answer::is_broken_transfer(&error) => {
                    if attempt >= self.options.attempts {
                        let (repo, file, reason) =
                            (self.repo.clone(), name.into(), answer::chain(&error));
                        return Err(HubError::Interrupted {
                            repo,
                            file,
                            attempts: attempt,
                            reason,
                        });
                    }
                    attempt += 1;
                }
                Err(error) => return Err(self.translate(error)),
            }
        };
        let expected = watch.expected.load(Ordering::Relaxed);
        verify::check(&self.repo, name, &path, expected, || {
            let _ = self.sender.send(Message::Alive);
        })
    }

    fn translate(&self, error: HFError) -> HubError {
        answer::translate(error, &self.repo, &self.options)
    }
}

/// Passes hf-hub's events on and keeps the length that the hub announced.
struct Watch {
    file: String,
    expected: AtomicU64,
    sender: Sender<Message>,
}

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        let (done, total) = match event {
            DownloadEvent::Start { total_bytes, .. } => {
                self.expected.store(*total_bytes, Ordering::Relaxed);
                (0, *total_bytes)
            }
            DownloadEvent::Progress { files } => match files.last() {
                Some(file) => (file.bytes_completed, file.total_bytes),
                None => return,
            },
            DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            } => (*bytes_completed, *total_bytes),
            DownloadEvent::Complete => return,
        };
        let _ = self.sender.send(Message::Download(Download {
            file: self.file.clone(),
            done,
            total,
        }));
    }
}
