//! A relay that does what it likes with what passes: real agents attach to it, and it holds keys of its own.
//!
//! It has no control plane, no tickets and no users. It leads each route to the machine that it was told of, and keeps
//! everything that an honest relay could see.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use underpass_carrier::{Listen, NotFound, Server, ServerSettings};
use underpass_endpoint::{
    Accepted, Acceptor, Link, LinkEnd, Outgoing, RouteSource, Router, SourceId,
};
use underpass_proto::Code;
use underpass_proto::packet::{Packet, PacketKind};
use underpass_proto::route::{Data, Gone, Graded, Incoming, RouteHeader};
use underpass_proto::session::Config;
use underpass_seal::{Fingerprint, PublicKey, StaticKey};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// From who opened the route to the publisher.
    There,
    Back,
}

/// A packet that passes: as it came, and what goes on in its place.
pub(crate) struct Passing {
    pub(crate) way: Way,
    pub(crate) kind: PacketKind,
    /// How many of this kind went this way before it, over all routes.
    pub(crate) nth: u64,
    /// The packets that go on, kind and body each.
    pub(crate) packets: Vec<Vec<u8>>,
    /// With the first packet of a route: what its publisher is told.
    pub(crate) incoming: Option<Incoming>,
}

impl Passing {
    pub(crate) fn is(&self, way: Way, kind: PacketKind) -> bool {
        self.way == way && self.kind == kind
    }

    /// Whether it holds what the two agents say to each other.
    pub(crate) fn is_record(&self) -> bool {
        matches!(self.kind, PacketKind::Reliable | PacketKind::Unreliable)
    }

    /// Changes one bit near the end, behind every header.
    pub(crate) fn flip(&mut self) {
        if let Some(byte) = self.packets[0].iter_mut().rev().nth(20) {
            *byte ^= 1;
        }
    }
}

/// What is done with each packet.
pub(crate) type Mischief = dyn FnMut(&mut Passing) + Send;

/// What came in, as the relay could keep it.
#[derive(Default)]
pub(crate) struct Seen {
    /// Packets of each way, in their order.
    pub(crate) packets: Vec<(Way, Packet)>,
    pub(crate) graded: Vec<Graded>,
    pub(crate) gone: Vec<Code>,
}

impl Seen {
    /// Whether these bytes stand in any packet as it passed.
    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        let mut packets = self.packets.iter();
        packets.any(|(_, packet)| holds(&packet.body, needle))
    }
}

pub(crate) fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// One end of a route, and the other one.
#[derive(Clone)]
struct End {
    link: Weak<Link>,
    route: u32,
    way: Way,
}

struct State {
    /// Where each service leads.
    services: HashMap<String, PublicKey>,
    links: HashMap<u64, PublicKey>,
    by_key: HashMap<PublicKey, Arc<Link>>,
    ends: HashMap<(u64, u32), End>,
    next: u32,
    counts: HashMap<(Way, u8), u64>,
    mischief: Box<Mischief>,
    seen: Seen,
}

/// The relay.
pub(crate) struct Between {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
    inner: Arc<Inner>,
}

struct Inner(Mutex<State>);

impl Between {
    pub(crate) async fn start(mischief: impl FnMut(&mut Passing) + Send + 'static) -> Self {
        let listen = [Listen {
            address: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            socket: None,
        }];
        let server = Server::bind(&listen, ServerSettings::default(), Arc::new(NotFound));
        let mut server = server.await.unwrap();
        let address = server.addresses()[0].1;
        let identity = Arc::new(StaticKey::generate());
        let fingerprint = identity.public().fingerprint();
        let inner = Arc::new(Inner(Mutex::new(State {
            services: HashMap::new(),
            links: HashMap::new(),
            by_key: HashMap::new(),
            ends: HashMap::new(),
            next: 1,
            counts: HashMap::new(),
            mischief: Box::new(mischief),
            seen: Seen::default(),
        })));
        let acceptor = Arc::new(Acceptor::new(identity, Config::default(), inner.clone()));
        let shared = inner.clone();
        tokio::spawn(async move {
            while let Some(carrier) = server.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Ok(Accepted::New { link, peer, .. }) = acceptor.accept(carrier).await {
                        let mut state = shared.0.lock().unwrap();
                        state.links.insert(link.serial(), peer);
                        state.by_key.insert(peer, link);
                    }
                });
            }
        });
        Self {
            address,
            fingerprint,
            inner,
        }
    }

    /// Leads who asks for `service` to the machine with this key, once that is attached.
    pub(crate) async fn lead(&self, service: &str, publisher: PublicKey) {
        self.attached(publisher).await;
        let mut state = self.inner.0.lock().unwrap();
        state.services.insert(service.to_owned(), publisher);
    }

    /// Waits until a machine is attached.
    pub(crate) async fn attached(&self, machine: PublicKey) {
        crate::stage::until("the machine is attached", || {
            self.inner.0.lock().unwrap().by_key.contains_key(&machine)
        })
        .await;
    }

    pub(crate) fn seen<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.inner.0.lock().unwrap().seen)
    }
}

impl State {
    fn passes(&mut self, way: Way, payload: &Bytes, incoming: Option<Incoming>) -> Passing {
        let packet = Packet::parse_unframed(payload.clone()).unwrap();
        let kind = packet.kind;
        let count = self.counts.entry((way, kind.code())).or_default();
        let mut passing = Passing {
            way,
            kind,
            nth: *count,
            packets: vec![payload.to_vec()],
            incoming,
        };
        *count += 1;
        self.seen.packets.push((way, packet));
        (self.mischief)(&mut passing);
        passing
    }

    fn open(&mut self, link: &Arc<Link>, route: u32, service: &str, payload: &Bytes) {
        let from = self.links.get(&link.serial()).copied();
        let publisher = self.services.get(service);
        let to = publisher.and_then(|key| self.by_key.get(key).cloned());
        let (Some(from), Some(to)) = (from, to) else {
            let code = Code::NoService.number();
            let text = String::new();
            return link.send_header(Gone { route, code, text }.into());
        };
        let far = self.next;
        self.next += 2;
        let end = |link: &Arc<Link>, route, way| End {
            link: Arc::downgrade(link),
            route,
            way,
        };
        let (there, back) = (end(&to, far, Way::There), end(link, route, Way::Back));
        self.ends.insert((link.serial(), route), there);
        self.ends.insert((to.serial(), far), back);
        let incoming = Incoming {
            route: far,
            service: service.to_owned(),
            user: "bob".to_owned(),
            machine: from.0,
        };
        let passing = self.passes(Way::There, payload, Some(incoming));
        let first = passing
            .incoming
            .map_or_else(|| Data { route: far }.into(), RouteHeader::from);
        send(&to, first, far, passing.packets);
    }
}

fn send(link: &Arc<Link>, first: RouteHeader, route: u32, packets: Vec<Vec<u8>>) {
    let mut header = Some(first);
    let packets = packets.into_iter().map(|packet| {
        let header = header.take().unwrap_or_else(|| Data { route }.into());
        (header, Bytes::from(packet))
    });
    Parcel::send(link, packets.collect());
}

impl Router for Inner {
    fn routed(&self, link: &Arc<Link>, header: RouteHeader, payload: Bytes) {
        let mut state = self.0.lock().unwrap();
        match header {
            RouteHeader::Open(open) => state.open(link, open.route, &open.service, &payload),
            RouteHeader::Data(data) => {
                let Some(end) = state.ends.get(&(link.serial(), data.route)).cloned() else {
                    return;
                };
                let passing = state.passes(end.way, &payload, None);
                if let Some(to) = end.link.upgrade() {
                    let header = Data { route: end.route }.into();
                    send(&to, header, end.route, passing.packets);
                }
            }
            RouteHeader::Gone(gone) => {
                let code = Code::from_number(gone.code).unwrap_or(Code::Internal);
                state.seen.gone.push(code);
                let end = state.ends.remove(&(link.serial(), gone.route));
                let to = end.and_then(|end| Some((end.link.upgrade()?, end.route)));
                if let Some((to, route)) = to {
                    state.ends.remove(&(to.serial(), route));
                    to.send_header(Gone { route, ..gone }.into());
                }
            }
            RouteHeader::Graded(graded) => state.seen.graded.push(graded),
            _ => {}
        }
    }

    fn link_down(&self, _: &Arc<Link>, _: &LinkEnd) {}
}

/// Packets that go out once.
struct Parcel {
    packets: Mutex<Vec<(RouteHeader, Bytes)>>,
    source: Mutex<Option<SourceId>>,
}

impl Parcel {
    fn send(link: &Arc<Link>, packets: Vec<(RouteHeader, Bytes)>) {
        let parcel = Arc::new(Self {
            packets: Mutex::new(packets),
            source: Mutex::default(),
        });
        let source = link.attach_source(parcel.clone());
        *parcel.source.lock().unwrap() = Some(source);
        link.wake(source);
    }
}

impl RouteSource for Parcel {
    fn pull(&self, link: &Link, out: &mut Outgoing) -> bool {
        for (header, payload) in std::mem::take(&mut *self.packets.lock().unwrap()) {
            out.push_routed(&header, payload);
        }
        if let Some(source) = self.source.lock().unwrap().take() {
            link.detach_source(source);
        }
        false
    }
}
