//! Length and SHA-256 of a file that was just downloaded. A bad one is deleted, so that no later run finds it in the cache.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::HubError;

/// Bytes read at a time; each piece is reported, since hashing gigabytes takes longer than the limit on silence.
const PIECE: usize = 1 << 20;

/// Checks the file at `path`, a link to a blob named by its `ETag`. `expected` is its length, 0 if the hub did not say.
pub(super) fn check(
    repo: &str,
    file: &str,
    path: &Path,
    expected: u64,
    alive: impl Fn(),
) -> Result<(), HubError> {
    let io = |source| HubError::Cache {
        path: path.into(),
        source,
    };
    let blob = path.canonicalize().map_err(io)?;
    let delete = || {
        for path in [path, blob.as_path()] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(io(error));
            }
        }
        Ok(())
    };
    let (repo, file) = (repo.to_string(), file.to_string());
    let got = blob.metadata().map_err(io)?.len();
    if expected != 0 && got != expected {
        delete()?;
        return Err(HubError::WrongLength {
            repo,
            file,
            expected,
            got,
        });
    }
    let name = blob
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    if !is_sha256(&name) {
        // A small file of git: its ETag is a SHA-1 of git's own form. Where links are not possible (Windows) the name is the file's.
        return Ok(());
    }
    let got = sha256(&blob, alive).map_err(io)?;
    if got != name {
        delete()?;
        return Err(HubError::WrongChecksum {
            repo,
            file,
            expected: name,
            got,
        });
    }
    Ok(())
}

fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn sha256(path: &Path, alive: impl Fn()) -> std::io::Result<String> {
    let mut reader = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        let count = reader.read(&mut piece)?;
        match piece.get(..count) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
        alive();
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
