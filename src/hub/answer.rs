//! The hub's refusals and the network's failures in this program's words.

use std::error::Error;

use hf_hub::HFError;

use super::{Access, HubError, HubOptions};

/// Says what an error of hf-hub means for the user.
///
/// The status alone does not: the hub answers 401 for a repository that does not exist when no token is given, and tells the cases apart in
/// `X-Error-Code`. The codes are those in `hf_raise_for_status` of Hugging Face's `huggingface_hub`.
pub(super) fn translate(error: HFError, repo: &str, options: &HubOptions) -> HubError {
    let (repo, endpoint) = (repo.to_string(), options.endpoint().to_string());
    let error = match error {
        HFError::Request { source, .. } if !source.is_builder() => {
            return HubError::Network {
                endpoint,
                reason: chain(&source),
            };
        }
        HFError::CacheLockTimeout { path } => {
            let source = std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "another program holds its lock",
            );
            return HubError::Cache { path, source };
        }
        HFError::Io(source) => {
            return HubError::Cache {
                path: options.cache_folder(),
                source,
            };
        }
        other => other,
    };
    let context = match &error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context } => Some(context),
        HFError::RateLimited { context, .. } => Some(context),
        HFError::RepoNotFound { context, .. } | HFError::RevisionNotFound { context, .. } => {
            context.as_ref()
        }
        HFError::EntryNotFound { context, .. } => context.as_ref(),
        _ => None,
    };
    let status = context.map(|c| c.status.as_u16());
    let code = context
        .and_then(|c| c.error_code.clone())
        .unwrap_or_default();
    let message = context.and_then(|c| c.server_message.clone());
    let bad_token = message
        .as_ref()
        .is_some_and(|m| m.starts_with("Invalid credentials"));
    let refused = |access| HubError::AccessRefused {
        repo: repo.clone(),
        access,
        message: message.clone(),
    };
    match (&error, status, code.as_str()) {
        (_, _, "GatedRepo") => refused(Access::Gated),
        (_, Some(401), _) if bad_token => refused(Access::BadToken),
        (_, Some(401), _) => refused(Access::PrivateOrMissing),
        (_, _, "RepoNotFound") | (HFError::RepoNotFound { .. }, ..) => {
            HubError::RepoNotFound { repo, endpoint }
        }
        (HFError::RevisionNotFound { .. }, _, "RevisionNotFound") => HubError::RevisionNotFound {
            repo,
            revision: options.revision().into(),
        },
        // A 404 without a code does not say whether the repository or the revision is unknown; `main` nearly always exists.
        (HFError::RevisionNotFound { .. }, ..) if options.revision.is_none() => {
            HubError::RepoNotFound { repo, endpoint }
        }
        (HFError::RevisionNotFound { .. }, ..) => HubError::RevisionNotFound {
            repo,
            revision: options.revision().into(),
        },
        (_, Some(403), _) => refused(Access::PrivateOrMissing),
        (HFError::EntryNotFound { path, .. }, ..) => HubError::FileNotFound {
            repo,
            file: path.clone(),
            found: Vec::new(),
        },
        _ => HubError::Server {
            endpoint,
            repo,
            reason: error.to_string(),
        },
    }
}

/// Whether a transfer began and broke off, so that trying again may help. hf-hub itself tries again only to connect.
pub(super) fn is_broken_transfer(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => !source.is_builder() && !source.is_connect(),
        HFError::Xet { .. } => true,
        _ => false,
    }
}

/// An error with its causes; reqwest's own text says only that a request failed.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
