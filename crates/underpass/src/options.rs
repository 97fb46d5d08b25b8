//! How a client attaches.

use std::sync::Arc;

use underpass_carrier::{ClientSettings, Kind, RelayUrl, TlsTrust, kind_by_name, order_to_try};
use underpass_endpoint::AttachSettings;
use underpass_proto::session::Config;
use underpass_seal::{Fingerprint, StaticKey};

use crate::error::Error;
use crate::trust::KnownPublishers;

/// The secret by which a machine is known. Whoever has it is that machine.
#[derive(Debug, Clone)]
pub struct MachineKey(pub(crate) Arc<StaticKey>);

impl MachineKey {
    /// A new one, from the system's random generator.
    #[must_use]
    pub fn generate() -> Self {
        Self(Arc::new(StaticKey::generate()))
    }

    /// One that was kept.
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self(Arc::new(StaticKey::from_bytes(secret)))
    }

    /// The secret, to be kept where nobody else can read it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        *self.0.to_bytes()
    }

    /// What others know this machine by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.public().fingerprint()
    }
}

/// How a client attaches, and whom it trusts.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) key: MachineKey,
    pub(crate) attach: AttachSettings,
    pub(crate) machine_name: String,
    pub(crate) known: KnownPublishers,
}

impl Options {
    /// For the relay at `address` (`http://HOST[:PORT][/PREFIX][#FINGERPRINT]`, or `https`). Without
    /// the fingerprint of its key the first key that it shows is trusted, for as long as the client
    /// lives.
    ///
    /// # Errors
    /// The address or the fingerprint in it cannot be read.
    pub fn new(address: &str, key: MachineKey) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Option {
            option: "address",
            reason,
        };
        let relay: RelayUrl = address.parse().map_err(|error| wrong(format!("{error}")))?;
        let relay_key = relay.fingerprint().map(str::parse).transpose();
        Ok(Self {
            key,
            attach: AttachSettings {
                relay_key: relay_key.map_err(|error| wrong(format!("{error}")))?,
                relay,
                carriers: order_to_try(),
                client: ClientSettings::default(),
                session: Config::default(),
            },
            machine_name: "machine".to_owned(),
            known: KnownPublishers::default(),
        })
    }

    /// The name that this machine is enrolled by.
    #[must_use]
    pub fn machine_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.machine_name);
        self
    }

    /// Only these carriers, the first choice first.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn carriers(mut self, names: &[&str]) -> Result<Self, Error> {
        let kinds: Result<Vec<&'static Kind>, Error> = names
            .iter()
            .map(|name| {
                kind_by_name(name).ok_or_else(|| Error::Option {
                    option: "carriers",
                    reason: format!("there is no carrier {name:?}"),
                })
            })
            .collect();
        self.attach.carriers = kinds?;
        Ok(self)
    }

    /// Accepts only the certificate with this SHA-256 for `https`, instead of one that the system's
    /// roots vouch for. The relay proves itself once more inside, by its own key.
    #[must_use]
    pub fn certificate(mut self, sha256: [u8; 32]) -> Self {
        self.attach.client.tls = TlsTrust::PinnedCertificate(sha256);
        self
    }

    /// The publisher of `service`, by its full name, must show the key with this fingerprint. Of any
    /// other service the first key that is seen is trusted, for as long as the client lives.
    #[must_use]
    pub fn publisher_key(self, service: &str, key: Fingerprint) -> Self {
        self.known.insert(service, key);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_checked() {
        let key = MachineKey::from_bytes([7; 32]);
        assert_eq!(key.to_bytes(), [7; 32]);
        let print = key.fingerprint();
        let options = Options::new(&format!("http://relay#{print}"), key.clone()).unwrap();
        assert_eq!(options.attach.relay_key, Some(print));
        assert!(Options::new("relay", key.clone()).is_err());
        assert!(Options::new("http://relay#abc", key.clone()).is_err());
        let options = Options::new("http://relay", key).unwrap();
        assert_eq!(options.attach.relay_key, None);
        let some = options.clone().carriers(&["poll", "ws"]).unwrap();
        assert_eq!(some.attach.carriers[0].name, "poll");
        assert!(options.carriers(&["pigeon"]).is_err());
    }
}
