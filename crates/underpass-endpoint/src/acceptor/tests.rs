//! The queue of handshakes, over real carriers on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use underpass_carrier::{ClientSettings, KINDS, Listen, NotFound, Server, ServerSettings};
use underpass_proto::route::RouteHeader;

use super::*;
use crate::attachment::{AttachError, AttachSettings};
use crate::attempt::{self, Begun, Failed};
use crate::routes::Routes;
use crate::{AscentSettings, Link};

struct NoRoutes;

impl Router for NoRoutes {
    fn routed(&self, _: &Arc<Link>, _: RouteHeader, _: Bytes) {}
    fn link_down(&self, _: &Arc<Link>, _: &LinkEnd) {}
}

/// A relay with room for so many handshakes, and for so many that wait.
async fn relay(handshakes: usize, waiting: usize) -> SocketAddr {
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
    let acceptor = Acceptor::new(identity, Config::default(), Arc::new(NoRoutes));
    let acceptor = Arc::new(acceptor.with_turns(handshakes, waiting));
    tokio::spawn(async move {
        while let Some(carrier) = server.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(carrier).await });
        }
    });
    address
}

/// An agent that has begun, and hears from the relay that it will come.
struct Begins {
    begun: JoinHandle<Result<Begun, Failed>>,
    heard: mpsc::UnboundedReceiver<()>,
}

fn begin(relay: SocketAddr) -> Begins {
    let settings = AttachSettings {
        relay: format!("http://{relay}").parse().unwrap(),
        relay_key: None,
        carriers: Vec::new(),
        client: ClientSettings::default(),
        ascent: AscentSettings::default(),
        session: Config::default(),
    };
    let upgrade = KINDS.iter().find(|kind| kind.name == "upgrade").unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    let begun = tokio::spawn(async move {
        let packets = attempt::make(&settings, upgrade).await?;
        let heard = || tell.send(()).unwrap();
        attempt::begin(packets, &settings, &StaticKey::generate(), None, heard).await
    });
    Begins { begun, heard }
}

async fn finish(begun: Begun) {
    let hop = attempt::finish(begun, &Arc::<Routes>::default()).await;
    assert!(hop.is_ok());
}

#[tokio::test]
async fn who_comes_while_all_turns_are_taken_waits_and_is_told_so() {
    let relay = relay(1, 1).await;
    let first = begin(relay).begun.await.unwrap().unwrap();
    let mut second = begin(relay);
    second.heard.recv().await.unwrap();
    assert!(!second.begun.is_finished());
    // The first has its turn until it is done, and one place to wait is taken.
    let third = begin(relay).begun.await.unwrap();
    let busy = Code::Busy.number();
    assert!(matches!(third, Err(Failed::Final(AttachError::Refused { code, .. })) if code == busy));
    finish(first).await;
    finish(second.begun.await.unwrap().unwrap()).await;
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_its_place_to_another() {
    let relay = relay(1, 1).await;
    let first = begin(relay).begun.await.unwrap().unwrap();
    let mut second = begin(relay);
    second.heard.recv().await.unwrap();
    second.begun.abort();
    let third = loop {
        let mut third = begin(relay);
        // Refused until the relay has seen that the second is gone.
        if third.heard.recv().await.is_some() {
            break third;
        }
    };
    finish(first).await;
    finish(third.begun.await.unwrap().unwrap()).await;
}
