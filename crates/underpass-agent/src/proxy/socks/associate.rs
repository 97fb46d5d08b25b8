//! Datagrams of a client of SOCKS 5 (UDP ASSOCIATE, RFC 1928 sections 4 and 7).
//!
//! They come to a socket that lasts as long as the client's connection, from the one port that the client sends
//! from. Each host that it names has a flow of its own. Only services are reached: what passes outside is for TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use underpass_endpoint::dial::keep_bursts;
use underpass_endpoint::flow::{Arrived, Outside};
use underpass_endpoint::splice::end_in_order;

use super::wire;
use crate::connect::datagrams::{self, Flows, WAITING};
use crate::proxy::Shared;
use crate::proxy::target::{Asked, Leads};

/// Hosts that one client sends to at once.
const MOST_HOSTS: usize = 256;

/// One client, and what it sends to.
struct Association {
    shared: Arc<Shared>,
    socket: UdpSocket,
    /// Where it sends from, once that is known.
    client: Mutex<Option<SocketAddr>>,
    flows: Mutex<Flows<Arc<Asked>, mpsc::Sender<Arrived>>>,
}

/// Serves the datagrams of the client at the other end of `tcp`, which will send from `port`, or any (0), until it
/// closes that.
pub(super) async fn serve(shared: &Arc<Shared>, mut tcp: TcpStream, port: u16) -> io::Result<()> {
    let (local, peer) = (tcp.local_addr()?, tcp.peer_addr()?);
    let socket = UdpSocket::bind((local.ip(), 0)).await?;
    keep_bursts(&socket);
    let at = SocketAddr::new(local.ip().to_canonical(), socket.local_addr()?.port());
    let from = SocketAddr::new(peer.ip(), port);
    let association = Arc::new(Association {
        shared: Arc::clone(shared),
        socket,
        client: Mutex::new((port != 0).then_some(from)),
        flows: Mutex::new(Flows::new(MOST_HOSTS)),
    });
    tcp.write_all(&wire::answer(Ok(Some(at)))).await?;
    let mut flows = JoinSet::new();
    let mut room = [0; 64];
    loop {
        tokio::select! {
            // What it says on the connection means nothing; its end means all.
            read = tcp.read(&mut room) => if read? == 0 {
                end_in_order(&tcp);
                return Ok(());
            },
            next = datagrams::next(&association.socket) => {
                let (data, from) = next?;
                if association.is_client(from, peer)
                    && let Some(begun) = association.take(&data)
                {
                    flows.spawn(Arc::clone(&association).carry(begun));
                }
            }
            Some(_) = flows.join_next() => {}
        }
    }
}

/// A flow that has to be carried.
struct Begun {
    to: Arc<Asked>,
    service: String,
    number: u64,
    arrived: mpsc::Receiver<Arrived>,
}

impl Association {
    /// Whether what came from there is the client's: the first one that comes from its machine says which port is.
    fn is_client(&self, from: SocketAddr, peer: SocketAddr) -> bool {
        if from.ip() != peer.ip() {
            return false;
        }
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        *client.get_or_insert(from) == from
    }

    fn client(&self) -> Option<SocketAddr> {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one datagram; a flow that has to be carried, where it begins one.
    fn take(&self, bytes: &Bytes) -> Option<Begun> {
        let (to, data) = wire::datagram(bytes)?;
        let (to, now) = (Arc::new(to), Instant::now());
        let mut arrived = Arrived::now(data);
        let mut flows = self.flows();
        if let Some(flow) = flows.used(&to, now) {
            match flow.try_send(arrived) {
                Err(mpsc::error::TrySendError::Closed(left)) => arrived = left,
                // Where too many wait it is dropped.
                _ => return None,
            }
        }
        let service = match to.leads(&self.shared.suffix) {
            Leads::Service(service) => service,
            _ => {
                tracing::info!("datagrams to {to} are dropped: only services are reached by UDP");
                return None;
            }
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        // There is room for one.
        let _ = sender.try_send(arrived);
        let number = flows.begin(Arc::clone(&to), sender, now)?;
        Some(Begun {
            to,
            service,
            number,
            arrived: receiver,
        })
    }

    async fn carry(self: Arc<Self>, begun: Begun) {
        let Begun {
            to,
            service,
            number,
            arrived,
        } = begun;
        let mut side = Side {
            association: Arc::clone(&self),
            to: Arc::clone(&to),
            arrived,
        };
        let (connector, limits) = (&self.shared.connector, self.shared.limits);
        datagrams::carry(connector, &service, limits.settings, &mut side, &*to).await;
        self.flows().end(&to, number);
    }

    fn flows(&self) -> MutexGuard<'_, Flows<Arc<Asked>, mpsc::Sender<Arrived>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What passes between the client and one host.
struct Side {
    association: Arc<Association>,
    to: Arc<Asked>,
    arrived: mpsc::Receiver<Arrived>,
}

impl Outside for Side {
    async fn next(&mut self) -> io::Result<Option<Arrived>> {
        Ok(self.arrived.recv().await)
    }

    async fn give(&mut self, data: Bytes) -> io::Result<()> {
        let Some(client) = self.association.client() else {
            return Ok(());
        };
        let bytes = wire::datagram_from(&self.to, &data);
        self.association
            .socket
            .send_to(&bytes, client)
            .await
            .map(drop)
    }
}
