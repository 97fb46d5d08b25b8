//! A channel that the peer opens, until the service has answered.

use underpass_proto::code::Code;
use underpass_proto::frame::{ChannelKind, Class};

use super::{OpenedChannel, Session};
use crate::channel::Channel;

/// A channel that the peer opened and that nobody answered yet. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    pub(super) session: Session,
    pub(super) opened: OpenedChannel,
    pub(super) codecs: u8,
    pub(super) answered: bool,
}

impl Incoming {
    /// The service that the peer wants.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.opened.service
    }

    /// Stream or datagrams.
    #[must_use]
    pub fn kind(&self) -> ChannelKind {
        self.opened.kind
    }

    /// The priority that the peer gave it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.opened.class
    }

    /// The service answers: the peer is told.
    #[must_use]
    pub fn accept(mut self) -> Channel {
        self.answered = true;
        let id = self.opened.channel;
        self.session.with(|state, _| state.core.accept(id));
        Channel::new(self.session.clone(), id, self.opened.encoding, self.codecs)
    }

    /// The service does not answer, and why.
    pub fn refuse(mut self, code: Code) {
        self.answer_no(code);
    }

    fn answer_no(&mut self, code: Code) {
        self.answered = true;
        let id = self.opened.channel;
        self.session.with(|state, _| {
            state.core.reset(id, code.number());
            state.core.stop(id, code.number());
            state.channels.remove(&id);
        });
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.answered {
            self.answer_no(Code::Cancelled);
        }
    }
}
