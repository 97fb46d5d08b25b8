//! `underpass relay group`

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use underpass_carrier::RelayUrl;
use underpass_proto::control::GroupRelay;
use underpass_proto::group::{Draft, GroupError, RelayList};
use underpass_seal::{Fingerprint, SigningKey};
use zeroize::Zeroizing;

use super::{Context, errors};
use crate::failure::Failure;

/// What the file of a group's key begins with; the number is the format's.
const HEADER: &str = "underpass group key 1 ";
/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Make the key of a group of relays, and sign the list of them that they announce
///
/// Agents that have logged in to one relay of a group learn of the others by that list (`underpass relay --announce`),
/// and believe only what the group's key has signed. The key is needed for signing and nothing else: keep it away from
/// the relays, with a backup. Whoever has it leads the group's agents to relays of their choice.
#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new key, readable for its owner only
    Init {
        /// The file of the key; it must not be there yet
        #[arg(value_name = "KEYFILE")]
        key: PathBuf,
    },
    /// Sign a list, which gets the next serial
    ///
    /// The list is a file of lines `relay URL#FINGERPRINT`, as relays print it at their start, each followed by
    /// `certificate SHA256` where a relay shows a certificate of its own making. Signing adds lines behind them, or
    /// puts them right. A list that this key has signed just so stays as it is.
    Sign {
        /// The file of the group's key
        #[arg(long, value_name = "KEYFILE")]
        key: PathBuf,
        /// The file with the list
        #[arg(value_name = "LIST")]
        list: PathBuf,
    },
    /// Check the signature of a list, and show what it says
    Show {
        /// The file with the list
        #[arg(value_name = "LIST")]
        list: PathBuf,
    },
}

impl Group {
    /// Does it.
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.action {
            Action::Init { key } => init(context, &key),
            Action::Sign { key, list } => sign(context, &key, &list),
            Action::Show { list } => {
                let signed = RelayList::parse(&read(&list)?);
                let signed = signed.map_err(|error| of_list(&error, &list))?;
                tell(context, "signed", &signed)
            }
        }
    }
}

fn init(context: &Context, path: &Path) -> Result<(), Failure> {
    let key = SigningKey::generate();
    let text = write_key(&key);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| of_io("make", path, &error))?;
    let public = key.public().to_string();
    context.output.result(
        &format!("the group's key is {public}"),
        &serde_json::json!({ "group": public }),
    )
}

fn sign(context: &Context, key: &Path, path: &Path) -> Result<(), Failure> {
    let key = read_key(key)?;
    let text = read(path)?;
    let draft = Draft::parse(&text).map_err(|error| of_list(&error.into(), path))?;
    for relay in &draft.relays {
        let GroupRelay { url, .. } = relay;
        let sound = url.parse::<RelayUrl>();
        sound.map_err(|error| Failure::usage(format!("{}: {url}: {error}", path.display())))?;
    }
    let list = draft.sign(&key).map_err(|error| of_list(&error, path))?;
    if let Some(before) = draft.group.filter(|before| *before != list.group()) {
        context.output.message(&format!(
            "it was signed by {before} before: agents that know that key refuse this list"
        ));
    }
    let signed = draft.text(&list);
    if signed == text {
        return tell(context, "signed before, and unchanged", &list);
    }
    replace(path, &signed).map_err(|error| of_io("write", path, &error))?;
    tell(context, "signed", &list)
}

/// Relays read the old list or the new one, never half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    let mode = fs::metadata(path)?.permissions();
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(mode))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn tell(context: &Context, what: &str, list: &RelayList) -> Result<(), Failure> {
    let (group, serial) = (list.group().to_string(), list.serial());
    let relays = list.relays().iter().map(|relay| {
        let key = Fingerprint::from_bytes(relay.key).to_string();
        let hex = |sha256: &[u8; 32]| underpass_carrier::show_fingerprint(sha256);
        serde_json::json!({
            "url": relay.url,
            "key": key,
            "certificate_sha256": relay.certificate.first().map(hex),
        })
    });
    let relays: Vec<_> = relays.collect();
    let urls = list
        .relays()
        .iter()
        .map(|relay| format!("\n  {}", relay.url));
    context.output.result(
        &format!(
            "{what}: serial {serial}, group {group}{}",
            urls.collect::<String>()
        ),
        &serde_json::json!({ "group": group, "serial": serial, "relays": relays }),
    )
}

fn of_io(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::file(format!("cannot {action} {}: {error}", path.display()))
}

fn of_list(error: &GroupError, path: &Path) -> Failure {
    errors::of_group(error, &path.display().to_string())
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    read.map_err(|error| of_io("read", path, &error))?;
    Ok(text)
}

fn write_key(key: &SigningKey) -> Zeroizing<String> {
    // 32 bytes, in the letters of fingerprints.
    let secret = Fingerprint::from_bytes(*key.to_bytes());
    Zeroizing::new(format!("{HEADER}{secret}\n"))
}

fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let metadata = fs::metadata(path).map_err(|error| of_io("read", path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let shown = path.display();
        return Err(Failure::file(format!(
            "{shown} has mode {mode:03o}, so others can read the key in it"
        ))
        .with_cause("the file was copied, or restored, without its mode")
        .with_next(format!(
            "chmod 600 {shown}; if somebody may have read it, make a new key and have agents log in with --group"
        )));
    }
    let text = Zeroizing::new(read(path)?);
    let secret = text
        .strip_prefix(HEADER)
        .map(|rest| rest.trim_end().parse::<Fingerprint>());
    match secret {
        Some(Ok(secret)) => Ok(SigningKey::from_bytes(*secret.as_bytes())),
        _ => Err(
            Failure::file(format!("{} is no key of a group", path.display()))
                .with_cause("another file was named, or it is damaged")
                .with_next("make one with: underpass relay group init KEYFILE"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("group.key");
        let key = SigningKey::generate();
        fs::write(&path, write_key(&key)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_key(&path).unwrap_err();
        assert!(error.what.contains("mode 640"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_key(&path).unwrap().public(), key.public());
        fs::write(&path, "underpass machine key 1\n").unwrap();
        assert!(
            read_key(&path)
                .unwrap_err()
                .what
                .contains("no key of a group")
        );
    }
}
