//! The publisher's side of X11: connections to the display, with its cookie.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use underpass_endpoint::Channel;
use underpass_endpoint::dial::{DialError, dial};

use super::{Cookie, Display, Stream, read_setup, xauthority};

/// The longest file of cookies that is read, in bytes.
const MOST_FILE: u64 = 1 << 20;

/// Connects to a display within `limit`.
pub(crate) async fn reach(
    display: &Display,
    limit: Duration,
) -> Result<Box<dyn Stream>, DialError> {
    let Some(path) = display.socket() else {
        return Ok(Box::new(dial(&display.target(), limit).await?));
    };
    let target = || path.display().to_string();
    match tokio::time::timeout(limit, UnixStream::connect(&path)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(source)) => Err(DialError::Connect {
            target: target(),
            source,
        }),
        Err(_) => Err(DialError::TimedOut {
            target: target(),
            after: limit,
        }),
    }
}

/// Carries one program's connection to the display until both sides have ended it, or it is `cut`. What went wrong, if
/// something did.
pub(crate) async fn carry(
    mut channel: Channel,
    mut screen: Box<dyn Stream>,
    display: &Display,
    cut: impl Future<Output = ()>,
) -> Result<(), String> {
    let carrying = async {
        let (header, _) = read_setup(&mut channel)
            .await
            .map_err(|error| error.to_string())?;
        let cookie = cookie(display).await;
        let begin = header.with(cookie.as_ref());
        screen
            .write_all(&begin)
            .await
            .map_err(|error| error.to_string())?;
        let copied = tokio::io::copy_bidirectional(&mut channel, &mut screen).await;
        copied.map(|_| ()).map_err(|error| error.to_string())
    };
    tokio::select! {
        carried = carrying => carried,
        () = cut => Err("it was cut on the host side".to_owned()),
    }
}

/// The display's cookie, from where programs of this user find it. Looked for each time: who logs in again gets another.
async fn cookie(display: &Display) -> Option<Cookie> {
    let path = std::env::var_os("XAUTHORITY")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(PathBuf::from(home).join(".Xauthority"))
        })?;
    let length = tokio::fs::metadata(&path).await.ok()?.len();
    if length > MOST_FILE {
        tracing::warn!("{} is too long to be read", path.display());
        return None;
    }
    let file = tokio::fs::read(&path).await.ok()?;
    let host = tokio::fs::read_to_string("/proc/sys/kernel/hostname").await;
    xauthority::find(&file, display, host.unwrap_or_default().trim())
}
