//! Cutting a stream into numbered request bodies. Pure: time comes as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::sizing::{BodySize, SMALLEST_BODY};
use crate::span::take_front;

/// What bodies in flight should be able to carry, in bytes: all that the receiver keeps.
const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
/// The largest body that is made. Larger ones would bring less than more of them at a time do: each
/// takes longer to cross a connection that has just begun, and what lies behind it waits for that.
const AMPLE_BODY: usize = 256 * 1024;
/// A body that was cut so many times may have been cut for its size.
const CUTS: u32 = 3;
/// At most so many times more bodies are in flight while they are small.
pub const MORE_SMALL: usize = 3;

/// One request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Where its first byte belongs in the stream.
    pub offset: u64,
    /// Whether the stream ends with it.
    pub end: bool,
    /// Its bytes.
    pub chunks: VecDeque<Bytes>,
    /// Their number.
    pub len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Asked,
    Posted,
}

/// The sending side of numbered bodies: what to post next, and when.
///
/// Bytes are posted at once when nothing is in flight. Otherwise they are gathered to full bodies;
/// one that is not full goes when the session has nothing more to add to it ([`Uplink::flush`]) and
/// no more than half of what may be in flight are such bodies, and in any case when all before it is
/// answered. Drive it so: after every [`Uplink::offer`], [`Uplink::flush`], [`Uplink::finish`],
/// [`Uplink::delivered`], [`Uplink::cut`] and [`Uplink::too_large`], call [`Uplink::next_post`] until it returns
/// `None`, and post each one it returns until it is delivered or too large.
#[derive(Debug)]
pub struct Uplink {
    /// Where bodies are large.
    max_in_flight: usize,
    /// How far a body may reach beyond the first byte that is not known to have arrived.
    ahead: u64,
    size: BodySize,
    waiting: VecDeque<Bytes>,
    waiting_len: usize,
    /// The session has nothing to add to what waits.
    flushed: bool,
    next_offset: u64,
    /// What is not answered, by offset, and whether it went before it was full.
    unanswered: BTreeMap<u64, bool>,
    in_flight: usize,
    /// Parts of refused bodies, by offset. The lowest goes first: what the receiver keeps behind a
    /// gap is bounded, so the gap must never wait for what lies behind it.
    again: BTreeMap<u64, Post>,
    /// How many were delivered.
    delivered: u64,
    end: End,
}

impl Uplink {
    /// Bodies of at most `largest_body` bytes, at most `max_in_flight` at a time (up to [`MORE_SMALL`]
    /// times as many while they are small), and no byte `ahead` or more beyond the first that is not
    /// answered: the receiver would have no room for it.
    #[must_use]
    pub fn new(largest_body: usize, max_in_flight: usize, ahead: u64) -> Self {
        Self {
            max_in_flight: max_in_flight.max(1),
            ahead,
            size: BodySize::new(largest_body.clamp(SMALLEST_BODY, AMPLE_BODY)),
            waiting: VecDeque::new(),
            waiting_len: 0,
            flushed: false,
            next_offset: 0,
            unanswered: BTreeMap::new(),
            in_flight: 0,
            again: BTreeMap::new(),
            delivered: 0,
            end: End::Open,
        }
    }

    /// Takes chunks from the front of `queue`, as many as one body may gather. Returns how many
    /// bytes it took; nothing after [`Uplink::finish`].
    pub fn offer(&mut self, queue: &mut VecDeque<Bytes>) -> usize {
        if self.end != End::Open {
            return 0;
        }
        let room = self.size.now().saturating_sub(self.waiting_len);
        let taken = take_front(queue, &mut self.waiting, room);
        self.waiting_len += taken;
        self.flushed &= taken == 0;
        taken
    }

    /// Nothing will be offered for the time being: what was gathered need not wait for company.
    pub fn flush(&mut self) {
        self.flushed = true;
    }

    /// Nothing more will be offered; the last body says so.
    pub fn finish(&mut self) {
        if self.end == End::Open {
            self.end = End::Asked;
        }
    }

    /// What brings throughput is the bytes in flight: while bodies are small, there are more of them.
    fn most_in_flight(&self) -> usize {
        let fitting = IN_FLIGHT_BYTES / self.size.now().max(1);
        fitting.clamp(self.max_in_flight, self.max_in_flight * MORE_SMALL)
    }

    /// What to post now, if anything.
    pub fn next_post(&mut self) -> Option<Post> {
        if self.in_flight >= self.most_in_flight() {
            return None;
        }
        if let Some((_, post)) = self.again.pop_first() {
            self.in_flight += 1;
            return Some(post);
        }
        if !self.is_due() {
            return None;
        }
        let mut chunks = VecDeque::new();
        let full = self.size.now();
        let len = take_front(&mut self.waiting, &mut chunks, full);
        self.waiting_len -= len;
        let end = self.end == End::Asked && self.waiting_len == 0;
        if end {
            self.end = End::Posted;
        }
        let offset = self.next_offset;
        self.next_offset += len as u64;
        self.in_flight += 1;
        self.unanswered.insert(offset, len < full);
        Some(Post {
            offset,
            end,
            chunks,
            len,
        })
    }

    /// Whether what waits, or the end, should go now.
    fn is_due(&self) -> bool {
        let Some((first, _)) = self.unanswered.first_key_value() else {
            return self.waiting_len > 0 || self.end == End::Asked;
        };
        let len = self.waiting_len.min(self.size.now()) as u64;
        if self.next_offset + len > first + self.ahead {
            return false;
        }
        let full = self.waiting_len >= self.size.now();
        let not_full = self.unanswered.values().filter(|early| **early).count();
        let early = self.waiting_len > 0 && self.flushed && not_full < self.max_in_flight / 2;
        full || early || self.end == End::Asked
    }

    /// A post was answered after `took`: the relay has it.
    pub fn delivered(&mut self, post: &Post, took: Duration) {
        self.in_flight -= 1;
        self.delivered += 1;
        self.unanswered.remove(&post.offset);
        self.size.delivered(post.len, took);
    }

    /// The path refused `post` for its size. It is cut in two; bodies stay small from now on.
    /// False if the path takes hardly anything: give up.
    #[must_use]
    pub fn too_large(&mut self, post: Post) -> bool {
        let useful = self.size.refused(post.len);
        match useful {
            true => self.halve(post),
            false => self.in_flight -= 1,
        }
        useful
    }

    /// How many bodies have been delivered.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.delivered
    }

    /// Whether `post`, whose connections were cut `failures` times, should be cut in two, in case that
    /// is for its size. `before` is what [`Uplink::deliveries`] was when it was posted first. Where
    /// nothing passes it is the path: then only the body that all others wait for is tried smaller.
    #[must_use]
    pub fn is_cut_for_its_size(&self, post: &Post, failures: u32, before: u64) -> bool {
        let first = self.unanswered.first_key_value();
        let awaited = first.is_some_and(|(offset, _)| *offset == post.offset);
        let passes = self.delivered > before;
        let due = failures >= CUTS && passes || failures == CUTS && awaited;
        due && self.size.may_be_too_large(post.len)
    }

    /// The path cut `post` again and again. It is cut in two, and bodies stay small for a while; true
    /// if it is known now that they have to.
    #[must_use]
    pub fn cut(&mut self, post: Post) -> bool {
        let known = self.size.cut(post.len);
        self.halve(post);
        known
    }

    fn halve(&mut self, post: Post) {
        self.in_flight -= 1;
        let Post {
            offset,
            end,
            mut chunks,
            len,
        } = post;
        let mut first = VecDeque::new();
        let half = take_front(&mut chunks, &mut first, len / 2);
        let second = Post {
            offset: offset + half as u64,
            end,
            chunks,
            len: len - half,
        };
        let first = Post {
            offset,
            end: false,
            chunks: first,
            len: half,
        };
        for post in [first, second] {
            self.unanswered.insert(post.offset, false);
            self.again.insert(post.offset, post);
        }
    }

    /// The largest body that the path is known or hoped to take, in bytes.
    #[must_use]
    pub fn largest_body(&self) -> usize {
        self.size.largest()
    }

    /// Whether everything offered was delivered, the end included if it was asked for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting_len == 0 && self.unanswered.is_empty() && self.end != End::Asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::FIRST_BODY;
    use crate::window::{Taken, Window};
    use proptest::prelude::*;

    const FAST: Duration = Duration::from_millis(10);
    const AHEAD: u64 = u64::MAX / 2;

    fn queue(len: usize) -> VecDeque<Bytes> {
        VecDeque::from([Bytes::from(vec![7; len])])
    }

    #[test]
    fn the_first_byte_goes_at_once_and_the_next_wait_for_its_answer() {
        let mut up = Uplink::new(1_000_000, 4, AHEAD);
        assert_eq!(up.offer(&mut queue(1)), 1);
        let first = up.next_post().expect("nothing is in flight");
        assert_eq!((first.offset, first.len, first.end), (0, 1, false));
        for _ in 0..5 {
            up.offer(&mut queue(10));
        }
        assert_eq!(up.next_post(), None);
        up.delivered(&first, FAST);
        let second = up.next_post().expect("the rest in one");
        assert_eq!((second.offset, second.len), (1, 50));
        assert!(!up.is_idle());
        up.delivered(&second, FAST);
        assert!(up.is_idle());
    }

    #[test]
    fn what_is_flushed_goes_beside_others_while_half_of_the_room_is_free() {
        let mut up = Uplink::new(1_000_000, 4, AHEAD);
        let mut posts = Vec::new();
        for _ in 0..4 {
            up.offer(&mut queue(10));
            up.flush();
            posts.extend(up.next_post());
        }
        assert_eq!(posts.len(), 2);
        up.offer(&mut queue(FIRST_BODY - 20));
        let full = up.next_post().expect("full");
        assert_eq!((full.offset, full.len), (20, FIRST_BODY));
        up.offer(&mut queue(1));
        up.delivered(&posts[1], FAST);
        assert_eq!(up.next_post(), None, "more may be about to come");
        up.flush();
        assert_eq!(up.next_post().map(|post| post.len), Some(1));
    }

    #[test]
    fn nothing_is_sent_that_the_receiver_has_no_room_for() {
        let mut up = Uplink::new(1_000_000, 100, 3 * FIRST_BODY as u64);
        let mut bulk = queue(10 * FIRST_BODY);
        let mut posts = Vec::new();
        while up.offer(&mut bulk) > 0 {
            posts.extend(std::iter::from_fn(|| up.next_post()));
        }
        assert_eq!(posts.len(), 3);
        up.delivered(&posts[1], FAST * 20);
        up.delivered(&posts[2], FAST * 20);
        assert_eq!(up.next_post(), None, "the first one is still missing");
        up.delivered(&posts[0], FAST * 20);
        assert!(up.next_post().is_some());
    }

    #[test]
    fn full_bodies_go_side_by_side_up_to_the_limit_and_then_offers_stop() {
        let mut up = Uplink::new(1_000_000, 3, AHEAD);
        let mut bulk = queue(20 * FIRST_BODY);
        let mut posts = Vec::new();
        while up.offer(&mut bulk) > 0 {
            posts.extend(std::iter::from_fn(|| up.next_post()));
        }
        assert_eq!(posts.len(), 3 * MORE_SMALL);
        let left: usize = bulk.iter().map(Bytes::len).sum();
        assert_eq!(left, 10 * FIRST_BODY, "nine in flight, one gathered");
    }

    /// However fast the path: what is in flight fills the receiver's room, in bodies that are not too large.
    #[test]
    fn the_fastest_path_gets_many_bodies_of_a_middling_size() {
        let mut up = Uplink::new(1_000_000, 8, IN_FLIGHT_BYTES as u64);
        let mut bulk = queue(64 << 20);
        let mut flying = VecDeque::new();
        for _ in 0..100 {
            if let Some(post) = flying.pop_front() {
                up.delivered(&post, FAST);
            }
            flying.extend(up.next_post());
            while up.offer(&mut bulk) > 0 {
                flying.extend(std::iter::from_fn(|| up.next_post()));
            }
        }
        let lens: Vec<usize> = flying.iter().map(|post| post.len).collect();
        assert!(lens.iter().all(|len| *len == AMPLE_BODY), "{lens:?}");
        assert_eq!(lens.iter().sum::<usize>(), IN_FLIGHT_BYTES);
    }

    #[test]
    fn a_refused_body_is_cut_and_later_ones_stay_small() {
        let mut up = Uplink::new(1_000_000, 4, AHEAD);
        up.offer(&mut queue(5000));
        up.finish();
        let post = up.next_post().expect("at once");
        assert!(post.end);
        assert!(up.too_large(post));
        let (a, b) = (up.next_post().expect("a"), up.next_post().expect("b"));
        assert_eq!((a.offset, a.len, a.end), (0, 2500, false));
        assert_eq!((b.offset, b.len, b.end), (2500, 2500, true));
        assert_eq!(up.size.now(), 2500);
        assert!(up.too_large(a));
        assert!(!up.too_large(b) || up.largest_body() >= SMALLEST_BODY);
    }

    #[test]
    fn only_what_all_wait_for_is_halved_before_anything_passes() {
        let mut up = Uplink::new(1_000_000, 4, AHEAD);
        let mut bulk = queue(3 * FIRST_BODY);
        let mut posts = Vec::new();
        while up.offer(&mut bulk) > 0 {
            posts.extend(std::iter::from_fn(|| up.next_post()));
        }
        let third = posts.remove(2);
        let second = posts.remove(1);
        let first = posts.remove(0);
        assert!(!up.is_cut_for_its_size(&first, CUTS - 1, 0));
        assert!(!up.is_cut_for_its_size(&second, CUTS, 0));
        assert!(!up.is_cut_for_its_size(&second, 6, 0), "the path is dead");
        assert!(up.is_cut_for_its_size(&first, CUTS, 0));
        assert!(!up.cut(first), "it may still be the path");
        let half = up.next_post().expect("half of the first");
        assert_eq!((half.offset, half.len), (0, FIRST_BODY / 2));
        up.delivered(&half, FAST);
        assert!(up.is_cut_for_its_size(&second, CUTS, 0));
        assert!(up.is_cut_for_its_size(&third, 6, 0));
        assert!(!up.cut(second) && !up.cut(third));
        let mut parts: Vec<Post> = std::iter::from_fn(|| up.next_post()).collect();
        let part = parts.pop().expect("a half at least");
        assert!(!up.cut(part));
        let small = up.next_post().expect("a quarter");
        assert_eq!(small.len, FIRST_BODY / 4);
        assert!(!up.is_cut_for_its_size(&small, 6, 0), "small enough");
    }

    #[test]
    fn a_path_that_takes_nothing_is_given_up() {
        let mut up = Uplink::new(1_000_000, 1, AHEAD);
        up.offer(&mut queue(2000));
        let post = up.next_post().expect("at once");
        assert!(!up.too_large(post));
    }

    #[test]
    fn the_end_is_posted_even_with_nothing_to_carry_it() {
        let mut up = Uplink::new(1_000_000, 4, AHEAD);
        up.finish();
        assert!(!up.is_idle());
        let post = up.next_post().expect("the end");
        assert_eq!((post.offset, post.len, post.end), (0, 0, true));
        assert_eq!(up.next_post(), None);
        up.delivered(&post, FAST);
        assert!(up.is_idle());
        assert_eq!(up.offer(&mut queue(1)), 0, "nothing after the end");
    }

    #[test]
    fn of_refused_bodies_the_lowest_part_goes_first() {
        let mut uplink = Uplink::new(64 * 1024, 2, AHEAD);
        let mut posts = Vec::new();
        for _ in 0..2 {
            let mut queue = VecDeque::from([Bytes::from(vec![1; 64 * 1024])]);
            uplink.offer(&mut queue);
            posts.extend(uplink.next_post());
        }
        for post in posts {
            assert!(uplink.too_large(post));
        }
        let offsets: Vec<u64> = std::iter::from_fn(|| {
            let post = uplink.next_post()?;
            uplink.delivered(&post, Duration::ZERO);
            Some(post.offset)
        })
        .collect();
        assert_eq!(offsets, [0, 32 * 1024, 64 * 1024, 96 * 1024]);
    }

    proptest! {
        /// Uplink and window together, over a path that refuses, doubles and reorders.
        #[test]
        fn the_stream_arrives_through_refusals_repeats_and_reordering(
            sizes in prop::collection::vec(1usize..90_000, 1..20),
            fates in prop::collection::vec((0usize..4, 0u8..10), 1..200),
            limit in 3_000usize..100_000,
        ) {
            let mut up = Uplink::new(1_000_000, 4, AHEAD);
            let mut window = Window::new(u64::MAX);
            let total: usize = sizes.iter().sum();
            let stream: Bytes = (0..total).map(|i| (i % 253) as u8).collect();
            let mut rest = stream.clone();
            let mut source: VecDeque<Bytes> = sizes.iter().map(|n| rest.split_to(*n)).collect();
            let mut flying: Vec<Post> = Vec::new();
            let mut seen = Vec::new();
            let mut fates = fates.into_iter().cycle();
            let mut no_room = false;
            loop {
                up.offer(&mut source);
                if source.is_empty() {
                    up.finish();
                }
                flying.extend(std::iter::from_fn(|| up.next_post()));
                prop_assert!(flying.len() <= 4 * MORE_SMALL);
                if flying.is_empty() {
                    break;
                }
                let (pick, fate) = fates.next().expect("cycle");
                let pick = if no_room { 0 } else { pick % flying.len() };
                flying.sort_by_key(|post| post.offset);
                let post = flying.remove(pick);
                if post.len > limit {
                    prop_assert!(up.too_large(post));
                    continue;
                }
                let body: Bytes = post.chunks.iter().flatten().copied().collect();
                let taken = window.offer(post.offset, &body, post.end).expect("consistent");
                no_room = taken == Taken::NoRoom;
                if no_room {
                    prop_assert!(pick > 0, "the first missing body always has room");
                    flying.push(post);
                    continue;
                }
                if fate % 2 == 1 {
                    let again = window.offer(post.offset, &body, post.end).expect("consistent");
                    prop_assert_eq!(again, Taken::Kept);
                }
                up.delivered(&post, FAST * u32::from(fate));
                while let Some(bytes) = window.pop() {
                    seen.extend_from_slice(&bytes);
                }
            }
            prop_assert!(up.is_idle());
            prop_assert!(window.is_finished());
            prop_assert_eq!(&seen[..], &stream[..]);
        }
    }
}
