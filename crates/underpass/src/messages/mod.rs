//! Whole messages over a channel.

mod framing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use underpass_endpoint::{ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::Code as Reason;

use crate::datagrams::within;
use crate::error::{Error, Result};
use framing::{Assembly, HEADER, TooLarge};

/// Bytes of messages that may wait to be sent; one that is larger waits alone.
const QUEUE: u32 = 1 << 20;
/// Up to so many bytes a message is copied behind its header, which saves a record.
const SMALL: usize = 16 << 10;

/// Whole messages both ways, of up to a bound, in order, each exactly once, whatever happens to the path.
///
/// All methods take `&self`: one task may send while others receive. Dropping it breaks the connection off, unless
/// [`finish`](Messages::finish) was called.
///
/// In the stream each message stands behind its length, an unsigned number of four bytes, the most significant one first;
/// so the other side may also be a program that knows nothing of this crate, behind `underpass publish`.
#[derive(Debug)]
pub struct Messages {
    orders: mpsc::UnboundedSender<Order>,
    room: Arc<Semaphore>,
    broken: Arc<OnceLock<Error>>,
    finishing: AtomicBool,
    sending: JoinHandle<()>,
    receiving: Mutex<Receiving>,
    max: u32,
}

/// What the sending task is to do next.
#[derive(Debug)]
enum Order {
    Send([u8; HEADER], Bytes, OwnedSemaphorePermit),
    /// Says when all before it was taken.
    Flush(oneshot::Sender<()>),
    Finish(oneshot::Sender<()>),
}

impl Messages {
    /// The bound on messages that are received, in bytes, if no other is given: 64 MiB.
    pub const DEFAULT_MAX: u32 = 64 << 20;

    pub(crate) fn new(reader: ChannelReader, writer: ChannelWriter, max: u32) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(QUEUE as usize));
        let broken = Arc::new(OnceLock::new());
        let sending = send_all(writer, queue, Arc::clone(&room), Arc::clone(&broken));
        Self {
            orders,
            room,
            broken,
            finishing: AtomicBool::new(false),
            sending: tokio::spawn(sending),
            receiving: Mutex::new(Receiving {
                reader,
                assembly: Assembly::new(max),
                ended: None,
            }),
            max,
        }
    }

    /// The largest message that is received, in bytes. The largest that can be sent is for the other side to say.
    #[must_use]
    pub fn max_message(&self) -> u32 {
        self.max
    }

    /// Sends a message; waits while 1 MiB of earlier ones still waits to be sent. It goes its way from then on, whatever
    /// happens to the path; what the other side thinks of it shows with a later call.
    ///
    /// Cancel safe: if the future is dropped before it is done, the message is not sent.
    ///
    /// # Errors
    /// The other side takes no more, or has said that an earlier message was too large
    /// ([`Code::MESSAGE_TOO_LARGE`](crate::Code::MESSAGE_TOO_LARGE)), or the channel broke off, or was finished before.
    pub async fn send_data(&self, message: impl Into<Bytes>) -> Result<()> {
        let message = message.into();
        let too_large = |TooLarge| Error::message(Reason::MessageTooLarge);
        let header = framing::header(&message).map_err(too_large)?;
        let length = u32::from_be_bytes(header).saturating_add(HEADER as u32);
        let room = Arc::clone(&self.room).acquire_many_owned(length.min(QUEUE));
        let room = room.await.map_err(|_| self.end())?;
        // No other await from here on: what is queued is sent.
        self.order(Order::Send(header, message, room))
    }

    /// The next message, waited for up to `limit`, or without limit for `None`. `Ok(None)` once the other side has
    /// finished, or ended its direction in any other orderly way.
    ///
    /// Cancel safe: a message that was not returned, or came in part, is returned by a later call. Several tasks may wait
    /// at once; each message goes to one of them.
    ///
    /// # Errors
    /// [`Code::NO_MESSAGE`](crate::Code::NO_MESSAGE) when none came in time, and nothing is lost by that. Anything else
    /// when the channel broke off, or a message is larger than the bound; then no more will come.
    pub async fn get_data(&self, limit: impl Into<Option<Duration>>) -> Result<Option<Bytes>> {
        let next = async { self.receiving.lock().await.next().await };
        within(limit.into(), next).await
    }

    /// Waits until everything that was sent is on its way: no longer here, but kept by the session until the other side
    /// has it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As for [`send_data`](Self::send_data).
    pub async fn flush(&self) -> Result<()> {
        let (done, flushed) = oneshot::channel();
        self.order(Order::Flush(done))?;
        flushed.await.map_err(|_| self.end())
    }

    /// Ends this direction behind everything that was sent: the other side gets `None` after it. Messages can still be
    /// received. Done once all is on its way, as for [`flush`](Self::flush); that the other side has it is certain when it
    /// finishes too, and [`get_data`](Self::get_data) gives `None`.
    ///
    /// Cancel safe: once begun it goes on by itself.
    ///
    /// # Errors
    /// As for [`send_data`](Self::send_data).
    pub async fn finish(&self) -> Result<()> {
        let (done, finished) = oneshot::channel();
        self.order(Order::Finish(done))?;
        self.finishing.store(true, Ordering::Relaxed);
        finished.await.map_err(|_| self.end())
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| self.end())
    }

    /// Why nothing is sent any more.
    fn end(&self) -> Error {
        let broken = self.broken.get().cloned();
        broken.unwrap_or_else(|| Error::channel(&ChannelError::Closed))
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        if !*self.finishing.get_mut() {
            self.sending.abort();
        }
    }
}

/// Sends what it is told to, until it is told to finish or cannot any more.
async fn send_all(
    mut writer: ChannelWriter,
    mut queue: mpsc::UnboundedReceiver<Order>,
    room: Arc<Semaphore>,
    broken: Arc<OnceLock<Error>>,
) {
    let mut last = None;
    let outcome = loop {
        let Some(order) = queue.recv().await else {
            break Ok(());
        };
        let sent = match order {
            Order::Send(header, message, _room) => send(&mut writer, header, message).await,
            Order::Flush(done) => {
                // Whoever asked may have given up.
                let _ = done.send(());
                Ok(())
            }
            Order::Finish(done) => {
                last = Some(done);
                break writer.finish().await;
            }
        };
        if sent.is_err() {
            break sent;
        }
    };
    if let Err(error) = &outcome {
        // Nobody else sets it.
        let _ = broken.set(Error::channel(error));
    }
    room.close();
    // Those who wait learn of the end by their orders being dropped, and then find the reason.
    if let (Ok(()), Some(done)) = (outcome, last) {
        let _ = done.send(());
    }
}

async fn send(
    writer: &mut ChannelWriter,
    header: [u8; HEADER],
    message: Bytes,
) -> Result<(), ChannelError> {
    if message.len() <= SMALL {
        return writer.write_chunk(framing::whole(header, &message)).await;
    }
    writer.write_chunk(Bytes::copy_from_slice(&header)).await?;
    writer.write_chunk(message).await
}

#[derive(Debug)]
struct Receiving {
    reader: ChannelReader,
    assembly: Assembly,
    /// How it ended, if it did.
    ended: Option<Result<()>>,
}

impl Receiving {
    /// Cancel safe: it waits only for bytes, which are kept as soon as they are here.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(ended) = &self.ended {
                return ended.clone().map(|()| None);
            }
            match self.assembly.next() {
                Ok(None) => {}
                Ok(message) => return Ok(message),
                Err(TooLarge) => {
                    self.reader.stop(Reason::MessageTooLarge);
                    self.ended = Some(Err(Error::message(Reason::MessageTooLarge)));
                    continue;
                }
            }
            match self.reader.read_chunk().await {
                Ok(Some(bytes)) => self.assembly.push(&bytes),
                Ok(None) if self.assembly.is_between_messages() => self.ended = Some(Ok(())),
                Ok(None) => self.ended = Some(Err(Error::cut_short())),
                Err(error) => self.ended = Some(Err(Error::channel(&error))),
            }
        }
    }
}
