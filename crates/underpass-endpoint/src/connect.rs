//! Sessions from end to end, through a relay that only forwards them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use underpass_proto::code::{self, Code};
use underpass_proto::handshake::{self, Accepting, Connecting};
use underpass_proto::packet::{HelloTarget, Packet};
use underpass_proto::session::LegId;
use underpass_seal::PublicKey;

use crate::attachment::{AttachError, Attachment, Backoff, Inner};
use crate::clock;
use crate::link::Link;
use crate::routes::{NewRoute, PeerInfo, RouteEvent, Tickets};
use crate::session::{Session, WantsLeg};
use crate::story::WaitsFor;
use crate::ways::{Detours, Way, Ways};

/// The peer must answer within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// While an answer is missing the link itself is asked this often whether it still works.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// A path that breaks during the handshake is tried again for so long: less than the time for which
/// a relay waits for a publisher that is away, so that its answer is the last word.
const PASSING_LIMIT: Duration = Duration::from_secs(15);
/// A further leg must carry the session within this.
const RESUME_LIMIT: Duration = Duration::from_secs(25);
/// Where there are several relays, the first one that is tried may take this long.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// The ticket of a session that has ended is deleted if there is a link within this.
const DISCARD_LIMIT: Duration = Duration::from_secs(1);
/// So many refusals in a row, each saying that the session is unknown, end it: one may come from a
/// publisher that is just being replaced.
const MAX_UNKNOWN: u32 = 3;

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
    fn keep_s(&self) -> u64 {
        self.inner.settings.session.params.keep_s
    }

    /// Takes sessions that others make to services published over this attachment; `on_session` gets
    /// each one once its peer has proven the key that the relay named. Later calls change nothing.
    pub fn serve(&self, on_session: impl Fn(Session, PeerInfo) + Send + Sync + 'static) {
        let weak = Arc::downgrade(&self.inner);
        let on_session = Arc::new(on_session);
        self.inner
            .routes
            .set_on_hello(Box::new(move |route, peer, hello| {
                let Some(inner) = weak.upgrade() else { return };
                let on_session = on_session.clone();
                tokio::spawn(async move {
                    match accept(&inner, route, &peer, hello).await {
                        Ok(session) => {
                            session.set_label(format!(
                                "{}'s session with {}",
                                peer.user, peer.service
                            ));
                            inner.routes.sessions.keep(&session);
                            on_session(session, peer);
                        }
                        Err(error) => tracing::warn!(user = peer.user, "no session: {error}"),
                    }
                });
            }));
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
        let outcome = connect_by(&way, ways, service, trust, limit).await;
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
                detours.failed(way.relay, Instant::now());
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
) -> Result<Session, ConnectError> {
    let Way {
        attachment, link, ..
    } = way;
    let relay = attachment.relay_key().fingerprint();
    let inner = &attachment.inner;
    let (connecting, hello) = Connecting::start(
        inner.settings.session.clone(),
        &inner.identity,
        HelloTarget::Endpoint,
        relay.as_bytes(),
        &mut rand::rng(),
    )?;
    let keep_s = attachment.keep_s();
    let mut route = inner.routes.open(link, service, keep_s, &hello);
    let answer = tokio::select! {
        biased;
        answer = next_packet(&mut route, limit) => answer?,
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
    session.set_label(format!("session with {service}"));
    inner.routes.sessions.remember(&session);
    let kept = Kept {
        ways: ways.clone(),
        session: session.clone(),
        service: service.to_owned(),
        tickets,
    };
    tokio::spawn(kept.alive(way.clone()));
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

async fn accept(
    inner: &Inner,
    mut route: NewRoute,
    peer: &PeerInfo,
    hello: Packet,
) -> Result<Session, ConnectError> {
    let relay = inner.relay_key.fingerprint();
    let begun = Accepting::start(
        inner.settings.session.clone(),
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
    let finish = next_packet(&mut route, ANSWER_LIMIT).await?;
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
async fn ask_meanwhile(link: &Link) -> Infallible {
    loop {
        link.ask();
        tokio::time::sleep(ASK_AFTER).await;
    }
}

async fn next_packet(route: &mut NewRoute, limit: Duration) -> Result<Packet, ConnectError> {
    match tokio::time::timeout(limit, route.events.recv()).await {
        Ok(Some(RouteEvent::Packet(packet))) => Ok(packet),
        Ok(Some(RouteEvent::Gone { code, text })) => Err(ConnectError::Refused { code, text }),
        Ok(None) => Err(broken()),
        Err(_) => {
            route.refuse(Code::TimedOut.number());
            Err(ConnectError::TimedOut(limit))
        }
    }
}

/// How long a relay may take until another one is asked: longer each time, so that a slow path comes to
/// its end as well.
struct Patience(Duration);

impl Patience {
    fn new() -> Self {
        Self(FIRST_PATIENCE)
    }

    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(RESUME_LIMIT);
        now
    }
}

/// A session that this agent began.
struct Kept {
    ways: Ways,
    session: Session,
    service: String,
    tickets: Tickets,
}

/// What a further path came to.
enum Attempt {
    Carries,
    /// Another one may, at once.
    Again,
    /// Nothing carries at the moment; and why, as far as that was said.
    Failed(Option<(u64, String)>),
    /// The session is over.
    Over,
}

impl Kept {
    /// Makes a new path for the session whenever it needs one, and has its ticket deleted when it has
    /// ended. Its first path is by `way`.
    async fn alive(self, way: Way) {
        self.keep_path(way).await;
        // A ticket that stays expires by itself, so nobody waits long for this.
        let first = self.ways.wait(|ways| ways.first().cloned());
        if let Ok(Ok(way)) = tokio::time::timeout(DISCARD_LIMIT, first).await {
            self.tickets.discard(&way.link);
        }
    }

    async fn keep_path(&self, mut way: Way) {
        let mut wait = Backoff::new();
        let mut patience = Patience::new();
        let mut detours = Detours::default();
        let mut unknown = 0;
        loop {
            // A link that was replaced is about to end: the session moves before it has to.
            tokio::select! {
                biased;
                wanted = self.session.wants_leg() => match wanted {
                    None => return,
                    // Another relay is asked first.
                    Some(WantsLeg::Suspect(_)) if self.ways.another_relay(&way) => {
                        detours.avoid(way.relay, Instant::now());
                    }
                    Some(_) => {}
                },
                () = self.ways.better_than(&way, &detours) => {}
            }
            self.session.waits(WaitsFor::Relay, "", None);
            let next = match self.ways.next(&detours).await {
                Ok(next) => next,
                Err(error) => return self.session.close(error.code(), &error.to_string()),
            };
            self.session.waits(WaitsFor::FarEnd, "", None);
            let reason = match self.attempt(&next, &mut patience, &mut unknown).await {
                Attempt::Carries => {
                    self.ways.outcome(&next, true);
                    detours.worked(next.relay);
                    way = next;
                    (unknown, patience) = (0, Patience::new());
                    wait.reset();
                    continue;
                }
                Attempt::Again => continue,
                Attempt::Failed(reason) => reason,
                Attempt::Over => return,
            };
            // That somebody else is away is not the relay's fault; that nothing comes back may be.
            if reason.is_none() {
                self.ways.outcome(&next, false);
            }
            detours.failed(next.relay, Instant::now());
            if detours.any_free(&self.ways.usable(), Instant::now()) {
                continue;
            }
            let pause = wait.next();
            if let Some((code, text)) = reason {
                let what = Code::from_number(code).map_or(WaitsFor::FarEnd, WaitsFor::of);
                self.session.waits(what, &text, Some(clock::now() + pause));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Tries to resume by a way. `unknown` counts refusals in a row that say that nobody knows the session.
    async fn attempt(&self, way: &Way, patience: &mut Patience, unknown: &mut u32) -> Attempt {
        let Way {
            attachment, link, ..
        } = way;
        let session = &self.session;
        let limit = match self.ways.another_relay(way) {
            true => patience.next(),
            false => RESUME_LIMIT,
        };
        let (routes, keep_s) = (&attachment.inner.routes, attachment.keep_s());
        let port = routes.resume(link, &self.service, keep_s, session, &self.tickets);
        let active = tokio::select! {
            active = tokio::time::timeout(limit, session.leg_active(port.id())) => active == Ok(true),
            () = attachment.link_replaced(link.serial()) => false,
            never = ask_meanwhile(link) => match never {},
        };
        if active {
            return Attempt::Carries;
        }
        session.leg_lost(port.id());
        if attachment.is_replaced(link.serial()) {
            return Attempt::Again;
        }
        let gone = port.gone_because();
        match &gone {
            Some((code, text)) if is_unknown(*code) => {
                *unknown += 1;
                if *unknown >= MAX_UNKNOWN {
                    session.close(Code::UnknownSession, text);
                    return Attempt::Over;
                }
            }
            Some((code, _)) if is_no_ticket(*code) => {
                if let Some(ticket) = port.presented() {
                    // At most two are refused, then a name opens the route.
                    self.tickets.refused(ticket);
                    return Attempt::Again;
                }
            }
            Some((code, text)) if is_final(*code) => {
                session.close(Code::from_number(*code).unwrap_or(Code::Internal), text);
                return Attempt::Over;
            }
            _ => {}
        }
        Attempt::Failed(gone)
    }
}

fn is_unknown(code: u64) -> bool {
    matches!(Code::from_number(code), Some(Code::UnknownSession))
}

fn is_no_ticket(code: u64) -> bool {
    matches!(Code::from_number(code), Some(Code::TicketUnknown))
}

/// What no further attempt can change.
fn is_final(code: u64) -> bool {
    matches!(
        Code::from_number(code),
        Some(Code::Denied | Code::Ended | Code::KeyMismatch | Code::NotEnrolled)
    )
}
