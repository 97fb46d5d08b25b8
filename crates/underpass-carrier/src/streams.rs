//! HTTP/2 on the server's side: many requests as streams of one connection, each bound as it would be
//! on a connection of its own.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::dial::BoxedConnection;
use crate::front::{Front, Line};
use crate::server::Listening;
use crate::stall::StallGuard;

/// What HTTP/2 begins with (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests of one connection at a time. Ours make at most 13.
const MAX_STREAMS: u32 = 16;
/// The most header bytes of a request, before they are compressed.
const MAX_HEADERS: u32 = 32 * 1024;
/// The largest frame that is taken.
const MAX_FRAME: u32 = 64 * 1024;
/// The most bytes of one stream that wait below us for room in the other side's window.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client may take back before we have looked at them, and that it may break in other
/// ways: a flood of either ends its connection (CVE-2023-44487, CVE-2025-8671).
const MAX_TAKEN_BACK: usize = 20;
const MAX_BROKEN: usize = 100;
/// Pause until a client that has sent a part of the preface is looked at again.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Whether the client begins to speak HTTP/2. Takes nothing from the connection, and waits for as long
/// as that is undecided.
pub(crate) async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 || !PREFACE.starts_with(&seen[..count]) {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        // The connection stays readable, so there is nothing to wait for but time.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

/// Runs the requests of one connection, which end with it, and counts them.
#[derive(Clone)]
struct Requests {
    front: Arc<Front>,
    stop: CancellationToken,
    count: watch::Sender<usize>,
}

impl<F> Executor<F> for Requests
where
    F: Future + Send + 'static,
{
    fn execute(&self, request: F) {
        let counted = Counted::new(self.count.clone());
        let stop = self.stop.clone();
        self.front.spawn(async move {
            tokio::select! {
                _ = request => {}
                () = stop.cancelled() => {}
            }
            drop(counted);
        });
    }
}

struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Requests {
    /// Ends when there was no request for `limit`.
    async fn idle(&self, limit: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = count.wait_for(|count| *count == 0).await;
            let busy = count.wait_for(|count| *count > 0);
            if tokio::time::timeout(limit, busy).await.is_err() {
                return;
            }
        }
    }
}

impl Listening {
    /// Answers the requests on one connection until it ends.
    pub(crate) async fn speak_http2(self, stream: BoxedConnection, line: Line) {
        let settings = &self.front.settings;
        let stream = StallGuard::new(stream, settings.write_stall);
        let stop = line.stop.clone();
        let peer = line.peer.clone();
        let front = Arc::clone(&self.front);
        let service = service_fn(move |request| {
            let front = Arc::clone(&front);
            let line = Line {
                peer: line.peer.clone(),
                // A carrier that is given up must not take those of others with it: a box on the way
                // may have put them on one connection.
                stop: CancellationToken::new(),
                opening: Arc::clone(&line.opening),
            };
            async move { Ok::<_, Infallible>(front.answer(request, line).await) }
        });
        // Whatever happens, the requests end with the connection.
        let requests = Requests {
            front: Arc::clone(&self.front),
            stop: stop.child_token(),
            count: watch::Sender::new(0),
        };
        let _ended = requests.stop.clone().drop_guard();
        let connection = http2::Builder::new(requests.clone())
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .max_frame_size(MAX_FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
            .max_local_error_reset_streams(MAX_BROKEN)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => return,
            () = requests.idle(settings.header_timeout) => {
                return tracing::debug!(peer = ?peer.peer, "an idle connection is closed");
            }
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stop.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = ?peer.peer, %error, "connection ended");
        }
    }
}
