//! Proxies between this machine and the relay: which one, how to pass it, who asks.
//!
//! [`Proxies`] knows the ways to a relay; `opening` goes them. A way through a proxy is one of two:
//!
//! - a *tunnel* by CONNECT (or SOCKS), through which the relay itself is spoken to: always for
//!   `https://`, and first for carriers that need more than requests and answers;
//! - *forwarded requests*, which name the relay in full (RFC 9112 section 3.2.2): for `http://`, and
//!   where CONNECT is refused.

mod address;
mod auth;
mod bypass;
mod challenge;
mod credentials;
mod digest;
mod environment;
mod error;
mod fetch;
pub(crate) mod fuzzing;
mod negotiate;
mod ntlm;
pub(crate) mod opening;
mod pac;
mod passing;
mod socks;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use address::{ProxyScheme, ProxyUrl, ProxyUrlError};
pub use bypass::Bypass;
pub use credentials::{Credentials, CredentialsError, CredentialsFile};
pub use environment::{Environment, EnvironmentError};
pub use error::ProxyError;
pub use pac::{PacPlace, serve_pac_worker};

pub(crate) use auth::{Authenticator, Gate};
pub(crate) use passing::{Passed, pass};

use crate::tls::TlsRoots;
use crate::url::RelayUrl;

/// Which proxy is used.
#[derive(Debug, Clone, Default)]
pub enum ProxyChoice {
    /// None.
    #[default]
    None,
    /// The one that the variables of the environment name.
    Environment(Environment),
    /// This one, for every relay.
    Fixed(ProxyUrl),
    /// The ones that a PAC file names.
    Pac(PacPlace),
}

/// Asks somebody for the credentials for a proxy, which is named without any; may block.
pub type Prompt = Arc<dyn Fn(&str) -> Option<Credentials> + Send + Sync>;

/// Everything about proxies that is set.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ProxySettings {
    /// Which proxy is used.
    pub choice: ProxyChoice,
    /// Credentials for proxies that have none in their address.
    pub credentials: CredentialsFile,
    /// Asked for credentials that stand nowhere.
    pub prompt: Option<Prompt>,
    /// The absolute path of a program that does nothing but [`serve_pac_worker`]. Without one, PAC
    /// files are run in this process.
    pub pac_worker: Option<PathBuf>,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            choice,
            credentials: _,
            prompt,
            pac_worker,
        } = self;
        f.debug_struct("ProxySettings")
            .field("choice", choice)
            .field("prompt", &prompt.is_some())
            .field("pac_worker", pac_worker)
            .finish_non_exhaustive()
    }
}

/// One way to a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Without a proxy.
    Direct,
    /// Through this one.
    Proxy(ProxyUrl),
}

/// Where it comes from which proxy is used for a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyOrigin {
    /// None is used, and nothing names one.
    Nothing,
    /// This variable of the environment names one.
    Variable(&'static str),
    /// A variable names one, and `NO_PROXY` leaves this relay out.
    Bypassed(&'static str),
    /// It is set.
    Setting,
    /// The PAC file at this place says it, which is shown without credentials.
    Pac(String),
}

/// What a proxy was seen to ask of those who use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyAsks {
    /// The schemes that it offered, in its own order; none if it asked for nothing.
    pub offered: Vec<String>,
    /// The one by which it let us pass.
    pub accepted: Option<&'static str>,
}

/// The proxies of a program, with what it has learned about them. Clones are the same ones.
#[derive(Clone)]
pub struct Proxies {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProxySettings,
    pac: Option<pac::Pac>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Default for Proxies {
    /// None.
    fn default() -> Self {
        Self::new(ProxySettings::default())
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxies")
            .field(&self.inner.settings)
            .finish()
    }
}

impl Proxies {
    /// As set.
    #[must_use]
    pub fn new(settings: ProxySettings) -> Self {
        let pac = match &settings.choice {
            ProxyChoice::Pac(place) => {
                Some(pac::Pac::new(place.clone(), settings.pac_worker.clone()))
            }
            _ => None,
        };
        let gates = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                settings,
                pac,
                gates,
            }),
        }
    }

    /// The ways to a relay, in the order to try them.
    pub(crate) async fn routes(
        &self,
        relay: &RelayUrl,
        roots: &TlsRoots,
    ) -> Result<Vec<Route>, ProxyError> {
        let one = |proxy: Option<&ProxyUrl>| match proxy {
            Some(proxy) => vec![Route::Proxy(proxy.clone())],
            None => vec![Route::Direct],
        };
        match (&self.inner.settings.choice, &self.inner.pac) {
            (ProxyChoice::Pac(_), Some(pac)) => pac.routes(relay, roots).await,
            (ProxyChoice::Environment(environment), _) => Ok(one(environment.proxy_for(relay))),
            (ProxyChoice::Fixed(proxy), _) => Ok(one(Some(proxy))),
            _ => Ok(one(None)),
        }
    }

    /// The proxies that are tried on the way to a relay, in this order; none is: without one.
    ///
    /// # Errors
    /// The PAC file cannot be used.
    pub async fn ways(
        &self,
        relay: &RelayUrl,
        roots: &TlsRoots,
    ) -> Result<Vec<Option<ProxyUrl>>, ProxyError> {
        let routes = self.routes(relay, roots).await?;
        let proxy = |route| match route {
            Route::Direct => None,
            Route::Proxy(proxy) => Some(proxy),
        };
        Ok(routes.into_iter().map(proxy).collect())
    }

    /// Where it comes from which proxy is used for a relay.
    #[must_use]
    pub fn origin(&self, relay: &RelayUrl) -> ProxyOrigin {
        match &self.inner.settings.choice {
            ProxyChoice::None => ProxyOrigin::Nothing,
            ProxyChoice::Fixed(_) => ProxyOrigin::Setting,
            ProxyChoice::Pac(place) => ProxyOrigin::Pac(place.to_string()),
            ProxyChoice::Environment(environment) => match environment.variable_for(relay) {
                None => ProxyOrigin::Nothing,
                Some(variable) if environment.bypasses(relay) => ProxyOrigin::Bypassed(variable),
                Some(variable) => ProxyOrigin::Variable(variable),
            },
        }
    }

    /// What decides about the way to a relay, as far as it can be told at once: the proxy, without
    /// credentials, or the place of the PAC file. None where there is no proxy.
    #[must_use]
    pub fn named_for(&self, relay: &RelayUrl) -> Option<String> {
        match &self.inner.settings.choice {
            ProxyChoice::None => None,
            ProxyChoice::Environment(environment) => {
                environment.proxy_for(relay).map(ProxyUrl::to_string)
            }
            ProxyChoice::Fixed(proxy) => Some(proxy.to_string()),
            ProxyChoice::Pac(place) => Some(place.to_string()),
        }
    }

    /// What a proxy, named without credentials, was seen to ask of us; none before it was used.
    #[must_use]
    pub fn asks(&self, proxy: &str) -> Option<ProxyAsks> {
        let gates = self.inner.gates.lock();
        let gates = gates.unwrap_or_else(PoisonError::into_inner);
        gates.get(proxy)?.asks()
    }

    /// What is known about a proxy.
    pub(crate) fn gate(&self, proxy: &ProxyUrl) -> Arc<Gate> {
        let mut gates = self
            .inner
            .gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(proxy.to_string()).or_insert_with(|| {
            let own = proxy.credentials();
            let file = &self.inner.settings.credentials;
            let credentials = own.or_else(|| file.find(proxy.host(), proxy.port()));
            Arc::new(Gate::new(proxy.clone(), credentials.cloned()))
        });
        Arc::clone(gate)
    }

    /// Asks somebody for credentials, where `error` says that they are what is missing. True if
    /// there are others now.
    pub(crate) async fn ask_somebody(&self, error: &ProxyError) -> bool {
        let (ProxyError::NeedsCredentials { proxy, .. }, Some(prompt)) =
            (error, &self.inner.settings.prompt)
        else {
            return false;
        };
        let gate = {
            let gates = self.inner.gates.lock();
            let gates = gates.unwrap_or_else(PoisonError::into_inner);
            gates.get(proxy).cloned()
        };
        let Some(gate) = gate else { return false };
        let mut declined = gate.prompting.lock().await;
        // Somebody else may have been told while we waited.
        if !matches!(gate.credentials(), Ok(None)) {
            return true;
        }
        if *declined {
            return false;
        }
        let (prompt, proxy) = (Arc::clone(prompt), proxy.clone());
        let asked = tokio::task::spawn_blocking(move || prompt(&proxy));
        match asked.await {
            Ok(Some(credentials)) => {
                gate.set_credentials(credentials);
                true
            }
            _ => {
                *declined = true;
                false
            }
        }
    }
}
