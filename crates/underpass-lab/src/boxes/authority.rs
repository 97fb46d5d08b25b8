//! The certificate authority of a company, for boxes that open TLS on the way or are spoken to by TLS themselves.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{give_away, own_folder};
use crate::exec::tool;
use crate::server::text;

/// The name that its certificates carry as their issuer.
pub(super) const NAME: &str = "Underpass Lab Inspection";

/// An authority with a key of its own. Its files go away with it.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes one, with `openssl`.
    ///
    /// # Errors
    /// `openssl` failed.
    pub fn new() -> Result<Self> {
        let authority = Self {
            folder: own_folder("authority")?,
        };
        let (certificate, key) = (authority.certificate(), authority.key());
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]);
        command.args(["-nodes", "-days", "30", "-subj", &format!("/CN={NAME}")]);
        command.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        command.args(["-keyout", text(&key)?, "-out", text(&certificate)?]);
        tool(&mut command)?;
        give_away(&certificate)?;
        give_away(&key)?;
        Ok(authority)
    }

    /// The name in the certificates that it signs.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Its certificate in PEM, for those who are to trust it.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Makes a certificate for a server at `address`, and gives the files of the certificate and of its key.
    ///
    /// # Errors
    /// `openssl` failed.
    pub(super) fn issue(&self, address: IpAddr) -> Result<(PathBuf, PathBuf)> {
        let file = |kind| self.folder.path().join(format!("{address}.{kind}"));
        let (certificate, key) = (file("pem"), file("key"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
        command.args(["ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
        command.args(["-subj", "/CN=box", "-addext"]);
        command.args([&format!("subjectAltName=IP:{address}"), "-addext"]);
        command.args(["basicConstraints=critical,CA:FALSE", "-CA"]);
        command.arg(self.certificate()).arg("-CAkey");
        command.arg(self.key()).arg("-keyout").arg(&key);
        tool(command.arg("-out").arg(&certificate))?;
        give_away(&certificate)?;
        give_away(&key)?;
        Ok((certificate, key))
    }

    /// Its key in PEM.
    pub(super) fn key(&self) -> PathBuf {
        self.folder.path().join("authority.key")
    }
}
