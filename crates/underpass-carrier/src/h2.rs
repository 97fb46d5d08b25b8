//! `h2`: one HTTP/2 stream, a request whose body streams while that of its answer streams back.
//!
//! One connection, no upgrade to be removed. Both bodies stay open for the carrier's life, so every
//! box on the way has to pass both on as they come; opening it proves that. With the media type
//! `application/grpc` boxes pass the request on that gather others.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::body::{BodySource, FlowBody};
use crate::client::{Client, refused};
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::guard::Guarded;
use crate::http2::Http2Connection;
use crate::kind::{Abilities, Kind};
use crate::pipe::pipe;
use crate::request::Part;
use crate::{Carrier, Source};

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "h2",
    abilities: Abilities {
        two_way_streaming: true,
        needs_http2: true,
        needs_response_streaming: true,
        needs_request_streaming: true,
        connections: 1,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let connection = Http2Connection::open(&client).await?;
    let info = connection.info.clone();
    let lost = CancellationToken::new();
    let (sink, body) = pipe(connection.stop.clone(), lost.clone(), false);
    let request = client.request(Method::POST, Part::Whole, FlowBody::Pipe(body))?;
    let opening = async {
        let response = connection.send(&client, request).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response.status(), "the two-way stream"));
        }
        let mut source = BodySource::of_answer(response.into_body(), connection);
        // The first one shows that answers stream, the second one that the request does.
        source.fill().await?;
        source.fill().await?;
        Ok(source)
    };
    let what = "a sign that both ways of the stream come through (something on the way holds them)";
    let source = client.within_proof(what, opening).await?;
    Ok(Carrier {
        sink: Box::new(sink),
        source: Box::new(Guarded::new(source, lost)),
        info,
    })
}

/// A source that tells when it has ended, or was dropped.
struct Ending<S> {
    inner: Guarded<S>,
    over: Option<DropGuard>,
}

impl<S: Source> Source for Ending<S> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        let received = ready!(self.inner.poll_recv(cx));
        if !matches!(received, Some(Ok(_))) {
            self.over = None;
        }
        Poll::Ready(received)
    }
}

async fn serve(exchange: Exchange) -> Reply {
    if exchange.request.method() != Method::POST || exchange.part != Part::Whole {
        return Err(Refusal::NotFound);
    }
    let half_made = exchange.begin()?;
    let lost = CancellationToken::new();
    let (sink, body) = pipe(exchange.line.stop.clone(), lost.clone(), false);
    let info = exchange.info(KIND.name);
    let limit = exchange.front.settings.first_byte_timeout;
    let over = CancellationToken::new();
    let body = body.linger_until(over.clone());
    let answer = exchange.respond_with(FlowBody::Pipe(body));
    let front = Arc::clone(&exchange.front);
    let mut source = BodySource::new(exchange.into_body());
    let over = over.drop_guard();
    front.spawn(async move {
        if !matches!(tokio::time::timeout(limit, source.fill()).await, Ok(Ok(()))) {
            return tracing::debug!("the request does not stream");
        }
        sink.fill();
        let carrier = Carrier {
            sink: Box::new(sink),
            source: Box::new(Ending {
                inner: Guarded::new(source, lost),
                over: Some(over),
            }),
            info,
        };
        half_made.introduce(carrier).await;
    });
    Ok(answer)
}
