//! What the publisher's agent does to a control connection. Pure.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Garbled;
use super::speech::{Command, Passive};
use super::talk::Talk;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass this on to the server.
    ToServer(Bytes),
    /// Pass this on to the client, or answer it so.
    ToClient(Bytes),
    /// The client listens there: listen in its place, and tell the server where.
    Listen(SocketAddr),
    /// The server listens on this port of its own. The reply follows.
    Announce(u16),
}

/// One control connection.
#[derive(Debug)]
pub(super) struct Far {
    /// Whether the server is reached by IPv6, for which PASV and its reply have no words.
    ipv6: bool,
    talk: Talk,
    /// The client asked by PASV last and the server was asked by EPSV.
    translating: bool,
}

impl Far {
    pub(super) fn new(server: SocketAddr) -> Self {
        Self {
            ipv6: server.ip().to_canonical().is_ipv6(),
            talk: Talk::default(),
            translating: false,
        }
    }

    /// What the client says; what is to be done comes in `steps`.
    pub(super) fn client_says(
        &mut self,
        bytes: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<(), Garbled> {
        self.talk.say(bytes);
        while let Some((command, line)) = self.talk.command()? {
            self.command(command, line, steps);
        }
        Ok(())
    }

    /// The client says no more.
    pub(super) fn client_ends(&mut self) -> Bytes {
        self.talk.client_ends()
    }

    /// What the server says.
    pub(super) fn server_says(
        &mut self,
        bytes: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<(), Garbled> {
        self.talk.answer(bytes);
        while let Some((named, line)) = self.talk.reply()? {
            let Some(passive) = named else {
                steps.push(Step::ToClient(line));
                continue;
            };
            steps.push(Step::Announce(passive.port));
            steps.push(Step::ToClient(match self.translating && passive.extended {
                // The client's agent puts an address of its own there.
                true => Passive {
                    extended: false,
                    ..passive
                }
                .leading_to(([0, 0, 0, 0], passive.port).into()),
                false => line,
            }));
        }
        Ok(())
    }

    /// The server says no more.
    pub(super) fn server_ends(&mut self) -> Bytes {
        self.talk.server_ends()
    }

    fn command(&mut self, command: Command, line: Bytes, steps: &mut Vec<Step>) {
        match command {
            Command::Active(Some(at)) => steps.push(Step::Listen(at)),
            // A server that can read it must not: it would connect to a place that nobody has looked at.
            Command::Active(None) => {
                let no = "501 UP-FTP-ADDRESS: no address that can be used\r\n";
                steps.push(Step::ToClient(no.into()));
            }
            Command::Passive if self.ipv6 => {
                self.translating = true;
                steps.push(Step::ToServer(Bytes::from_static(b"EPSV\r\n")));
            }
            Command::ExtendedPassive => {
                self.translating = false;
                // The client may name the family that it uses, which need not be the server's.
                steps.push(Step::ToServer(Bytes::from_static(b"EPSV\r\n")));
            }
            Command::Passive | Command::Protect | Command::Obsolete | Command::Other => {
                steps.push(Step::ToServer(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(server: &str) -> Far {
        Far::new(server.parse().unwrap())
    }

    fn client_says(far: &mut Far, text: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        far.client_says(text.as_bytes(), &mut steps).unwrap();
        steps
    }

    fn server_says(far: &mut Far, text: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        far.server_says(text.as_bytes(), &mut steps).unwrap();
        steps
    }

    #[test]
    fn no_address_reaches_the_server_that_was_not_looked_at() {
        let mut far = far("10.0.0.1:21");
        let at = "127.0.0.1:51201".parse().unwrap();
        assert_eq!(
            client_says(&mut far, "PORT 127,0,0,1,200,1\r\n"),
            [Step::Listen(at)]
        );
        let steps = client_says(&mut far, "EPRT |1|127.0.0.1|22|\r\nPORT 1,2\r\n");
        let refused = |step: &Step| matches!(step, Step::ToClient(no) if no.starts_with(b"501 "));
        assert!(steps.len() == 2 && steps.iter().all(refused));
    }

    #[test]
    fn a_port_is_announced_before_the_client_hears_of_it() {
        let mut far = far("10.0.0.1:21");
        let line = "227 Entering Passive Mode (10,9,9,9,200,1).\r\n";
        assert_eq!(
            server_says(&mut far, line),
            [Step::Announce(51201), Step::ToClient(line.into())]
        );
        assert_eq!(
            server_says(&mut far, "221 bye\r\n"),
            [Step::ToClient("221 bye\r\n".into())]
        );
    }

    #[test]
    fn a_client_of_the_old_form_reaches_a_server_by_ipv6() {
        let mut far = far("[fd00::1]:21");
        assert_eq!(
            client_says(&mut far, "PASV\r\n"),
            [Step::ToServer("EPSV\r\n".into())]
        );
        let steps = server_says(&mut far, "229 E (|||51201|)\r\n");
        let old = "227 Entering Passive Mode (0,0,0,0,200,1).\r\n";
        assert_eq!(steps, [Step::Announce(51201), Step::ToClient(old.into())]);
        // Asked by the new form it is answered by it.
        assert_eq!(
            client_says(&mut far, "EPSV 1\r\n"),
            [Step::ToServer("EPSV\r\n".into())]
        );
        let line = "229 E (|||51202|)\r\n";
        assert_eq!(
            server_says(&mut far, line),
            [Step::Announce(51202), Step::ToClient(line.into())]
        );
    }
}
