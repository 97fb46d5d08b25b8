//! nginx in front of a relay, as a reverse proxy.

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

/// A running nginx that passes everything on to one server.
pub struct NginxFront {
    running: Running,
}

impl NginxFront {
    /// Starts one on `host` at `port`, before `onward`.
    ///
    /// # Errors
    /// `Skip` when nginx is not installed.
    pub fn start(host: &Host, port: u16, onward: SocketAddr, buffering: Buffering) -> Result<Self> {
        let nginx = program("nginx")?;
        let folder = own_folder("nginx-front")?;
        let address = SocketAddr::from((host.address(), port));
        let file = folder.path().join("nginx.conf");
        fs::write(
            &file,
            configuration(text(folder.path())?, address, onward, buffering),
        )?;
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

fn configuration(
    folder: &str,
    address: SocketAddr,
    onward: SocketAddr,
    buffering: Buffering,
) -> String {
    let buffering = match buffering {
        Buffering::Default => "",
        Buffering::Off => {
            "proxy_buffering off; proxy_request_buffering off; proxy_http_version 1.1;"
        }
    };
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n access_log off;\n client_body_temp_path {folder}/body;\n\
         proxy_temp_path {folder}/proxy;\n fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi;\n scgi_temp_path {folder}/scgi;\n\
         server {{\n listen {address};\n location / {{ proxy_pass http://{onward}; {buffering} }}\n}}\n}}\n"
    )
}
