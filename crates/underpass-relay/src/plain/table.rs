//! Which sessions there are, and how many there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_store::{Enrolled, MachineId, UserId};

use super::ask::SessionName;
use super::session::Session;
use crate::refusal::Refusal;

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Of all users.
    pub(super) all: usize,
    /// Of one user.
    pub(super) of_user: usize,
}

/// All sessions of bare HTTP clients.
pub(super) struct Table {
    most: Most,
    entries: Mutex<HashMap<SessionName, Entry>>,
}

struct Entry {
    user: UserId,
    session: Arc<Session>,
}

/// What [`Table::open`] found.
pub(super) enum Place {
    /// A client asks again for a session that it has asked for before.
    Known(Arc<Session>),
    /// A new session, in the table until the seat is dropped.
    New(Arc<Session>, Seat),
}

/// A session's place in the table.
pub(super) struct Seat {
    table: Arc<Table>,
    name: SessionName,
}

impl Table {
    pub(super) fn new(most: Most) -> Arc<Self> {
        Arc::new(Self {
            most,
            entries: Mutex::default(),
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SessionName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a session of `holder`, or finds the one that was opened with the same `once`.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn open(
        self: &Arc<Self>,
        holder: &Enrolled,
        once: &str,
        make: impl FnOnce() -> Session,
    ) -> Result<Place, Refusal> {
        let mut entries = self.entries();
        let of_user = entries.values().filter(|it| it.user == holder.user.id);
        let mut count = 0;
        for entry in of_user {
            let session = &entry.session;
            if !once.is_empty() && session.once == once && session.owner == holder.machine.id {
                return Ok(Place::Known(Arc::clone(session)));
            }
            count += 1;
        }
        if count >= self.most.of_user {
            return Err(Refusal::busy("plain HTTP sessions of one user"));
        }
        if entries.len() >= self.most.all {
            return Err(Refusal::busy("plain HTTP sessions"));
        }
        let session = Arc::new(make());
        let entry = Entry {
            user: holder.user.id,
            session: Arc::clone(&session),
        };
        entries.insert(session.name, entry);
        let seat = Seat {
            table: Arc::clone(self),
            name: session.name,
        };
        Ok(Place::New(session, seat))
    }

    /// The session of that name, if it is one of this machine's.
    pub(super) fn find(&self, name: SessionName, owner: MachineId) -> Option<Arc<Session>> {
        let entries = self.entries();
        let session = &entries.get(&name)?.session;
        (session.owner == owner).then(|| Arc::clone(session))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.entries().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use underpass_store::Role;

    use super::super::session::Limits;
    use super::*;
    use crate::policy::tests::member;

    fn open(
        table: &Arc<Table>,
        holder: &Enrolled,
        once: &str,
        bits: u128,
    ) -> Result<Place, Refusal> {
        table.open(holder, once, || {
            let name = SessionName::from_random(bits);
            Session::new(name, holder.machine.id, once.to_owned(), Limits::default())
        })
    }

    fn new(place: Result<Place, Refusal>) -> (Arc<Session>, Seat) {
        match place {
            Ok(Place::New(session, seat)) => (session, seat),
            _ => panic!("a new session is expected"),
        }
    }

    #[test]
    fn there_are_as_many_as_there_may_be() {
        let table = Table::new(Most { all: 3, of_user: 2 });
        let (alice, bob) = (member(Role::User), member(Role::Manager));
        let seats: Vec<_> = (0..2).map(|n| new(open(&table, &alice, "", n))).collect();
        let refused = open(&table, &alice, "", 2).err().unwrap();
        assert!(refused.text.contains("of one user"), "{refused}");
        let _third = new(open(&table, &bob, "", 3));
        assert!(open(&table, &bob, "", 4).is_err());
        drop(seats);
        new(open(&table, &alice, "", 5));
    }

    #[test]
    fn a_repeated_request_finds_its_session_and_nobody_elses() {
        let table = Table::new(Most { all: 9, of_user: 9 });
        let (alice, bob) = (member(Role::User), member(Role::Manager));
        let mut hers = alice.clone();
        hers.machine.id = MachineId(77);
        let (first, _seat) = new(open(&table, &alice, "x", 1));
        let again = open(&table, &alice, "x", 2).unwrap();
        assert!(matches!(again, Place::Known(known) if Arc::ptr_eq(&known, &first)));
        let _others: Vec<_> = [(&bob, "x"), (&hers, "x"), (&alice, "y"), (&alice, "")]
            .into_iter()
            .zip(3..)
            .map(|((holder, once), bits)| new(open(&table, holder, once, bits)))
            .collect();
        let found = |owner| table.find(first.name, owner).is_some();
        assert!(found(alice.machine.id) && !found(hers.machine.id));
    }
}
