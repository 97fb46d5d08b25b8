//! The ticket authority inside a relay: its lines are in the relay's store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use underpass_proto::Time;
use underpass_proto::ticket::{Claim, Handle, Issued, MARGIN, NotGood, Presented, Ticket};
use underpass_store::{Fault, Store};

use super::{Authority, AuthorityError, AuthorityFuture, Granted};

/// How often the authority's clock is written down and expired tickets are forgotten. After a
/// restart tickets last longer by as much at the most.
const TICK: Duration = Duration::from_secs(60);
/// How often a line is read anew that others have changed meanwhile: they are as many as there
/// are attempts of one client at once.
const TRIES: usize = 16;

/// An authority whose lines are in a store. Relays that share the store share the authority.
#[derive(Debug)]
pub struct InStore {
    store: Arc<dyn Store>,
    /// Where the clock stood when this authority began, and when that was: from then on it runs
    /// by itself, whatever the calendar does.
    base: Time,
    begun: Instant,
}

impl From<Fault> for AuthorityError {
    fn from(fault: Fault) -> Self {
        tracing::error!("ticket authority: {fault}: {}", fault.cause);
        // The place is a path on the relay's machine, which is not for agents.
        AuthorityError::Unreachable(format!("its store {}", fault.kind))
    }
}

impl InStore {
    /// An authority that goes on where the last one in this store was.
    ///
    /// # Errors
    /// The store cannot be used.
    pub async fn begin(store: Arc<dyn Store>) -> Result<Self, Fault> {
        let base = store.advance_ticket_clock(Time::ZERO).await?;
        let begun = Instant::now();
        Ok(Self { store, base, begun })
    }

    fn now(&self) -> Time {
        self.base + self.begun.elapsed()
    }

    /// Writes the clock down and forgets expired tickets from time to time, until `stop`.
    pub async fn keep_time(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = stop.cancelled() => return,
            }
            if let Err(fault) = self.store.advance_ticket_clock(self.now()).await {
                tracing::warn!("ticket authority: {fault}: {}", fault.cause);
            }
        }
    }

    async fn issue_one(
        &self,
        claim: Claim,
        far: Vec<u8>,
        keep: Duration,
    ) -> Result<Granted, AuthorityError> {
        let now = self.now();
        let Issued { line, ticket } =
            underpass_proto::ticket::Line::issue(&claim, far, keep, now, &mut rand::rng());
        self.store.add_ticket(&line).await?;
        Ok(Granted {
            ticket,
            handle: line.handle,
            lifetime: keep.saturating_add(MARGIN),
            far: line.far,
        })
    }

    async fn check_one(&self, claim: Claim, ticket: Ticket) -> Result<Granted, AuthorityError> {
        for _ in 0..TRIES {
            let found = self.store.ticket(&ticket.digest()).await?;
            let line = found.ok_or(NotGood::Unknown)?;
            let presented = line.present(&ticket, &claim, self.now(), &mut rand::rng())?;
            let Presented { changed, next } = presented;
            let kept = match &changed {
                Some(after) => self.store.replace_ticket(&line, after).await?,
                None => true,
            };
            if kept {
                return Ok(Granted {
                    ticket: next,
                    handle: line.handle,
                    lifetime: line.keep.saturating_add(MARGIN),
                    far: line.far,
                });
            }
        }
        let text = "a ticket is presented too often at once";
        Err(AuthorityError::Unreachable(text.to_owned()))
    }
}

impl Authority for InStore {
    fn issue(&self, claim: Claim, far: Vec<u8>, keep: Duration) -> AuthorityFuture<'_, Granted> {
        Box::pin(self.issue_one(claim, far, keep))
    }

    fn check(&self, claim: Claim, ticket: Ticket) -> AuthorityFuture<'_, Granted> {
        Box::pin(self.check_one(claim, ticket))
    }

    fn renew(&self, handles: Vec<Handle>) -> AuthorityFuture<'_, ()> {
        Box::pin(async move {
            // Others of this store want to write, too.
            for some in handles.chunks(256) {
                self.store.renew_tickets(some, self.now()).await?;
            }
            Ok(())
        })
    }

    fn forget(&self, handle: Handle) -> AuthorityFuture<'_, ()> {
        Box::pin(async move {
            self.store.forget_ticket(handle).await?;
            Ok(())
        })
    }
}
