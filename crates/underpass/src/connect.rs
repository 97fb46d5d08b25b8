//! Using a service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use underpass_endpoint as endpoint;
use underpass_endpoint::{ChannelError, OpenOptions, Session};
use underpass_proto::control::{FarEnd, Resolved};
use underpass_proto::frame::ChannelKind;
use underpass_seal::PublicKey;

use crate::channel::Priority;
use crate::code::Code;
use crate::error::{Error, Result};
use crate::standing::Standing;
use crate::trust::KnownPublishers;

/// Pauses between attempts to reach somebody who is waited for grow from this to that.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How a service is connected to.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    priority: Priority,
    uncompressed: bool,
    wait: Duration,
}

impl ConnectOptions {
    /// Priority [`Normal`](Priority::Normal), compressed where the service allows it, without waiting.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With another priority: what the channel is for.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sends the bytes as they are, although the service lets them be compressed: for where secrets and what an attacker
    /// chooses share the channel.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.uncompressed = true;
        self
    }

    /// Tries again for so long while the other side is not there yet (it does not listen, or its machine is not attached)
    /// or cannot be reached. [`Duration::MAX`] waits without limit.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// Opens channels to services, over one session for each: what is taken back of one is not felt by others.
pub(crate) struct Opener {
    standing: Standing,
    known: KnownPublishers,
    /// By the service's full name and its publisher's key.
    sessions: Mutex<HashMap<(String, PublicKey), Arc<Mutex<Option<Session>>>>>,
}

/// Why a channel was not opened.
enum NotOpened {
    /// The session that was kept ended at this moment: another one may do.
    Stale(Error),
    Failed(Error),
}

impl From<Error> for NotOpened {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Opener {
    pub(crate) fn new(standing: Standing, known: KnownPublishers) -> Self {
        Self {
            standing,
            known,
            sessions: Mutex::default(),
        }
    }

    /// Opens a channel, waiting for the other side as the options say.
    pub(crate) async fn open(
        &self,
        service: &str,
        kind: ChannelKind,
        options: &ConnectOptions,
    ) -> Result<endpoint::Channel> {
        // None where no clock reaches so far.
        let until = Instant::now().checked_add(options.wait);
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.open_now(service, kind, options).await {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            let may_come = error.is_retryable() || error.code() == Code::NO_SERVICE;
            let left = until.map_or(LONGEST_PAUSE, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if !may_come || left.is_zero() {
                return Err(error);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    async fn open_now(
        &self,
        service: &str,
        kind: ChannelKind,
        options: &ConnectOptions,
    ) -> Result<endpoint::Channel> {
        let mut outcome = self.try_open(service, kind, options).await;
        if let Err(NotOpened::Stale(_)) = outcome {
            outcome = self.try_open(service, kind, options).await;
        }
        outcome.map_err(|error| match error {
            NotOpened::Stale(error) | NotOpened::Failed(error) => error,
        })
    }

    async fn try_open(
        &self,
        service: &str,
        kind: ChannelKind,
        options: &ConnectOptions,
    ) -> Result<endpoint::Channel, NotOpened> {
        let resolved = self.standing.resolve(service).await?;
        let session = match resolved.far_end {
            FarEnd::Relay => self.standing.attachment.session(),
            FarEnd::Publisher => self.session(&resolved).await?,
        };
        let options = OpenOptions {
            kind,
            class: options.priority.class(),
            compress: resolved.compression && !options.uncompressed && kind == ChannelKind::Stream,
        };
        let not_opened = |error: ChannelError| match &error {
            ChannelError::SessionClosed(_) => NotOpened::Stale(Error::channel(&error)),
            _ => NotOpened::Failed(Error::channel(&error)),
        };
        let opened = session.open(&resolved.full_name, options).await;
        let mut channel = opened.map_err(not_opened)?;
        channel.accepted().await.map_err(not_opened)?;
        Ok(channel)
    }

    /// The session for a service, shared by all channels to it.
    async fn session(&self, resolved: &Resolved) -> Result<Session> {
        let key = (
            resolved.full_name.clone(),
            PublicKey(resolved.publisher_key),
        );
        let slot = Arc::clone(self.sessions.lock().await.entry(key).or_default());
        let mut kept = slot.lock().await;
        if let Some(session) = kept.as_ref().filter(|session| !session.is_closed()) {
            return Ok(session.clone());
        }
        let attachment = &self.standing.attachment;
        let connecting = attachment.connect(&resolved.full_name, &self.known).await;
        let session = connecting.map_err(|error| Error::connect(&error))?;
        *kept = Some(session.clone());
        Ok(session)
    }
}
