//! Whether a folder was written by this program, so that another result may take its place.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::manifest::MANIFEST_FILE;
use super::merged::MERGED_MARK;
use crate::export::TEMPORARY_PREFIX;

/// What `select` and `transfer` write first, also where they are stopped.
const STARTED: [&str; 2] = ["metrics.jsonl", "recipe.yaml"];
/// What a stopped `select` has beside them.
pub const MEASUREMENTS_FILE: &str = "measurements.json";

/// Whether the folder is a result, what a stopped run left, or a merged model.
pub fn is_result(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let is_started = STARTED.into_iter().all(has);
    has(MANIFEST_FILE)
        || (is_started && has(MEASUREMENTS_FILE))
        // A stopped `transfer` leaves nothing else, and these names alone would not be proof enough.
        || (is_started && names(folder) == STARTED.map(String::from).into())
        || is_merged(folder)
}

/// Merged models are for others to load, so they have no file of this program's own; their card says who wrote it.
fn is_merged(folder: &Path) -> bool {
    let card = fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    folder.join("config.json").is_file() && card.lines().any(|line| line.starts_with(MERGED_MARK))
}

/// What is in a folder, the temporary folder of a run apart.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(TEMPORARY_PREFIX))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_user_is_no_result_whatever_its_files_are_called() {
        let is_result_with = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(folder.path().join(name), text).unwrap();
            }
            is_result(folder.path())
        };
        let started = [("metrics.jsonl", ""), ("recipe.yaml", "")];
        assert!(is_result_with(&[(MANIFEST_FILE, "{}"), ("note.txt", "")]));
        assert!(is_result_with(&started));
        let measured = [started[0], started[1], (MEASUREMENTS_FILE, "[]")];
        assert!(is_result_with(
            &[&measured[..], &[("note.txt", "")]].concat()
        ));
        let merged = format!("# A model\n\n{MERGED_MARK}0.1.0 merge`: 5 numbers\n");
        assert!(is_result_with(&[
            ("README.md", &merged),
            ("config.json", "{}")
        ]));

        assert!(!is_result_with(&[]));
        assert!(!is_result_with(&[("README.md", &merged)]));
        assert!(!is_result_with(&[(MEASUREMENTS_FILE, "[]")]));
        assert!(!is_result_with(
            &[&started[..], &[("train.jsonl", "")]].concat()
        ));
        assert!(!is_result_with(&[
            ("README.md", "# A model\n"),
            ("config.json", "{}")
        ]));
    }
}
