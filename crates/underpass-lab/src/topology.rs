//! Networks from namespaces.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::firewall::{Firewall, INSIDE, OUTSIDE, Policy};
use crate::harness;
use crate::host::Host;
use crate::link::{End, Link};
use crate::namespace::{Namespace, available};

/// The public network: TEST-NET-3 (RFC 5737), which no real host uses.
const PUBLIC: [u8; 3] = [203, 0, 113];
/// The bridge that is the public network's switch.
const SWITCH: &str = "switch";

/// What a cable is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// A plain one, as fast as the kernel is.
    Plain,
    /// One with a box in it that can delay, lose, hold and reset (see [`ImpairBox`](crate::ImpairBox)); the number
    /// seeds its losses. Slower than a plain one even when the box does nothing.
    Boxed(u64),
}

/// A public network, to which hosts and firewalls are added. Everything in it ends when it and the handles of its hosts
/// are dropped.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// use underpass_lab::{Cable, Lab, Policy};
/// let mut lab = Lab::new()?;
/// let relay = lab.public_host("relay", Cable::Plain)?;
/// let office = lab.firewall("office", &Policy::web(), Cable::Boxed(1))?;
/// let publisher = lab.private_host("publisher", &office)?;
/// # Ok(())
/// # }
/// ```
pub struct Lab {
    logs: PathBuf,
    switch: Arc<Namespace>,
    public_hosts: u8,
    firewalls: u8,
}

impl Lab {
    /// A public network with nobody on it.
    ///
    /// # Errors
    /// `Skip` where this process may not make namespaces.
    pub fn new() -> Result<Self> {
        available()?;
        let logs = harness::log_folder()?;
        let switch = Arc::new(Namespace::create("net")?);
        switch.set("bridge/bridge-nf-call-iptables", "0")?;
        switch.ip(&format!(
            "link add {SWITCH} type bridge\nlink set {SWITCH} up"
        ))?;
        Ok(Self {
            logs,
            switch,
            public_hosts: 0,
            firewalls: 0,
        })
    }

    /// Adds a host with a public address and no firewall.
    ///
    /// # Errors
    /// `name` is longer than an interface's name may be, or the kernel refuses.
    pub fn public_host(&mut self, name: &str, cable: Cable) -> Result<Host> {
        let (namespace, address, link) = self.attach(name, "eth0", cable)?;
        Ok(Host::new(name, address, namespace, link, self.logs.clone()))
    }

    /// Adds a firewall with a private network behind it that has no hosts yet.
    ///
    /// # Errors
    /// As [`Lab::public_host`].
    pub fn firewall(&mut self, name: &str, policy: &Policy, cable: Cable) -> Result<Firewall> {
        let (namespace, address, link) = self.attach(name, OUTSIDE, cable)?;
        self.firewalls += 1;
        let private = [10, self.firewalls, 0];
        let [a, b, c] = private;
        namespace.ip(&format!(
            "link add {INSIDE} type bridge\naddr add {a}.{b}.{c}.1/24 dev {INSIDE}\nlink set {INSIDE} up"
        ))?;
        Firewall::new(name, namespace, address, private, link, policy)
    }

    /// Adds a host to the private network behind `firewall`.
    ///
    /// # Errors
    /// As [`Lab::public_host`].
    pub fn private_host(&mut self, name: &str, firewall: &Firewall) -> Result<Host> {
        let namespace = Arc::new(Namespace::create(name)?);
        let (address, gateway) = firewall.next_address();
        let near = End {
            namespace: Arc::clone(&namespace),
            interface: "eth0".into(),
        };
        let far = End {
            namespace: firewall.shared_namespace(),
            interface: port(name)?,
        };
        let link = Link::wire(near, far, address)?;
        plug(&link, INSIDE)?;
        namespace.ip(&format!("route add default via {gateway}"))?;
        Ok(Host::new(name, address, namespace, link, self.logs.clone()))
    }

    /// The machine that `firewall` is, to run a proxy on: programs of the private network reach it at this host's
    /// address, and what it sends out itself is not filtered.
    pub fn gateway(&self, firewall: &Firewall) -> Host {
        Host::new(
            firewall.name(),
            firewall.inner_address(),
            firewall.shared_namespace(),
            firewall.link().clone(),
            self.logs.clone(),
        )
    }

    /// The folder for logs and captures of this test.
    pub fn logs(&self) -> &std::path::Path {
        &self.logs
    }

    /// Makes a namespace whose interface `interface` is on the public network.
    fn attach(
        &mut self,
        name: &str,
        interface: &str,
        cable: Cable,
    ) -> Result<(Arc<Namespace>, Ipv4Addr, Link)> {
        self.public_hosts += 1;
        let [a, b, c] = PUBLIC;
        let address = Ipv4Addr::new(a, b, c, self.public_hosts);
        let namespace = Arc::new(Namespace::create(name)?);
        let near = End {
            namespace: Arc::clone(&namespace),
            interface: interface.into(),
        };
        let far = End {
            namespace: Arc::clone(&self.switch),
            interface: port(name)?,
        };
        let link = match cable {
            Cable::Plain => Link::wire(near, far, address)?,
            Cable::Boxed(seed) => Link::boxed(near, far, address, seed)?,
        };
        plug(&link, SWITCH)?;
        Ok((namespace, address, link))
    }
}

/// The name of a switch's interface to `host`.
fn port(host: &str) -> Result<String> {
    // IFNAMSIZ is 16 with the closing zero (netdevice(7)).
    ensure!(
        host.len() <= 13,
        "the name {host} is longer than 13 characters"
    );
    Ok(format!("p-{host}"))
}

/// Gives the near end its address and puts the far end into the bridge `switch`.
fn plug(link: &Link, switch: &str) -> Result<()> {
    let (near, far, address) = (&link.near, &link.far, link.address);
    let port = &far.interface;
    far.namespace.ip(&format!(
        "link set {port} master {switch}\nlink set {port} up"
    ))?;
    let interface = &near.interface;
    near.namespace.ip(&format!(
        "addr add {address}/24 dev {interface}\nlink set {interface} up"
    ))
}

/// Two private networks, each behind its own firewall that lets only web traffic out, and a relay between them.
pub struct TwoFirewalls {
    /// The publisher's machine, behind [`TwoFirewalls::firewall_a`].
    pub a: Host,
    /// The client's machine, behind [`TwoFirewalls::firewall_b`].
    pub b: Host,
    /// The relay's machine, on the public network.
    pub relay: Host,
    /// What stands before `a`.
    pub firewall_a: Firewall,
    /// What stands before `b`.
    pub firewall_b: Firewall,
    /// The network itself, to add more to.
    pub lab: Lab,
}

impl TwoFirewalls {
    /// With plain cables.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn new() -> Result<Self> {
        Self::with(&Policy::web(), Cable::Plain, Cable::Plain)
    }

    /// With the given policy on both firewalls, and the given cables between the firewalls and the public network.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with(policy: &Policy, cable_a: Cable, cable_b: Cable) -> Result<Self> {
        let mut lab = Lab::new()?;
        let relay = lab.public_host("relay", Cable::Plain)?;
        let firewall_a = lab.firewall("fwa", policy, cable_a)?;
        let firewall_b = lab.firewall("fwb", policy, cable_b)?;
        let a = lab.private_host("a", &firewall_a)?;
        let b = lab.private_host("b", &firewall_b)?;
        Ok(Self {
            a,
            b,
            relay,
            firewall_a,
            firewall_b,
            lab,
        })
    }
}
