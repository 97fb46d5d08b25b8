//! Taking connections to a service that this client publishes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use underpass_endpoint::{Attachment, PeerInfo, Session};
use underpass_proto::Code;
use underpass_proto::frame::ChannelKind;

use crate::error::Error;
use crate::stream::Stream;

/// Connections that wait to be accepted; more are refused as busy.
const BACKLOG: usize = 128;

type Waiting = mpsc::Sender<(Stream, String)>;

/// One name under which a listener is known.
#[derive(Debug, Clone)]
struct Name {
    short: String,
    sender: Waiting,
}

/// All listeners of a client. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incoming {
    /// By the full name, which is what the relay checks access to.
    listeners: Arc<Mutex<HashMap<String, Name>>>,
}

/// Takes the connections to one service.
#[derive(Debug)]
pub struct Listener {
    full_name: String,
    accepted: mpsc::Receiver<(Stream, String)>,
    incoming: Incoming,
    keeping: Option<JoinHandle<()>>,
}

impl Listener {
    /// The service's pseudo DNS name.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// The next connection, and the user who made it. `None` once the client has detached.
    ///
    /// Cancel safe.
    pub async fn accept(&mut self) -> Option<(Stream, String)> {
        self.accepted.recv().await
    }

    pub(crate) fn kept_by(mut self, keeping: JoinHandle<()>) -> Self {
        self.keeping = Some(keeping);
        self
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.incoming.lock().remove(&self.full_name);
        if let Some(keeping) = &self.keeping {
            keeping.abort();
        }
    }
}

impl Incoming {
    /// Serves all sessions that come in over an attachment.
    pub(crate) fn serve(attachment: &Attachment) -> Self {
        let incoming = Self::default();
        let serving = incoming.clone();
        attachment.serve(move |session, peer| {
            tokio::spawn(serving.clone().session(session, peer));
        });
        let (ending, attached) = (incoming.clone(), attachment.clone());
        tokio::spawn(async move {
            attached.ended().await;
            // Whoever accepts learns that nobody will come any more.
            ending.lock().clear();
        });
        incoming
    }

    pub(crate) fn listen(&self, short: &str, full_name: &str) -> Result<Listener, Error> {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let mut listeners = self.lock();
        if listeners.contains_key(full_name) {
            return Err(Error::Option {
                option: "name",
                reason: format!("this client listens for {full_name} already"),
            });
        }
        let name = Name {
            short: short.to_owned(),
            sender,
        };
        listeners.insert(full_name.to_owned(), name);
        Ok(Listener {
            full_name: full_name.to_owned(),
            accepted,
            incoming: self.clone(),
            keeping: None,
        })
    }

    async fn session(self, session: Session, peer: PeerInfo) {
        while let Some(wanted) = session.accept().await {
            match self.find(wanted.service(), &peer.service) {
                _ if wanted.kind() != ChannelKind::Stream => wanted.refuse(Code::Refused),
                Err(code) => wanted.refuse(code),
                Ok(sender) => match sender.try_reserve() {
                    Ok(place) => place.send((Stream::new(wanted.accept()), peer.user.clone())),
                    Err(_) => wanted.refuse(Code::Busy),
                },
            }
        }
    }

    /// The listener for `wanted`, in a session that the relay let through to `checked` only.
    fn find(&self, wanted: &str, checked: &str) -> Result<Waiting, Code> {
        let listeners = self.lock();
        let by = |asked: &str| {
            listeners
                .iter()
                .find(|(full, name)| *full == asked || name.short == asked)
        };
        let (full, name) = by(wanted).ok_or(Code::NoService)?;
        match by(checked) {
            Some((let_through, _)) if let_through == full => Ok(name.sender.clone()),
            _ => Err(Code::Denied),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Name>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_service_that_was_checked_is_found() {
        let incoming = Incoming::default();
        let _web = incoming.listen("web", "web.bob.x").unwrap();
        let db = incoming.listen("db", "db.bob.x").unwrap();
        assert!(incoming.listen("db", "db.bob.x").is_err());
        assert!(incoming.find("db", "db").is_ok());
        assert!(incoming.find("db.bob.x", "db").is_ok());
        assert_eq!(incoming.find("db", "web").err(), Some(Code::Denied));
        assert_eq!(incoming.find("none", "web").err(), Some(Code::NoService));
        drop(db);
        assert_eq!(incoming.find("db", "db").err(), Some(Code::NoService));
    }
}
