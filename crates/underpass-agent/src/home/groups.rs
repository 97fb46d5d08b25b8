//! The lists of relays that groups have announced: the newest of each group is kept, and pinned to its key.

use std::path::PathBuf;

use underpass_proto::group::{GroupError, News, RelayList};
use underpass_seal::VerifyingKey;

use super::{Home, HomeError, KnownRelay, file};

/// What became of a list that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// It is the newest, and is kept.
    Taken,
    /// The same: and the group's key is pinned from now on.
    Pinned,
    /// It was known.
    Known,
}

impl Home {
    /// Where the newest list of a group is.
    #[must_use]
    pub fn group_file(&self, group: VerifyingKey) -> PathBuf {
        self.state.join("groups").join(group.to_string())
    }

    /// The newest list of the group of a relay that this machine has logged in to, if there is one. What anybody but
    /// the group's key has signed is none.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn group_of(&self, login: &KnownRelay) -> Result<Option<RelayList>, HomeError> {
        let Some(pinned) = login.group else {
            return Ok(None);
        };
        let list = self.kept(pinned)?;
        Ok(list.filter(|list| list.group() == pinned))
    }

    /// Compares a list that was announced with what is pinned and kept for the login at `url`, and keeps it where it is
    /// newer. Where no group's key is pinned yet it is, if `may_pin`.
    ///
    /// # Errors
    /// The outer: a file cannot be used. The inner: the list is not to be believed; nothing was changed.
    pub fn take_group(
        &self,
        url: &str,
        list: &RelayList,
        may_pin: bool,
    ) -> Result<Result<Announcement, GroupError>, HomeError> {
        let _lock = self.lock()?;
        let mut relays = self.relays()?;
        let login = relays.find(url).cloned();
        let Some(mut login) = login.filter(|login| login.group.is_some() || may_pin) else {
            // Nobody has said whom to believe.
            return Ok(Ok(Announcement::Known));
        };
        let shown = list.group();
        let pinned = login.group.unwrap_or(shown);
        let news = match list.check(pinned, self.kept(pinned)?.as_ref()) {
            Ok(news) => news,
            Err(error) => return Ok(Err(error)),
        };
        if news == News::New {
            let path = self.group_file(shown);
            if let Some(folder) = path.parent() {
                file::make_private_folder(folder)?;
            }
            file::replace(&path, list.to_string().as_bytes(), 0o644)?;
        }
        if login.group.is_none() {
            login.group = Some(shown);
            relays.put(&login);
            file::replace(&self.relays_file(), relays.text().as_bytes(), 0o644)?;
            return Ok(Ok(Announcement::Pinned));
        }
        Ok(Ok(match news {
            News::New => Announcement::Taken,
            News::Known => Announcement::Known,
        }))
    }

    fn kept(&self, group: VerifyingKey) -> Result<Option<RelayList>, HomeError> {
        let path = self.group_file(group);
        let text = file::read_text(&path)?;
        if text.is_empty() {
            return Ok(None);
        }
        let list = RelayList::parse(&text).map_err(|error| {
            let line = match &error {
                GroupError::Line(error) => error.line,
                _ => 1,
            };
            let reason = format!("{error}; remove the file: a relay announces the list again");
            HomeError::Content { path, line, reason }
        });
        list.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::control::GroupRelay;
    use underpass_seal::{Fingerprint, SigningKey};

    use super::*;
    use crate::home::TlsCheck;

    const LOGIN: &str = "http://r1.example";

    fn relay(n: u8) -> GroupRelay {
        GroupRelay {
            url: format!("https://r{n}.example"),
            key: [n; 32],
            certificate: vec![[n; 32]],
        }
    }

    fn list(key: u8, serial: u64, relays: &[u8]) -> RelayList {
        let relays = relays.iter().copied().map(relay).collect();
        RelayList::sign(&SigningKey::from_bytes([key; 32]), serial, relays).unwrap()
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let mut login = KnownRelay::new(LOGIN, Fingerprint::from_bytes([1; 32]));
        login.user = "alice".into();
        home.save_relay(&login).unwrap();
        (dir, home)
    }

    fn login(home: &Home) -> KnownRelay {
        home.relays().unwrap().find(LOGIN).unwrap().clone()
    }

    fn take(home: &Home, list: &RelayList) -> Result<Announcement, &'static str> {
        let taken = home.take_group(LOGIN, list, true).unwrap();
        taken.map_err(|error| error.code().up())
    }

    #[test]
    fn the_first_list_pins_the_key_and_newer_ones_take_its_place() {
        let (_dir, home) = home();
        assert_eq!(home.group_of(&login(&home)).unwrap(), None);
        assert_eq!(take(&home, &list(9, 3, &[1, 2])), Ok(Announcement::Pinned));
        assert_eq!(take(&home, &list(9, 3, &[1, 2])), Ok(Announcement::Known));
        assert_eq!(take(&home, &list(9, 5, &[2, 3])), Ok(Announcement::Taken));
        // Read by another process.
        let home = Home::at(_dir.path());
        let login = login(&home);
        let kept = home.group_of(&login).unwrap().unwrap();
        assert_eq!(kept, list(9, 5, &[2, 3]));
    }

    #[test]
    fn older_and_foreign_lists_change_nothing() {
        let (_dir, home) = home();
        let kept = list(9, 3, &[1, 2]);
        take(&home, &kept).unwrap();
        assert_eq!(take(&home, &list(9, 2, &[1, 2, 3])), Err("UP-GROUP-SERIAL"));
        assert_eq!(take(&home, &list(9, 3, &[1, 2, 3])), Err("UP-GROUP-SERIAL"));
        assert_eq!(take(&home, &list(8, 4, &[1, 3])), Err("UP-GROUP-KEY"));
        let login = login(&home);
        assert_eq!(login.group, Some(kept.group()));
        assert_eq!(home.group_of(&login).unwrap(), Some(kept));
    }

    #[test]
    fn a_relay_that_was_not_logged_in_to_pins_nothing() {
        let (_dir, home) = home();
        let announced = list(9, 3, &[1, 2]);
        let taken = home.take_group(LOGIN, &announced, false).unwrap();
        assert_eq!(taken, Ok(Announcement::Known));
        let taken = home.take_group("http://else", &announced, true).unwrap();
        assert_eq!(taken, Ok(Announcement::Known));
        assert_eq!(login(&home).group, None);
        assert!(!home.group_file(announced.group()).exists());
    }

    #[test]
    fn a_kept_list_that_was_changed_is_an_error() {
        let (_dir, home) = home();
        let announced = list(9, 3, &[1, 2]);
        take(&home, &announced).unwrap();
        let path = home.group_file(announced.group());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("r2.example", "r3.example")).unwrap();
        let error = home.group_of(&login(&home)).unwrap_err().to_string();
        assert!(error.contains("signature"), "{error}");
    }

    #[test]
    fn the_login_stays_as_it_is_known_and_others_are_as_announced() {
        let (_dir, home) = home();
        take(&home, &list(9, 3, &[2, 1])).unwrap();
        let login = login(&home);
        let all = login.with_group(&home.group_of(&login).unwrap().unwrap());
        assert_eq!(all[1], login);
        let other = &all[0];
        assert_eq!(
            (other.url.as_str(), other.key),
            ("https://r2.example", Fingerprint::from_bytes([2; 32]))
        );
        assert_eq!(other.tls, TlsCheck::Pinned([2; 32]));
        assert_eq!(other.announced_by.as_deref(), Some(LOGIN));
        assert_eq!((other.user.as_str(), other.group), ("alice", login.group));
        // One that is not on the list is not used any more.
        take(&home, &list(9, 4, &[2])).unwrap();
        let all = login.with_group(&home.group_of(&login).unwrap().unwrap());
        assert!(all.iter().all(|relay| relay.key != login.key));
    }
}
