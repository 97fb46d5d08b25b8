//! What was found, before anybody says what it means.

use std::net::SocketAddr;
use std::time::Duration;

use underpass_carrier::probe::{Greeting, Measurements};
use underpass_carrier::proxy::{ProxyAsks, ProxyError, ProxyOrigin};
use underpass_carrier::{CarrierError, Kind, RelayUrl, TlsTrust};
use underpass_endpoint::{Trial, TrialError};
use underpass_proto::control::Identity;
use underpass_seal::Fingerprint;

use super::deadline::Step;
use crate::standing::StandingError;

/// All that was found on the way to a relay.
#[derive(Debug)]
pub struct Findings {
    /// The relay.
    pub relay: RelayUrl,
    /// Its key, where it is known.
    pub relay_key: Option<Fingerprint>,
    /// Which certificate is asked for.
    pub trust: TlsTrust,
    /// Who says which proxy is used.
    pub origin: ProxyOrigin,
    /// The hosts that are connected to: the relay's or proxies', in the order in which they are tried.
    pub hosts: Step<Vec<HostFinding>, ProxyError>,
    /// The first answer.
    pub greeting: Step<Greeting, CarrierError>,
    /// Why the certificate would not do for a relay that is known; at the first login another key counts.
    pub not_vouched: Option<CarrierError>,
    /// What the proxy that was used asked for.
    pub proxy_asks: Option<ProxyAsks>,
    /// Each carrier that may be used, the first choice first.
    pub carriers: Vec<CarrierFinding>,
    /// What boxes do to bodies.
    pub measured: Step<Measurements, CarrierError>,
    /// Lengths of silence, and whether each was survived.
    pub silences: Vec<(Duration, Step<bool, CarrierError>)>,
    /// Whom the relay takes this machine for.
    pub login: Step<LoginFinding, StandingError>,
}

/// A host that TCP connections are made to.
#[derive(Debug)]
pub struct HostFinding {
    /// The proxy that it is, without credentials; none if it is the relay's host.
    pub proxy: Option<String>,
    /// Its name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What the name stands for.
    pub addresses: Step<Vec<SocketAddr>, CarrierError>,
    /// How long a connection to each address took.
    pub connected: Vec<(SocketAddr, Step<Duration, CarrierError>)>,
}

impl HostFinding {
    /// Whether some address takes connections.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.connected.iter().any(|(_, step)| step.done().is_some())
    }
}

/// A carrier that was tried.
#[derive(Debug)]
pub struct CarrierFinding {
    /// Which.
    pub kind: &'static Kind,
    /// What came of it.
    pub tried: Step<Trial, TrialError>,
}

/// A login that was tried.
#[derive(Debug)]
pub struct LoginFinding {
    /// Whom the relay takes this machine for.
    pub identity: Identity,
}
