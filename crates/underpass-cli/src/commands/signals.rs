//! Being told to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Waits for SIGTERM or SIGINT. The handlers are set when this is called, not when it is awaited.
pub fn stop_asked() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::file(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
