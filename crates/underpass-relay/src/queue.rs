//! What waits in the relay on its way from one link to another: one direction of one route, as a pure
//! state machine.
//!
//! Marks follow the design: above [`Marks::high`] the sender is told to wait, at [`Marks::low`] to go
//! on, and what would go beyond [`Marks::hard`] is dropped and the sender told which packets those
//! were. The sender keeps its copy until the far endpoint has acknowledged it, so nothing is lost by a
//! drop but time.
//!
//! All queues of a relay share a [`Room`]. A packet for which there is no room is dropped like one
//! beyond the hard mark.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What a packet costs beside its payload: the queue's own entry and the block it keeps alive.
const PACKET_COST: usize = 64;

/// How full a queue may get, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// At or below this the sender goes on. 64 KiB.
    pub low: usize,
    /// Above this the sender waits. 256 KiB.
    pub high: usize,
    /// Above this packets are dropped. 1 MiB: what a sender has under way at 80 Mbit/s when it learns
    /// after 75 ms that it is to wait.
    pub hard: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            low: 64 * 1024,
            high: 256 * 1024,
            hard: 1024 * 1024,
        }
    }
}

/// Packets that were dropped one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What the sender is to be told, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// These packets must be sent again.
    pub dropped: Option<Run>,
    /// Send nothing for now.
    pub wait: bool,
    /// Send again.
    pub go_on: bool,
}

impl Told {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Bytes that all queues of a relay may hold together.
#[derive(Debug)]
pub struct Room {
    limit: usize,
    used: AtomicUsize,
}

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether queues that could not take anything may try again: a quarter of the room is free, so
    /// that they do not come and go at the edge.
    #[must_use]
    pub fn is_ample(&self) -> bool {
        self.used() <= self.limit - self.limit / 4
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One direction of one route.
#[derive(Debug)]
pub struct Queue {
    marks: Marks,
    room: Arc<Room>,
    packets: VecDeque<Bytes>,
    /// Payload in `packets`.
    bytes: usize,
    /// The number of the next packet that comes in.
    next: u64,
    /// Dropped, and not told yet.
    dropped: Option<Run>,
    /// The sender was told to wait.
    waiting: bool,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(marks: Marks, room: Arc<Room>) -> Self {
        Self {
            marks,
            room,
            packets: VecDeque::new(),
            bytes: 0,
            next: 0,
            dropped: None,
            waiting: false,
        }
    }

    /// Takes a packet in, or drops it.
    pub fn push(&mut self, payload: Bytes) -> Told {
        let number = self.next;
        self.next += 1;
        let len = payload.len();
        let fits = self.bytes + len <= self.marks.hard;
        if !fits || !self.room.take(len + PACKET_COST) {
            return self.drop_packet(number);
        }
        self.bytes += len;
        self.packets.push_back(payload);
        Told {
            // A packet that was dropped before this one is sent again behind it.
            dropped: self.dropped.take(),
            wait: self.bytes > self.marks.high && !std::mem::replace(&mut self.waiting, true),
            go_on: false,
        }
    }

    /// A drop is not told at once: the packet would come again and find no room again. It is told
    /// when there is room.
    fn drop_packet(&mut self, number: u64) -> Told {
        let run = self.dropped.get_or_insert(Run {
            first: number,
            count: 0,
        });
        run.count += 1;
        Told {
            wait: !std::mem::replace(&mut self.waiting, true),
            ..Told::default()
        }
    }

    /// The next packet to be sent on, and what its sender is to be told now that it is out.
    pub fn pull(&mut self) -> Option<(Bytes, Told)> {
        let payload = self.packets.pop_front()?;
        self.bytes -= payload.len();
        self.room.give_back(payload.len() + PACKET_COST);
        let told = self.relieve();
        Some((payload, told))
    }

    /// What the sender is to be told now that there may be room.
    pub fn relieve(&mut self) -> Told {
        let starved = self.is_starved() && !self.room.is_ample();
        if self.bytes > self.marks.low || starved {
            return Told::default();
        }
        Told {
            dropped: self.dropped.take(),
            wait: false,
            go_on: std::mem::take(&mut self.waiting),
        }
    }

    /// Whether nothing is left whose way out would bring relief, although packets were dropped:
    /// [`Queue::relieve`] must be called when the room is [ample](Room::is_ample) again.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.dropped.is_some() && self.packets.is_empty()
    }

    /// Whether no packet waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Payload that waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets that came in, dropped ones included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.next
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.room
            .give_back(self.bytes + self.packets.len() * PACKET_COST);
        self.packets = VecDeque::new();
        self.bytes = 0;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKS: Marks = Marks {
        low: 100,
        high: 300,
        hard: 600,
    };

    fn queue(room: usize) -> Queue {
        Queue::new(MARKS, Room::new(room))
    }

    fn packet(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    const WAIT: Told = Told {
        dropped: None,
        wait: true,
        go_on: false,
    };

    #[test]
    fn the_sender_waits_above_the_high_mark_and_goes_on_at_the_low_one() {
        let mut queue = queue(1 << 20);
        assert_eq!(queue.push(packet(300)), Told::default());
        assert_eq!(queue.push(packet(1)), WAIT);
        assert_eq!(queue.push(packet(99)), Told::default());
        let (_, told) = queue.pull().unwrap();
        let go_on = Told {
            go_on: true,
            ..Told::default()
        };
        assert_eq!((queue.bytes(), told), (100, go_on));
        assert_eq!(queue.pull().unwrap().1, Told::default());
    }

    #[test]
    fn what_is_beyond_the_hard_mark_is_dropped_and_told_when_there_is_room() {
        let mut queue = queue(1 << 20);
        queue.push(packet(300));
        assert_eq!(queue.push(packet(300)), WAIT);
        for _ in 0..3 {
            assert_eq!(queue.push(packet(1)), Told::default());
        }
        assert_eq!(queue.pull().unwrap().1, Told::default());
        let told = queue.pull().unwrap().1;
        let run = Some(Run { first: 2, count: 3 });
        assert_eq!((told.dropped, told.go_on), (run, true));
        assert_eq!(queue.received(), 5);
    }

    #[test]
    fn a_smaller_packet_that_fits_tells_of_the_drop_before_it() {
        let mut queue = queue(1 << 20);
        queue.push(packet(550));
        queue.push(packet(100));
        let told = queue.push(packet(50));
        assert_eq!(told.dropped, Some(Run { first: 1, count: 1 }));
    }

    #[test]
    fn a_starved_queue_is_told_of_room_that_others_made() {
        let room = Room::new(400);
        let mut hog = Queue::new(MARKS, Arc::clone(&room));
        let mut starved = Queue::new(MARKS, Arc::clone(&room));
        hog.push(packet(300));
        assert_eq!(starved.push(packet(200)), WAIT);
        assert!(starved.is_starved() && starved.relieve().is_empty());
        hog.pull().unwrap();
        assert!(room.is_ample());
        let told = starved.relieve();
        assert_eq!(told.dropped, Some(Run { first: 0, count: 1 }));
        assert!(told.go_on && !starved.is_starved());
    }

    #[test]
    fn what_is_let_go_of_leaves_its_room_to_others() {
        let room = Room::new(1000);
        let mut queue = Queue::new(MARKS, Arc::clone(&room));
        queue.push(packet(300));
        queue.push(packet(200));
        assert_eq!(room.used(), 500 + 2 * PACKET_COST);
        drop(queue);
        assert_eq!(room.used(), 0);
    }

    proptest! {
        /// Every packet comes out, in order, or is told as dropped, once; a sender that waits is
        /// told to go on by the time that nothing is left.
        #[test]
        fn no_packet_is_unaccounted_for(
            steps in proptest::collection::vec((any::<bool>(), 0usize..400), 0..200),
            room in 200usize..4000,
        ) {
            let mut queue = queue(room);
            let (mut out, mut dropped, mut waits) = (Vec::new(), Vec::new(), false);
            let mut heed = |told: Told, dropped: &mut Vec<u64>| {
                if let Some(Run { first, count }) = told.dropped {
                    dropped.extend(first..first + count);
                }
                assert!(!(told.wait && waits), "told to wait twice");
                assert!(!told.go_on || waits, "told to go on without having waited");
                waits = (waits || told.wait) && !told.go_on;
                waits
            };
            let mut sent = 0u64;
            for (push, len) in steps {
                if push {
                    let mut payload = sent.to_be_bytes().to_vec();
                    payload.resize(8 + len, 0);
                    sent += 1;
                    heed(queue.push(Bytes::from(payload)), &mut dropped);
                } else if let Some((payload, told)) = queue.pull() {
                    out.push(u64::from_be_bytes(payload[..8].try_into().unwrap()));
                    heed(told, &mut dropped);
                }
                prop_assert!(queue.bytes() <= MARKS.hard);
                prop_assert!(queue.room.used() <= room);
            }
            while let Some((payload, told)) = queue.pull() {
                out.push(u64::from_be_bytes(payload[..8].try_into().unwrap()));
                heed(told, &mut dropped);
            }
            prop_assert!(!heed(queue.relieve(), &mut dropped));
            prop_assert!(out.is_sorted());
            out.extend(dropped);
            out.sort_unstable();
            prop_assert_eq!(out, (0..sent).collect::<Vec<_>>());
            prop_assert_eq!(queue.room.used(), 0);
        }
    }
}
