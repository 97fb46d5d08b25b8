//! Who is writing what. A sender that died may still hold the part of a file, in a session that is kept for it; when the
//! same machine comes again, in another session, it takes its own place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_endpoint::Session;
use underpass_proto::Code;
use underpass_seal::PublicKey;

/// The parts that are being written into one folder.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// By path.
    parts: HashMap<String, Claim>,
    visits: u64,
}

#[derive(Debug)]
struct Claim {
    visit: u64,
    machine: PublicKey,
    /// None in tests, where there is no session.
    session: Option<Session>,
}

/// One transfer's claims; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Claimant {
    claims: Arc<Claims>,
    visit: u64,
    machine: PublicKey,
    session: Option<Session>,
}

impl Claims {
    /// For a transfer of this machine.
    pub(super) fn claimant(
        self: &Arc<Self>,
        machine: PublicKey,
        session: Option<Session>,
    ) -> Claimant {
        let mut held = self.lock();
        held.visits += 1;
        Claimant {
            claims: Arc::clone(self),
            visit: held.visits,
            machine,
            session,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimant {
    /// It writes this file.
    pub(super) fn claim(&self, path: &str) {
        let claim = Claim {
            visit: self.visit,
            machine: self.machine,
            session: self.session.clone(),
        };
        self.claims.lock().parts.insert(path.to_owned(), claim);
    }

    /// Somebody else writes this file. True where that is the same machine, and gives way.
    pub(super) fn contend(&self, path: &str) -> bool {
        let held = self.claims.lock();
        let Some(claim) = held.parts.get(path) else {
            return false;
        };
        if claim.machine != self.machine {
            return false;
        }
        let id = |session: &Option<Session>| session.as_ref().map(Session::id);
        if let Some(session) = &claim.session
            && id(&claim.session) != id(&self.session)
        {
            session.close(Code::Cancelled, "the same machine sends the file anew");
        }
        true
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        let visit = self.visit;
        let mut held = self.claims.lock();
        held.parts.retain(|_, claim| claim.visit != visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_gives_way_to_itself_and_to_nobody_else() {
        let claims = Arc::new(Claims::default());
        let [one, other] = [1, 2].map(|n| PublicKey([n; 32]));
        let first = claims.claimant(one, None);
        let again = claims.claimant(one, None);
        let foreign = claims.claimant(other, None);
        assert!(!again.contend("x"));
        first.claim("x");
        assert!(again.contend("x"));
        assert!(!foreign.contend("x") && !again.contend("y"));
        drop(first);
        assert!(!again.contend("x"));
    }
}
