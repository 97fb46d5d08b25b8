//! Where passwords come from: a file, standard input or the terminal, never a flag.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use underpass_seal::password::MAX_PASSWORD;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::terminal::Terminal;

/// The shortest new password, in characters (NIST SP 800-63B section 5.1.1.1).
const SHORTEST: usize = 8;

/// Where a password comes from.
#[derive(Debug, Clone, Args)]
pub struct PasswordFrom {
    /// A file whose first line is the password; - for standard input. If not given, the terminal is asked
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What a password is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is known to the relay.
    Known,
    /// It is being made.
    New,
}

impl PasswordFrom {
    /// Whether it stands in a file.
    pub fn is_given(&self) -> bool {
        self.password_file.is_some()
    }

    /// Gets the password of `user`.
    pub fn read(&self, user: &str, purpose: Purpose) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let text = match &self.password_file {
            Some(file) => first_line(file)?,
            None => ask(user, purpose)?,
        };
        if text.is_empty() {
            return Err(Failure::usage("the password is empty"));
        }
        if text.len() > MAX_PASSWORD {
            let what = format!("the password is longer than {MAX_PASSWORD} bytes");
            return Err(Failure::usage(what));
        }
        if purpose == Purpose::New && text.chars().count() < SHORTEST {
            let what = format!("a new password has at least {SHORTEST} characters");
            return Err(Failure::usage(what).with_next("several words are easy to remember"));
        }
        Ok(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// The first line of a file, without its end.
fn first_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let limit = MAX_PASSWORD as u64 + 2;
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::file(format!(
            "cannot read the password from {}: {error}",
            path.display()
        ))
    })?;
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

fn ask(user: &str, purpose: Purpose) -> Result<Zeroizing<String>, Failure> {
    let nobody = || {
        Failure::usage("there is no terminal to ask for the password on")
            .with_next("give it with --password-file FILE, or - for standard input")
    };
    let mut terminal = Terminal::open().ok().flatten().ok_or_else(nobody)?;
    let mut question = |text: &str| terminal.ask_silently(text).map_err(|_| nobody());
    match purpose {
        Purpose::Known => question(&format!("Password of {user}: ")),
        Purpose::New => {
            let password = question(&format!("New password of {user}: "))?;
            let again = question("The same again: ")?;
            if password != again {
                return Err(Failure::usage("the two are not the same"));
            }
            Ok(password)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let from = PasswordFrom {
            password_file: Some(file.clone()),
        };
        let read = |content: &str, purpose| {
            std::fs::write(&file, content).unwrap();
            from.read("bob", purpose)
                .map(|password| String::from_utf8(password.to_vec()).unwrap())
                .map_err(|failure| failure.exit)
        };
        let known = |content: &str| read(content, Purpose::Known);
        let new = |content: &str| read(content, Purpose::New);
        assert_eq!(known("two words \r\nmore\n"), Ok("two words ".into()));
        assert_eq!(known(""), Err(2));
        assert_eq!(
            known(&"x".repeat(MAX_PASSWORD)).unwrap().len(),
            MAX_PASSWORD
        );
        assert_eq!(known(&"x".repeat(MAX_PASSWORD + 1)), Err(2));
        // An old password may be short, a new one may not: eight characters, not bytes.
        assert_eq!(known("short"), Ok("short".into()));
        assert_eq!(new("1234567"), Err(2));
        assert_eq!(new("ääääääää"), Ok("ääääääää".into()));
        assert_eq!(new("äääää"), Err(2));
    }
}
