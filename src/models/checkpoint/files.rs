//! Which files hold a model's weights: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
//!
//! An index comes from a stranger, so a name in it may not lead out of its folder, not even through a symbolic link.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::error::CheckpointError;

/// The name of a checkpoint in one file.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The weight files of a model folder, in the order of their names.
///
/// # Errors
/// When there are none, when there are only pickled ones, and when the index is invalid, leads outside or names a missing file.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = folder.join(SINGLE_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX_FILE);
    if index.is_file() {
        return Index::read(&index)?.shard_paths();
    }
    let found = file_names(folder)?;
    match found.iter().find(|name| is_other_format(name)) {
        Some(file) => Err(CheckpointError::OtherFormatOnly {
            folder: folder.into(),
            file: file.clone(),
        }),
        None => Err(CheckpointError::NoWeights {
            folder: folder.into(),
            found,
        }),
    }
}

/// The names of the files in a folder, sorted.
///
/// # Errors
/// When the folder cannot be listed.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let io = |source| CheckpointError::Io {
        file: folder.into(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        names.push(
            entry
                .map_err(io)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// Whether a file name is that of weights in a format this program does not read.
pub(crate) fn is_other_format(name: &str) -> bool {
    let known_stem = name.starts_with("pytorch_model")
        || name.starts_with("tf_model")
        || name.starts_with("flax_model");
    (known_stem && !name.ends_with(".json"))
        || [
            ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx",
        ]
        .iter()
        .any(|end| name.ends_with(end))
            && name != "training_args.bin"
}

/// A parsed `model.safetensors.index.json`.
#[derive(Debug, Clone)]
pub struct Index {
    file: PathBuf,
    /// Tensor name to shard name, as in the file.
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index file and checks that all its shard names stay in its folder (by name; [`Index::shard_paths`] checks links).
    ///
    /// # Errors
    /// When the file cannot be read, is not such JSON, is empty, or names a file outside.
    pub fn read(file: &Path) -> Result<Self, CheckpointError> {
        #[derive(serde::Deserialize)]
        struct Raw {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(file).map_err(|source| CheckpointError::Io {
            file: file.into(),
            source,
        })?;
        let invalid = |reason: String| CheckpointError::Index {
            file: file.into(),
            reason,
        };
        let raw: Raw = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
        if raw.weight_map.is_empty() {
            return Err(invalid("`weight_map` is empty".into()));
        }
        let index = Self {
            file: file.into(),
            weight_map: raw.weight_map,
        };
        match index.shards().iter().find(|shard| !stays_inside(shard)) {
            Some(shard) => Err(CheckpointError::ShardOutside {
                index: file.into(),
                shard: shard.to_string(),
            }),
            None => Ok(index),
        }
    }

    /// The index file itself.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The shard names, sorted, each once.
    pub fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<_> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Tensor name and shard name of each entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.weight_map
            .iter()
            .map(|(name, shard)| (name.as_str(), shard.as_str()))
    }

    /// The path of a shard in the index's folder.
    pub(super) fn path_of(&self, shard: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(shard)
    }

    /// The paths of all shards, checked to exist and, links resolved, to lie in the index's folder.
    ///
    /// In the hub's cache every file of a snapshot is a link into one folder of blobs, the index too. So the folder in which the index
    /// really lies is allowed as well.
    ///
    /// # Errors
    /// When a shard is missing or outside.
    pub fn shard_paths(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let io = |source| CheckpointError::Io {
            file: self.file.clone(),
            source,
        };
        let folder = self.path_of(".").canonicalize().map_err(io)?;
        let real_index = self.file.canonicalize().map_err(io)?;
        let mut paths = Vec::new();
        for shard in self.shards() {
            let path = self.path_of(shard);
            if !path.is_file() {
                return Err(CheckpointError::ShardMissing {
                    index: self.file.clone(),
                    shard: shard.into(),
                });
            }
            let real = path.canonicalize().map_err(|source| CheckpointError::Io {
                file: path.clone(),
                source,
            })?;
            if !real.starts_with(&folder) && real.parent() != real_index.parent() {
                return Err(CheckpointError::ShardOutside {
                    index: self.file.clone(),
                    shard: shard.into(),
                });
            }
            paths.push(path);
        }
        Ok(paths)
    }
}

/// Whether a name from an index is a plain relative path. A backslash or a drive letter is refused on all systems.
fn stays_inside(shard: &str) -> bool {
    !shard.is_empty()
        && !shard.contains(['\\', ':', '\0'])
        && Path::new(shard)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    fn index_with(shard: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(INDEX_FILE);
        std::fs::write(
            &file,
            serde_json::json!({"weight_map": {"a": shard}}).to_string(),
        )
        .unwrap();
        (dir, file)
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for shard in [
            "../x.safetensors",
            "/etc/x",
            "a/../../x",
            "..\\x",
            "C:x",
            "",
            "./x",
        ] {
            let (_dir, file) = index_with(shard);
            let error = Index::read(&file).unwrap_err();
            assert!(
                matches!(&error, CheckpointError::ShardOutside { shard: s, .. } if s == shard),
                "{shard}: {error}"
            );
        }
    }

    #[test]
    fn a_shard_in_a_subfolder_is_allowed() {
        let (dir, file) = index_with("parts/x.safetensors");
        std::fs::create_dir(dir.path().join("parts")).unwrap();
        std::fs::write(dir.path().join("parts/x.safetensors"), b"x").unwrap();
        assert_eq!(
            Index::read(&file).unwrap().shard_paths().unwrap(),
            [dir.path().join("parts/x.safetensors")]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"x").unwrap();
        let (dir, file) = index_with("x.safetensors");
        std::os::unix::fs::symlink(
            outside.path().join("secret"),
            dir.path().join("x.safetensors"),
        )
        .unwrap();
        let error = Index::read(&file).unwrap().shard_paths().unwrap_err();
        assert!(
            matches!(error, CheckpointError::ShardOutside { .. }),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_into_the_folder_of_the_real_index_are_allowed_as_in_the_hub_cache() {
        let blobs = tempfile::tempdir().unwrap();
        std::fs::write(
            blobs.path().join("b1"),
            serde_json::json!({"weight_map": {"a": "x.safetensors"}}).to_string(),
        )
        .unwrap();
        std::fs::write(blobs.path().join("b2"), b"x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(blobs.path().join("b1"), dir.path().join(INDEX_FILE)).unwrap();
        std::os::unix::fs::symlink(blobs.path().join("b2"), dir.path().join("x.safetensors"))
            .unwrap();
        assert_eq!(weight_files(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_missing_shard_is_named() {
        let (_dir, file) = index_with("x.safetensors");
        let error = Index::read(&file).unwrap().shard_paths().unwrap_err();
        assert!(
            matches!(&error, CheckpointError::ShardMissing { shard, .. } if shard == "x.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_index_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(INDEX_FILE);
        for text in [
            "{",
            "{}",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": 3}}"#,
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(
                matches!(
                    Index::read(&file).unwrap_err(),
                    CheckpointError::Index { .. }
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn pickled_weights_are_refused_with_the_command_to_convert() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
        let error = weight_files(dir.path()).unwrap_err();
        assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
        assert!(error.hint().unwrap().contains("safe_serialization=True"));
    }

    #[test]
    fn a_folder_with_a_gguf_file_beside_its_configuration_says_how_to_name_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), b"{}").unwrap();
        std::fs::write(dir.path().join("model.gguf"), b"x").unwrap();
        let error = weight_files(dir.path()).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("--model") && hint.contains("model.gguf"),
            "{hint}"
        );
    }

    #[test]
    fn a_folder_without_weights_lists_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), b"{}").unwrap();
        std::fs::write(dir.path().join("training_args.bin"), b"x").unwrap();
        let error = weight_files(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("`config.json`, `training_args.bin`"),
            "{error}"
        );
    }
}
