//! Joins a channel of datagrams and a UDP socket.
//!
//! A flow has no end of its own: it is over when nothing has passed for a while, at whichever side notices first.
//! What was lost or came too late is not sent again; each side drops what it could not pass on in time.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use underpass_proto::code::Code;

use crate::channel::{Channel, ChannelError, ChannelReader, ChannelWriter};

/// The largest datagram that UDP has room for, in bytes (RFC 768; over IPv6 without its headers).
const LARGEST: usize = 65_535;

/// So often in a row the system may refuse a datagram before the flow is given up.
const MOST_FAULTS: u32 = 64;

/// How flows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSettings {
    /// A flow ends when nothing has passed for so long.
    pub idle: Duration,
    /// What could not be sent within this is too late, and is dropped.
    pub late: Duration,
}

impl Default for FlowSettings {
    /// Two minutes without a datagram, below which no address translator may forget one either (RFC 4787,
    /// REQ-5); and one second, after which whoever still waits has asked again.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(120),
            late: Duration::from_secs(1),
        }
    }
}

/// A datagram on its way to the channel.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// What is in it.
    pub data: Bytes,
    /// Since when it has been here.
    pub at: Instant,
}

impl Arrived {
    /// One that has just come.
    #[must_use]
    pub fn now(data: Bytes) -> Self {
        let at = Instant::now();
        Self { data, at }
    }
}

/// The end of a flow at which programs are.
pub trait Outside: Send {
    /// The next datagram for the channel; `None` when there will be no more. Cancel safe.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<Arrived>>> + Send;

    /// Passes on one that came by the channel.
    fn give(&mut self, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}

impl Outside for UdpSocket {
    async fn next(&mut self) -> io::Result<Option<Arrived>> {
        loop {
            let ready = self.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                take_error(self)?;
            }
            // On the stack, so that a flow which waits holds no memory.
            let mut room = [0; LARGEST];
            match self.try_recv(&mut room) {
                Ok(length) => {
                    return Ok(Some(Arrived::now(Bytes::copy_from_slice(&room[..length]))));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn give(&mut self, data: Bytes) -> io::Result<()> {
        self.send(&data).await.map(drop)
    }
}

/// What the network said about a datagram that was sent: it wakes nobody who waits for datagrams alone.
fn take_error(socket: &UdpSocket) -> io::Result<()> {
    // Nothing left is what has the next call wait.
    let left = || io::Error::from(io::ErrorKind::WouldBlock);
    let taken = socket.try_io(Interest::ERROR, || -> io::Result<()> {
        Err(socket.take_error()?.unwrap_or_else(left))
    });
    match taken {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// What passed through a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Datagrams handed to the channel.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Datagrams that came by the channel and were passed on.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Those that were dropped here: too late, too large, or refused by the system.
    pub dropped: u64,
}

impl std::fmt::Display for FlowReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            sent,
            sent_bytes,
            received,
            received_bytes,
            dropped,
        } = self;
        write!(
            f,
            "{sent} sent ({sent_bytes} bytes), {received} received ({received_bytes} bytes), {dropped} dropped"
        )
    }
}

/// How a flow came to an end.
#[derive(Debug)]
pub enum FlowEnd {
    /// Nothing has passed for a while, or one side wants no more.
    Over,
    /// The host at this side does not take datagrams: what its network says.
    Unreachable(io::Error),
    /// The channel ended, and why.
    Channel(ChannelError),
}

impl FlowEnd {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            FlowEnd::Over => Code::NoError,
            FlowEnd::Unreachable(error) => Code::of_io(error.kind()),
            FlowEnd::Channel(error) => error.code(),
        }
    }
}

/// One flow, at either side of the channel.
#[derive(Debug)]
pub struct Flow {
    reader: ChannelReader,
    writer: ChannelWriter,
    settings: FlowSettings,
    report: FlowReport,
    /// When something passed last.
    last: Instant,
    /// How often in a row the system would not have a datagram.
    faults: u32,
}

impl Flow {
    /// A flow through `channel`, which must be of datagrams.
    #[must_use]
    pub fn new(channel: Channel, settings: FlowSettings) -> Self {
        let (reader, writer) = channel.into_split();
        Self {
            reader,
            writer,
            settings,
            report: FlowReport::default(),
            last: Instant::now(),
            faults: 0,
        }
    }

    /// What has passed by now.
    #[must_use]
    pub fn report(&self) -> FlowReport {
        self.report
    }

    /// Carries datagrams both ways until the flow is over. Cancel safe, except for one datagram: the flow may be
    /// carried on, with another outside.
    pub async fn carry(&mut self, outside: &mut impl Outside) -> FlowEnd {
        let idle = tokio::time::sleep_until(self.last + self.settings.idle);
        tokio::pin!(idle);
        loop {
            let outcome = tokio::select! {
                next = outside.next() => match next {
                    Ok(Some(arrived)) => self.send(arrived),
                    Ok(None) => return FlowEnd::Over,
                    Err(error) => self.failed(error),
                },
                chunk = self.reader.read_chunk() => match chunk {
                    Ok(Some(data)) => self.pass_on(outside, data).await,
                    Ok(None) => return FlowEnd::Over,
                    Err(error) if error.code() == Code::NoError => return FlowEnd::Over,
                    Err(error) => Err(FlowEnd::Channel(error)),
                },
                () = &mut idle => {
                    let due = self.last + self.settings.idle;
                    if due <= Instant::now() {
                        return FlowEnd::Over;
                    }
                    idle.as_mut().reset(due);
                    Ok(())
                }
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    fn send(&mut self, arrived: Arrived) -> Result<(), FlowEnd> {
        let Arrived { data, at } = arrived;
        self.last = Instant::now();
        let deadline = at + self.settings.late;
        if deadline < self.last || data.len() > self.writer.max_datagram() {
            self.report.dropped += 1;
            return Ok(());
        }
        let length = data.len() as u64;
        match self.writer.send_datagram(data, deadline) {
            Ok(()) => {
                self.report.sent += 1;
                self.report.sent_bytes += length;
                self.faults = 0;
                Ok(())
            }
            // Why is for the other direction to say, which ends with this one.
            Err(ChannelError::Stopped(_) | ChannelError::Closed) => Ok(()),
            Err(error) => Err(FlowEnd::Channel(error)),
        }
    }

    async fn pass_on(&mut self, outside: &mut impl Outside, data: Bytes) -> Result<(), FlowEnd> {
        self.last = Instant::now();
        let length = data.len() as u64;
        match outside.give(data).await {
            Ok(()) => {
                self.report.received += 1;
                self.report.received_bytes += length;
                self.faults = 0;
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    /// What the system says of one datagram ends the flow only where it says that nobody is there, or says it again
    /// and again.
    fn failed(&mut self, error: io::Error) -> Result<(), FlowEnd> {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        self.report.dropped += 1;
        self.faults += 1;
        match error.kind() {
            ConnectionRefused | HostUnreachable | NetworkUnreachable => {
                Err(FlowEnd::Unreachable(error))
            }
            _ if self.faults > MOST_FAULTS => Err(FlowEnd::Unreachable(error)),
            _ => {
                tracing::debug!("a datagram was dropped: {error}");
                Ok(())
            }
        }
    }

    /// Ends it, and tells the peer how.
    pub fn end(mut self, end: &FlowEnd) -> FlowReport {
        let code = end.code();
        // There are no bytes that an orderly end could come after.
        self.writer.reset(code);
        self.reader.stop(code);
        self.report
    }
}
