//! Which programs take a preloaded library.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, getxattr};

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linked with shared libraries: takes a preloaded one.
    Dynamic,
    /// Linked statically: takes none.
    Static,
    /// Of Go: calls the kernel past the C library.
    Go,
    /// For another machine than this, or for one of 32 bits.
    Foreign,
}

/// The file that a program comes to, after all scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Whether it gets rights that its user has not (setuid, setgid, file capabilities): such a program takes no library of
    /// its user's, and loses its rights where it is supervised.
    pub privileged: bool,
}

/// How many scripts may stand one after the other; the kernel has it so.
const DEPTH: usize = 5;
/// How much of a script's first line counts, in bytes (execve(2)).
const LINE: usize = 255;

impl Program {
    /// Looks at what execvp(3) would start, in the folders of `path`. `None` where there is no such program, or it is
    /// of an unknown kind: whoever starts it learns why.
    #[must_use]
    pub fn find(name: &OsStr, path: &OsStr) -> Option<Self> {
        let mut file = search(name, path)?;
        for _ in 0..DEPTH {
            let opened = File::open(&file).ok()?;
            let mut start = [0; LINE];
            let length = opened.read_at(&mut start, 0).ok()?;
            if let Some(next) = interpreter(&start[..length]) {
                file = search(&next, path)?;
                continue;
            }
            let read = |offset: u64, length: usize| {
                let mut bytes = vec![0; length];
                opened.read_exact_at(&mut bytes, offset).ok()?;
                Some(bytes)
            };
            return Some(Self {
                kind: kind(&read)?,
                privileged: is_privileged(&opened, &file),
                path: file,
            });
        }
        None
    }
}

/// As execvp(3) searches.
fn search(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let found = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(found)
}

fn is_privileged(file: &File, path: &Path) -> bool {
    let Ok(about) = file.metadata() else {
        return false;
    };
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let other_user = about.mode() & 0o4000 != 0 && about.uid() != user.as_raw();
    let other_group = about.mode() & 0o2010 == 0o2010 && about.gid() != group.as_raw();
    let capable = || {
        let mut value = [0; 64];
        !user.is_root() && getxattr(path, "security.capability", &mut value[..]).is_ok()
    };
    other_user || other_group || capable()
}

/// What a script names in its first line, with what `env` there would start. A text without such a line is the shell's.
fn interpreter(start: &[u8]) -> Option<OsString> {
    let named = |bytes: &[u8]| Some(OsString::from_vec(bytes.to_vec()));
    let Some(line) = start.strip_prefix(b"#!") else {
        let text = !start.starts_with(b"\x7fELF") && !start.contains(&0);
        return if text { named(b"/bin/sh") } else { None };
    };
    let line = line.split(|byte| *byte == b'\n').next()?;
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .filter(|word| !word.is_empty());
    let first = words.next()?;
    let is_env = first.ends_with(b"/env");
    // Options, and variables that are set.
    let program = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    named(program.filter(|_| is_env).unwrap_or(first))
}

/// Reads `length` bytes of a file at `offset`; `None` where there are fewer.
type Read<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

/// What an ELF file is (elf(5)); `None` where it is none.
fn kind(read: Read<'_>) -> Option<Kind> {
    let header = read(0, 64).or_else(|| read(0, 52))?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    // Of 64 bits, with the lower byte first, as every machine that is served.
    if header[4..6] != [2, 1] || half(&header, 18)? != MACHINE {
        return Some(Kind::Foreign);
    }
    if is_go(read, &header).unwrap_or(false) {
        return Some(Kind::Go);
    }
    let (at, size, count) = (long(&header, 32)?, half(&header, 54)?, half(&header, 56)?);
    let table = read(at, usize::from(size) * usize::from(count))?;
    let mut entries = table.chunks_exact(usize::from(size).max(1));
    // PT_INTERP: the dynamic loader.
    Some(match entries.any(|entry| word(entry, 0) == Some(3)) {
        true => Kind::Dynamic,
        false => Kind::Static,
    })
}

/// This machine's number in ELF files.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(target_arch = "riscv64")]
const MACHINE: u16 = 243;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const MACHINE: u16 = 0;

/// Whether a file has Go's section about how it was built, which every binary of Go keeps.
fn is_go(read: Read<'_>, header: &[u8]) -> Option<bool> {
    let (at, size, count) = (long(header, 40)?, half(header, 58)?, half(header, 60)?);
    let size = usize::from(size).max(64);
    let table = read(at, size * usize::from(count))?;
    let entry = |number: usize| table.get(number * size..(number + 1) * size);
    let names = entry(half(header, 62)?.into())?;
    let length = long(names, 32)?.min(1 << 20);
    let names = read(long(names, 24)?, length as usize)?;
    let mut sections = (0..count.into()).filter_map(entry);
    Some(sections.any(|section| {
        let name = word(section, 0).and_then(|at| names.get(at as usize..));
        name.is_some_and(|name| name.starts_with(b".go.buildinfo\0"))
    }))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A file with program headers of these types and sections of these names.
    fn elf(programs: &[u32], sections: &[&str]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&(programs.len() as u16).to_le_bytes());
        for kind in programs {
            let end = file.len();
            file.resize(end + 56, 0);
            file[end..end + 4].copy_from_slice(&kind.to_le_bytes());
        }
        let names_at = file.len();
        let places: Vec<u32> = sections
            .iter()
            .map(|name| {
                let at = file.len() - names_at;
                file.extend_from_slice(name.as_bytes());
                file.push(0);
                at as u32
            })
            .collect();
        let (names_length, table_at) = (file.len() - names_at, file.len());
        file[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        for place in places {
            let end = file.len();
            file.resize(end + 64, 0);
            file[end..end + 4].copy_from_slice(&place.to_le_bytes());
            file[end + 24..end + 32].copy_from_slice(&(names_at as u64).to_le_bytes());
            file[end + 32..end + 40].copy_from_slice(&(names_length as u64).to_le_bytes());
        }
        file
    }

    fn kind_of(file: &[u8]) -> Option<Kind> {
        kind(&|offset, length| {
            let start = usize::try_from(offset).unwrap();
            Some(file.get(start..start.checked_add(length)?)?.to_vec())
        })
    }

    #[test]
    fn programs_are_told_apart_by_their_headers() {
        assert_eq!(kind_of(&elf(&[6, 3, 1], &[""])), Some(Kind::Dynamic));
        assert_eq!(kind_of(&elf(&[1, 2], &["", ".text"])), Some(Kind::Static));
        assert_eq!(kind_of(&elf(&[1], &[])), Some(Kind::Static));
        let go = ["", ".go.buildinfo"];
        assert_eq!(kind_of(&elf(&[3], &go)), Some(Kind::Go));
        assert_eq!(kind_of(&elf(&[1], &go)), Some(Kind::Go));
        assert_eq!(kind_of(b"#!/bin/sh\n"), None);
        for (at, byte) in [(4, 1), (5, 2), (18, 3)] {
            let mut other = elf(&[3], &[""]);
            other[at] = byte;
            assert_eq!(kind_of(&other), Some(Kind::Foreign));
        }
        // No cut of a file makes more of it than it is.
        let whole = elf(&[3], &go);
        for length in 0..whole.len() {
            assert_ne!(kind_of(&whole[..length]), Some(Kind::Static));
        }
    }

    #[test]
    fn scripts_lead_to_what_runs_them() {
        let named =
            |text: &str| interpreter(text.as_bytes()).map(|name| name.into_string().unwrap());
        for (text, expected) in [
            ("#!/bin/bash -e\nexit", Some("/bin/bash")),
            ("#! /usr/bin/env python3\n", Some("python3")),
            ("#!/usr/bin/env -S A=1 node --x\n", Some("node")),
            ("#!/usr/bin/env\n", Some("/usr/bin/env")),
            ("#!\n", None),
            ("echo hello\n", Some("/bin/sh")),
            ("\x7fELF\x02", None),
            ("\0\0", None),
        ] {
            assert_eq!(named(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn programs_are_found_as_they_are_started() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8], mode: u32| {
            let file = folder.path().join(name);
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            file
        };
        let program = write("program", &elf(&[3], &[""]), 0o755);
        write("script", b"#!/usr/bin/env wrapper\n", 0o755);
        write("wrapper", b"#!/usr/bin/env program\n", 0o755);
        write("loop", b"#!/usr/bin/env loop\n", 0o755);
        write("data", &elf(&[3], &[""]), 0o644);
        write("image", b"\0\0", 0o755);
        let find = |name: &str| Program::find(OsStr::new(name), folder.path().as_os_str());
        let found = find("script").unwrap();
        assert_eq!((found.path, found.kind), (program, Kind::Dynamic));
        assert!(!found.privileged);
        for none in ["loop", "data", "image", "nothing"] {
            assert_eq!(find(none), None, "{none}");
        }
    }
}
