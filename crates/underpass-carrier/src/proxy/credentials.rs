//! User names and passwords for proxies: where they come from, and that they show nowhere.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A file of credentials is not longer than this, in bytes.
const LONGEST_FILE: u64 = 1024 * 1024;

/// A user name and a password. Wiped when dropped; `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Credentials {
    /// Takes copies of both. A Windows domain stands in the user name: `DOMAIN\user`.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        }
    }

    /// The user name as it was given.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

/// Why a file of credentials cannot be used. Holds nothing of its content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{path} has mode {mode:03o}, so others can read the passwords in it; chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not written in the way of `.netrc`.
    #[error("{path}: line {line}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Credentials by host, in the manner of `.netrc`:
/// `machine HOST[:PORT] login USER password SECRET`, and `default login USER password SECRET`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialsFile {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// None for `default`.
    host: Option<String>,
    credentials: Credentials,
}

impl CredentialsFile {
    /// Reads the file, which only its owner may be able to read.
    ///
    /// # Errors
    /// It is missing, open to others, or written in another way.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(failed)?;
        check_mode(&file, path)?;
        let mut text = Zeroizing::new(String::new());
        let read = file.take(LONGEST_FILE).read_to_string(&mut text);
        read.map_err(failed)?;
        Self::parse(&text).map_err(|(line, reason)| CredentialsError::Content {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    /// Understands the text of such a file.
    ///
    /// # Errors
    /// The line, counted from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut entries = Vec::new();
        let mut words = words(text).peekable();
        while let Some((line, word)) = words.next() {
            let host = match word {
                "machine" => Some(value(words.next(), line)?.to_ascii_lowercase()),
                "default" => None,
                _ => return Err((line, "an entry starts with machine or default")),
            };
            let (mut user, mut password) = (None, None);
            while let Some((line, word)) = words.next_if(|(_, word)| !starts_entry(word)) {
                let value = value(words.next(), line)?;
                match word {
                    "login" => user = Some(value),
                    "password" => password = Some(value),
                    // For FTP servers, in the files of other programs.
                    "account" => {}
                    _ => return Err((line, "only login, password and account are known here")),
                }
            }
            let (user, password) = user
                .zip(password)
                .ok_or((line, "an entry needs both login and password"))?;
            entries.push(Entry {
                host,
                credentials: Credentials::new(user, password),
            });
        }
        Ok(Self { entries })
    }

    /// The credentials for a host: the first entry for it, else `default`.
    #[must_use]
    pub fn find(&self, host: &str, port: u16) -> Option<&Credentials> {
        let host = host.to_ascii_lowercase();
        let with_port = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let entry = |wanted: Option<&str>| {
            let mut all = self.entries.iter();
            all.find(|entry| entry.host.as_deref() == wanted)
        };
        let found = entry(Some(&with_port)).or_else(|| entry(Some(&host)));
        let found = found.or_else(|| entry(None));
        found.map(|entry| &entry.credentials)
    }
}

fn starts_entry(word: &str) -> bool {
    word == "machine" || word == "default"
}

fn value(word: Option<(usize, &str)>, line: usize) -> Result<&str, (usize, &'static str)> {
    word.map(|(_, word)| word)
        .ok_or((line, "a value is missing at the end"))
}

/// Words with the numbers of their lines. A line that starts with # is a comment; a password may
/// have one inside.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.flat_map(|(number, line)| line.split_whitespace().map(move |word| (number, word)))
}

#[cfg(unix)]
fn check_mode(file: &fs::File, path: &Path) -> Result<(), CredentialsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = file.metadata().map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })?;
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(CredentialsError::TooOpen {
            path: path.to_owned(),
            mode,
        }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_mode(_file: &fs::File, _path: &Path) -> Result<(), CredentialsError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_entry_counts() {
        let text = "# comment\nmachine proxy.example login anna password s3#cret\n\
                    machine Proxy.example:3129\n  login bob\n  password other account x\n\
                    default login guest password g";
        let file = CredentialsFile::parse(text).expect("valid");
        let user = |host, port| file.find(host, port).map(|found| found.user().to_owned());
        assert_eq!(user("proxy.example", 3128).as_deref(), Some("anna"));
        assert_eq!(user("PROXY.example", 3129).as_deref(), Some("bob"));
        assert_eq!(user("other", 1).as_deref(), Some("guest"));
        let found = file.find("proxy.example", 1).expect("there");
        assert_eq!(found.password(), "s3#cret");
        assert!(!format!("{file:?}").contains("cret\""), "{file:?}");
        let empty = CredentialsFile::parse("").expect("valid");
        assert_eq!(empty.find("proxy", 1), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_no_secret() {
        for (text, line) in [
            ("login x", 1),
            ("machine", 1),
            ("machine a login b", 1),
            ("machine a login b password", 1),
            ("\nmachine a login b password c\nmachine d", 3),
            ("machine a login b password two words", 1),
        ] {
            let (found, _) = CredentialsFile::parse(text).expect_err(text);
            assert_eq!(found, line, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("proxy-credentials");
        fs::write(&path, "default login a password b").expect("written");
        for (mode, opens) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(CredentialsFile::load(&path).is_ok(), opens, "{mode:o}");
        }
        let missing = CredentialsFile::load(&dir.path().join("none"));
        assert!(matches!(missing, Err(CredentialsError::Read { .. })));
    }
}
