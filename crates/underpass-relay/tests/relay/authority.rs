//! A ticket authority of its own, which relays reach over TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use underpass_carrier::mutual::{MutualIdentity, MutualStream};
use underpass_proto::Code;
use underpass_proto::authority::{
    AuthorityHello, AuthorityMessage, Issue, MAX_FAR, Party, Ping, Settled, Welcome,
};
use underpass_proto::packet::SessionId;
use underpass_proto::route::Discard;
use underpass_proto::ticket::{Claim, Handle, Ticket};
use underpass_relay::authority::{
    Authority as _, AuthorityAddress, AuthorityError, AuthorityHandle, AuthorityProcess,
    ProcessSettings, Remote,
};
use underpass_seal::{Fingerprint, StaticKey};

use crate::raw::RawHop;
use crate::stage::{Path, Stage, exchange, in_time, until};
use crate::tickets::{
    agents, enrolled, given, hello, open, passes, publisher, refusal, reopen, resume,
};

const ALPN: &[u8] = b"underpass-authority";

/// An authority in a folder of its own, that runs or does not.
struct Elsewhere {
    settings: ProcessSettings,
    running: Option<AuthorityHandle>,
    certificate: Fingerprint,
    _folder: TempDir,
}

impl Elsewhere {
    /// It knows nobody yet.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = ProcessSettings {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            data: folder.path().join("authority"),
            allow: vec![],
        };
        let running = AuthorityProcess::start(settings.clone()).await.unwrap();
        settings.listen = running.addresses().to_vec();
        Self {
            settings,
            certificate: running.certificate(),
            running: Some(running),
            _folder: folder,
        }
    }

    /// It knows these.
    async fn for_relays(relays: &[Fingerprint]) -> Self {
        let mut new = Self::new().await;
        new.stop().await;
        new.settings.allow = relays.to_vec();
        new.start().await;
        new
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown().await;
        }
    }

    async fn start(&mut self) {
        let running = AuthorityProcess::start(self.settings.clone()).await;
        self.running = Some(running.unwrap());
    }

    fn place(&self) -> SocketAddr {
        self.settings.listen[0]
    }

    /// Its address as settings have it, at another place, such as a path to it.
    fn address_at(&self, place: SocketAddr) -> AuthorityAddress {
        let certificate = self.certificate;
        format!("{place}#{certificate}").parse().unwrap()
    }

    fn address(&self) -> AuthorityAddress {
        self.address_at(self.place())
    }

    fn connections(&self) -> usize {
        self.running
            .as_ref()
            .map_or(0, AuthorityHandle::connections)
    }
}

fn identity() -> MutualIdentity {
    let folder = tempfile::tempdir().unwrap();
    MutualIdentity::kept_in(folder.path()).unwrap()
}

fn print_of(identity: &MutualIdentity) -> Fingerprint {
    Fingerprint::from_bytes(identity.fingerprint())
}

/// A relay's side of it, without a relay around it; it ends with the guard.
fn remote(address: AuthorityAddress, identity: &MutualIdentity) -> (Arc<Remote>, DropGuard) {
    let remote = Arc::new(Remote::new(address, identity).unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&remote).keep_connected(stop.clone()));
    (remote, stop.drop_guard())
}

fn claim(n: u8) -> Claim {
    Claim {
        holder: [n; 32],
        session: SessionId([n; 16]),
    }
}

const KEEP: Duration = Duration::from_secs(600);

/// A relay of the group of `first`, with a folder, a key and a certificate of its own.
async fn beside(first: &Stage, authority: &AuthorityAddress) -> Stage {
    let file = first.settings.data.join("underpass.db");
    let authority = Some(authority.clone());
    Stage::with(|settings| {
        settings.database = Some(file);
        settings.authority = authority;
    })
    .await
}

/// Every step of an exchange, each asked while the authority is down, and answered when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_killed_between_any_two_steps() {
    let mut authority = Elsewhere::new().await;
    let address = authority.address();
    let a = Stage::with(|settings| settings.authority = Some(address.clone())).await;
    let admin = a.administrator().await;
    let (alice, bob) = (
        enrolled(&a, &admin, "alice").await,
        enrolled(&a, &admin, "bob").await,
    );
    let b = beside(&a, &address).await;
    let prints = [&a, &b].map(|it| it.relay.authority_certificate().unwrap());
    assert_ne!(prints[0], prints[1]);
    let mut far_a = publisher(a.address(), &bob).await;
    let mut far_b = publisher(b.address(), &bob).await;
    admin.allow("*", "db.bob").await.unwrap();
    let mut near_a = RawHop::attach(a.address(), &alice).await;
    let mut near_b = RawHop::attach(b.address(), &alice).await;

    // Nobody was allowed at the authority: so nobody is let in at the relays.
    near_a.send_routed(open(2), &hello(1)).await;
    assert_eq!(refusal(&mut near_a).await, Code::AuthorityUnreachable);
    assert_eq!(authority.connections(), 0);
    authority.stop().await;
    authority.settings.allow = prints.to_vec();
    authority.start().await;
    until("both relays to connect", || authority.connections() == 2).await;

    authority.stop().await;
    near_a.send_routed(open(4), &hello(1)).await;
    authority.start().await;
    let first = given(&mut near_a).await;
    passes(&mut far_a, &mut near_a, 4, &hello(1)).await;

    // It is checked at the other relay; as if that answer had been lost, at this one; and the next.
    authority.stop().await;
    near_b
        .send_routed(reopen(2, first.ticket), &resume(1))
        .await;
    authority.start().await;
    let second = given(&mut near_b).await;
    assert_eq!(second.handle, first.handle);
    passes(&mut far_b, &mut near_b, 2, &resume(1)).await;
    authority.stop().await;
    near_a
        .send_routed(reopen(6, first.ticket), &resume(1))
        .await;
    authority.start().await;
    assert_eq!(given(&mut near_a).await.ticket, second.ticket);
    passes(&mut far_a, &mut near_a, 6, &resume(1)).await;
    authority.stop().await;
    near_a
        .send_routed(reopen(8, second.ticket), &resume(1))
        .await;
    authority.start().await;
    let third = given(&mut near_a).await;
    passes(&mut far_a, &mut near_a, 8, &resume(1)).await;

    // What is spent stays spent, at both.
    authority.stop().await;
    near_b
        .send_routed(reopen(4, first.ticket), &resume(1))
        .await;
    authority.start().await;
    assert_eq!(refusal(&mut near_b).await, Code::TicketUnknown);
    near_a
        .send_routed(reopen(10, first.ticket), &resume(1))
        .await;
    assert_eq!(refusal(&mut near_a).await, Code::TicketUnknown);

    // The handle deletes, too, once the authority is back. A ticket of another answers meanwhile.
    authority.stop().await;
    let handle = third.handle;
    near_b.send_routed(Discard { handle }, b"").await;
    authority.start().await;
    in_time("the ticket to be deleted", async {
        let mut route = 12;
        loop {
            near_a
                .send_routed(reopen(route, third.ticket), &resume(1))
                .await;
            match near_a.next_routed().await {
                Some((underpass_proto::route::RouteHeader::Gone(gone), _)) => {
                    break assert_eq!(gone.code, Code::TicketUnknown.number());
                }
                _ => passes(&mut far_a, &mut near_a, route, &resume(1)).await,
            }
            route += 2;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn living_sessions_go_on_without_it_and_new_ones_wait_for_it() {
    let mut authority = Elsewhere::new().await;
    let address = authority.address();
    let stage = Stage::with(|settings| settings.authority = Some(address)).await;
    authority.stop().await;
    authority.settings.allow = vec![stage.relay.authority_certificate().unwrap()];
    authority.start().await;
    let near = Path::to(stage.address()).await;
    let (publisher, user) = agents(&stage, near.address).await;
    let session = user.connect("db", &publisher.key).await.unwrap();

    authority.stop().await;
    assert_eq!(exchange(&session, "db", b"on".to_vec()).await, b"on");
    let key = StaticKey::from_bytes(*user.key.to_bytes());
    let mut bare = RawHop::attach(stage.address(), &key).await;
    bare.send_routed(open(2), &hello(1)).await;
    assert_eq!(refusal(&mut bare).await, Code::AuthorityUnreachable);
    near.cut();
    until("the cut to be felt", || {
        session.status().detached_for.is_some()
    })
    .await;
    let (other, ()) = tokio::join!(user.connect("db", &publisher.key), authority.start());
    let other = other.unwrap();
    assert_eq!(exchange(&other, "db", b"new".to_vec()).await, b"new");
    assert_eq!(exchange(&session, "db", b"kept".to_vec()).await, b"kept");
    assert_eq!(session.status().resumes, 1);
}

/// 300 questions at once over a line that is reset 20 times: each has its answer, and it is the right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_lost_on_a_line_that_breaks() {
    let identity = identity();
    let authority = Elsewhere::for_relays(&[print_of(&identity)]).await;
    let line = Path::to(authority.place()).await;
    let (relay, _guard) = remote(authority.address_at(line.address), &identity);
    let direct = remote(authority.address(), &identity);
    let answered = AtomicUsize::new(0);
    let asking = async |n: u8| {
        let issued = relay.issue(claim(n), vec![n; MAX_FAR], KEEP).await?;
        answered.fetch_add(1, Ordering::SeqCst);
        let next = relay.check(claim(n), issued.ticket.clone()).await?;
        answered.fetch_add(1, Ordering::SeqCst);
        assert_eq!((next.handle, &next.far), (issued.handle, &vec![n; MAX_FAR]));
        let other = relay.check(claim(n.wrapping_add(1)), issued.ticket.clone());
        assert!(matches!(other.await, Err(AuthorityError::NotGood(_))));
        let again = direct.0.check(claim(n), issued.ticket).await?;
        assert_eq!(again.ticket, next.ticket, "as often as it is asked");
        Ok::<_, AuthorityError>(issued.handle)
    };
    let all = futures_util::future::join_all((0..100).map(asking));
    let cutting = async {
        for some in 1..=20 {
            until("some answers", || {
                answered.load(Ordering::SeqCst) >= 5 * some
            })
            .await;
            line.cut();
        }
    };
    let (handles, ()) = in_time("all answers", async { tokio::join!(all, cutting) }).await;
    let handles: Vec<Handle> = handles.into_iter().map(Result::unwrap).collect();
    // More than one message takes.
    let many = handles.iter().copied().cycle().take(700).collect();
    relay.renew(many).await.unwrap();
    for handle in handles {
        relay.forget(handle).await.unwrap();
        relay.forget(handle).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_certificates_are_refused_on_both_sides() {
    let (known, stranger) = (identity(), identity());
    let authority = Elsewhere::for_relays(&[print_of(&known)]).await;
    let other = Elsewhere::for_relays(&[print_of(&known)]).await;
    let asked = async |address, identity: &MutualIdentity| {
        let (relay, _guard) = remote(address, identity);
        relay.issue(claim(1), vec![1], KEEP).await
    };
    let mistaken = AuthorityAddress {
        certificate: other.certificate,
        ..authority.address()
    };
    let (good, unknown, mistaken) = tokio::join!(
        asked(authority.address(), &known),
        asked(authority.address(), &stranger),
        asked(mistaken, &known),
    );
    let good = good.unwrap();
    for refused in [unknown, mistaken] {
        assert!(matches!(refused, Err(AuthorityError::Unreachable(_))));
    }
    // Two authorities share nothing.
    let (relay, _guard) = remote(other.address(), &known);
    let foreign = relay.check(claim(1), good.ticket).await;
    assert!(matches!(foreign, Err(AuthorityError::NotGood(_))));
}

/// Another list, while it runs: who was known is a stranger, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_on_the_list_any_more_is_cut_off() {
    let [first, second] = [identity(), identity()];
    let authority = Elsewhere::for_relays(&[print_of(&first)]).await;
    let running = authority.running.as_ref().unwrap();
    let (old, _guard) = remote(authority.address(), &first);
    let ticket = old.issue(claim(1), vec![1], KEEP).await.unwrap().ticket;
    running.allow(&[print_of(&first), print_of(&second)]);
    let (new, _guard) = remote(authority.address(), &second);
    new.check(claim(1), ticket.clone()).await.unwrap();
    old.check(claim(1), ticket.clone()).await.unwrap();
    assert_eq!(authority.connections(), 2);

    running.allow(&[print_of(&second)]);
    until("the first to be cut off", || authority.connections() == 1).await;
    let refused = old.check(claim(1), ticket.clone()).await;
    assert!(matches!(refused, Err(AuthorityError::Unreachable(_))));
    new.check(claim(1), ticket).await.unwrap();
    assert_eq!(authority.connections(), 1);
}

/// A relay's connection that says what the test wants.
async fn connected(authority: &Elsewhere, identity: &MutualIdentity) -> io::Result<MutualStream> {
    let socket = TcpSocket::new_v4()?;
    // So that little is on its way to who reads nothing.
    socket.set_recv_buffer_size(4096)?;
    let tcp = socket.connect(authority.place()).await?;
    let expected = *authority.certificate.as_bytes();
    let connector = identity.connector(expected, ALPN).unwrap();
    connector.connect(tcp).await
}

fn framed(messages: &[AuthorityMessage]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|it| it.put_framed(&mut bytes));
    bytes
}

/// All that the authority says to these bytes, until it ends the connection.
async fn said_to(mut stream: MutualStream, bytes: &[u8]) -> Vec<AuthorityMessage> {
    let mut buf = BytesMut::new();
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    in_time("the end of the connection", async {
        while matches!(stream.read_buf(&mut buf).await, Ok(1..)) {}
    })
    .await;
    std::iter::from_fn(|| AuthorityMessage::take(Party::Authority, &mut buf).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_a_connection_and_nothing_else() {
    let identity = identity();
    let authority = Elsewhere::for_relays(&[print_of(&identity)]).await;
    let (relay, _guard) = remote(authority.address(), &identity);
    let kept = relay.issue(claim(1), vec![1], KEEP).await.unwrap();
    let greeting: AuthorityMessage = AuthorityHello {
        version: 7,
        min_version: 1,
    }
    .into();
    let welcome: AuthorityMessage = Welcome { version: 1 }.into();
    let too_new: AuthorityMessage = AuthorityHello {
        version: 9,
        min_version: 2,
    }
    .into();
    let ping: AuthorityMessage = Ping { request: 5 }.into();
    let far: AuthorityMessage = Issue {
        request: 6,
        holder: [1; 32],
        session: [1; 16],
        keep_s: 1,
        far: vec![0; MAX_FAR + 1].into(),
    }
    .into();
    let settled = |request| AuthorityMessage::from(Settled { request });
    let cases = [
        (framed(&[too_new]), vec![]),
        (framed(std::slice::from_ref(&ping)), vec![]),
        (BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]), vec![]),
        (
            framed(&[greeting.clone(), greeting.clone()]),
            vec![welcome.clone()],
        ),
        (framed(&[greeting.clone(), far]), vec![welcome.clone()]),
        (
            framed(&[greeting.clone(), settled(1)]),
            vec![welcome.clone()],
        ),
        // A length that is not allowed, and a type that there is none of.
        (
            [&framed(std::slice::from_ref(&greeting))[..], &[0xbf; 4]].concat()[..].into(),
            vec![welcome.clone()],
        ),
        (
            [&framed(std::slice::from_ref(&greeting))[..], &[1, 0x3f]].concat()[..].into(),
            vec![welcome.clone()],
        ),
    ];
    for (bytes, said) in cases {
        let stream = connected(&authority, &identity).await.unwrap();
        assert_eq!(said_to(stream, &bytes).await, said, "{bytes:?}");
    }
    until("all of them to be gone", || authority.connections() == 1).await;
    // The longest time that can be said.
    let ages = Duration::from_secs(u64::MAX >> 2);
    let bounded = relay.issue(claim(2), vec![2], ages).await.unwrap();
    assert!(bounded.lifetime < Duration::from_secs(1 << 40));
    relay.check(claim(1), kept.ticket).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_keeps_nobody_out() {
    let identity = identity();
    let authority = Elsewhere::for_relays(&[print_of(&identity)]).await;
    // Strangers beyond the bound: the oldest are closed, at once and not after their time.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(authority.place()).await.unwrap());
    }
    let mut byte = [0];
    let first = in_time("the oldest to be closed", silent[0].read(&mut byte)).await;
    assert!(matches!(first, Ok(0) | Err(_)));
    let (relay, _guard) = remote(authority.address(), &identity);
    let issued = relay.issue(claim(1), vec![1], KEEP).await.unwrap();

    // The same of a relay that is allowed: it gets 16, and that one has one already.
    let hello: AuthorityMessage = AuthorityHello {
        version: 1,
        min_version: 1,
    }
    .into();
    let mut held = Vec::new();
    for _ in 0..15 {
        let mut stream = connected(&authority, &identity).await.unwrap();
        // Half a question behind it.
        let bytes = [&framed(std::slice::from_ref(&hello))[..], &[40, 3]].concat();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        in_time("the welcome", stream.read_exact(&mut byte))
            .await
            .unwrap();
        held.push(stream);
    }
    assert_eq!(authority.connections(), 16);
    let one_more = connected(&authority, &identity).await.unwrap();
    assert_eq!(said_to(one_more, &framed(&[hello])).await, []);
    let ticket = Ticket::new(*issued.ticket.as_bytes());
    relay.check(claim(1), ticket).await.unwrap();
    drop((held, silent));
    until("those to be gone", || authority.connections() == 1).await;
}

/// It is not read from while its answers wait, and does not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_no_answers_is_not_asked_for_more_and_cut_off() {
    let identity = identity();
    let authority = Elsewhere::for_relays(&[print_of(&identity)]).await;
    let (relay, _guard) = remote(authority.address(), &identity);
    let issued = relay.issue(claim(1), vec![1], KEEP).await.unwrap();
    let mut stream = connected(&authority, &identity).await.unwrap();
    let hello = AuthorityHello {
        version: 1,
        min_version: 1,
    };
    stream.write_all(&framed(&[hello.into()])).await.unwrap();
    let pings = framed(&vec![Ping { request: 1 << 60 }.into(); 1000]);
    let mut taken = 0;
    in_time("the connection to be cut off", async {
        while stream.write_all(&pings).await.is_ok() {
            taken += pings.len();
            assert!(taken < 64 << 20, "it is read from without end");
        }
    })
    .await;
    relay.check(claim(1), issued.ticket).await.unwrap();
    until("it to be gone", || authority.connections() == 1).await;
}
