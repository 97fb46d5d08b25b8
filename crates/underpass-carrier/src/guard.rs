//! What is laid around a carrier's receiving half before it is handed out.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::Source;
use crate::error::CarrierError;

/// A source that ends when another part of its carrier is lost: the half that carries bytes out may
/// notice a break that the half that carries bytes in cannot see.
pub(crate) struct Guarded<S> {
    inner: S,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl<S: Source> Guarded<S> {
    pub(crate) fn new(inner: S, lost: CancellationToken) -> Self {
        Self {
            inner,
            lost: Box::pin(lost.cancelled_owned()),
            ended: false,
        }
    }
}

impl<S: Source> Source for Guarded<S> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        // What has arrived is handed out before the loss is told.
        match self.inner.poll_recv(cx) {
            Poll::Ready(Some(Ok(bytes))) => return Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(end) => {
                self.ended = true;
                return Poll::Ready(end);
            }
            Poll::Pending => {}
        }
        if !self.ended && self.lost.as_mut().poll(cx).is_ready() {
            let error = CarrierError::broken("the carrier's other direction was lost");
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Pending
    }
}

/// A source on which the first chunk was waited for already, and which counts as a live carrier.
pub(crate) struct Started {
    pub(crate) first: Option<Bytes>,
    pub(crate) inner: Box<dyn Source>,
    pub(crate) _counted: OwnedSemaphorePermit,
}

impl Source for Started {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CarrierError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.inner.poll_recv(cx),
        }
    }
}
