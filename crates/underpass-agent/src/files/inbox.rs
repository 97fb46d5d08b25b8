//! Files that come to this machine.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use underpass_endpoint::PeerInfo;
use underpass_proto::{Code, Role};

use super::claims::Claims;
use super::line::Line;
use super::take::{Arrival, Received, say_not_taken, take};
use super::{FilesError, Progress, Trouble};
use crate::publish::{Guest, Inside};

/// Transfers at once; each has a thread.
const MOST: usize = 16;

/// What happens in one transfer.
#[derive(Debug)]
pub enum Visit {
    /// A sender is there.
    Begun(Arc<Progress>),
    /// Something has arrived.
    Arrival(Arrival),
    /// It is over.
    Ended(Result<Received, Trouble>),
}

/// Whoever wants to know what happens.
type On = Arc<dyn Fn(&PeerInfo, Visit) + Send + Sync>;

/// Takes files into a folder.
pub struct Inbox {
    folder: PathBuf,
    overwrite: bool,
    from: Vec<String>,
    claims: Arc<Claims>,
    places: Arc<Semaphore>,
    on: On,
}

impl Inbox {
    /// Takes files into `folder`, in the place of others if `overwrite` says so, from whom the relay lets in, and
    /// if `from` names any users, only from them. `on` is told what happens.
    pub fn new(
        folder: PathBuf,
        overwrite: bool,
        from: Vec<String>,
        on: impl Fn(&PeerInfo, Visit) + Send + Sync + 'static,
    ) -> Self {
        Self {
            folder,
            overwrite,
            from,
            claims: Arc::default(),
            places: Arc::new(Semaphore::new(MOST)),
            on: Arc::new(on),
        }
    }

    /// What serves the channels that come for it.
    #[must_use]
    pub fn serve(self) -> Inside {
        let inbox = Arc::new(self);
        Inside::new(move |guest| {
            let inbox = Arc::clone(&inbox);
            async move { inbox.take(guest).await }
        })
    }

    async fn take(self: Arc<Self>, guest: Guest) {
        let Guest {
            channel,
            peer,
            session,
        } = guest;
        let (reader, writer) = channel.into_split();
        let line = Line::new(reader, writer);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let runtime = Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            let (mut hearing, mut telling) = line.split(Role::Initiator, &runtime);
            let claims = self.claims.claimant(peer.machine, Some(session));
            let progress = Arc::new(Progress::default());
            let on = &self.on;
            on(&peer, Visit::Begun(Arc::clone(&progress)));
            let named = self.from.is_empty() || self.from.contains(&peer.user);
            let outcome = match place {
                _ if !named => Err(Trouble::of(Code::SenderRefused).into()),
                Err(_) => Err(Trouble::of(Code::Busy).into()),
                Ok(_place) => take(
                    &mut hearing,
                    &mut telling,
                    (&self.folder, self.overwrite),
                    &claims,
                    &progress,
                    &|arrival| on(&peer, Visit::Arrival(arrival)),
                ),
            };
            if let Err(error) = &outcome {
                say_not_taken(&mut telling, error);
            }
            let outcome: Result<Received, FilesError> = outcome;
            on(&peer, Visit::Ended(outcome.map_err(Trouble::from)));
        });
        if let Err(error) = done.await {
            tracing::error!("a transfer has failed: {error}");
        }
    }
}
