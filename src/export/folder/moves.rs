//! Folders change places: by their name where the system allows it, entry by entry where it does not, as at a mount point
//! or the current folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::report::MANIFEST_FILE;

/// How the names of temporary folders begin.
pub const TEMPORARY_PREFIX: &str = ".autopeft-";
/// The name, within a folder of its own, of what was replaced.
const REPLACED: &str = "replaced";

/// Makes `new` the folder at `place`, which is free or an empty folder but for `new` itself. On an error `new` is whole.
pub(super) fn settle(new: &Path, place: &Path) -> io::Result<()> {
    let Err(refused) = fs::rename(new, place) else {
        return Ok(());
    };
    if !place.is_dir() {
        if refused.kind() != io::ErrorKind::CrossesDevices {
            return Err(refused);
        }
        fs::create_dir(place)?;
    }
    move_entries(new, place, &[new])?;
    // Best effort: it is empty, and everything is in its place.
    let _ = fs::remove_dir(new);
    Ok(())
}

/// What is out of the way while something else takes its place. Nothing removes it by itself.
#[derive(Debug)]
pub(super) struct Aside {
    folder: PathBuf,
    was: PathBuf,
}

impl Aside {
    /// Moves what is at `place` aside, except for `new`, which may lie in it.
    pub(super) fn of(place: &Path, new: &Path) -> io::Result<Self> {
        let parent = place.parent().filter(|_| !new.starts_with(place));
        if let Some(Ok(aside)) = parent.map(Self::within) {
            if fs::rename(place, &aside.was).is_ok() {
                return Ok(aside);
            }
            let _ = fs::remove_dir(&aside.folder);
        }
        let aside = Self::within(place)?;
        fs::create_dir(&aside.was)?;
        let moved = move_entries(place, &aside.was, &[new, &aside.folder]);
        if moved.is_err() {
            aside.clean();
        }
        moved.map(|()| aside)
    }

    fn within(folder: &Path) -> io::Result<Self> {
        let unique = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempdir_in(folder)?;
        let folder = unique.keep();
        Ok(Self {
            was: folder.join(REPLACED),
            folder,
        })
    }

    /// Moves it back, as far as that is possible.
    pub(super) fn restore(self, place: &Path) {
        if settle(&self.was, place).is_ok() {
            self.clean();
        }
    }

    /// Removes it.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }

    /// Removes what of it is empty.
    fn clean(&self) {
        let _ = fs::remove_dir(&self.was);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Moves the entries of a folder into another one, except for some. All of them or, after an error, none.
fn move_entries(from: &Path, to: &Path, except: &[&Path]) -> io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !except.contains(&entry.path().as_path()) {
            names.push(entry.file_name());
        }
    }
    // By this file a folder is a result, so it comes last.
    names.sort_by_key(|name| name == MANIFEST_FILE);
    for (number, name) in names.iter().enumerate() {
        if let Err(error) = move_one(&from.join(name), &to.join(name)) {
            for name in names.iter().take(number) {
                // Best effort: the error to report is the first one.
                let _ = move_one(&to.join(name), &from.join(name));
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Moves a file or folder; across file systems as a copy.
fn move_one(from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => move_by_copy(from, to),
        other => other,
    }
}

fn move_by_copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Err(error) = copy(from, to) {
        let _ = remove(to);
        return Err(error);
    }
    // Best effort: what is left of the original is a second copy.
    let _ = remove(from);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        fs::copy(from, to)?;
        return fs::File::open(to)?.sync_all();
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// A folder with a file, and a folder with another one.
    fn filled(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.join("part")).unwrap();
        fs::write(path.join("part/b.txt"), "b").unwrap();
        fs::write(path.join("a.txt"), "a").unwrap();
        path
    }

    fn is_filled(path: &Path) -> bool {
        let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default();
        (read("a.txt"), read("part/b.txt")) == ("a".into(), "b".into())
            && fs::read_dir(path).unwrap().count() == 2
    }

    /// As at a mount point: a folder is not renamed to one that is not empty.
    #[test]
    fn where_a_folder_cannot_be_renamed_its_entries_move() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("place");
        let new = filled(place.join(".new"));
        settle(&new, &place).unwrap();
        assert!(is_filled(&place));
    }

    #[test]
    fn when_an_entry_cannot_be_moved_all_stay() {
        let root = tempfile::tempdir().unwrap();
        let new = filled(root.path().join("new"));
        let place = root.path().join("place");
        fs::create_dir_all(place.join("part")).unwrap();
        assert!(settle(&new, &place).is_err());
        assert!(is_filled(&new));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    }

    #[test]
    fn what_is_aside_is_put_back_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let place = filled(root.path().join("place"));
        let beside = root.path().join("new");
        for new in [beside, place.join(".new")] {
            fs::create_dir(&new).unwrap();
            let aside = Aside::of(&place, &new).unwrap();
            assert!(!place.join("a.txt").exists() && new.exists());
            aside.restore(&place);
            fs::remove_dir(&new).unwrap();
            assert!(is_filled(&place));
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
        Aside::of(&place, root.path()).unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_has_everything_and_the_original_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let from = filled(root.path().join("from"));
        let to = root.path().join("to");
        move_by_copy(&from, &to).unwrap();
        assert!(is_filled(&to) && !from.exists());
        // A copy that fails leaves the original alone.
        assert!(move_by_copy(&to, &root.path().join("nowhere/to")).is_err());
        assert!(is_filled(&to));
    }
}
