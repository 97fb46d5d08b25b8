//! Reading a fuzzer's input as a row of small choices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Choices that are left; all are zero once the input has run out.
pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub(super) fn pair(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The first `len` bytes of what is left, or all of it.
    pub(super) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The byte at one place of the stream that is carried: neighbours, pages and files of it differ.
pub(super) fn content(at: u64) -> u8 {
    (at ^ (at >> 8)).wrapping_mul(31) as u8
}

/// Bytes of that stream.
pub(super) fn stream(from: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| content(from.wrapping_add(at)))
        .collect()
}

/// Counts the bytes of memory that handed-out chunks keep alive, whatever part of them is in use.
#[derive(Clone, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

struct Counted {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Gauge {
    pub(super) fn chunk(&self, bytes: Vec<u8>) -> Bytes {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        let alive = Arc::clone(&self.0);
        Bytes::from_owner(Counted { bytes, alive })
    }

    pub(super) fn alive(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
