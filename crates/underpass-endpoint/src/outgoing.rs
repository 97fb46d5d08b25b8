//! What a link is about to hand to its carrier.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use underpass_proto::packet::{self, PacketKind};
use underpass_proto::route::RouteHeader;
use underpass_seal::{SealingKey, Space, TAG_LEN};

/// The queue is full at so many bytes: little unsent data, so that priorities mean something.
const FULL: usize = 128 * 1024;
/// Prefixes and headers are cut from pieces of this size.
const SCRATCH: usize = 8 * 1024;

/// Seals routing headers of one link and direction: they are counted, each sealed once.
pub(crate) struct HeaderSealer {
    key: SealingKey,
    count: u64,
}

impl HeaderSealer {
    pub(crate) fn new(key: SealingKey) -> Self {
        HeaderSealer { key, count: 0 }
    }
}

/// Packets on their way into a carrier, as the pieces they consist of.
#[derive(Default)]
pub struct Outgoing {
    pub(crate) queue: VecDeque<Bytes>,
    bytes: usize,
    scratch: BytesMut,
    sealer: Option<HeaderSealer>,
}

impl Outgoing {
    /// Bytes in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether sources should wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= FULL
    }

    pub(crate) fn set_sealer(&mut self, sealer: HeaderSealer) {
        self.sealer = Some(sealer);
    }

    /// Routed packets can be sent.
    pub(crate) fn can_route(&self) -> bool {
        self.sealer.is_some()
    }

    /// Counts what the carrier took.
    pub(crate) fn recount(&mut self) {
        self.bytes = self.queue.iter().map(Bytes::len).sum();
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if !piece.is_empty() {
            self.queue.push_back(piece);
        }
    }

    fn scratch(&mut self, need: usize) -> &mut BytesMut {
        if self.scratch.capacity() < need {
            self.scratch = BytesMut::with_capacity(SCRATCH.max(need));
        }
        &mut self.scratch
    }

    /// Adds a packet of the hop's session: kind and body.
    pub(crate) fn push_packet(&mut self, packet: Bytes) {
        let scratch = self.scratch(packet::MAX_PREFIX);
        underpass_proto::varint::put(scratch, packet.len() as u64);
        let prefix = scratch.split().freeze();
        self.push(prefix);
        self.push(packet);
    }

    /// Adds a routed packet: the header is sealed for this link, the payload goes as it is.
    ///
    /// False when the link is not ready for routes; nothing was added.
    pub fn push_routed(&mut self, header: &RouteHeader, payload: Bytes) -> bool {
        let Some(sealer) = &mut self.sealer else {
            return false;
        };
        let sealed = header.encoded_len() + TAG_LEN;
        let sealed_prefix = underpass_proto::varint::size(sealed as u64);
        let body = sealed_prefix + sealed + payload.len();
        let need = packet::MAX_PREFIX + sealed_prefix + sealed;
        if self.scratch.capacity() < need {
            self.scratch = BytesMut::with_capacity(SCRATCH.max(need));
        }
        packet::put_prefix(&mut self.scratch, PacketKind::Routed, body);
        underpass_proto::varint::put(&mut self.scratch, sealed as u64);
        let start = self.scratch.len();
        header.encode(&mut self.scratch);
        let length = (payload.len() as u64).to_be_bytes();
        let tag = sealer.key.seal_in_place(
            Space::Reliable,
            sealer.count,
            &length,
            &mut self.scratch[start..],
        );
        sealer.count += 1;
        self.scratch.put_slice(&tag);
        let head = self.scratch.split().freeze();
        self.push(head);
        self.push(payload);
        true
    }
}
