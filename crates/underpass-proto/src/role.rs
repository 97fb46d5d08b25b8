//! Which end of a session somebody is.

/// Which end of a session somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that sent the first packet (HELLO).
    Initiator,
    /// The end that answered it.
    Responder,
}

impl Role {
    /// The other end.
    pub fn peer(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn peer_is_the_other_end() {
        assert_eq!(Role::Initiator.peer(), Role::Responder);
        assert_eq!(Role::Responder.peer(), Role::Initiator);
    }
}
