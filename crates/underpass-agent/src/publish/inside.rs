//! Services that this program serves itself, instead of a host that it dials.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use underpass_endpoint::{Channel, PeerInfo, Session};

/// Somebody who uses such a service.
#[derive(Debug)]
pub struct Guest {
    /// What it says, and hears.
    pub channel: Channel,
    /// Who it is; the key is the one that the session's handshake has proven.
    pub peer: Arc<PeerInfo>,
    /// What the channel is in. It ends once the guest may not use the service any more.
    pub session: Session,
}

impl Guest {
    pub(super) fn new(channel: Channel, peer: Arc<PeerInfo>, session: Session) -> Self {
        Self {
            channel,
            peer,
            session,
        }
    }
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves the guests of one service.
#[derive(Clone)]
pub struct Inside(Arc<dyn Fn(Guest) -> Serving + Send + Sync>);

impl Inside {
    /// Serves each guest by what `serve` makes of it.
    pub fn new<F>(serve: impl Fn(Guest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |guest| Box::pin(serve(guest))))
    }

    pub(super) fn serve(&self, guest: Guest) -> Serving {
        (self.0)(guest)
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

impl PartialEq for Inside {
    /// Whether it is the same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Inside {}
