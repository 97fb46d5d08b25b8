//! A cable between a machine and its network.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use crate::capture::Capture;
use crate::exec::tool;
use crate::impair::ImpairBox;
use crate::namespace::Namespace;

/// A cable between a machine (the near end) and the switch of its network (the far end). Clones are the same cable.
#[derive(Clone)]
pub struct Link {
    pub(crate) near: End,
    pub(crate) far: End,
    /// The machine's address; its network is the /24 around it.
    pub(crate) address: Ipv4Addr,
    pub(crate) impair: Option<Arc<ImpairBox>>,
}

/// One end of a cable.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) interface: String,
}

impl End {
    fn tc(&self, words: &str) -> Result<()> {
        let mut command = self.namespace.command("tc");
        tool(command.args(words.split(' '))).map(drop)
    }
}

impl Link {
    /// A plain cable.
    pub(crate) fn wire(near: End, far: End, address: Ipv4Addr) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args([
            "link",
            "add",
            &near.interface,
            "netns",
            near.namespace.name(),
        ]);
        command.args(["type", "veth", "peer", "name", &far.interface]);
        tool(command.args(["netns", far.namespace.name()]))?;
        Ok(Self {
            near,
            far,
            address,
            impair: None,
        })
    }

    /// A cable with a box in it that delays, loses and holds; see [`ImpairBox`].
    pub(crate) fn boxed(near: End, far: End, address: Ipv4Addr, seed: u64) -> Result<Self> {
        let impair = ImpairBox::start(&near, &far, seed)?;
        Ok(Self {
            near,
            far,
            address,
            impair: Some(Arc::new(impair)),
        })
    }

    /// Pulls the cable at the far end. The machine sees that the carrier is gone and keeps its address and routes;
    /// what it sends meanwhile is lost.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn cut(&self) -> Result<()> {
        self.far
            .namespace
            .ip(&format!("link set {} down", self.far.interface))
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn restore(&self) -> Result<()> {
        self.far
            .namespace
            .ip(&format!("link set {} up", self.far.interface))
    }

    /// Limits both directions to `bits_per_second` each, with a queue of at most 100 ms before packets are lost.
    ///
    /// # Errors
    /// The kernel has no token bucket filter.
    pub fn limit_rate(&self, bits_per_second: u64) -> Result<()> {
        // The bucket must hold what arrives between two ticks, and at least a few packets.
        let burst = (bits_per_second / 8 / 250).max(8 * 1514);
        for end in [&self.near, &self.far] {
            end.tc(&format!(
                "qdisc replace dev {} root tbf rate {bits_per_second}bit burst {burst} latency 100ms",
                end.interface
            ))?;
        }
        Ok(())
    }

    /// Takes the limit of [`Link::limit_rate`] away.
    ///
    /// # Errors
    /// There is none.
    pub fn unlimit_rate(&self) -> Result<()> {
        for end in [&self.near, &self.far] {
            end.tc(&format!("qdisc del dev {} root", end.interface))?;
        }
        Ok(())
    }

    /// The box in this cable, when it was made with one.
    pub fn impair(&self) -> Option<&ImpairBox> {
        self.impair.as_deref()
    }

    /// Starts to record every packet on this cable into `file`.
    ///
    /// # Errors
    /// `Skip` when tcpdump is not installed.
    pub fn capture(&self, file: &Path) -> Result<Capture> {
        Capture::start(self, file)
    }

    /// The machine at the near end, by the name of its namespace.
    pub fn owner(&self) -> &str {
        self.near.namespace.label()
    }

    /// The interface's name on the machine.
    pub fn interface(&self) -> &str {
        &self.near.interface
    }

    /// Bytes that the machine has received and sent over this cable, as its kernel counts them.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn counters(&self) -> Result<(u64, u64)> {
        let interface = self.near.interface.clone();
        let text = self
            .near
            .namespace
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        let numbers: Vec<u64> = line
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [received, _, _, _, _, _, _, _, sent, ..] => Ok((received, sent)),
            _ => anyhow::bail!("the kernel has no counters for {interface}"),
        }
    }
}
