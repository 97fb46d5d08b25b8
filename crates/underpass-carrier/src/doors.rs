//! When a server lets clients in: some time after it was made, and until some time before it ends, where
//! several processes take turns on the same sockets.

use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::front::Front;

/// Lets clients in to a [`Server`](crate::Server), and stops doing so. Clones are the same doors.
#[derive(Clone)]
pub struct Doors {
    front: Arc<Front>,
    opened: CancellationToken,
    pub(crate) closed: CancellationToken,
    /// What listens.
    listening: TaskTracker,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors")
            .field("opened", &self.opened.is_cancelled())
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Doors {
    pub(crate) fn new(front: &Arc<Front>) -> Self {
        let doors = Self {
            front: Arc::clone(front),
            opened: CancellationToken::new(),
            closed: front.closed.clone(),
            listening: TaskTracker::new(),
        };
        if !front.settings.begin_closed {
            doors.open();
        }
        doors
    }

    /// Runs what listens, from when the doors open until they close.
    pub(crate) fn spawn(&self, listening: impl Future<Output = ()> + Send + 'static) {
        let (opened, closed) = (self.opened.clone(), self.closed.clone());
        let stop = self.front.stop.clone();
        let listening = async move {
            tokio::select! {
                () = opened.cancelled() => listening.await,
                () = closed.cancelled() => {}
                () = stop.cancelled() => {}
            }
        };
        let listening = self.listening.track_future(listening);
        self.front.tasks.spawn(listening);
    }

    /// Lets clients in from now on.
    pub fn open(&self) {
        self.opened.cancel();
    }

    /// Whatever waits for the doors to open waits no more.
    pub(crate) fn never_mind(&self) {
        if !self.opened.is_cancelled() {
            self.closed.cancel();
        }
    }

    /// Lets nobody in any more: listens no more, and makes no carrier of what comes on connections that
    /// there are, which stay, and so do their carriers. QUIC ends, because its connections share the
    /// socket with whoever listens next. Returns when the sockets are not used any more.
    pub async fn close(&self) {
        self.closed.cancel();
        self.listening.close();
        self.listening.wait().await;
    }
}
