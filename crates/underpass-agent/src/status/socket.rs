//! Sockets of running agents in the folder of their home, one for each process and purpose. The folder
//! keeps other users out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::home::{Home, HomeError};

/// Pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SUFFIX: &str = ".sock";

/// This process's socket for one purpose; dropping it takes it away.
#[derive(Debug)]
pub(super) struct AgentSocket {
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl AgentSocket {
    /// Serves each connection in a task of its own. Must be called on a runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(super) fn serve<F>(
        home: &Home,
        purpose: &str,
        serve: impl Fn(UnixStream) -> F + Send + 'static,
    ) -> Result<Self, HomeError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let folder = home.run_folder()?;
        let path = folder.join(format!("{purpose}-{}{SUFFIX}", std::process::id()));
        let listener = in_folder(folder, &path, |short| {
            // A process with our number that has died may have left its own.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            UnixListener::bind(short)
        });
        let listener = listener.map_err(|source| HomeError::Io {
            action: "listen on",
            path: path.clone(),
            source,
        })?;
        let serving = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(serve(stream));
                    }
                    Err(error) => {
                        tracing::debug!("cannot take a connection of this home: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { path, serving })
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.serving.abort();
        // A leftover is swept by the next one who connects.
        let _ = fs::remove_file(&self.path);
    }
}

/// The sockets of all agents of a home for one purpose, those that dead ones have left behind too.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn all(home: &Home, purpose: &str) -> Result<Vec<PathBuf>, HomeError> {
    let folder = home.run_folder()?;
    let failed = |source| HomeError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(purpose));
        let number = number.and_then(|rest| rest.strip_prefix('-'));
        if number.is_some_and(|rest| rest.ends_with(SUFFIX)) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

/// Connects to one of [`all`]; what a dead one has left behind is swept away.
///
/// # Errors
/// Nobody listens there.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let connected = in_folder(folder, path, |short| {
        std::os::unix::net::UnixStream::connect(short)
    });
    if let Err(error) = &connected
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        // Its process died. Another may sweep at the same time.
        let _ = fs::remove_file(path);
    }
    let stream = connected?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Calls `use_path` with a name of `path` that is short enough for a socket's address (108 bytes, see
/// unix(7)), however deep the folder lies.
pub(super) fn in_folder<T>(
    folder: &Path,
    path: &Path,
    use_path: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    let handle = fs::File::open(folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let short = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string());
    use_path(&short.join(name))
}
