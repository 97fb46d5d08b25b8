//! The machines that users are known to have.

use underpass_seal::{Fingerprint, PublicKey};

use crate::home::Home;

/// Where keys were given for a user, refuses all other machines that a relay names as this user's.
#[derive(Debug, Clone)]
pub struct KnownUsers {
    home: Home,
    relay: Fingerprint,
}

impl KnownUsers {
    /// Of the relay with this key, as `home` knows them.
    #[must_use]
    pub fn new(home: Home, relay: Fingerprint) -> Self {
        Self { home, relay }
    }

    /// Whether the machine may be the user's. What cannot be checked is not trusted.
    pub(crate) fn check(&self, user: &str, machine: &PublicKey) -> Result<(), String> {
        let shown = machine.fingerprint();
        match self.home.check_user(user, self.relay, shown) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(unknown)) => Err(unknown.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
