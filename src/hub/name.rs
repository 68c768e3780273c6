//! Which names are paths, which are hub ids, and which are neither.
//!
//! The rules of an id are those of `validate_repo_id` in Hugging Face's `huggingface_hub`. Id and revision become parts of paths in the
//! cache, so nothing may pass that leads elsewhere.

use std::path::Path;

use super::HubError;
use crate::models::gguf::Gguf;

/// Longest id that the hub allows.
const MAX_ID: usize = 96;

/// Whether a name that is no existing path was surely meant as one.
pub(super) fn looks_like_path(model: &str) -> bool {
    model.starts_with(['.', '/', '~'])
        || model.ends_with('/')
        || model.contains(['\\', ':'])
        || model.matches('/').count() > 1
        || Gguf::is_name(Path::new(model))
}

/// Checks a hub id.
pub(super) fn validate_id(id: &str) -> Result<(), HubError> {
    let reason = if id.is_empty() {
        Some("it is empty")
    } else if id.len() > MAX_ID {
        Some("it has more than 96 characters")
    } else if id
        .split('/')
        .any(|part| part.is_empty() || part.starts_with(['-', '.']) || part.ends_with(['-', '.']))
    {
        Some("a part is empty, or begins or ends with `-` or `.`")
    } else if !id
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    {
        Some("only letters, digits, `-`, `_`, `.` and one `/` are allowed")
    } else if id.contains("--") || id.contains("..") {
        Some("`--` and `..` are not allowed")
    } else if id.ends_with(".git") {
        Some("it ends with `.git`")
    } else {
        None
    };
    reason.map_or(Ok(()), |reason| {
        Err(HubError::InvalidId {
            id: id.into(),
            reason: reason.into(),
        })
    })
}

/// Checks a revision by git's rules for references, as far as they matter for a path.
pub(super) fn validate_revision(revision: &str) -> Result<(), HubError> {
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad_char = |c: char| c.is_control() || c.is_whitespace() || "\\:~^?*[".contains(c);
    if revision.contains("..")
        || revision.chars().any(bad_char)
        || revision.split('/').any(bad_part)
    {
        return Err(HubError::InvalidRevision {
            revision: revision.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_hub_are_valid() {
        for id in [
            "gpt2",
            "org/name",
            "sentence-transformers/all-MiniLM-L6-v2",
            "a_b/c.d",
        ] {
            assert!(validate_id(id).is_ok() && !looks_like_path(id), "{id}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for id in [
            "",
            "a b",
            "a/",
            "/a",
            "-a",
            "a--b",
            "a..b",
            "a.git",
            "ä",
            &"x".repeat(97),
        ] {
            assert!(validate_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn paths_are_told_from_ids() {
        for path in [
            "./a", "../a", "/a/b", "~/a", "a/b/c", "a/", "C:\\a", "a\\b", "a.gguf",
        ] {
            assert!(looks_like_path(path), "{path}");
        }
    }

    #[test]
    fn revisions_cannot_lead_out_of_the_cache() {
        for revision in ["main", "v1.0", "refs/pr/3", "0123abc"] {
            assert!(validate_revision(revision).is_ok(), "{revision}");
        }
        for revision in ["", "../x", "/x", "a//b", "a b", ".x", "a\\b", "a/../b"] {
            assert!(validate_revision(revision).is_err(), "{revision}");
        }
    }
}
