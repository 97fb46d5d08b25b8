//! Who is who: the ends of a session, and the ends of a hop.

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

    /// The end in words, as errors and the specification use them.
    pub fn name(self) -> &'static str {
        match self {
            Role::Initiator => "a message from an initiator",
            Role::Responder => "a message from a responder",
        }
    }
}

/// Who says something between an agent and its relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The agent (or embedded client).
    Agent,
    /// The relay.
    Relay,
}

impl Speaker {
    /// The speaker in words, as errors and the specification use them.
    pub fn name(self) -> &'static str {
        match self {
            Speaker::Agent => "a message from an agent",
            Speaker::Relay => "a message from a relay",
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
