//! The hub's side of `autopeft::hub`, against a server on this machine that speaks the part of the hub's API that is used:
//! `/api/models/REPO/revision/REV`, and `/REPO/resolve/REV/FILE` with the redirect to a CDN that files in LFS get.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod hub_server;

use std::path::Path;
use std::time::{Duration, Instant};

use autopeft::hub::{
    Access, Download, HubError, HubOptions, Source, resolve, resolve_with_progress,
};
use autopeft::models::checkpoint::{Checkpoint, CheckpointError};
use hub_server::{COMMIT, Fault, HubServer};

const REPO: &str = "org/tiny";

fn options(server: &HubServer, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: Some(server.address()),
        cache: Some(cache.into()),
        token: Some("hf_test".into()),
        timeout: Duration::from_secs(20),
        attempts: 2,
        ..HubOptions::default()
    }
}

fn weights() -> Vec<u8> {
    shard("bert.w")
}

/// A safetensors file with one tensor of two numbers.
fn shard(name: &str) -> Vec<u8> {
    let bytes: Vec<u8> = [1f32, 2.].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &bytes).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

/// A server with a usual repository, and an empty cache.
fn usual() -> (HubServer, tempfile::TempDir) {
    let server = HubServer::start(REPO);
    server.add("config.json", b"{\"model_type\": \"bert\"}");
    server.add("tokenizer.json", b"{}");
    server.add("tokenizer_config.json", b"{ }");
    server.add("vocab.txt", b"[PAD]");
    server.add(
        "1_Pooling/config.json",
        b"{\"pooling_mode_mean_tokens\": true}",
    );
    server.add("README.md", b"# tiny");
    server.add_lfs("pytorch_model.bin", b"pickle");
    server.add_lfs("model.safetensors", &weights());
    (server, tempfile::tempdir().unwrap())
}

/// All files below a folder that are not empty, as a test of what a failure leaves behind.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_model_is_downloaded_with_the_needed_files_only() {
    let (server, cache) = usual();
    let files = resolve(REPO, &options(&server, cache.path())).unwrap();
    assert_eq!(
        files.source,
        Source::Hub {
            repo: REPO.into(),
            revision: "main".into(),
            commit: COMMIT.into()
        }
    );
    assert!(
        files.config.is_file()
            && files.tokenizer.unwrap().is_file()
            && files.tokenizer_config.unwrap().is_file()
    );
    assert_eq!(files.special_tokens_map, None);
    let checkpoint = Checkpoint::open_folder(&files.folder).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["bert.w"]);
    assert_eq!(
        server.bodies(),
        [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "1_Pooling/config.json",
            "model.safetensors"
        ]
    );
    assert!(files.folder.join("1_Pooling/config.json").is_file());
    assert!(
        server
            .requests()
            .iter()
            .filter(|r| !r.path.starts_with("/cdn/"))
            .all(|r| r.token.as_deref() == Some("Bearer hf_test"))
    );
}

#[test]
fn the_vocabulary_is_downloaded_where_there_is_no_tokenizer() {
    let (server, cache) = usual();
    server.remove("tokenizer.json");
    let files = resolve(REPO, &options(&server, cache.path())).unwrap();
    assert_eq!(files.vocabulary, [files.folder.join("vocab.txt")]);
}

#[test]
fn the_second_time_no_file_is_transferred() {
    let (server, cache) = usual();
    let first = resolve(REPO, &options(&server, cache.path())).unwrap();
    let before = server.bodies().len();
    let second = resolve(REPO, &options(&server, cache.path())).unwrap();
    assert_eq!(server.bodies().len(), before);
    assert_eq!(first.weights, second.weights);
}

#[test]
fn offline_the_cache_is_used_without_a_request() {
    let (server, cache) = usual();
    let online = options(&server, cache.path());
    let offline = HubOptions {
        offline: true,
        ..online.clone()
    };
    let error = resolve(REPO, &offline).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
    assert!(error.to_string().contains("offline") && error.hint().is_some());
    assert_eq!(server.requests().len(), 0);
    resolve(REPO, &online).unwrap();
    let before = server.requests().len();
    let files = resolve(REPO, &offline).unwrap();
    assert!(matches!(files.source, Source::Hub { commit, .. } if commit == COMMIT));
    assert_eq!(server.requests().len(), before);
}

#[test]
fn offline_an_incomplete_copy_is_named_with_what_is_missing() {
    let (server, cache) = usual();
    let online = options(&server, cache.path());
    let files = resolve(REPO, &online).unwrap();
    std::fs::remove_file(files.weights.first().unwrap()).unwrap();
    let error = resolve(
        REPO,
        &HubOptions {
            offline: true,
            ..online
        },
    )
    .unwrap_err();
    assert!(
        matches!(&error, HubError::NotCached { reason, .. } if reason.contains("weights")),
        "{error}"
    );
}

#[test]
fn a_commit_in_the_cache_needs_no_request() {
    let (server, cache) = usual();
    let pinned = HubOptions {
        revision: Some(COMMIT.into()),
        ..options(&server, cache.path())
    };
    resolve(REPO, &pinned).unwrap();
    let before = server.requests().len();
    resolve(REPO, &pinned).unwrap();
    assert_eq!(server.requests().len(), before);
}

#[test]
fn a_revision_is_asked_for_by_name_and_kept_under_it() {
    let (server, cache) = usual();
    server.set_revision("v1.0");
    let tagged = HubOptions {
        revision: Some("v1.0".into()),
        ..options(&server, cache.path())
    };
    resolve(REPO, &tagged).unwrap();
    resolve(
        REPO,
        &HubOptions {
            offline: true,
            ..tagged.clone()
        },
    )
    .unwrap();
    let main = HubOptions {
        offline: true,
        revision: None,
        ..tagged
    };
    assert!(matches!(
        resolve(REPO, &main).unwrap_err(),
        HubError::NotCached { .. }
    ));
}

#[test]
fn an_unknown_repository_is_named() {
    let (server, cache) = usual();
    let error = resolve("org/none", &options(&server, cache.path())).unwrap_err();
    assert!(
        matches!(&error, HubError::RepoNotFound { repo, .. } if repo == "org/none"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("org/none"));
}

#[test]
fn an_unknown_revision_is_named() {
    let (server, cache) = usual();
    let options = HubOptions {
        revision: Some("v9".into()),
        ..options(&server, cache.path())
    };
    let error = resolve(REPO, &options).unwrap_err();
    assert!(
        matches!(&error, HubError::RevisionNotFound { revision, .. } if revision == "v9"),
        "{error}"
    );
}

#[test]
fn a_refused_access_says_what_is_needed() {
    let cases = [
        (
            401,
            "RepoNotFound",
            "Invalid username or password.",
            Access::PrivateOrMissing,
            "HF_TOKEN",
        ),
        (
            401,
            "",
            "Invalid credentials in Authorization header",
            Access::BadToken,
            "new token",
        ),
        (
            403,
            "GatedRepo",
            "Access to model org/tiny is restricted",
            Access::Gated,
            "licence",
        ),
    ];
    for (status, code, message, expected, hint) in cases {
        let (server, cache) = usual();
        server.set_fault(
            "/api/models/org/tiny",
            Fault::Refuse {
                status,
                code,
                message,
            },
        );
        let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
        assert!(
            matches!(&error, HubError::AccessRefused { access, .. } if *access == expected),
            "{status} {code}: {error}"
        );
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error}");
    }
}

#[test]
fn a_gated_repository_shows_its_list_but_not_its_files() {
    let (server, cache) = usual();
    let refusal = Fault::Refuse {
        status: 403,
        code: "GatedRepo",
        message: "restricted",
    };
    server.set_fault("/resolve/", refusal);
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::AccessRefused {
                access: Access::Gated,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_transfer_that_breaks_off_once_is_repeated() {
    let (server, cache) = usual();
    server.set_fault("/cdn/", Fault::Cut { times: 1 });
    let files = resolve(REPO, &options(&server, cache.path())).unwrap();
    assert_eq!(
        std::fs::read(files.weights.first().unwrap()).unwrap(),
        weights()
    );
}

#[test]
fn a_transfer_that_always_breaks_off_leaves_nothing_that_could_be_used() {
    let (server, cache) = usual();
    server.set_fault("/cdn/", Fault::Cut { times: usize::MAX });
    let options = options(&server, cache.path());
    let error = resolve(REPO, &options).unwrap_err();
    assert!(
        matches!(&error, HubError::Interrupted { file, attempts: 2, .. } if file == "model.safetensors"),
        "{error}"
    );
    let left = files_below(cache.path());
    assert!(
        !left.iter().any(|file| file.ends_with("model.safetensors")),
        "{left:?}"
    );
    assert!(matches!(
        resolve(
            REPO,
            &HubOptions {
                offline: true,
                ..options.clone()
            }
        )
        .unwrap_err(),
        HubError::NotCached { .. }
    ));
    server.clear_faults();
    let small_files = server
        .bodies()
        .iter()
        .filter(|name| *name == "config.json")
        .count();
    resolve(REPO, &options).unwrap();
    assert_eq!(
        server
            .bodies()
            .iter()
            .filter(|name| *name == "config.json")
            .count(),
        small_files,
        "complete files are kept"
    );
}

#[test]
fn a_file_with_a_wrong_checksum_is_deleted() {
    let (server, cache) = usual();
    let mut changed = weights();
    *changed.last_mut().unwrap() ^= 1;
    server.set_fault("/cdn/", Fault::Body(changed));
    let options = options(&server, cache.path());
    let error = resolve(REPO, &options).unwrap_err();
    assert!(
        matches!(&error, HubError::WrongChecksum { file, .. } if file == "model.safetensors"),
        "{error}"
    );
    assert!(error.to_string().contains("deleted"));
    let expected = hub_server::sha256(&weights());
    let left = files_below(cache.path());
    assert!(
        !left
            .iter()
            .any(|file| file.ends_with("model.safetensors") || file.ends_with(&expected)),
        "{left:?}"
    );
    server.clear_faults();
    resolve(REPO, &options).unwrap();
}

#[test]
fn an_error_page_is_not_taken_for_a_file() {
    let (server, cache) = usual();
    server.set_fault(
        "GET /org/tiny/resolve/",
        Fault::Refuse {
            status: 403,
            code: "",
            message: "expired link",
        },
    );
    let options = options(&server, cache.path());
    let error = resolve(REPO, &options).unwrap_err();
    assert!(
        matches!(&error, HubError::WrongLength { file, .. } if file == "config.json"),
        "{error}"
    );
    server.clear_faults();
    let files = resolve(REPO, &options).unwrap();
    assert!(
        std::fs::read_to_string(files.config)
            .unwrap()
            .contains("bert")
    );
}

#[test]
fn shards_of_an_index_are_downloaded() {
    let (server, cache) = usual();
    server.remove("model.safetensors");
    server.add_lfs("a.safetensors", &shard("a"));
    server.add_lfs("b.safetensors", &shard("b"));
    server.add_lfs("unused.safetensors", &shard("c"));
    server.add(
        "model.safetensors.index.json",
        br#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#,
    );
    let files = resolve(REPO, &options(&server, cache.path())).unwrap();
    assert_eq!(files.weights.len(), 2);
    assert_eq!(
        Checkpoint::open_folder(&files.folder)
            .unwrap()
            .names()
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(!server.bodies().contains(&"unused.safetensors".to_string()));
}

#[test]
fn an_index_that_leads_out_of_its_folder_is_refused_before_the_download() {
    let (server, cache) = usual();
    server.remove("model.safetensors");
    server.add(
        "model.safetensors.index.json",
        br#"{"weight_map": {"a": "../../evil.safetensors"}}"#,
    );
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    let HubError::Checkpoint(CheckpointError::ShardOutside { shard, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(shard, "../../evil.safetensors");
    assert!(
        !server
            .requests()
            .iter()
            .any(|request| request.path.contains("evil"))
    );
}

#[test]
fn a_shard_that_the_repository_lacks_is_named() {
    let (server, cache) = usual();
    server.remove("model.safetensors");
    server.add(
        "model.safetensors.index.json",
        br#"{"weight_map": {"a": "a.safetensors"}}"#,
    );
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    assert!(
        matches!(&error, HubError::Checkpoint(CheckpointError::ShardMissing { shard, .. }) if shard == "a.safetensors"),
        "{error}"
    );
}

#[test]
fn a_repository_of_pickled_weights_is_refused_before_the_download() {
    let (server, cache) = usual();
    server.remove("model.safetensors");
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    assert!(
        matches!(&error, HubError::OtherFormatOnly { file, .. } if file == "pytorch_model.bin"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("from_pretrained('org/tiny')")
    );
    assert!(server.bodies().is_empty());
}

#[test]
fn a_repository_without_config_lists_what_it_has() {
    let (server, cache) = usual();
    server.remove("config.json");
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has no `config.json`, but `README.md`"),
        "{error}"
    );
}

#[test]
fn a_commit_that_is_no_hash_is_not_used_as_a_path() {
    let (server, cache) = usual();
    server.set_commit("../../../outside");
    let error = resolve(REPO, &options(&server, cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Server { .. }), "{error}");
    assert!(server.bodies().is_empty());
}

#[test]
fn a_silent_server_is_given_up_after_the_limit() {
    let (server, cache) = usual();
    server.set_fault("/api/", Fault::Silence);
    let limit = Duration::from_millis(300);
    let began = Instant::now();
    let error = resolve(
        REPO,
        &HubOptions {
            timeout: limit,
            ..options(&server, cache.path())
        },
    )
    .unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
    assert!(began.elapsed() >= limit && began.elapsed() < Duration::from_secs(10));
}

#[test]
fn without_a_network_the_cached_copy_is_used_and_said() {
    let (server, cache) = usual();
    let online = options(&server, cache.path());
    // A port that was free a moment ago: the connection is refused.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let unreachable = HubOptions {
        endpoint: Some(format!("http://{closed}")),
        ..online.clone()
    };
    let error = resolve(REPO, &unreachable).unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    resolve(REPO, &online).unwrap();
    let files = resolve(REPO, &unreachable).unwrap();
    assert!(
        files.notes.iter().any(|note| note.contains("cached copy")),
        "{:?}",
        files.notes
    );
}

#[test]
fn progress_ends_with_the_whole_file() {
    let (server, cache) = usual();
    let mut last: Option<Download> = None;
    resolve_with_progress(REPO, &options(&server, cache.path()), &mut |download| {
        last = Some(download)
    })
    .unwrap();
    let length = weights().len() as u64;
    assert_eq!(
        last,
        Some(Download {
            file: "model.safetensors".into(),
            done: length,
            total: length
        })
    );
}

#[test]
fn a_folder_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), b"{}").unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights()).unwrap();
    let files = resolve(dir.path().to_str().unwrap(), &HubOptions::default()).unwrap();
    assert_eq!(files.source, Source::Folder);
    assert_eq!(files.weights, [dir.path().join("model.safetensors")]);
    assert_eq!(files.tokenizer, None);
}

#[test]
fn a_folder_that_is_no_model_lists_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), b"{}").unwrap();
    let error = resolve(dir.path().to_str().unwrap(), &HubOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not a model folder"), "{error}");
    assert!(
        error.to_string().contains("`adapter_config.json`"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("adapter"));
}

#[test]
fn names_that_are_neither_folder_nor_id_are_refused_without_a_request() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let kinds = [
        "./no/such/folder",
        file.path().to_str().unwrap(),
        "not an id",
    ]
    .map(|model| resolve(model, &HubOptions::default()).unwrap_err());
    assert!(
        matches!(
            &kinds,
            [
                HubError::NoSuchFolder { .. },
                HubError::NotAFolder { .. },
                HubError::InvalidId { .. }
            ]
        ),
        "{kinds:?}"
    );
    let bad_revision = HubOptions {
        revision: Some("../x".into()),
        ..HubOptions::default()
    };
    assert!(matches!(
        resolve(REPO, &bad_revision).unwrap_err(),
        HubError::InvalidRevision { .. }
    ));
}
