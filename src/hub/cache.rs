//! One repository in the hub's local cache, laid out as `huggingface_hub` does:
//! `models--ORG--NAME/{blobs/ETAG, snapshots/COMMIT/FILE -> blobs/ETAG, refs/REVISION}`.

use std::path::{Path, PathBuf};

use super::{HubError, ModelFiles, Source, plain_reason};

/// The folder of one repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    cache: PathBuf,
    folder: PathBuf,
}

impl RepoCache {
    /// `repo` must be a validated id.
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        Self {
            cache: cache.into(),
            folder: cache.join(format!("models--{}", repo.replace('/', "--"))),
        }
    }

    /// The folder of the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The complete files of a revision, without the network.
    pub(super) fn lookup(&self, repo: &str, revision: &str) -> Result<ModelFiles, HubError> {
        let missing = |reason| HubError::NotCached {
            repo: repo.into(),
            revision: revision.into(),
            cache: self.cache.clone(),
            reason,
        };
        let commit = if is_commit(revision) {
            revision.to_string()
        } else {
            let text = std::fs::read_to_string(self.reference(revision)).unwrap_or_default();
            Some(text.trim().to_string())
                .filter(|c| is_commit(c))
                .ok_or_else(|| missing("it was never downloaded".into()))?
        };
        let snapshot = self.snapshot(&commit);
        if !snapshot.is_dir() {
            return Err(missing("it was never downloaded".into()));
        }
        let source = Source::Hub {
            repo: repo.into(),
            revision: revision.into(),
            commit,
        };
        ModelFiles::from_folder(&snapshot, source).map_err(|error| missing(plain_reason(&error)))
    }

    /// Notes that `revision` is `commit` now. Done last, so that a name never stands for an incomplete snapshot.
    pub(super) fn point(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        let write = || {
            let parent = path.parent().unwrap_or(&self.folder);
            std::fs::create_dir_all(parent)?;
            let temporary = tempfile::NamedTempFile::new_in(parent)?;
            std::fs::write(temporary.path(), commit)?;
            temporary.persist(&path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|source| HubError::Cache {
            path: path.clone(),
            source,
        })
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }
}

/// Whether a revision is a full commit, which never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}
