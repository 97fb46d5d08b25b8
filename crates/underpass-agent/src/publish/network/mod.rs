//! A network that is published as one service: which hosts and ports of it, decided. Pure.
//!
//! What a peer asks for is checked twice: as it is named, before anybody looks the name up ([`Network::admit`]), and by the
//! addresses that were found ([`Network::choose`]). Only what this gives back is dialled, so a name that means something
//! else a moment later leads nowhere else.

mod dial;
mod never;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use thiserror::Error;
use underpass_proto::Code;
use underpass_proto::far_host::{FarHost, FarPort};
use underpass_proto::names;

use crate::connect::Block;

pub(super) use dial::dial;

/// What may be reached of a network: nothing that is not named here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    blocks: Vec<Block>,
    ports: Vec<RangeInclusive<u16>>,
    hosts: Vec<Hosts>,
}

/// Hosts that may be named, and not only given by their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// Those whose names end with this, after a dot.
    Below(String),
    One(String),
}

/// A text that says of no network what may be reached of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// This is no network.
    #[error("{0:?} is not a network, such as 10.0.0.0/8 or fd00::/8")]
    Network(String),
    /// Nothing in this network can be reached.
    #[error("{0} is never published: {1}")]
    Never(String, &'static str),
    /// This is no list of ports.
    #[error("{0:?} is not a list of ports, such as 22,443,8000-8099")]
    Ports(String),
    /// This is no list of hosts.
    #[error("{0:?} is not a list of names of hosts, such as db.corp,*.lab.corp, or * for all")]
    Hosts(String),
}

/// Why something is not reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("port {0} is not published")]
    Port(u16),
    #[error("the host {0} is not published by its name")]
    Name(String),
    #[error("{0} is in no network that is published")]
    Outside(IpAddr),
    #[error("{0} is never reached: {1}")]
    Never(IpAddr, &'static str),
    #[error("{0} has no address")]
    Unknown(String),
}

impl Refusal {
    /// The reason from the table of codes.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Port(_) => Code::PortNotListed,
            Self::Name(_) | Self::Outside(_) => Code::HostNotListed,
            Self::Never(..) => Code::HostForbidden,
            Self::Unknown(_) => Code::HostUnknown,
        }
    }
}

/// The pieces of a list with commas between; none is empty.
fn pieces(text: &str) -> Option<Vec<&str>> {
    let pieces: Vec<&str> = text.split(',').map(str::trim).collect();
    let sound = pieces.iter().all(|piece| !piece.is_empty());
    sound.then_some(pieces)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port: &u16| digits && *port != 0)
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        let sound = |name: &str| name.split('.').all(|label| names::check(label).is_ok());
        match text.strip_prefix('*') {
            Some("") => Some(Self::All),
            Some(rest) => {
                let below = rest.strip_prefix('.').filter(|name| sound(name))?;
                Some(Self::Below(below.to_owned()))
            }
            None => sound(text).then(|| Self::One(text.to_owned())),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(end) => name
                .strip_suffix(end.as_str())
                .is_some_and(|before| before.ends_with('.')),
            Self::One(one) => one == name,
        }
    }
}

impl Network {
    /// Reads lists with commas between: of networks, of ports, and of names of hosts, which may be empty: then hosts are
    /// reached by their addresses alone.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn parse(networks: &str, ports: &str, hosts: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Network(networks.to_owned());
        let listed = pieces(networks).ok_or_else(wrong)?.into_iter().map(|text| {
            let block: Block = text.parse().map_err(|_| wrong())?;
            match never::wholly(&block) {
                Some(why) => Err(NetworkError::Never(block.to_string(), why)),
                None => Ok(block),
            }
        });
        let blocks = listed.collect::<Result<_, _>>()?;
        let wrong = || NetworkError::Ports(ports.to_owned());
        let ranges = pieces(ports).ok_or_else(wrong)?.into_iter().map(range);
        let ports = ranges.collect::<Option<_>>().ok_or_else(wrong)?;
        let wrong = || NetworkError::Hosts(hosts.to_owned());
        let hosts = match hosts.trim() {
            "" => Vec::new(),
            list => {
                let list = list.to_ascii_lowercase();
                let read = pieces(&list).ok_or_else(wrong)?;
                let read = read.into_iter().map(Hosts::parse);
                read.collect::<Option<_>>().ok_or_else(wrong)?
            }
        };
        Ok(Self {
            blocks,
            ports,
            hosts,
        })
    }

    /// Whether what a peer asks for is published, as far as it can be told before a name is looked up.
    pub(super) fn admit(&self, to: &FarPort) -> Result<(), Refusal> {
        if !self.ports.iter().any(|range| range.contains(&to.port)) {
            return Err(Refusal::Port(to.port));
        }
        match &to.host {
            FarHost::Name(name) if !self.hosts.iter().any(|hosts| hosts.has(name)) => {
                Err(Refusal::Name(name.clone()))
            }
            FarHost::Name(_) | FarHost::Address(_) => Ok(()),
        }
    }

    /// Which of the addresses that were `found` for what a peer asks for are dialled. One that is never reached, or the
    /// publisher's own, in their midst is no mistake of a name server's: then none is.
    pub(super) fn choose(
        &self,
        to: &FarPort,
        found: &[IpAddr],
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let first = *found
            .first()
            .ok_or_else(|| Refusal::Unknown(to.host.to_string()))?;
        for address in found {
            if let Some(why) = never::why(*address) {
                return Err(Refusal::Never(*address, why));
            }
            if is_own(*address) {
                return Err(Refusal::Never(*address, never::OWN));
            }
        }
        let listed = |address: &IpAddr| self.blocks.iter().any(|block| block.has(*address));
        let chosen: Vec<IpAddr> = found.iter().copied().filter(listed).collect();
        match chosen.is_empty() {
            true => Err(Refusal::Outside(first)),
            false => Ok(chosen),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: Vec<String>| all.join(",");
        f.write_str(&list(self.blocks.iter().map(ToString::to_string).collect()))?;
        let ports = self
            .ports
            .iter()
            .map(|range| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            });
        write!(f, " ports {}", list(ports.collect()))?;
        if self.hosts.is_empty() {
            return Ok(());
        }
        let hosts = self.hosts.iter().map(|hosts| match hosts {
            Hosts::All => "*".to_owned(),
            Hosts::Below(end) => format!("*.{end}"),
            Hosts::One(name) => name.clone(),
        });
        write!(f, " hosts {}", list(hosts.collect()))
    }
}

#[cfg(test)]
mod tests;
