//! The names as a file that stands in the place of `/etc/hosts` (hosts(5)).
//!
//! Programs read it without asking anybody, whatever they are linked with. It is written over in place, since it is mounted
//! where they see it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use underpass_hook::message::Question;
use underpass_hook::name::pseudo;

use crate::exchange::{Outcome, ask};

/// The file in whose place it stands.
pub const PLACE: &str = "/etc/hosts";

/// How long the redirector may take to ask the relay for the names, and to tell one.
const LIST_LIMIT: Duration = Duration::from_secs(20);
const ENTRY_LIMIT: Duration = Duration::from_secs(5);

/// Names and their addresses.
type Names = BTreeMap<String, Ipv4Addr>;

/// Makes the file of a process in the folder of the redirector's socket, with the names of now. All that ends with `suffix`
/// is the redirector's.
///
/// # Errors
/// There is no redirector, or the file cannot be written.
pub fn make(redirector: &Path, suffix: &str, process: u32) -> io::Result<PathBuf> {
    let path = redirector.with_file_name(format!("hosts-{process}"));
    // Whoever had this number before is gone.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Who may connect is decided elsewhere, and a program that becomes another user still looks other names up.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&path)?;
    refresh(redirector, suffix, &path)?;
    Ok(path)
}

/// Brings the file up to date.
///
/// # Errors
/// As [`make`]. The file stays as it was.
pub(crate) fn refresh(redirector: &Path, suffix: &str, path: &Path) -> io::Result<()> {
    let names = names(redirector)?;
    let base = match std::fs::read_to_string(PLACE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let content = compose(&base, &names, suffix);
    if std::fs::read(path).ok().as_deref() == Some(content.as_bytes()) {
        return Ok(());
    }
    let file = File::options().write(true).open(path)?;
    file.write_all_at(content.as_bytes(), 0)?;
    file.set_len(content.len() as u64)
}

/// All names that the redirector knows, after it asked the relay.
fn names(redirector: &Path) -> io::Result<Names> {
    let nobody = || io::Error::new(io::ErrorKind::NotConnected, "there is no redirector");
    match ask(redirector, &Question::List, LIST_LIMIT, None) {
        // What it knows from before is better than nothing.
        Outcome::Done | Outcome::Errno(_) | Outcome::Late => {}
        _ => return Err(nobody()),
    }
    let mut names = Names::new();
    let mut last = Vec::new();
    loop {
        match ask(redirector, &Question::After(&last), ENTRY_LIMIT, None) {
            Outcome::Entry(address, name) => {
                names.insert(String::from_utf8_lossy(&name).into_owned(), address.into());
                last = name;
            }
            Outcome::Unknown => return Ok(names),
            _ => return Err(nobody()),
        }
    }
}

/// The file with the names. What `base` says of names of ours is left out: with both, a program would have a choice.
fn compose(base: &str, names: &Names, suffix: &str) -> String {
    let mut text = String::new();
    for line in base.lines() {
        let (entry, _) = line.split_once('#').unwrap_or((line, ""));
        let words: Vec<&str> = entry.split_whitespace().collect();
        let is_ours = |word: &&&str| pseudo(word.as_bytes(), suffix.as_bytes()).is_some();
        match words.iter().skip(1).filter(is_ours).count() {
            0 => text += line,
            ours if ours + 1 == words.len() => continue,
            _ => {
                let others = words.iter().filter(|word| !is_ours(word));
                text += &others.copied().collect::<Vec<_>>().join(" ");
            }
        }
        text.push('\n');
    }
    for (name, address) in names {
        text += &format!("{address} {name}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpass_hook::name::SUFFIX;

    #[test]
    fn our_names_mean_only_what_we_say() {
        let base = "127.0.0.1 localhost # db.underpass.internal\n\n\
                    192.0.2.1 DB.underpass.internal. web\n\
                    192.0.2.2\tx.underpass.internal\n# end";
        let names = Names::from([
            ("web.underpass.internal".into(), [127, 64, 0, 9].into()),
            ("db.underpass.internal".into(), [127, 64, 0, 8].into()),
        ]);
        assert_eq!(
            compose(base, &names, SUFFIX),
            "127.0.0.1 localhost # db.underpass.internal\n\n192.0.2.1 web\n# end\n\
             127.64.0.8 db.underpass.internal\n127.64.0.9 web.underpass.internal\n"
        );
        assert_eq!(compose("", &Names::new(), SUFFIX), "");
        let base = "192.0.2.1 db.corp web db.underpass.internal\n";
        assert_eq!(
            compose(base, &Names::new(), "corp"),
            "192.0.2.1 web db.underpass.internal\n"
        );
    }

    #[test]
    fn without_a_redirector_there_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(make(&folder.path().join("none.sock"), SUFFIX, 1).is_err());
    }
}
