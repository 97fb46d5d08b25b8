//! Connections that speak HTTP/2, on the client's side: by ALPN over TLS, by prior knowledge without
//! it (RFC 9113 section 3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{Authority, Scheme as UriScheme, Uri};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::CarrierInfo;
use crate::body::{FlowBody, ReadBodyError, read_whole};
use crate::client::Client;
use crate::dial::Speech;
use crate::error::CarrierError;
use crate::portal;
use crate::proxy::opening::Opened;

/// The name in ALPN (RFC 9113 section 3.1).
pub(crate) const ALPN: &[u8] = b"h2";
/// What the relay may send before we have read it, of a stream and in all: enough for 80 MB/s at a
/// round trip of 100 ms.
const WINDOW: u32 = 8 * 1024 * 1024;
/// The most bytes of one stream that wait below us for room in the other side's window.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame and the most header bytes that are taken.
const FRAME: u32 = 64 * 1024;
const HEADERS: u32 = 32 * 1024;
/// How long a connection may last that nobody uses any more: for what is still on its way out.
const DRAIN: Duration = Duration::from_secs(5);

/// A connection that HTTP/2 is spoken on.
pub(crate) struct Http2Connection {
    sender: SendRequest<FlowBody>,
    /// Ends the connection whatever it is doing.
    pub(crate) stop: CancellationToken,
    pub(crate) info: CarrierInfo,
    /// Lets the connection end once its streams have.
    _unused: DropGuard,
}

impl Http2Connection {
    /// A new connection to the relay.
    pub(crate) async fn open(client: &Client) -> Result<Self, CarrierError> {
        let Opened { connection, info } = client.open_stream(Speech::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_frame_size(FRAME)
            .max_header_list_size(HEADERS)
            .handshake(TokioIo::new(connection))
            .await?;
        let (stop, unused) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, left) = (stop.clone(), unused.clone());
        tokio::spawn(async move {
            let overdue = async {
                left.cancelled().await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection to the relay ended");
                    }
                }
                () = stopped.cancelled() => {}
                () = overdue => {}
            }
        });
        Ok(Self {
            sender,
            stop,
            info,
            _unused: unused.drop_guard(),
        })
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        client: &Client,
        request: Request<FlowBody>,
    ) -> Result<Response<Incoming>, CarrierError> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(to_http2(client, request)?).await?;
        match portal::is_busy(&response) {
            true => Err(CarrierError::Busy),
            false => Ok(response),
        }
    }
}

/// Puts the host into the target, as HTTP/2 wants it (RFC 9113 section 8.3.1).
fn to_http2(
    client: &Client,
    mut request: Request<FlowBody>,
) -> Result<Request<FlowBody>, CarrierError> {
    let authority: Authority = client
        .url
        .authority()
        .parse()
        .map_err(CarrierError::setting)?;
    let scheme: UriScheme = client
        .url
        .scheme()
        .as_str()
        .parse()
        .map_err(CarrierError::setting)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority);
    parts.scheme = Some(scheme);
    *request.uri_mut() = Uri::from_parts(parts).map_err(CarrierError::setting)?;
    let headers = request.headers_mut();
    headers.remove(header::HOST);
    let media_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if media_type.is_some_and(|name| name.starts_with(b"application/grpc")) {
        // Boxes that know gRPC refuse it otherwise.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// One connection that all requests of a carrier share; made anew when it was lost.
#[derive(Default)]
pub(crate) struct Shared(Mutex<Option<Arc<Http2Connection>>>);

impl Shared {
    async fn connection(&self, client: &Client) -> Result<Arc<Http2Connection>, CarrierError> {
        let mut kept = self.0.lock().await;
        match &*kept {
            Some(connection) if !connection.sender.is_closed() => Ok(Arc::clone(connection)),
            _ => {
                let connection = Arc::new(Http2Connection::open(client).await?);
                *kept = Some(Arc::clone(&connection));
                Ok(connection)
            }
        }
    }

    /// Makes the connection; what is known about it.
    pub(crate) async fn open(&self, client: &Client) -> Result<CarrierInfo, CarrierError> {
        Ok(self.connection(client).await?.info.clone())
    }

    /// Sends `request` and reads the whole answer of at most `limit` bytes.
    pub(crate) async fn exchange(
        &self,
        client: &Client,
        request: Request<FlowBody>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CarrierError> {
        let connection = self.connection(client).await?;
        let response = connection.send(client, request).await?;
        let status = response.status();
        let body = read_whole(response.into_body(), limit).await;
        Ok((status, body.map_err(ReadBodyError::into_error)?))
    }

    /// No further request goes over the connection there is; those under way go on.
    pub(crate) fn forget(&self) {
        if let Ok(mut kept) = self.0.try_lock() {
            *kept = None;
        }
    }
}
