//! How to reach the hub, with the environment variables that `huggingface_hub` knows.

use std::path::PathBuf;
use std::time::Duration;

/// The public hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Silence longer than this ends a download. It is longer than all retries of one request (at most 6.2 s of waiting).
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often the transfer of one file, and each request, is tried.
const ATTEMPTS: usize = 5;

/// How to reach the hub and where to keep what it sends.
#[derive(Clone)]
pub struct HubOptions {
    /// Branch, tag or commit; `main` if none.
    pub revision: Option<String>,
    /// Access token; if none, hf-hub looks for the one that `huggingface-cli login` stored.
    pub token: Option<String>,
    /// The cache's folder; if none, `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// Use the cache only.
    pub offline: bool,
    /// The hub's address; [`DEFAULT_ENDPOINT`] if none.
    pub endpoint: Option<String>,
    /// The longest silence to bear.
    pub timeout: Duration,
    /// How often the transfer of a file is tried, at least once; and how often a request without an answer is repeated.
    pub attempts: usize,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            revision: None,
            token: None,
            cache: None,
            offline: false,
            endpoint: None,
            timeout: TIMEOUT,
            attempts: ATTEMPTS,
        }
    }
}

impl HubOptions {
    /// Options from `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`) and `HF_HUB_DOWNLOAD_TIMEOUT` (seconds). `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_TOKEN_PATH` and `HF_HUB_DISABLE_IMPLICIT_TOKEN` are respected as well. Empty variables count as unset.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| {
            get(name)
                .map(|value| value.trim().to_string())
                .filter(|value| !value.is_empty())
        };
        let is_true = |name| {
            get(name)
                .is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()))
        };
        let implicit_token = get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_none();
        let timeout = get("HF_HUB_DOWNLOAD_TIMEOUT")
            .and_then(|v| v.parse().ok())
            .filter(|&seconds: &u64| seconds > 0);
        Self {
            token: get("HF_TOKEN").filter(|_| implicit_token),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            endpoint: get("HF_ENDPOINT"),
            timeout: timeout.map_or(TIMEOUT, Duration::from_secs),
            ..Self::default()
        }
    }

    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    pub(super) fn endpoint(&self) -> &str {
        self.endpoint
            .as_deref()
            .unwrap_or(DEFAULT_ENDPOINT)
            .trim_end_matches('/')
    }

    pub(super) fn cache_folder(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(hf_hub::resolve_cache_dir)
    }
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("token_set", &self.token.is_some())
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .field("endpoint", &self.endpoint)
            .field("timeout", &self.timeout)
            .field("attempts", &self.attempts)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_variables(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.to_string())
        })
    }

    #[test]
    fn variables_set_the_options() {
        let options = from(&[
            ("HF_TOKEN", " t\n"),
            ("HF_HUB_OFFLINE", "1"),
            ("HF_ENDPOINT", "http://h/"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "5"),
        ]);
        assert_eq!(options.token.as_deref(), Some("t"));
        assert!(options.offline);
        assert_eq!(options.endpoint(), "http://h");
        assert_eq!(options.timeout, Duration::from_secs(5));
    }

    #[test]
    fn empty_and_false_variables_change_nothing() {
        let options = from(&[
            ("HF_TOKEN", ""),
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", ""),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "x"),
        ]);
        assert_eq!(options.token, None);
        assert!(!options.offline);
        assert_eq!(options.endpoint(), DEFAULT_ENDPOINT);
        assert_eq!(options.timeout, TIMEOUT);
    }

    #[test]
    fn the_implicit_token_can_be_switched_off() {
        assert_eq!(
            from(&[("HF_TOKEN", "t"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token,
            None
        );
    }

    #[test]
    fn debug_output_hides_the_token() {
        let text = format!("{:?}", from(&[("HF_TOKEN", "secret")]));
        assert!(!text.contains("secret"), "{text}");
    }
}
