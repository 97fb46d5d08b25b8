//! Requests from an agent to its relay, on the control channel of the hop's session.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use underpass_proto::Speaker;
use underpass_proto::code::{self, Code};
use underpass_proto::control::{CONTROL_SERVICE, Control as Message, ControlDecoder};
use underpass_proto::frame::Class;
use underpass_proto::packet::SessionId;

use crate::attachment::{AttachError, Attachment};
use crate::channel::{ChannelError, ChannelReader, ChannelWriter};
use crate::session::{OpenOptions, Session};

/// The relay must answer a request within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How often an old channel looks whether somebody still waits for an answer on it.
const LOOK_AFTER: Duration = Duration::from_millis(100);
/// Messages that wait for an answer's reader, or for the reader of what the relay says unasked.
const QUEUE: usize = 64;

/// Why a request was not answered as wished.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// The relay said no.
    #[error("{text}")]
    Failed {
        /// From the table of codes.
        code: u64,
        /// In the relay's words.
        text: String,
    },
    /// The control channel broke; the request may or may not have been carried out.
    #[error("the connection to the relay was lost before the answer: {0}")]
    Lost(String),
    /// No answer came in time.
    #[error("the relay did not answer within {} s", ANSWER_LIMIT.as_secs())]
    TimedOut,
    /// The request is too long to be sent.
    #[error("{0}")]
    TooLong(String),
    /// There is no attachment any more.
    #[error("{0}")]
    Attach(#[from] AttachError),
}

impl ControlError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            ControlError::Failed { code, .. } => Code::from_number(*code).unwrap_or(Code::Internal),
            ControlError::Lost(_) => Code::GoingAway,
            ControlError::TimedOut => Code::TimedOut,
            ControlError::TooLong(_) => Code::NameInvalid,
            ControlError::Attach(error) => error.code(),
        }
    }
}

impl From<ChannelError> for ControlError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Reset(code) => ControlError::Failed {
                code,
                text: code::describe(code),
            },
            error => ControlError::Lost(error.to_string()),
        }
    }
}

/// Sends requests and hears what the relay says unasked. Clones share one control channel, which is
/// opened with the first request and again when the hop's session was made anew.
#[derive(Clone)]
pub struct Control {
    attachment: Attachment,
    shared: Arc<Shared>,
}

struct Shared {
    next: AtomicU64,
    open: Mutex<Option<Open>>,
    unasked: mpsc::Sender<Message>,
    unasked_reader: Mutex<mpsc::Receiver<Message>>,
    /// Counts how often the relay said that its group has changed.
    group: watch::Sender<u64>,
    /// Counts how often what the relay said about rights went out of date.
    rights: watch::Sender<u64>,
    /// Counts how often what the relay said about whom one can meet went out of date.
    meetings: watch::Sender<u64>,
}

type Waiting = Arc<std::sync::Mutex<HashMap<u64, mpsc::Sender<Message>>>>;

struct Open {
    session: SessionId,
    writer: ChannelWriter,
    waiting: Waiting,
    broken: oneshot::Receiver<String>,
}

impl Control {
    pub(crate) fn new(attachment: Attachment) -> Control {
        let (unasked, unasked_reader) = mpsc::channel(QUEUE);
        let control = Control {
            attachment,
            shared: Arc::new(Shared {
                next: AtomicU64::new(1),
                open: Mutex::new(None),
                unasked,
                unasked_reader: Mutex::new(unasked_reader),
                group: watch::Sender::new(0),
                rights: watch::Sender::new(0),
                meetings: watch::Sender::new(0),
            }),
        };
        tokio::spawn(control.clone().stay_open());
        control
    }

    /// Opens the channel again in every further session of the attachment: the relay says unasked what
    /// nobody may miss.
    async fn stay_open(self) {
        let mut session = self.attachment.session();
        while self.attachment.session_changed(&session).await {
            session = self.attachment.session();
            let mut open = self.shared.open.lock().await;
            if open
                .as_ref()
                .is_none_or(|open| open.session != session.id())
            {
                // A session that ends meanwhile is followed by another.
                *open = self.open(&session).await.ok();
            }
            drop(open);
            // What was said to the session before may not have been heard.
            self.rights_changed();
        }
    }

    /// Sends the request that `make` forms with its number, and returns the answer's messages: one,
    /// or as many as a list has.
    ///
    /// # Errors
    /// See [`ControlError`]; the relay's refusal is one of them.
    pub async fn request(
        &self,
        make: impl FnOnce(u64) -> Message,
    ) -> Result<Vec<Message>, ControlError> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answers) = mpsc::channel(QUEUE);
        let waiting = self.send(number, make(number), sender).await?;
        let collecting = async {
            let mut messages = Vec::new();
            loop {
                let Some(message) = answers.recv().await else {
                    return Err(ControlError::Lost("the control channel ended".into()));
                };
                if let Message::Failed(failed) = message {
                    return Err(ControlError::Failed {
                        code: failed.code,
                        text: failed.text,
                    });
                }
                let more = has_more(&message);
                messages.push(message);
                if !more {
                    return Ok(messages);
                }
            }
        };
        let outcome = tokio::time::timeout(ANSWER_LIMIT, collecting).await;
        lock(&waiting).remove(&number);
        outcome.unwrap_or(Err(ControlError::TimedOut))
    }

    async fn send(
        &self,
        number: u64,
        message: Message,
        sender: mpsc::Sender<Message>,
    ) -> Result<Waiting, ControlError> {
        let mut bytes = BytesMut::new();
        message
            .put_framed(&mut bytes)
            .map_err(|error| ControlError::TooLong(error.to_string()))?;
        let mut open = self.shared.open.lock().await;
        let session = self.attachment.session();
        let usable = open.as_mut().is_some_and(|open| {
            open.session == session.id() && open.broken.try_recv().is_err() && !session.is_closed()
        });
        if !usable {
            *open = Some(self.open(&session).await?);
        }
        let Some(channel) = open.as_mut() else {
            return Err(ControlError::Lost("no control channel".into()));
        };
        lock(&channel.waiting).insert(number, sender);
        channel.writer.write_chunk(bytes.freeze()).await?;
        Ok(channel.waiting.clone())
    }

    async fn open(&self, session: &Session) -> Result<Open, ControlError> {
        let options = OpenOptions {
            class: Class::Interactive,
            ..OpenOptions::default()
        };
        let channel = session.open(CONTROL_SERVICE, options).await?;
        let (reader, writer) = channel.into_split();
        let waiting = Waiting::default();
        let (tell, broken) = oneshot::channel();
        let (control, of, known) = (self.clone(), session.clone(), waiting.clone());
        tokio::spawn(async move {
            let reason = control.read_answers(reader, &known, &of).await;
            // Whoever still waits learns it by the end of its queue.
            lock(&known).clear();
            let _ = tell.send(reason);
            control.close(of.id()).await;
        });
        Ok(Open {
            session: session.id(),
            writer,
            waiting,
            broken,
        })
    }

    /// Takes answers until the channel ends, or until its session is not the attachment's any more and
    /// nobody waits for an answer on it. Why it ended.
    async fn read_answers(
        &self,
        mut reader: ChannelReader,
        waiting: &Waiting,
        session: &Session,
    ) -> String {
        let left = async {
            self.attachment.session_changed(session).await;
            while !lock(waiting).is_empty() {
                tokio::time::sleep(LOOK_AFTER).await;
            }
        };
        tokio::select! {
            reason = self.answers_until_end(&mut reader, waiting, session) => reason,
            () = left => "the attachment went on in another session".into(),
        }
    }

    /// Gives up the channel in the session of this name: an old session is over when nothing is open in it.
    async fn close(&self, session: SessionId) {
        let mut open = self.shared.open.lock().await;
        if let Some(mut channel) = open.take_if(|open| open.session == session) {
            // Where it fails, the channel is gone already.
            let _ = channel.writer.finish().await;
        }
    }

    async fn answers_until_end(
        &self,
        reader: &mut ChannelReader,
        waiting: &Waiting,
        session: &Session,
    ) -> String {
        let mut decoder = ControlDecoder::new(Speaker::Relay);
        loop {
            loop {
                match decoder.next() {
                    Ok(Some(message)) => self.take(message, waiting, session).await,
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
            match reader.read_chunk().await {
                Ok(Some(bytes)) => decoder.push(&bytes),
                Ok(None) => return "the relay closed the control channel".into(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// What the relay says unasked changes something here; anything else is for whoever waits for it.
    async fn take(&self, message: Message, waiting: &Waiting, session: &Session) {
        match message {
            Message::RightsChanged(_) => return self.rights_changed(),
            Message::GroupChanged(_) => {
                return self.shared.group.send_modify(|changes| *changes += 1);
            }
            Message::MeetingsChanged(_) => {
                return self.shared.meetings.send_modify(|changes| *changes += 1);
            }
            Message::Going(ref going) => {
                let after = Duration::from_millis(going.retry_after_ms);
                self.attachment.relay_is_going(session, after);
            }
            _ => {}
        }
        deliver(message, waiting, &self.shared.unasked).await;
    }

    /// Tells whenever the relay said that the relays of its group are others now.
    #[must_use]
    pub fn group_changes(&self) -> watch::Receiver<u64> {
        self.shared.group.subscribe()
    }

    /// Changes whenever what the relay has said about who may use this agent's services may not be true any more: it
    /// says so, or it may have said so to a session that is over.
    #[must_use]
    pub fn rights(&self) -> watch::Receiver<u64> {
        self.shared.rights.subscribe()
    }

    /// Changes whenever the relay said that whom this agent can meet may be others now. In another hop session a relay
    /// knows nothing of any wish, and is to be asked anew in any case.
    #[must_use]
    pub fn meetings(&self) -> watch::Receiver<u64> {
        self.shared.meetings.subscribe()
    }

    fn rights_changed(&self) {
        self.shared.rights.send_modify(|changes| *changes += 1);
    }

    /// The next thing that the relay says unasked: that it is going, a notice, or the end.
    pub async fn unasked(&self) -> Option<Message> {
        self.shared.unasked_reader.lock().await.recv().await
    }
}

fn has_more(message: &Message) -> bool {
    match message {
        Message::ServiceRows(rows) => rows.more,
        Message::UserRows(rows) => rows.more,
        Message::MachineRows(rows) => rows.more,
        Message::EventRows(rows) => rows.more,
        Message::ConnectionRows(rows) => rows.more,
        Message::UsageRows(rows) => rows.more,
        _ => false,
    }
}

async fn deliver(message: Message, waiting: &Waiting, unasked: &mpsc::Sender<Message>) {
    match message.request() {
        Some(number) => {
            let sender = lock(waiting).get(&number).cloned();
            if let Some(sender) = sender {
                let _ = sender.send(message).await;
            }
        }
        None => {
            // Nobody listening is no reason to stop reading answers.
            let _ = unasked.try_send(message);
        }
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
