//! Requests written by hand: what a client of ours would never send.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// One HTTP connection.
pub(crate) struct Http(SendRequest<Full<Bytes>>);

/// An answer read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = within(TcpStream::connect(("127.0.0.1", port))).await;
        let io = TokioIo::new(stream.expect("connected"));
        let (sender, connection) = within(handshake(io)).await.expect("handshake");
        tokio::spawn(connection);
        Self(sender)
    }

    /// A request without a body that is sent, and its answer thrown away, by who awaits what is
    /// returned.
    pub(crate) async fn begin(
        &mut self,
        method: &str,
        path: &str,
    ) -> impl Future<Output = ()> + use<> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "relay").body(Full::default());
        within(self.0.ready()).await.expect("alive");
        let answer = self.0.send_request(request.expect("valid request"));
        async move { drop(answer.await) }
    }

    /// Sends a request; the answer's body is still to come.
    pub(crate) async fn start(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> http::Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "relay");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        let request = request.body(body).expect("valid request");
        within(self.0.ready()).await.expect("alive");
        within(self.0.send_request(request)).await.expect("answer")
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.ask_with(method, path, &[], body).await
    }

    pub(crate) async fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let (head, body) = self.start(method, path, headers, body).await.into_parts();
        let body = within(body.collect()).await.expect("whole body");
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        }
    }
}

/// Sends bytes and reads what comes until the server closes; a reset counts as the close.
pub(crate) async fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let stream = within(TcpStream::connect(("127.0.0.1", port))).await;
    let mut stream = stream.expect("connected");
    let mut answer = Vec::new();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = within(stream.read_to_end(&mut answer)).await;
    answer
}

/// Looks again and again until `done`. For what no event tells of.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    within(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
