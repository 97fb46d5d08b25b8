//! What is sent: files, folders and all that is in them, standard input.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use underpass_proto::Code;
use underpass_proto::transfer::{Entry, EntryKind, MAX_ENTRIES, path};

use super::Trouble;

/// One file or folder, and what it is offered as.
#[derive(Debug, Clone)]
pub struct Source {
    /// As it is offered.
    pub entry: Entry,
    /// Where it is; none for standard input.
    disk: Option<PathBuf>,
}

/// All that is sent at once.
#[derive(Debug, Default)]
pub struct Sources {
    pub(super) list: Vec<Source>,
    /// What cannot be sent, and is passed over: links and what is no file, inside of folders.
    pub skipped: Vec<PathBuf>,
}

impl Sources {
    /// The files and folders of these names; `-` is standard input, which is offered as `input_name`. What is in a folder
    /// is in the order of its names. Links are followed where they are named, and passed over inside of folders.
    ///
    /// # Errors
    /// One of them cannot be read, has a name that no receiver takes, or one that another has as well.
    pub fn gather(arguments: &[PathBuf], input_name: &str) -> Result<Self, Trouble> {
        let mut sources = Self::default();
        for argument in arguments {
            let top = sources.list.len();
            if argument.as_os_str() == "-" {
                sources.list.push(standard_input(input_name));
            } else {
                let name = own_name(argument)?;
                let metadata =
                    fs::metadata(argument).map_err(|error| unreadable(argument, &error))?;
                sources.add(argument.clone(), name, &metadata)?;
            }
            let (before, added) = sources.list.split_at(top);
            let name = added.first().map(|it| &it.entry.path);
            if before.iter().any(|it| Some(&it.entry.path) == name) {
                let name = name.cloned().unwrap_or_default();
                let text = format!("two of these would be called {name}");
                return Err(Trouble::new(Code::NameInvalid, text));
            }
        }
        for source in &sources.list {
            path::check(&source.entry.path)
                .map_err(|error| Trouble::new(Code::PathRefused, error.to_string()))?;
        }
        match sources.list.len() as u64 > MAX_ENTRIES {
            true => Err(Trouble::new(
                Code::TooLarge,
                format!("these are more than {MAX_ENTRIES} files"),
            )),
            false => Ok(sources),
        }
    }

    /// What is offered.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.list.iter().map(|it| it.entry.clone()).collect()
    }

    fn add(&mut self, disk: PathBuf, name: String, metadata: &Metadata) -> Result<(), Trouble> {
        if metadata.is_file() {
            self.list.push(Source {
                entry: entry_of(EntryKind::File, name, metadata),
                disk: Some(disk),
            });
            return Ok(());
        }
        if !metadata.is_dir() {
            let text = format!("{} is neither a file nor a folder", disk.display());
            return Err(Trouble::new(Code::NameInvalid, text));
        }
        self.list.push(Source {
            entry: entry_of(EntryKind::Folder, name.clone(), metadata),
            disk: Some(disk.clone()),
        });
        let read = fs::read_dir(&disk).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut inside = read.map_err(|error| unreadable(&disk, &error))?;
        inside.sort_by_key(fs::DirEntry::file_name);
        for entry in inside {
            let disk = entry.path();
            // Of the link itself, where it is one.
            let metadata = entry
                .metadata()
                .map_err(|error| unreadable(&disk, &error))?;
            if !metadata.is_file() && !metadata.is_dir() {
                self.skipped.push(disk);
                continue;
            }
            let name = format!("{name}/{}", as_text(&disk)?);
            self.add(disk, name, &metadata)?;
        }
        Ok(())
    }
}

impl Source {
    /// Opens it, if it is still what was offered.
    pub(super) fn open(&self) -> Result<Reading, Trouble> {
        let Some(disk) = &self.disk else {
            return Ok(Reading::Input(Box::new(io::stdin().lock())));
        };
        let opened = File::open(disk).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| unreadable(disk, &error))?;
        match self.is_as_offered(&metadata) {
            true => Ok(Reading::File(file)),
            false => Err(Trouble::of(Code::FileChanged)),
        }
    }

    /// Whether a file was not changed while it was read.
    pub(super) fn is_unchanged(&self, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|metadata| self.is_as_offered(&metadata))
    }

    fn is_as_offered(&self, metadata: &Metadata) -> bool {
        let now = entry_of(EntryKind::File, String::new(), metadata);
        let Entry {
            size,
            modified_s,
            modified_ns,
            ..
        } = self.entry;
        metadata.is_file()
            && (now.size, now.modified_s, now.modified_ns) == (size, modified_s, modified_ns)
    }
}

/// What is read.
pub(super) enum Reading {
    /// A file.
    File(File),
    /// Standard input.
    Input(Box<dyn Read>),
}

fn standard_input(name: &str) -> Source {
    let entry = Entry {
        kind: EntryKind::Open,
        path: name.to_owned(),
        size: 0,
        mode: 0o600,
        modified_s: 0,
        modified_ns: 0,
    };
    Source { entry, disk: None }
}

fn entry_of(kind: EntryKind, path: String, metadata: &Metadata) -> Entry {
    let size = match kind {
        EntryKind::File => metadata.len(),
        _ => 0,
    };
    Entry {
        kind,
        path,
        size,
        mode: metadata.permissions().mode() & 0o777,
        // Files from before 1970 are taken to be from its beginning.
        modified_s: u64::try_from(metadata.mtime()).unwrap_or(0),
        modified_ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// What a file or folder is called by itself, however it was named.
fn own_name(argument: &Path) -> Result<String, Trouble> {
    match argument.file_name() {
        Some(_) => as_text(argument),
        // Such as `.` and `..`.
        None => {
            let real = argument.canonicalize();
            as_text(&real.map_err(|error| unreadable(argument, &error))?)
        }
    }
}

fn as_text(disk: &Path) -> Result<String, Trouble> {
    let name = disk.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        let text = format!(
            "{}: the name is no text (UTF-8), or none at all",
            disk.display()
        );
        Trouble::new(Code::PathRefused, text)
    })
}

fn unreadable(disk: &Path, error: &io::Error) -> Trouble {
    Trouble::of_disk(error, &disk.display().to_string())
}
