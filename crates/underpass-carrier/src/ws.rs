//! `ws`: binary WebSocket messages (RFC 6455), which many proxies know and let through.
//!
//! Messages mean nothing but their bytes. An empty one is the orderly end of its direction: a close
//! frame would end both.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use http::{HeaderMap, Method, StatusCode, header};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::client::Client;
use crate::dial::BoxedConnection;
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::kind::{Abilities, Kind};
use crate::span::take_front;
use crate::{Carrier, Sink, Source};

/// The protocol named in `Upgrade`.
const TOKEN: &str = "websocket";
/// The only version there is (RFC 6455 section 4.1).
const VERSION: &str = "13";
/// The most bytes that queued chunks are joined to. A message is taken when it has arrived whole: on a slow path nothing of it,
/// and no acknowledgement, gets anywhere before.
const MESSAGE: usize = 16 * 1024;
/// The largest message that is taken; a box on the way may join ours.
const LARGEST_MESSAGE: usize = 1024 * 1024;
/// Read buffer per carrier; it is allocated at once, so an idle carrier pays for it too.
const READ_BUFFER: usize = 64 * 1024;

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "ws",
    abilities: Abilities {
        two_way_streaming: true,
        needs_upgrade: true,
        connections: 1,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let key = generate_key();
    let headers = [
        (header::UPGRADE, TOKEN),
        (header::SEC_WEBSOCKET_VERSION, VERSION),
        (header::SEC_WEBSOCKET_KEY, key.as_str()),
    ];
    let upgraded = client.upgrade(&headers).await?;
    let accept = upgraded.headers.get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err(CarrierError::protocol(
            "the WebSocket answer does not fit the key that was sent",
        ));
    }
    let (sink, source) = socket(upgraded.stream, upgraded.early, Role::Client).await;
    Ok(Carrier {
        sink: Box::new(sink),
        source: Box::new(source),
        info: upgraded.info,
    })
}

async fn serve(mut exchange: Exchange) -> Reply {
    if exchange.request.method() != Method::GET {
        return Err(Refusal::NotFound);
    }
    let accept = accept_key(exchange.request.headers()).ok_or(Refusal::UpgradeRequired(TOKEN))?;
    let half_made = exchange.begin()?;
    let info = exchange.info(KIND.name);
    let upgrading = exchange.take_upgrade();
    exchange.spawn(async move {
        let Some((stream, early)) = upgrading.await else {
            return;
        };
        let (sink, source) = socket(stream, early, Role::Server).await;
        let carrier = Carrier {
            sink: Box::new(sink),
            source: Box::new(source),
            info,
        };
        half_made.introduce(carrier).await;
    });
    Ok(
        exchange.respond(StatusCode::SWITCHING_PROTOCOLS, |headers| {
            let value = header::HeaderValue::from_static;
            headers.insert(header::UPGRADE, value(TOKEN));
            headers.insert(header::CONNECTION, value("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }),
    )
}

/// What answers the client's key, if the request is a WebSocket's (RFC 6455 section 4.2.1).
fn accept_key(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let token = headers.get(header::UPGRADE)?.as_bytes();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?.as_bytes();
    if !token.eq_ignore_ascii_case(TOKEN.as_bytes()) || version != VERSION.as_bytes() {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    header::HeaderValue::from_str(&derive_accept_key(key)).ok()
}

async fn socket(stream: BoxedConnection, early: Bytes, role: Role) -> (WsSink, WsSource) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // Each message is ours to gather; the layer below is to write it at once.
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE)
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE));
    let early = early.to_vec();
    let socket = WebSocketStream::from_partially_read(stream, early, role, Some(config)).await;
    let (sink, source) = socket.split();
    let sink = WsSink {
        inner: sink,
        closing: false,
        closed: false,
    };
    let source = WsSource {
        inner: source,
        ended: false,
    };
    (sink, source)
}

impl From<WsError> for CarrierError {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Protocol(_) | WsError::Capacity(_) | WsError::Utf8(_) => {
                Self::protocol(error.to_string())
            }
            other => Self::broken(other),
        }
    }
}

/// Sends messages.
struct WsSink {
    inner: SplitSink<WebSocketStream<BoxedConnection>, Message>,
    closing: bool,
    closed: bool,
}

impl Sink for WsSink {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        if self.closing {
            return Poll::Ready(Err(CarrierError::Closed));
        }
        ready!(Pin::new(&mut self.inner).poll_ready(cx))?;
        let Some(message) = take_message(queue) else {
            return Poll::Ready(Ok(()));
        };
        Pin::new(&mut self.inner).start_send(Message::Binary(message))?;
        // Without this a message would lie in the buffer until the next one comes.
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        if !self.closing {
            ready!(Pin::new(&mut self.inner).poll_ready(cx))?;
            self.closing = true;
            Pin::new(&mut self.inner).start_send(Message::Binary(Bytes::new()))?;
        }
        ready!(self.poll_flush(cx))?;
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for WsSink {
    fn drop(&mut self) {
        if !self.closed {
            // The other half may live on and keep the connection open; a close frame without the
            // empty message before it is a break to the other side.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(&mut self.inner).poll_close(&mut cx);
        }
    }
}

/// The bytes of the next message: one chunk as it is, or several small ones joined.
fn take_message(queue: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let mut chunks = VecDeque::new();
    let len = take_front(queue, &mut chunks, MESSAGE);
    match chunks.len() {
        0 => None,
        1 => chunks.pop_front(),
        _ => {
            let mut joined = BytesMut::with_capacity(len);
            for chunk in chunks {
                joined.extend_from_slice(&chunk);
            }
            Some(joined.freeze())
        }
    }
}

/// Receives messages; answers pings on the way.
struct WsSource {
    inner: SplitStream<WebSocketStream<BoxedConnection>>,
    ended: bool,
}

impl Source for WsSource {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Some(Ok(Message::Binary(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    let error = CarrierError::broken("the WebSocket closed before the end");
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    let error = CarrierError::protocol("a WebSocket message that is not binary");
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_joined_and_large_ones_cut() {
        let chunk = |len| Bytes::from(vec![1; len]);
        let mut queue = VecDeque::from([chunk(10), chunk(20), chunk(MESSAGE)]);
        let lens: Vec<usize> = std::iter::from_fn(|| take_message(&mut queue))
            .map(|message| message.len())
            .collect();
        assert_eq!(lens, [MESSAGE, 30]);
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_shows() {
        // RFC 6455 section 1.3.
        let mut headers = HeaderMap::new();
        let value = header::HeaderValue::from_static;
        headers.insert(header::UPGRADE, value("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, value("13"));
        assert_eq!(accept_key(&headers), None, "no key");
        headers.insert(header::SEC_WEBSOCKET_KEY, value("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(
            accept_key(&headers).expect("complete"),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
