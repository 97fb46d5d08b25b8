//! A firewall between a private network and the public one.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::link::Link;
use crate::namespace::Namespace;

/// What a firewall lets out. Nothing new ever comes in, and answers to what went out always do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// TCP ports that may be called outside.
    pub tcp: Vec<u16>,
    /// UDP ports that may be called outside.
    pub udp: Vec<u16>,
    /// The one address that may be called; any when it is not given.
    pub to: Option<Ipv4Addr>,
}

impl Policy {
    /// Web traffic: TCP to ports 80, 443 and 8080.
    pub fn web() -> Self {
        Self {
            tcp: vec![80, 443, 8080],
            ..Self::default()
        }
    }

    /// Nothing at all: whoever is behind it needs a proxy that runs on the firewall (see [`Lab::gateway`](crate::Lab::gateway)).
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Web traffic to one address.
    pub fn only_to(address: Ipv4Addr) -> Self {
        Self {
            to: Some(address),
            ..Self::web()
        }
    }

    /// Web traffic with HTTP/3: as [`Policy::web`], and UDP to port 443.
    pub fn web_and_quic() -> Self {
        Self {
            udp: vec![443],
            ..Self::web()
        }
    }
}

/// What happens to the packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Drop,
    Reset,
}

/// What the firewall does to flows at present. Each flow is marked with the generation in which it began, so that
/// "all that exist now" can be told from those that come after.
#[derive(Debug)]
struct Faults {
    generation: u32,
    /// What happens to flows of earlier generations.
    old: Verdict,
    /// What happens to every flow.
    all: Verdict,
    /// Whether UDP vanishes.
    udp_vanishes: bool,
}

/// A machine that masquerades a private network, drops whatever its [`Policy`] does not allow, and can break flows.
/// Clones are handles of the same one.
#[derive(Clone)]
pub struct Firewall {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    namespace: Arc<Namespace>,
    public: Ipv4Addr,
    private: [u8; 3],
    link: Link,
    faults: Mutex<Faults>,
    hosts: Mutex<u8>,
}

/// A redirection by [`Firewall::redirect`]; ends when it is dropped.
pub struct Redirect {
    namespace: Arc<Namespace>,
}

impl Drop for Redirect {
    fn drop(&mut self) {
        // Nothing depends on it when the lab ends too.
        let _ = self.namespace.nft("delete table ip diverted\n");
    }
}

/// Name of the bridge that joins the private network, and of the interface outside.
pub(crate) const INSIDE: &str = "lan";
pub(crate) const OUTSIDE: &str = "wan";

impl Firewall {
    /// Makes `namespace`, whose interfaces are up and addressed, a firewall. `private` is the /24 behind it.
    pub(crate) fn new(
        name: &str,
        namespace: Arc<Namespace>,
        public: Ipv4Addr,
        private: [u8; 3],
        link: Link,
        policy: &Policy,
    ) -> Result<Self> {
        namespace.set("ipv4/ip_forward", "1")?;
        // Packets between two hosts of the private network are the switch's business, not the filter's.
        namespace.set("bridge/bridge-nf-call-iptables", "0")?;
        namespace.nft(&rules(policy))?;
        let faults = Faults {
            generation: 1,
            old: Verdict::Pass,
            all: Verdict::Pass,
            udp_vanishes: false,
        };
        let shared = Shared {
            name: name.into(),
            namespace,
            public,
            private,
            link,
            faults: Mutex::new(faults),
            hosts: Mutex::new(0),
        };
        let firewall = Self {
            shared: Arc::new(shared),
        };
        firewall.change(|_| {})?;
        Ok(firewall)
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The one address that all its private hosts have outside.
    pub fn address(&self) -> Ipv4Addr {
        self.shared.public
    }

    /// The private network's prefix; its length is 24.
    pub fn private_network(&self) -> Ipv4Addr {
        let [a, b, c] = self.shared.private;
        Ipv4Addr::new(a, b, c, 0)
    }

    /// The cable to the public network.
    pub fn link(&self) -> &Link {
        &self.shared.link
    }

    /// The namespace that it is.
    pub fn namespace(&self) -> &Namespace {
        &self.shared.namespace
    }

    /// Resets every TCP flow that exists now: whichever side sends next is told that the connection is gone. Flows of
    /// other protocols are dropped. New flows pass.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn reset_flows(&self) -> Result<()> {
        self.condemn(Verdict::Reset)
    }

    /// Forgets every flow that exists now, as a firewall does that restarts: their packets vanish and nobody is told.
    /// New flows pass.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn forget_flows(&self) -> Result<()> {
        self.condemn(Verdict::Drop)
    }

    /// Lets every packet vanish, both ways, until [`Firewall::open`].
    ///
    /// # Errors
    /// The lab is gone.
    pub fn black_hole(&self) -> Result<()> {
        self.change(|faults| faults.all = Verdict::Drop)
    }

    /// Answers every TCP packet, both ways, with a reset, new connections included, until [`Firewall::open`].
    ///
    /// # Errors
    /// The lab is gone.
    pub fn refuse(&self) -> Result<()> {
        self.change(|faults| faults.all = Verdict::Reset)
    }

    /// Lets every UDP packet vanish, both ways, or no longer.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn swallow_udp(&self, vanishes: bool) -> Result<()> {
        self.change(|faults| faults.udp_vanishes = vanishes)
    }

    /// Ends [`Firewall::black_hole`] and [`Firewall::refuse`]. Flows that were forgotten or reset stay so.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn open(&self) -> Result<()> {
        self.change(|faults| faults.all = Verdict::Pass)
    }

    /// Sends what is meant for `from` to `to` instead, until the value is dropped: new flows only.
    ///
    /// # Errors
    /// The kernel cannot redirect.
    pub fn redirect(&self, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Result<Redirect> {
        let namespace = self.shared_namespace();
        let ((from, port), (to, other)) = (from, to);
        namespace.nft(&format!(
            "table ip diverted {{\nchain before {{\ntype nat hook prerouting priority dstnat;\n\
             ip daddr {from} tcp dport {port} dnat to {to}:{other}\n}}\n}}\n"
        ))?;
        Ok(Redirect { namespace })
    }

    /// The next free address of the private network, and the firewall's own there.
    pub(crate) fn next_address(&self) -> (Ipv4Addr, Ipv4Addr) {
        let mut hosts = self
            .shared
            .hosts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *hosts += 1;
        let [a, b, c] = self.shared.private;
        (Ipv4Addr::new(a, b, c, 9 + *hosts), self.inner_address())
    }

    /// The firewall's own address in the private network.
    pub(crate) fn inner_address(&self) -> Ipv4Addr {
        let [a, b, c] = self.shared.private;
        Ipv4Addr::new(a, b, c, 1)
    }

    pub(crate) fn shared_namespace(&self) -> Arc<Namespace> {
        Arc::clone(&self.shared.namespace)
    }

    fn condemn(&self, verdict: Verdict) -> Result<()> {
        self.change(|faults| {
            faults.generation += 1;
            faults.old = verdict;
        })
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) -> Result<()> {
        let mut faults = self
            .shared
            .faults
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut faults);
        self.shared.namespace.nft(&faults.rules())
    }
}

impl Faults {
    /// The rules that replace those of before in one step.
    fn rules(&self) -> String {
        let Self {
            generation,
            old,
            all,
            udp_vanishes,
        } = self;
        let udp = if *udp_vanishes {
            "meta l4proto udp drop\n"
        } else {
            ""
        };
        let lines = |hook| {
            let all = verdict_rules(hook, "", *all);
            let old = verdict_rules(hook, &format!("ct mark < {generation}"), *old);
            format!("{udp}{all}ct state new ct mark set {generation}\n{old}")
        };
        // Flows that begin or end here are those of a proxy that runs on the firewall.
        let chains: String = ["forward", "input", "output"]
            .map(|hook| {
                let local = "meta iifname lo accept\nmeta oifname lo accept\n";
                let lines = lines(hook);
                format!(
                    " chain {hook} {{\n type filter hook {hook} priority -10\n{local}{lines}}}\n"
                )
            })
            .concat();
        format!("table inet fault\ndelete table inet fault\ntable inet fault {{\n{chains}}}\n")
    }
}

fn verdict_rules(hook: &str, which: &str, verdict: Verdict) -> String {
    // The resets that are made for others leave by this hook.
    let made = if hook == "output" {
        format!("{which} tcp flags & rst == rst accept\n")
    } else {
        String::new()
    };
    match verdict {
        Verdict::Pass => String::new(),
        Verdict::Drop => format!("{which} drop\n"),
        Verdict::Reset => {
            format!("{made}{which} meta l4proto tcp reject with tcp reset\n{which} drop\n")
        }
    }
}

fn rules(policy: &Policy) -> String {
    let list = |ports: &[u16]| {
        ports
            .iter()
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut out = String::new();
    let to = policy
        .to
        .map_or(String::new(), |address| format!("ip daddr {address} "));
    if !policy.tcp.is_empty() {
        // Only a SYN begins a flow: a segment from the middle of one whose state is gone does not revive it.
        out.push_str(&format!(
            "iifname {INSIDE} oifname {OUTSIDE} {to}tcp dport {{ {} }} tcp flags & (fin|syn|rst|ack) == syn ct state new accept\n",
            list(&policy.tcp)
        ));
    }
    if !policy.udp.is_empty() {
        out.push_str(&format!(
            "iifname {INSIDE} oifname {OUTSIDE} {to}udp dport {{ {} }} accept\n",
            list(&policy.udp)
        ));
    }
    format!(
        "table inet wall {{\n\
         chain forward {{\n type filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\n{out}}}\n\
         chain input {{\n type filter hook input priority 0; policy accept;\n\
         iifname {OUTSIDE} ct state new drop\n}}\n}}\n\
         table ip nat {{\n\
         chain postrouting {{\n type nat hook postrouting priority 100; policy accept;\n\
         oifname {OUTSIDE} masquerade\n}}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_only_what_the_policy_allows() {
        let web = rules(&Policy::web());
        assert!(web.contains("{ 80, 443, 8080 }") && !web.contains("udp"));
        assert!(rules(&Policy::web_and_quic()).contains("udp dport { 443 }"));
        assert!(!rules(&Policy::nothing()).contains("dport"));
        let one = rules(&Policy::only_to(Ipv4Addr::new(203, 0, 113, 9)));
        assert!(one.contains("ip daddr 203.0.113.9 tcp dport"));
    }

    #[test]
    fn a_condemned_flow_is_judged_by_its_generation() {
        let faults = Faults {
            generation: 3,
            old: Verdict::Reset,
            all: Verdict::Pass,
            udp_vanishes: false,
        };
        let rules = faults.rules();
        let mark = rules.find("ct mark set 3").unwrap();
        assert!(
            rules
                .find("ct mark < 3 meta l4proto tcp reject with tcp reset")
                .unwrap()
                > mark
        );
    }
}
