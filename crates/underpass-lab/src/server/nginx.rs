//! nginx, serving files.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::{accepts, address, folder, program, text};
use crate::host::Host;
use crate::process::Process;

/// An nginx that serves the files of one folder.
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts one on `host` at `ip` and `port`.
    ///
    /// # Errors
    /// `Skip` when nginx is not installed.
    pub fn start(host: &Host, ip: impl Into<IpAddr>, port: u16) -> Result<Self> {
        let nginx = program("nginx")?;
        let folder = folder("nginx")?;
        let address = address(ip, port);
        fs::create_dir(folder.path().join("files"))?;
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(text(folder.path())?, address))?;
        let mut command = host.command(nginx);
        command.arg("-c").arg(&config).arg("-p").arg(folder.path());
        // Before the configuration is read, nginx would write to its compiled-in log.
        command.args(["-e", "stderr"]);
        let process = host.spawn("nginx", command)?;
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

    /// The folder whose files it serves under `/`.
    pub fn files(&self) -> std::path::PathBuf {
        self.folder.path().join("files")
    }

    /// Writes a file to be served.
    ///
    /// # Errors
    /// The disk is full.
    pub fn put(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        Ok(fs::write(self.files().join(name), content)?)
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn configuration(folder: &str, address: SocketAddr) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr warn;\nuser root;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n access_log off;\n sendfile on;\n default_type application/octet-stream;\n\
         client_body_temp_path {folder}/body;\n proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi;\n uwsgi_temp_path {folder}/uwsgi;\n\
         scgi_temp_path {folder}/scgi;\n\
         server {{ listen {address}; root {folder}/files; }}\n}}\n"
    )
}
