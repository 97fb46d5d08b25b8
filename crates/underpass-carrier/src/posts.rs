//! `posts`: one streaming response for the bytes from the relay, numbered POSTs for those to it.
//!
//! For paths that pass a response on as it comes but gather each request first.

use std::sync::Arc;

use http::{Method, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::body::{BodySource, FlowBody};
use crate::client::{Client, refused};
use crate::coding::Coding;
use crate::error::CarrierError;
use crate::front::{Exchange, Refusal, Reply};
use crate::guard::Guarded;
use crate::inbox::{Inbox, InboxSource, Presence, supervise, take_post};
use crate::kind::{Abilities, Kind};
use crate::pipe::pipe;
use crate::posting::{Lease, PostSink};
use crate::request::Part;
use crate::{Carrier, Source};

/// This carrier's entry in the table.
pub(crate) const KIND: Kind = Kind {
    name: "posts",
    abilities: Abilities {
        needs_response_streaming: true,
        survives_repeated_requests: true,
        largest_body: Some(1_000_000),
        connections: 25,
        ..Abilities::NONE
    },
    connect: |client| Box::pin(connect(client)),
    serve: |exchange| Box::pin(serve(exchange)),
};

async fn connect(client: Arc<Client>) -> Result<Carrier, CarrierError> {
    let (source, info) = open_down(&client).await?;
    let lease = Lease::new(Arc::clone(&client));
    let dead = lease.dead.clone();
    Ok(Carrier {
        sink: Box::new(PostSink::new(client, Arc::clone(&lease))),
        source: Box::new(Leased {
            inner: Guarded::new(source, dead),
            lease,
        }),
        info,
    })
}

/// Asks for the streaming response and waits until its first byte has come through.
pub(crate) async fn open_down(
    client: &Client,
) -> Result<(BodySource, crate::CarrierInfo), CarrierError> {
    let mut connection = client.open().await?;
    let request = client.request(Method::GET, Part::Down, FlowBody::empty())?;
    let what = "the first byte of the streaming response (something on the way holds it back)";
    let info = connection.info.clone();
    let opening = async move {
        let response = connection.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response.status(), "the streaming response"));
        }
        let mut source = BodySource::of_answer(response.into_body(), connection);
        source.fill().await?;
        Ok(source)
    };
    let source = client.within_proof(what, opening).await?;
    Ok((source, info))
}

/// A source that tells the relay when it is dropped, after the sink was.
struct Leased<S> {
    inner: Guarded<S>,
    lease: Arc<Lease>,
}

impl<S: Source> Source for Leased<S> {
    fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<bytes::Bytes, CarrierError>>> {
        let polled = self.inner.poll_recv(cx);
        if let std::task::Poll::Ready(Some(Err(_))) = &polled {
            self.lease.dead.cancel();
        }
        polled
    }
}

/// What the server knows of a carrier of this kind.
struct Entry {
    inbox: Arc<Inbox>,
    presence: Arc<Presence>,
    gone: CancellationToken,
}

async fn serve(exchange: Exchange) -> Reply {
    match (exchange.request.method(), exchange.part) {
        (&Method::GET, Part::Down) => begin(exchange),
        (&Method::POST, Part::Post { offset, end }) => {
            let entry = exchange.find::<Entry>()?;
            let _present = entry.presence.enter()?;
            let (inbox, gone) = (Arc::clone(&entry.inbox), entry.gone.clone());
            take_post(exchange, inbox, gone, Coding::Binary, (offset, end)).await
        }
        (&Method::DELETE, Part::Whole) => {
            let entry = exchange.find::<Entry>()?;
            entry.gone.cancel();
            Ok(exchange.respond(StatusCode::NO_CONTENT, |_| ()))
        }
        _ => Err(Refusal::NotFound),
    }
}

fn begin(exchange: Exchange) -> Reply {
    let half_made = exchange.begin()?;
    let settings = &exchange.front.settings;
    let entry = Arc::new(Entry {
        inbox: Inbox::new(settings.receive_window),
        presence: Presence::new(),
        gone: CancellationToken::new(),
    });
    let slot = exchange.register(&entry).ok_or(Refusal::NotFound)?;
    let Entry {
        inbox,
        presence,
        gone,
    } = &*entry;
    // The response counts as a request under way for as long as it lasts.
    let streaming = presence.enter()?;
    let (sink, body) = pipe(exchange.line.stop.clone(), gone.clone(), false);
    let carrier = Carrier {
        sink: Box::new(sink),
        source: Box::new(InboxSource::new(inbox)),
        info: exchange.info(KIND.name),
    };
    exchange.spawn(half_made.introduce_or(carrier, gone.clone()));
    exchange.spawn(supervise(
        slot,
        Arc::clone(inbox),
        Arc::clone(presence),
        gone.clone(),
        settings.silence,
    ));
    Ok(exchange.respond_with(FlowBody::Pipe(body.keep(streaming))))
}
