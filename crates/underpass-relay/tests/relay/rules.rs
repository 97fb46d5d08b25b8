//! What becomes of agents that break the rules for routes, and of those that are only slow.

use underpass_proto::control::{Control, Publish};
use underpass_proto::route::{Data, Gone, Open, RouteHeader};
use underpass_proto::{Code, varint};
use underpass_seal::StaticKey;

use crate::raw::RawHop;
use crate::stage::{Agent, Stage, until};
use crate::tickets::enrolled;

/// A relay, an administrator, and the key of an enrolled user `alice`, who is not attached.
async fn stage() -> (Stage, Agent, StaticKey) {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let key = enrolled(&stage, &admin, "alice").await;
    (stage, admin, key)
}

fn open(route: u32, service: &str) -> Open {
    let service = service.to_owned();
    Open {
        route,
        service,
        keep_s: 600,
    }
}

/// A publisher of `db`, for everybody, that reads only when it is told to.
async fn lazy_publisher(stage: &Stage, admin: &Agent) -> RawHop {
    let key = enrolled(stage, admin, "bob").await;
    let mut publisher = RawHop::attach(stage.address(), &key).await;
    let publish = Publish {
        request: 1,
        name: "db".into(),
        description: String::new(),
        compression: false,
        plain_http: false,
    };
    let published = publisher.ask(publish.into()).await;
    assert!(matches!(published, Control::Published(_)), "{published:?}");
    admin.allow("*", "db.bob").await.unwrap();
    publisher
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_the_rules_loses_the_link_and_nobody_else_does() {
    let (stage, admin, key) = stage().await;
    for wrong in 0..6 {
        let mut eve = RawHop::attach(stage.address(), &key).await;
        match wrong {
            0 => {
                eve.send_sealed(b"no header at all, and not sealed", b"payload")
                    .await
            }
            1 => eve.send_sealed(&[0; 16], b"").await,
            2 => eve.send_sealed(b"short", b"").await,
            3 => {
                eve.send_routed(open(3, "db"), b"the relay picks odd numbers")
                    .await
            }
            4 => {
                eve.send_routed(open(2, "db"), b"once").await;
                eve.send_routed(open(2, "db"), b"twice").await;
            }
            _ => {
                // Only relays say this.
                let header = RouteHeader::from(underpass_proto::route::Wait { route: 2 });
                eve.send_routed(header, b"").await;
            }
        }
        eve.is_closed().await;
        admin.who_am_i().await.unwrap();
    }
    until("its links to be gone", || stage.relay.load().0.links == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_open_is_answered_and_late_packets_are_nobodys_loss() {
    let (stage, _admin, key) = stage().await;
    let mut eve = RawHop::attach(stage.address(), &key).await;
    eve.send_routed(Data { route: 4 }, b"of a route that never was")
        .await;
    let long = "x".repeat(255);
    for (route, service, code) in [
        (2, "nothing", Code::NoService),
        (4, "a.b.c", Code::NameInvalid),
        (6, long.as_str(), Code::NameInvalid),
        (2, "", Code::NameInvalid),
    ] {
        eve.send_routed(open(route, service), b"hello").await;
        let Some((RouteHeader::Gone(gone), _)) = eve.next_routed().await else {
            panic!("{service} is not refused");
        };
        assert_eq!(
            (gone.route, gone.code),
            (route, code.number()),
            "{}",
            gone.text
        );
        let gone = Gone {
            route,
            code: 0,
            text: String::new(),
        };
        eve.send_routed(gone, b"").await;
    }
    assert_eq!(stage.relay.load().0.routes, 0);
    assert_eq!(stage.relay.load().1, 0);
}

/// A packet of 60 kB that shows its number.
fn numbered(number: u64) -> Vec<u8> {
    let mut payload = vec![0; 60_000];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// What a sender has been told about its route.
#[derive(Debug, Default)]
struct Told {
    waits: bool,
    dropped: Vec<u64>,
}

impl Told {
    fn heed(&mut self, header: &RouteHeader) {
        match header {
            RouteHeader::Wait(_) => {
                assert!(!self.waits, "told to wait twice");
                self.waits = true;
            }
            RouteHeader::GoOn(_) => {
                assert!(self.waits, "told to go on without having waited");
                self.waits = false;
            }
            RouteHeader::Dropped(run) => self.dropped.extend(run.first..run.first + run.count),
            other => panic!("{other:?}"),
        }
    }
}

/// Sends 50 packets more, and returns when the relay has seen them all: it has then answered what was
/// sent behind them.
async fn flood(eve: &mut RawHop, next: &mut u64, told: &mut Told) {
    for _ in 0..50 {
        eve.send_routed(Data { route: 2 }, &numbered(*next)).await;
        *next += 1;
    }
    eve.send_routed(open(4, "UPPER"), b"hello").await;
    loop {
        match eve.next_routed().await {
            Some((RouteHeader::Gone(gone), _)) if gone.route == 4 => return,
            Some((header, _)) => told.heed(&header),
            None => panic!("the link broke"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_does_not_wait_is_told_what_was_dropped() {
    let (stage, admin, key) = stage().await;
    let mut publisher = lazy_publisher(&stage, &admin).await;
    let mut eve = RawHop::attach(stage.address(), &key).await;
    until("eve to be known", || stage.relay.load().0.links == 3).await;
    eve.send_routed(open(2, "db.bob"), &numbered(0)).await;
    let (mut packets, mut told) = (1, Told::default());
    // Until what carriers and the system hold is full, and the queue too.
    let hard = stage.settings.route_hard.0;
    while stage.relay.load().1 + 60_000 < hard {
        assert!(
            packets < 10_000,
            "the publisher reads nothing, and it all goes somewhere"
        );
        flood(&mut eve, &mut packets, &mut told).await;
    }
    assert!(told.waits);
    flood(&mut eve, &mut packets, &mut told).await;
    let (load, queued) = stage.relay.load();
    assert_eq!(load.routes, 1);
    assert!(queued <= hard + hard / 10, "{queued} bytes wait");

    let mut arrived = Vec::new();
    let reading = async {
        while let Some((header, payload)) = publisher.next_routed().await {
            match header {
                RouteHeader::Incoming(incoming) => {
                    assert_eq!(
                        (incoming.user.as_str(), incoming.service.as_str()),
                        ("alice", "db")
                    );
                    assert_eq!(incoming.machine, key.public().0);
                }
                RouteHeader::Data(_) => {}
                // The sender has said its last word, which comes after all that it sent.
                RouteHeader::Gone(_) => return,
                other => panic!("{other:?}"),
            }
            arrived.push(u64::from_be_bytes(payload[..8].try_into().unwrap()));
        }
        panic!("the link broke");
    };
    let hearing = async {
        while told.waits {
            let (header, _) = eve.next_routed().await.expect("the link lives");
            told.heed(&header);
        }
        let gone = Gone {
            route: 2,
            code: 0,
            text: String::new(),
        };
        eve.send_routed(gone, b"").await;
    };
    tokio::join!(reading, hearing);
    assert!(!told.dropped.is_empty(), "all of it found room");
    assert!(arrived.is_sorted(), "in order");
    arrived.extend(told.dropped);
    arrived.sort_unstable();
    assert_eq!(
        arrived,
        (0..packets).collect::<Vec<_>>(),
        "arrived or told, each once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_routes_ends_at_the_limit() {
    let stage = Stage::with(|settings| {
        settings.routes_per_attachment = 20;
        settings.waiting_per_attachment = 10;
    })
    .await;
    let admin = stage.administrator().await;
    let mut publisher = lazy_publisher(&stage, &admin).await;
    let key = enrolled(&stage, &admin, "alice").await;
    let mut eve = RawHop::attach(stage.address(), &key).await;
    until("eve to be known", || stage.relay.load().0.links == 3).await;
    for route in 0..200 {
        eve.send_routed(open(2 * route, "db.bob"), b"hello").await;
    }
    let mut refused = 0;
    while refused < 180 {
        match eve.next_routed().await {
            Some((RouteHeader::Gone(gone), _)) => {
                assert_eq!(gone.code, Code::Busy.number(), "{}", gone.text);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let load = stage.relay.load().0;
    assert!(load.routes <= 20, "{load:?}");
    for _ in 0..load.routes {
        let (header, _) = publisher.next_routed().await.unwrap();
        assert!(matches!(header, RouteHeader::Incoming(_)));
    }
    drop(eve);
    until("its routes to go", || stage.relay.load().0.routes == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_on_and_on_and_never_reads_is_cut_off() {
    let (stage, admin, key) = stage().await;
    let mut eve = RawHop::attach(stage.address(), &key).await;
    until("eve to be known", || stage.relay.load().0.links == 2).await;
    // Each answer is larger than its question: what the relay would have to keep grows without end.
    for route in 0..400_000u32 {
        eve.send_routed(open(2 * route, "UPPER"), b"hello").await;
        if route % 1000 == 0 && stage.relay.load().0.links == 1 {
            break;
        }
    }
    until("eve to be cut off", || stage.relay.load().0.links == 1).await;
    assert_eq!(stage.relay.load().0.routes, 0);
    admin.who_am_i().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_are_told_when_access_is_taken_back() {
    let (stage, admin, key) = stage().await;
    let mut publisher = lazy_publisher(&stage, &admin).await;
    let mut alice = RawHop::attach(stage.address(), &key).await;
    for round in 0..20 {
        alice.send_routed(open(2, "db.bob"), b"hello").await;
        let (header, _) = publisher.next_routed().await.unwrap();
        assert!(
            matches!(header, RouteHeader::Incoming(_)),
            "{round}: {header:?}"
        );
        admin.deny("*", "db.bob").await.unwrap();
        let told = alice.next_routed().await.unwrap().0;
        assert!(
            matches!(&told, RouteHeader::Gone(it) if it.code == Code::Denied.number()),
            "{told:?}"
        );
        let told = publisher.next_routed().await.unwrap().0;
        assert!(
            matches!(&told, RouteHeader::Gone(it) if it.code == Code::Aborted.number()),
            "{told:?}"
        );
        admin.allow("*", "db.bob").await.unwrap();
    }
    until("queues to empty", || stage.relay.load().1 == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_sealed_per_hop_and_payload_passes_as_it_is() {
    let (stage, admin, key) = stage().await;
    let mut publisher = lazy_publisher(&stage, &admin).await;
    let mut alice = RawHop::attach(stage.address(), &key).await;
    alice.send_routed(open(8, "db.bob"), b"first").await;
    let (header, payload) = publisher.next_routed().await.unwrap();
    let RouteHeader::Incoming(incoming) = header else {
        panic!("{header:?}");
    };
    assert_eq!(payload, &b"first"[..]);
    assert_eq!(incoming.route % 2, 1, "the relay picks odd numbers");
    let route = incoming.route;
    publisher.send_routed(Data { route }, b"second").await;
    let back = alice.next_routed().await.unwrap();
    assert_eq!(back, (Data { route: 8 }.into(), b"second"[..].into()));
    let text = "enough".to_owned();
    let code = Code::Cancelled.number();
    publisher.send_routed(Data { route }, b"last").await;
    publisher
        .send_routed(
            Gone {
                route,
                code,
                text: text.clone(),
            },
            b"",
        )
        .await;
    let back = alice.next_routed().await.unwrap();
    assert_eq!(back.1, &b"last"[..], "what was sent before the end arrives");
    let back = alice.next_routed().await.unwrap();
    assert_eq!(
        back.0,
        Gone {
            route: 8,
            code,
            text
        }
        .into()
    );
    // The number is free again.
    alice.send_routed(open(8, "db.bob"), b"again").await;
    let (header, _) = publisher.next_routed().await.unwrap();
    let RouteHeader::Incoming(again) = header else {
        panic!("{header:?}");
    };
    assert_ne!(
        again.route, route,
        "late packets of the old route must not meet the new one"
    );
    assert!(varint::size(u64::from(again.route)) <= 4);
}
