//! `stream`: one streaming response and one streaming request, tied together by the carrier's id.
//!
//! The cheapest carrier per byte where no upgrade passes. Both bodies stay open for the carrier's
//! life, so every box on the way has to pass both on as they come; opening it proves that.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::body::{BodySource, FlowBody};
use crate::client::{Client, HttpConnection, refused};
use crate::error::CarrierError;
use crate::front::{Exchange, HalfMade, Refusal, Reply, Slot};
use crate::guard::Guarded;
use crate::kind::{Abilities, Kind};
use crate::pipe::{Pipe, PipeBody, PipeSink, pipe};
use crate::posts::open_down;
use crate::request::Part;
use crate::{Carrier, CarrierInfo};

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "stream",
    abilities: Abilities {
        needs_response_streaming: true,
        needs_request_streaming: true,
        connections: 2,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    // Both connections are made at once; the requests go one after the other.
    let (down, up) = tokio::join!(open_down(&client), client.open());
    let ((mut source, info), up) = (down?, up?);
    let lost = CancellationToken::new();
    let (sink, body) = pipe(up.stop.clone(), lost.clone(), true);
    // Ends with the connection, which the sink gives up when it is dropped before its answer.
    let mut sending = tokio::spawn(send_up(Arc::clone(&client), up, body, sink.pipe()));
    let what =
        "a sign that the streaming request came through (something on the way holds it back)";
    tokio::select! {
        proven = client.within_proof(what, source.fill()) => proven?,
        refused = &mut sending => return Err(early_end(refused)),
    }
    Ok(Carrier {
        sink: Box::new(sink),
        source: Box::new(Guarded::new(source, lost)),
        info,
    })
}

/// Sends the streaming request and tells its sink how it ended.
async fn send_up(
    client: Arc<Client>,
    mut connection: HttpConnection,
    body: PipeBody,
    pipe: Arc<Pipe>,
) -> Result<(), CarrierError> {
    let request = client.request(Method::POST, Part::Up, FlowBody::Pipe(body))?;
    let outcome = match connection.send(request).await {
        Ok(response) if response.status() == StatusCode::NO_CONTENT => Ok(()),
        Ok(response) => Err(refused(response.status(), "the streaming request")),
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(()) => pipe.answered(),
        Err(error) => pipe.fail(error.clone()),
    }
    outcome
}

fn early_end(ended: Result<Result<(), CarrierError>, tokio::task::JoinError>) -> CarrierError {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => CarrierError::protocol("the streaming request was answered before its end"),
        Err(error) => CarrierError::broken(error),
    }
}

/// What the server knows of a carrier of this kind while its request is awaited.
struct Entry {
    /// Takes the streaming request; gone once one has come.
    up: Mutex<Option<oneshot::Sender<BodySource>>>,
}

async fn serve(exchange: Exchange) -> Reply {
    match (exchange.request.method(), exchange.part) {
        (&Method::GET, Part::Down) => begin(&exchange),
        (&Method::POST, Part::Up) => join(exchange).await,
        _ => Err(Refusal::NotFound),
    }
}

/// The first request: answered at once, and the second one awaited.
fn begin(exchange: &Exchange) -> Reply {
    let half_made = exchange.begin()?;
    let (joined, up) = oneshot::channel();
    let entry = Arc::new(Entry {
        up: Mutex::new(Some(joined)),
    });
    let slot = exchange.register(&entry).ok_or(Refusal::NotFound)?;
    let lost = CancellationToken::new();
    let (sink, body) = pipe(exchange.line.stop.clone(), lost.clone(), false);
    let info = exchange.info(KIND.name);
    let limit = exchange.front.settings.first_byte_timeout;
    let joining = async move {
        let halves = tokio::select! {
            up = tokio::time::timeout(limit, up) => up,
            () = lost.cancelled() => return,
        };
        if let Ok(Ok(source)) = halves {
            let began = Joined {
                slot,
                half_made,
                sink,
                source,
                info,
            };
            began.introduce(lost, limit).await;
        }
    };
    exchange.spawn(joining);
    Ok(exchange.respond_with(FlowBody::Pipe(body)))
}

/// A carrier of which both requests have come.
struct Joined {
    slot: Slot,
    half_made: HalfMade,
    sink: PipeSink,
    source: BodySource,
    info: CarrierInfo,
}

impl Joined {
    async fn introduce(self, lost: CancellationToken, limit: std::time::Duration) {
        let Self {
            slot,
            half_made,
            sink,
            mut source,
            info,
        } = self;
        // Nobody else may join under this name, and nobody else has to.
        drop(slot);
        if !matches!(tokio::time::timeout(limit, source.fill()).await, Ok(Ok(()))) {
            return tracing::debug!("the streaming request does not stream");
        }
        sink.fill();
        let carrier = Carrier {
            sink: Box::new(sink),
            source: Box::new(Guarded::new(source, lost)),
            info,
        };
        half_made.introduce(carrier).await;
    }
}

/// The second request: answered when its body has ended in order.
async fn join(exchange: Exchange) -> Reply {
    let entry = exchange.find::<Entry>()?;
    let waiting = entry
        .up
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .ok_or(Refusal::NotFound)?;
    drop(entry);
    let answer = exchange.respond(StatusCode::NO_CONTENT, |_| ());
    let (finished, ended) = oneshot::channel();
    let source = BodySource::with_finished(exchange.into_body(), finished);
    waiting.send(source).map_err(|_| Refusal::NotFound)?;
    // Dropped without a word when the carrier is given up.
    ended.await.map_err(|_| Refusal::NotFound)?;
    Ok(answer)
}
