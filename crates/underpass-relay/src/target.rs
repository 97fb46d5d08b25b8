//! Services that the relay reaches itself: it is the far end, and dials them.

use std::str::FromStr;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use tokio::net::{TcpStream, UdpSocket};
use underpass_endpoint::flow::{Arrived, Flow, FlowEnd, FlowSettings, Outside};
use underpass_endpoint::splice::{HostSide, Way};
use underpass_endpoint::{ChannelError, Incoming, dial, splice};
use underpass_proto::Code;
use underpass_proto::frame::ChannelKind;
use underpass_store::{Enrolled, Name, NameError, Who};

use crate::direct::Direct;

/// The owner's label in the names of the relay's own services. No user can have this name.
pub const RELAY_OWNER: &str = "relay";
/// How long a target may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// A service that the relay dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayService {
    /// Its name; its full name is `NAME.relay` and the suffix.
    pub name: Name,
    /// Where it is, as the relay reaches it.
    pub target: HostPort,
    /// Who may use it. Empty: nobody.
    pub allow: Vec<Who>,
    /// Whether channels to it may be compressed.
    pub compression: bool,
}

impl RelayService {
    /// Whether somebody may use it.
    #[must_use]
    pub fn allows(&self, caller: &Enrolled) -> bool {
        self.allow.iter().any(|who| match who {
            Who::Everyone => true,
            Who::Role(role) => *role == caller.user.role,
            Who::User(name) => *name == caller.user.name,
            Who::Machine(key) => *key == caller.machine.key,
        })
    }
}

/// A host's name or address, and a port: of TCP, or of UDP where `udp:` stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort(String);

/// A text that is not a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not HOST:PORT, such as 127.0.0.1:5432 or db.example:5432, for UDP with udp: before it"
)]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || HostPortError(text.to_owned());
        let (_, at) = dial::transport(text);
        let (host, port) = at.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let sound = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                !host.is_empty() && host.chars().all(allowed)
            }
        };
        match port.parse::<u16>() {
            Ok(1..) if sound => Ok(Self(text.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What became of a channel to a service of the relay's own, seen from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Bytes to the service.
    pub(crate) sent: u64,
    /// Bytes from the service.
    pub(crate) received: u64,
    /// How it ended.
    pub(crate) code: Code,
}

impl Served {
    fn refused(code: Code) -> Self {
        Self {
            sent: 0,
            received: 0,
            code,
        }
    }
}

/// What a name means among the relay's own services.
///
/// # Errors
/// The text is no name of a service.
pub(crate) fn find<'a>(
    services: &'a [RelayService],
    text: &str,
) -> Result<Option<&'a RelayService>, NameError> {
    let name = match text.split_once('.') {
        None => text,
        Some((name, RELAY_OWNER)) => name,
        Some(_) => return Ok(None),
    };
    let name = Name::new(name)?;
    Ok(services.iter().find(|service| service.name == name))
}

/// Dials the target of `service` and moves bytes until both sides are done; a target that does not
/// answer is refused with the reason that the dial gave. Where the client wants the channel to go on
/// with another service, `find` says whether it may. What passed, and how it ended; `direct` is told while it passes, and
/// may end it.
pub(crate) async fn serve<F>(
    incoming: Incoming,
    service: RelayService,
    direct: &Direct,
    find: impl Fn(String) -> F + Clone + Send + Sync + 'static,
) -> Served
where
    F: Future<Output = Result<RelayService, Code>> + Send,
{
    let (kind, _) = dial::transport(&service.target.0);
    let connected = match incoming.kind() {
        wanted if wanted != kind => Err(Code::OtherTransport),
        ChannelKind::Stream => connect(&service).await,
        ChannelKind::Datagram => return serve_datagrams(incoming, &service, direct).await,
    };
    let tcp = match connected {
        Ok(tcp) => tcp,
        Err(code) => {
            incoming.refuse(code);
            return Served::refused(code);
        }
    };
    let host = Target { find, direct };
    let report = splice::splice_host(incoming.accept(), tcp, host).await;
    if let Some(error) = &report.error {
        tracing::debug!(service = %service.name, "connection broke: {error}");
    }
    Served {
        sent: report.received,
        received: report.sent,
        code: match report.error {
            None => Code::NoError,
            Some(_) => direct.end_code().unwrap_or(Code::Aborted),
        },
    }
}

/// The target of a service as one side of a channel.
struct Target<'a, F> {
    find: F,
    direct: &'a Direct,
}

impl<F, D> HostSide for Target<'_, F>
where
    F: Fn(String) -> D + Sync,
    D: Future<Output = Result<RelayService, Code>> + Send,
{
    fn dial(
        &self,
        service: Option<String>,
    ) -> impl Future<Output = Result<TcpStream, Code>> + Send {
        let finding = service.map(&self.find);
        async {
            match finding {
                Some(finding) => connect(&finding.await?).await,
                None => Err(Code::NoService),
            }
        }
    }

    async fn cut(&self) {
        std::future::pending().await
    }

    fn passes(&self, way: Way, bytes: usize) -> impl Future<Output = ()> + Send {
        self.direct.passes(way, bytes)
    }

    fn end(&self) -> impl Future<Output = Code> + Send {
        self.direct.ended()
    }
}

/// A target that takes datagrams.
struct Measured<'a> {
    socket: UdpSocket,
    direct: &'a Direct,
}

impl Outside for Measured<'_> {
    async fn next(&mut self) -> io::Result<Option<Arrived>> {
        let next = self.socket.next().await?;
        if let Some(arrived) = &next {
            self.direct.passes(Way::FromHost, arrived.data.len()).await;
        }
        Ok(next)
    }

    async fn give(&mut self, data: Bytes) -> io::Result<()> {
        self.direct.passes(Way::ToHost, data.len()).await;
        self.socket.give(data).await
    }
}

/// One flow, until nothing has passed for a while.
async fn serve_datagrams(incoming: Incoming, service: &RelayService, direct: &Direct) -> Served {
    let (_, at) = dial::transport(&service.target.0);
    let socket = match dial::dial_udp(at, DIAL_LIMIT).await {
        Ok(socket) => socket,
        Err(error) => {
            let code = not_reached(service, &error);
            incoming.refuse(code);
            return Served::refused(code);
        }
    };
    let mut outside = Measured { socket, direct };
    let mut flow = Flow::new(incoming.accept(), FlowSettings::default());
    let end = tokio::select! {
        end = flow.carry(&mut outside) => end,
        code = direct.ended() => FlowEnd::Channel(ChannelError::Stopped(code.number())),
    };
    let code = end.code();
    let report = flow.end(&end);
    tracing::debug!(service = %service.name, %report, "a flow ended");
    Served {
        sent: report.received_bytes,
        received: report.sent_bytes,
        code,
    }
}

async fn connect(service: &RelayService) -> Result<TcpStream, Code> {
    let (kind, at) = dial::transport(&service.target.0);
    if kind != ChannelKind::Stream {
        return Err(Code::OtherTransport);
    }
    let dialled = dial::dial(at, DIAL_LIMIT).await;
    dialled.map_err(|error| not_reached(service, &error))
}

fn not_reached(service: &RelayService, error: &dial::DialError) -> Code {
    tracing::info!(service = %service.name, "{error}");
    error.code()
}

#[cfg(test)]
mod tests {
    use underpass_store::Role;

    use super::*;

    #[test]
    fn hosts_and_ports() {
        for text in [
            "127.0.0.1:80",
            "db.example:5432",
            "[::1]:22",
            "a_b-c:1",
            "udp:10.0.0.53:53",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:70000",
            "::1:22",
            "[x]:1",
            "a b:1",
            "[::1]",
            "udp:",
            "udp:udp:h:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn closed_unless_somebody_is_allowed() {
        let name = |text| Name::new(text).unwrap();
        let service = |allow: Vec<Who>| RelayService {
            name: name("web"),
            target: "127.0.0.1:80".parse().unwrap(),
            allow,
            compression: true,
        };
        let member = |user| {
            let mut member = crate::policy::tests::member(Role::User);
            member.user.name = name(user);
            member
        };
        assert!(!service(vec![]).allows(&member("alice")));
        assert!(service(vec![Who::Everyone]).allows(&member("alice")));
        let managers = service(vec![Who::Role(Role::Manager)]);
        assert!(!managers.allows(&member("alice")));
        assert!(managers.allows(&crate::policy::tests::member(Role::Manager)));
        let some = service(vec![Who::User(name("bob"))]);
        assert!(some.allows(&member("bob")) && !some.allows(&member("alice")));
        let services = [some];
        let found = |text| find(&services, text).unwrap().is_some();
        assert!(found("web") && found("web.relay"));
        assert!(!found("web.alice") && !found("db"));
        assert!(find(&services, "WEB").is_err());
    }
}
