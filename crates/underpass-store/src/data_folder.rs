//! The relay's data folder: where its database lies, and its secrets as files.
//!
//! Identity secrets are files and not rows: a copied or shared database must not carry the
//! identity of a relay with it.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Length of a secret file in bytes.
pub const SECRET_LEN: usize = 32;

/// Mode bits that let somebody else than the owner at a file.
const OTHERS: u32 = 0o077;

/// A folder that exists and into which only its owner can look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    path: PathBuf,
}

/// Why the data folder or a secret in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// The system refused something.
    #[error("cannot {doing} {}; check that the path is right, that this user may write there, and that the disk has space", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Others than the owner can get at a secret.
    #[error("{} can be read or changed by others (mode {mode:04o}); make a new secret if they may have read it, else run: chmod 600 {}", path.display(), path.display())]
    TooOpen {
        /// The secret's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret is no regular file of [`SECRET_LEN`] bytes.
    #[error("{} is not a secret of 32 bytes; restore it from a backup, or move it away to start with a new identity", path.display())]
    NotASecret {
        /// The secret's file.
        path: PathBuf,
    },
}

impl DataFolder {
    /// Opens the data folder at `path`, making it, and what is missing above it, with mode 0700.
    ///
    /// # Errors
    /// [`DataFolderError::Io`] when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, DataFolderError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io_error("make the folder", path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where the folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the relay's database lies, unless its settings say otherwise.
    #[must_use]
    pub fn database_file(&self) -> PathBuf {
        self.path.join("underpass.db")
    }

    /// The secret in the file `file_name`; where there is no such file, it is made, with mode
    /// 0600, out of what `fresh` returns.
    ///
    /// It appears whole or not at all, and two processes that make it at once end up with the
    /// same one. Blocks on the disk: meant for the start of a program.
    ///
    /// # Errors
    /// [`DataFolderError::TooOpen`] when others could have read it, [`DataFolderError::NotASecret`]
    /// when the file is something else, [`DataFolderError::Io`].
    pub fn load_or_create_secret(
        &self,
        file_name: &str,
        fresh: impl FnOnce() -> Zeroizing<[u8; SECRET_LEN]>,
    ) -> Result<Zeroizing<[u8; SECRET_LEN]>, DataFolderError> {
        let path = self.path.join(file_name);
        match load_secret(&path) {
            Err(DataFolderError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        self.create_secret(&path, &fresh())?;
        // Read back in any case: if another process was faster, its secret is the one.
        load_secret(&path)
    }

    /// Writes a secret beside its place, then links it there, which fails if the place is taken.
    fn create_secret(&self, path: &Path, secret: &[u8; SECRET_LEN]) -> Result<(), DataFolderError> {
        let draft = draft_path(path);
        let written = write_new(&draft, secret).and_then(|()| match fs::hard_link(&draft, path) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        // The draft holds the secret: it must go whether or not the link was made.
        let removed = fs::remove_file(&draft);
        written.map_err(io_error("write", path))?;
        removed.map_err(io_error("remove the draft", &draft))?;
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("write out the folder", &self.path))
    }
}

/// A name that no other process uses at this moment.
fn draft_path(path: &Path) -> PathBuf {
    // Std seeds every `RandomState` differently; enough to keep drafts apart, no secret in it.
    let tag = RandomState::new().build_hasher().finish();
    path.with_extension(format!("{tag:016x}.draft"))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn load_secret(path: &Path) -> Result<Zeroizing<[u8; SECRET_LEN]>, DataFolderError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    // Asked of the open file, so that nobody can exchange it between the question and the reading.
    let metadata = file.metadata().map_err(io_error("look at", path))?;
    if !metadata.is_file() || metadata.len() != SECRET_LEN as u64 {
        return Err(DataFolderError::NotASecret {
            path: path.to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(DataFolderError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    file.read_exact(secret.as_mut_slice())
        .map_err(io_error("read", path))?;
    Ok(secret)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataFolderError + use<> {
    let path = path.to_owned();
    move |cause| DataFolderError::Io { doing, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let outer = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&outer.path().join("a/data")).unwrap();
        (outer, folder)
    }

    fn fresh(byte: u8) -> impl FnOnce() -> Zeroizing<[u8; SECRET_LEN]> {
        move || Zeroizing::new([byte; SECRET_LEN])
    }

    fn never() -> Zeroizing<[u8; SECRET_LEN]> {
        panic!("there is a secret already")
    }

    #[test]
    fn folder_and_secret_are_made_for_their_owner_alone() {
        let (_outer, folder) = folder();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path()), 0o700);
        folder.load_or_create_secret("relay.key", fresh(7)).unwrap();
        assert_eq!(mode(&folder.path().join("relay.key")), 0o600);
    }

    #[test]
    fn a_secret_is_made_once_and_leaves_no_draft() {
        let (_outer, folder) = folder();
        let made = folder.load_or_create_secret("relay.key", fresh(7)).unwrap();
        let loaded = folder.load_or_create_secret("relay.key", never).unwrap();
        assert_eq!((*made, *loaded), ([7; 32], [7; 32]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn makers_at_once_agree_on_one_secret() {
        let (_outer, folder) = folder();
        let start = std::sync::Barrier::new(8);
        let secrets: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|n| {
                    let (folder, start) = (&folder, &start);
                    scope.spawn(move || {
                        start.wait();
                        *folder.load_or_create_secret("relay.key", fresh(n)).unwrap()
                    })
                })
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap())
                .collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_reach_is_refused() {
        let (_outer, folder) = folder();
        folder.load_or_create_secret("relay.key", fresh(7)).unwrap();
        let path = folder.path().join("relay.key");
        for open in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = folder
                .load_or_create_secret("relay.key", never)
                .unwrap_err();
            assert!(matches!(error, DataFolderError::TooOpen { mode, .. } if mode == open));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        for closed in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(closed)).unwrap();
            folder.load_or_create_secret("relay.key", never).unwrap();
        }
    }

    #[test]
    fn what_is_no_secret_is_neither_read_nor_replaced() {
        let (_outer, folder) = folder();
        for (name, content) in [("short", 31), ("long", 33), ("empty", 0)] {
            let path = folder.path().join(name);
            write_new(&path, &vec![7; content]).unwrap();
            let error = folder.load_or_create_secret(name, never).unwrap_err();
            assert!(
                matches!(error, DataFolderError::NotASecret { .. }),
                "{error}"
            );
            assert_eq!(fs::metadata(&path).unwrap().len(), content as u64);
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        let error = folder.load_or_create_secret("folder", never).unwrap_err();
        assert!(
            matches!(error, DataFolderError::NotASecret { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let outer = tempfile::tempdir().unwrap();
        let blocked = outer.path().join("file");
        write_new(&blocked, b"").unwrap();
        let error = DataFolder::open(&blocked.join("data")).unwrap_err();
        assert!(error.to_string().contains("file/data"), "{error}");
    }
}
