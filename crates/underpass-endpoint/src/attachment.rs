//! An agent's standing with one relay: a hop session that outlives its carriers, and is made anew
//! when the relay has forgotten it.

mod inside;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::watch;
use underpass_carrier::ladder::{Fault, RungStory, Wanted};
use underpass_carrier::{CarrierError, CarrierInfo, ClientSettings, Kind, RelayUrl};
use underpass_proto::code::Code;
use underpass_proto::packet::SessionId;
use underpass_proto::session::{Closed, ClosedBy, Config};
use underpass_seal::{Fingerprint, PublicKey, StaticKey};

use crate::ascent::{Ascent, AscentSettings, Goal, SharedLadder, Turn};
use crate::clock;
use crate::control::Control;
use crate::link::Link;
use crate::pauses::Pauses;
use crate::routes::Routes;
use crate::session::{Session, SessionStatus, WantsLeg};
use crate::sessions::Sessions;
use crate::story::{Story, Told, WaitsFor, Why, words_of};

/// Waits between attempts grow from this to that, each by a random part shorter.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// The longest that an end waits until the peers of all sessions know of it.
const PART_LIMIT: Duration = Duration::from_secs(2);
/// A session that lasted so long was a good one: another may follow at once.
const GOOD_LIFE: Duration = Duration::from_secs(5);
/// Rounds in a row of which the relay says that the requests were out of date, before the session is given up.
const MOST_STALE: u32 = 8;
/// Between attempts to attach to whoever comes after a relay that is going.
const LEAVE_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether an old hop session is still in use.
const PART_LOOK: Duration = Duration::from_millis(50);
/// How often the round trip of the link in use is looked at, and the network it is on.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How an agent attaches.
#[derive(Clone, Debug)]
pub struct AttachSettings {
    /// The relay's address.
    pub relay: RelayUrl,
    /// The relay's key, if it is known beforehand; otherwise the first one seen is taken and can be
    /// asked for by [`Attachment::relay_key`].
    pub relay_key: Option<Fingerprint>,
    /// The carriers that may be used, the first choice first.
    pub carriers: Vec<&'static Kind>,
    /// How it is chosen among them.
    pub ascent: AscentSettings,
    /// How carriers are made.
    pub client: ClientSettings,
    /// Settings of every session that this agent takes part in.
    pub session: Config,
}

/// Why the relay could not be attached to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttachError {
    /// No carrier could be made, or none carried anything. One line per carrier that was tried.
    #[error("no carrier reaches {relay}: {}", .tried.join("; "))]
    Unreachable {
        /// The relay.
        relay: String,
        /// Carrier and reason.
        tried: Vec<String>,
    },
    /// What is on the way lets no carrier through, and somebody has to do something about it. Any
    /// other carrier would meet the same.
    #[error("cannot reach {relay}: {error}; {} [{}]", .code.explain().next, .code.up())]
    Barred {
        /// The relay.
        relay: String,
        /// What is in the way.
        error: CarrierError,
        /// The reason from the table of codes.
        code: Code,
    },
    /// The relay shows another key than the one that is pinned.
    #[error(
        "the relay's key is {seen}, but {expected} is expected: this is another relay, or somebody \
         stands in between"
    )]
    RelayKey {
        /// What is pinned.
        expected: Fingerprint,
        /// What was shown.
        seen: Fingerprint,
    },
    /// The relay refused, in a way that trying again does not change.
    #[error("the relay refused: {text}")]
    Refused {
        /// From the table of codes.
        code: u64,
        /// In words.
        text: String,
    },
    /// A manager ended the attachment, or this side did.
    #[error("the attachment was ended: {0}")]
    Ended(String),
}

impl AttachError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            AttachError::Unreachable { .. } => Code::Unreachable,
            AttachError::Barred { code, .. } => *code,
            AttachError::RelayKey { .. } => Code::KeyMismatch,
            AttachError::Refused { code, .. } => Code::from_number(*code).unwrap_or(Code::Internal),
            AttachError::Ended(_) => Code::Ended,
        }
    }
}

/// What an attachment was seen to do.
#[derive(Clone, Debug)]
pub struct AttachStatus {
    /// The relay's address.
    pub relay: String,
    /// The relay's key.
    pub relay_key: Fingerprint,
    /// The carrier in use, while there is one.
    pub carrier: Option<CarrierInfo>,
    /// For how long the carrier has been in use, or has been missing.
    pub since: Duration,
    /// Times that the path was lost and made anew.
    pub drops: u64,
    /// How long it took the last time.
    pub last_resume: Option<Duration>,
    /// Why the last attempt failed, while there is no carrier.
    pub waiting_for: Option<String>,
    /// What is known of each carrier that may be used, the first choice first.
    pub carriers: Vec<RungStory>,
    /// Who signed the certificate that is seen in TLS, where that is not the relay's own: something on
    /// the way opens TLS. What is inside stays sealed.
    pub tls_opened_by: Option<String>,
    /// The hop's session.
    pub session: SessionStatus,
    /// Its story, which all sessions that pass here share.
    pub told: Told,
}

pub(crate) struct Inner {
    pub(crate) settings: AttachSettings,
    pub(crate) identity: Arc<StaticKey>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) relay_key: PublicKey,
    link: watch::Sender<Option<Arc<Link>>>,
    session: watch::Sender<Session>,
    story: Mutex<Story>,
    ladder: SharedLadder,
    /// The relay wants to be left: the hop session that it said so in, and from when on.
    going: watch::Sender<Option<(SessionId, Instant)>>,
    ended: watch::Sender<Option<AttachError>>,
}

/// A standing attachment; clones are the same one.
#[derive(Clone)]
pub struct Attachment {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("relay", &self.inner.settings.relay)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    /// Attaches to a relay on the carrier that gets there first. From then on the attachment keeps
    /// itself alive, and on the best carrier that works, until [`Attachment::detach`], or until a
    /// manager ends it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(
        settings: AttachSettings,
        identity: Arc<StaticKey>,
    ) -> Result<Attachment, AttachError> {
        Self::attach_with(settings, identity, Sessions::default()).await
    }

    /// The same for one of several attachments that share their sessions.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach_with(
        settings: AttachSettings,
        identity: Arc<StaticKey>,
        sessions: Sessions,
    ) -> Result<Attachment, AttachError> {
        let routes = Routes::of(sessions);
        let mut ascent = Ascent::new(settings.clone(), identity.clone(), routes.clone());
        let goal = Goal::Begin(settings.relay_key);
        let hop = ascent.climb(Wanted::Start, goal).await?;
        let inner = Arc::new(Inner {
            settings,
            identity,
            routes,
            // Only a session that was resumed would come without one.
            relay_key: hop.relay.unwrap_or(PublicKey([0; 32])),
            story: Mutex::new(Story::begin(clock::now(), words_of(hop.link.info()))),
            link: watch::Sender::new(Some(hop.link)),
            session: watch::Sender::new(hop.session),
            ladder: ascent.ladder(),
            going: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        });
        tokio::spawn(keep_attached(inner.clone(), ascent));
        Ok(Attachment { inner })
    }

    /// The relay's key, as it proved it.
    #[must_use]
    pub fn relay_key(&self) -> PublicKey {
        self.inner.relay_key
    }

    /// The key of this machine.
    #[must_use]
    pub fn machine_key(&self) -> PublicKey {
        self.inner.identity.public()
    }

    /// The hop's session. It changes when the relay had forgotten the old one.
    #[must_use]
    pub fn session(&self) -> Session {
        self.inner.session.borrow().clone()
    }

    /// Waits until the hop's session is another one than `old`: what was registered at the relay must
    /// be registered again. False once the attachment has ended.
    pub async fn session_changed(&self, old: &Session) -> bool {
        let mut sessions = self.inner.session.subscribe();
        let mut ended = self.inner.ended.subscribe();
        let id = old.id();
        tokio::select! {
            changed = sessions.wait_for(|session| session.id() != id) => changed.is_ok(),
            _ = ended.wait_for(Option::is_some) => false,
        }
    }

    /// Requests to the relay.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(self.clone())
    }

    /// What it was seen to do.
    #[must_use]
    pub fn status(&self) -> AttachStatus {
        let link = self.inner.link.borrow().clone();
        let carrier = link
            .filter(|link| !link.is_ended())
            .map(|link| link.info().clone());
        let certificate = self.session().peer_certificate();
        let told = self.inner.story().told(clock::now());
        AttachStatus {
            relay: self.inner.settings.relay.to_string(),
            relay_key: self.inner.relay_key.fingerprint(),
            tls_opened_by: carrier
                .as_ref()
                .and_then(|info| opened_by(info, certificate)),
            carrier,
            since: told.since,
            drops: told.drops,
            last_resume: told.last.map(|last| last.took),
            waiting_for: told.waiting.as_ref().map(|waiting| waiting.reason.clone()),
            carriers: self.inner.ladder.story(),
            session: self.session().status(),
            told,
        }
    }

    /// Whether the other one is the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether something passes through it: a session from end to end, or a channel to a service that the
    /// relay reaches itself.
    pub(crate) fn is_used(&self) -> bool {
        let link = self.present_link();
        let carries = link.is_some_and(|link| self.inner.routes.any_on(&link));
        // One channel is that of requests.
        carries || self.session().status().channels > 1
    }

    /// The end-to-end sessions that may pass through it.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.inner.routes.sessions.clone()
    }

    /// The link in use, if there is one.
    pub(crate) fn present_link(&self) -> Option<Arc<Link>> {
        let link = self.inner.link.borrow().clone();
        link.filter(|link| !link.is_ended())
    }

    /// Tells of links that come and go.
    pub(crate) fn links(&self) -> watch::Receiver<Option<Arc<Link>>> {
        self.inner.link.subscribe()
    }

    /// Why the attachment ended, if it did.
    pub(crate) fn end(&self) -> Option<AttachError> {
        self.inner.ended.borrow().clone()
    }

    /// Tells of its end.
    pub(crate) fn ends(&self) -> watch::Receiver<Option<AttachError>> {
        self.inner.ended.subscribe()
    }

    /// Waits until another link than the one of this serial number is in use.
    pub(crate) async fn link_replaced(&self, serial: u64) {
        let mut links = self.inner.link.subscribe();
        let another = |link: &Option<Arc<Link>>| {
            link.as_ref()
                .is_some_and(|link| link.serial() != serial && !link.is_ended())
        };
        if links.wait_for(another).await.is_err() {
            // The attachment is gone, and nobody waits for it any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether another link than this one is in use.
    pub(crate) fn is_replaced(&self, serial: u64) -> bool {
        let link = self.inner.link.borrow();
        link.as_ref()
            .is_some_and(|link| link.serial() != serial && !link.is_ended())
    }

    /// The relay has said in `session` that it is going: somebody else may listen in its place `after` so long.
    pub(crate) fn relay_is_going(&self, session: &Session, after: Duration) {
        self.inner.leave_at(session, Instant::now() + after);
    }

    fn end_reason(&self) -> AttachError {
        let ended = self.inner.ended.borrow().clone();
        ended.unwrap_or_else(|| AttachError::Ended("ended".into()))
    }

    /// Why the attachment ended, once it did.
    pub async fn ended(&self) -> AttachError {
        let mut ended = self.inner.ended.subscribe();
        let _ = ended.wait_for(Option::is_some).await;
        self.end_reason()
    }

    /// Ends the attachment in order, and the sessions that pass through it, or through others
    /// that share them: their peers are told, then the relay. Takes a few seconds at the most, where the path is gone.
    pub async fn detach(&self) {
        // The relay forgets the routes with the attachment, and with them what has not passed yet.
        let sessions = &self.inner.routes.sessions;
        let parting = sessions.part(Code::GoingAway, "the agent stopped");
        let _ = tokio::time::timeout(PART_LIMIT, parting).await;
        self.leave().await;
    }

    /// Ends the attachment in order, and no session: those that pass through it go on elsewhere, if they
    /// can.
    pub async fn leave(&self) {
        let session = self.session();
        self.inner
            .ended
            .send_replace(Some(AttachError::Ended("detached".into())));
        session.close(Code::NoError, "the agent detached");
        let link = self.inner.link.borrow().clone();
        if let Some(link) = link {
            link.close();
            let _ = tokio::time::timeout(Duration::from_secs(3), link.ended()).await;
        }
    }
}

impl Inner {
    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path is gone, or of no use any more.
    fn lost(&self, why: Why) {
        self.link.send_replace(None);
        self.story().lost(clock::now(), why);
        self.log_story();
    }

    /// The story so far goes into the log.
    fn log_story(&self) {
        let name = self.routes.relay_name().map(|name| format!(" {name}"));
        let name = name.unwrap_or_default();
        tracing::info!("the relay{name}: {}", self.story().told(clock::now()));
    }

    fn leave_at(&self, session: &Session, from: Instant) {
        self.going.send_replace(Some((session.id(), from)));
    }

    /// Waits until the relay of this hop session wants to be left. Cancel safe.
    async fn is_to_leave(&self, session: &Session) {
        let mut going = self.going.subscribe();
        let id = session.id();
        let due = match going
            .wait_for(|going| going.is_some_and(|(of, _)| of == id))
            .await
        {
            Ok(going) => going.map(|(_, from)| from),
            Err(_) => None,
        };
        match due {
            Some(from) => tokio::time::sleep_until(from.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Remembers why there is no carrier, and for how long nothing else is tried; says so where that is news.
    fn waits_for(&self, error: &AttachError, pause: Duration) {
        let text = error.to_string();
        let what = WaitsFor::of(error.code());
        let until = clock::now() + pause;
        if !self.story().waits(what, &text, Some(until)) {
            return;
        }
        match error {
            AttachError::RelayKey { .. } => tracing::error!("{text}"),
            AttachError::Barred { .. } => tracing::warn!("{text}"),
            _ => tracing::debug!("no path: {text}"),
        }
    }

    /// Another link carries the attachment. `why` counts where the one before still did.
    fn carried(&self, link: Arc<Link>, why: Why) {
        let by = words_of(link.info());
        self.story().carried(clock::now(), by, why);
        self.log_story();
        self.link.send_replace(Some(link));
    }
}

/// Makes legs for the hop's session as long as the attachment lasts.
async fn keep_attached(inner: Arc<Inner>, mut ascent: Ascent) {
    let mut ended = inner.ended.subscribe();
    tokio::select! {
        () = keep_going(&inner, &mut ascent) => {}
        _ = ended.wait_for(Option::is_some) => {}
    }
}

async fn keep_going(inner: &Arc<Inner>, ascent: &mut Ascent) {
    let mut pauses = Pauses::new();
    let mut stale = 0;
    let mut begun = Instant::now();
    loop {
        let session = inner.session.borrow().clone();
        let reason = match improve(inner, ascent, &session).await {
            Next::Leg(reason) => reason,
            Next::Leave => {
                leave(inner, ascent, &session).await;
                continue;
            }
            Next::Remake => {
                let first = match begun.elapsed() < GOOD_LIFE {
                    true => pauses.next(clock::now(), Fault::Final, rand::random()),
                    false => {
                        pauses.reset();
                        Pauses::forgotten(rand::random())
                    }
                };
                if !remake(inner, ascent, &session, first, &mut pauses).await {
                    return;
                }
                begun = Instant::now();
                continue;
            }
        };
        match reason {
            WantsLeg::Detached => {
                let lost = inner.link.borrow().clone();
                if let Some(lost) = lost {
                    ascent.lost(&lost);
                    inner.lost(Why::Lost);
                }
            }
            WantsLeg::Suspect(_) => inner.story().doubted(clock::now()),
        }
        let wanted = match reason {
            WantsLeg::Detached => Wanted::Lost,
            WantsLeg::Suspect(_) => Wanted::Suspect,
        };
        match ascent.climb(wanted, Goal::Resume(session.clone())).await {
            Ok(hop) => {
                inner.carried(hop.link, Why::Lost);
                stale = 0;
                pauses.reset();
            }
            Err(error) => {
                let pause = pauses.next(clock::now(), ascent.over_by(), rand::random());
                inner.waits_for(&error, pause);
                // That a request is out of date is no end: one of several crossed another on the way.
                stale = match error.code() {
                    Code::StaleResume => stale + 1,
                    _ => 0,
                };
                let refused =
                    matches!(error, AttachError::Refused { .. }) && error.code() != Code::Busy;
                if refused && !(1..MOST_STALE).contains(&stale) {
                    // The relay does not know the session any more: there is nothing to resume.
                    session.close(Code::UnknownSession, &error.to_string());
                    continue;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// What a hop session needs next.
enum Next {
    /// Another leg.
    Leg(WantsLeg),
    /// Another session, beside which it may go on for a while: the relay wants to be left.
    Leave,
    /// Another session in its place: it has ended.
    Remake,
}

/// Looks for better carriers until the session needs more than that.
async fn improve(inner: &Inner, ascent: &mut Ascent, session: &Session) -> Next {
    let mut looking = tokio::time::interval(LOOK_AFTER);
    looking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            reason = session.wants_leg() => return reason.map_or(Next::Remake, Next::Leg),
            () = inner.is_to_leave(session) => return Next::Leave,
            () = session.leg_late() => ascent.late(),
            turn = ascent.turn() => if let Some(Turn::Carries(hop)) = turn {
                inner.carried(hop.link, Why::Better);
            },
            _ = looking.tick() => {
                ascent.look_around();
                ascent.measure(session);
            }
        }
    }
}

/// Attaches to whoever listens in place of a relay that is going, while the old attachment still carries
/// what there is.
async fn leave(inner: &Arc<Inner>, ascent: &mut Ascent, old: &Session) {
    let pin = Some(inner.relay_key.fingerprint());
    match ascent.climb(Wanted::Start, Goal::Begin(pin)).await {
        Ok(hop) => {
            let old_link = inner.link.borrow().clone();
            inner.session.send_replace(hop.session);
            inner.carried(hop.link, Why::Asked);
            let parting = part(inner.clone(), old.clone(), old_link);
            tokio::spawn(parting);
        }
        Err(error) => {
            tracing::debug!("nobody listens in the relay's place yet: {error}");
            let part = rand::rng().random_range(0.5..1.0);
            inner.leave_at(old, Instant::now() + LEAVE_AGAIN.mul_f64(part));
        }
    }
}

/// Ends an old hop session once nothing passes through it any more, unless the relay ends it before.
async fn part(inner: Arc<Inner>, old: Session, link: Option<Arc<Link>>) {
    let in_use = |link: &Arc<Link>| !link.is_ended() && inner.routes.any_on(link);
    while old.status().channels > 0 || link.as_ref().is_some_and(in_use) {
        tokio::select! {
            _ = old.closed() => break,
            () = tokio::time::sleep(PART_LOOK) => {}
        }
    }
    old.close(Code::NoError, "went on with the relay's successor");
    if let Some(link) = link {
        link.close();
    }
}

/// The relay has forgotten the hop's session, or closed it: a new one takes its place. False when a
/// manager does not want that, or the relay is another one. Waits for `first` before it tries.
async fn remake(
    inner: &Arc<Inner>,
    ascent: &mut Ascent,
    old: &Session,
    first: Duration,
    pauses: &mut Pauses,
) -> bool {
    let closed = old.closed().await;
    inner.lost(Why::Forgotten);
    if ended_for_good(&closed) {
        inner.ended.send_replace(Some(AttachError::Refused {
            code: closed.code,
            text: closed.reason,
        }));
        return false;
    }
    tracing::info!(
        "the relay ended the attachment ({}), attaching anew",
        closed.reason
    );
    let mut pause = first;
    loop {
        tokio::time::sleep(pause).await;
        let pin = Some(inner.relay_key.fingerprint());
        match ascent.climb(Wanted::Start, Goal::Begin(pin)).await {
            Ok(hop) => {
                inner.session.send_replace(hop.session);
                inner.carried(hop.link, Why::Forgotten);
                return true;
            }
            // Also where somebody stands in the way: as with any other broken path, the right relay may come back.
            Err(error) => {
                pause = pauses.next(clock::now(), ascent.over_by(), rand::random());
                inner.waits_for(&error, pause);
            }
        }
    }
}

/// Whether the relay closed the session so that attaching again is no use.
fn ended_for_good(closed: &Closed) -> bool {
    closed.by == ClosedBy::Peer
        && matches!(
            Code::from_number(closed.code),
            Some(
                Code::Ended
                    | Code::VersionUnsupported
                    | Code::CertificateExpired
                    | Code::CertificateRevoked
                    | Code::CertificateUntrusted
                    | Code::CertificatePurpose
            )
        )
}

pub(crate) fn barred_by(settings: &AttachSettings, error: CarrierError) -> AttachError {
    AttachError::Barred {
        relay: settings.relay.to_string(),
        code: error.reason().unwrap_or(Code::Unreachable),
        error,
    }
}

/// Who opens TLS on the way, where `told`, which the relay says inside, is not what is shown outside.
pub(crate) fn opened_by(info: &CarrierInfo, told: Option<[u8; 32]>) -> Option<String> {
    let tls = info.tls.as_ref()?;
    let differs = tls.certificate_sha256? != told?;
    let issuer = tls.issuer.clone();
    differs.then(|| issuer.unwrap_or_else(|| "somebody unnamed".to_owned()))
}

/// Waits between attempts: longer each time, with a random part so that many agents that lost the
/// same relay do not come back in one wave.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { next: FIRST_WAIT }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST_WAIT;
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let part = rand::rng().random_range(0.5..1.0);
        let wait = self.next.mul_f64(part);
        self.next = (self.next * 2).min(LONGEST_WAIT);
        wait
    }

    pub(crate) async fn sleep(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}
