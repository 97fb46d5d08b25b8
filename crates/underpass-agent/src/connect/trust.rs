//! Whether a publisher is who it should be.

use std::time::SystemTime;

use underpass_endpoint::PeerTrust;
use underpass_seal::{Fingerprint, PublicKey};

use crate::home::{Home, PinOrigin, PinnedPeer};
use crate::publish::KnownUsers;

/// Trusts a key that was given, or is pinned in a home; pins the first one that it sees.
#[derive(Debug, Clone)]
pub struct PinnedTrust {
    home: Home,
    relay: Fingerprint,
    given: Option<Fingerprint>,
}

impl PinnedTrust {
    /// For services behind the relay with this key. `given` is the key to expect, got by another way;
    /// it is pinned in the place of what was pinned before, once a publisher has proven it.
    #[must_use]
    pub fn new(home: Home, relay: Fingerprint, given: Option<Fingerprint>) -> Self {
        Self { home, relay, given }
    }

    /// What the same home knows of users' machines.
    pub(crate) fn users(&self) -> KnownUsers {
        KnownUsers::new(self.home.clone(), self.relay)
    }

    fn check_fingerprint(&self, service: &str, key: Fingerprint) -> Result<(), String> {
        let peer = PinnedPeer {
            service: service.to_owned(),
            relay: self.relay,
            key,
        };
        let stamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let today = stamp.split('T').next().unwrap_or_default();
        if let Some(given) = self.given {
            if given != key {
                return Err(format!(
                    "the publisher of {service} shows the key {key}, and not {given} as you said"
                ));
            }
            let pinned = self.home.pin_peer(&peer, today);
            return pinned.map_err(|error| error.to_string());
        }
        match self.home.check_peer(&peer, today) {
            Ok(Ok(PinOrigin::Known)) => Ok(()),
            Ok(Ok(PinOrigin::FirstUse)) => {
                tracing::info!("first use of {service}: from now on its key must be {key}");
                Ok(())
            }
            Ok(Err(changed)) => Err(changed.to_string()),
            // What cannot be checked is not trusted.
            Err(error) => Err(error.to_string()),
        }
    }
}

impl PeerTrust for PinnedTrust {
    fn check(&self, service: &str, peer: &PublicKey) -> Result<(), String> {
        self.check_fingerprint(service, peer.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_use_pins_and_a_change_needs_a_word_from_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let [relay, one, two] = [1, 2, 3].map(|n| Fingerprint::from_bytes([n; 32]));
        let usual = PinnedTrust::new(home.clone(), relay, None);
        usual.check_fingerprint("db", one).unwrap();
        usual.check_fingerprint("db", one).unwrap();
        let refusal = usual.check_fingerprint("db", two).unwrap_err();
        for part in [&one.to_string(), &two.to_string(), "known_peers"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let told = PinnedTrust::new(home.clone(), relay, Some(two));
        assert!(told.check_fingerprint("db", one).is_err());
        told.check_fingerprint("db", two).unwrap();
        usual.check_fingerprint("db", two).unwrap();
        assert!(usual.check_fingerprint("db", one).is_err());
    }

    #[test]
    fn what_cannot_be_checked_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::write(home.peers_file(), "damaged").unwrap();
        let key = Fingerprint::from_bytes([1; 32]);
        let trust = PinnedTrust::new(home, key, None);
        assert!(trust.check_fingerprint("db", key).is_err());
    }
}
