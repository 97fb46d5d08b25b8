//! The relay's side of probes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::time::Instant;

use super::{Ask, MOST_PIECES};
use crate::body::{BodyError, FlowBody, ReadBodyError, read_whole};
use crate::front::{Front, Refusal, Reply, bare_response, media_type};
use crate::ladder::pattern;
use crate::span::SpanBuf;

/// How long the body of a probe may take.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes in the body of a trickle.
const MOST_TRICKLED: usize = 64 * 1024;

/// Answers a probe.
pub(crate) async fn serve(front: &Front, ask: Ask, headers: &HeaderMap, body: Incoming) -> Reply {
    let Ok(_turn) = front.probes.try_acquire() else {
        return Err(Refusal::Busy);
    };
    let answer = match ask {
        Ask::Echo => echo(front, body).await?,
        Ask::Trickle => trickle(body).await?,
        Ask::Drip {
            count,
            bytes,
            every,
        } => drip(count, bytes, every),
    };
    let response: Response<FlowBody> = bare_response(StatusCode::OK, media_type(headers, false));
    Ok(response.map(|_| answer))
}

async fn echo(front: &Front, body: Incoming) -> Result<FlowBody, Refusal> {
    let largest = front.settings.largest_body;
    let room = u32::try_from(largest / 1024 + 1).map_err(|_| Refusal::Busy)?;
    let budget = front.budget.try_acquire_many(room);
    let _budget = budget.map_err(|_| Refusal::Busy)?;
    let whole = tokio::time::timeout(BODY_LIMIT, read_whole(body, largest));
    match whole.await {
        Ok(Ok(bytes)) => Ok(SpanBuf::bare([bytes].into()).into()),
        Ok(Err(ReadBodyError::TooLong)) => Err(Refusal::TooLarge),
        Ok(Err(ReadBodyError::Broken(_))) => Err(Refusal::Incomplete),
        Err(_) => Err(Refusal::Incomplete),
    }
}

/// One line for each piece that came: milliseconds since the head of the request.
async fn trickle(mut body: Incoming) -> Result<FlowBody, Refusal> {
    let begin = Instant::now();
    let mut lines = String::new();
    let (mut pieces, mut bytes) = (0, 0);
    loop {
        let frame = tokio::time::timeout_at(begin + BODY_LIMIT, body.frame());
        match frame.await {
            Err(_) | Ok(Some(Err(_))) => return Err(Refusal::Incomplete),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > MOST_TRICKLED {
                    return Err(Refusal::TooLarge);
                }
                pieces += 1;
                if pieces <= MOST_PIECES {
                    lines.push_str(&format!("{}\n", begin.elapsed().as_millis()));
                }
            }
        }
    }
    Ok(SpanBuf::bare([Bytes::from(lines)].into()).into())
}

fn drip(count: u32, bytes: usize, every: Duration) -> FlowBody {
    let begin = Instant::now();
    let pieces = stream::unfold(0, move |index| async move {
        if index == count {
            return None;
        }
        tokio::time::sleep_until(begin + every * index).await;
        let piece = pattern(bytes * index as usize, bytes);
        Some((Ok::<_, BodyError>(Frame::data(piece)), index + 1))
    });
    FlowBody::Other(StreamBody::new(pieces).boxed_unsync())
}
