//! Leading a service elsewhere that another machine publishes, by telling that machine.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use underpass_endpoint::{Channel, ChannelError, OpenOptions};
use underpass_proto::control::{FarEnd, Resolved};
use underpass_proto::frame::Class;
use underpass_proto::steer::{Lead, MAX_STEER, NotLed, STEER_SERVICE, Steer};
use underpass_proto::{Code, Role};

use super::{Connector, OpenError};
use crate::publish::Retargeted;

/// The longest time until the publisher answers: it dials the new host, and waits for connections that
/// follow.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Why a service that is published elsewhere does not lead to another host.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LeadError {
    /// There is no session with its publisher.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The relay dials it.
    #[error("{0} is the relay's own: where it leads stands in the relay's settings")]
    OfRelay(String),
    /// The publisher says no; nothing was changed.
    #[error("{text}")]
    Refused {
        /// Why, as a number from the table of codes.
        code: u64,
        /// In the publisher's words; may be empty.
        text: String,
    },
    /// There was no answer that could be read; the service may lead elsewhere now.
    #[error("{0}; the service may lead to the new host, or not")]
    Unknown(String),
}

impl LeadError {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Open(error) => error.code(),
            Self::OfRelay(_) => Code::MayNotRetarget,
            Self::Refused { code, .. } => Code::from_number(*code).unwrap_or(Code::Internal),
            Self::Unknown(_) => Code::TimedOut,
        }
    }
}

impl Connector {
    /// Has the publisher of `service`, which the relay has `resolved`, lead it to `target`; with `now`
    /// connections that there are follow. The publisher takes that from machines which it was told of.
    ///
    /// # Errors
    /// See [`LeadError`].
    pub async fn retarget(
        &self,
        service: &str,
        resolved: &Resolved,
        target: &str,
        now: bool,
    ) -> Result<Retargeted, LeadError> {
        if resolved.far_end == FarEnd::Relay {
            return Err(LeadError::OfRelay(resolved.full_name.clone()));
        }
        // As the user wrote it: a relay that resolves it to another one must not lead that elsewhere.
        let name = service.split('.').next().unwrap_or_default();
        let lead = Lead {
            service: name.to_owned(),
            target: target.to_owned(),
            now,
        };
        let session = self.session(resolved).await.map_err(OpenError::from)?;
        let options = OpenOptions {
            class: Class::Interactive,
            ..OpenOptions::default()
        };
        let opened = session.open(STEER_SERVICE, options).await;
        let mut channel = opened.map_err(|error| refused(&error))?;
        channel.accepted().await.map_err(|error| refused(&error))?;
        match tokio::time::timeout(ANSWER_LIMIT, ask(channel, lead)).await {
            Ok(Ok(Steer::Led(led))) => Ok(Retargeted {
                name: led.name,
                before: led.before,
                living: usize::try_from(led.living).unwrap_or(usize::MAX),
                moved: led.moved,
            }),
            Ok(Ok(Steer::NotLed(NotLed { code, text }))) => Err(LeadError::Refused { code, text }),
            Ok(Ok(Steer::Lead(_))) => Err(LeadError::Unknown("the answer is none".into())),
            Ok(Err(error)) => Err(LeadError::Unknown(error.to_string())),
            Err(_) => Err(LeadError::Unknown(format!(
                "the publisher did not answer within {} s",
                ANSWER_LIMIT.as_secs()
            ))),
        }
    }
}

fn refused(error: &ChannelError) -> LeadError {
    LeadError::Refused {
        code: error.code().number(),
        text: String::new(),
    }
}

async fn ask(channel: Channel, lead: Lead) -> io::Result<Steer> {
    let mut bytes = Vec::new();
    Steer::from(lead).encode(&mut bytes);
    let (reader, mut writer) = channel.into_split();
    writer.write_chunk(bytes.into()).await?;
    writer.finish().await?;
    let mut answer = Vec::new();
    let limit = MAX_STEER as u64 + 1;
    reader.take(limit).read_to_end(&mut answer).await?;
    Steer::decode_whole(Role::Responder, Bytes::from(answer))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
