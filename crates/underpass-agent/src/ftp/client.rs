//! The client's side of FTP: listeners in the place of the server's, connections in its place to the client.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use underpass_endpoint::Channel;
use underpass_endpoint::splice::{SpliceReport, end_by_reset, reset, splice};
use underpass_proto::Code;

use super::converse::{self, End, Out};
use super::near::{Near, Step};
use super::speech::Passive;
use super::{Asked, DATA_LIMIT, Garbled};
use crate::connect::{Connector, OpenError, with_code};

/// Where data connections of clients are waited for just now.
#[derive(Debug, Default, Clone)]
pub(crate) struct Expected(Arc<Mutex<HashSet<SocketAddr>>>);

impl Expected {
    /// Whether one is waited for there.
    pub(crate) fn contains(&self, at: SocketAddr) -> bool {
        self.places().contains(&at)
    }

    fn add(&self, at: SocketAddr) -> Place {
        self.places().insert(at);
        Place(self.clone(), at)
    }

    fn places(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in [`Expected`], until dropped.
struct Place(Expected, SocketAddr);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places().remove(&self.1);
    }
}

/// A task that is given up when this is dropped.
struct Pending(AbortHandle);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn pending(task: impl Future<Output = ()> + Send + 'static) -> Pending {
    Pending(tokio::spawn(task).abort_handle())
}

/// Carries one client's control connection, and the data connections that it announces.
pub(crate) struct Door {
    connector: Connector,
    service: String,
    client: IpAddr,
    /// Where the client reached us, and will reach us for data.
    local: IpAddr,
    near: Near,
    /// The data connection that was announced last, in either direction: each takes the place of the one before.
    awaited: Option<Pending>,
}

impl Door {
    /// For the client at the other end of `tcp`.
    pub(crate) fn new(connector: Connector, service: &str, tcp: &TcpStream) -> io::Result<Self> {
        let client = tcp.peer_addr()?.ip();
        Ok(Self {
            connector,
            service: service.to_owned(),
            client,
            local: tcp.local_addr()?.ip(),
            near: Near::new(client),
            awaited: None,
        })
    }

    /// Carries the control connection until both sides have ended it.
    pub(crate) async fn carry(mut self, channel: Channel, tcp: TcpStream) -> SpliceReport {
        converse::carry(&mut self, channel, tcp, std::future::pending()).await
    }

    fn take_all(&mut self, steps: Vec<Step>, out: &mut Out) {
        for step in steps {
            match step {
                Step::ToServer(line) => out.channel.extend_from_slice(&line),
                step => {
                    let told = self.take(step);
                    out.tcp.extend_from_slice(&told.unwrap_or_default());
                }
            }
        }
    }

    /// Takes a step on this side; what the client is told.
    fn take(&mut self, step: Step) -> Option<Bytes> {
        let refused =
            |code: Code| tracing::warn!(client = %self.client, "{}: {code}", self.service);
        match step {
            Step::ToClient(line) => return Some(line),
            Step::Listen(passive) => return Some(self.listen(passive)),
            Step::Await(at) => self.await_server(at),
            Step::RefusedTls => refused(Code::FtpTls),
            Step::RefusedAddress => refused(Code::FtpAddress),
            Step::ToServer(_) => {}
        }
        None
    }

    /// Listens in the server's place; the reply that says where.
    fn listen(&mut self, passive: Passive) -> Bytes {
        // What was announced before is not waited for any more.
        self.awaited = None;
        let listener = underpass_carrier::listen((self.local, 0).into());
        let listening = listener.and_then(|it| Ok((it.local_addr()?, it)));
        match listening {
            Ok((at, listener)) => {
                let place = self.connector.expected().add(at);
                let client = self.client;
                let data = self.data();
                self.awaited = Some(pending(async move {
                    let taken = take_from(&listener, client).await;
                    drop((listener, place));
                    if let Some(tcp) = taken {
                        // Its own task: it lasts beyond what is announced next.
                        tokio::spawn(data.take_client(tcp, passive.port));
                    }
                }));
                passive.leading_to(at)
            }
            Err(error) => {
                tracing::warn!("{}: cannot listen for data: {error}", self.service);
                Bytes::from_static(b"425 the agent cannot listen for the data connection\r\n")
            }
        }
    }

    /// Awaits the server's connection to where the client listens.
    fn await_server(&mut self, at: SocketAddr) {
        let data = self.data();
        self.awaited = Some(pending(async move {
            let opened = data.open(|service| Asked::Active { service, at });
            if let Ok(Some(channel)) = tokio::time::timeout(DATA_LIMIT, opened).await {
                tokio::spawn(data.reach_client(channel, at));
            }
        }));
    }

    fn data(&self) -> Data {
        Data {
            connector: self.connector.clone(),
            service: self.service.clone(),
        }
    }
}

impl End for Door {
    fn tcp_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled> {
        let mut steps = Vec::new();
        self.near.client_says(bytes, &mut steps)?;
        self.take_all(steps, out);
        Ok(())
    }

    fn channel_says(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), Garbled> {
        let mut steps = Vec::new();
        self.near.server_says(bytes, &mut steps)?;
        self.take_all(steps, out);
        Ok(())
    }

    fn tcp_ends(&mut self) -> Bytes {
        self.near.client_ends()
    }

    fn channel_ends(&mut self) -> Bytes {
        self.near.server_ends()
    }
}

/// Makes data connections of one service.
struct Data {
    connector: Connector,
    service: String,
}

impl Data {
    async fn open(&self, asked: impl Fn(String) -> Asked) -> Option<Channel> {
        let opened = self.connector.open_ftp(&self.service, asked).await;
        let failed = |error: &OpenError| {
            let why = with_code(error, error.code());
            tracing::warn!("{}: a data connection: {why}", self.service);
        };
        opened.inspect_err(failed).ok()
    }

    /// The client has connected, where the server's port was announced to it.
    async fn take_client(self, tcp: TcpStream, port: u16) {
        end_by_reset(&tcp);
        match self.open(|service| Asked::Passive { service, port }).await {
            Some(channel) => self.join(channel, tcp).await,
            None => reset(tcp),
        }
    }

    /// The server has connected, and the client listens.
    async fn reach_client(self, channel: Channel, at: SocketAddr) {
        match tokio::time::timeout(DATA_LIMIT, TcpStream::connect(at)).await {
            Ok(Ok(tcp)) => self.join(channel, tcp).await,
            // The channel is dropped, which resets it.
            Ok(Err(error)) => tracing::warn!("{}: no data to {at}: {error}", self.service),
            Err(_) => tracing::warn!("{}: no data to {at}: no answer", self.service),
        }
    }

    async fn join(&self, channel: Channel, tcp: TcpStream) {
        let report = splice(channel, tcp).await;
        let (sent, received) = (report.sent, report.received);
        match report.error {
            None => tracing::debug!(sent, received, "{}: data passed", self.service),
            Some(error) => {
                tracing::info!(sent, received, "{}: data broken off: {error}", self.service);
            }
        }
    }
}

/// The first connection from `only`, if one comes in time; others are reset.
pub(super) async fn take_from(listener: &TcpListener, only: IpAddr) -> Option<TcpStream> {
    let only = only.to_canonical();
    let taking = async {
        loop {
            match listener.accept().await {
                Ok((tcp, from)) if from.ip().to_canonical() == only => return Some(tcp),
                Ok((tcp, from)) => {
                    tracing::warn!(%from, "a data connection of FTP that is {only}'s to make is reset");
                    reset(tcp);
                }
                Err(error) => {
                    tracing::warn!("cannot take a data connection: {error}");
                    return None;
                }
            }
        }
    };
    tokio::time::timeout(DATA_LIMIT, taking)
        .await
        .ok()
        .flatten()
}
