//! Both directions of a control connection, read line by line. Pure.

use bytes::Bytes;

use super::Garbled;
use super::line::Lines;
use super::speech::{Command, Passive, Reply};

/// What was said and answered.
#[derive(Debug, Default)]
pub(super) struct Talk {
    said: Lines,
    answered: Lines,
    reply: Reply,
}

impl Talk {
    /// What came of the client.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.said.push(bytes);
    }

    /// The client's next line, and what it means.
    pub(super) fn command(&mut self) -> Result<Option<(Command, Bytes)>, Garbled> {
        let line = self.said.next()?;
        Ok(line.map(|line| (Command::read(&line), line)))
    }

    /// What came of the server.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        self.answered.push(bytes);
    }

    /// The server's next line, and the port that it names, if it does.
    pub(super) fn reply(&mut self) -> Result<Option<(Option<Passive>, Bytes)>, Garbled> {
        let Some(line) = self.answered.next()? else {
            return Ok(None);
        };
        let named = match self.reply.is_whole(&line) {
            true => Passive::read(&line),
            false => None,
        };
        Ok(Some((named, line)))
    }

    /// The client says no more: a line without an end.
    pub(super) fn client_ends(&mut self) -> Bytes {
        self.said.rest()
    }

    /// The server says no more.
    pub(super) fn server_ends(&mut self) -> Bytes {
        self.answered.rest()
    }
}
