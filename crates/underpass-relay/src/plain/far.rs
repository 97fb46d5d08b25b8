//! The way to a service for a client that has no agent: the relay attaches to itself in the client's
//! place, under the key that the client's token is. So the same rules hold as for any agent, and are
//! checked in the same places; but this end of the session is here, and the relay can read it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use underpass_carrier::Scheme;
use underpass_endpoint::{
    AttachError, Attachment, Channel, ChannelError, ConnectError, ControlError, OpenOptions,
    PeerTrust,
};
use underpass_proto::Code;
use underpass_proto::control::{Attach, Control as Message, FarEnd, Resolve, Resolved};
use underpass_proto::packet::VERSION;
use underpass_proto::session::Config;
use underpass_seal::{PublicKey, StaticKey};

use super::wire;
use crate::desk::Origin;
use crate::reception::Reception;
use crate::refusal::Refusal;

/// How long reaching a service may take: less than proxies wait for an answer, mostly a minute.
const REACH_LIMIT: Duration = Duration::from_secs(25);
/// How long what was written last may take to arrive before the path is given up.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// What the attachment says it is.
const AGENT: &str = concat!("underpass plain http/", env!("CARGO_PKG_VERSION"));

/// A service that was reached.
pub(super) struct Far {
    pub(super) attachment: Attachment,
    pub(super) channel: Channel,
}

/// Whom the relay acts for.
pub(super) struct Client {
    /// The key that its token is.
    pub(super) key: StaticKey,
    /// The token's name.
    pub(super) name: String,
    /// Where its request came from.
    pub(super) peer: Option<SocketAddr>,
    /// How.
    pub(super) scheme: Scheme,
}

/// The publisher's key is the one that the relay's store knows.
struct Known(PublicKey);

impl PeerTrust for Known {
    fn check(&self, service: &str, peer: &PublicKey) -> Result<(), String> {
        if *peer == self.0 {
            return Ok(());
        }
        Err(format!(
            "the publisher of {service} shows the key {}, enrolled is {}",
            peer.fingerprint(),
            self.0.fingerprint()
        ))
    }
}

/// Reaches `service` for a client, as the relay with `relay_key`.
///
/// # Errors
/// There is no such service for this client, or it cannot be reached.
pub(super) async fn reach(
    reception: Arc<Reception>,
    relay_key: PublicKey,
    config: Config,
    client: Client,
    service: String,
) -> Result<Far, Refusal> {
    let (near, inside) = wire::pair(client.peer, client.scheme);
    let receiving = Arc::clone(&reception).receive(inside, Origin::PlainHttp);
    reception.tasks.spawn(receiving);
    let key = Arc::new(client.key);
    let attachment = Attachment::over(near, relay_key, key, config).await?;
    let connecting = connect(&attachment, client.name, service);
    let outcome = tokio::time::timeout(REACH_LIMIT, connecting).await;
    match outcome.unwrap_or_else(|_| Err(Refusal::of(Code::TimedOut))) {
        Ok(channel) => Ok(Far {
            attachment,
            channel,
        }),
        Err(why) => {
            attachment.detach().await;
            Err(why)
        }
    }
}

async fn connect(
    attachment: &Attachment,
    machine_name: String,
    service: String,
) -> Result<Channel, Refusal> {
    let control = attachment.control();
    let introduce = |request| {
        let (version, agent) = (VERSION, AGENT.to_owned());
        Message::from(Attach {
            request,
            version,
            agent,
            machine_name,
        })
    };
    control.request(introduce).await?;
    let resolve = |request| Message::from(Resolve { request, service });
    let resolved = match control.request(resolve).await?.pop() {
        Some(Message::Resolved(resolved)) => resolved,
        _ => return Err(Refusal::of(Code::Internal)),
    };
    let Resolved {
        full_name,
        far_end,
        publisher_key,
        compression,
        ..
    } = resolved;
    let session = match far_end {
        FarEnd::Relay => attachment.session(),
        FarEnd::Publisher => {
            let trust = Known(PublicKey(publisher_key));
            attachment.connect(&full_name, &trust).await?
        }
    };
    let options = OpenOptions {
        compress: compression && far_end == FarEnd::Publisher,
        ..OpenOptions::default()
    };
    let mut channel = session.open(&full_name, options).await?;
    channel.accepted().await?;
    Ok(channel)
}

/// Ends an attachment once what was written has arrived.
pub(super) async fn leave(attachment: &Attachment) {
    let drained = async {
        while !attachment.is_drained() {
            tokio::time::sleep(DRAIN_STEP).await;
        }
    };
    // Where it does not arrive, the other side learns of the end by the session's.
    let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
    attachment.detach().await;
}

impl From<AttachError> for Refusal {
    fn from(error: AttachError) -> Self {
        let code = error.code();
        match error {
            AttachError::Refused { text, .. } => Refusal::new(code, text),
            other => {
                tracing::debug!("no attachment inside: {other}");
                Refusal::of(code)
            }
        }
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let code = error.code();
        match error {
            ControlError::Failed { text, .. } => Refusal::new(code, text),
            ControlError::Attach(error) => error.into(),
            other => {
                tracing::debug!("no answer inside: {other}");
                Refusal::of(code)
            }
        }
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        let code = error.code();
        match error {
            ConnectError::Refused { text, .. } => Refusal::new(code, text),
            ConnectError::Attach(error) => error.into(),
            other => {
                tracing::warn!("a publisher was not reached for a plain HTTP client: {other}");
                Refusal::of(code)
            }
        }
    }
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Self {
        Refusal::of(error.code())
    }
}
