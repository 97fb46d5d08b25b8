//! nginx where a relay is thought to be: in front of it as a reverse proxy, or in its place.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;

use super::{Running, own_folder, run, unprivileged};
use crate::host::Host;
use crate::process::Process;
use crate::server::{program, text};

/// What nginx does with bodies on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffering {
    /// What it does unless it is told otherwise: it gathers requests whole and answers by the page, and speaks HTTP/1.0
    /// to the server.
    Default,
    /// Both pass at once, by HTTP/1.1.
    Off,
}

/// A running nginx that passes everything on to one server, or answers everything with one page.
pub struct NginxFront {
    running: Running,
}

impl NginxFront {
    /// Starts one on `host` at `port`, before `onward`.
    ///
    /// # Errors
    /// `Skip` when nginx is not installed.
    pub fn start(host: &Host, port: u16, onward: SocketAddr, buffering: Buffering) -> Result<Self> {
        let buffering = match buffering {
            Buffering::Default => "",
            Buffering::Off => {
                "proxy_buffering off; proxy_request_buffering off; proxy_http_version 1.1;"
            }
        };
        let location = format!("proxy_pass http://{onward}; {buffering}");
        Self::answering(host, port, &location)
    }

    /// Starts one that answers everything with 200 and this page, as a captive portal does.
    ///
    /// # Errors
    /// As [`NginxFront::start`].
    pub fn portal(host: &Host, port: u16, page: &str) -> Result<Self> {
        let location = format!("default_type text/html; return 200 '{page}';");
        Self::answering(host, port, &location)
    }

    fn answering(host: &Host, port: u16, location: &str) -> Result<Self> {
        let nginx = program("nginx")?;
        let folder = own_folder("nginx-front")?;
        let address = SocketAddr::from((host.address(), port));
        let file = folder.path().join("nginx.conf");
        let lines = configuration(text(folder.path())?, address, location);
        fs::write(&file, lines)?;
        let mut command = unprivileged(host, &nginx);
        command.arg("-c").arg(&file).arg("-p").arg(folder.path());
        // Before the configuration is read, nginx would write to its compiled-in log.
        command.args(["-e", "stderr"]);
        Ok(Self {
            running: run(host, "nginx", address, folder, command)?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The server itself.
    pub fn process(&self) -> &Process {
        &self.running.process
    }
}

fn configuration(folder: &str, address: SocketAddr, location: &str) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n access_log off;\n client_body_temp_path {folder}/body;\n\
         proxy_temp_path {folder}/proxy;\n fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\n scgi_temp_path {folder}/scgi;\n\
         server {{\n listen {address};\n location / {{ {location} }}\n}}\n}}\n"
    )
}
