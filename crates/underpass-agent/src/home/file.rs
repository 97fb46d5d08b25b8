//! Files that are replaced whole, and the lock around a change.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::HomeError;

/// Makes a folder, and those above it, which only its owner can look into.
pub(super) fn make_private_folder(path: &Path) -> Result<(), HomeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(HomeError::io("make the folder", path))
}

/// The whole file as text; empty where there is none.
pub(super) fn read_text(path: &Path) -> Result<String, HomeError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(HomeError::io("read", path)),
    }
}

/// Puts `content` in the place of the file, so that a reader, or a machine that lost its power, sees
/// either the old file or the new one. The caller holds the lock.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), HomeError> {
    let temporary = beside(path);
    let written = write_new(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder_of(path));
    if written.is_err() {
        // Nothing can be done about a leftover; the error of the write is what counts.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(HomeError::io("write", path))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of a process that died may have other permissions.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Only so is a rename kept when the power goes.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Held while a file is read, changed and replaced. Ends with the process at the latest.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it ends the lock")] File);

impl Lock {
    /// Waits until no other process holds the lock.
    pub(super) fn take(path: &Path) -> Result<Self, HomeError> {
        let lock = || {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            file.lock()?;
            Ok(Self(file))
        };
        lock().map_err(HomeError::io("lock", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old and longer").unwrap();
        fs::write(dir.path().join("f.new"), "leftover").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(read_text(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none").join("f");
        let error = replace(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("none/f"), "{error}");
        assert_eq!(read_text(&path).unwrap(), "");
        assert!(read_text(dir.path()).is_err());
    }

    #[test]
    fn folders_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_private_folder(&path).unwrap();
        make_private_folder(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
