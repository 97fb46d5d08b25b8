//! How a client attaches, and whom it trusts.

use std::time::Duration;

use underpass_carrier::proxy::{Environment, Proxies, ProxyChoice, ProxySettings};
use underpass_carrier::{ClientSettings, KINDS, Kind, RelayUrl, TlsTrust, kind_by_name};
use underpass_endpoint::{AscentSettings, AttachSettings};
use underpass_proto::session::Config;
use underpass_seal::Fingerprint;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::key::MachineKey;
use crate::trust::KnownPublishers;

/// Gathers how a client attaches; made by [`Client::builder`]. What is wrong with a setting is said by
/// [`attach`](ClientBuilder::attach).
#[derive(Clone, Default)]
#[must_use = "nothing happens before `attach`"]
pub struct ClientBuilder {
    relay: Option<String>,
    key: Option<MachineKey>,
    machine_name: Option<String>,
    carriers: Option<Vec<String>>,
    proxy: Option<String>,
    certificate: Option<[u8; 32]>,
    keep: Option<Duration>,
    peer_keys: Vec<(String, Fingerprint)>,
}

impl std::fmt::Debug for ClientBuilder {
    /// Only the relay: a proxy's address may have a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ClientBuilder");
        shown.field("relay", &self.relay).finish_non_exhaustive()
    }
}

/// What a builder says, checked.
pub(crate) struct Settings {
    pub(crate) key: MachineKey,
    pub(crate) attach: AttachSettings,
    pub(crate) machine_name: String,
    pub(crate) known: KnownPublishers,
}

impl ClientBuilder {
    /// The relay's address: `http://HOST[:PORT][/PREFIX][#FINGERPRINT]`, or `https`. Must be given. Without the fingerprint
    /// of its key the first key that it shows is trusted, for as long as the client lives.
    pub fn relay(mut self, address: impl Into<String>) -> Self {
        self.relay = Some(address.into());
        self
    }

    /// The key by which the relay knows this machine; a new one if not given, which the relay does not know yet.
    pub fn key(mut self, key: MachineKey) -> Self {
        self.key = Some(key);
        self
    }

    /// The name under which this machine enrols; `machine` if not given.
    pub fn machine_name(mut self, name: impl Into<String>) -> Self {
        self.machine_name = Some(name.into());
        self
    }

    /// Only these carriers, the first choice first; all if not given. `underpass doctor` names them.
    pub fn carriers<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.carriers = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Reaches the relay through this proxy (`http://HOST:PORT`, also `https://` and `socks5://`, with `USER:PASSWORD@`
    /// before the host where it wants that), or through none for `none`. If not given: as the variables `HTTP_PROXY`,
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    pub fn proxy(mut self, proxy: impl Into<String>) -> Self {
        self.proxy = Some(proxy.into());
        self
    }

    /// Accepts only the certificate with this SHA-256 for `https`, instead of one that the system's roots vouch for. The
    /// relay proves itself once more inside, by its own key.
    pub fn certificate(mut self, sha256: [u8; 32]) -> Self {
        self.certificate = Some(sha256);
        self
    }

    /// Whoever publishes the service of this full name (`APPLICATION.USER.underpass.internal`) must show the key with this
    /// fingerprint. Of any other the first key that is seen is trusted, for as long as the client lives.
    pub fn peer_key(mut self, full_name: impl Into<String>, key: Fingerprint) -> Self {
        self.peer_keys.push((full_name.into(), key));
        self
    }

    /// How long channels wait for a new path when there is none, in whole seconds, before they break off; 10 minutes if
    /// not given.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Attaches. Whether the relay knows this machine shows with the first request: one that it does not know can only
    /// [enrol](Client::enrol), [sign in](Client::sign_in) or [register](Client::register).
    ///
    /// Cancel safe: nothing stays of an attempt that was dropped.
    ///
    /// # Errors
    /// A setting cannot be used, or the relay cannot be reached, or is another one than it should be.
    pub async fn attach(self) -> Result<Client> {
        Client::attach(self.settings()?).await
    }

    fn settings(self) -> Result<Settings> {
        let address = self
            .relay
            .ok_or_else(|| Error::setting("relay", "no address was given"))?;
        let wrong = |error: &dyn std::fmt::Display| Error::setting("relay", error);
        let relay: RelayUrl = address.parse().map_err(|error| wrong(&error))?;
        let relay_key = relay
            .fingerprint()
            .map(str::parse::<Fingerprint>)
            .transpose();
        let mut client = match &self.proxy {
            Some(proxy) => through(proxy)?,
            None => as_the_environment_says()?,
        };
        if let Some(sha256) = self.certificate {
            client.tls = TlsTrust::PinnedCertificate(sha256);
        }
        let mut session = Config::default();
        if let Some(keep) = self.keep {
            session.params.keep_s = keep.as_secs();
        }
        Ok(Settings {
            key: self.key.unwrap_or_else(MachineKey::generate),
            machine_name: self.machine_name.unwrap_or_else(|| "machine".to_owned()),
            known: self.peer_keys.into_iter().collect(),
            attach: AttachSettings {
                relay_key: relay_key.map_err(|error| wrong(&error))?,
                carriers: match &self.carriers {
                    Some(names) => named(names)?,
                    None => KINDS.iter().collect(),
                },
                relay,
                ascent: AscentSettings::default(),
                client,
                session,
            },
        })
    }
}

fn named(names: &[String]) -> Result<Vec<&'static Kind>> {
    if names.is_empty() {
        return Err(Error::setting("carriers", "none is named"));
    }
    let kind = |name: &String| {
        let unknown = || Error::setting("carriers", format!("there is no carrier {name:?}"));
        kind_by_name(name).ok_or_else(unknown)
    };
    names.iter().map(kind).collect()
}

fn through(proxy: &str) -> Result<ClientSettings> {
    let mut settings = ProxySettings::default();
    if proxy != "none" {
        let address = proxy
            .parse()
            .map_err(|error| Error::setting("proxy", error))?;
        settings.choice = ProxyChoice::Fixed(address);
    }
    Ok(with(settings))
}

fn as_the_environment_says() -> Result<ClientSettings> {
    let variable = |name: &str| std::env::var(name).ok();
    let environment = Environment::read(variable);
    let mut settings = ProxySettings::default();
    settings.choice = ProxyChoice::Environment(
        environment.map_err(|error| Error::setting("environment", error))?,
    );
    Ok(with(settings))
}

fn with(proxies: ProxySettings) -> ClientSettings {
    let mut client = ClientSettings::default();
    client.proxies = Proxies::new(proxies);
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn with_relay(address: &str) -> ClientBuilder {
        Client::builder().relay(address)
    }

    #[test]
    fn settings_become_what_is_needed() {
        let key = MachineKey::from_bytes([7; 32]);
        let print = key.fingerprint();
        let settings = with_relay(&format!("http://relay#{print}"))
            .key(key)
            .settings()
            .unwrap();
        assert_eq!(settings.attach.relay_key, Some(print));
        assert_eq!(settings.key.to_bytes(), [7; 32]);
        let plain = with_relay("http://relay");
        assert_eq!(plain.clone().settings().unwrap().attach.relay_key, None);
        let some = plain.clone().carriers(["poll", "ws"]).settings().unwrap();
        assert_eq!(some.attach.carriers[0].name, "poll");
        let kept = plain
            .clone()
            .keep(Duration::from_secs(7))
            .settings()
            .unwrap();
        assert_eq!(kept.attach.session.params.keep_s, 7);
        assert!(plain.proxy("http://u:p@proxy:3128").settings().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let plain = with_relay("http://relay");
        let wrong = [
            (Client::builder(), "relay"),
            (with_relay("relay"), "relay"),
            (with_relay("http://relay#abc"), "relay"),
            (plain.clone().carriers(["pigeon"]), "carriers"),
            (plain.clone().carriers([""; 0]), "carriers"),
            (plain.proxy("ftp://x"), "proxy"),
        ];
        for (builder, setting) in wrong {
            let error = builder.settings().err().unwrap();
            assert_eq!(error.code(), Code::BAD_SETTING);
            assert!(error.to_string().starts_with(setting), "{error}");
        }
    }
}
