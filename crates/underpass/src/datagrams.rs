//! A flow of datagrams to or from a service.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use underpass_endpoint::{Channel, ChannelReader, ChannelWriter};
use underpass_proto::Code as Reason;

use crate::error::{Error, Result};

/// A flow of datagrams both ways, for what is of no use when it comes late: nothing is sent again, each arrives whole or
/// not at all, and the order may change. It ends when either side drops it.
#[derive(Debug)]
pub struct Datagrams {
    reader: tokio::sync::Mutex<ChannelReader>,
    writer: Mutex<ChannelWriter>,
}

impl Datagrams {
    pub(crate) fn new(channel: Channel) -> Self {
        let (reader, writer) = channel.into_split();
        Self {
            reader: tokio::sync::Mutex::new(reader),
            writer: Mutex::new(writer),
        }
    }

    /// The largest datagram that can be sent, in bytes: as large as over UDP, or what the other side takes.
    #[must_use]
    pub fn max_size(&self) -> usize {
        self.with_writer(|writer| writer.max_datagram())
    }

    /// Sends one datagram, and never waits. It is dropped if it still waits for the path after `late`, and where too many
    /// wait, the oldest ones are.
    ///
    /// # Errors
    /// It is larger than [`max_size`](Self::max_size), or the flow has ended.
    pub fn send_data(&self, data: impl Into<Bytes>, late: Duration) -> Result<()> {
        let data = data.into();
        self.with_writer(|writer| {
            if data.len() > writer.max_datagram() {
                return Err(Error::message(Reason::MessageTooLarge));
            }
            // A deadline that no clock reaches is none.
            let far = Duration::from_secs(86_400);
            let sent = writer.send_datagram(data, Instant::now() + late.min(far));
            sent.map_err(|error| Error::channel(&error))
        })
    }

    /// The next datagram, waited for up to `limit`, or without limit for `None`. `Ok(None)` once the other side has ended
    /// the flow.
    ///
    /// Cancel safe: a datagram that was not returned is returned by the next call. Several tasks may wait at once; each
    /// datagram goes to one of them.
    ///
    /// # Errors
    /// [`Code::NO_MESSAGE`](crate::Code::NO_MESSAGE) when none came in time; anything else when the flow broke off.
    pub async fn get_data(&self, limit: impl Into<Option<Duration>>) -> Result<Option<Bytes>> {
        let next = async {
            let read = self.reader.lock().await.read_chunk().await;
            match read {
                // There are no bytes that an end could cut off: whoever drops a flow ends it.
                Err(error) if [Reason::NoError, Reason::Cancelled].contains(&error.code()) => {
                    Ok(None)
                }
                read => read.map_err(|error| Error::channel(&error)),
            }
        };
        within(limit.into(), next).await
    }

    fn with_writer<R>(&self, use_it: impl FnOnce(&mut ChannelWriter) -> R) -> R {
        use_it(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.with_writer(|writer| writer.reset(Reason::NoError));
        self.reader.get_mut().stop(Reason::NoError);
    }
}

/// Waits for the next message or datagram, at most so long.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    next: impl Future<Output = Result<T>>,
) -> Result<T> {
    match limit {
        None => next.await,
        Some(limit) => match tokio::time::timeout(limit, next).await {
            Ok(next) => next,
            Err(_) => Err(Error::message(Reason::NoMessage)),
        },
    }
}
