//! A client of a relay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use underpass_endpoint::{Attachment, Control, OpenOptions, Session};
use underpass_proto::Code;
use underpass_proto::control::{
    Attach, CodeKind, Control as Message, Enrol, FarEnd, Publish, Resolve, Resolved,
};
use underpass_proto::packet::{SessionId, VERSION};
use underpass_seal::{Fingerprint, PublicKey};

use crate::error::Error;
use crate::listener::{Incoming, Listener};
use crate::options::Options;
use crate::stream::Stream;
use crate::trust::KnownPublishers;

/// What the relay is told that we are.
const AGENT: &str = concat!("underpass-library/", env!("CARGO_PKG_VERSION"));

/// Between attempts to publish again.
const RETRY: Duration = Duration::from_secs(5);

/// Attached to a relay until [`Client::detach`]. Clones are the same client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    attachment: Attachment,
    control: Control,
    machine_name: String,
    known: KnownPublishers,
    /// The hop session in which we said who we are.
    introduced: Mutex<Option<SessionId>>,
    sessions: Mutex<HashMap<PublicKey, Arc<Mutex<Option<Session>>>>>,
    incoming: Incoming,
}

/// How a client is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Fingerprint of the relay's key.
    pub relay_key: Fingerprint,
    /// The carrier in use; none while another one is sought.
    pub carrier: Option<&'static str>,
    /// How often the path was lost and made anew.
    pub drops: u64,
    /// The round trip to the relay, once measured.
    pub rtt: Option<Duration>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client")
            .field(&self.inner.attachment)
            .finish()
    }
}

impl Client {
    /// Attaches to the relay. Whether the relay knows this machine shows with the first request: one
    /// that it does not know can only [enrol](Client::enrol).
    ///
    /// # Errors
    /// The relay cannot be reached, or is another one than it should be.
    pub async fn attach(options: Options) -> Result<Self, Error> {
        let Options {
            key,
            attach,
            machine_name,
            known,
        } = options;
        let attachment = Attachment::attach(attach, key.0).await?;
        let client = Self {
            inner: Arc::new(Inner {
                control: attachment.control(),
                machine_name,
                known,
                introduced: Mutex::new(None),
                sessions: Mutex::default(),
                incoming: Incoming::serve(&attachment),
                attachment,
            }),
        };
        client.introduce().await?;
        Ok(client)
    }

    /// Enrols this machine by the one-time code of an invitation, once for its key.
    ///
    /// # Errors
    /// The code is wrong, used or too old, or the machine's name is taken.
    pub async fn enrol(&self, code: &str) -> Result<(), Error> {
        let (code, machine) = (code.to_owned(), self.inner.machine_name.clone());
        let answer = self.request(|request| {
            let (kind, user) = (CodeKind::Invite, String::new());
            Enrol {
                request,
                kind,
                code,
                user,
                machine,
            }
            .into()
        });
        match answer.await? {
            Message::Identity(_) => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Connects to a service: `NAME`, `NAME.OWNER`, or its pseudo DNS name.
    ///
    /// # Errors
    /// There is no such service for this user, its publisher is away or not who it was, or the host
    /// behind it refused; [`Error::code`] tells.
    pub async fn connect(&self, service: &str) -> Result<Stream, Error> {
        match self.try_connect(service).await {
            // A session that was kept ended at this moment: once more with a new one.
            Err(error) if error.is_session_end() => self.try_connect(service).await,
            connected => connected,
        }
    }

    async fn try_connect(&self, service: &str) -> Result<Stream, Error> {
        let service = service.to_owned();
        let answer = self.request(|request| Resolve { request, service }.into());
        let Message::Resolved(resolved) = answer.await? else {
            return Err(Error::Unexpected);
        };
        let session = match resolved.far_end {
            FarEnd::Relay => self.inner.attachment.session(),
            FarEnd::Publisher => self.session(&resolved).await?,
        };
        let options = OpenOptions {
            compress: resolved.compression,
            ..OpenOptions::default()
        };
        let mut channel = session.open(&resolved.full_name, options).await?;
        channel.accepted().await?;
        Ok(Stream::new(channel))
    }

    /// The session with a publisher, shared by all streams to its services.
    async fn session(&self, resolved: &Resolved) -> Result<Session, Error> {
        let slot = {
            let mut sessions = self.inner.sessions.lock().await;
            Arc::clone(
                sessions
                    .entry(PublicKey(resolved.publisher_key))
                    .or_default(),
            )
        };
        let mut kept = slot.lock().await;
        if let Some(session) = kept.as_ref().filter(|session| !session.is_closed()) {
            return Ok(session.clone());
        }
        let connecting = self
            .inner
            .attachment
            .connect(&resolved.full_name, &self.inner.known);
        let session = connecting.await?;
        *kept = Some(session.clone());
        Ok(session)
    }

    /// Publishes a service of this machine and takes the connections to it, until the listener is
    /// dropped or the client detaches. It is private until its owner allows others to use it.
    ///
    /// # Errors
    /// The relay refuses, or this client listens for that name already.
    pub async fn listen(&self, name: &str) -> Result<Listener, Error> {
        let session = self.inner.attachment.session();
        let full_name = self.publish(name).await?;
        let listener = self.inner.incoming.listen(name, &full_name)?;
        let (client, name) = (self.clone(), name.to_owned());
        let keeping = tokio::spawn(async move { client.keep_published(&name, session).await });
        Ok(listener.kept_by(keeping))
    }

    async fn publish(&self, name: &str) -> Result<String, Error> {
        let name = name.to_owned();
        let answer = self.request(|request| {
            let (description, compression, plain_http) = (String::new(), true, false);
            Publish {
                request,
                name,
                description,
                compression,
                plain_http,
            }
            .into()
        });
        match answer.await? {
            Message::Published(published) => {
                if published.waiting {
                    tracing::warn!("{} waits for a manager's approval", published.full_name);
                }
                Ok(published.full_name)
            }
            _ => Err(Error::Unexpected),
        }
    }

    /// Publishes again whenever the relay has forgotten this client; `session` is the one in which it
    /// was published.
    async fn keep_published(&self, name: &str, mut session: Session) {
        let attachment = &self.inner.attachment;
        while attachment.session_changed(&session).await {
            session = attachment.session();
            while let Err(error) = self.publish(name).await {
                if !error.is_retryable() {
                    tracing::error!("{name} is not published any more: {error}");
                    return;
                }
                tracing::warn!("{name}: {error}; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = self.inner.attachment.status();
        Status {
            relay_key: status.relay_key,
            carrier: status.carrier.map(|info| info.carrier),
            drops: status.drops,
            rtt: status.session.rtt,
        }
    }

    /// Ends everything in order: peers and the relay are told.
    pub async fn detach(&self) {
        for slot in self.inner.sessions.lock().await.values() {
            if let Some(session) = slot.lock().await.take() {
                session.close(Code::NoError, "the client detached");
            }
        }
        self.inner.attachment.detach().await;
    }

    /// Asks for something that has one message as its answer.
    async fn request(&self, make: impl FnOnce(u64) -> Message) -> Result<Message, Error> {
        let session = self.inner.attachment.session().id();
        if *self.inner.introduced.lock().await != Some(session) {
            self.introduce().await?;
        }
        let mut answer = self.inner.control.request(make).await?;
        answer.pop().ok_or(Error::Unexpected)
    }

    /// Says who we are.
    async fn introduce(&self) -> Result<(), Error> {
        let mut introduced = self.inner.introduced.lock().await;
        let session = self.inner.attachment.session().id();
        let machine_name = self.inner.machine_name.clone();
        let answer = self.inner.control.request(|request| {
            let (version, agent) = (VERSION, AGENT.to_owned());
            Attach {
                request,
                version,
                agent,
                machine_name,
            }
            .into()
        });
        match answer.await?.pop() {
            Some(Message::Identity(_)) => {
                *introduced = Some(session);
                Ok(())
            }
            _ => Err(Error::Unexpected),
        }
    }
}
