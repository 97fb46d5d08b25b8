//! One attempt with one carrier: a new session, an old one resumed, or a probation.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use underpass_carrier::ladder::{Fault, Probation, Step};
use underpass_carrier::{CarrierError, Kind};
use underpass_proto::code::Code;
use underpass_proto::handshake::{Answered, ConnectError, Connecting};
use underpass_proto::packet::{HelloTarget, Packet, PacketKind};
use underpass_proto::session::LegId;
use underpass_seal::{Fingerprint, PublicKey, StaticKey};

use crate::attachment::{AttachError, AttachSettings};
use crate::clock;
use crate::link::{HopPort, Link, LinkEnd};
use crate::packets::PacketCarrier;
use crate::routes::{AgentRouter, Routes};
use crate::session::Session;

/// The relay must answer in the handshake, or to a request to resume, within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A hop session on the link that carries it.
pub(crate) struct NewHop {
    pub(crate) session: Session,
    pub(crate) link: Arc<Link>,
    /// The relay's key, where it was proven just now.
    pub(crate) relay: Option<PublicKey>,
}

/// Why one carrier did not do.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The carrier was not made, or broke.
    Carrier(CarrierError),
    /// It did not do; another may do better.
    Path(String),
    /// It worked, and was cut.
    Cut(String),
    /// The relay says that the request to resume is out of date; another one may not be.
    Stale(AttachError),
    /// The relay has no room at the moment, whatever the carrier.
    Busy(AttachError),
    /// The relay was reached; another carrier would not change its answer.
    Final(AttachError),
}

impl Failed {
    pub(crate) fn path(reason: impl Into<String>) -> Self {
        Failed::Path(reason.into())
    }
}

impl From<CarrierError> for Failed {
    fn from(error: CarrierError) -> Self {
        Failed::Carrier(error)
    }
}

/// How a carrier's error concerns the others.
pub(crate) fn fault_of(error: &CarrierError) -> Fault {
    match error {
        error if error.is_about_the_host() => Fault::Host,
        CarrierError::Busy => Fault::Busy,
        // A server error may pass; whoever says no to the request itself will say it again.
        CarrierError::Refused { status, .. } if *status < 500 => Fault::Refused,
        CarrierError::Protocol { .. } | CarrierError::Proxy(_) => Fault::Refused,
        _ => Fault::Path,
    }
}

impl From<LinkEnd> for Failed {
    fn from(end: LinkEnd) -> Self {
        match end {
            LinkEnd::Refused { code, text } => {
                let error = AttachError::Refused { code, text };
                match Code::from_number(code) {
                    Some(Code::StaleResume) => Failed::Stale(error),
                    Some(Code::Busy) => Failed::Busy(error),
                    _ => Failed::Final(error),
                }
            }
            LinkEnd::Carrier(error) => error.into(),
            end => Failed::path(end.to_string()),
        }
    }
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused { code, text } => {
                let error = AttachError::Refused { code, text };
                match error.code() {
                    Code::Busy => Failed::Busy(error),
                    _ => Failed::Final(error),
                }
            }
            error @ ConnectError::Version { .. } => Failed::Final(AttachError::Refused {
                code: error.code(),
                text: error.to_string(),
            }),
            error => Failed::path(error.to_string()),
        }
    }
}

/// Makes a carrier to the relay.
pub(crate) async fn make(
    settings: &AttachSettings,
    kind: &'static Kind,
) -> Result<PacketCarrier, Failed> {
    match underpass_carrier::connect(&settings.relay, kind, &settings.client).await {
        Ok(made) => Ok(PacketCarrier::new(made)),
        // A host that does not answer over UDP may be reached over TCP.
        Err(error) if kind.abilities.needs_udp => Err(Failed::path(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// A handshake that the relay has answered, and that may still be given up.
pub(crate) struct Begun {
    packets: PacketCarrier,
    pub(crate) answered: Answered,
}

/// Begins a new session: up to the relay's answer, which proves its key. `heard` is called whenever the relay says that
/// it will come, and that others are before us.
pub(crate) async fn begin(
    mut packets: PacketCarrier,
    settings: &AttachSettings,
    identity: &StaticKey,
    pin: Option<Fingerprint>,
    heard: impl Fn(),
) -> Result<Begun, Failed> {
    let config = settings.session.clone();
    let target = HelloTarget::Relay;
    let (connecting, hello) = Connecting::start(config, identity, target, &[], &mut rand::rng())?;
    send(&mut packets, &hello).await?;
    let answer = loop {
        // The ladder ends it where the relay says nothing else for too long.
        let packet = packets.receive_any(ANSWER_LIMIT).await?;
        if packet.kind != PacketKind::Padding {
            break packet;
        }
        // What comes back of a probation has a body.
        if packet.body.is_empty() {
            heard();
        }
    };
    let answered = connecting.handle_answer(answer)?;
    let seen = answered.peer.fingerprint();
    if let Some(expected) = pin.filter(|pin| *pin != seen) {
        return Err(Failed::Final(AttachError::RelayKey { expected, seen }));
    }
    Ok(Begun { packets, answered })
}

/// Brings the handshake to its end.
pub(crate) async fn finish(begun: Begun, routes: &Arc<Routes>) -> Result<NewHop, Failed> {
    let Begun {
        mut packets,
        answered,
    } = begun;
    let relay = answered.peer;
    let leg = LegId(0);
    let (core, finish) = answered.finish(leg, clock::now())?;
    send(&mut packets, &finish).await?;
    let port = HopPort::new();
    let session = Session::new(core, leg, port.clone());
    let link = start_link(packets, &session, leg, &port, routes);
    let established = tokio::time::timeout(ANSWER_LIMIT, async {
        tokio::select! {
            true = session.established() => Ok(()),
            end = link.ended() => Err(end),
        }
    });
    match established.await {
        Ok(Ok(())) => Ok(NewHop {
            session,
            link,
            relay: Some(relay),
        }),
        Ok(Err(end)) => {
            session.close(Code::Cancelled, "the handshake did not come to its end");
            Err(end.into())
        }
        Err(_) => {
            session.close(Code::Cancelled, "the handshake did not come to its end");
            link.close();
            Err(Failed::path("the relay did not go on after the handshake"))
        }
    }
}

async fn send(packets: &mut PacketCarrier, packet: &Packet) -> Result<(), Failed> {
    let sending = tokio::time::timeout(ANSWER_LIMIT, packets.send(packet)).await;
    match sending {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Failed::path("the carrier takes nothing")),
    }
}

/// A leg that is to be resumed on. Dropping it gives it up.
struct Resuming {
    session: Session,
    leg: LegId,
    link: Arc<Link>,
    kept: bool,
}

impl Drop for Resuming {
    fn drop(&mut self) {
        if !self.kept {
            self.session.leg_lost(self.leg);
            self.link.close();
        }
    }
}

/// Goes on with `session` on a carrier. `heard` is called as by [`begin`]. Cancel safe: the leg is given up.
pub(crate) async fn resume(
    packets: PacketCarrier,
    session: &Session,
    routes: &Arc<Routes>,
    heard: impl Fn(),
) -> Result<NewHop, Failed> {
    let leg = session.new_leg_id();
    let port = HopPort::new();
    session.add_leg(leg, port.clone());
    let link = start_link(packets, session, leg, &port, routes);
    let mut resuming = Resuming {
        session: session.clone(),
        leg,
        link: link.clone(),
        kept: false,
    };
    loop {
        // The ladder ends it where the relay says nothing else for too long.
        tokio::select! {
            true = session.leg_active(leg) => break,
            end = link.ended() => return Err(end.into()),
            () = link.told_to_wait() => heard(),
            () = tokio::time::sleep(ANSWER_LIMIT) => {
                return Err(Failed::path("the relay did not answer the request to resume"));
            }
        }
    }
    resuming.kept = true;
    Ok(NewHop {
        session: session.clone(),
        link,
        relay: None,
    })
}

fn start_link(
    packets: PacketCarrier,
    session: &Session,
    leg: LegId,
    port: &Arc<HopPort>,
    routes: &Arc<Routes>,
) -> Arc<Link> {
    let router = Arc::new(AgentRouter(routes.clone()));
    Link::start(
        packets.carrier,
        packets.decoder,
        session.clone(),
        leg,
        port,
        router,
    )
}

/// Puts a carrier through its probation. The usual round trip on it.
pub(crate) async fn try_out(
    packets: &mut PacketCarrier,
    mut probation: Probation,
) -> Result<Duration, Failed> {
    loop {
        let until = match probation.step(clock::now()) {
            Step::Passed(round_trip) => return Ok(round_trip),
            Step::Failed(reason) => return Err(Failed::path(reason)),
            Step::Wait(until) => until,
            Step::Send(body) => {
                let kind = PacketKind::Padding;
                // What takes longer than an answer may is found out by the probation's own limit.
                match tokio::time::timeout(ANSWER_LIMIT, packets.send(&Packet { kind, body })).await
                {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(ended(&probation, error.into())),
                    Err(_) => return Err(Failed::path("the carrier takes nothing")),
                }
                continue;
            }
        };
        let heard = tokio::time::timeout_at(clock::instant(until), padding(packets)).await;
        if let Ok(body) = heard {
            let body = body.map_err(|failed| ended(&probation, failed))?;
            probation.heard(clock::now(), &body);
        }
    }
}

/// What ended by itself after it had worked was cut, whatever it says.
fn ended(probation: &Probation, failed: Failed) -> Failed {
    match failed {
        Failed::Carrier(error) if probation.has_answered() => Failed::Cut(error.to_string()),
        Failed::Path(reason) if probation.has_answered() => Failed::Cut(reason),
        failed => failed,
    }
}

/// The next padding packet's body. Cancel safe.
async fn padding(packets: &mut PacketCarrier) -> Result<Bytes, Failed> {
    loop {
        match packets.decoder.next().map_err(LinkEnd::from)? {
            Some(packet) if packet.kind == PacketKind::Padding => return Ok(packet.body),
            Some(_) => return Err(Failed::path("the relay does not know probations")),
            None => {}
        }
        match poll_fn(|cx| packets.carrier.source.poll_recv(cx)).await {
            Some(chunk) => packets.decoder.push(chunk?),
            None => return Err(LinkEnd::Closed.into()),
        }
    }
}
