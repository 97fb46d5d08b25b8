//! squid, the forward proxy of many companies.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::{Authority, Connects, Running, give_away, own_folder, run, unprivileged};
use crate::exec::tool;
use crate::host::Host;
use crate::process::Process;
use crate::server::{program, text};

/// Where Debian puts squid's own programs.
const HELPERS: &str = "/usr/lib/squid";

/// How squid asks for a user name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// With Basic (RFC 7617).
    Basic,
    /// With Digest (RFC 7616), MD5, a nonce good for 50 requests as squid has it by default.
    Digest,
}

/// What squid allows.
#[derive(Clone, Debug)]
pub struct SquidRules {
    /// Whether it asks for `user` and `password`, and how.
    pub asks: Option<Asks>,
    /// The one user.
    pub user: String,
    /// His password.
    pub password: String,
    /// Where `CONNECT` may go.
    pub connects: Connects,
    /// The largest body of a request, in bytes.
    pub body_limit: Option<u64>,
    /// Whether it opens TLS that goes through `CONNECT`, with certificates of an authority of its own.
    pub intercepts: bool,
    /// Whether it is spoken to by TLS (`https://` in the proxy's address).
    pub over_tls: bool,
}

impl SquidRules {
    /// Everybody may go anywhere.
    pub fn open() -> Self {
        Self {
            asks: None,
            user: "clerk".into(),
            password: "Tr0ub4dor&3".into(),
            connects: Connects::Anywhere,
            body_limit: None,
            intercepts: false,
            over_tls: false,
        }
    }

    /// As [`SquidRules::open`] for whoever knows the password.
    pub fn asking(how: Asks) -> Self {
        Self {
            asks: Some(how),
            ..Self::open()
        }
    }
}

/// A running squid.
pub struct Squid {
    running: Running,
    authority: Option<Authority>,
}

impl Squid {
    /// Starts one on `host` at `port`.
    ///
    /// # Errors
    /// `Skip` when squid (for interception: the package `squid-openssl`) is not installed.
    pub fn start(host: &Host, port: u16, rules: &SquidRules) -> Result<Self> {
        let squid = program("squid")?;
        let folder = own_folder("squid")?;
        let address = SocketAddr::from((host.address(), port));
        let signs = rules.intercepts || rules.over_tls;
        let authority = signs.then(Authority::new).transpose()?;
        if rules.intercepts {
            make_certificate_store(host, &folder)?;
        }
        passwords(&folder, rules)?;
        let port = listening(address, rules, authority.as_ref())?;
        let lines = configuration(text(folder.path())?, &port, rules)?;
        let file = folder.path().join("squid.conf");
        fs::write(&file, lines)?;
        let mut command = unprivileged(host, &squid);
        // In the foreground, its log on standard error. The service's name keeps several apart in shared memory.
        command.args([
            "-N",
            "-d",
            "1",
            "-n",
            &format!("lab{}p{}", std::process::id(), address.port()),
        ]);
        command.arg("-f").arg(&file);
        Ok(Self {
            running: run(host, "squid", address, folder, command)?,
            authority,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The proxy itself.
    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// Who signs the certificates that it shows, when it shows any.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// What it has logged of requests so far, a line for each that is over.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn requests(&self) -> Result<String> {
        Ok(fs::read_to_string(access_log(self.running.folder.path()))?)
    }
}

fn access_log(folder: &Path) -> std::path::PathBuf {
    folder.join("access.log")
}

/// The store in which squid's helper keeps the certificates that it makes.
fn make_certificate_store(host: &Host, folder: &TempDir) -> Result<()> {
    let helper = program(&format!("{HELPERS}/security_file_certgen"))?;
    let mut command = unprivileged(host, &helper);
    command
        .args(["-c", "-s"])
        .arg(folder.path().join("certificates"));
    tool(command.args(["-M", "4MB"])).map(drop)
}

/// The file in which squid's helper looks for the password.
fn passwords(folder: &TempDir, rules: &SquidRules) -> Result<()> {
    let SquidRules { user, password, .. } = rules;
    let line = match rules.asks {
        None => return Ok(()),
        Some(Asks::Basic) => {
            let mut command = std::process::Command::new("openssl");
            let hash = tool(command.args(["passwd", "-apr1", password]))?;
            format!("{user}:{}\n", hash.trim())
        }
        Some(Asks::Digest) => format!("{user}:{password}\n"),
    };
    let file = folder.path().join("passwords");
    fs::write(&file, line)?;
    give_away(&file)
}

/// The line that says where it listens, and with which certificate.
fn listening(
    address: SocketAddr,
    rules: &SquidRules,
    authority: Option<&Authority>,
) -> Result<String> {
    let files = |(certificate, key): (PathBuf, PathBuf)| -> Result<String> {
        let (certificate, key) = (text(&certificate)?, text(&key)?);
        Ok(format!("tls-cert={certificate} tls-key={key}"))
    };
    Ok(match authority {
        Some(authority) if rules.over_tls => {
            let own = files(authority.issue(address.ip())?)?;
            format!("https_port {address} {own}")
        }
        Some(authority) => {
            let signing = files((authority.certificate(), authority.key()))?;
            format!(
                "http_port {address} ssl-bump generate-host-certificates=on \
                 dynamic_cert_mem_cache_size=4MB {signing}"
            )
        }
        None => format!("http_port {address}"),
    })
}

fn configuration(folder: &str, port: &str, rules: &SquidRules) -> Result<String> {
    let SquidRules {
        asks,
        user: _,
        password: _,
        connects,
        body_limit,
        intercepts,
        over_tls: _,
    } = rules;
    let mut out = format!("{port}\n");
    if *intercepts {
        // The relay's certificate is signed by nobody that squid knows.
        writeln!(
            out,
            "sslcrtd_program {HELPERS}/security_file_certgen -s {folder}/certificates -M 4MB\n\
             sslcrtd_children 2 startup=1\n\
             tls_outgoing_options flags=DONT_VERIFY_PEER\nsslproxy_cert_error allow all\n\
             sslproxy_session_cache_size 0\n\
             acl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all"
        )?;
    }
    match asks {
        None => {}
        Some(Asks::Basic) => writeln!(
            out,
            "auth_param basic program {HELPERS}/basic_ncsa_auth {folder}/passwords\n\
             auth_param basic children 2\nauth_param basic realm Lab"
        )?,
        Some(Asks::Digest) => writeln!(
            out,
            "auth_param digest program {HELPERS}/digest_file_auth {folder}/passwords\n\
             auth_param digest children 2\nauth_param digest realm Lab"
        )?,
    }
    if let Some(limit) = body_limit {
        writeln!(out, "request_body_max_size {limit} bytes")?;
    }
    writeln!(out, "acl connects method CONNECT\nacl port_443 port 443")?;
    match connects {
        Connects::Anywhere => {}
        Connects::Port443 => writeln!(out, "http_access deny connects !port_443")?,
        Connects::Refused => writeln!(out, "http_access deny connects")?,
    }
    if asks.is_some() {
        writeln!(
            out,
            "acl known proxy_auth REQUIRED\nhttp_access deny !known"
        )?;
    }
    writeln!(
        out,
        "http_access allow all\nvisible_hostname box.lab.invalid\n\
         access_log stdio:{folder}/access.log\ncache_log {folder}/cache.log\ncache_store_log none\n\
         cache deny all\npid_filename none\nnetdb_filename none\npinger_enable off\n\
         coredump_dir {folder}\nshutdown_lifetime 0 seconds\nmax_filedescriptors 4096\n\
         dns_nameservers 127.0.0.1"
    )?;
    Ok(out)
}
