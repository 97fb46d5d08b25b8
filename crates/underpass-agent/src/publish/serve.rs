//! Serving the sessions that come in: each channel to the host of the service it names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use underpass_endpoint::dial::{DialError, dial, dial_udp};
use underpass_endpoint::flow::FlowSettings;
use underpass_endpoint::splice::{self, HostSide, splice_host};
use underpass_endpoint::{Incoming, PeerInfo, Session};
use underpass_proto::far_host::{FarPort, read_open};
use underpass_proto::frame::ChannelKind;
use underpass_proto::steer::STEER_SERVICE;
use underpass_proto::{Code, Grade};
use underpass_seal::Fingerprint;

use super::access::{Access, Verdict};
use super::inside::{Guest, Inside};
use super::network::{self, Network};
use super::target::{Speech, Target};
use super::{KnownUsers, Limits, Listing, Offer, RetargetError, Retargeted, flows, ftp, steered};
use crate::ftp::{Announced, Asked};
use crate::http;
use crate::standings::Standings;
use crate::status::{Board, SessionEntry};
use crate::x11::{self, Display, Stream};

/// The longest wait until connections that are to move have moved.
const MOVE_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const MOVE_LOOK: Duration = Duration::from_millis(10);

/// One service that is published here.
#[derive(Debug)]
struct Served {
    listing: Listing,
    /// What may be reached of it, where it is a network.
    network: Option<Arc<Network>>,
    /// Whether its connections may be dialled anew while they last.
    redial: bool,
    /// The keys of machines that may lead it elsewhere.
    retarget_by: Vec<Fingerprint>,
    /// The keys of the only machines that may use it, whatever a relay says; empty for whom the relay lets in.
    only: Vec<Fingerprint>,
    /// The least secrecy that a session with it may have.
    lowest_grade: Grade,
    /// What serves it here, where no host is dialled.
    inside: Option<Inside>,
    /// Counts how often its connections were cut on the host side; each of them listens.
    cuts: watch::Sender<u64>,
    /// Held by each of its connections: how often any of them was dialled anew.
    redials: Arc<AtomicU64>,
}

impl Served {
    /// Connections to it.
    fn living(&self) -> usize {
        Arc::strong_count(&self.redials) - 1
    }
}

/// The service that a connection, or a flow of datagrams, uses.
struct Used {
    name: String,
    /// The host and port of it that the peer named, where it named one.
    to: Option<String>,
    cuts: watch::Receiver<u64>,
    redials: Arc<AtomicU64>,
}

/// What is published here, and how it is reached.
#[derive(Debug)]
pub(super) struct Catalogue {
    services: Mutex<Vec<Served>>,
    pub(super) access: Access,
    limits: Limits,
    /// Places for flows of datagrams.
    flows: Arc<Semaphore>,
    users: KnownUsers,
    board: Board,
}

impl Catalogue {
    pub(super) fn new(
        standings: Standings,
        offers: &[Offer],
        limits: Limits,
        users: KnownUsers,
        board: Board,
    ) -> Self {
        let services = offers.iter().map(|offer| Served {
            listing: Listing {
                name: offer.name.clone(),
                full_name: String::new(),
                target: offer.target.clone(),
            },
            network: offer.network.clone().map(Arc::new),
            redial: offer.redial,
            retarget_by: offer.retarget_by.clone(),
            only: offer.only.clone(),
            lowest_grade: offer.lowest_grade,
            inside: offer.inside.clone(),
            cuts: watch::Sender::new(0),
            redials: Arc::default(),
        });
        Self {
            services: Mutex::new(services.collect()),
            access: Access::new(standings),
            flows: Arc::new(Semaphore::new(limits.flows.most)),
            limits,
            users,
            board,
        }
    }

    /// The least secrecy that a session may have in which `service` is used.
    pub(super) fn lowest_grade(&self, service: &str) -> Grade {
        let name = self.find(service).map(|listing| listing.name);
        let services = self.services();
        let of_name = services
            .iter()
            .filter(|it| Some(&it.listing.name) == name.as_ref());
        of_name
            .map(|it| it.lowest_grade)
            .max()
            .unwrap_or(Grade::Blind)
    }

    pub(super) fn listings(&self) -> Vec<Listing> {
        let services = self.services();
        services.iter().map(|it| it.listing.clone()).collect()
    }

    fn services(&self) -> MutexGuard<'_, Vec<Served>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The relay has told the full name. Where the service leads now.
    pub(super) fn named(&self, name: &str, full_name: &str) -> String {
        let mut services = self.services();
        let Some(service) = services.iter_mut().find(|it| it.listing.name == name) else {
            return String::new();
        };
        full_name.clone_into(&mut service.listing.full_name);
        service.listing.target.clone()
    }

    fn find(&self, service: &str) -> Option<Listing> {
        find(&self.listings(), service).cloned()
    }

    /// What is spoken at `service`.
    fn speech(&self, service: &str) -> Speech {
        self.find(service)
            .map_or(Speech::Any, |listing| listing.target().speech)
    }

    /// A connection begins to use what OPEN or REDIAL named.
    fn used(&self, opened: &str) -> Option<Used> {
        let (service, to) = read_open(opened);
        let name = self.find(service)?.name;
        let services = self.services();
        let found = services.iter().find(|it| it.listing.name == name)?;
        Some(Used {
            name,
            to: to.map(str::to_owned),
            cuts: found.cuts.subscribe(),
            redials: Arc::clone(&found.redials),
        })
    }

    /// Whether any service may be led elsewhere by the machine with this key.
    pub(super) fn names(&self, machine: &Fingerprint) -> bool {
        let services = self.services();
        services.iter().any(|it| it.retarget_by.contains(machine))
    }

    /// Whether `service` may be led elsewhere by the machine with this key.
    pub(super) fn may_retarget(&self, service: &str, machine: &Fingerprint) -> bool {
        let services = self.services();
        let named = |it: &Served| it.listing.name == service && it.retarget_by.contains(machine);
        services.iter().any(named)
    }

    /// What serves the service of this name in this program.
    fn inside(&self, name: &str) -> Option<Inside> {
        let services = self.services();
        let found = services.iter().find(|it| it.listing.name == name);
        found.and_then(|it| it.inside.clone())
    }

    /// Leads new connections to `service` to another host from now on, and with `now` those that there
    /// are as well.
    pub(super) async fn retarget(
        &self,
        service: &str,
        target: &str,
        now: bool,
    ) -> Result<Retargeted, RetargetError> {
        let here = || RetargetError::NotHere(service.to_owned());
        let listing = self.find(service).ok_or_else(here)?;
        let name = &listing.name;
        if self.network(name).is_some() {
            return Err(RetargetError::Network(listing.full_name));
        }
        if self.inside(name).is_some() {
            return Err(here());
        }
        let may = |it: &Served| it.listing.name == *name && (!now || it.redial);
        if !self.services().iter().any(may) {
            return Err(RetargetError::NoRedial(listing.full_name));
        }
        self.probe(&listing, target).await?;
        let (before, living, redials) = {
            let mut services = self.services();
            let served = services.iter_mut().find(|it| it.listing.name == *name);
            let served = served.ok_or_else(here)?;
            let before = std::mem::replace(&mut served.listing.target, target.to_owned());
            let living = served.living();
            let until = served.redials.load(Ordering::Acquire) + living as u64;
            if now {
                served.cuts.send_modify(|cuts| *cuts += 1);
            }
            (before, living, (Arc::downgrade(&served.redials), until))
        };
        self.board.retarget(&listing.full_name, target);
        tracing::info!(
            "{} leads to {target} instead of {before} until this program is started again; {living} connections {}",
            listing.name,
            if now {
                "are dialled anew"
            } else {
                "stay where they are"
            },
        );
        if now && living > 0 {
            // Whoever is told that it is done may rely on it. Those that end meanwhile are never counted.
            let done = wait_for(redials);
            let _ = tokio::time::timeout(self.limits.dial.min(MOVE_LIMIT), done).await;
        }
        Ok(Retargeted {
            name: listing.full_name,
            before,
            living,
            moved: now,
        })
    }

    /// Whether `target` can take the place of what `listing` leads to: nothing is given up for a host that is
    /// not there. Of one that takes datagrams no more can be said than that there is a way.
    async fn probe(&self, listing: &Listing, target: &str) -> Result<(), RetargetError> {
        let failed = |code, text| RetargetError::Dial {
            target: target.to_owned(),
            code,
            text,
        };
        let (Target { kind, speech, at }, now) = (Target::read(target), listing.target());
        if (kind, speech) != (now.kind, now.speech) {
            let text = format!(
                "{target} is not of the transport and protocol that {} is of",
                listing.target
            );
            return Err(failed(Code::OtherTransport, text));
        }
        let reached = match kind {
            ChannelKind::Stream if speech == Speech::X11 => {
                screen(at, self.limits.dial).await.map(drop)
            }
            ChannelKind::Stream => dial(at, self.limits.dial).await.map(splice::reset),
            ChannelKind::Datagram => dial_udp(at, self.limits.dial).await.map(drop),
        };
        reached.map_err(|error| failed(error.code(), error.to_string()))
    }

    /// Where `service` leads, for a machine that may use it at this moment; it must be of this kind.
    pub(super) async fn permitted(
        &self,
        service: &str,
        peer: &PeerInfo,
        kind: ChannelKind,
    ) -> Result<Listing, Code> {
        let listing = self.find(service).ok_or(Code::NoService)?;
        // The session may have begun with another one, or the relay have said so.
        if peer.grade < self.lowest_grade(&listing.name) {
            tracing::warn!(user = peer.user, "{service}: refused grade {}", peer.grade);
            return Err(Code::GradeRefused);
        }
        self.check(&listing, peer).await?;
        if listing.target().kind != kind {
            tracing::warn!(
                user = peer.user,
                "{service}: it leads to {}",
                listing.target
            );
            return Err(Code::OtherTransport);
        }
        Ok(listing)
    }

    /// What may be reached of a service, where it is a network.
    fn network(&self, name: &str) -> Option<Arc<Network>> {
        let services = self.services();
        let found = services.iter().find(|it| it.listing.name == name)?;
        found.network.clone()
    }

    /// Connects to the host of `service`; to the host and port `to` of it, where it is a network.
    pub(super) async fn reach(
        &self,
        service: &str,
        to: Option<&str>,
        peer: &PeerInfo,
    ) -> Result<TcpStream, Code> {
        let listing = self.permitted(service, peer, ChannelKind::Stream).await?;
        match (self.network(&listing.name), to) {
            (None, None) => {
                let dialled = dial(listing.target().at, self.limits.dial).await;
                dialled.map_err(|error| not_reached(&listing, peer, &error))
            }
            (Some(network), Some(to)) => self.reach_in(&listing, &network, to, peer).await,
            (None, Some(_)) => Err(Code::NoNetwork),
            (Some(_), None) => Err(Code::HostNeeded),
        }
    }

    /// Connects to a host and port of a network, if that is one that may be reached.
    async fn reach_in(
        &self,
        listing: &Listing,
        network: &Network,
        to: &str,
        peer: &PeerInfo,
    ) -> Result<TcpStream, Code> {
        let to: FarPort = to.parse().map_err(|_| Code::NameInvalid)?;
        let dialled = network::dial(network, &to, self.limits.dial).await;
        dialled.map_err(|error| {
            tracing::warn!(user = peer.user, "{}: {to}: {error}", listing.name);
            error.code()
        })
    }

    /// A socket for the host of `service`.
    async fn reach_udp(
        &self,
        service: &str,
        to: Option<&str>,
        peer: &PeerInfo,
    ) -> Result<UdpSocket, Code> {
        let listing = self.permitted(service, peer, ChannelKind::Datagram).await?;
        if to.is_some() {
            return Err(Code::NoNetwork);
        }
        let dialled = dial_udp(listing.target().at, self.limits.dial).await;
        dialled.map_err(|error| not_reached(&listing, peer, &error))
    }

    /// Connects to the display of `service`, and tells which one that is.
    pub(super) async fn reach_screen(
        &self,
        service: &str,
        peer: &PeerInfo,
    ) -> Result<(Display, Box<dyn Stream>), Code> {
        let listing = self.permitted(service, peer, ChannelKind::Stream).await?;
        let dialled = screen(listing.target().at, self.limits.dial).await;
        dialled.map_err(|error| not_reached(&listing, peer, &error))
    }

    /// A place for one more flow of datagrams, until it is dropped.
    pub(super) fn flow_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.flows).try_acquire_owned().ok()
    }

    /// How long to try to connect to a host.
    pub(super) fn dial_limit(&self) -> Duration {
        self.limits.dial
    }

    pub(super) fn flow_settings(&self) -> FlowSettings {
        self.limits.flows.settings
    }

    async fn check(&self, listing: &Listing, peer: &PeerInfo) -> Result<(), Code> {
        match self.verdict(&listing.name, peer).await {
            Verdict::Yes => Ok(()),
            Verdict::No(code) => {
                tracing::warn!(user = peer.user, "{}: not allowed", listing.name);
                Err(code)
            }
            // What cannot be checked is refused.
            Verdict::Unknown => {
                tracing::warn!("{}: no relay says who is allowed", listing.name);
                Err(Code::Denied)
            }
        }
    }

    /// Whether a peer may use the service of this name: by the list that was given here, which no relay can change, and
    /// by the relays' word.
    async fn verdict(&self, name: &str, peer: &PeerInfo) -> Verdict {
        if !self.is_named(name, &peer.machine.fingerprint()) {
            return Verdict::No(Code::Denied);
        }
        self.access.verdict(name, peer.machine).await
    }

    fn is_named(&self, name: &str, machine: &Fingerprint) -> bool {
        let services = self.services();
        let mut of_name = services.iter().filter(|it| it.listing.name == name);
        of_name.all(|it| it.only.is_empty() || it.only.contains(machine))
    }
}

/// Connects to the display of this name.
async fn screen(at: &str, limit: Duration) -> Result<(Display, Box<dyn Stream>), DialError> {
    let display: Display = at.parse().map_err(|()| DialError::Resolve {
        target: at.to_owned(),
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    let stream = x11::reach(&display, limit).await?;
    Ok((display, stream))
}

fn not_reached(listing: &Listing, peer: &PeerInfo, error: &DialError) -> Code {
    tracing::warn!(user = peer.user, "{}: {error}", listing.name);
    error.code()
}

/// Waits until connections were dialled anew so many times altogether.
async fn wait_for((redials, until): (Weak<AtomicU64>, u64)) {
    while let Some(redials) = redials.upgrade()
        && redials.load(Ordering::Acquire) < until
    {
        drop(redials);
        tokio::time::sleep(MOVE_LOOK).await;
    }
}

/// By the full name, or by the name alone: all services of one publisher have one owner.
fn find<'a>(listings: &'a [Listing], service: &str) -> Option<&'a Listing> {
    // A full name is empty until the relay has told it.
    listings
        .iter()
        .filter(|_| !service.is_empty())
        .find(|listing| listing.full_name == service || listing.name == service)
}

/// Serves all channels of a session until it ends.
pub(super) async fn session(catalogue: Arc<Catalogue>, session: Session, peer: PeerInfo) {
    if let Err(unknown) = catalogue.users.check(&peer.user, &peer.machine) {
        tracing::warn!("{}: refused: {unknown}", peer.service);
        let reason = "the publisher knows other machines of this user, and not this one";
        return session.close(Code::KeyMismatch, reason);
    }
    tracing::info!("{} uses {}", peer.user, peer.service);
    let entry = SessionEntry::inbound(&peer, session.clone());
    let _shown = catalogue.board.show_session(entry);
    let peer = Arc::new(peer);
    let watching = end_when_not_allowed(Arc::clone(&catalogue), session.clone(), Arc::clone(&peer));
    tokio::spawn(watching);
    let announced = Arc::new(Announced::default());
    while let Some(incoming) = session.accept().await {
        let (catalogue, peer) = (Arc::clone(&catalogue), Arc::clone(&peer));
        let announced = Arc::clone(&announced);
        tokio::spawn(channel(
            catalogue,
            session.clone(),
            incoming,
            peer,
            announced,
        ));
    }
    let closed = session.closed().await;
    tracing::info!(
        "{} is done with {} ({})",
        peer.user,
        peer.service,
        closed.reason
    );
}

/// Ends a session once its peer may not use the service any more that it was let through to: no relay would lead it here
/// again. Channels to other services see for themselves.
async fn end_when_not_allowed(catalogue: Arc<Catalogue>, session: Session, peer: Arc<PeerInfo>) {
    let mut changes = catalogue.access.changes();
    // Where the service is not published here at all, its channels are refused for that.
    let Some(listing) = catalogue.find(&peer.service) else {
        return;
    };
    // So that the first channel does not wait for the answer. It is refused where that is a no.
    let mut verdict = catalogue.verdict(&listing.name, &peer).await;
    loop {
        let knew = verdict != Verdict::Unknown;
        tokio::select! {
            goes_on = Access::ask_again(&mut changes, knew) => if !goes_on { return },
            _ = session.closed() => return,
        }
        verdict = catalogue.verdict(&listing.name, &peer).await;
        if let Verdict::No(code) = verdict {
            tracing::info!(user = peer.user, "{}: not allowed any more", listing.name);
            let reason = format!("{}: {}", listing.full_name, code.explain().what);
            return session.close(code, &reason);
        }
    }
}

async fn channel(
    catalogue: Arc<Catalogue>,
    session: Session,
    incoming: Incoming,
    peer: Arc<PeerInfo>,
    announced: Arc<Announced>,
) {
    if incoming.service() == STEER_SERVICE && incoming.kind() == ChannelKind::Stream {
        // Who has the session's keys could say in another's name what leads a service elsewhere.
        if peer.grade < Grade::Blind {
            return incoming.refuse(Code::GradeRefused);
        }
        return steered::take(&catalogue, incoming, &peer).await;
    }
    let of_ftp = Asked::read(incoming.service());
    let named = of_ftp.as_ref().map_or(incoming.service(), Asked::service);
    let service = named.to_owned();
    let user = peer.user.clone();
    // Listened to from before the first dial, so that nothing falls between.
    let changes = catalogue.access.changes();
    let Some(used) = catalogue.used(&service) else {
        return incoming.refuse(Code::NoService);
    };
    if let Some(inside) = catalogue.inside(&used.name) {
        let kind = incoming.kind();
        return match catalogue.permitted(&service, &peer, kind).await {
            Ok(_) => {
                inside
                    .serve(Guest::new(incoming.accept(), peer, session))
                    .await
            }
            Err(code) => incoming.refuse(code),
        };
    }
    let host = Host {
        used: Mutex::new(used),
        changes,
        catalogue,
        peer,
    };
    if let Some(asked) = of_ftp {
        return ftp::channel(incoming, asked, host, announced).await;
    }
    if incoming.kind() == ChannelKind::Datagram {
        return flows::channel(incoming, &host).await;
    }
    let error = match connection(incoming, &service, host).await {
        Ok(error) => error,
        Err((incoming, code)) => return incoming.refuse(code),
    };
    match error {
        None => tracing::debug!(user, "{service}: done"),
        Some(error) => tracing::info!(user, "{service}: broken off: {error}"),
    }
}

/// Carries one connection to the host of a service, with the help that its protocol needs: what went wrong then, if
/// something did; or why it was not accepted.
async fn connection(
    incoming: Incoming,
    service: &str,
    host: Host,
) -> Result<Option<String>, (Incoming, Code)> {
    let (catalogue, peer) = (&host.catalogue, &host.peer);
    let report = match catalogue.speech(service) {
        Speech::Ftp => {
            let permitted = catalogue.permitted(service, peer, ChannelKind::Stream);
            // The peer asks again, and helps.
            let code = permitted.await.err().unwrap_or(Code::FtpNeedsHelp);
            return Err((incoming, code));
        }
        Speech::X11 => {
            let (display, screen) = match catalogue.reach_screen(service, peer).await {
                Ok(reached) => reached,
                Err(code) => return Err((incoming, code)),
            };
            let carried = x11::carry(incoming.accept(), screen, &display, host.cut()).await;
            return Ok(carried.err());
        }
        speech => {
            let tcp = match host.dial_tcp().await {
                Ok(tcp) => tcp,
                Err(code) => return Err((incoming, code)),
            };
            let channel = incoming.accept();
            match (speech, catalogue.find(service)) {
                (Speech::Http, Some(listing)) => {
                    http::carry(channel, tcp, listing.target().at, host.cut()).await
                }
                _ => splice_host(channel, tcp, host).await,
            }
        }
    };
    Ok(report.error)
}

/// The host side of one channel.
pub(super) struct Host {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) peer: Arc<PeerInfo>,
    used: Mutex<Used>,
    /// Of rights, since before the first dial.
    changes: watch::Receiver<u64>,
}

impl Host {
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to what is in use, wherever that is by now.
    async fn dial_tcp(&self) -> Result<TcpStream, Code> {
        let (name, to) = {
            let used = self.used();
            (used.name.clone(), used.to.clone())
        };
        let reached = self.catalogue.reach(&name, to.as_deref(), &self.peer);
        reached.await
    }

    /// The peer wants another service.
    async fn dial_other(&self, service: &str) -> Result<TcpStream, Code> {
        tracing::info!(user = self.peer.user, "a connection goes on with {service}");
        let used = self.catalogue.used(service).ok_or(Code::NoService)?;
        *self.used() = used;
        self.dial_tcp().await
    }

    /// A socket for the host of the service in use, wherever that is by now; `again` where there was one before.
    pub(super) async fn dial_udp(&self, again: bool) -> Result<UdpSocket, Code> {
        let (name, to, redials) = {
            let used = self.used();
            let redials = Arc::clone(&used.redials);
            (used.name.clone(), used.to.clone(), redials)
        };
        let reached = self.catalogue.reach_udp(&name, to.as_deref(), &self.peer);
        let reached = reached.await;
        if again {
            redials.fetch_add(1, Ordering::AcqRel);
        }
        reached
    }

    /// Returns once the peer may not use the service any more.
    pub(super) async fn forbidden(&self) {
        let mut changes = self.changes.clone();
        let mut knew = true;
        while Access::ask_again(&mut changes, knew).await {
            let name = self.used().name.clone();
            match self.catalogue.verdict(&name, &self.peer).await {
                Verdict::No(_) => return,
                verdict => knew = verdict != Verdict::Unknown,
            }
        }
        // The publisher is ending, and with it all this.
        std::future::pending().await
    }
}

impl HostSide for Host {
    async fn dial(&self, service: Option<String>) -> Result<TcpStream, Code> {
        if let Some(service) = service {
            return self.dial_other(&service).await;
        }
        let redials = Arc::clone(&self.used().redials);
        let dialled = self.dial_tcp().await;
        redials.fetch_add(1, Ordering::AcqRel);
        dialled
    }

    async fn cut(&self) {
        let mut cuts = self.used().cuts.clone();
        tokio::select! {
            changed = cuts.changed() => match changed {
                Ok(()) => self.used().cuts.mark_unchanged(),
                // The publisher is ending, and with it all this.
                Err(_) => std::future::pending().await,
            },
            // The dial that follows is refused, and with it the connection.
            () = self.forbidden() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_either_name() {
        let listing = |name: &str| Listing {
            name: name.into(),
            full_name: format!("{name}.bob.underpass.internal"),
            target: "localhost:1".into(),
        };
        let listings = [listing("db"), listing("web")];
        for (asked, found) in [
            ("web", Some("web")),
            ("db.bob.underpass.internal", Some("db")),
            ("db.carol.underpass.internal", None),
            ("", None),
        ] {
            assert_eq!(find(&listings, asked).map(|it| &it.name[..]), found);
        }
    }

    /// Before the relay has answered there is no full name, and an empty one must find nothing.
    #[test]
    fn a_service_without_its_full_name_is_not_found_by_nothing() {
        let listing = Listing {
            name: "db".into(),
            full_name: String::new(),
            target: String::new(),
        };
        assert_eq!(find(&[listing], ""), None);
    }
}
