//! The client's side of X11: a display number that programs connect to, and the cookie that lets them in.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use underpass_proto::Code;

use super::display::{FIRST_PORT, SOCKETS, socket};
use super::setup::Header;
use super::{COOKIE, Cookie, SetupError, Stream, read_setup, xauthority};
use crate::connect::{Connector, with_code};

/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A display of this machine that lies elsewhere. Its socket and its file of cookies go with it.
#[derive(Debug)]
pub(crate) struct Door {
    tcp: TcpListener,
    unix: UnixListener,
    cookie: Arc<Cookie>,
    files: Files,
}

/// What is removed in the end.
#[derive(Debug)]
struct Files {
    socket: PathBuf,
    xauthority: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.socket, &self.xauthority] {
            // What is gone already need not be removed.
            let _ = fs::remove_file(path);
        }
    }
}

impl Door {
    /// Listens as the display of this number, and writes its cookie to a file in `folder`.
    ///
    /// # Errors
    /// The number is taken, or a file cannot be made.
    pub(crate) fn open(number: u16, folder: &Path) -> io::Result<Self> {
        let port = number
            .checked_add(FIRST_PORT)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let tcp = underpass_carrier::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let path = socket(number);
        let unix = listen(&path)?;
        let files = Files {
            socket: path,
            xauthority: folder.join(format!("xauthority-{number}")),
        };
        let cookie: Cookie = rand::random();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&files.xauthority)?;
        file.write_all(&xauthority::write(number, &cookie))?;
        Ok(Self {
            tcp,
            unix,
            cookie: Arc::new(cookie),
            files,
        })
    }

    /// The file with its cookie.
    pub(crate) fn xauthority(&self) -> &Path {
        &self.files.xauthority
    }

    /// Takes connections for ever.
    pub(crate) async fn serve(self, service: String, connector: Connector) {
        loop {
            let accepted: io::Result<Box<dyn Stream>> = tokio::select! {
                accepted = self.tcp.accept() => accepted.map(|(tcp, _)| Box::new(tcp) as _),
                accepted = self.unix.accept() => accepted.map(|(unix, _)| Box::new(unix) as _),
            };
            match accepted {
                Ok(stream) => {
                    let (connector, service) = (connector.clone(), service.clone());
                    let cookie = Arc::clone(&self.cookie);
                    tokio::spawn(async move { carry(stream, &cookie, &service, &connector).await });
                }
                Err(error) => {
                    tracing::warn!("cannot take a connection for {service}: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Listens on the socket of a display; one that nobody listens on any more is taken over.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if !Path::new(SOCKETS).exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o777)
            .create(SOCKETS)?;
        // As X servers make it: everybody may add sockets, and remove their own.
        fs::set_permissions(SOCKETS, Permissions::from_mode(0o1777))?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Who may draw is for the cookie to say.
    fs::set_permissions(path, Permissions::from_mode(0o777))?;
    Ok(listener)
}

/// One program. Who shows no cookie is told why, and nobody is asked on the other side.
async fn carry(mut stream: Box<dyn Stream>, cookie: &Cookie, service: &str, connector: &Connector) {
    let (header, rest) = match read_setup(&mut stream).await {
        Ok(setup) => setup,
        Err(SetupError::Io(error)) => return tracing::debug!("{service}: {error}"),
        Err(error) => return tracing::warn!("{service}: {error}"),
    };
    if !header
        .cookie(&rest)
        .is_some_and(|shown| is_same(shown, cookie))
    {
        tracing::warn!("{service}: {}", Code::WrongCookie);
        return refuse(stream, &header, Code::WrongCookie).await;
    }
    let mut channel = match connector.open(service).await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::warn!("{service}: {}", with_code(&error, error.code()));
            return refuse(stream, &header, error.code()).await;
        }
    };
    let carried = async {
        channel.write_all(&header.with(None)).await?;
        tokio::io::copy_bidirectional(&mut stream, &mut channel).await
    };
    match carried.await {
        Ok((sent, received)) => tracing::debug!(sent, received, "{service}: done"),
        Err(error) => tracing::info!("{service}: broken off: {error}"),
    }
}

async fn refuse(mut stream: Box<dyn Stream>, header: &Header, code: Code) {
    let reason = format!("{}: {}\n", code.up(), code.explain().what);
    // A program that is gone needs no reason.
    let _ = stream.write_all(&header.refusal(&reason)).await;
    let _ = stream.shutdown().await;
}

/// Takes the same time wherever they differ.
fn is_same(shown: &[u8], cookie: &Cookie) -> bool {
    let differ = shown
        .iter()
        .zip(cookie)
        .fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == COOKIE && differ == 0
}
