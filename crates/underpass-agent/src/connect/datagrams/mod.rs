//! A local UDP address that leads to a service: each client has a flow of its own.

mod flows;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use underpass_endpoint::flow::{Arrived, Flow, FlowEnd, FlowSettings, Outside};

use super::listen::Told;
use super::{Connector, Wanted, with_code};
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
    connector: Connector,
    socket: Arc<UdpSocket>,
    settings: FlowSettings,
    flows: Mutex<Flows<SocketAddr, mpsc::Sender<Arrived>>>,
    /// Whenever one of them ends.
    ended: Notify,
}

/// Takes datagrams, those of each client to a flow of its own, for what it is `told` at each moment. Flows that there are
/// go on as they began; without them it ends once it is to go.
pub(super) async fn serve(
    socket: UdpSocket,
    mut told: Told,
    limits: FlowLimits,
    connector: Connector,
) {
    let clients = Arc::new(Clients {
        connector,
        socket: Arc::new(socket),
        settings: limits.settings,
        flows: Mutex::new(Flows::new(limits.most)),
        ended: Notify::new(),
    });
    loop {
        let wanted = told.borrow_and_update().clone();
        if wanted.is_none() && clients.flows().is_empty() {
            return;
        }
        tokio::select! {
            taken = next(&clients.socket) => match taken {
                Ok((data, from)) => clients.take(data, from, wanted.as_deref()),
                Err(error) => {
                    tracing::warn!("cannot take a datagram: {error}");
                    tokio::time::sleep(FAULT_PAUSE).await;
                }
            },
            changed = told.changed() => if changed.is_err() { return },
            () = clients.ended.notified() => {}
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
    fn take(self: &Arc<Self>, data: Bytes, from: SocketAddr, wanted: Option<&Wanted>) {
        let now = Instant::now();
        let arrived = Arrived::now(data);
        let mut flows = self.flows();
        let arrived = match flows.used(&from, now) {
            None => arrived,
            Some(flow) => match flow.try_send(arrived) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::trace!(%from, "a datagram is dropped");
                    return;
                }
                // It has just ended.
                Err(mpsc::error::TrySendError::Closed(arrived)) => arrived,
            },
        };
        let Some(wanted) = wanted.filter(|it| it.sources.admit(from.ip())) else {
            tracing::debug!(%from, "a datagram from there is not taken");
            return;
        };
        let service = wanted.service.clone();
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
                tokio::spawn(Arc::clone(self).carry(service, client, number));
            }
            None => tracing::warn!(%from, "{service}: too many clients at once"),
        }
    }

    async fn carry(self: Arc<Self>, service: String, mut client: Client, number: u64) {
        let from = client.address;
        let (connector, settings) = (&self.connector, self.settings);
        carry(connector, &service, settings, &mut client, &from).await;
        self.flows().end(&from, number);
        self.ended.notify_one();
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
