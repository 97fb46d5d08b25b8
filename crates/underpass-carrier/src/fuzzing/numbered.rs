//! The state machines behind numbered requests, driven by the fuzzer's choices.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Script;
use super::script::{Gauge, content, stream};
use crate::answers::{Answer, Answers, Ask, AskError, DEPTH, read_answer};
use crate::uplink::{MORE_SMALL, Post, Uplink};
use crate::window::{Taken, Window};

/// Bodies in any order, overlapping, contradicting each other; read now and then.
pub fn window(data: &[u8]) {
    let mut script = Script::new(data);
    let steer = script.byte();
    let capacity = u64::from(script.pair()) + 1;
    let mut run = WindowRun {
        honest: steer & 1 == 0,
        capacity,
        window: Window::new(capacity),
        gauge: Gauge::default(),
        kept: Vec::new(),
        read: 0,
    };
    while !script.is_done() {
        match script.byte() % 8 {
            0 | 1 => run.pop(),
            choice => run.offer(choice, &mut script),
        }
        run.check();
    }
    while run.pop_one() {}
    run.check();
}

struct WindowRun {
    /// All bodies are cut from one stream.
    honest: bool,
    capacity: u64,
    window: Window,
    gauge: Gauge,
    /// Offset, length and filling of what was kept.
    kept: Vec<(u64, u64, u8)>,
    read: u64,
}

impl WindowRun {
    fn offer(&mut self, choice: u8, script: &mut Script<'_>) {
        let near = u64::from(script.pair());
        let offset = match choice {
            2 => near,
            3 => u64::MAX - near,
            4 => self.read.saturating_sub(near & 0xff),
            _ => self.read.saturating_add(near % self.capacity),
        };
        let len = usize::from(script.pair() & 0x7fff);
        let filling = script.byte();
        let end = filling % 16 == 1;
        let bytes = if self.honest {
            stream(offset, len)
        } else {
            vec![filling; len]
        };
        let body = self.gauge.chunk(bytes);
        let before = self.window.held_bytes();
        match self.window.offer(offset, &body, end) {
            Ok(Taken::Kept) => self.kept.push((offset, len as u64, filling)),
            Ok(Taken::NoRoom) | Err(_) => assert_eq!(self.window.held_bytes(), before),
        }
    }

    fn pop(&mut self) {
        self.pop_one();
    }

    fn pop_one(&mut self) -> bool {
        let Some(bytes) = self.window.pop() else {
            return false;
        };
        assert!(!bytes.is_empty());
        for byte in &bytes {
            let at = self.read;
            let sent = |(from, len, filling): &(u64, u64, u8)| {
                *byte == *filling && (*from..from + len).contains(&at)
            };
            let right = match self.honest {
                true => *byte == content(at),
                false => self.kept.iter().any(sent),
            };
            assert!(right, "byte {at} was never sent so");
            self.read += 1;
        }
        true
    }

    fn check(&self) {
        assert!(self.window.held_bytes() <= 2 * self.capacity);
        assert!(!self.window.is_finished() || self.window.is_complete());
        let alive = self.gauge.alive() as u64;
        let held = self.window.held_bytes();
        // A chunk may keep a body alive of which less than half was new, but no more than that.
        assert!(alive <= 2 * held, "{alive} bytes of memory for {held}");
    }
}

/// Far more answers than all the bodies of the longest input need.
const MOST_STEPS: usize = 100_000;

/// A sender of numbered bodies, a path that loses, repeats, overtakes and refuses them for their
/// size, and the receiver that puts them in order.
pub fn uplink(data: &[u8]) {
    let mut script = Script::new(data);
    let largest = usize::from(script.pair()) + 1024;
    let passes = usize::from(script.pair()) + 512;
    let depth = usize::from(script.byte() % 5);
    let mut run = UplinkRun {
        largest,
        passes,
        depth: depth.max(1),
        ahead: 3 * largest as u64,
        uplink: Uplink::new(largest, depth, 3 * largest as u64),
        window: Window::new(1 << 40),
        in_flight: Vec::new(),
        offered: 0,
        ended: false,
        read: 0,
    };
    while !script.is_done() {
        match script.byte() % 8 {
            0 if !run.ended => run.offer(usize::from(script.pair())),
            1 if !run.ended => {
                run.offer(usize::from(script.pair()));
                run.uplink.flush();
            }
            2 if script.byte() == 0 => {
                run.ended = true;
                run.uplink.finish();
            }
            3 => run.repeat(script.byte()),
            _ => {
                let (which, took) = (script.byte(), u64::from(script.pair()));
                if !run.settle(which, Duration::from_millis(took)) {
                    return;
                }
            }
        }
        run.pump();
    }
    run.uplink.finish();
    run.pump();
    // Whatever happened, the path's answers alone bring everything to its end.
    let mut steps = 0;
    while !run.in_flight.is_empty() {
        steps += 1;
        assert!(steps < MOST_STEPS, "every body waits for another one");
        if !run.settle(0, Duration::ZERO) {
            return;
        }
        run.pump();
    }
    assert!(run.uplink.is_idle());
    assert!(run.window.is_finished());
    assert_eq!(run.read, run.offered);
}

struct UplinkRun {
    largest: usize,
    /// Larger bodies are refused.
    passes: usize,
    depth: usize,
    /// No byte is sent that lies so far beyond the first one that is not answered.
    ahead: u64,
    uplink: Uplink,
    window: Window,
    in_flight: Vec<Post>,
    offered: u64,
    ended: bool,
    read: u64,
}

impl UplinkRun {
    fn offer(&mut self, len: usize) {
        let bytes = Bytes::from(stream(self.offered, len));
        let mut queue = VecDeque::from([bytes]);
        let taken = self.uplink.offer(&mut queue);
        let left: usize = queue.iter().map(Bytes::len).sum();
        assert_eq!(taken + left, len);
        self.offered += taken as u64;
    }

    /// Starts what is due.
    fn pump(&mut self) {
        while let Some(post) = self.uplink.next_post() {
            let len: usize = post.chunks.iter().map(Bytes::len).sum();
            assert_eq!(len, post.len);
            assert!(len <= self.largest);
            self.in_flight.push(post);
        }
        assert!(self.in_flight.len() <= self.depth * MORE_SMALL);
        let first = self.in_flight.iter().map(|post| post.offset).min();
        let stops = self.in_flight.iter().map(|p| p.offset + p.len as u64);
        let reach = stops.max().unwrap_or(0) - first.unwrap_or(0);
        assert!(reach <= self.ahead);
    }

    /// The path delivers a body of which the sender does not learn.
    fn repeat(&mut self, which: u8) {
        if self.in_flight.is_empty() {
            return;
        }
        let post = self.in_flight[usize::from(which) % self.in_flight.len()].clone();
        if post.len <= self.passes {
            self.deliver(&post);
        }
    }

    fn deliver(&mut self, post: &Post) -> Taken {
        let body: Vec<u8> = post.chunks.iter().flatten().copied().collect();
        let offered = self.window.offer(post.offset, &body.into(), post.end);
        let taken = offered.expect("an honest sender contradicts nothing");
        while let Some(bytes) = self.window.pop() {
            assert_eq!(bytes, stream(self.read, bytes.len()));
            self.read += bytes.len() as u64;
        }
        taken
    }

    /// One body is answered. False when the sender gives up.
    fn settle(&mut self, which: u8, took: Duration) -> bool {
        if self.in_flight.is_empty() {
            return true;
        }
        let post = self
            .in_flight
            .remove(usize::from(which) % self.in_flight.len());
        if post.len > self.passes {
            let len = post.len;
            let goes_on = self.uplink.too_large(post);
            assert!(goes_on || len < 2 * 1024, "gave up at {len} bytes");
            return goes_on;
        }
        match self.deliver(&post) {
            Taken::Kept => self.uplink.delivered(&post, took),
            Taken::NoRoom => self.in_flight.push(post),
        }
        true
    }
}

/// A relay's answers to polls that are repeated, lost, held and asked for too early; read by a
/// client.
pub fn answers(data: &[u8]) {
    let mut script = Script::new(data);
    let largest = usize::from(script.pair()) + 1;
    let mut run = AnswersRun {
        answers: Answers::new(largest),
        given: BTreeMap::new(),
        highest: None,
        held: Vec::new(),
        now: Duration::ZERO,
        offered: 0,
        largest,
    };
    while !script.is_done() {
        match script.byte() % 8 {
            0 => run.offer(usize::from(script.pair())),
            1 => {
                run.offer(usize::from(script.pair()));
                run.answers.flush();
            }
            2 if script.byte() == 0 => run.answers.finish(),
            3 => run.now += Duration::from_millis(u64::from(script.byte())),
            4 => run.expire(script.byte()),
            5 => run.ask(u64::MAX - u64::from(script.byte())),
            _ => {
                // Around the polls that an honest client may have under way.
                let next = run.given.len() as u64;
                run.ask((next + u64::from(script.byte() % 6)).saturating_sub(3));
            }
        }
    }
    run.answers.finish();
    while !run.answers.is_finished() {
        run.ask(run.given.len() as u64);
    }
    run.read_everything();
}

struct AnswersRun {
    answers: Answers,
    /// The bodies given so far.
    given: BTreeMap<u64, Vec<u8>>,
    /// The highest poll that was not too far ahead.
    highest: Option<u64>,
    held: Vec<u64>,
    now: Duration,
    offered: u64,
    largest: usize,
}

impl AnswersRun {
    fn offer(&mut self, len: usize) {
        let mut queue = VecDeque::from([Bytes::from(stream(self.offered, len))]);
        let taken = self.answers.offer(&mut queue);
        assert!(taken <= self.largest);
        self.offered += taken as u64;
    }

    fn ask(&mut self, number: u64) {
        let next = self.given.len() as u64;
        let asked = self.answers.ask(number, self.now);
        if asked != Err(AskError::TooFar) {
            self.highest = self.highest.max(Some(number));
        }
        let needed = self
            .highest
            .is_none_or(|highest| number > highest.saturating_sub(DEPTH) || highest < DEPTH);
        match asked {
            Ok(Ask::Answer(answer)) => {
                assert!(needed && number <= next);
                self.give(number, &answer);
            }
            Ok(Ask::Wait) => {
                assert!((next..next + DEPTH).contains(&number));
                self.held.push(number);
            }
            Err(AskError::TooFar) => assert!(number >= next + DEPTH),
            Err(AskError::Gone) => assert!(!needed && number < next),
        }
    }

    fn expire(&mut self, which: u8) {
        if self.held.is_empty() {
            return;
        }
        let number = self.held.swap_remove(usize::from(which) % self.held.len());
        match self.answers.expire(number, self.now) {
            Ok(Some(answer)) => self.give(number, &answer),
            Ok(None) => assert!(number > self.given.len() as u64),
            Err(error) => {
                assert_eq!(error, AskError::Gone);
                assert!(
                    self.highest
                        .is_some_and(|highest| number + DEPTH <= highest)
                );
            }
        }
    }

    fn give(&mut self, number: u64, answer: &Answer) {
        let bytes: Vec<u8> = answer.chunks.iter().flatten().copied().collect();
        assert!(answer.data_len <= self.largest);
        let first = self.given.entry(number).or_insert_with(|| bytes.clone());
        assert_eq!(*first, bytes, "an answer never changes");
    }

    fn read_everything(&self) {
        let (mut read, mut ended) = (0, false);
        for (index, (number, body)) in self.given.iter().enumerate() {
            assert_eq!(index as u64, *number, "polls are answered in turn");
            let received = read_answer(body.clone().into(), *number).expect("ours");
            for bytes in received.data {
                assert!(!ended);
                assert_eq!(bytes, stream(read, bytes.len()));
                read += bytes.len() as u64;
            }
            assert!(!(ended && received.end), "one end");
            ended |= received.end;
        }
        assert!(ended);
        assert_eq!(read, self.offered);
    }
}
