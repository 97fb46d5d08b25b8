//! Being a service: what others connect to.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use underpass_endpoint as endpoint;
use underpass_endpoint::{PeerInfo, Session};
use underpass_proto::Code as Reason;
use underpass_proto::frame::ChannelKind;
use underpass_seal::{Fingerprint, PublicKey};

use crate::access::Access;
use crate::channel::Channel;
use crate::datagrams::Datagrams;
use crate::error::{Error, Result};
use crate::standing::Standing;

/// Channels that wait to be accepted; more are refused as busy.
const BACKLOG: usize = 128;

type Accepted = (endpoint::Channel, Peer);

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Peer {
    /// The user, by the relay's word.
    pub user: String,
    /// The key that the machine has proved.
    pub machine: Fingerprint,
}

impl Peer {
    fn of(peer: &PeerInfo) -> Self {
        Self {
            user: peer.user.clone(),
            machine: peer.machine.fingerprint(),
        }
    }
}

/// One name under which a listener is known.
#[derive(Debug, Clone)]
struct Name {
    application: String,
    kind: ChannelKind,
    sender: mpsc::Sender<Accepted>,
}

/// All listeners of a client. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incoming {
    /// By the full name, which is what the relay checks access to.
    listeners: Arc<Mutex<HashMap<String, Name>>>,
}

/// A place among the listeners, and what comes to it.
#[derive(Debug)]
pub(crate) struct Place {
    full_name: String,
    accepted: mpsc::Receiver<Accepted>,
    incoming: Incoming,
    keeping: Option<JoinHandle<()>>,
}

/// Takes the connections to one application of this user. Made by [`Client::listen`](crate::Client::listen).
///
/// Dropping it refuses further connections; those that were accepted go on.
#[derive(Debug)]
pub struct Listener(pub(crate) Place);

/// Takes the flows of datagrams to one application of this user. Made by
/// [`Client::listen_datagrams`](crate::Client::listen_datagrams).
///
/// Dropping it refuses further flows; those that were accepted go on.
#[derive(Debug)]
pub struct DatagramListener(pub(crate) Place);

impl Listener {
    /// The application's full name, by which it is reached as a service: `APPLICATION.USER.underpass.internal`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.0.full_name
    }

    /// The next connection, and who made it. `None` once the client has disconnected, or the attachment ended.
    ///
    /// Cancel safe: a connection that was not returned is returned by the next call.
    pub async fn accept(&mut self) -> Option<(Channel, Peer)> {
        let (channel, peer) = self.0.accepted.recv().await?;
        Some((Channel::new(channel), peer))
    }
}

impl DatagramListener {
    /// As [`Listener::full_name`].
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.0.full_name
    }

    /// The next flow, and whose it is. `None` once the client has disconnected, or the attachment ended.
    ///
    /// Cancel safe: a flow that was not returned is returned by the next call.
    pub async fn accept(&mut self) -> Option<(Datagrams, Peer)> {
        let (channel, peer) = self.0.accepted.recv().await?;
        Some((Datagrams::new(channel), peer))
    }
}

impl Place {
    pub(crate) fn kept_by(mut self, keeping: JoinHandle<()>) -> Self {
        self.keeping = Some(keeping);
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.incoming.lock().remove(&self.full_name);
        if let Some(keeping) = &self.keeping {
            keeping.abort();
        }
    }
}

impl Incoming {
    /// Serves all sessions that come in over an attachment.
    pub(crate) fn serve(standing: &Standing) -> Self {
        let incoming = Self::default();
        let serving = incoming.clone();
        let access = Arc::new(Access::new(standing.clone()));
        standing.attachment.serve(move |session, peer| {
            let (serving, access) = (serving.clone(), Arc::clone(&access));
            tokio::spawn(async move { serving.session(session, peer, access).await });
        });
        let (ending, attached) = (incoming.clone(), standing.attachment.clone());
        tokio::spawn(async move {
            attached.ended().await;
            // Whoever accepts learns that nobody will come any more.
            ending.lock().clear();
        });
        incoming
    }

    pub(crate) fn listen(
        &self,
        application: &str,
        full_name: &str,
        kind: ChannelKind,
    ) -> Result<Place> {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let mut listeners = self.lock();
        if listeners.contains_key(full_name) {
            let text = format!("this client listens for {full_name} already");
            return Err(Error::local(Reason::Exists, &text));
        }
        let name = Name {
            application: application.to_owned(),
            kind,
            sender,
        };
        listeners.insert(full_name.to_owned(), name);
        drop(listeners);
        Ok(Place {
            full_name: full_name.to_owned(),
            accepted,
            incoming: self.clone(),
            keeping: None,
        })
    }

    /// Serves one session, for as long as its machine may use what it uses.
    async fn session(self, session: Session, peer: PeerInfo, access: Arc<Access>) {
        let (mut changes, used) = (access.changes(), Used::default());
        loop {
            tokio::select! {
                wanted = session.accept() => match wanted {
                    Some(wanted) => {
                        // Asking may take a while, which others need not wait for.
                        let (incoming, peer) = (self.clone(), peer.clone());
                        let (access, used) = (Arc::clone(&access), used.clone());
                        tokio::spawn(async move {
                            incoming.channel(wanted, &peer, &access, &used).await;
                        });
                    }
                    None => return,
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    review(&session, peer.machine, &access, &used).await;
                }
            }
        }
    }

    async fn channel(
        self,
        wanted: endpoint::Incoming,
        peer: &PeerInfo,
        access: &Access,
        used: &Used,
    ) {
        let Some(name) = self.find(wanted.service()) else {
            return wanted.refuse(Reason::NoService);
        };
        if wanted.kind() != name.kind {
            return wanted.refuse(Reason::OtherTransport);
        }
        let before = *access.changes().borrow();
        let mut allowed = access.check(&name.application, peer.machine).await;
        if allowed.is_ok() {
            used.lock().insert(name.application.clone());
            // From here on the review sees it; what has changed by now it did not.
            if *access.changes().borrow() != before {
                allowed = access.check(&name.application, peer.machine).await;
            }
        }
        if let Err(code) = allowed {
            return wanted.refuse(code);
        }
        match name.sender.try_reserve() {
            Ok(place) => place.send((wanted.accept(), Peer::of(peer))),
            Err(mpsc::error::TrySendError::Full(())) => wanted.refuse(Reason::Busy),
            Err(mpsc::error::TrySendError::Closed(())) => wanted.refuse(Reason::NoService),
        }
    }

    /// The listener of this name, full or not.
    fn find(&self, wanted: &str) -> Option<Name> {
        let listeners = self.lock();
        let mut all = listeners.iter();
        let found = all.find(|(full, name)| *full == wanted || name.application == wanted)?;
        Some(found.1.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session was let in to. Clones are the same.
#[derive(Debug, Clone, Default)]
struct Used(Arc<Mutex<HashSet<String>>>);

impl Used {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session if its machine may not go on with something that it uses. Where nobody can be asked it goes on.
async fn review(session: &Session, machine: PublicKey, access: &Access, used: &Used) {
    let applications: Vec<String> = used.lock().iter().cloned().collect();
    for application in applications {
        match access.check(&application, machine).await {
            Err(code) if !code.retry_helps() => {
                return session.close(code, "it may not be used any more");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn listeners_are_found_by_either_name_while_they_are_there() {
        let incoming = Incoming::default();
        let listen = |name: &str, full: &str| incoming.listen(name, full, ChannelKind::Stream);
        let _web = listen("web", "web.bob.x").unwrap();
        let db = listen("db", "db.bob.x").unwrap();
        let twice = listen("db", "db.bob.x").unwrap_err();
        assert_eq!(twice.code(), Code::EXISTS);
        let found = |name: &str| incoming.find(name).map(|name| name.application);
        for name in ["db", "db.bob.x"] {
            assert_eq!(found(name).as_deref(), Some("db"));
        }
        assert_eq!(found("none"), None);
        drop(db);
        assert_eq!(found("db"), None);
        assert_eq!(found("web").as_deref(), Some("web"));
    }
}
