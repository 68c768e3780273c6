//! A fresh numbered folder for a run without `--out`.

use std::io;
use std::path::{Path, PathBuf};

/// Creates `root/001`, or the number after the highest one there, and returns it. Two runs that start at the same time
/// get two folders, because creating a folder fails where it exists.
///
/// # Errors
/// When the folder cannot be read or created.
pub fn fresh(root: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(root)?;
    let mut number = 0_u64;
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        number = number.max(
            name.to_str()
                .and_then(|name| name.parse().ok())
                .unwrap_or(0),
        );
    }
    loop {
        number = number.saturating_add(1);
        let path = root.join(format!("{number:03}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u64::MAX => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn folders_are_numbered_after_the_highest() {
        let root = tempfile::tempdir().unwrap();
        let runs = root.path().join("runs");
        assert_eq!(fresh(&runs).unwrap(), runs.join("001"));
        std::fs::create_dir(runs.join("041")).unwrap();
        std::fs::create_dir(runs.join("notes")).unwrap();
        std::fs::write(runs.join("042"), "a file").unwrap();
        assert_eq!(fresh(&runs).unwrap(), runs.join("043"));
        assert_eq!(fresh(&runs).unwrap(), runs.join("044"));
    }
}
