//! sshd, with keys made for one test.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{END, accepts, address, folder, program, text};
use crate::exec::{self, Finished};
use crate::host::Host;
use crate::process::Process;

/// The name under which clients know the host key, whatever address they call.
const ALIAS: &str = "lab";

/// An sshd that lets root in with a key that is made for it.
pub struct SshServer {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl SshServer {
    /// Starts one on `host` at `ip` and `port`.
    ///
    /// # Errors
    /// `Skip` when sshd is not installed.
    pub fn start(host: &Host, ip: impl Into<IpAddr>, port: u16) -> Result<Self> {
        // It starts itself again for each connection and insists on a full path for that.
        let sshd = program("sshd")?;
        let folder = folder("sshd")?;
        let path = text(folder.path())?;
        for key in ["host_key", "client_key"] {
            let mut keygen = Command::new(program("ssh-keygen")?);
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", ALIAS, "-f"]);
            exec::output(keygen.arg(folder.path().join(key)), END).and_then(Finished::success)?;
        }
        let host_key = fs::read_to_string(folder.path().join("host_key.pub"))?;
        fs::write(
            folder.path().join("known_hosts"),
            format!("{ALIAS} {host_key}"),
        )?;
        // Where it drops its rights before anyone has logged in; Debian's service file makes it otherwise.
        fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
        let address = address(ip, port);
        let config = folder.path().join("sshd_config");
        fs::write(
            &config,
            format!(
                "ListenAddress {address}\nHostKey {path}/host_key\nPidFile none\nUsePAM no\n\
                 AuthorizedKeysFile {path}/client_key.pub\nStrictModes no\n\
                 PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                 Subsystem sftp internal-sftp\n"
            ),
        )?;
        let mut command = host.command(sshd);
        command.args(["-D", "-e", "-f"]).arg(&config);
        let process = host.spawn("sshd", command)?;
        accepts(host, &process, address)?;
        Ok(Self {
            process,
            address,
            folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ssh` on `client` to root at `to`; what to run there is still to be added.
    ///
    /// # Errors
    /// `Skip` when ssh is not installed.
    pub fn ssh(&self, client: &Host, to: SocketAddr) -> Result<Command> {
        let mut command = client.command(program("ssh")?);
        command
            .args(self.options()?)
            .args(["-p", &to.port().to_string()]);
        command.arg(format!("root@{}", to.ip()));
        Ok(command)
    }

    /// `ssh` on `client` to root, by way of what the shell command `proxy` connects it to.
    ///
    /// # Errors
    /// `Skip` when ssh is not installed.
    pub fn ssh_through(&self, client: &Host, proxy: &str) -> Result<Command> {
        let mut command = client.command(program("ssh")?);
        command
            .args(self.options()?)
            .args(["-o", &format!("ProxyCommand={proxy}")]);
        command.arg(format!("root@{ALIAS}"));
        Ok(command)
    }

    /// `scp` on `client`. The server's files are written `lab:PATH`; it is called at `to`.
    ///
    /// # Errors
    /// `Skip` when scp is not installed.
    pub fn scp(&self, client: &Host, to: SocketAddr) -> Result<Command> {
        let mut command = client.command(program("scp")?);
        command
            .args(self.options()?)
            .args(["-P", &to.port().to_string()]);
        command.args(["-o", "User=root", "-o", &format!("HostName={}", to.ip())]);
        Ok(command)
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Only the keys of this test count, whoever runs it.
    fn options(&self) -> Result<Vec<String>> {
        let file = |name: &str| -> Result<String> {
            let path: PathBuf = self.folder.path().join(name);
            Ok(text(&path)?.to_owned())
        };
        let settings = [
            format!("UserKnownHostsFile={}", file("known_hosts")?),
            format!("HostKeyAlias={ALIAS}"),
            "StrictHostKeyChecking=yes".into(),
            "BatchMode=yes".into(),
            "IdentitiesOnly=yes".into(),
        ];
        let mut options = vec!["-F".into(), "none".into(), "-i".into(), file("client_key")?];
        for setting in settings {
            options.extend(["-o".into(), setting]);
        }
        Ok(options)
    }
}
