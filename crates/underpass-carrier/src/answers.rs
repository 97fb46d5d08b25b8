//! The answers to numbered polls. Pure: time comes as an argument, counted from any fixed moment.
//!
//! Polls are numbered from 0, and a client has [`DEPTH`] of them under way at a time. An answer, once
//! fixed, is given again byte for byte to whoever asks for the same number, until the poll [`DEPTH`]
//! later shows that it has arrived.
//!
//! The stream is parted among the polls that wait: bytes go at once when no answer is under way.
//! Otherwise they are gathered to full answers; one that is not full goes when the session has nothing
//! more to add ([`Answers::flush`]) and no more than half of the polls carry such answers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::error::CarrierError;
use crate::sizing::BodySize;
use crate::span::{self, Decoder, Event, take_front};

/// How many polls a client may have under way.
pub const DEPTH: u64 = 4;

/// The body that answers one poll; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The spans, in order.
    pub chunks: VecDeque<Bytes>,
    /// How many bytes of the stream it carries.
    pub data_len: usize,
}

/// What to do with a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Answer it now.
    Answer(Answer),
    /// Hold it: ask again when something was offered or flushed, when another poll was answered or
    /// asked for, and call [`Answers::expire`] when its hold time is over.
    Wait,
}

/// Why a poll can have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Its answer was shown to have arrived, and is gone.
    #[error("the poll's answer was given up: a later poll showed that it had arrived")]
    Gone,
    /// No client of ours asks that far ahead.
    #[error("the poll's number is too far ahead")]
    TooFar,
}

struct Kept {
    answer: Answer,
    at: Duration,
    /// It carries bytes and has room for more.
    early: bool,
}

/// Answers given and yet to be given on one carrier.
pub struct Answers {
    size: BodySize,
    waiting: VecDeque<Bytes>,
    waiting_len: usize,
    /// The session has nothing to add to what waits.
    flushed: bool,
    /// The lowest poll without an answer.
    next: u64,
    /// The answers just below `next`.
    kept: VecDeque<Kept>,
    end_asked: bool,
    end_fixed: bool,
}

impl Answers {
    /// Answers of at most `largest` bytes of the stream each.
    #[must_use]
    pub fn new(largest: usize) -> Self {
        Self {
            size: BodySize::new(largest),
            waiting: VecDeque::new(),
            waiting_len: 0,
            flushed: false,
            next: 0,
            kept: VecDeque::new(),
            end_asked: false,
            end_fixed: false,
        }
    }

    /// Takes chunks from the front of `queue`, as many as one answer may carry; returns how many
    /// bytes. Nothing after [`Answers::finish`].
    pub fn offer(&mut self, queue: &mut VecDeque<Bytes>) -> usize {
        if self.end_asked {
            return 0;
        }
        let room = self.size.now().saturating_sub(self.waiting_len);
        let taken = take_front(queue, &mut self.waiting, room);
        self.waiting_len += taken;
        self.flushed &= taken == 0;
        taken
    }

    /// Nothing will be offered for the time being: what was gathered need not wait for company. True
    /// if that was not known: polls that are held are to be asked about again.
    pub fn flush(&mut self) -> bool {
        !std::mem::replace(&mut self.flushed, true) && self.waiting_len > 0
    }

    /// Nothing more will be offered; the answer that carries the last byte says so.
    pub fn finish(&mut self) {
        self.end_asked = true;
    }

    /// Poll `number` arrived, or is asked about again while it is held.
    ///
    /// # Errors
    /// It can have no answer; see [`AskError`].
    pub fn ask(&mut self, number: u64, now: Duration) -> Result<Ask, AskError> {
        if number >= self.next + DEPTH {
            return Err(AskError::TooFar);
        }
        self.release_below(number, now);
        if number < self.next {
            return self.again(number).map(Ask::Answer);
        }
        // The first one opens the carrier and shows that answers come through.
        // After the end nothing more will come that a poll could wait for.
        let due = number == 0 || self.end_asked || self.is_due();
        if number == self.next && due {
            return Ok(Ask::Answer(self.fix(now)));
        }
        Ok(Ask::Wait)
    }

    /// Whether what waits should go now.
    fn is_due(&self) -> bool {
        let early = self.kept.iter().filter(|kept| kept.early).count();
        let alone = self.kept.iter().all(|kept| kept.answer.data_len == 0);
        let full = self.waiting_len >= self.size.now();
        self.waiting_len > 0 && (full || alone || (self.flushed && early < DEPTH as usize / 2))
    }

    /// How many answers are not known to have arrived.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.kept.len()
    }

    /// Poll `number` has been held long enough. Its answer, empty if need be, or `None` if a poll
    /// before it has none yet.
    ///
    /// # Errors
    /// [`AskError::Gone`].
    pub fn expire(&mut self, number: u64, now: Duration) -> Result<Option<Answer>, AskError> {
        if number < self.next {
            return self.again(number).map(Some);
        }
        Ok((number == self.next).then(|| self.fix(now)))
    }

    /// A client asks for `number` only when the answer [`DEPTH`] before it has arrived.
    fn release_below(&mut self, number: u64, now: Duration) {
        let first_needed = (number + 1).saturating_sub(DEPTH);
        while self.next - (self.kept.len() as u64) < first_needed {
            let Some(Kept { answer, at, .. }) = self.kept.pop_front() else {
                break;
            };
            let took = now.saturating_sub(at);
            self.size.delivered(answer.data_len, took);
        }
    }

    fn again(&self, number: u64) -> Result<Answer, AskError> {
        let first = self.next - self.kept.len() as u64;
        let index = number.checked_sub(first).ok_or(AskError::Gone)?;
        // The caller has checked that the number is below `next`.
        let kept = self.kept.get(index as usize).ok_or(AskError::Gone)?;
        Ok(kept.answer.clone())
    }

    fn fix(&mut self, now: Duration) -> Answer {
        let mut data = VecDeque::new();
        let full = self.size.now();
        let data_len = take_front(&mut self.waiting, &mut data, full);
        self.waiting_len -= data_len;
        let mut chunks = VecDeque::with_capacity(data.len() + 3);
        chunks.push_back(Bytes::copy_from_slice(&span::number_span(self.next)));
        if data_len > 0 {
            chunks.push_back(Bytes::copy_from_slice(&span::data_header(data_len)));
            chunks.append(&mut data);
        }
        if self.end_asked && !self.end_fixed && self.waiting_len == 0 {
            self.end_fixed = true;
            chunks.push_back(Bytes::copy_from_slice(&span::end_span()));
        }
        let answer = Answer { chunks, data_len };
        self.next += 1;
        self.kept.push_back(Kept {
            answer: answer.clone(),
            at: now,
            early: (1..full).contains(&data_len),
        });
        answer
    }

    /// Whether everything offered stands in an answer.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.waiting_len == 0
    }

    /// Whether the end stands in an answer.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end_fixed
    }
}

/// What one answer carried.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the stream, in order.
    pub data: VecDeque<Bytes>,
    /// Whether the stream ends with them.
    pub end: bool,
}

/// Reads an answer, which must be the one to poll `number`: boxes on the way mix answers up, or
/// invent some.
///
/// # Errors
/// [`CarrierError::Protocol`]: it is not, or it is not whole.
pub fn read_answer(body: Bytes, number: u64) -> Result<Received, CarrierError> {
    let mut decoder = Decoder::default();
    decoder.push(body);
    if decoder.next_event()? != Some(Event::Number(number)) {
        return Err(CarrierError::protocol("the answer is to another poll"));
    }
    let mut received = Received {
        data: VecDeque::new(),
        end: false,
    };
    while let Some(event) = decoder.next_event()? {
        match event {
            Event::Data(bytes) => received.data.push_back(bytes),
            Event::End => received.end = true,
            Event::Fill => {}
            Event::Number(_) => return Err(CarrierError::protocol("two answers in one")),
        }
    }
    if !decoder.between_spans() {
        return Err(CarrierError::protocol("the answer stops inside a span"));
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;

    fn offer(answers: &mut Answers, text: &'static str) {
        let mut queue = VecDeque::from([Bytes::from_static(text.as_bytes())]);
        answers.offer(&mut queue);
        assert!(queue.is_empty());
    }

    fn events(answer: &Answer) -> Vec<Event> {
        let mut decoder = Decoder::default();
        decoder.push(answer.chunks.iter().flatten().copied().collect());
        std::iter::from_fn(|| decoder.next_event().expect("spans")).collect()
    }

    fn data(text: &'static str) -> Event {
        Event::Data(Bytes::from_static(text.as_bytes()))
    }

    fn answered(answers: &mut Answers, number: u64) -> Vec<Event> {
        match answers.ask(number, NOW).expect("may be asked") {
            Ask::Answer(answer) => events(&answer),
            Ask::Wait => panic!("poll {number} waits"),
        }
    }

    #[test]
    fn the_first_poll_is_answered_at_once_and_later_ones_wait_for_bytes() {
        let mut answers = Answers::new(1_000_000);
        assert_eq!(answered(&mut answers, 0), [Event::Number(0)]);
        assert_eq!(answers.ask(1, NOW), Ok(Ask::Wait));
        assert_eq!(answers.ask(2, NOW), Ok(Ask::Wait));
        offer(&mut answers, "abc");
        assert_eq!(answers.ask(2, NOW), Ok(Ask::Wait), "1 comes first");
        assert_eq!(answered(&mut answers, 1), [Event::Number(1), data("abc")]);
        offer(&mut answers, "d");
        answers.flush();
        assert_eq!(answered(&mut answers, 2), [Event::Number(2), data("d")]);
    }

    #[test]
    fn what_comes_behind_an_answer_is_gathered_until_it_is_full_or_flushed_or_alone() {
        let mut answers = Answers::new(1_000_000);
        answered(&mut answers, 0);
        for (number, text) in [(1, "a"), (2, "b")] {
            offer(&mut answers, text);
            assert_eq!(answers.flush(), number == 1 || answers.waiting_len > 0);
            assert_eq!(answered(&mut answers, number)[1], data(text));
        }
        offer(&mut answers, "c");
        assert!(answers.flush());
        assert_eq!(answers.ask(3, NOW), Ok(Ask::Wait), "half of the polls");
        assert!(!answers.flush(), "known already");
        let mut queue = VecDeque::from([Bytes::from(vec![1; 1_000_000])]);
        answers.offer(&mut queue);
        let full = answered(&mut answers, 3);
        assert_eq!(full[0], Event::Number(3));
        offer(&mut answers, "d");
        assert_eq!(answers.ask(4, NOW), Ok(Ask::Wait));
        // These show that 1 and 2 have arrived.
        for number in [5, 6] {
            assert_eq!(answers.ask(number, NOW), Ok(Ask::Wait));
        }
        assert_eq!(answers.ask(4, NOW), Ok(Ask::Wait), "more may come");
        assert!(answers.flush());
        assert_eq!(answered(&mut answers, 4)[1], data("d"));
    }

    #[test]
    fn a_lost_answer_is_given_again_byte_for_byte_until_it_is_known_to_have_arrived() {
        let mut answers = Answers::new(1_000_000);
        answered(&mut answers, 0);
        offer(&mut answers, "abc");
        let first = answers.ask(1, NOW);
        offer(&mut answers, "def");
        answers.flush();
        assert_eq!(answers.ask(1, NOW), first, "not abcdef");
        answered(&mut answers, 2);
        assert_eq!(answers.ask(1, NOW), first, "2 may overtake 1");
        assert_eq!(answers.ask(4, NOW), Ok(Ask::Wait));
        assert_eq!(answers.ask(1, NOW), first);
        assert_eq!(answers.ask(5, NOW), Ok(Ask::Wait));
        assert_eq!(answers.ask(1, NOW), Err(AskError::Gone));
        assert_eq!(answers.in_flight(), 1);
    }

    #[test]
    fn nobody_asks_far_ahead() {
        let mut answers = Answers::new(1_000_000);
        assert_eq!(answers.ask(DEPTH, NOW), Err(AskError::TooFar));
        assert_eq!(answers.ask(u64::MAX, NOW), Err(AskError::TooFar));
        assert_eq!(answers.ask(DEPTH - 1, NOW), Ok(Ask::Wait));
    }

    #[test]
    fn an_expired_poll_gets_an_empty_answer_in_its_turn() {
        let mut answers = Answers::new(1_000_000);
        answered(&mut answers, 0);
        assert_eq!(answers.expire(2, NOW), Ok(None), "1 was not answered");
        let empty = answers.expire(1, NOW).expect("kept").expect("its turn");
        assert_eq!(events(&empty), [Event::Number(1)]);
        assert_eq!(answers.ask(1, NOW), Ok(Ask::Answer(empty)));
    }

    #[test]
    fn the_end_comes_with_the_last_bytes_and_releases_the_other_poll() {
        let mut answers = Answers::new(1_000_000);
        answered(&mut answers, 0);
        offer(&mut answers, "last");
        answers.finish();
        assert!(!answers.is_finished());
        let end = [Event::Number(1), data("last"), Event::End];
        assert_eq!(answered(&mut answers, 1), end);
        assert!(answers.is_finished());
        assert_eq!(
            answered(&mut answers, 2),
            [Event::Number(2)],
            "does not hang"
        );
        let mut queue = VecDeque::from([Bytes::from_static(b"x")]);
        assert_eq!(answers.offer(&mut queue), 0, "nothing after the end");
    }

    #[test]
    fn an_offer_takes_one_answer_and_no_more() {
        let mut answers = Answers::new(1_000_000);
        let mut queue = VecDeque::from([Bytes::from(vec![0; 1_000_000])]);
        let first = answers.offer(&mut queue);
        assert!((1..=128 * 1024).contains(&first));
        assert_eq!(answers.offer(&mut queue), 0);
    }

    fn body(parts: &[&[u8]]) -> Bytes {
        parts.concat().into()
    }

    #[test]
    fn an_answer_is_read_whole() {
        let number = span::number_span(5);
        let header = span::data_header(3);
        let all = body(&[&number, &header, b"abc", &span::end_span()]);
        let received = read_answer(all, 5).expect("valid");
        assert_eq!(received.data, [Bytes::from_static(b"abc")]);
        assert!(received.end);
        let empty = read_answer(body(&[&number]), 5).expect("valid");
        assert!(empty.data.is_empty() && !empty.end);
    }

    #[test]
    fn an_answer_that_a_box_made_up_or_mixed_up_is_refused() {
        let header = span::data_header(3);
        for wrong in [
            body(&[]),
            body(&[b"<html>please log in</html>"]),
            body(&[&header, b"abc"]),
            body(&[&span::number_span(4), &header, b"abc"]),
            body(&[&span::number_span(5), &header, b"ab"]),
            body(&[&span::number_span(5), &span::number_span(5)]),
            body(&[&span::number_span(5), &header[..3]]),
        ] {
            let error = read_answer(wrong.clone(), 5).expect_err("must be refused");
            assert_eq!(error.code(), "protocol", "{wrong:?}");
        }
    }

    proptest! {
        /// A client that loses, repeats and overtakes its polls still reads the stream once.
        #[test]
        fn the_stream_arrives_whatever_is_asked_again(
            sizes in prop::collection::vec(0usize..3000, 1..30),
            again in prop::collection::vec(0u64..4, 1..60),
        ) {
            let mut answers = Answers::new(2000);
            let total: usize = sizes.iter().sum();
            let stream: Bytes = (0..total).map(|i| (i % 241) as u8).collect();
            let mut rest = stream.clone();
            let mut source: VecDeque<Bytes> = sizes.iter().map(|n| rest.split_to(*n)).collect();
            let mut again = again.into_iter().cycle();
            let mut seen = Vec::new();
            let mut number = 0u64;
            loop {
                answers.offer(&mut source);
                if source.is_empty() {
                    answers.finish();
                }
                for back in 0..again.next().expect("cycle") {
                    if let Some(older) = number.checked_sub(back + 1) {
                        let _ = answers.ask(older, NOW);
                    }
                    let _ = answers.ask(number + 1, NOW);
                }
                let answer = match answers.ask(number, NOW) {
                    Ok(Ask::Answer(answer)) => answer,
                    other => panic!("{other:?}"),
                };
                let events = events(&answer);
                prop_assert_eq!(&events[0], &Event::Number(number));
                for event in &events {
                    if let Event::Data(bytes) = event {
                        seen.extend_from_slice(bytes);
                    }
                }
                number += 1;
                if events.contains(&Event::End) {
                    break;
                }
                prop_assert!(answers.kept.len() <= DEPTH as usize);
            }
            prop_assert_eq!(&seen[..], &stream[..]);
        }
    }
}
