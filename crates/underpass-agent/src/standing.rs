//! Standing with a relay: attached, introduced, able to ask for things.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use underpass_carrier::{ClientSettings, Kind, RelayUrl};
use underpass_endpoint::{
    AscentSettings, AttachError, AttachSettings, Attachment, Control, ControlError, Sessions,
};
use underpass_proto::Code;
use underpass_proto::control::{Attach, Control as Message, Identity};
use underpass_proto::packet::{SessionId, VERSION};
use underpass_proto::session::Config;
use underpass_seal::{Fingerprint, StaticKey};

/// What the relay is told that we are.
const AGENT: &str = concat!("underpass/", env!("CARGO_PKG_VERSION"));
/// Between attempts to reach a relay for the first time.
const RETRY: Duration = Duration::from_millis(500);

/// How a relay is reached.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The relay's address.
    pub relay: RelayUrl,
    /// Its key, where it is known.
    pub relay_key: Option<Fingerprint>,
    /// The carriers that may be used, the first choice first.
    pub carriers: Vec<&'static Kind>,
    /// How it is chosen among them.
    pub ascent: AscentSettings,
    /// How carriers are made.
    pub client: ClientSettings,
    /// Limits of sessions.
    pub session: Config,
    /// For how long to try when it cannot be reached at first.
    pub patience: Duration,
    /// What this machine calls itself.
    pub machine_name: String,
    /// The relay that announced it; none where it is known from a login or the settings.
    pub announced_by: Option<String>,
}

/// Why a request to the relay failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The relay refused it, or could not be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The relay answered something else than was asked.
    #[error("the relay answered a request with something else; is it of another version?")]
    Unexpected,
}

impl RequestError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Control(error) => error.code(),
            Self::Unexpected => Code::ProtocolViolation,
        }
    }
}

/// An attachment to one relay that introduces itself whenever the relay has forgotten it. Clones are
/// the same one.
#[derive(Clone)]
pub struct Standing {
    inner: Arc<Inner>,
}

struct Inner {
    attachment: Attachment,
    control: Control,
    machine_name: String,
    /// The hop session in which we said who we are.
    introduced: Mutex<Option<SessionId>>,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Standing")
            .field(&self.inner.attachment)
            .finish()
    }
}

impl Standing {
    /// Attaches, trying again for as long as [`Reach::patience`] says where no carrier gets through.
    ///
    /// # Errors
    /// The relay was not reached in time, is not the one it should be, or refuses.
    pub async fn attach(
        reach: &Reach,
        identity: Arc<StaticKey>,
    ) -> Result<(Self, Identity), StandingError> {
        Self::attach_with(reach, identity, Sessions::default()).await
    }

    /// The same for one of several relays, whose attachments share `sessions`.
    pub(crate) async fn attach_with(
        reach: &Reach,
        identity: Arc<StaticKey>,
        sessions: Sessions,
    ) -> Result<(Self, Identity), StandingError> {
        let attachment = attach(reach, identity, sessions).await?;
        let standing = Self {
            inner: Arc::new(Inner {
                control: attachment.control(),
                attachment,
                machine_name: reach.machine_name.clone(),
                introduced: Mutex::new(None),
            }),
        };
        let identity = standing.introduce().await?;
        Ok((standing, identity))
    }

    /// Whether the other one is the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// What lies below.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.inner.attachment
    }

    /// Sends the request that `make` forms with its number; the answer has one message, or as many as
    /// a list needs.
    ///
    /// # Errors
    /// The relay refused, or could not be asked.
    pub async fn request(
        &self,
        make: impl FnOnce(u64) -> Message,
    ) -> Result<Vec<Message>, RequestError> {
        let session = self.inner.attachment.session().id();
        if *self.inner.introduced.lock().await != Some(session) {
            self.introduce().await?;
        }
        Ok(self.inner.control.request(make).await?)
    }

    /// The next thing that the relay says unasked.
    pub async fn unasked(&self) -> Option<Message> {
        self.inner.control.unasked().await
    }

    /// Tells whenever the relay said that the relays of its group are others now.
    pub(crate) fn group_changes(&self) -> watch::Receiver<u64> {
        self.inner.control.group_changes()
    }

    /// Changes whenever what this relay has said about who may use what is published here may not be true any more.
    #[must_use]
    pub fn rights(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.control.rights()
    }

    /// Changes whenever this relay said that whom this agent can meet may be others now.
    pub(crate) fn meetings(&self) -> watch::Receiver<u64> {
        self.inner.control.meetings()
    }

    /// Says who we are, and learns whom the relay takes us for.
    async fn introduce(&self) -> Result<Identity, RequestError> {
        let mut introduced = self.inner.introduced.lock().await;
        let session = self.inner.attachment.session().id();
        let answer = self.inner.control.request(|request| {
            Attach {
                request,
                version: VERSION,
                agent: AGENT.to_owned(),
                machine_name: self.inner.machine_name.clone(),
            }
            .into()
        });
        match answer.await?.pop() {
            Some(Message::Identity(identity)) => {
                *introduced = Some(session);
                Ok(identity)
            }
            _ => Err(RequestError::Unexpected),
        }
    }
}

/// Why there is no standing with a relay.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StandingError {
    /// The relay was not reached, or is another one.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The relay was reached, and the introduction failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The relay does not know this machine.
    #[error("{relay} does not know this machine")]
    NotEnrolled {
        /// The relay's address.
        relay: String,
    },
}

impl StandingError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Attach(error) => error.code(),
            Self::Request(error) => error.code(),
            Self::NotEnrolled { .. } => Code::NotEnrolled,
        }
    }
}

/// Whether the relay may be reached a little later although nobody does anything about it.
fn may_pass(error: &AttachError) -> bool {
    match error {
        AttachError::Unreachable { .. } => true,
        AttachError::Barred { code, .. } => code.retry_helps(),
        AttachError::Refused { .. } => error.code() == Code::Busy,
        _ => false,
    }
}

async fn attach(
    reach: &Reach,
    identity: Arc<StaticKey>,
    sessions: Sessions,
) -> Result<Attachment, AttachError> {
    let settings = AttachSettings {
        relay: reach.relay.clone(),
        relay_key: reach.relay_key,
        carriers: reach.carriers.clone(),
        ascent: reach.ascent.clone(),
        client: reach.client.clone(),
        session: reach.session.clone(),
    };
    let deadline = Instant::now() + reach.patience;
    loop {
        let attaching =
            Attachment::attach_with(settings.clone(), Arc::clone(&identity), sessions.clone());
        match attaching.await {
            Err(error) if may_pass(&error) && Instant::now() + RETRY < deadline => {
                tracing::debug!("{error}; trying again");
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}
