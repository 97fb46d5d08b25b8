//! From a carrier that has just come in to an attachment that is served until its end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use underpass_carrier::{Carrier, Server, SourceLimit, Sources};
use underpass_endpoint::{
    Accepted, Acceptor, Channel, ChannelError, ChannelReader, ChannelWriter, Incoming, Link,
    Session,
};
use underpass_proto::control::{CONTROL_SERVICE, Control, ControlDecoder};
use underpass_proto::packet::SessionId;
use underpass_proto::{Code, Speaker};
use underpass_seal::PublicKey;
use underpass_store::{Enrolled, Name, ServiceId};

use crate::attachment::{Attached, Unasked};
use crate::authority::{Authority, AuthorityError, RENEW_EVERY};
use crate::clock;
use crate::desk::{Caller, Desk, Origin, hub_member};
use crate::hub::{AttachmentId, Check, Given, Member, Question, Source, Wanted};
use crate::limits::Counted;
use crate::log::{Kind, Log, Note};
use crate::policy::Standing;
use crate::refusal::Refusal;
use crate::switch::{Errand, Switch};
use crate::target::{self, RELAY_OWNER, RelayService, Served};

/// Questions to the store at once: it answers one after the other in any case.
const MOST_CHECKS: usize = 64;

/// Takes carriers in and serves attachments.
pub(crate) struct Reception {
    acceptor: Acceptor,
    switch: Arc<Switch>,
    desk: Arc<Desk>,
    authority: Arc<dyn Authority>,
    log: Log,
    /// Attachments by the name of their hop session, to find them when it is resumed.
    by_session: Mutex<HashMap<SessionId, Arc<Attached>>>,
    next: AtomicU64,
    checks: Arc<Semaphore>,
    errands: Arc<Semaphore>,
    /// Handshakes that are not finished, by source.
    handshakes: Sources,
    /// The relay is shutting down: nobody new is taken in.
    stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Reception {
    pub(crate) fn new(
        acceptor: Acceptor,
        switch: Arc<Switch>,
        desk: Arc<Desk>,
        authority: Arc<dyn Authority>,
        log: Log,
        handshakes: Sources,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let reception = Arc::new(Self {
            acceptor,
            switch,
            desk,
            authority,
            log,
            by_session: Mutex::default(),
            next: AtomicU64::new(1),
            checks: Arc::new(Semaphore::new(MOST_CHECKS)),
            errands: Arc::new(Semaphore::new(MOST_CHECKS)),
            handshakes,
            stop,
            tasks: TaskTracker::new(),
        });
        let weak = Arc::downgrade(&reception);
        reception.switch.set_examiner(move |check| {
            if let Some(reception) = weak.upgrade() {
                let examining = Arc::clone(&reception).examine(check);
                reception.tasks.spawn(examining);
            }
        });
        let weak = Arc::downgrade(&reception);
        reception.switch.set_registrar(move |errand| {
            if let Some(reception) = weak.upgrade() {
                let running = Arc::clone(&reception).run_errand(errand);
                reception.tasks.spawn(running);
            }
        });
        let renewing = Arc::clone(&reception).renew_tickets();
        reception.tasks.spawn(renewing);
        reception
    }

    /// Takes in what the server accepts until the relay shuts down; gives the server back.
    pub(crate) async fn run(self: Arc<Self>, mut server: Server) -> Server {
        loop {
            let carrier = tokio::select! {
                carrier = server.accept() => carrier,
                () = self.stop.cancelled() => return server,
            };
            let Some(carrier) = carrier else {
                return server;
            };
            let this = Arc::clone(&self);
            self.tasks.spawn(this.receive(carrier, Origin::Agent));
        }
    }

    /// Takes in a carrier and serves what is on it to its end.
    pub(crate) async fn receive(self: Arc<Self>, carrier: Carrier, origin: Origin) {
        let peer = carrier.info.peer;
        let source = peer.map(|peer| peer.ip());
        let Some(counted) = self.handshakes.begin(source) else {
            self.log
                .write(Note::of_source(SourceLimit::Handshakes, source));
            return Acceptor::turn_away(carrier).await;
        };
        let accepted = self.acceptor.accept(carrier).await;
        drop(counted);
        match accepted {
            Ok(Accepted::New {
                link,
                session,
                peer,
            }) => self.welcome(link, session, peer, origin).await,
            Ok(Accepted::Resumed { link, session }) => self.welcome_back(link, session).await,
            Err(error) => tracing::debug!(?peer, "carrier refused: {error}"),
        }
    }

    /// A new hop session: finds out whose it is, then serves it to its end.
    async fn welcome(
        self: Arc<Self>,
        link: Arc<Link>,
        session: Session,
        peer: PublicKey,
        origin: Origin,
    ) {
        let id = AttachmentId(self.next.fetch_add(1, Ordering::Relaxed));
        let address = link.info().peer;
        let attached = Attached::new(id, peer.0, origin, session.clone(), address);
        let attached = Arc::new(attached);
        lock(&self.by_session).insert(session.id(), Arc::clone(&attached));
        match self.admit(&attached).await {
            Ok(()) => {
                attached.set_ready();
                self.bring_up(&attached, &link).await;
                let whose = self.serve(&attached).await;
                self.note_detached(&attached, whose).await;
            }
            Err(why) => attached.end(&why),
        }
        let address = address.map(|address| address.to_string());
        self.desk.parted(id, address.as_deref());
        self.switch.remove(id);
        lock(&self.by_session).remove(&session.id());
    }

    /// Asks the store who it is, and the hub whether there is room.
    async fn admit(&self, attached: &Arc<Attached>) -> Result<(), Refusal> {
        let member = match self.standing(attached).await? {
            Standing::Stranger | Standing::Waiting(_) | Standing::Barred(..) => None,
            Standing::Member(member) => Some(hub_member(&member)),
        };
        let whose = member.clone();
        let source = attached.address.map(|address| Source::from(address.ip()));
        self.switch.add(Arc::clone(attached));
        let room = self
            .switch
            .with_hub(|hub, now| hub.attach(attached.id, source, member, now));
        if let Err(why) = room {
            let note = Note::of_refusal(Kind::Limit, &why);
            self.note(note, attached, whose.as_ref());
            return Err(why);
        }
        if self.stop.is_cancelled() {
            // Whoever was not on the list of those to be told is told here.
            return Err(Refusal::of(Code::GoingAway));
        }
        if whose.is_some() {
            self.note(Note::new(Kind::Attach), attached, whose.as_ref());
        }
        Ok(())
    }

    /// Counts a channel of a client with nothing but HTTP, until what is returned is dropped.
    ///
    /// # Errors
    /// Its user has as many as are allowed.
    pub(crate) fn begin_channel(
        &self,
        holder: &Enrolled,
        peer: Option<SocketAddr>,
    ) -> Result<Counted, Refusal> {
        let counted = self.desk.limits().begin_channel(holder.user.id);
        counted.inspect_err(|why| {
            let address = peer.map(|peer| peer.to_string());
            let note = Note::of_refusal(Kind::Refuse, why).by(holder.user.name.as_str());
            self.log.write(note.from(address.as_deref()));
        })
    }

    /// Whom the key of a token stands for now.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(crate) async fn token_holder(&self, key: [u8; 32]) -> Result<Standing, Refusal> {
        let origin = Origin::PlainHttp;
        self.desk.standing(key, origin, clock::calendar()).await
    }

    async fn standing(&self, attached: &Attached) -> Result<Standing, Refusal> {
        let Attached { key, origin, .. } = *attached;
        self.desk.standing(key, origin, clock::calendar()).await
    }

    fn note(&self, note: Note, attached: &Attached, whose: Option<&Member>) {
        let address = attached.address.map(|address| address.to_string());
        let note = note.from(address.as_deref());
        self.log.write(match whose {
            Some(member) => note
                .by(&member.user_name)
                .with("machine", member.machine_name.as_str()),
            None => note,
        });
    }

    /// A bare HTTP client was not let in: its token is not good, or too many were not.
    pub(crate) fn note_token_refused(&self, address: Option<SocketAddr>, code: Code) {
        let address = address.map(|address| address.to_string());
        self.log.write(
            Note::of_refusal(Kind::LoginRefused, &Refusal::of(code))
                .from(address.as_deref())
                .with("by", "token"),
        );
    }

    /// Of a machine that never enrolled nothing was written at its beginning either.
    async fn note_detached(&self, attached: &Attached, whose: Option<Member>) {
        if whose.is_none() {
            return;
        }
        let code = underpass_proto::code::name(attached.session.closed().await.code);
        let seconds = clock::now().since(attached.since).as_secs();
        let note = Note::new(Kind::Detach)
            .with("code", code)
            .with("seconds", seconds);
        self.note(note, attached, whose.as_ref());
    }

    /// A further link of a hop session that is known.
    async fn welcome_back(&self, link: Arc<Link>, session: Session) {
        let attached = lock(&self.by_session).get(&session.id()).cloned();
        match attached {
            Some(attached) if attached.ready().await => self.bring_up(&attached, &link).await,
            // The session is at its end, and its links with it.
            _ => link.close(),
        }
    }

    /// Reports a link to the switch once its agent has proven itself on it: before that, somebody who
    /// replays an old request to resume would draw routes to a link that leads nowhere.
    async fn bring_up(&self, attached: &Attached, link: &Arc<Link>) {
        if link.active().await {
            self.switch.link_up(link, attached.id, attached.key);
        }
    }

    /// Serves the channels of an attachment until its session ends. Whose it was at last.
    async fn serve(self: &Arc<Self>, attached: &Arc<Attached>) -> Option<Member> {
        let whose = || {
            self.switch
                .with_hub(|hub, _| hub.member(attached.id).cloned())
        };
        let mut member = whose();
        while let Some(incoming) = attached.session.accept().await {
            // The hub has forgotten who was shut out.
            member = whose().or(member);
            if incoming.service() == CONTROL_SERVICE {
                match attached.add_control() {
                    Some(unasked) => {
                        let this = Arc::clone(self);
                        let serving =
                            this.control(Arc::clone(attached), incoming.accept(), unasked);
                        self.tasks.spawn(serving);
                    }
                    None => incoming.refuse(Code::Busy),
                }
            } else {
                let this = Arc::clone(self);
                self.tasks.spawn(this.dial(Arc::clone(attached), incoming));
            }
        }
        whose().or(member)
    }

    /// Answers the requests of one control channel, one after the other.
    async fn control(
        self: Arc<Self>,
        attached: Arc<Attached>,
        channel: Channel,
        mut unasked: Unasked,
    ) {
        let caller = Caller {
            attachment: attached.id,
            key: attached.key,
            origin: attached.origin,
            handshake_hash: attached.session.handshake_hash(),
            address: attached.address.map(|address| address.to_string()),
        };
        let (mut reader, mut writer) = channel.into_split();
        let mut decoder = ControlDecoder::new(Speaker::Agent);
        loop {
            let messages = match decoder.next() {
                Ok(Some(request)) => {
                    let draw = &rand::random;
                    self.desk
                        .answer(&caller, request, clock::calendar(), draw)
                        .await
                }
                Ok(None) => tokio::select! {
                    chunk = reader.read_chunk() => match chunk {
                        Ok(Some(bytes)) => {
                            decoder.push(&bytes);
                            continue;
                        }
                        // The agent needs it no more, or the session is gone.
                        Ok(None) | Err(_) => return,
                    },
                    messages = unasked.next() => messages,
                },
                Err(error) => {
                    tracing::info!(
                        attachment = attached.id.0,
                        "control channel refused: {error}"
                    );
                    writer.reset(Code::ProtocolViolation);
                    return reader.stop(Code::ProtocolViolation);
                }
            };
            let last = matches!(messages[..], [Control::Going(_)]);
            if let Err(error) = write(&mut writer, &messages).await {
                return tracing::debug!(attachment = attached.id.0, "control channel: {error}");
            }
            if last {
                return say_goodbye(writer, reader).await;
            }
        }
    }

    /// A channel to a service that the relay itself is to reach.
    async fn dial(self: Arc<Self>, attached: Arc<Attached>, incoming: Incoming) {
        let name = incoming.service().to_owned();
        let (member, service, counted) = match self.find_target(&attached, &name, true).await {
            Ok(found) => found,
            Err(code) => return incoming.refuse(code),
        };
        let user = member.user.name.clone();
        let full_name = format!("{}.{RELAY_OWNER}", service.name);
        let meter = self.switch.meters().meter(member.user.id, &full_name);
        let (by, of_service) = (hub_member(&member), service.name.as_str());
        let directs = self.switch.directs();
        let seat = directs.begin(attached.id, by, of_service, meter, rand::random);
        let (since, this, whose) = (clock::now(), Arc::clone(&self), Arc::clone(&attached));
        let find = move |name: String| {
            let (this, attached) = (Arc::clone(&this), Arc::clone(&whose));
            async move { Ok(this.find_target(&attached, &name, false).await?.1) }
        };
        let Served {
            sent,
            received,
            code,
        } = target::serve(incoming, service, &seat.direct, find).await;
        drop((seat, counted));
        let seconds = clock::now().since(since).as_secs();
        let note = Note::new(Kind::Disconnect).with("code", code.up());
        self.log.write(
            of_target(note, &attached, &user, &name)
                .with("sent", sent)
                .with("received", received)
                .with("seconds", seconds),
        );
    }

    /// A service of the relay's own that the user of an attachment may use at this moment, and who that is. Where it is
    /// for a new channel, that is counted.
    async fn find_target(
        &self,
        attached: &Attached,
        name: &str,
        new: bool,
    ) -> Result<(Enrolled, RelayService, Option<Counted>), Code> {
        let member = match self.standing(attached).await {
            Ok(Standing::Member(member)) => member,
            Ok(Standing::Stranger) => return Err(Code::NotEnrolled),
            Ok(Standing::Waiting(_)) => return Err(Code::Waiting),
            Ok(Standing::Barred(_, why)) => return Err(why.code),
            Err(why) => return Err(why.code),
        };
        let found = self.desk.relay_service(&member, name);
        // The channel of a client with nothing but HTTP was counted when it came.
        let counts = new && attached.origin == Origin::Agent;
        let found = found.and_then(|service| {
            let limits = self.desk.limits();
            let counted = counts.then(|| limits.begin_channel(member.user.id));
            Ok((service, counted.transpose()?))
        });
        let note = match &found {
            Ok(_) => Note::new(Kind::Connect),
            Err(why) => Note::of_refusal(Kind::Refuse, why),
        };
        self.log
            .write(of_target(note, attached, &member.user.name, name));
        match found {
            Ok((service, counted)) => Ok((member, service, counted)),
            Err(why) => Err(why.code),
        }
    }

    async fn run_errand(self: Arc<Self>, errand: Errand) {
        let Ok(_turn) = self.errands.acquire().await else {
            return;
        };
        match errand {
            Errand::Ask(question) => {
                let check = question.check;
                let answer = self.authorize(question).await;
                self.switch
                    .with_hub(|hub, now| hub.authorized(check, answer, now));
            }
            Errand::Discard(handle) => {
                if let Err(error) = self.authority.forget(handle).await {
                    // It expires by itself.
                    tracing::debug!("a ticket was not deleted: {error}");
                }
            }
        }
    }

    async fn authorize(&self, question: Question) -> Result<Given, Refusal> {
        let Question { claim, wanted, .. } = question;
        let (answer, issued) = match wanted {
            Wanted::Issue { service, keep } => {
                let far = far_address(service);
                (self.authority.issue(claim, far, keep).await, true)
            }
            Wanted::Check { ticket } => (self.authority.check(claim, ticket).await, false),
        };
        let granted = answer.map_err(|error| match error {
            AuthorityError::NotGood(why) => {
                tracing::info!("a ticket was refused: {why}");
                Refusal::of(Code::TicketUnknown)
            }
            AuthorityError::Unreachable(why) => {
                tracing::warn!(
                    "a route was refused: the ticket authority cannot be reached: {why}"
                );
                Refusal::of(Code::AuthorityUnreachable)
            }
        })?;
        let unknown = || Refusal::of(Code::TicketUnknown);
        Ok(Given {
            service: service_at(&granted.far).ok_or_else(unknown)?,
            ticket: granted.ticket,
            handle: granted.handle,
            lifetime: granted.lifetime,
            issued,
        })
    }

    /// Has the tickets of open routes last, until the relay stops.
    async fn renew_tickets(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
            if let Err(error) = self.authority.renew(self.switch.tickets()).await {
                tracing::warn!("tickets were not renewed: {error}");
            }
        }
    }

    async fn examine(self: Arc<Self>, check: Check) {
        let verdict = match self.checks.acquire().await {
            Ok(_turn) => self.desk.examine(&check, clock::calendar()).await,
            Err(_) => Err(Refusal::of(Code::GoingAway)),
        };
        self.switch
            .with_hub(|hub, now| hub.verdict(check.check, verdict, now));
    }
}

/// An event of a user and a service of the relay's own.
fn of_target(note: Note, attached: &Attached, user: &Name, service: &str) -> Note {
    let address = attached.address.map(|address| address.to_string());
    note.by(user.as_str())
        .to(RELAY_OWNER)
        .from(address.as_deref())
        .with("service", service)
}

/// Where a far endpoint is, in the words of relays that share their services: the service's number.
fn far_address(service: ServiceId) -> Vec<u8> {
    service.0.to_be_bytes().to_vec()
}

fn service_at(far: &[u8]) -> Option<ServiceId> {
    Some(ServiceId(i64::from_be_bytes(far.try_into().ok()?)))
}

/// Ends a control channel, and waits until its agent has read it to its end.
async fn say_goodbye(mut writer: ChannelWriter, mut reader: ChannelReader) {
    if writer.finish().await.is_ok() {
        while let Ok(Some(_)) = reader.read_chunk().await {}
    }
}

async fn write(writer: &mut ChannelWriter, messages: &[Control]) -> Result<(), ChannelError> {
    let mut bytes = BytesMut::new();
    for message in messages {
        if let Err(error) = message.put_framed(&mut bytes) {
            tracing::error!("an answer was left out: {error}");
        }
    }
    writer.write_chunk(bytes.freeze()).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
