//! What the client's agent does to a control connection. Pure.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::Garbled;
use super::speech::{Command, Passive};
use super::talk::Talk;

/// The first byte of a TLS record with a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass this on to the server.
    ToServer(Bytes),
    /// Pass this on to the client, or answer it so.
    ToClient(Bytes),
    /// The server will connect to the client there: open a channel for that. The command follows.
    Await(SocketAddr),
    /// The server listens: do so too, and tell the client in the same form.
    Listen(Passive),
    /// The client wanted TLS and was refused.
    RefusedTls,
    /// The client named an address that is not its own and was refused.
    RefusedAddress,
}

/// One control connection.
#[derive(Debug)]
pub(super) struct Near {
    /// Where the client is; it may have data sent nowhere else.
    client: IpAddr,
    talk: Talk,
    /// Whether anything has come of the client.
    begun: bool,
}

impl Near {
    pub(super) fn new(client: IpAddr) -> Self {
        Self {
            client: client.to_canonical(),
            talk: Talk::default(),
            begun: false,
        }
    }

    /// What the client says; what is to be done comes in `steps`.
    pub(super) fn client_says(
        &mut self,
        bytes: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<(), Garbled> {
        if !self.begun && bytes.first() == Some(&TLS_HANDSHAKE) {
            return Err(Garbled::Tls);
        }
        self.begun |= !bytes.is_empty();
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
            steps.push(named.map_or(Step::ToClient(line), Step::Listen));
        }
        Ok(())
    }

    /// The server says no more.
    pub(super) fn server_ends(&mut self) -> Bytes {
        self.talk.server_ends()
    }

    fn command(&self, command: Command, line: Bytes, steps: &mut Vec<Step>) {
        match command {
            Command::Active(Some(at)) if at.ip().to_canonical() == self.client => {
                steps.extend([Step::Await(at), Step::ToServer(line)]);
            }
            Command::Active(_) => {
                let no = "501 UP-FTP-ADDRESS: this is not the address from which you came; use passive mode\r\n";
                steps.extend([Step::RefusedAddress, Step::ToClient(no.into())]);
            }
            Command::Protect => {
                // RFC 4217 section 4.2: 534 is for who is not willing.
                let no = "534 UP-FTP-TLS: no TLS here, it would hide the ports that FTP opens; \
                          the way to the server is sealed without it\r\n";
                steps.extend([Step::RefusedTls, Step::ToClient(no.into())]);
            }
            Command::Obsolete => {
                steps.push(Step::ToClient("502 use EPSV or EPRT\r\n".into()));
            }
            Command::Passive | Command::ExtendedPassive | Command::Other => {
                steps.push(Step::ToServer(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn client_says(pieces: &[&[u8]]) -> Result<Vec<Step>, Garbled> {
        let mut near = Near::new(CLIENT);
        let mut steps = Vec::new();
        for piece in pieces {
            near.client_says(piece, &mut steps)?;
        }
        Ok(steps)
    }

    #[test]
    fn a_client_has_data_sent_to_itself_and_nowhere_else() {
        let at = "127.0.0.1:51201".parse().unwrap();
        let line = "PORT 127,0,0,1,200,1\r\n";
        assert_eq!(
            client_says(&[line.as_bytes()]).unwrap(),
            [Step::Await(at), Step::ToServer(line.into())]
        );
        for line in [
            "PORT 10,0,0,9,200,1\r\n",
            "PORT x\r\n",
            "EPRT |2|::2|5000|\r\n",
        ] {
            let steps = client_says(&[line.as_bytes()]).unwrap();
            assert_eq!(steps.len(), 2);
            assert_eq!(steps[0], Step::RefusedAddress);
            assert!(
                matches!(&steps[1], Step::ToClient(no) if no.starts_with(b"501 UP-FTP-ADDRESS"))
            );
        }
    }

    #[test]
    fn tls_is_refused_with_words_and_the_conversation_goes_on() {
        let steps = client_says(&[b"AUTH TLS\r\nUSER bob\r\n"]).unwrap();
        assert_eq!(steps[0], Step::RefusedTls);
        assert!(matches!(&steps[1], Step::ToClient(no) if no.starts_with(b"534 UP-FTP-TLS")));
        assert_eq!(steps[2], Step::ToServer("USER bob\r\n".into()));
        assert_eq!(client_says(&[b"\x16\x03\x01\x02\x00"]), Err(Garbled::Tls));
    }

    #[test]
    fn ports_of_the_server_are_listened_for_and_all_else_is_passed_on() {
        let mut near = Near::new(CLIENT);
        let mut steps = Vec::new();
        let said = "220-hi\r\n227 text (1,2,3,4,200,1)\r\n220 end\r\n227 Passive (1,2,3,4,200,1)\r\n229 E (|||5000|)\r\n150 ok";
        near.server_says(said.as_bytes(), &mut steps).unwrap();
        let passive = |port, extended| Step::Listen(Passive { port, extended });
        assert_eq!(steps[3..], [passive(51201, false), passive(5000, true)]);
        assert!(
            steps[..3]
                .iter()
                .all(|step| matches!(step, Step::ToClient(_)))
        );
        assert_eq!(near.server_ends(), "150 ok");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(0usize..120, 0..12)) {
            let said = b"USER a\r\nAUTH TLS\r\nPORT 127,0,0,1,200,1\r\nPORT 9,9,9,9,200,1\r\nEPSV\r\nRETR x\r\n";
            let wanted = client_says(&[said]).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(said.len())).collect();
            cuts.extend([0, said.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &said[pair[0]..pair[1]]).collect();
            prop_assert_eq!(client_says(&pieces).unwrap(), wanted);
        }
    }
}
