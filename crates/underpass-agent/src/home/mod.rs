//! Where an agent keeps its key, the relays it knows and the peers it has pinned.
//!
//! | file | what |
//! |---|---|
//! | `machine.key` | the secret half of the machine key, readable by its owner only |
//! | `relays.toml` | relays that this machine has logged in to |
//! | `groups/` | for each group of relays the newest list of them that its key has signed |
//! | `known_peers` | the key that each service's publisher showed |
//! | `config.toml` | settings, written by people only |
//! | `proxy-credentials` | user names and passwords for proxies, written by people only |
//! | `run/` | one socket for each running agent, to be asked by `underpass status` |
//!
//! Several processes may use one home: whoever writes holds a lock, and files are replaced whole.

mod file;
mod groups;
mod key;
mod library;
mod peers;
mod relays;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use underpass_seal::{Fingerprint, StaticKey};

pub use groups::Announcement;
pub use peers::{KnownPeers, PeerChanged, PinOrigin, PinnedPeer, UserKeyUnknown, user_pin};
pub use relays::{KnownRelay, KnownRelays, TlsCheck};

/// Why the home could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither `UNDERPASS_HOME` nor `HOME` says where it is.
    #[error("neither UNDERPASS_HOME nor HOME is set, so there is no place for keys and settings")]
    NoPlace,
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that holds a secret may be read by others.
    #[error("{path} has mode {mode:03o}, so others can read the key in it")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file holds something else than it should.
    #[error("{path}, line {line}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl HomeError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// The folders of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

impl Home {
    /// Everything under one folder, as `UNDERPASS_HOME` has it.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            config: root.to_owned(),
            state: root.to_owned(),
            run: root.join("run"),
        }
    }

    /// `UNDERPASS_HOME` where it is set, else the folders of the XDG base directory specification
    /// (version 0.8), with `underpass` below each. `variable` looks a variable up.
    ///
    /// # Errors
    /// No variable says where to go.
    pub fn locate(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        // The specification has empty and relative paths ignored; for our own variable a relative
        // path means what it does everywhere else.
        if let Some(root) = variable("UNDERPASS_HOME").filter(|path| !path.is_empty()) {
            return Ok(Self::at(Path::new(&root)));
        }
        let absolute = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user = absolute("HOME");
        let base = |name: &str, below: &str| {
            absolute(name)
                .or_else(|| user.as_ref().map(|home| home.join(below)))
                .map(|path| path.join("underpass"))
                .ok_or(HomeError::NoPlace)
        };
        let config = base("XDG_CONFIG_HOME", ".config")?;
        let state = base("XDG_STATE_HOME", ".local/state")?;
        let run = match absolute("XDG_RUNTIME_DIR") {
            Some(path) => path.join("underpass"),
            None => state.join("run"),
        };
        Ok(Self { config, state, run })
    }

    /// Where the settings are, if there are any.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Where `underpass relay` keeps its data unless told otherwise.
    #[must_use]
    pub fn relay_data(&self) -> PathBuf {
        self.state.join("relay")
    }

    /// Where `underpass authority` keeps its data unless told otherwise.
    #[must_use]
    pub fn authority_data(&self) -> PathBuf {
        self.state.join("authority")
    }

    /// Where the list of relays is.
    #[must_use]
    pub fn relays_file(&self) -> PathBuf {
        self.config.join("relays.toml")
    }

    /// Where it is remembered which carrier worked on which network.
    #[must_use]
    pub fn networks_file(&self) -> PathBuf {
        self.state.join("networks")
    }

    /// Where credentials for proxies are, if there are any, in the manner of `.netrc`.
    #[must_use]
    pub fn proxy_credentials_file(&self) -> PathBuf {
        self.config.join("proxy-credentials")
    }

    /// Where the pinned keys of peers are.
    #[must_use]
    pub fn peers_file(&self) -> PathBuf {
        self.state.join("known_peers")
    }

    /// Where the machine key is.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.state.join("machine.key")
    }

    /// The folder of the running agents' sockets, made where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn run_folder(&self) -> Result<&Path, HomeError> {
        file::make_private_folder(&self.run)?;
        Ok(&self.run)
    }

    /// The machine key, made on first use.
    ///
    /// # Errors
    /// The file cannot be used, or others may read it.
    pub fn machine_key(&self) -> Result<StaticKey, HomeError> {
        let _lock = self.lock()?;
        key::load_or_create(&self.key_file())
    }

    /// The relays as the file has them now.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn relays(&self) -> Result<KnownRelays, HomeError> {
        let path = self.relays_file();
        KnownRelays::parse(&file::read_text(&path)?, &path)
    }

    /// Puts `relay` into the list, in the place of the entry with the same address.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn save_relay(&self, relay: &KnownRelay) -> Result<(), HomeError> {
        let _lock = self.lock()?;
        let mut relays = self.relays()?;
        relays.put(relay);
        file::replace(&self.relays_file(), relays.text().as_bytes(), 0o644)
    }

    /// The pinned peers as the file has them now.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn peers(&self) -> Result<KnownPeers, HomeError> {
        let path = self.peers_file();
        KnownPeers::parse(&file::read_text(&path)?, &path)
    }

    /// Compares `peer` with what is pinned, and pins it where nothing is. The result says which.
    ///
    /// # Errors
    /// The outer: the file cannot be used. The inner: another key is pinned; nothing was changed.
    pub fn check_peer(
        &self,
        peer: &PinnedPeer,
        today: &str,
    ) -> Result<Result<PinOrigin, PeerChanged>, HomeError> {
        let path = self.peers_file();
        let _lock = self.lock()?;
        let mut peers = self.peers()?;
        let checked = peers.check(peer, &path);
        if let Ok(PinOrigin::FirstUse) = checked {
            peers.put(peer, &format!("first used {today}"));
            file::replace(&path, peers.text().as_bytes(), 0o644)?;
        }
        Ok(checked)
    }

    /// Pins `peer` whatever was pinned before: its user got the fingerprint by another way.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn pin_peer(&self, peer: &PinnedPeer, today: &str) -> Result<(), HomeError> {
        self.pin_peer_as(peer, &format!("given {today}"))
    }

    /// The same with a remark of one's own: one line.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn pin_peer_as(&self, peer: &PinnedPeer, remark: &str) -> Result<(), HomeError> {
        let _lock = self.lock()?;
        let mut peers = self.peers()?;
        peers.put(peer, remark);
        file::replace(&self.peers_file(), peers.text().as_bytes(), 0o644)
    }

    /// Forgets these peers: the next keys that they show are those of first use.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn forget_peers(&self, forget: &[PinnedPeer]) -> Result<(), HomeError> {
        let _lock = self.lock()?;
        let mut peers = self.peers()?;
        peers.remove(forget);
        file::replace(&self.peers_file(), peers.text().as_bytes(), 0o644)
    }

    /// Whether the machine of `user` behind `relay` may have this key: any may, unless some were given for the user.
    ///
    /// # Errors
    /// The outer: the file cannot be used. The inner: others were given.
    pub fn check_user(
        &self,
        user: &str,
        relay: Fingerprint,
        key: Fingerprint,
    ) -> Result<Result<(), UserKeyUnknown>, HomeError> {
        let path = self.peers_file();
        Ok(self.peers()?.check_user(user, relay, key, &path))
    }

    /// The fingerprint that this machine shows to others.
    ///
    /// # Errors
    /// As [`Home::machine_key`].
    pub fn fingerprint(&self) -> Result<Fingerprint, HomeError> {
        Ok(self.machine_key()?.public().fingerprint())
    }

    /// Keeps other processes from writing until the result is dropped.
    fn lock(&self) -> Result<file::Lock, HomeError> {
        file::make_private_folder(&self.config)?;
        file::make_private_folder(&self.state)?;
        file::Lock::take(&self.state.join("lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(variables: &[(&str, &str)]) -> Result<Home, HomeError> {
        Home::locate(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn one_folder_where_the_variable_says_so() {
        let home = locate(&[("UNDERPASS_HOME", "/a"), ("HOME", "/h")]).unwrap();
        assert_eq!(home, Home::at(Path::new("/a")));
        assert_eq!(home.key_file(), Path::new("/a/machine.key"));
        assert_eq!(home.relays_file(), Path::new("/a/relays.toml"));
    }

    #[test]
    fn else_the_folders_of_the_desktop() {
        let home = locate(&[("HOME", "/h"), ("UNDERPASS_HOME", "")]).unwrap();
        assert_eq!(
            home.relays_file(),
            Path::new("/h/.config/underpass/relays.toml")
        );
        assert_eq!(
            home.peers_file(),
            Path::new("/h/.local/state/underpass/known_peers")
        );
        assert_eq!(home.run, Path::new("/h/.local/state/underpass/run"));
        let home = locate(&[
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_RUNTIME_DIR", "/r"),
        ])
        .unwrap();
        assert_eq!(home.config_file(), Path::new("/c/underpass/config.toml"));
        assert_eq!(home.key_file(), Path::new("/s/underpass/machine.key"));
        assert_eq!(home.run, Path::new("/r/underpass"));
    }

    #[test]
    fn relative_folders_of_the_desktop_are_ignored() {
        let home = locate(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")]).unwrap();
        assert_eq!(
            home.config_file(),
            Path::new("/h/.config/underpass/config.toml")
        );
        assert!(matches!(
            locate(&[("HOME", "here")]),
            Err(HomeError::NoPlace)
        ));
    }

    /// Processes are what may race; threads with a `Home` of their own take the same file lock.
    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let threads: Vec<_> = (0..8u8)
            .map(|n| {
                let home = Home::at(dir.path());
                std::thread::spawn(move || {
                    let key = home.machine_key().unwrap().public();
                    let relay = KnownRelay::new(
                        &format!("http://relay-{n}:8080"),
                        Fingerprint::from_bytes([n; 32]),
                    );
                    home.save_relay(&relay).unwrap();
                    let peer = PinnedPeer {
                        service: format!("s{n}.bob.underpass.internal"),
                        relay: relay.key,
                        key: Fingerprint::from_bytes([n; 32]),
                    };
                    home.check_peer(&peer, "2026-11-22").unwrap().unwrap();
                    key
                })
            })
            .collect();
        let keys: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(keys.iter().all(|key| *key == keys[0]), "one key for all");
        let home = Home::at(dir.path());
        assert_eq!(home.relays().unwrap().list().len(), 8);
        assert_eq!(home.peers().unwrap().list().len(), 8);
    }

    #[test]
    fn a_changed_peer_is_refused_until_it_is_pinned_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let mut peer = PinnedPeer {
            service: "db.bob.underpass.internal".into(),
            relay: Fingerprint::from_bytes([1; 32]),
            key: Fingerprint::from_bytes([2; 32]),
        };
        let check = |peer: &PinnedPeer| home.check_peer(peer, "2026-11-22").unwrap();
        assert_eq!(check(&peer).unwrap(), PinOrigin::FirstUse);
        assert_eq!(check(&peer).unwrap(), PinOrigin::Known);
        peer.key = Fingerprint::from_bytes([3; 32]);
        let changed = check(&peer).unwrap_err();
        assert_eq!(changed.pinned, Fingerprint::from_bytes([2; 32]));
        assert_eq!(changed.shown, Fingerprint::from_bytes([3; 32]));
        assert!(
            check(&peer).is_err(),
            "the refusal has not pinned the new key"
        );
        home.pin_peer(&peer, "2026-11-23").unwrap();
        assert_eq!(check(&peer).unwrap(), PinOrigin::Known);
    }
}
