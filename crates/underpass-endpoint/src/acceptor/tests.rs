//! The queue of handshakes, over real carriers on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use underpass_carrier::{ClientSettings, KINDS, Listen, NotFound, Server, ServerSettings};
use underpass_proto::route::RouteHeader;

use super::*;
use crate::attachment::AttachSettings;
use crate::attempt::{self, Begun, Failed};
use crate::routes::Routes;
use crate::{AscentSettings, Link};

struct NoRoutes;

impl Router for NoRoutes {
    fn routed(&self, _: &Arc<Link>, _: RouteHeader, _: Bytes) {}
    fn link_down(&self, _: &Arc<Link>, _: &LinkEnd) {}
}

/// A relay with one processor and room for so many handshakes, at this address.
async fn relay(handshakes: usize) -> (SocketAddr, Arc<Acceptor>) {
    let listen = Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        socket: None,
    };
    let settings = ServerSettings::default();
    let mut server = Server::bind(&[listen], settings, Arc::new(NotFound))
        .await
        .unwrap();
    let address = server.addresses()[0].1;
    let identity = Arc::new(StaticKey::generate());
    let mut acceptor = Acceptor::new(identity, Config::default(), Arc::new(NoRoutes));
    acceptor.handshakes = Semaphore::new(handshakes);
    acceptor.turns = Semaphore::new(1);
    let acceptor = Arc::new(acceptor);
    let taking = acceptor.clone();
    tokio::spawn(async move {
        while let Some(carrier) = server.accept().await {
            let acceptor = taking.clone();
            tokio::spawn(async move { acceptor.accept(carrier).await });
        }
    });
    (address, acceptor)
}

/// An agent that has begun, and hears from the relay that it will come.
struct Begins {
    begun: JoinHandle<Result<Begun, Failed>>,
    heard: mpsc::UnboundedReceiver<()>,
}

async fn make(relay: SocketAddr) -> (AttachSettings, PacketCarrier) {
    let settings = AttachSettings {
        relay: format!("http://{relay}").parse().unwrap(),
        relay_key: None,
        carriers: Vec::new(),
        client: ClientSettings::default(),
        ascent: AscentSettings::default(),
        session: Config::default(),
    };
    let upgrade = KINDS.iter().find(|kind| kind.name == "upgrade").unwrap();
    let packets = attempt::make(&settings, upgrade).await.unwrap();
    (settings, packets)
}

fn begin(relay: SocketAddr) -> Begins {
    let (tell, heard) = mpsc::unbounded_channel();
    let begun = tokio::spawn(async move {
        let (settings, packets) = make(relay).await;
        let heard = || tell.send(()).unwrap();
        attempt::begin(packets, &settings, &StaticKey::generate(), None, heard).await
    });
    Begins { begun, heard }
}

async fn finish(begun: Begun) -> Session {
    let hop = attempt::finish(begun, &Arc::<Routes>::default()).await;
    hop.unwrap_or_else(|failed| panic!("{failed:?}")).session
}

fn is_refused(failed: &Failed, why: Code) -> bool {
    match failed {
        Failed::Busy(error) | Failed::Final(error) => error.code() == why,
        _ => false,
    }
}

#[tokio::test]
async fn who_comes_while_another_has_its_turn_waits_and_is_told_so() {
    let (relay, acceptor) = relay(1).await;
    let turn = acceptor.turns.acquire().await.unwrap();
    let mut first = begin(relay);
    first.heard.recv().await.unwrap();
    assert!(!first.begun.is_finished());
    // There is room for one.
    let second = begin(relay).begun.await.unwrap().err().unwrap();
    assert!(matches!(&second, Failed::Busy(_)) && is_refused(&second, Code::Busy));
    drop(turn);
    finish(first.begun.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn who_is_slow_to_finish_keeps_nobody_waiting() {
    let (relay, _) = relay(2).await;
    let first = begin(relay).begun.await.unwrap().unwrap();
    finish(begin(relay).begun.await.unwrap().unwrap()).await;
    finish(first).await;
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_its_place_to_another() {
    let (relay, acceptor) = relay(1).await;
    let turn = acceptor.turns.acquire().await.unwrap();
    let mut first = begin(relay);
    first.heard.recv().await.unwrap();
    first.begun.abort();
    let second = loop {
        let mut second = begin(relay);
        // Refused until the relay has seen that the first is gone.
        if second.heard.recv().await.is_some() {
            break second;
        }
    };
    drop(turn);
    finish(second.begun.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn those_that_are_forgotten_learn_it_one_after_the_other() {
    let (before, _) = relay(1).await;
    let session = finish(begin(before).begun.await.unwrap().unwrap()).await;
    let (after, acceptor) = relay(1).await;
    let routes = Arc::<Routes>::default();
    let resume = async || {
        let (_, packets) = make(after).await;
        let told = std::cell::Cell::new(0);
        let heard = || told.set(told.get() + 1);
        let failed = attempt::resume(packets, &session, &routes, heard).await;
        let failed = failed.err().unwrap();
        assert!(is_refused(&failed, Code::UnknownSession), "{failed:?}");
        told.get()
    };
    assert_eq!(resume().await, 0, "one alone");
    for _ in 0..200 {
        lock(&acceptor.forgotten).next(clock::now());
    }
    assert_eq!(resume().await, 1, "after 200 others");
}
