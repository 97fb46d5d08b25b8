//! The receiver's folder: nothing is written outside of it, through links, or in the place of another file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_OMIT,
};
use rustix::io::Errno;
use underpass_proto::Code;
use underpass_proto::transfer::{Entry, EntryKind};
use underpass_seal::Sha256;

use super::extent::{add_zeros, digest_of};
use super::{Digest, Trouble, part_name};

/// How often a part is opened again that somebody else finished meanwhile.
const TRIES: usize = 5;

/// What there is in a file's place already.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// A file of this size, with the name.
    pub(super) whole: Option<u64>,
    /// Something else of that name.
    pub(super) other: bool,
    /// So much of a file that has not arrived yet.
    pub(super) part: Option<u64>,
}

/// The folder below which everything goes.
#[derive(Debug)]
pub(super) struct Place {
    root: Arc<OwnedFd>,
    overwrite: bool,
    /// The folder that was used last.
    last: Option<(String, Arc<OwnedFd>)>,
}

/// A file that is being written, beside its place and under another name.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    folder: Arc<OwnedFd>,
    name: String,
    part_name: String,
    at: u64,
    digest: Sha256,
}

impl Place {
    /// # Errors
    /// There is no such folder.
    pub(super) fn open(root: &Path, overwrite: bool) -> Result<Self, Trouble> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = fs::open(root, flags, Mode::empty());
        let root =
            opened.map_err(|error| Trouble::of_disk(&error.into(), &root.display().to_string()))?;
        Ok(Self {
            root: Arc::new(root),
            overwrite,
            last: None,
        })
    }

    /// Makes a folder, or uses the one that is there; whether it was made.
    ///
    /// # Errors
    /// Something else is there, or a link on the way.
    pub(super) fn make_folder(&mut self, path: &str) -> Result<bool, Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, path);
        let (folder, name) = self.parent(path).map_err(told)?;
        let made = match fs::mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(told(error.into())),
        };
        enter(&folder, name).map_err(told)?;
        Ok(made)
    }

    /// Gives a folder that was made its permissions and time.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn finish_folder(&mut self, entry: &Entry) -> Result<(), Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, &entry.path);
        let (folder, name) = self.parent(&entry.path).map_err(told)?;
        let folder = enter(&folder, name).map_err(told)?;
        set_metadata(&folder, entry).map_err(told)
    }

    /// What there is in the place of a file.
    ///
    /// # Errors
    /// A link, or a file, is on the way.
    pub(super) fn look(&mut self, path: &str) -> Result<Found, Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, path);
        let (folder, name) = match self.parent(path) {
            Ok(found) => found,
            // Where there is no folder there is no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
            Err(error) => return Err(told(error)),
        };
        let whole = stat(&folder, name).map_err(told)?;
        let part = stat(&folder, &part_name(name)).map_err(told)?;
        let size = |stat: &fs::Stat| -> Option<u64> {
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            regular.then(|| u64::try_from(stat.st_size).unwrap_or(0))
        };
        Ok(Found {
            whole: whole.as_ref().and_then(size),
            other: whole.as_ref().is_some_and(|it| size(it).is_none()),
            part: part.as_ref().and_then(size),
        })
    }

    /// Whether files may take the place of others.
    pub(super) fn overwrites(&self) -> bool {
        self.overwrite
    }

    /// Whether the file that is there begins with so many bytes of this digest.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn begins_with(
        &mut self,
        path: &str,
        length: u64,
        digest: &Digest,
    ) -> Result<bool, Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, path);
        let (folder, name) = self.parent(path).map_err(told)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = fs::openat(&folder, name, flags, Mode::empty());
        let file = File::from(opened.map_err(|error| told(error.into()))?);
        let found = digest_of(&file, length).map_err(told)?;
        Ok(found.digest() == *digest)
    }

    /// Opens the part of a file, which must begin with so many bytes of this digest, or else begins anew.
    ///
    /// # Errors
    /// It cannot be opened, or somebody else is writing it.
    pub(super) fn open_part(
        &mut self,
        path: &str,
        wanted: Option<(u64, Digest)>,
    ) -> Result<Part, Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, path);
        let (folder, name) = self.parent(path).map_err(told)?;
        let part_name = part_name(name);
        let file = lock_part(&folder, &part_name).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let text = format!("{path} is being received from somebody else just now");
                Trouble::new(Code::Busy, text)
            }
            _ => told(error),
        })?;
        let agreed = wanted.and_then(|(length, digest)| {
            let found = digest_of(&file, length).ok()?;
            (found.digest() == digest).then_some((length, found))
        });
        let (at, digest) = agreed.unwrap_or_default();
        file.set_len(at).map_err(told)?;
        Ok(Part {
            file,
            name: name.to_owned(),
            folder,
            part_name,
            at,
            digest,
        })
    }

    /// The folder that a path lies in, and the name there. No link is followed.
    fn parent<'a>(&mut self, path: &'a str) -> io::Result<(Arc<OwnedFd>, &'a str)> {
        let Some((parent, name)) = path.rsplit_once('/') else {
            return Ok((Arc::clone(&self.root), path));
        };
        if let Some((last, folder)) = &self.last
            && last == parent
        {
            return Ok((Arc::clone(folder), name));
        }
        let mut folder = Arc::clone(&self.root);
        for name in parent.split('/') {
            folder = Arc::new(enter(&folder, name)?);
        }
        self.last = Some((parent.to_owned(), Arc::clone(&folder)));
        Ok((folder, name))
    }
}

impl Part {
    /// How many bytes there are.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Their digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest.digest()
    }

    /// # Errors
    /// The disk is full, or fails.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(())
    }

    /// Zeros that take no place here either.
    ///
    /// # Errors
    /// The file system has no files of that size.
    pub(super) fn skip(&mut self, length: u64) -> io::Result<()> {
        let at = self.at.saturating_add(length);
        self.file.set_len(at)?;
        self.at = at;
        add_zeros(&mut self.digest, length);
        Ok(())
    }

    /// Forgets what was written.
    pub(super) fn discard(self) {
        // Where that fails, the next attempt finds that the digests differ.
        let _ = fs::unlinkat(&self.folder, &*self.part_name, AtFlags::empty());
    }

    /// Has all bytes on the disk.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub(super) fn store(&self, entry: &Entry) -> Result<(), Trouble> {
        let stored = set_metadata(&self.file, entry).and_then(|()| self.file.sync_all());
        stored.map_err(|error| Trouble::of_disk(&error, &entry.path))
    }

    /// Gives the file the name that it is to have; [`settle`] makes the name last.
    ///
    /// # Errors
    /// There is a file of that name, or the disk fails. The part is still there then.
    pub(super) fn name(&self, entry: &Entry, overwrite: bool) -> Result<Arc<OwnedFd>, Trouble> {
        let told = |error: io::Error| Trouble::of_disk(&error, &entry.path);
        let (folder, part, name) = (&self.folder, &*self.part_name, &*self.name);
        let renamed = match overwrite {
            true => fs::renameat(folder, part, folder, name),
            false => rename_to_free(folder, part, name),
        };
        match renamed {
            Ok(()) => Ok(Arc::clone(folder)),
            Err(Errno::EXIST) => Err(Trouble::of(Code::FileExists)),
            Err(error) => Err(told(error.into())),
        }
    }
}

/// Makes the names in folders last.
///
/// # Errors
/// The disk fails.
pub(super) fn settle(folders: &[Arc<OwnedFd>]) -> io::Result<()> {
    for (at, folder) in folders.iter().enumerate() {
        if !folders[..at].iter().any(|it| Arc::ptr_eq(it, folder)) {
            fs::fsync(folder)?;
        }
    }
    Ok(())
}

/// Gives a file a name that nothing has.
fn rename_to_free(folder: &OwnedFd, from: &str, to: &str) -> rustix::io::Result<()> {
    match fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // File systems that cannot do it at once.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::linkat(folder, from, folder, to, AtFlags::empty())?;
            fs::unlinkat(folder, from, AtFlags::empty())
        }
        done => done,
    }
}

fn enter(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(folder, name, flags, Mode::empty())?)
}

fn stat(folder: &OwnedFd, name: &str) -> io::Result<Option<fs::Stat>> {
    match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a part for writing, as the only one who does.
fn lock_part(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        let file = fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let (ours, there) = (fs::fstat(&file)?, stat(folder, name)?);
        let same = there.is_some_and(|it| (it.st_dev, it.st_ino) == (ours.st_dev, ours.st_ino));
        if !same {
            // Whoever had it locked gave it its name meanwhile.
            continue;
        }
        // Another name of it would be written to as well.
        if FileType::from_raw_mode(ours.st_mode) != FileType::RegularFile || ours.st_nlink != 1 {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        return Ok(file.into());
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Permissions and the time of the last change, as they were at the sender's; nothing that gives rights.
fn set_metadata(file: &impl rustix::fd::AsFd, entry: &Entry) -> io::Result<()> {
    if entry.kind != EntryKind::Open {
        let omitted = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let modified = Timespec {
            tv_sec: i64::try_from(entry.modified_s).unwrap_or(i64::MAX),
            tv_nsec: entry.modified_ns.min(999_999_999).into(),
        };
        let times = Timestamps {
            last_access: omitted,
            last_modification: modified,
        };
        fs::futimens(file, &times)?;
    }
    Ok(fs::fchmod(file, Mode::from_raw_mode(entry.mode & 0o777))?)
}
