//! Which key the publisher of a service must show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use underpass_endpoint::PeerTrust;
use underpass_seal::{Fingerprint, PublicKey};

/// Keys that were given, or seen first. Clones are the same list.
#[derive(Debug, Clone)]
pub(crate) struct KnownPublishers(Arc<Mutex<HashMap<String, Fingerprint>>>);

impl FromIterator<(String, Fingerprint)> for KnownPublishers {
    fn from_iter<T: IntoIterator<Item = (String, Fingerprint)>>(keys: T) -> Self {
        Self(Arc::new(Mutex::new(keys.into_iter().collect())))
    }
}

impl PeerTrust for KnownPublishers {
    fn check(&self, service: &str, peer: &PublicKey) -> Result<(), String> {
        let shown = peer.fingerprint();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = *known.entry(service.to_owned()).or_insert(shown);
        if expected == shown {
            return Ok(());
        }
        Err(format!(
            "the publisher of {service} shows the key {shown}, and {expected} is expected"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_keys_and_the_first_ones_seen_must_be_shown() {
        let [one, two] = [PublicKey([1; 32]), PublicKey([2; 32])];
        let known = KnownPublishers::from_iter([("db".to_owned(), one.fingerprint())]);
        assert!(known.check("db", &two).is_err());
        assert!(known.check("db", &one).is_ok());
        assert!(known.check("web", &two).is_ok());
        let refusal = known.check("web", &one).unwrap_err();
        for key in [one, two] {
            assert!(refusal.contains(&key.fingerprint().to_string()));
        }
    }
}
