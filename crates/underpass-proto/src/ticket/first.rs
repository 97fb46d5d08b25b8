//! The client's side of first tickets.

use super::{Handle, Ticket};

/// What a client holds of the first tickets of one session.
#[derive(Clone, Debug, Default)]
pub struct FirstTickets {
    line: Option<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    handle: Handle,
    newest: Option<Ticket>,
    /// The one before: the authority forgets it when it sees the newest, and until then it is good.
    /// It helps where the authority has lost its last word, after a power cut or with an old backup.
    before: Option<Ticket>,
}

impl FirstTickets {
    /// Takes a ticket that came down. One of another line takes the place of all others: the handle
    /// of theirs comes back, so that they can be deleted.
    pub fn take_in(&mut self, ticket: Ticket, handle: Handle) -> Option<Handle> {
        match &mut self.line {
            Some(held) if held.handle == handle => {
                let known = |it: &Option<Ticket>| {
                    it.as_ref().is_some_and(|it| it.digest() == ticket.digest())
                };
                // A late answer to an older question brings nothing new.
                if !known(&held.newest) && !known(&held.before) {
                    let before = held.newest.replace(ticket);
                    held.before = before.or(held.before.take());
                }
                None
            }
            line => {
                let newest = Some(ticket);
                let held = Held {
                    handle,
                    newest,
                    before: None,
                };
                line.replace(held).map(|held| held.handle)
            }
        }
    }

    /// The ticket to present next; `None` where there is none that may be good.
    #[must_use]
    pub fn to_present(&self) -> Option<&Ticket> {
        let held = self.line.as_ref()?;
        held.newest.as_ref().or(held.before.as_ref())
    }

    /// The authority does not know a ticket that was presented.
    pub fn refused(&mut self, ticket: &Ticket) {
        let Some(held) = &mut self.line else { return };
        for slot in [&mut held.newest, &mut held.before] {
            if slot
                .as_ref()
                .is_some_and(|it| it.digest() == ticket.digest())
            {
                *slot = None;
            }
        }
    }

    /// What deletes the ticket at the authority, for a clean end.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        self.line.as_ref().map(|held| held.handle)
    }
}
