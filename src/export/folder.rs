//! A folder that appears under its name only when it is complete.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A temporary folder that becomes the output when it is [committed](OutputFolder::commit), and is
/// removed otherwise.
#[derive(Debug)]
pub struct OutputFolder {
    target: PathBuf,
    temporary: Option<tempfile::TempDir>,
    replace: bool,
}

impl OutputFolder {
    /// Prepares the output at `target`. What is there already is left alone until the commit, and then
    /// replaced only with `replace`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when something is there and may not be replaced; [`Error::Io`] when the
    /// parent folder cannot be written.
    pub fn prepare(target: &Path, replace: bool) -> Result<Self> {
        check(target, replace)?;
        let parent = parent(target);
        fs::create_dir_all(&parent).map_err(Error::io("creating", &parent))?;
        let temporary = tempfile::Builder::new()
            .prefix(".autopeft-")
            .tempdir_in(&parent)
            .map_err(Error::io("writing into", &parent))?;
        Ok(Self {
            target: target.to_path_buf(),
            temporary: Some(temporary),
            replace,
        })
    }

    /// The temporary folder to write into.
    pub fn path(&self) -> &Path {
        self.temporary
            .as_ref()
            .map_or(&self.target, tempfile::TempDir::path)
    }

    /// Where the result goes.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes a text file and syncs it.
    ///
    /// # Errors
    /// [`Error::Io`] names the file.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::io::Write;
        let path = self.path().join(name);
        let shown = self.target.join(name);
        let mut file = fs::File::create(&path).map_err(Error::io("creating", &shown))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(Error::io("writing", shown))
    }

    /// An error about a file in the temporary folder, with the place where the user would have found it.
    pub fn shown(&self, error: Error) -> Error {
        let (action, path, source) = match error {
            Error::Adapters(autopeft_adapters::Error::Io {
                action,
                path,
                source,
            })
            | Error::Io {
                action,
                path,
                source,
            } => (action, path, source),
            other => return other,
        };
        let path = match path.strip_prefix(self.path()) {
            Ok(name) => self.target.join(name),
            Err(_) => path,
        };
        Error::Io {
            action,
            path,
            source,
        }
    }

    /// Gives the folder, whose content is not a whole result, a name: the target's where that is free,
    /// otherwise the first free of `NAME.interrupted-1`, `-2`, …, since half a result replaces no whole one.
    ///
    /// # Errors
    /// As for [`OutputFolder::commit`].
    pub fn commit_partial(mut self) -> Result<PathBuf> {
        self.replace = false;
        let name = self.target.file_name().unwrap_or_default().to_os_string();
        let mut number = 0u32;
        while check(&self.target, false).is_err() {
            number += 1;
            let mut free = name.clone();
            free.push(format!(".interrupted-{number}"));
            self.target.set_file_name(free);
        }
        self.commit()
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when something appeared there meanwhile; [`Error::Io`] otherwise. Then what
    /// was there before is still there.
    pub fn commit(mut self) -> Result<PathBuf> {
        check(&self.target, self.replace)?;
        let Some(temporary) = self.temporary.take() else {
            return Ok(self.target.clone());
        };
        open_to_all(temporary.path())?;
        sync(temporary.path())?;
        let old = if self.target.exists() {
            let mut name = self.target.file_name().unwrap_or_default().to_os_string();
            name.push(".replaced");
            let old = self.target.with_file_name(name);
            fs::rename(&self.target, &old).map_err(Error::io("moving", &self.target))?;
            Some(old)
        } else {
            None
        };
        if let Err(source) = fs::rename(temporary.path(), &self.target) {
            if let Some(old) = &old {
                // Best effort: the error to report is the first one.
                let _ = fs::rename(old, &self.target);
            }
            return Err(Error::io("creating", &self.target)(source));
        }
        // The temporary folder no longer exists under its own name, so there is nothing to remove.
        let _ = temporary.keep();
        if let Some(old) = old {
            fs::remove_dir_all(&old).map_err(Error::io("removing", old))?;
        }
        sync(&parent(&self.target))?;
        Ok(self.target.clone())
    }
}

fn parent(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// An empty folder is as good as none.
fn check(target: &Path, replace: bool) -> Result<()> {
    let is_free = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free || (replace && target.is_dir()) {
        return Ok(());
    }
    Err(Error::OutputExists {
        path: target.to_path_buf(),
    })
}

/// Temporary folders are private to the user; a result follows the user's own mask, as a plain
/// `mkdir` would.
#[cfg(unix)]
fn open_to_all(folder: &Path) -> Result<()> {
    let probe = folder.join(".mode");
    fs::create_dir(&probe).map_err(Error::io("creating", &probe))?;
    let mode = fs::metadata(&probe)
        .map_err(Error::io("reading", &probe))?
        .permissions();
    fs::remove_dir(&probe).map_err(Error::io("removing", &probe))?;
    fs::set_permissions(folder, mode).map_err(Error::io("changing", folder))
}

#[cfg(not(unix))]
fn open_to_all(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync(folder: &Path) -> Result<()> {
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("syncing", folder))
}

#[cfg(not(unix))]
fn sync(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a failure to set up is a failure of the test"
)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_before_the_commit() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = OutputFolder::prepare(&target, false).unwrap();
        output.write("a.txt", "a").unwrap();
        assert!(!target.exists());
        drop(output);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_error_names_the_target_and_not_the_temporary_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = OutputFolder::prepare(&target, false).unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = output.shown(Error::Adapters(autopeft_adapters::Error::Io {
            action: "writing",
            path: output.path().join("peft").join("a.json"),
            source: full(),
        }));
        let Error::Io { path, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*path, target.join("peft").join("a.json"));
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_result_is_replaced_only_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        for text in ["first", "second"] {
            let output = OutputFolder::prepare(&target, true).unwrap();
            output.write("a.txt", text).unwrap();
            output.commit().unwrap();
        }
        assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), "second");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        let refused = OutputFolder::prepare(&target, false);
        assert!(matches!(refused, Err(Error::OutputExists { .. })));
        assert_eq!(fs::read_to_string(target.join("a.txt")).unwrap(), "second");
    }
}
