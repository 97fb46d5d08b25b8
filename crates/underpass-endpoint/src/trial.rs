//! One carrier tried for its own sake: nothing is attached, and the relay learns of nobody.

use std::time::{Duration, Instant};

use underpass_carrier::ladder::Probation;
use underpass_carrier::{CarrierError, CarrierInfo, ClientSettings, Kind, RelayUrl};
use underpass_proto::session::Config;
use underpass_seal::{Fingerprint, StaticKey};

use crate::ascent::AscentSettings;
use crate::attachment::{AttachError, AttachSettings, opened_by};
use crate::attempt::{self, Failed};
use crate::clock;

/// What a carrier has shown.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What is known about it.
    pub info: CarrierInfo,
    /// It was made in so long.
    pub made_in: Duration,
    /// The usual round trip of a small packet on it.
    pub round_trip: Duration,
    /// The relay's key, as it proved it.
    pub relay_key: Fingerprint,
    /// Who signed the certificate that is seen in TLS, where that is not the relay's own.
    pub tls_opened_by: Option<String>,
}

/// What a carrier has failed in.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// It was not made, or broke.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// It was made, and does not carry.
    #[error("{0}")]
    Path(String),
    /// The relay was reached on it, and does not want us.
    #[error(transparent)]
    Relay(#[from] AttachError),
    /// There was no end to it.
    #[error("it was not done with after {0:?}")]
    TimedOut(Duration),
}

impl From<Failed> for TrialError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Carrier(error) => TrialError::Carrier(error),
            Failed::Path(reason) | Failed::Cut(reason) => TrialError::Path(reason),
            Failed::Stale(error) | Failed::Busy(error) | Failed::Final(error) => {
                TrialError::Relay(error)
            }
        }
    }
}

/// Makes a carrier, has 64 KiB brought there and back on it, and lets the relay prove its key; then
/// gives it up. Takes no longer than `limit`.
///
/// # Errors
/// See [`TrialError`].
pub async fn try_carrier(
    relay: &RelayUrl,
    kind: &'static Kind,
    client: &ClientSettings,
    limit: Duration,
) -> Result<Trial, TrialError> {
    let settings = AttachSettings {
        relay: relay.clone(),
        relay_key: None,
        carriers: vec![kind],
        ascent: AscentSettings::default(),
        client: client.clone(),
        session: Config::default(),
    };
    tokio::time::timeout(limit, go(&settings, kind))
        .await
        .unwrap_or(Err(TrialError::TimedOut(limit)))
}

async fn go(settings: &AttachSettings, kind: &'static Kind) -> Result<Trial, TrialError> {
    let begin = Instant::now();
    let mut packets = attempt::make(settings, kind).await?;
    let made_in = begin.elapsed();
    let info = packets.carrier.info.clone();
    let round_trip = attempt::try_out(&mut packets, Probation::brief(clock::now())).await?;
    // A key of its own: who we are is nobody's business here.
    let begun = attempt::begin(packets, settings, &StaticKey::generate(), None, || ()).await?;
    Ok(Trial {
        made_in,
        round_trip,
        relay_key: begun.answered.peer.fingerprint(),
        tls_opened_by: opened_by(&info, begun.answered.peer_certificate()),
        info,
    })
}
