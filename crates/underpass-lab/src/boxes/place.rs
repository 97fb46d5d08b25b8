//! Where a box stands between the client and the relay, and a scene in which nothing gets past it.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use underpass_lab::boxes::{Enclosed, Installed, Place, Tinyproxy};
//! use underpass_lab::Options;
//! let place = Place::Gateway(|gate| {
//!     let proxy = Tinyproxy::start(gate, 8888)?;
//!     Ok(Installed::proxy(proxy.address(), None, proxy))
//! });
//! let enclosed = Enclosed::start(&place, Duration::from_millis(50), Options::default())?;
//! # drop(enclosed);
//! # Ok(())
//! # }
//! ```

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::Stubborn;
use crate::firewall::Policy;
use crate::host::Host;
use crate::scene::{Options, Scene};
use crate::topology::{Cable, Lab, TwoFirewalls};
use crate::tunnel::Told;

/// Where a box stands.
#[derive(Clone)]
pub enum Place {
    /// There is none; the client's firewall lets this out.
    Nowhere(Policy),
    /// On the client's firewall, which forwards nothing: a forward proxy.
    Gateway(fn(&Host) -> Result<Installed>),
    /// In front of the relay, as the only address that the client's firewall lets web traffic out to: a reverse proxy.
    /// It is given the relay's address.
    Front(fn(&Host, SocketAddr) -> Result<Installed>),
}

/// A box that runs until this is dropped, and what an agent behind it is told.
pub struct Installed {
    told: Told,
    stubborn: Option<Stubborn>,
    _running: Box<dyn Any + Send + Sync>,
}

impl Installed {
    /// A forward proxy at `address`. The agent finds it in `http_proxy` and `https_proxy`, with user name and password
    /// when `login` gives them.
    pub fn proxy(
        address: SocketAddr,
        login: Option<(&str, &str)>,
        running: impl Any + Send + Sync,
    ) -> Self {
        Self::speaking("http", address, login, running)
    }

    /// As [`Installed::proxy`], where `scheme` says what is spoken to it: `http`, `https` or `socks5`.
    pub fn speaking(
        scheme: &str,
        address: SocketAddr,
        login: Option<(&str, &str)>,
        running: impl Any + Send + Sync,
    ) -> Self {
        let login = login.map_or(String::new(), |(user, password)| {
            format!("{}:{}@", percent_encoded(user), percent_encoded(password))
        });
        let url = format!("{scheme}://{login}{address}");
        let told = Told {
            environment: ["http_proxy", "https_proxy"]
                .map(|name| (name.to_owned(), url.clone()))
                .into(),
            relay: None,
        };
        Self::telling(told, running)
    }

    /// A reverse proxy at `address`, which is what the agent takes for the relay.
    pub fn front(address: SocketAddr, running: impl Any + Send + Sync) -> Self {
        let told = Told {
            relay: Some(format!("http://{address}")),
            ..Told::default()
        };
        Self::telling(told, running)
    }

    /// A stubborn proxy; as [`Installed::proxy`].
    pub fn stubborn(proxy: Stubborn, login: Option<(&str, &str)>) -> Self {
        Self {
            stubborn: Some(proxy.clone()),
            ..Self::proxy(proxy.address(), login, ())
        }
    }

    /// A box of which the agent is told this.
    pub fn telling(told: Told, running: impl Any + Send + Sync) -> Self {
        Self {
            told,
            stubborn: None,
            _running: Box::new(running),
        }
    }

    /// The same box, and the agent also has this variable in its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.told.environment.push((name.into(), value.into()));
        self
    }
}

/// A scene whose client reaches the relay only through a box.
pub struct Enclosed {
    /// The relay and both agents; the client is told of the box.
    pub scene: Scene,
    /// The proxy, when it is the one that was written for the tests.
    pub stubborn: Option<Stubborn>,
    /// The reverse proxy's machine.
    pub front: Option<Host>,
    /// What the client is told of its network.
    pub told: Told,
    /// Dropped last: agents come before what they go through.
    _installed: Option<Installed>,
}

impl Enclosed {
    /// Sets it up, with a round trip of `delay` between the client's firewall and the public network.
    ///
    /// # Errors
    /// A program failed; or `Skip` when a box is not installed.
    pub fn start(place: &Place, delay: Duration, mut options: Options) -> Result<Self> {
        let mut lab = Lab::new()?;
        let relay = lab.public_host("relay", Cable::Plain)?;
        let onward = SocketAddr::from((relay.address(), options.relay.port));
        let (policy, front, installed) = match place {
            Place::Nowhere(policy) => (policy.clone(), None, None),
            Place::Gateway(_) => (Policy::nothing(), None, None),
            Place::Front(start) => {
                let host = lab.public_host("front", Cable::Plain)?;
                let installed = start(&host, onward)?;
                (Policy::only_to(host.address()), Some(host), Some(installed))
            }
        };
        let firewall_a = lab.firewall("fwa", &Policy::web(), Cable::Plain)?;
        let cable = if delay.is_zero() {
            Cable::Plain
        } else {
            Cable::Boxed(1)
        };
        let firewall_b = lab.firewall("fwb", &policy, cable)?;
        if let Some(impair) = firewall_b.link().impair() {
            impair.both(|line| line.delay = delay / 2);
        }
        let installed = match place {
            Place::Gateway(start) => Some(start(&lab.gateway(&firewall_b))?),
            _ => installed,
        };
        if let Some(installed) = &installed {
            options.client = installed.told.clone();
        }
        let told = options.client.clone();
        let net = TwoFirewalls {
            a: lab.private_host("a", &firewall_a)?,
            b: lab.private_host("b", &firewall_b)?,
            relay,
            firewall_a,
            firewall_b,
            lab,
        };
        Ok(Self {
            scene: Scene::start(net, &options)?,
            told,
            front,
            stubborn: installed.as_ref().and_then(|box_| box_.stubborn.clone()),
            _installed: installed,
        })
    }
}

/// Escapes what may not stand in the user part of a URL (RFC 3986 section 3.2.1).
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_escaped_in_the_address_of_a_proxy() {
        let at = SocketAddr::from(([10, 2, 0, 1], 3128));
        let installed = Installed::proxy(at, Some(("LAB\\clerk", "Tr0ub4dor&3")), ());
        let (name, value) = &installed.told.environment[0];
        assert_eq!(name, "http_proxy");
        assert_eq!(value, "http://LAB%5Cclerk:Tr0ub4dor%263@10.2.0.1:3128");
    }
}
