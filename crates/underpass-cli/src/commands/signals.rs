//! Being told to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Waits for SIGTERM or SIGINT. The handlers are set when this is called, not when it is awaited.
pub fn stop_asked() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The same, or SIGHUP, by which ssh ends its `ProxyCommand`. Not for commands that somebody may have
/// started with nohup(1): a handler undoes what that does.
pub fn stop_or_hang_up() -> Result<impl Future<Output = ()>, Failure> {
    let stop = stop_asked()?;
    let mut hang_up = handler(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            () = stop => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// SIGHUP, for a command that reads something again then.
pub fn hang_ups() -> Result<Signal, Failure> {
    handler(SignalKind::hangup())
}

/// The next signal, where any is listened for.
pub async fn heard(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

fn handler(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::file(format!("cannot wait for signals: {error}")))
}
