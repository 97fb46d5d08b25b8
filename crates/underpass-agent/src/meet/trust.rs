//! Whether somebody who was met is who it was before.

use underpass_endpoint::PeerTrust;
use underpass_proto::meeting;
use underpass_seal::PublicKey;

use crate::connect::PinnedTrust;

/// Trusts the machine that a relay has named, if it is the one that is pinned for its user and application.
pub(super) struct MetTrust<'a> {
    pub(super) pinned: &'a PinnedTrust,
    pub(super) user: &'a str,
    pub(super) application: &'a str,
    pub(super) named: PublicKey,
}

impl MetTrust<'_> {
    /// The same for one who came here.
    ///
    /// # Errors
    /// As [`PeerTrust::check`].
    pub(super) fn check_key(&self, key: &PublicKey) -> Result<(), String> {
        if *key != self.named {
            return Err(format!(
                "the relay named the machine {}, but {} answered",
                self.named.fingerprint(),
                key.fingerprint()
            ));
        }
        let Self {
            user, application, ..
        } = self;
        self.pinned.users().check(user, key)?;
        let pinned_as = format!("{}{application}/{user}", meeting::PREFIX);
        self.pinned.check(&pinned_as, key)
    }
}

impl PeerTrust for MetTrust<'_> {
    fn check(&self, _place: &str, key: &PublicKey) -> Result<(), String> {
        self.check_key(key)
    }
}
