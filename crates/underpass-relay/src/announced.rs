//! The list of the group's relays that agents are told. The relay hands it on and cannot change it: it is signed by
//! the group's key, which no relay has.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use underpass_proto::control::GroupChanged;
use underpass_proto::group::{GroupError, News, RelayList};
use underpass_seal::Fingerprint;

/// The longest file with a list that is read, in bytes: comments of people count too.
const LONGEST: usize = 1 << 20;

/// Why a list of relays is not announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The file cannot be read.
    #[error("cannot read the list of relays {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it is no list that agents would take.
    #[error("{}: {error} [{}]", path.display(), error.code().up())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: GroupError,
    },
}

/// What is announced at the moment.
#[derive(Debug)]
pub(crate) struct Announced {
    path: Option<PathBuf>,
    own_key: Fingerprint,
    list: RwLock<Option<Arc<RelayList>>>,
}

impl Announced {
    /// The list in the file of this name, if one is given, of a relay with this key.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn read(path: Option<PathBuf>, own_key: Fingerprint) -> Result<Self, AnnounceError> {
        let list = path.as_deref().map(read_list).transpose()?;
        let announced = Self {
            path,
            own_key,
            list: RwLock::new(list.map(Arc::new)),
        };
        announced.tell();
        Ok(announced)
    }

    /// The list, if any is announced.
    pub(crate) fn list(&self) -> Option<Arc<RelayList>> {
        let list = self.list.read();
        list.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again; what agents are to be told, if it holds another list.
    ///
    /// # Errors
    /// It cannot be used, or agents would not take it after the one before; that one stays.
    pub(crate) fn read_again(&self) -> Result<Option<GroupChanged>, AnnounceError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let new = read_list(path)?;
        let before = self.list();
        let pinned = before.as_ref().map_or(new.group(), |before| before.group());
        let news = new.check(pinned, before.as_deref());
        let news = news.map_err(|error| AnnounceError::List {
            path: path.clone(),
            error,
        })?;
        if news == News::Known {
            return Ok(None);
        }
        let serial = new.serial();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
        self.tell();
        Ok(Some(GroupChanged { serial }))
    }

    fn tell(&self) {
        let Some(list) = self.list() else { return };
        let (count, serial) = (list.relays().len(), list.serial());
        tracing::info!(
            "announces {count} relays, serial {serial}, of the group {}",
            list.group()
        );
        let named =
            |relay: &underpass_proto::control::GroupRelay| relay.key == *self.own_key.as_bytes();
        if !list.relays().iter().any(named) {
            tracing::warn!("this relay is not on the list that it announces: agents will leave it");
        }
    }
}

fn read_list(path: &Path) -> Result<RelayList, AnnounceError> {
    let in_file = |source| AnnounceError::Io {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(in_file)?;
    if text.len() > LONGEST {
        return Err(in_file(io::ErrorKind::FileTooLarge.into()));
    }
    RelayList::parse(&text).map_err(|error| AnnounceError::List {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use underpass_proto::control::GroupRelay;
    use underpass_seal::SigningKey;

    use super::*;

    fn list(key: u8, serial: u64, relays: &[u8]) -> RelayList {
        let relay = |n: &u8| GroupRelay {
            url: format!("http://r{n}.example"),
            key: [*n; 32],
            certificate: vec![],
        };
        let key = SigningKey::from_bytes([key; 32]);
        RelayList::sign(&key, serial, relays.iter().map(relay).collect()).unwrap()
    }

    #[test]
    fn a_new_list_takes_the_place_of_the_one_before_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relays");
        let write = |text: String| std::fs::write(&path, text).unwrap();
        let first = list(1, 3, &[1, 2]);
        write(first.to_string());
        let own = Fingerprint::from_bytes([1; 32]);
        let announced = Announced::read(Some(path.clone()), own).unwrap();
        assert_eq!(announced.read_again().unwrap(), None);
        let refused = |text: String, up: &str| {
            write(text);
            let error = announced.read_again().unwrap_err().to_string();
            assert!(error.contains(up) && error.contains("relays"), "{error}");
            assert_eq!(announced.list().as_deref(), Some(&first));
        };
        refused(list(1, 2, &[1]).to_string(), "UP-GROUP-SERIAL");
        refused(list(1, 3, &[1]).to_string(), "UP-GROUP-SERIAL");
        refused(list(2, 4, &[1]).to_string(), "UP-GROUP-KEY");
        let changed = list(1, 4, &[1])
            .to_string()
            .replace("http://r1", "http://r9");
        refused(changed, "UP-GROUP-SIGNATURE");
        refused("relay".to_owned(), "UP-GROUP-UNREADABLE");
        write(list(1, 4, &[1, 2, 3]).to_string());
        let changed = announced.read_again().unwrap();
        assert_eq!(changed, Some(GroupChanged { serial: 4 }));
        assert_eq!(announced.list().unwrap().relays().len(), 3);
    }

    #[test]
    fn a_relay_without_a_list_announces_none_and_one_with_a_wrong_list_does_not_start() {
        let own = Fingerprint::from_bytes([1; 32]);
        assert!(Announced::read(None, own).unwrap().list().is_none());
        let missing = Announced::read(Some(PathBuf::from("/nowhere/relays")), own);
        assert!(matches!(missing, Err(AnnounceError::Io { .. })));
    }
}
