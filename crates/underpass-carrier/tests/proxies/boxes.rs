//! Boxes between a carrier and the relay.

use std::net::TcpListener as StdListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use underpass_carrier::TlsIdentity;

use crate::rig::within;
use crate::{SECRET, USER};

/// A port where nobody listens.
pub(crate) fn closed_port() -> u16 {
    let free = StdListener::bind("127.0.0.1:0").expect("bound");
    free.local_addr().expect("address").port()
}

pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.exists());
    if found.is_none() {
        eprintln!("skipped: {name} missing");
    }
    found
}

/// One process in the foreground, and its folder.
pub(super) struct Running {
    process: Child,
    folder: tempfile::TempDir,
}

impl Running {
    /// Started, and listening on `port`.
    pub(super) async fn start(mut command: Command, folder: tempfile::TempDir, port: u16) -> Self {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        within(async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Self { process, folder }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Helpers of squid end when their input does.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Started as root, both proxies become somebody else, who has to write here.
pub(super) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), all).expect("set");
    folder
}

pub(super) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("set");
}

/// A running squid.
pub(crate) struct Squid {
    running: Running,
    pub(crate) port: u16,
}

impl Squid {
    /// With the rules of `config`, and everything else as it comes. None where there is no squid.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        Self::start_in(folder(), config, Vec::new()).await
    }

    /// The same, with an environment for its helpers.
    pub(crate) async fn start_with(
        config: &str,
        environment: Vec<(&'static str, String)>,
    ) -> Option<Self> {
        Self::start_in(folder(), config, environment).await
    }

    async fn start_in(
        folder: tempfile::TempDir,
        config: &str,
        environment: Vec<(&'static str, String)>,
    ) -> Option<Self> {
        let squid = find("squid")?;
        let port = closed_port();
        let at = folder.path().display();
        let config = format!(
            "http_port 127.0.0.1:{port}\n{config}\n\
             pid_filename {at}/squid.pid\ncache_log {at}/cache.log\naccess_log stdio:{at}/access.log\n\
             netdb_filename none\ncoredump_dir none\ncache deny all\nshutdown_lifetime 0 seconds\n\
             visible_hostname squid.test\n"
        );
        write(&folder.path().join("squid.conf"), &config);
        let mut command = Command::new(squid);
        let name = format!("s{port}");
        command
            .envs(environment)
            .args(["-N", "-n", &name, "-f"])
            .arg(folder.path().join("squid.conf"));
        let running = Running::start(command, folder, port).await;
        Some(Self { running, port })
    }

    /// One that asks who asks.
    pub(crate) async fn with_auth(scheme: &str) -> Option<Self> {
        Self::with_auth_and(scheme, "").await
    }

    /// The same, with more rules.
    pub(crate) async fn with_auth_and(scheme: &str, more: &str) -> Option<Self> {
        let folder = folder();
        let passwords = folder.path().join("passwords");
        let helper = match scheme {
            "basic" => {
                let hash = Command::new("openssl")
                    .args(["passwd", "-apr1", SECRET])
                    .output()
                    .expect("openssl starts");
                let hash = String::from_utf8(hash.stdout).expect("text");
                write(&passwords, &format!("{USER}:{hash}"));
                format!("/usr/lib/squid/basic_ncsa_auth {}", passwords.display())
            }
            "digest" => {
                write(&passwords, &format!("{USER}:{SECRET}\n"));
                format!("/usr/lib/squid/digest_file_auth {}", passwords.display())
            }
            "ntlm" => "/usr/lib/squid/ntlm_fake_auth".to_owned(),
            other => panic!("no helper for {other}"),
        };
        let realm = match scheme {
            "ntlm" => "",
            _ => "auth_param SCHEME realm lab\n",
        };
        let config = format!(
            "auth_param SCHEME program {helper}\nauth_param SCHEME children 5\n{realm}{more}\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all"
        );
        let config = config.replace("SCHEME", scheme);
        Self::start_in(folder, &config, Vec::new()).await
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lines of its log with `text`. Waits until there are `least`.
    pub(crate) async fn requests_with(&self, text: &str, least: usize) -> usize {
        let path = self.running.folder.path().join("access.log");
        within(async {
            loop {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let count = log.lines().filter(|line| line.contains(text)).count();
                if count >= least {
                    return count;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// A running tinyproxy.
pub(crate) struct Tinyproxy {
    _running: Running,
    pub(crate) port: u16,
}

impl Tinyproxy {
    /// With more lines in its settings. None where there is no tinyproxy.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        let tinyproxy = find("tinyproxy")?;
        let (folder, port) = (folder(), closed_port());
        let path = folder.path().join("tinyproxy.conf");
        write(
            &path,
            &format!("Listen 127.0.0.1\nPort {port}\nTimeout 600\nMaxClients 100\n{config}\n"),
        );
        let mut command = Command::new(tinyproxy);
        command.arg("-d").arg("-c").arg(path);
        Some(Self {
            _running: Running::start(command, folder, port).await,
            port,
        })
    }
}

/// A web server that answers every request with one page, whatever it is asked.
pub(crate) struct Page {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

impl Page {
    pub(crate) async fn serve(kind: &'static str, page: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, kind, page.clone()));
            }
        });
        Self {
            port,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn answer(mut stream: TcpStream, kind: &str, page: Vec<u8>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let len = page.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(&[answer.as_bytes(), &page].concat()).await;
    // Whatever else comes is read away, so that the answer is not lost by a reset.
    while stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {}
}

/// A certificate for `localhost` that an authority called `issuer` has signed, and the file of that
/// authority's own.
pub(crate) fn signed_by(issuer: &str, folder: &Path) -> (PathBuf, TlsIdentity) {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("valid");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, issuer);
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = parameters.self_signed(&key).expect("signed");
    let authority = rcgen::Issuer::new(parameters, key);
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .expect("valid")
        .signed_by(&leaf_key, &authority)
        .expect("signed");
    let path = |name: &str| folder.join(name);
    write(&path("root.pem"), &root.pem());
    write(&path("leaf.pem"), &leaf.pem());
    write(&path("key.pem"), &leaf_key.serialize_pem());
    let identity = TlsIdentity::from_pem_files(&path("leaf.pem"), &path("key.pem"));
    (path("root.pem"), identity.expect("usable"))
}
