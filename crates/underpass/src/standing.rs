//! What the relay is asked, by a machine that says first who it is.

use std::sync::Arc;

use tokio::sync::Mutex;
use underpass_endpoint::{Attachment, Control, ControlError};
use underpass_proto::control::{
    Allow, Attach, CodeKind, Control as Message, Deny, Enrol, MayUse, Publish, Published, Resolve,
    Resolved,
};
use underpass_proto::packet::{SessionId, VERSION};
use underpass_proto::{Code as Reason, control};
use underpass_seal::PublicKey;

use crate::error::{Error, Result};

/// What the relay is told that we are.
const AGENT: &str = concat!("underpass-library/", env!("CARGO_PKG_VERSION"));

/// Whom the relay takes this machine for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user to whom the machine belongs.
    pub user: String,
    /// The machine's name.
    pub machine: String,
}

impl Identity {
    /// What the relay said; none of a machine that it does not know.
    fn told(identity: control::Identity) -> Option<Self> {
        let control::Identity { user, machine, .. } = identity;
        (!user.is_empty()).then_some(Self { user, machine })
    }
}

/// An attachment and what is asked over it. Clones are the same.
#[derive(Clone)]
pub(crate) struct Standing {
    pub(crate) attachment: Attachment,
    pub(crate) control: Control,
    pub(crate) machine_name: String,
    /// The hop session in which we said who we are.
    introduced: Arc<Mutex<Option<SessionId>>>,
}

/// Takes the only message of an answer, if it is of the right type.
macro_rules! one {
    ($answer:expr, $name:ident) => {
        match $answer {
            Message::$name(it) => Ok(it),
            _ => Err(Error::unexpected()),
        }
    };
}
pub(crate) use one;

impl Standing {
    pub(crate) fn new(attachment: Attachment, machine_name: String) -> Self {
        Self {
            control: attachment.control(),
            attachment,
            machine_name,
            introduced: Arc::default(),
        }
    }

    /// Asks for something that has one message as its answer. Once it has begun the request goes its way, also where
    /// nobody waits for the answer any more: half of one would spoil those that follow.
    pub(crate) async fn request(
        &self,
        make: impl FnOnce(u64) -> Message + Send + 'static,
    ) -> Result<Message> {
        self.introduce().await?;
        self.ask(make).await.map_err(|error| Error::request(&error))
    }

    async fn ask(
        &self,
        make: impl FnOnce(u64) -> Message + Send + 'static,
    ) -> Result<Message, ControlError> {
        let control = self.control.clone();
        let asking = tokio::spawn(async move { control.request(make).await });
        let lost = || ControlError::Lost("the program is ending".into());
        let mut answer = asking.await.map_err(|_| lost())??;
        answer.pop().ok_or_else(lost)
    }

    /// Says who we are, once in each session with the relay.
    pub(crate) async fn introduce(&self) -> Result<()> {
        let mut introduced = self.introduced.lock().await;
        let session = self.attachment.session().id();
        if *introduced != Some(session) {
            self.identity().await?;
            *introduced = Some(session);
        }
        Ok(())
    }

    /// Says who we are, and hears for whom the relay takes us at this moment.
    pub(crate) async fn identity(&self) -> Result<Option<Identity>> {
        let machine_name = self.machine_name.clone();
        let make = move |request| {
            let (version, agent) = (VERSION, AGENT.to_owned());
            Attach {
                request,
                version,
                agent,
                machine_name,
            }
            .into()
        };
        let answer = self.ask(make).await;
        let identity = one!(answer.map_err(|error| Error::request(&error))?, Identity)?;
        Ok(Identity::told(identity))
    }

    pub(crate) async fn enrol(&self, code: &str) -> Result<()> {
        let (code, machine) = (code.to_owned(), self.machine_name.clone());
        let make = move |request| {
            let (kind, user) = (CodeKind::Invite, String::new());
            Enrol {
                request,
                kind,
                code,
                user,
                machine,
            }
            .into()
        };
        one!(self.request(make).await?, Identity).map(drop)
    }

    pub(crate) async fn resolve(&self, service: &str) -> Result<Resolved> {
        let service = service.to_owned();
        let make = move |request| Resolve { request, service }.into();
        one!(self.request(make).await?, Resolved)
    }

    pub(crate) async fn publish(&self, name: &str) -> Result<Published> {
        let name = name.to_owned();
        let make = move |request| {
            let (description, compression, plain_http) = (String::new(), true, false);
            Publish {
                request,
                name,
                description,
                compression,
                plain_http,
            }
            .into()
        };
        one!(self.request(make).await?, Published)
    }

    pub(crate) async fn allow(&self, who: &str, service: &str, allowed: bool) -> Result<()> {
        let (who, service) = (who.to_owned(), service.to_owned());
        let make = move |request| match allowed {
            true => Allow {
                request,
                who,
                service,
            }
            .into(),
            false => Deny {
                request,
                who,
                service,
            }
            .into(),
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Whether the machine with this key may use the service of ours with this name; if not, why.
    pub(crate) async fn may_use(&self, service: &str, machine: PublicKey) -> Result<(), Reason> {
        let (service, machine) = (service.to_owned(), machine.0);
        let make = move |request| {
            MayUse {
                request,
                service,
                machine,
            }
            .into()
        };
        if self.introduce().await.is_err() {
            return Err(Reason::GoingAway);
        }
        match self.ask(make).await {
            Ok(Message::Done(_)) => Ok(()),
            Ok(_) => Err(Reason::ProtocolViolation),
            Err(ControlError::Failed { code, .. }) => {
                Err(Reason::from_number(code).unwrap_or(Reason::Denied))
            }
            Err(_) => Err(Reason::GoingAway),
        }
    }
}
