//! dnsmasq, which answers for a few names of its own and asks nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{accepts, address, program};
use crate::host::Host;
use crate::process::Process;

/// A name server.
pub struct Dnsmasq {
    process: Process,
    address: SocketAddr,
}

impl Dnsmasq {
    /// Starts one on `host` at `ip` and port 53, by UDP and TCP. It knows the addresses of `names`, and of `text` a record
    /// of so many bytes, in a single answer.
    ///
    /// # Errors
    /// `Skip` when dnsmasq is not installed.
    pub fn start(
        host: &Host,
        ip: impl Into<IpAddr>,
        names: &[(&str, Ipv4Addr)],
        text: (&str, usize),
    ) -> Result<Self> {
        let address = address(ip, 53);
        let mut command = Self::command(host, address)?;
        for (name, at) in names {
            command.arg(format!("--host-record={name},{at}"));
        }
        let (name, length) = text;
        // A record is made of strings of up to 255 bytes (RFC 1035 section 3.3.14).
        let strings = vec!["x".repeat(250); length.div_ceil(250)];
        command.arg(format!("--txt-record={name},{}", strings.join(",")));
        Self::run(host, command, address)
    }

    /// Starts one on `host` at `ip` and port 53 that answers as a file of names says (hosts(5)), without anybody keeping
    /// the answers; it reads the file again on SIGHUP.
    ///
    /// # Errors
    /// `Skip` when dnsmasq is not installed.
    pub fn reading(host: &Host, ip: impl Into<IpAddr>, file: &Path) -> Result<Self> {
        let address = address(ip, 53);
        let mut command = Self::command(host, address)?;
        command.arg("--addn-hosts").arg(file);
        Self::run(host, command, address)
    }

    fn command(host: &Host, address: SocketAddr) -> Result<Command> {
        let mut command = host.command(program("dnsmasq")?);
        command.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            // RFC 6891 section 6.2.5 recommends no more, and it sends less by itself.
            "--edns-packet-max=4096",
        ]);
        command.arg(format!("--listen-address={}", address.ip()));
        Ok(command)
    }

    fn run(host: &Host, command: Command, address: SocketAddr) -> Result<Self> {
        let process = host.spawn("dnsmasq", command)?;
        let server = Self { process, address };
        server.ready(host)?;
        Ok(server)
    }

    /// Waits until it answers, after it was started again.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub fn ready(&self, host: &Host) -> Result<()> {
        accepts(host, &self.process, self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `dig` on `client`, which asks at `at` by UDP, once; its question is still to be added.
    ///
    /// # Errors
    /// `Skip` when dig is not installed.
    pub fn dig(client: &Host, at: SocketAddr) -> Result<Command> {
        let mut command = client.command(program("dig")?);
        command.arg(format!("@{}", at.ip()));
        command.args(["-p", &at.port().to_string()]);
        command.args(["+short", "+tries=1", "+ignore", "+notcp", "+bufsize=4096"]);
        Ok(command)
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
