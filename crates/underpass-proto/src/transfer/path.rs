//! Names that files may arrive under: none leads out of the receiver's folder, means a device, or shows as another one.

use thiserror::Error;

/// The longest name of a file or folder, in bytes, on the file systems in use.
pub const MAX_COMPONENT: usize = 255;
/// Folders within folders at the most.
pub const MAX_DEPTH: usize = 64;
/// What the name of a file ends with that has not arrived yet.
pub const PART_SUFFIX: &str = ".underpass-part";

/// Why a path is not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// There is nothing, at the beginning, in the middle or at the end: also of what is absolute.
    #[error("{0:?} has an empty name in it, or is absolute")]
    Empty(String),
    /// `.` or `..`.
    #[error("{0:?} leads elsewhere")]
    Dots(String),
    /// A character that steers terminals or other systems.
    #[error("{0:?} has the character {1:?} in it")]
    Character(String, char),
    /// Something that is no file on Windows, or another one than it seems.
    #[error("{0:?} means a device or another name on some systems")]
    Device(String),
    /// A part of a file that has not arrived yet.
    #[error("{0:?} is what files are called that have not arrived yet")]
    Part(String),
    /// Longer or deeper than can be.
    #[error("{0:?} is too long, or in too many folders")]
    TooLong(String),
}

/// Checks a path below the receiver's folder: names with slashes between them.
///
/// # Errors
/// [`PathError`] with the first thing that is wrong.
pub fn check(path: &str) -> Result<(), PathError> {
    if path.split('/').count() > MAX_DEPTH {
        return Err(PathError::TooLong(path.to_owned()));
    }
    path.split('/').try_for_each(check_name)
}

/// Checks one name.
///
/// # Errors
/// [`PathError`] with the first thing that is wrong.
pub fn check_name(name: &str) -> Result<(), PathError> {
    let text = || name.to_owned();
    if name.is_empty() {
        return Err(PathError::Empty(text()));
    }
    if name == "." || name == ".." {
        return Err(PathError::Dots(text()));
    }
    if name.len() > MAX_COMPONENT {
        return Err(PathError::TooLong(text()));
    }
    if let Some(c) = name.chars().find(|c| is_barred(*c)) {
        return Err(PathError::Character(text(), c));
    }
    if is_device(name) || name.ends_with(['.', ' ']) {
        return Err(PathError::Device(text()));
    }
    if name.ends_with(PART_SUFFIX) {
        return Err(PathError::Part(text()));
    }
    Ok(())
}

/// Separators, control characters, and those that turn the direction of writing, by which `gpj.exe` looks like a picture
/// (Unicode UAX #9, section 2).
fn is_barred(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() || matches!(c, '/' | '\\')
}

/// Names of devices, with any extension, and of drives, on Windows ("Naming Files, Paths, and Namespaces").
fn is_device(name: &str) -> bool {
    let drive = name.as_bytes();
    if drive.len() >= 2 && drive[0].is_ascii_alphabetic() && drive[1] == b':' {
        return true;
    }
    let stem = name.split(['.', ':']).next().unwrap_or_default();
    let stem = stem.trim_end().to_ascii_uppercase();
    let numbered = |port: &str| {
        let number = stem.strip_prefix(port).map(|rest| rest.chars());
        number.is_some_and(|mut rest| {
            let digit = rest.next();
            rest.next().is_none()
                && digit.is_some_and(|c| c.is_ascii_digit() && c != '0' || "¹²³".contains(c))
        })
    };
    let named = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
    named.contains(&&*stem) || numbered("COM") || numbered("LPT")
}

/// What a file is called, beside its place, until all of it is there. A name that would become too long for that is
/// taken by its digest, which `digest` computes of it.
#[must_use]
pub fn part_name(name: &str, digest: impl FnOnce(&[u8]) -> [u8; 32]) -> String {
    if name.len() + 1 + PART_SUFFIX.len() <= MAX_COMPONENT {
        return format!(".{name}{PART_SUFFIX}");
    }
    let digest = digest(name.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(".{hex}{PART_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_taken() {
        for path in [
            "a",
            "a/b/c.txt",
            ".hidden",
            "..a",
            "a..b",
            "...a",
            "with space",
            "-rf",
            "über/ünicode/日本",
            "12:30.log",
            "console",
            "com",
            "com10",
            "lpt",
            "nullable.txt",
            "a~1",
            "*?<>|\"",
        ] {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn tricks_are_not() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            ".",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a\\b",
            "..\\a",
            "C:\\a",
            "c:a",
            "C:",
            "a\0b",
            "a\nb",
            "a\u{1b}[2J",
            "a\u{9b}",
            "CON",
            "con.txt",
            "a/nul",
            "Aux.tar.gz",
            "COM1",
            "lpt9.x",
            "COM¹",
            "PRN ",
            "con .txt",
            "nul:x",
            "CONIN$",
            "a.",
            "a ",
            "a/b./c",
            "exe\u{202e}gpj",
            "a\u{2066}b",
            ".x.underpass-part",
        ] {
            assert!(check(path).is_err(), "{path:?}");
        }
        assert!(check(&"x".repeat(256)).is_err());
        assert!(check(&["a"; 65].join("/")).is_err());
        assert_eq!(check(&["a"; 64].join("/")), Ok(()));
    }

    #[test]
    fn a_part_stands_beside_and_fits() {
        let never = |_: &[u8]| -> [u8; 32] { unreachable!("the name is short") };
        assert_eq!(part_name("a.txt", never), ".a.txt.underpass-part");
        for length in [239, 240, 255] {
            let name = part_name(&"x".repeat(length), |_| [0xab; 32]);
            assert!(name.len() <= MAX_COMPONENT, "{length}");
            assert!(check_name(&name).is_err());
        }
    }
}
