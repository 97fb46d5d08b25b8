//! The client's side of probes: what can be said about the path after a few seconds.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;

use super::{Ask, sample};
use crate::CarrierInfo;
use crate::body::{BodyError, FlowBody, read_whole};
use crate::client::{Client, ClientSettings};
use crate::error::CarrierError;
use crate::ladder::Rung;
use crate::span::SpanBuf;
use crate::url::RelayUrl;

/// Between the pieces of a stream that is measured.
const EVERY: Duration = Duration::from_millis(250);
/// Pieces of such a stream.
const PIECES: u32 = 4;
/// Sizes of the pieces: what is lost at the smallest and passes at a larger one tells the size of
/// the buffer that has to be filled.
const SIZES: [usize; 3] = [64, 4 * 1024, 16 * 1024];
/// Bodies, largest first: below nginx's default of 1 MiB, then halved as a carrier would.
const BODIES: [usize; 5] = [1_000_000, 500_000, 250_000, 125_000, 62_500];
/// Bytes that are compared one by one.
const INTACT: usize = 4096;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSettings {
    /// All of it may take so long; what is not known by then stays unknown. 12 s.
    pub limit: Duration,
    /// Whether silence for so long is tried, to find out whether the path cuts what is idle. None.
    pub idle: Option<Duration>,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        ProbeSettings {
            limit: Duration::from_secs(12),
            idle: None,
        }
    }
}

/// What is known about a path. `None` is: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measurements {
    /// From the request to the head of the first answer, connection included.
    pub answer_time: Option<Duration>,
    /// Whether bytes of all values come back as they were.
    pub intact: Option<bool>,
    /// Whether an answer is passed on while it is being sent.
    pub streaming_down: Option<bool>,
    /// How many bytes fill a buffer on the way so that it is passed on, where small pieces are held:
    /// at most so many.
    pub flush_size: Option<usize>,
    /// How much later than it was sent the first piece of a stream came, where it is held.
    pub held_for: Option<Duration>,
    /// Whether a request is passed on while it is being sent.
    pub streaming_up: Option<bool>,
    /// The largest body of those tried that is let through, in bytes, in both directions.
    pub largest_body: Option<usize>,
    /// How long that body took there and back.
    pub body_time: Option<Duration>,
    /// Whether silence of the length asked for was survived.
    pub idle_survived: Option<bool>,
}

impl Measurements {
    /// Why a carrier cannot work on this path, if that is known.
    #[must_use]
    pub fn hopeless(&self, rung: &Rung) -> Option<&'static str> {
        let needs = &rung.abilities;
        if needs.needs_response_streaming && self.streaming_down == Some(false) {
            // A larger buffer is no better for what must arrive at once.
            return Some("answers are held on the way until they are complete");
        }
        if needs.needs_request_streaming && self.streaming_up == Some(false) {
            return Some("requests are held on the way until they are complete");
        }
        None
    }
}

/// Measures the path to a relay.
///
/// # Errors
/// The relay cannot be reached, or does not answer probes.
pub async fn measure(
    relay: &RelayUrl,
    client: &ClientSettings,
    settings: ProbeSettings,
) -> Result<Measurements, CarrierError> {
    let client = Client::for_probes(relay, client)?;
    let mut known = Measurements::default();
    let begin = Instant::now();
    // The first one decides whether there is anything to measure.
    let first = within(settings.limit, echo(&client, INTACT)).await;
    let (status, body) = first.unwrap_or(Err(CarrierError::TimedOut {
        what: "the answer to a probe",
        after: settings.limit,
    }))?;
    if status != StatusCode::OK {
        return Err(CarrierError::Refused {
            status: status.as_u16(),
            what: "a probe",
        });
    }
    known.answer_time = Some(begin.elapsed());
    known.intact = Some(body == sample(INTACT));
    let left = settings.limit.saturating_sub(begin.elapsed());
    let idle = settings.idle.unwrap_or_default();
    let all = async {
        tokio::join!(
            within(left, down(&client)),
            within(left, up(&client)),
            within(left, largest(&client)),
            within(left + idle, silence(&client, settings.idle)),
        )
    };
    let (down, up, largest, idle) = all.await;
    if let Some(down) = down.flatten() {
        known.streaming_down = Some(down.size == Some(SIZES[0]));
        known.flush_size = down.size.filter(|size| *size != SIZES[0]);
        known.held_for = down.held_for;
    }
    known.streaming_up = up.and_then(Result::ok);
    if let Some((length, time)) = largest.flatten() {
        known.largest_body = Some(length);
        known.body_time = Some(time);
    }
    known.idle_survived = idle.flatten();
    Ok(known)
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, work).await.ok()
}

fn request(client: &Client, ask: Ask, body: FlowBody) -> Result<Request<FlowBody>, CarrierError> {
    let (method, name) = match ask {
        Ask::Drip { .. } => (Method::GET, header::ACCEPT),
        Ask::Echo | Ask::Trickle => (Method::POST, header::CONTENT_TYPE),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(ask.to_target(client.url.prefix(), rand::random()))
        .header(header::HOST, client.url.authority())
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .header(name, client.settings.media_type.clone())
        .body(body)
        .map_err(CarrierError::setting)?;
    for (name, value) in &client.settings.headers {
        request.headers_mut().insert(name, value.clone());
    }
    Ok(request)
}

async fn echo(client: &Client, length: usize) -> Result<(StatusCode, Bytes), CarrierError> {
    let body = SpanBuf::bare([sample(length)].into());
    let request = request(client, Ask::Echo, body.into())?;
    client.exchange(request, length + 64 * 1024).await
}

/// The largest body that goes there and back, and how long it takes.
async fn largest(client: &Client) -> Option<(usize, Duration)> {
    for length in BODIES {
        let begin = Instant::now();
        if let Ok((StatusCode::OK, body)) = echo(client, length).await
            && body.len() == length
        {
            return Some((length, begin.elapsed()));
        }
    }
    None
}

/// What was seen of streams towards us.
struct Down {
    /// The smallest of the sizes whose pieces are passed on at once.
    size: Option<usize>,
    held_for: Option<Duration>,
}

async fn down(client: &Client) -> Option<Down> {
    let (passed, held_for) = passes(client, SIZES[0], EVERY).await?;
    if passed {
        return Some(Down {
            size: Some(SIZES[0]),
            held_for: None,
        });
    }
    for size in &SIZES[1..] {
        if passes(client, *size, EVERY).await?.0 {
            // A machine that was busy elsewhere may have looked like a box that holds: asked again, slower.
            let size = match passes(client, SIZES[0], EVERY * 2).await?.0 {
                true => SIZES[0],
                false => *size,
            };
            return Some(Down {
                size: Some(size),
                held_for: (size != SIZES[0]).then_some(held_for),
            });
        }
    }
    Some(Down {
        size: None,
        held_for: Some(held_for),
    })
}

/// Whether pieces of this size are passed on as they are sent; when the first one came.
async fn passes(client: &Client, size: usize, every: Duration) -> Option<(bool, Duration)> {
    let ask = Ask::Drip {
        count: PIECES,
        bytes: size,
        every,
    };
    let arrivals = arrivals(client, ask).await.ok()?;
    let (first, last) = (arrivals.first()?, arrivals.last()?);
    // Held back is what comes when the last piece was sent, or after it.
    let spread = last.saturating_sub(*first);
    Some((spread >= every * (PIECES - 1) / 2, *first))
}

/// When the pieces of an answer came, after the request.
async fn arrivals(client: &Client, ask: Ask) -> Result<Vec<Duration>, CarrierError> {
    let mut connection = client.open().await?;
    let begin = Instant::now();
    let response = connection
        .send(request(client, ask, FlowBody::empty())?)
        .await?;
    if response.status() != StatusCode::OK {
        return Err(CarrierError::Refused {
            status: response.status().as_u16(),
            what: "a probe",
        });
    }
    let mut body = response.into_body();
    let mut arrivals = Vec::new();
    while let Some(frame) = body.frame().await {
        frame?;
        arrivals.push(begin.elapsed());
    }
    Ok(arrivals)
}

/// Whether the relay gets a request while it is being sent. A no is asked again, slower, as above.
async fn up(client: &Client) -> Result<bool, CarrierError> {
    Ok(trickles(client, EVERY).await? || trickles(client, EVERY * 2).await?)
}

async fn trickles(client: &Client, every: Duration) -> Result<bool, CarrierError> {
    let begin = Instant::now();
    let pieces = stream::unfold(0, move |index| async move {
        if index == PIECES {
            return None;
        }
        tokio::time::sleep_until(begin + every * index).await;
        let piece = sample(SIZES[0]);
        Some((Ok::<_, Infallible>(Frame::data(piece)), index + 1))
    });
    let body = StreamBody::new(pieces).map_err(|never| -> BodyError { match never {} });
    let mut connection = client.open().await?;
    let request = request(client, Ask::Trickle, FlowBody::Other(body.boxed_unsync()))?;
    let response = connection.send(request).await?;
    if response.status() != StatusCode::OK {
        // Boxes that want a length say no; to a carrier it is the same.
        return Ok(false);
    }
    let text = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&text);
    let came: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let (Some(first), Some(last)) = (came.first(), came.last()) else {
        return Err(CarrierError::protocol("no times in the answer to a probe"));
    };
    let spread = Duration::from_millis(last.saturating_sub(*first));
    Ok(spread >= every * (PIECES - 1) / 2)
}

async fn silence(client: &Client, length: Option<Duration>) -> Option<bool> {
    survives(client, length?).await.ok()
}

/// Whether an answer goes on after so long a silence, of five minutes at the most.
///
/// # Errors
/// The relay cannot be reached, or does not answer probes.
pub async fn survives_silence(
    relay: &RelayUrl,
    client: &ClientSettings,
    length: Duration,
) -> Result<bool, CarrierError> {
    survives(&Client::for_probes(relay, client)?, length).await
}

async fn survives(client: &Client, every: Duration) -> Result<bool, CarrierError> {
    let (count, bytes) = (2, SIZES[0]);
    let ask = Ask::Drip {
        count,
        bytes,
        every,
    };
    match arrivals(client, ask).await {
        // A held answer comes in one piece, and survives as well.
        Ok(_) => Ok(true),
        // What no connection could be made for was not cut; a box that gives up waiting for its answer says 504.
        Err(CarrierError::Refused { status: 504, .. } | CarrierError::ClosedAbruptly { .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The first answer on a way.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// How the relay was reached, and what TLS agreed on.
    pub info: CarrierInfo,
    /// The connection took so long: TCP, what a proxy wants, TLS.
    pub opened_in: Duration,
    /// The first answer took so long from then on.
    pub answered_in: Duration,
    /// Its HTTP status.
    pub status: u16,
    /// Whether what was sent came back, be it changed: nobody but a relay does so.
    pub is_relay: bool,
    /// The time of day at the relay when it answered, to the second (RFC 9110 section 6.6.1).
    pub date: Option<SystemTime>,
    /// The time of day here when that was heard.
    pub heard_at: SystemTime,
}

/// Makes one connection to the relay, and asks for one answer.
///
/// # Errors
/// The relay cannot be reached.
pub async fn greet(relay: &RelayUrl, client: &ClientSettings) -> Result<Greeting, CarrierError> {
    let client = Client::for_probes(relay, client)?;
    let begin = Instant::now();
    let mut connection = client.open().await?;
    let opened_in = begin.elapsed();
    let body = SpanBuf::bare([sample(INTACT)].into());
    let request = request(&client, Ask::Echo, body.into())?;
    let asking = connection.send(request);
    let response = client.within_limit("the first answer", asking).await?;
    let answered_in = begin.elapsed() - opened_in;
    let heard_at = SystemTime::now();
    let date = response.headers().get(header::DATE);
    let date = date.and_then(|it| httpdate::parse_http_date(it.to_str().ok()?).ok());
    let status = response.status();
    let whole = read_whole(response.into_body(), INTACT);
    let whole = client.within_limit("the first answer's body", async { Ok(whole.await) });
    let length = whole.await?.map_or(0, |body| body.len());
    Ok(Greeting {
        info: connection.info.clone(),
        opened_in,
        answered_in,
        status: status.as_u16(),
        is_relay: status == StatusCode::OK && length == INTACT,
        date,
        heard_at,
    })
}
