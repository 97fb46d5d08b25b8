//! Commands and replies that name addresses, and those that hide them (RFC 959, RFC 2428, RFC 4217). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

/// The lowest port that a data connection may be announced for: what is below belongs to services of the system
/// (RFC 2577 section 3).
const LOWEST_PORT: u16 = 1024;

/// A command, as far as it concerns the way of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// PASV.
    Passive,
    /// EPSV, but for the declaration `EPSV ALL`.
    ExtendedPassive,
    /// PORT or EPRT; nothing where its address cannot be read, or may not be used.
    Active(Option<SocketAddr>),
    /// AUTH: what follows can be read by the server alone.
    Protect,
    /// LPRT and LPSV, which no client of today needs (RFC 1639).
    Obsolete,
    /// Anything else.
    Other,
}

impl Command {
    /// Reads one line of the client.
    pub(super) fn read(line: &[u8]) -> Self {
        // A client that interrupts puts telnet's signals before the command (RFC 959, ABOR).
        let begin = line.iter().position(u8::is_ascii_alphabetic);
        let Some(text) = begin.and_then(|at| std::str::from_utf8(&line[at..]).ok()) else {
            return Self::Other;
        };
        let text = text.trim_end_matches(['\r', '\n', ' ']);
        let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
        let argument = argument.trim();
        match verb.to_ascii_uppercase().as_str() {
            "PASV" => Self::Passive,
            "EPSV" if argument.eq_ignore_ascii_case("all") => Self::Other,
            "EPSV" => Self::ExtendedPassive,
            "PORT" => Self::Active(six_numbers(argument).and_then(usable)),
            "EPRT" => Self::Active(extended(argument).and_then(usable)),
            "AUTH" => Self::Protect,
            "LPRT" | "LPSV" => Self::Obsolete,
            _ => Self::Other,
        }
    }
}

/// The command by which a server connects to `at`: the old form wherever it will do.
pub(super) fn active(at: SocketAddr) -> Bytes {
    let ip = at.ip().to_canonical();
    match ip {
        IpAddr::V4(ip) => format!("PORT {}\r\n", numbers(ip, at.port())),
        IpAddr::V6(ip) => format!("EPRT |2|{ip}|{}|\r\n", at.port()),
    }
    .into()
}

/// A reply that names a port to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passive {
    /// The port. Of the address nothing is kept: it is the server's own (RFC 2577 section 3), whatever it says, and one
    /// behind address translation may not know it.
    pub(super) port: u16,
    /// Whether it answers EPSV.
    pub(super) extended: bool,
}

impl Passive {
    /// Reads one line of the server.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(line);
        if let Some(text) = text.strip_prefix("227 ") {
            // RFC 1123 section 4.1.2.6: look for digits, whatever stands around them.
            let begin = text.find(|c: char| c.is_ascii_digit())?;
            let end = text[begin..].find(|c: char| !c.is_ascii_digit() && c != ',');
            let end = end.map_or(text.len(), |end| begin + end);
            let at = usable(six_numbers(&text[begin..end])?)?;
            return Some(Self {
                port: at.port(),
                extended: false,
            });
        }
        // RFC 2428 section 3: (<d><d><d>port<d>)
        let (_, inside) = text.strip_prefix("229 ")?.split_once('(')?;
        let (inside, _) = inside.split_once(')')?;
        let mark = inside.chars().next()?;
        let port = inside.strip_prefix(&mark.to_string().repeat(3))?;
        let port = number(port.strip_suffix(mark)?)?;
        Some(Self {
            port: usable_port(port)?,
            extended: true,
        })
    }

    /// The reply of the same form that leads to `at`; EPSV's names no host, for there it is the control connection's.
    pub(super) fn leading_to(self, at: SocketAddr) -> Bytes {
        match (self.extended, at.ip().to_canonical()) {
            (false, IpAddr::V4(ip)) => {
                let numbers = numbers(ip, at.port());
                format!("227 Entering Passive Mode ({numbers}).\r\n").into()
            }
            (true, _) => {
                format!("229 Entering Extended Passive Mode (|||{}|)\r\n", at.port()).into()
            }
            // What the client asked for has no words for where it must go.
            (false, IpAddr::V6(_)) => Bytes::from_static(
                b"425 UP-FTP-ADDRESS: PASV has no words for an IPv6 address; use EPSV\r\n",
            ),
        }
    }
}

/// Where a reply of several lines stands (RFC 959 section 4.2).
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// The code of the one that goes on.
    inside: Option<[u8; 3]>,
}

impl Reply {
    /// Takes in one line; whether it says something by itself, and is no text inside another reply.
    pub(super) fn is_whole(&mut self, line: &[u8]) -> bool {
        let code = line
            .first_chunk::<3>()
            .filter(|code| code.iter().all(u8::is_ascii_digit));
        match (self.inside, code, line.get(3)) {
            (None, Some(code), Some(b'-')) => {
                self.inside = Some(*code);
                false
            }
            (None, ..) => true,
            (Some(inside), Some(code), mark) if inside == *code && mark != Some(&b'-') => {
                self.inside = None;
                false
            }
            (Some(_), ..) => false,
        }
    }
}

/// `h1,h2,h3,h4,p1,p2`
fn six_numbers(text: &str) -> Option<SocketAddr> {
    let mut parts = text.split(',').map(|part| number::<u8>(part.trim()));
    let mut next = || parts.next().flatten();
    let ip = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    let port = u16::from_be_bytes([next()?, next()?]);
    parts.next().is_none().then(|| (ip, port).into())
}

/// `<d>1<d>10.0.0.1<d>50000<d>`, and 2 for IPv6.
fn extended(text: &str) -> Option<SocketAddr> {
    let mark = text.chars().next().filter(|mark| !mark.is_alphanumeric())?;
    let inside = text.strip_prefix(mark)?.strip_suffix(mark)?;
    let mut parts = inside.split(mark);
    let (family, ip, port) = (parts.next()?, parts.next()?, parts.next()?);
    let ip: IpAddr = match family {
        "1" => ip.parse::<Ipv4Addr>().ok()?.into(),
        "2" => ip.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let port = number(port)?;
    parts.next().is_none().then(|| (ip, port).into())
}

/// Digits and nothing else: the standard library takes a sign as well.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn usable(at: SocketAddr) -> Option<SocketAddr> {
    usable_port(at.port()).map(|_| at)
}

fn usable_port(port: u16) -> Option<u16> {
    (port >= LOWEST_PORT).then_some(port)
}

fn numbers(ip: Ipv4Addr, port: u16) -> String {
    let [a, b, c, d] = ip.octets();
    let [high, low] = port.to_be_bytes();
    format!("{a},{b},{c},{d},{high},{low}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn commands() {
        for (line, command) in [
            ("PASV\r\n", Command::Passive),
            ("pasv\n", Command::Passive),
            ("EPSV\r\n", Command::ExtendedPassive),
            ("EPSV 2\r\n", Command::ExtendedPassive),
            ("EPSV ALL\r\n", Command::Other),
            ("AUTH TLS\r\n", Command::Protect),
            ("auth ssl\r\n", Command::Protect),
            ("LPSV\r\n", Command::Obsolete),
            (
                "PORT 10,0,0,2,200,1\r\n",
                Command::Active(at("10.0.0.2:51201")),
            ),
            (
                "EPRT |1|10.0.0.2|5282|\r\n",
                Command::Active(at("10.0.0.2:5282")),
            ),
            (
                "EPRT |2|fe80::1|5282|\r\n",
                Command::Active(at("[fe80::1]:5282")),
            ),
            // Reserved ports, and what cannot be read.
            ("PORT 10,0,0,2,0,22\r\n", Command::Active(None)),
            ("PORT 10,0,0,2,200\r\n", Command::Active(None)),
            ("PORT 10,0,0,2,200,1,1\r\n", Command::Active(None)),
            ("PORT 10,0,0,256,200,1\r\n", Command::Active(None)),
            ("PORT +1,0,0,2,200,1\r\n", Command::Active(None)),
            ("PORT\r\n", Command::Active(None)),
            ("EPRT |3|10.0.0.2|5282|\r\n", Command::Active(None)),
            ("EPRT |1|fe80::1|5282|\r\n", Command::Active(None)),
            ("EPRT |1|10.0.0.2|5282\r\n", Command::Active(None)),
            ("EPRT 1\r\n", Command::Active(None)),
            ("RETR PASV\r\n", Command::Other),
            ("\r\n", Command::Other),
            ("RETR caf\u{e9}\r\n", Command::Other),
        ] {
            assert_eq!(Command::read(line.as_bytes()), command, "{line:?}");
        }
        let interrupted = b"\xff\xf4\xff\xf2ABOR\r\n";
        assert_eq!(Command::read(interrupted), Command::Other);
        let hidden = b"\xff\xf4\xff\xf2PORT 1,2,3,4,200,1\r\n";
        assert_eq!(Command::read(hidden), Command::Active(at("1.2.3.4:51201")));
    }

    #[test]
    fn replies_that_name_a_port() {
        let read = |line: &str| Passive::read(line.as_bytes()).map(|it| (it.port, it.extended));
        for (line, found) in [
            (
                "227 Entering Passive Mode (10,0,0,2,200,1).\r\n",
                Some((51201, false)),
            ),
            ("227 =10,0,0,2,200,1\r\n", Some((51201, false))),
            (
                "227 Entering Passive Mode. 10,0,0,2,200,1\r\n",
                Some((51201, false)),
            ),
            ("229 Extended (|||6446|)\r\n", Some((6446, true))),
            ("229 Extended (!!!6446!)\r\n", Some((6446, true))),
            ("227 Entering Passive Mode (10,0,0,2,0,22).\r\n", None),
            ("229 Extended (|||22|)\r\n", None),
            ("229 Extended (||6446|)\r\n", None),
            ("229 Extended (|||6446)\r\n", None),
            ("229 Extended (|||70000|)\r\n", None),
            ("229 ()\r\n", None),
            ("227 none\r\n", None),
            ("226 (10,0,0,2,200,1)\r\n", None),
        ] {
            assert_eq!(read(line), found, "{line:?}");
        }
    }

    /// A text inside a reply of several lines names nothing, whatever it looks like.
    #[test]
    fn text_inside_a_reply_is_no_reply() {
        let mut reply = Reply::default();
        let whole: Vec<bool> = [
            "220-Welcome\r\n",
            "227 Entering Passive Mode (10,0,0,2,200,1)\r\n",
            "220-\r\n",
            "220 ready\r\n",
            "227 Entering Passive Mode (10,0,0,2,200,1)\r\n",
        ]
        .iter()
        .map(|line| reply.is_whole(line.as_bytes()))
        .collect();
        assert_eq!(whole, [false, false, false, false, true]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ip: IpAddr, port in LOWEST_PORT.., extended: bool) {
            let at = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(Command::read(&active(at)), Command::Active(Some(at)));
            let passive = Passive { port, extended };
            let leads = passive.leading_to(at);
            let read = Passive::read(&leads);
            prop_assert_eq!(read, (extended || at.is_ipv4()).then_some(passive));
        }

        #[test]
        fn garbage_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Command::read(&bytes), Passive::read(&bytes), Reply::default().is_whole(&bytes));
            for before in ["PORT ", "EPRT ", "EPRT |", "227 ", "229 (", "229 (|||"] {
                let line = [before.as_bytes(), &bytes].concat();
                let _ = (Command::read(&line), Passive::read(&line));
            }
        }
    }
}
