//! Sessions from end to end, through a relay that only forwards them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use underpass_proto::code::{self, Code};
use underpass_proto::handshake::{self, Accepting, Connecting};
use underpass_proto::meeting::Place;
use underpass_proto::packet::{HelloTarget, Packet};
use underpass_proto::session::{Config, LegId};
use underpass_seal::PublicKey;

use crate::attachment::{AttachError, Attachment, Backoff, Inner};
use crate::clock;
use crate::kept::{Kept, Patience};
use crate::link::Link;
use crate::routes::{NewRoute, OnHello, PeerInfo, RouteEvent};
use crate::session::Session;
use crate::ways::{Detours, Way, Ways};

/// So many legs at the most carry one session at once.
pub const MAX_LEGS: usize = 4;
/// The peer must answer within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// While an answer is missing the link itself is asked this often whether it still works.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// A path that breaks during the handshake is tried again for so long: less than the time for which
/// a relay waits for a publisher that is away, so that its answer is the last word.
const PASSING_LIMIT: Duration = Duration::from_secs(15);

/// Why a relay is left whose publisher is not there.
pub(crate) const ABSENT: &str = "the far end is not attached to this relay";

/// Why there is no session with the peer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The relay or the peer refused, or the peer is not there.
    #[error("{text}")]
    Refused {
        /// From the table of codes.
        code: u64,
        /// In words.
        text: String,
    },
    /// The key agreement failed.
    #[error("{0}")]
    Handshake(#[from] handshake::ConnectError),
    /// The peer's key is not the one that is trusted.
    #[error("{0}")]
    NotTrusted(String),
    /// The peer did not answer.
    #[error("the peer did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// There is no attachment to a relay any more.
    #[error("{0}")]
    Attach(#[from] AttachError),
}

impl ConnectError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            ConnectError::Refused { code, .. } => {
                Code::from_number(*code).unwrap_or(Code::Internal)
            }
            ConnectError::Handshake(error) => {
                Code::from_number(error.code()).unwrap_or(Code::Internal)
            }
            ConnectError::NotTrusted(_) => Code::KeyMismatch,
            ConnectError::TimedOut(_) => Code::TimedOut,
            ConnectError::Attach(error) => error.code(),
        }
    }

    /// Whether it may be otherwise in a moment: a path that broke is being made anew.
    fn is_passing(&self) -> bool {
        let passing = [Code::ServiceAway, Code::AuthorityUnreachable];
        matches!(self, ConnectError::Refused { code, .. }
            if passing.iter().any(|it| it.number() == *code))
    }
}

/// Decides whether a peer is who it should be, by the key that it proved.
pub trait PeerTrust: Send + Sync {
    /// Whether the publisher of `service` may have this key.
    ///
    /// # Errors
    /// What is wrong, in words for the user: which key was expected, which was seen, what to do.
    fn check(&self, service: &str, peer: &PublicKey) -> Result<(), String>;
}

impl Attachment {
    /// Makes an end-to-end session with the publisher of a service. It keeps itself alive: whenever
    /// its path breaks another one is made, for as long as both sides keep it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        service: &str,
        trust: &dyn PeerTrust,
    ) -> Result<Session, ConnectError> {
        connect(&Ways::One(self.clone()), service, trust).await
    }

    /// How long sessions of this attachment are kept without a path, in seconds.
    pub(crate) fn keep_s(&self) -> u64 {
        self.inner.settings.session.params.keep_s
    }

    /// Takes sessions that others make to services published over this attachment; `on_session` gets
    /// each one once its peer has proven the key that the relay named. Later calls change nothing.
    pub fn serve(&self, on_session: impl Fn(Session, PeerInfo) + Send + Sync + 'static) {
        let handler = self.taking(on_session);
        self.inner.routes.set_on_hello(handler);
    }

    /// The same for sessions to [places](underpass_proto::meeting::Place) where this agent waits for somebody: these
    /// stand in the place of the service.
    pub fn serve_meetings(&self, on_session: impl Fn(Session, PeerInfo) + Send + Sync + 'static) {
        let handler = self.taking(on_session);
        self.inner.routes.set_on_meeting(handler);
    }

    /// Takes a session up by the handshake that begins on a route.
    fn taking(
        &self,
        on_session: impl Fn(Session, PeerInfo) + Send + Sync + 'static,
    ) -> Box<OnHello> {
        let weak = Arc::downgrade(&self.inner);
        let on_session = Arc::new(on_session);
        Box::new(move |route, peer, hello| {
            let Some(inner) = weak.upgrade() else { return };
            let on_session = on_session.clone();
            tokio::spawn(async move {
                match accept(&inner, route, &peer, hello).await {
                    Ok(session) => {
                        let what = shown(&peer.service);
                        session.set_label(format!("{}'s session with {what}", peer.user));
                        inner.routes.sessions.keep(&session);
                        on_session(session, peer);
                    }
                    Err(error) => tracing::warn!(user = peer.user, "no session: {error}"),
                }
            });
        })
    }
}

/// What a service is called in the log: of a place where two meet, what they meet for.
fn shown(service: &str) -> String {
    match service.parse::<Place>() {
        Ok(place) => format!("{} (met)", place.application),
        Err(_) => service.to_owned(),
    }
}

/// Makes an end-to-end session by the best of the ways by which its publisher is found.
pub(crate) async fn connect(
    ways: &Ways,
    service: &str,
    trust: &dyn PeerTrust,
) -> Result<Session, ConnectError> {
    let begun = Instant::now();
    let mut wait = Backoff::new();
    let mut detours = Detours::default();
    let mut patience = Patience::new();
    loop {
        let way = ways.next(&detours).await?;
        // A relay whose publisher is away has a client wait; another one may have it there.
        let limit = match ways.another_relay(&way) {
            true => patience.next(),
            false => ANSWER_LIMIT,
        };
        let elsewhere = || ways.free_elsewhere(&way, &detours);
        let outcome = connect_by(&way, ways, service, trust, limit, &elsewhere).await;
        let passing = match &outcome {
            Err(ConnectError::TimedOut(_)) => limit < ANSWER_LIMIT,
            Err(error) => error.is_passing(),
            Ok(_) => false,
        };
        match outcome {
            Err(error) if passing && begun.elapsed() < PASSING_LIMIT => {
                tracing::debug!("{service}: {error}, trying again");
                // Where another link is there already, there is nothing to wait for.
                if way.attachment.is_replaced(way.link.serial()) {
                    continue;
                }
                detours.failed(&way, Instant::now());
                if !detours.any_free(&ways.usable(), Instant::now()) {
                    wait.sleep().await;
                }
            }
            outcome => return outcome,
        }
    }
}

async fn connect_by(
    way: &Way,
    ways: &Ways,
    service: &str,
    trust: &dyn PeerTrust,
    limit: Duration,
    elsewhere: &(dyn Fn() -> bool + Sync),
) -> Result<Session, ConnectError> {
    let Way {
        attachment, link, ..
    } = way;
    let relay = attachment.relay_key().fingerprint();
    let inner = &attachment.inner;
    let (connecting, hello) = Connecting::start(
        end_to_end(&inner.settings.session),
        &inner.identity,
        HelloTarget::Endpoint,
        relay.as_bytes(),
        &mut rand::rng(),
    )?;
    let keep_s = attachment.keep_s();
    let mut route = inner.routes.open(link, service, keep_s, &hello);
    let answer = tokio::select! {
        biased;
        answer = next_packet(&mut route, limit, elsewhere) => answer?,
        _ = link.ended() => return Err(broken()),
        // The answer may never come: mostly the link was replaced because none did.
        () = attachment.link_replaced(link.serial()) => return Err(broken()),
        never = ask_meanwhile(link) => match never {},
    };
    let answered = connecting.handle_answer(answer)?;
    if let Err(reason) = trust.check(service, &answered.peer) {
        route.refuse(Code::KeyMismatch.number());
        return Err(ConnectError::NotTrusted(reason));
    }
    let leg = LegId(0);
    let (core, finish) = answered.finish(leg, clock::now())?;
    route.send(&finish);
    let tickets = route.tickets.clone();
    let session = route.into_leg(leg, |port| Session::new(core, leg, port));
    let label = format!("session with {}", shown(service));
    let ways = ways.follow(&session, &label);
    session.set_label(label);
    inner.routes.sessions.remember(&session);
    let kept = Kept {
        ways,
        session: session.clone(),
        service: service.to_owned(),
        tickets,
    };
    tokio::spawn(kept.alive(leg, way.clone()));
    match tokio::time::timeout(ANSWER_LIMIT, session.established()).await {
        Ok(true) => Ok(session),
        // The last message did not get there, and the peer knows of no session to resume.
        Ok(false) => Err(broken()),
        Err(_) => {
            session.close(Code::TimedOut, "the peer did not go on after the handshake");
            Err(ConnectError::TimedOut(ANSWER_LIMIT))
        }
    }
}

/// What this end says of itself to another agent. Who began the session decides how many legs carry it.
fn end_to_end(config: &Config) -> Config {
    let mut config = config.clone();
    config.params.max_legs = MAX_LEGS as u64;
    config
}

async fn accept(
    inner: &Inner,
    mut route: NewRoute,
    peer: &PeerInfo,
    hello: Packet,
) -> Result<Session, ConnectError> {
    let relay = inner.relay_key.fingerprint();
    let begun = Accepting::start(
        end_to_end(&inner.settings.session),
        &inner.identity,
        HelloTarget::Endpoint,
        relay.as_bytes(),
        hello.body,
        &mut rand::rng(),
    );
    let (accepting, answer) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            route.refuse(error.code());
            return Err(error.into());
        }
    };
    route.send(&answer);
    let finish = next_packet(&mut route, ANSWER_LIMIT, &|| false).await?;
    let leg = LegId(0);
    let (core, key) = match accepting.handle_finish(finish, leg, clock::now()) {
        Ok(finished) => finished,
        Err(error) => {
            route.refuse(error.code());
            return Err(error.into());
        }
    };
    if key != peer.machine {
        route.refuse(Code::KeyMismatch.number());
        return Err(ConnectError::NotTrusted(format!(
            "the relay announced the machine {}, but {} answered",
            peer.machine.fingerprint(),
            key.fingerprint(),
        )));
    }
    if inner.routes.sessions.resumable(core.id()).is_some() {
        route.refuse(Code::Exists.number());
        let text = code::describe(Code::Exists.number());
        return Err(ConnectError::Refused {
            code: Code::Exists.number(),
            text,
        });
    }
    Ok(route.into_leg(leg, |port| Session::new(core, leg, port)))
}

/// One of the links on the way ended.
fn broken() -> ConnectError {
    ConnectError::Refused {
        code: Code::ServiceAway.number(),
        text: "the path broke in the middle of the handshake".into(),
    }
}

/// Finds out whether it is the link that an answer is missing for. Asks at once: where the path has just
/// died, every moment until then is waited for in the end. Never ends.
pub(crate) async fn ask_meanwhile(link: &Link) -> Infallible {
    loop {
        link.ask();
        tokio::time::sleep(ASK_AFTER).await;
    }
}

/// The next packet of the handshake. Where the publisher is not at this relay, it is waited for unless it may be
/// `elsewhere`.
async fn next_packet(
    route: &mut NewRoute,
    limit: Duration,
    elsewhere: &(dyn Fn() -> bool + Sync),
) -> Result<Packet, ConnectError> {
    let event = async {
        loop {
            match route.events.recv().await {
                Some(RouteEvent::Absent) if !elsewhere() => {}
                event => return event,
            }
        }
    };
    match tokio::time::timeout(limit, event).await {
        Ok(Some(RouteEvent::Packet(packet))) => Ok(packet),
        Ok(Some(RouteEvent::Gone { code, text })) => Err(ConnectError::Refused { code, text }),
        Ok(Some(RouteEvent::Absent)) => {
            let code = Code::ServiceAway.number();
            route.refuse(code);
            let text = ABSENT.to_owned();
            Err(ConnectError::Refused { code, text })
        }
        Ok(None) => Err(broken()),
        Err(_) => {
            route.refuse(Code::TimedOut.number());
            Err(ConnectError::TimedOut(limit))
        }
    }
}
