//! A client of a relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use underpass_endpoint as endpoint;
use underpass_endpoint::{Attachment, Session};
use underpass_proto::frame::ChannelKind;
use underpass_seal::Fingerprint;

use crate::builder::{ClientBuilder, Settings};
use crate::channel::Channel;
use crate::connect::{ConnectOptions, Opener};
use crate::datagrams::Datagrams;
use crate::error::{Error, Result};
use crate::listener::{DatagramListener, Incoming, Listener, Place};
use crate::standing::{Identity, Standing};

/// Between attempts to publish again.
const RETRY: Duration = Duration::from_secs(5);
/// What was written before the end has so long to reach the other sides.
const DELIVERY_LIMIT: Duration = Duration::from_secs(2);

/// Attached to a relay until [`disconnect`](Client::disconnect). Clones are the same client.
///
/// Once attached it finds another way whenever one breaks, by itself, and it stays attached when the last clone is dropped,
/// for what it has given out. Methods that ask the relay may be dropped at any
/// time: what was asked may have been done or not, and nothing else is harmed.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    standing: Standing,
    opener: Opener,
    incoming: Incoming,
    disconnected: AtomicBool,
}

/// How a client is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
        let attachment = &self.inner.standing.attachment;
        f.debug_tuple("Client").field(attachment).finish()
    }
}

impl Client {
    /// Begins to say how a client attaches.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) async fn attach(settings: Settings) -> Result<Self> {
        let Settings {
            key,
            attach,
            machine_name,
            known,
        } = settings;
        let attachment = Attachment::attach(attach, key.0).await;
        let attachment = attachment.map_err(|error| Error::attach(&error))?;
        let standing = Standing::new(attachment, machine_name);
        let client = Self {
            inner: Arc::new(Inner {
                opener: Opener::new(standing.clone(), known),
                incoming: Incoming::serve(&standing),
                standing,
                disconnected: AtomicBool::new(false),
            }),
        };
        client.inner.standing.introduce().await?;
        Ok(client)
    }

    /// Enrols this machine by the one-time code of an invitation, once for its key.
    ///
    /// # Errors
    /// The code is wrong, used or too old, or the machine's name is taken.
    pub async fn enrol(&self, code: &str) -> Result<()> {
        self.told(self.inner.standing.enrol(code).await)
    }

    /// Enrols this machine by its user's name and password, once for its key. The password never leaves this machine, and
    /// it is certain afterwards that the relay knows it too. Takes 64 MiB of memory and a good part of a second.
    ///
    /// # Errors
    /// [`Code::WRONG_PASSWORD`](crate::Code::WRONG_PASSWORD) where the relay knows no user of this name with this password;
    /// [`Code::WAITING`](crate::Code::WAITING) while a manager has not approved the user.
    pub async fn sign_in(
        &self,
        user: &str,
        password: impl AsRef<[u8]> + Send + Sync,
    ) -> Result<()> {
        self.told(self.inner.standing.sign_in(user, password.as_ref()).await)
    }

    /// Registers a new user with a password, and this machine under it. Once a manager has approved the user, this client
    /// can be used; until then it is refused with [`Code::WAITING`](crate::Code::WAITING).
    ///
    /// # Errors
    /// The name is taken or none, or the relay does not take new users.
    pub async fn register(
        &self,
        user: &str,
        password: impl AsRef<[u8]> + Send + Sync,
    ) -> Result<()> {
        self.told(self.inner.standing.register(user, password.as_ref()).await)
    }

    /// For whom the relay takes this machine; `None` if it does not know it.
    ///
    /// # Errors
    /// The relay cannot be asked.
    pub async fn identity(&self) -> Result<Option<Identity>> {
        self.told(self.inner.standing.identity().await)
    }

    /// Connects to `application` of the user `peer`.
    ///
    /// Cancel safe: a channel that was not returned is closed.
    ///
    /// # Errors
    /// There is no such application for this user, its machine is away or not the one that it was, or it refused;
    /// [`Error::code`] tells.
    pub async fn connect(&self, peer: &str, application: &str) -> Result<Channel> {
        self.connect_with(peer, application, &ConnectOptions::new())
            .await
    }

    /// As [`connect`](Self::connect), in another way than usual, or waiting for the peer.
    ///
    /// Cancel safe: a channel that was not returned is closed.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_with(
        &self,
        peer: &str,
        application: &str,
        options: &ConnectOptions,
    ) -> Result<Channel> {
        self.connect_service(&name_of(peer, application)?, options)
            .await
    }

    /// Connects to a service by its name, as `underpass services` lists it: `NAME`, `NAME.OWNER`, or its pseudo DNS name.
    ///
    /// Cancel safe: a channel that was not returned is closed.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_service(&self, name: &str, options: &ConnectOptions) -> Result<Channel> {
        let channel = self.open(name, ChannelKind::Stream, options).await;
        channel.map(Channel::new)
    }

    /// Begins a flow of datagrams to `application` of the user `peer`.
    ///
    /// Cancel safe: a flow that was not returned is ended.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_datagrams(
        &self,
        peer: &str,
        application: &str,
        options: &ConnectOptions,
    ) -> Result<Datagrams> {
        let name = name_of(peer, application)?;
        let channel = self.open(&name, ChannelKind::Datagram, options).await;
        channel.map(Datagrams::new)
    }

    async fn open(
        &self,
        name: &str,
        kind: ChannelKind,
        options: &ConnectOptions,
    ) -> Result<endpoint::Channel> {
        self.told(self.inner.opener.open(name, kind, options).await)
    }

    /// Publishes an application of this machine and takes the connections to it, until the listener is dropped or the
    /// client disconnects. It is private until its owner allows others to use it ([`allow`](Self::allow)).
    ///
    /// # Errors
    /// The relay refuses, or this client listens for that name already.
    pub async fn listen(&self, application: &str) -> Result<Listener> {
        self.publish(application, ChannelKind::Stream)
            .await
            .map(Listener)
    }

    /// The same for flows of datagrams. An application takes one or the other.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub async fn listen_datagrams(&self, application: &str) -> Result<DatagramListener> {
        let place = self.publish(application, ChannelKind::Datagram).await;
        place.map(DatagramListener)
    }

    async fn publish(&self, application: &str, kind: ChannelKind) -> Result<Place> {
        let standing = &self.inner.standing;
        let session = standing.attachment.session();
        let full_name = self.told(publish(standing, application).await)?;
        let place = self.inner.incoming.listen(application, &full_name, kind)?;
        let (standing, name) = (standing.clone(), application.to_owned());
        let keeping = tokio::spawn(keep_published(standing, name, session));
        Ok(place.kept_by(keeping))
    }

    /// Lets somebody use an application of one's own: a user; the fingerprint of a machine's key; `@` and a role; or `*`
    /// for every enrolled user.
    ///
    /// # Errors
    /// There is no such user or application, or it is somebody else's.
    pub async fn allow(&self, who: &str, application: &str) -> Result<()> {
        self.told(self.inner.standing.allow(who, application, true).await)
    }

    /// Takes back what [`allow`](Self::allow) gave, and holds against what a wider word gives. Whoever uses it now is cut
    /// off.
    ///
    /// # Errors
    /// As there.
    pub async fn deny(&self, who: &str, application: &str) -> Result<()> {
        self.told(self.inner.standing.allow(who, application, false).await)
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = self.inner.standing.attachment.status();
        Status {
            relay_key: status.relay_key,
            carrier: status.carrier.map(|info| info.carrier),
            drops: status.drops,
            rtt: status.session.rtt,
        }
    }

    /// Ends everything in order: peers and the relay are told. Of channels that this side has ended (`shutdown`,
    /// [`Messages::finish`](crate::Messages::finish)) the rest has two seconds to reach the other side; others break off.
    /// Any method fails with [`Error::Disconnected`] from then on.
    ///
    /// Not cancel safe: if it is dropped, some may have been told and others not; it may be called again.
    pub async fn disconnect(&self) {
        self.inner.disconnected.store(true, Ordering::Relaxed);
        let attachment = &self.inner.standing.attachment;
        let sessions = attachment.sessions();
        // Who does not read for so long is not waited for.
        let _ = tokio::time::timeout(DELIVERY_LIMIT, sessions.delivered()).await;
        attachment.detach().await;
    }

    /// Of a client that has disconnected, everything fails for that reason alone.
    fn told<T>(&self, result: Result<T>) -> Result<T> {
        let disconnected = || self.inner.disconnected.load(Ordering::Relaxed);
        result.map_err(|error| match disconnected() {
            true => Error::Disconnected,
            false => error,
        })
    }
}

/// The name of the service that `application` of `peer` is.
fn name_of(peer: &str, application: &str) -> Result<String> {
    let checked = |argument: &'static str, name: &str| {
        let valid = underpass_proto::names::check(name);
        valid.map_err(|error| Error::setting(argument, error))
    };
    checked("peer", peer)?;
    checked("application", application)?;
    Ok(format!("{application}.{peer}"))
}

/// Publishes, and gives the full name.
async fn publish(standing: &Standing, application: &str) -> Result<String> {
    let published = standing.publish(application).await?;
    if published.waiting {
        tracing::warn!("{} waits for a manager's approval", published.full_name);
    }
    Ok(published.full_name)
}

/// Publishes again whenever the relay has forgotten this client; `session` is the one in which it was published.
async fn keep_published(standing: Standing, name: String, mut session: Session) {
    let attachment = &standing.attachment;
    while attachment.session_changed(&session).await {
        session = attachment.session();
        while let Err(error) = publish(&standing, &name).await {
            if !error.is_retryable() {
                tracing::error!("{name} is not published any more: {error}");
                return;
            }
            tracing::warn!("{name}: {error}; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn a_service_is_named_by_two_names() {
        assert_eq!(name_of("alice", "db").unwrap(), "db.alice");
        for (peer, application) in [
            ("", "db"),
            ("alice", "db.bob"),
            ("a.b", "db"),
            ("alice", ""),
        ] {
            let wrong = name_of(peer, application).unwrap_err();
            assert_eq!(wrong.code(), Code::BAD_SETTING, "{peer} {application}");
        }
    }
}
