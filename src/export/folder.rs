//! A folder that appears under its name only when it is complete.

mod moves;

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::inputs::{Input, check_inputs};
use crate::error::{Error, Result};
use crate::report::is_result;
pub use moves::TEMPORARY_PREFIX;
use moves::{Aside, settle};

/// A temporary folder that becomes the output when it is [committed](OutputFolder::commit), and is
/// removed when it is dropped before.
#[derive(Debug)]
pub struct OutputFolder {
    /// As the user named it.
    target: PathBuf,
    /// The same, absolute and without links.
    place: PathBuf,
    temporary: tempfile::TempDir,
    replace: bool,
}

impl OutputFolder {
    /// Prepares the output at `target`. What is there already is left alone until the commit, and then
    /// replaced only with `replace`, and only if this program wrote it; `inputs` are never replaced.
    ///
    /// # Errors
    /// Those of [`OutputFolder::check`]; [`Error::Io`] when the parent folder cannot be written.
    pub fn prepare(target: &Path, replace: bool, inputs: &[Input<'_>]) -> Result<Self> {
        Self::check(target, replace, inputs)?;
        let place = resolve(target)?;
        let within = |folder: &Path| {
            tempfile::Builder::new()
                .prefix(TEMPORARY_PREFIX)
                .tempdir_in(folder)
        };
        let parent = place.parent().filter(|_| !is_fixed(&place));
        let temporary = match parent.map(within) {
            Some(Ok(temporary)) => Ok(temporary),
            // A folder may be writable where the one that it is in is not.
            _ if place.is_dir() => within(&place).map_err(Error::io("writing into", target)),
            Some(Err(error)) => Err(Error::io("writing into", parent_of(target))(error)),
            None => Err(Error::io("creating", target)(
                io::ErrorKind::InvalidInput.into(),
            )),
        }?;
        Ok(Self {
            target: target.to_path_buf(),
            place,
            temporary,
            replace,
        })
    }

    /// Whether an output can go to `target`, before anything is done for it.
    ///
    /// # Errors
    /// [`Error::OutputIsInput`] for an input, a folder that contains one, or the current folder unless it is empty;
    /// [`Error::OutputForeign`] for a folder with anything that this program did not write;
    /// [`Error::OutputNoFolder`] for a file; [`Error::OutputExists`] for a result, without `replace`.
    pub fn check(target: &Path, replace: bool, inputs: &[Input<'_>]) -> Result<()> {
        check_inputs(target, inputs)?;
        check(target, target, replace, None).map(|_| ())
    }

    /// The temporary folder to write into.
    pub fn path(&self) -> &Path {
        self.temporary.path()
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
        let name = self.place.file_name().unwrap_or_default().to_os_string();
        let mut number = 0u32;
        while let Ok(content) = content(&self.place, Some(self.temporary.path()))
            && content != Content::Nothing
        {
            number += 1;
            let mut free = name.clone();
            free.push(format!(".interrupted-{number}"));
            self.place.set_file_name(&free);
            self.target = match self.target.file_name() {
                Some(_) => self.target.with_file_name(free),
                None => self.place.clone(),
            };
        }
        self.put("what was measured so far")
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Uncommitted`], when something appeared there meanwhile, or the system refuses it. Then what was there
    /// before is still there, and what was written is in the temporary folder, which stays.
    pub fn commit(self) -> Result<PathBuf> {
        self.put("the finished result")
    }

    fn put(self, what: &'static str) -> Result<PathBuf> {
        let Self {
            target,
            place,
            temporary,
            replace,
        } = self;
        // It may have taken hours: from here on it is never removed.
        let new = temporary.keep();
        let uncommitted = |folder: &Path, source: Error| Error::Uncommitted {
            target: target.clone(),
            what,
            folder: folder.to_path_buf(),
            source: Box::new(source),
        };
        let old = exchange(&new, &target, &place, replace).map_err(|e| uncommitted(&new, e))?;
        sync(&place);
        place.parent().into_iter().for_each(sync);
        if let Some(old) = old {
            let removed = old
                .remove()
                .map_err(Error::io("removing what was in", &place));
            removed.map_err(|error| uncommitted(&target, error))?;
        }
        Ok(target)
    }
}

/// Makes `new` the folder at `place`, and gives what was there.
fn exchange(new: &Path, target: &Path, place: &Path, replace: bool) -> Result<Option<Aside>> {
    let content = check(target, place, replace, Some(new))?;
    open_to_all(new)?;
    sync(new);
    let old = match content {
        Content::Nothing => None,
        Content::Result | Content::Foreign | Content::File => {
            Some(Aside::of(place, new).map_err(Error::io("moving", place))?)
        }
    };
    match settle(new, place) {
        Ok(()) => Ok(old),
        Err(source) => {
            if let Some(old) = old {
                old.restore(place);
            }
            Err(Error::io("creating", target)(source))
        }
    }
}

fn parent_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The absolute path of the target without links; the folders above it are made where they are missing.
fn resolve(target: &Path) -> Result<PathBuf> {
    if let Ok(place) = target.canonicalize() {
        return Ok(place);
    }
    let Some(name) = target.file_name() else {
        return Err(Error::io("creating", target)(
            io::ErrorKind::InvalidInput.into(),
        ));
    };
    let parent = parent_of(target);
    fs::create_dir_all(&parent).map_err(Error::io("creating", &parent))?;
    let parent = (parent.canonicalize()).map_err(Error::io("reading", parent))?;
    Ok(parent.join(name))
}

/// Whether a folder has to stay where it is, so that only what is in it can be exchanged: the current folder, in which
/// this program and the user's shell are, and a mount point, which the system does not rename.
fn is_fixed(place: &Path) -> bool {
    place.is_dir() && (is_current(place) || is_mount(place))
}

fn is_current(place: &Path) -> bool {
    let current = std::env::current_dir().and_then(|current| current.canonicalize());
    current.is_ok_and(|current| current == place)
}

#[cfg(unix)]
fn is_mount(place: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    (place.parent()).is_some_and(|parent| device(parent) != device(place))
}

#[cfg(not(unix))]
fn is_mount(_: &Path) -> bool {
    false
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Nothing, or an empty folder, which is as good as none.
    Nothing,
    /// What this program wrote.
    Result,
    /// What it did not write.
    Foreign,
    /// No folder.
    File,
}

/// What is at `place`, the temporary folder `own` apart.
fn content(place: &Path, own: Option<&Path>) -> Result<Content> {
    match fs::read_dir(place) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(Error::io("reading", place))?.path();
                if Some(path.as_path()) != own {
                    return Ok(match is_result(place) {
                        true => Content::Result,
                        false => Content::Foreign,
                    });
                }
            }
            Ok(Content::Nothing)
        }
        Err(error) => match error.kind() {
            // A link to nothing is not found either.
            io::ErrorKind::NotFound if place.symlink_metadata().is_err() => Ok(Content::Nothing),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Content::File),
            _ => Err(Error::io("reading", place)(error)),
        },
    }
}

/// Fails unless the output can go to `place`, which messages call `target`.
fn check(target: &Path, place: &Path, replace: bool, own: Option<&Path>) -> Result<Content> {
    let path = target.to_path_buf();
    let content = content(place, own)?;
    match content {
        Content::Nothing => {}
        Content::Foreign => return Err(Error::OutputForeign { path }),
        Content::File => return Err(Error::OutputNoFolder { path }),
        Content::Result => {
            // Whoever stands in it would stand in nothing.
            check_inputs(target, &[Input::new("the current folder", ".")])?;
            if !replace {
                return Err(Error::OutputExists { path });
            }
        }
    }
    Ok(content)
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

/// Best effort: not every file system, and not every user, can sync a folder.
fn sync(folder: &Path) {
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a failure to set up is a failure of the test"
)]
mod tests {
    use super::*;
    use crate::report::MANIFEST_FILE;

    #[test]
    fn nothing_appears_before_the_commit() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = OutputFolder::prepare(&target, false, &[]).unwrap();
        output.write("a.txt", "a").unwrap();
        assert!(!target.exists());
        drop(output);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_error_names_the_target_and_not_the_temporary_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = OutputFolder::prepare(&target, false, &[]).unwrap();
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

    /// A folder with a file, and the one by which it is known to be a result.
    fn output(target: &Path, replace: bool, text: &str) -> OutputFolder {
        let output = OutputFolder::prepare(target, replace, &[]).unwrap();
        output.write("a.txt", text).unwrap();
        output.write(MANIFEST_FILE, "{}").unwrap();
        output
    }

    fn text(target: &Path) -> String {
        fs::read_to_string(target.join("a.txt")).unwrap()
    }

    #[test]
    fn a_result_is_replaced_only_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        for text in ["first", "second"] {
            output(&target, true, text).commit().unwrap();
        }
        assert_eq!(text(&target), "second");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        let refused = OutputFolder::prepare(&target, false, &[]);
        assert!(matches!(refused, Err(Error::OutputExists { .. })));
        assert_eq!(text(&target), "second");
    }

    #[test]
    fn a_folder_that_is_no_result_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("project");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("train.jsonl"), "{}").unwrap();
        for replace in [false, true] {
            let error = OutputFolder::prepare(&target, replace, &[]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("is not empty, and no result of autopeft")
            );
            assert!(error.hint().unwrap().contains("another folder"));
        }
        let error = OutputFolder::prepare(&target.join("train.jsonl"), true, &[]).unwrap_err();
        assert!(matches!(error, Error::OutputNoFolder { .. }), "{error:?}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_somebody_put_in_the_way_is_not_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        output(&target, false, "first").commit().unwrap();
        let left = root.path().join("out.replaced");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("mine.txt"), "mine").unwrap();
        output(&target, true, "second").commit().unwrap();
        assert_eq!(text(&target), "second");
        assert!(left.join("mine.txt").exists());
    }

    #[test]
    fn what_was_written_stays_when_it_cannot_get_its_name() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = output(&target, true, "finished");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("mine.txt"), "mine").unwrap();
        let error = output.commit().unwrap_err();
        let Error::Uncommitted { folder, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(text(folder), "finished");
        let message = error.to_string();
        assert!(message.contains(&format!("the finished result is in `{}`", folder.display())));
        assert!(error.hint().unwrap().contains("move it"));
        assert!(target.join("mine.txt").exists());
    }

    /// As at a mount point and in the current folder: the temporary folder is within the output.
    #[test]
    fn a_folder_that_stays_where_it_is_is_filled() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("mount");
        fs::create_dir(&target).unwrap();
        let filled = |text: &str| {
            let mut output = output(&target, true, text);
            let within = tempfile::Builder::new()
                .prefix(TEMPORARY_PREFIX)
                .tempdir_in(&target)
                .unwrap();
            for entry in fs::read_dir(output.path()).unwrap() {
                let entry = entry.unwrap();
                fs::rename(entry.path(), within.path().join(entry.file_name())).unwrap();
            }
            output.temporary = within;
            output
        };
        for written in ["first", "second"] {
            filled(written).commit().unwrap();
            assert_eq!(text(&target), written);
            assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
        }
        let partial = filled("third").commit_partial().unwrap();
        assert_eq!(partial, root.path().join("mount.interrupted-1"));
        assert_eq!(
            (text(&target), text(&partial)),
            ("second".into(), "third".into())
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_to_a_folder_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (disk, link) = (root.path().join("disk"), root.path().join("link"));
        fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        assert_eq!(output(&link, false, "first").commit().unwrap(), link);
        assert_eq!(text(&disk), "first");
    }
}
