//! A local UDP address that leads to a service: each client has a flow of its own.

mod flows;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use underpass_endpoint::flow::{Arrived, Flow, FlowEnd, FlowSettings, Outside};

use super::{Connector, Sources, with_code};
pub(crate) use flows::Flows;

/// Datagrams of one client that wait while its channel is opened; more are dropped.
pub(crate) const WAITING: usize = 64;
/// A service that was refused is not asked for again by the same client within this.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the system refused to give a datagram.
const FAULT_PAUSE: Duration = Duration::from_millis(100);
/// The largest datagram, in bytes.
const LARGEST: usize = 65_535;

/// How many flows there may be, and how each is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// How each is kept.
    pub settings: FlowSettings,
    /// How many there may be at once: of one local address, or of all that is published.
    pub most: usize,
}

impl Default for FlowLimits {
    /// A thousand, as a small address translator has for one machine.
    fn default() -> Self {
        Self {
            settings: FlowSettings::default(),
            most: 1024,
        }
    }
}

/// The clients of one local address.
struct Clients {
    service: String,
    connector: Connector,
    socket: Arc<UdpSocket>,
    settings: FlowSettings,
    flows: Mutex<Flows<SocketAddr, mpsc::Sender<Arrived>>>,
}

/// Takes datagrams for ever, those of each client to a flow of its own.
pub(super) async fn serve(
    socket: UdpSocket,
    service: String,
    sources: &Sources,
    limits: FlowLimits,
    connector: Connector,
) {
    let clients = Arc::new(Clients {
        service,
        connector,
        socket: Arc::new(socket),
        settings: limits.settings,
        flows: Mutex::new(Flows::new(limits.most)),
    });
    loop {
        match next(&clients.socket).await {
            Ok((data, from)) if sources.admit(from.ip()) => clients.take(data, from),
            Ok((_, from)) => {
                tracing::debug!(%from, "{}: a datagram from there is not taken", clients.service);
            }
            Err(error) => {
                tracing::warn!("{}: cannot take a datagram: {error}", clients.service);
                tokio::time::sleep(FAULT_PAUSE).await;
            }
        }
    }
}

/// The next datagram, and where it came from.
pub(crate) async fn next(socket: &UdpSocket) -> io::Result<(Bytes, SocketAddr)> {
    loop {
        socket.readable().await?;
        // On the stack, so that nothing is held while nothing comes.
        let mut room = [0; LARGEST];
        match socket.try_recv_from(&mut room) {
            Ok((length, from)) => return Ok((Bytes::copy_from_slice(&room[..length]), from)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

impl Clients {
    fn take(self: &Arc<Self>, data: Bytes, from: SocketAddr) {
        let now = Instant::now();
        let arrived = Arrived::now(data);
        let mut flows = self.flows();
        let arrived = match flows.used(&from, now) {
            None => arrived,
            Some(flow) => match flow.try_send(arrived) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::trace!(%from, "{}: a datagram is dropped", self.service);
                    return;
                }
                // It has just ended.
                Err(mpsc::error::TrySendError::Closed(arrived)) => arrived,
            },
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        // There is room for one.
        let _ = sender.try_send(arrived);
        match flows.begin(from, sender, now) {
            Some(number) => {
                let client = Client {
                    arrived: receiver,
                    socket: Arc::clone(&self.socket),
                    address: from,
                };
                tokio::spawn(Arc::clone(self).carry(client, number));
            }
            None => tracing::warn!(%from, "{}: too many clients at once", self.service),
        }
    }

    async fn carry(self: Arc<Self>, mut client: Client, number: u64) {
        let from = client.address;
        carry(
            &self.connector,
            &self.service,
            self.settings,
            &mut client,
            &from,
        )
        .await;
        self.flows().end(&from, number);
    }

    fn flows(&self) -> MutexGuard<'_, Flows<SocketAddr, mpsc::Sender<Arrived>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries the datagrams of one client of `service`, called `who` in the log, until their flow is over. What is
/// refused is held for a moment: whoever goes on sending must not have us ask the relay each time.
pub(crate) async fn carry(
    connector: &Connector,
    service: &str,
    settings: FlowSettings,
    outside: &mut impl Outside,
    who: &impl fmt::Display,
) {
    let channel = match connector.open_datagrams(service).await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::warn!(%who, "{service}: {}", with_code(&error, error.code()));
            return tokio::time::sleep(REFUSED_PAUSE).await;
        }
    };
    let mut flow = Flow::new(channel, settings);
    let end = flow.carry(outside).await;
    let report = flow.end(&end);
    match end {
        FlowEnd::Over => tracing::debug!(%who, %report, "{service}: done"),
        FlowEnd::Unreachable(error) => {
            tracing::info!(%who, %report, "{service}: the client is gone: {error}");
        }
        FlowEnd::Channel(error) => {
            connector.forget(service);
            tracing::info!(%who, %report, "{service}: {}", with_code(&error, error.code()));
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}

/// One client of a local address.
struct Client {
    arrived: mpsc::Receiver<Arrived>,
    socket: Arc<UdpSocket>,
    address: SocketAddr,
}

impl Outside for Client {
    async fn next(&mut self) -> io::Result<Option<Arrived>> {
        Ok(self.arrived.recv().await)
    }

    async fn give(&mut self, data: Bytes) -> io::Result<()> {
        self.socket.send_to(&data, self.address).await.map(drop)
    }
}
