//! A carrier inside the process: what the relay sends through it comes to the relay.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use underpass_carrier::{Carrier, CarrierError, CarrierInfo, Scheme, Sink, Source};

/// Chunks under way in one direction; the sessions above keep them below 128 KiB each.
const CHUNKS: usize = 8;
/// What `status` and the log call it.
const NAME: &str = "inside";

/// Bytes, or the orderly end.
type Item = Option<Bytes>;

struct Inlet(PollSender<Item>);

impl Sink for Inlet {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), CarrierError>> {
        let mut taken = queue.is_empty();
        while !queue.is_empty() {
            match self.0.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    let chunk = queue.pop_front();
                    self.0.send_item(chunk).map_err(|_| CarrierError::Closed)?;
                    taken = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(CarrierError::Closed)),
                Poll::Pending if taken => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        debug_assert!(taken, "the loop leaves with something taken");
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        if self.0.is_closed() {
            return Poll::Ready(Ok(()));
        }
        // Nobody is left to be told when the other side is gone.
        if ready!(self.0.poll_reserve(cx)).is_ok() {
            let _ = self.0.send_item(None);
        }
        self.0.close();
        Poll::Ready(Ok(()))
    }
}

struct Outlet {
    items: mpsc::Receiver<Item>,
    ended: bool,
}

impl Source for Outlet {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.items.poll_recv(cx)) {
            Some(Some(bytes)) => Some(Ok(bytes)),
            Some(None) => {
                self.ended = true;
                None
            }
            None => Some(Err(CarrierError::ClosedAbruptly {
                reason: "the other end was dropped".to_owned(),
            })),
        })
    }
}

/// Both ends of a carrier for the client at `peer`.
pub(super) fn pair(peer: Option<SocketAddr>, scheme: Scheme) -> (Carrier, Carrier) {
    let direction = || {
        let (sender, items) = mpsc::channel(CHUNKS);
        let ended = false;
        (Inlet(PollSender::new(sender)), Outlet { items, ended })
    };
    let end = |sink: Inlet, source: Outlet| Carrier {
        sink: Box::new(sink),
        source: Box::new(source),
        info: CarrierInfo {
            carrier: NAME,
            scheme,
            peer,
            local: None,
            tls: None,
            proxy: None,
        },
    };
    let (there, from_there) = direction();
    let (back, from_back) = direction();
    (end(there, from_back), end(back, from_there))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn send(carrier: &mut Carrier, text: &'static str) {
        let mut queue = VecDeque::from([Bytes::from_static(text.as_bytes())]);
        poll_fn(|cx| carrier.sink.poll_send(cx, &mut queue))
            .await
            .unwrap();
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_an_end_is_told_from_a_break() {
        let (mut near, mut far) = pair(None, Scheme::Http);
        send(&mut near, "there").await;
        send(&mut far, "back").await;
        let next = async |carrier: &mut Carrier| {
            poll_fn(|cx| carrier.source.poll_recv(cx))
                .await
                .map(|chunk| chunk.ok())
        };
        assert_eq!(next(&mut far).await, Some(Some("there".into())));
        assert_eq!(next(&mut near).await, Some(Some("back".into())));
        poll_fn(|cx| near.sink.poll_close(cx)).await.unwrap();
        assert_eq!(next(&mut far).await, None);
        assert_eq!(next(&mut far).await, None);
        drop(far);
        assert_eq!(next(&mut near).await, Some(None), "no end, a break");
    }

    #[tokio::test]
    async fn a_full_carrier_takes_no_more() {
        let (mut near, mut far) = pair(None, Scheme::Http);
        let mut queue: VecDeque<Bytes> = (0..20).map(|n| Bytes::from(vec![n; 2])).collect();
        poll_fn(|cx| near.sink.poll_send(cx, &mut queue))
            .await
            .unwrap();
        assert_eq!(queue.len(), 20 - CHUNKS);
        let waiting = poll_fn(|cx| Poll::Ready(near.sink.poll_send(cx, &mut queue).is_pending()));
        assert!(waiting.await);
        let first = poll_fn(|cx| far.source.poll_recv(cx)).await.unwrap();
        assert_eq!(first.unwrap(), [0, 0][..]);
        poll_fn(|cx| near.sink.poll_send(cx, &mut queue))
            .await
            .unwrap();
        assert_eq!(queue.len(), 19 - CHUNKS);
    }
}
