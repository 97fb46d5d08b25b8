//! First tickets: what opens a route again, and what does not.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use underpass_proto::control::{Control, Publish};
use underpass_proto::packet::{Hello, HelloTarget, Packet, Resume, SessionId, VERSION};
use underpass_proto::route::{Data, Discard, Gone, Open, Reopen, RouteHeader, Ticket};
use underpass_proto::ticket::{self, Claim, Handle, MARGIN};
use underpass_proto::{Code, Time};
use underpass_relay::authority::{Authority, AuthorityError, AuthorityFuture, Granted, InStore};
use underpass_seal::StaticKey;
use underpass_store::Store as _;

use crate::raw::RawHop;
use crate::stage::{Agent, Path, Stage, exchange, in_time, until};

/// The real authority, with a line to it that can be cut, and a look at what passes.
#[derive(Debug)]
struct Watched {
    real: InStore,
    reachable: AtomicBool,
    good: AtomicUsize,
    issued: Mutex<Vec<Handle>>,
    forgotten: Mutex<Vec<Handle>>,
}

impl Watched {
    fn new(real: InStore) -> Self {
        Self {
            real,
            reachable: AtomicBool::new(true),
            good: AtomicUsize::new(0),
            issued: Mutex::default(),
            forgotten: Mutex::default(),
        }
    }

    fn line(&self) -> Result<(), AuthorityError> {
        if self.reachable.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(AuthorityError::Unreachable("the line is cut".into()))
    }

    fn good(&self) -> usize {
        self.good.load(Ordering::SeqCst)
    }

    fn issued(&self) -> Vec<Handle> {
        self.issued.lock().unwrap().clone()
    }
}

impl Authority for Watched {
    fn issue(&self, claim: Claim, far: Vec<u8>, keep: Duration) -> AuthorityFuture<'_, Granted> {
        Box::pin(async move {
            self.line()?;
            let granted = self.real.issue(claim, far, keep).await?;
            self.issued.lock().unwrap().push(granted.handle);
            Ok(granted)
        })
    }

    fn check(&self, claim: Claim, ticket: ticket::Ticket) -> AuthorityFuture<'_, Granted> {
        Box::pin(async move {
            self.line()?;
            let granted = self.real.check(claim, ticket).await?;
            self.good.fetch_add(1, Ordering::SeqCst);
            Ok(granted)
        })
    }

    fn renew(&self, handles: Vec<Handle>) -> AuthorityFuture<'_, ()> {
        self.real.renew(handles)
    }

    fn forget(&self, handle: Handle) -> AuthorityFuture<'_, ()> {
        self.forgotten.lock().unwrap().push(handle);
        self.real.forget(handle)
    }
}

/// A publisher of `db` that answers, and a user who may use it and reaches the relay at `near`.
pub(crate) async fn agents(stage: &Stage, near: SocketAddr) -> (Agent, Agent) {
    let admin = stage.administrator().await;
    let publisher = stage.invited(&admin, "bob").await;
    publisher.serve_echo();
    publisher.publish("db").await.unwrap();
    publisher.allow("*", "db").await.unwrap();
    let user = stage.invited_at(near, &admin, "alice").await;
    (publisher, user)
}

/// What the name means has changed meanwhile: the ticket still leads to the far endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_made_again_by_tickets_and_the_last_one_is_deleted() {
    let (stage, authority) = Stage::with_authority(Watched::new).await;
    let near = Path::to(stage.address()).await;
    let (publisher, user) = agents(&stage, near.address).await;
    let session = user.connect("db", &publisher.key).await.unwrap();
    assert_eq!(exchange(&session, "db", b"one".to_vec()).await, b"one");
    user.serve_echo();
    user.publish("db").await.unwrap();
    for cut in 1..=3 {
        near.cut();
        until("the session to resume", || session.status().resumes >= cut).await;
        assert_eq!(exchange(&session, "db", b"two".to_vec()).await, b"two");
    }
    assert!(authority.good() >= 3, "each time by a ticket");
    let issued = authority.issued();
    assert_eq!(issued.len(), 1, "and never by the name");
    session.close(Code::NoError, "done");
    until("its ticket to be deleted", || {
        *authority.forgotten.lock().unwrap() == issued
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_new_is_let_in_without_the_authority_and_living_sessions_go_on() {
    let (stage, authority) = Stage::with_authority(Watched::new).await;
    let near = Path::to(stage.address()).await;
    let (publisher, user) = agents(&stage, near.address).await;
    let session = user.connect("db", &publisher.key).await.unwrap();
    authority.reachable.store(false, Ordering::SeqCst);
    assert_eq!(exchange(&session, "db", b"on".to_vec()).await, b"on");

    // A bare hop sees the reason itself; agents try again until it is gone.
    let key = StaticKey::from_bytes(*user.key.to_bytes());
    let mut bare = RawHop::attach(stage.address(), &key).await;
    bare.send_routed(open(2), &hello(1)).await;
    assert_eq!(refusal(&mut bare).await, Code::AuthorityUnreachable);

    near.cut();
    until("the cut to be felt", || {
        session.status().detached_for.is_some()
    })
    .await;
    let back = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        authority.reachable.store(true, Ordering::SeqCst);
    };
    let (other, ()) = tokio::join!(user.connect("db", &publisher.key), back);
    let other = other.unwrap();
    assert_eq!(exchange(&other, "db", b"new".to_vec()).await, b"new");
    assert_eq!(exchange(&session, "db", b"kept".to_vec()).await, b"kept");
}

/// An authority that has lost a ticket: a name opens the route, the session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_has_forgotten_everything_locks_nobody_out() {
    let (stage, authority) = Stage::with_authority(Watched::new).await;
    let near = Path::to(stage.address()).await;
    let (publisher, user) = agents(&stage, near.address).await;
    let session = user.connect("db", &publisher.key).await.unwrap();
    let [handle] = authority.issued()[..] else {
        panic!("one ticket");
    };
    authority.real.forget(handle).await.unwrap();
    near.cut();
    until("the session to resume", || session.status().resumes >= 1).await;
    assert_eq!(exchange(&session, "db", b"kept".to_vec()).await, b"kept");
    assert_eq!(authority.issued().len(), 2, "and it has a new ticket");
}

pub(crate) fn open(route: u32) -> Open {
    let service = "db.bob".to_owned();
    let keep_s = 600;
    Open {
        route,
        service,
        keep_s,
    }
}

pub(crate) fn reopen(route: u32, ticket: [u8; 32]) -> Reopen {
    Reopen { route, ticket }
}

fn unframed(packet: &Packet) -> Vec<u8> {
    [&[packet.kind.code()], &packet.body[..]].concat()
}

pub(crate) fn hello(session: u8) -> Vec<u8> {
    let hello = Hello {
        version: VERSION,
        min_version: VERSION,
        session: SessionId([session; 16]),
        target: HelloTarget::Endpoint,
        message: vec![1; 64].into(),
    };
    unframed(&hello.to_packet())
}

pub(crate) fn resume(session: u8) -> Vec<u8> {
    let resume = Resume {
        session: SessionId([session; 16]),
        generation: 0,
        nonce: [1; 16],
        sealed: vec![1; 64].into(),
    };
    unframed(&resume.to_packet())
}

pub(crate) async fn refusal(hop: &mut RawHop) -> Code {
    match hop.next_routed().await {
        Some((RouteHeader::Gone(gone), _)) => Code::from_number(gone.code).unwrap(),
        other => panic!("no refusal: {other:?}"),
    }
}

pub(crate) async fn given(hop: &mut RawHop) -> Ticket {
    match hop.next_routed().await {
        Some((RouteHeader::Ticket(ticket), _)) => ticket,
        other => panic!("no ticket came first: {other:?}"),
    }
}

/// A machine of a user of that name.
pub(crate) async fn enrolled(stage: &Stage, admin: &Agent, user: &str) -> StaticKey {
    let agent = stage.invited(admin, user).await;
    agent.attachment.detach().await;
    StaticKey::from_bytes(*agent.key.to_bytes())
}

/// A publisher of `db` that obeys no rule.
pub(crate) async fn publisher(relay: SocketAddr, key: &StaticKey) -> RawHop {
    let mut publisher = RawHop::attach(relay, key).await;
    let publish = Publish {
        request: 1,
        name: "db".into(),
        description: String::new(),
        compression: false,
        plain_http: false,
    };
    let published = publisher.ask(publish.into()).await;
    assert!(matches!(published, Control::Published(_)), "{published:?}");
    publisher
}

/// The next that the publisher sees is somebody with this packet. It answers; the client sees that and
/// ends its `route`.
pub(crate) async fn passes(publisher: &mut RawHop, client: &mut RawHop, route: u32, packet: &[u8]) {
    let (header, payload) = publisher.next_routed().await.unwrap();
    let RouteHeader::Incoming(incoming) = header else {
        panic!("{header:?}");
    };
    assert_eq!(payload, packet);
    let far = Data {
        route: incoming.route,
    };
    publisher.send_routed(far, b"answer").await;
    let (header, _) = client.next_routed().await.unwrap();
    assert_eq!(header, Data { route }.into());
    let gone = Gone {
        route,
        code: 0,
        text: String::new(),
    };
    client.send_routed(gone, b"").await;
    let (header, _) = publisher.next_routed().await.unwrap();
    assert!(matches!(header, RouteHeader::Gone(_)), "{header:?}");
}

/// Alice's first route to what bob publishes at the stage's relay, opened by its name and ended again.
pub(crate) struct FirstRoute {
    pub alice: StaticKey,
    pub bob: StaticKey,
    pub near: RawHop,
    pub far: RawHop,
    pub given: Ticket,
}

impl FirstRoute {
    pub(crate) async fn new(stage: &Stage, admin: &Agent) -> Self {
        let alice = enrolled(stage, admin, "alice").await;
        let bob = enrolled(stage, admin, "bob").await;
        let mut far = publisher(stage.address(), &bob).await;
        admin.allow("*", "db.bob").await.unwrap();
        let mut near = RawHop::attach(stage.address(), &alice).await;
        near.send_routed(open(2), &hello(1)).await;
        let given = given(&mut near).await;
        passes(&mut far, &mut near, 2, &hello(1)).await;
        Self {
            alice,
            bob,
            near,
            far,
            given,
        }
    }

    /// Both machines at another relay, which may be the same one after a restart.
    pub(crate) async fn at(&self, relay: SocketAddr) -> (RawHop, RawHop) {
        let far = publisher(relay, &self.bob).await;
        (RawHop::attach(relay, &self.alice).await, far)
    }
}

/// The route is opened once more by a ticket, used, and ended. The ticket that came for it.
pub(crate) async fn once_more(
    near: &mut RawHop,
    far: &mut RawHop,
    route: u32,
    ticket: [u8; 32],
) -> Ticket {
    near.send_routed(reopen(route, ticket), &resume(1)).await;
    let next = given(near).await;
    passes(far, near, route, &resume(1)).await;
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_at_any_relay_of_its_authority_and_spent_at_all() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let mut route = FirstRoute::new(&stage, &admin).await;
    let first = route.given.clone();
    assert_eq!(first.lifetime_s, 600 + MARGIN.as_secs());

    let other = stage.another_relay().await;
    let (mut there, mut far_there) = route.at(other.addresses()[0].1).await;
    let second = once_more(&mut there, &mut far_there, 2, first.ticket).await;
    assert_eq!(second.handle, first.handle);
    assert_ne!(second.ticket, first.ticket);

    // As if that answer had been lost: the same ticket gets the same one, wherever it asks.
    let lost = once_more(&mut route.near, &mut route.far, 4, first.ticket).await;
    assert_eq!(lost.ticket, second.ticket);

    // The second is used, so the first is spent everywhere.
    let third = once_more(&mut there, &mut far_there, 4, second.ticket).await;
    let here = &mut route.near;
    for hop in [&mut *here, &mut there] {
        hop.send_routed(reopen(6, first.ticket), &resume(1)).await;
        assert_eq!(refusal(hop).await, Code::TicketUnknown);
    }

    // A clean end, told to one relay.
    let handle = third.handle;
    here.send_routed(Discard { handle }, b"").await;
    let store = stage.store().await;
    let digest = ticket::Ticket::new(third.ticket).digest();
    in_time("the ticket to be deleted", async {
        while store.ticket(&digest).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for ticket in [second.ticket, third.ticket] {
        there.send_routed(reopen(8, ticket), &resume(1)).await;
        assert_eq!(refusal(&mut there).await, Code::TicketUnknown);
    }
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_outlive_their_relay() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let route = FirstRoute::new(&stage, &admin).await;
    let stage = stage.restart().await;
    let (mut near, mut far) = route.at(stage.address()).await;
    once_more(&mut near, &mut far, 2, route.given.ticket).await;
}

/// A ticket, the packet that goes with it, and whether it is eve who says it.
type Attempt = ([u8; 32], Vec<u8>, bool);

/// Tries one after the other on two relays at once, 25 of each at a time. How many were refused.
async fn refused(relays: [SocketAddr; 2], keys: [&StaticKey; 2], attempts: &[Attempt]) -> usize {
    let one = async |relay: SocketAddr, key: &StaticKey, attempts: Vec<&Attempt>| {
        let mut hop = RawHop::attach(relay, key).await;
        let mut refused = 0;
        for some in attempts.chunks(25) {
            for (n, (ticket, packet, _)) in some.iter().enumerate() {
                let route = 2 * (n as u32 + 1);
                hop.send_routed(reopen(route, *ticket), packet).await;
            }
            for _ in some {
                assert_eq!(refusal(&mut hop).await, Code::TicketUnknown);
                refused += 1;
            }
        }
        refused
    };
    let of = |eve: bool, relay: usize| {
        let all = attempts.iter().filter(move |it| it.2 == eve).enumerate();
        let some = all.filter(move |(n, _)| n % 2 == relay);
        some.map(|(_, it)| it).collect::<Vec<_>>()
    };
    let (a, b, c, d) = tokio::join!(
        one(relays[0], keys[0], of(false, 0)),
        one(relays[1], keys[0], of(false, 1)),
        one(relays[0], keys[1], of(true, 0)),
        one(relays[1], keys[1], of(true, 1)),
    );
    a + b + c + d
}

/// 500 tickets that are mutated, spent, foreign, swapped, random or expired, 100 at once on two relays:
/// none brings anybody to the publisher, and none harms the good one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_wrong_tickets_open_nothing() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let mut route = FirstRoute::new(&stage, &admin).await;
    let eve = enrolled(&stage, &admin, "eve").await;
    let other = stage.another_relay().await;
    let relays = [stage.address(), other.addresses()[0].1];
    let (mut there, mut far_there) = route.at(relays[1]).await;
    let (near, far) = (&mut route.near, &mut route.far);
    // A second session of hers, and one of eve's.
    near.send_routed(open(2), &hello(2)).await;
    let second = given(near).await.ticket;
    passes(far, near, 2, &hello(2)).await;
    let mut eves = RawHop::attach(relays[0], &eve).await;
    eves.send_routed(open(2), &hello(3)).await;
    let eves_own = given(&mut eves).await.ticket;
    passes(far, &mut eves, 2, &hello(3)).await;
    // Twice, so that the first is spent.
    let spent = route.given.ticket;
    let good = once_more(near, far, 2, spent).await.ticket;
    let good = once_more(near, far, 2, good).await.ticket;

    let mut attempts: Vec<Attempt> = Vec::new();
    for bit in 0..256 {
        let mut mutated = good;
        mutated[bit / 8] ^= 1 << (bit % 8);
        attempts.push((mutated, resume(1), bit % 2 == 0));
    }
    for _ in 0..30 {
        attempts.push((rand_bytes(), resume(1), false));
        attempts.push((spent, resume(1), false));
        attempts.push((spent, resume(1), true));
        // Stolen, with and without the session's request; her own for somebody else's session.
        attempts.push((good, resume(1), true));
        attempts.push((good, resume(3), true));
        attempts.push((eves_own, resume(1), true));
        // Of two sessions of one machine, each for the other; and what is no request at all.
        attempts.push((good, resume(2), false));
        attempts.push((second, resume(1), false));
        attempts.push((good, b"no packet".to_vec(), false));
    }
    let count = attempts.len();
    assert!(count >= 500);
    assert_eq!(
        refused(relays, [&route.alice, &eve], &attempts).await,
        count
    );

    // The publisher sees the good one next, and nothing before it.
    let last = once_more(&mut route.near, &mut route.far, 2, good).await;
    let last = last.ticket;
    once_more(&mut there, &mut far_there, 2, last).await;

    // After a year on the authority's clock all have expired.
    let year = Time::ZERO + Duration::from_secs(365 * 24 * 3600);
    stage
        .store()
        .await
        .advance_ticket_clock(year)
        .await
        .unwrap();
    let expired = [
        (good, resume(1), false),
        (last, resume(1), false),
        (second, resume(2), false),
        (eves_own, resume(3), true),
    ];
    assert_eq!(refused(relays, [&route.alice, &eve], &expired).await, 4);
    other.shutdown().await;
}

fn rand_bytes() -> [u8; 32] {
    rand::random()
}
