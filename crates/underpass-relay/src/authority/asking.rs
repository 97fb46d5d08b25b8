//! Which questions to an authority wait for an answer. Pure: what is to be said next, again after each
//! loss of the connection, and when somebody has waited for long enough.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use underpass_proto::Time;
use underpass_proto::authority::{AuthorityMessage, Ping};

/// The longest time that a question waits for its answer, over all connections. Agents wait longer for
/// theirs, and ask again.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// A connection on which an answer takes longer is given up.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The most questions that wait at a time: far more than a relay has errands.
const MOST_QUESTIONS: usize = 1024;

/// Why a question is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAsked {
    /// The connection was lost long ago: nobody is to wait for it.
    #[error("there is no connection to it")]
    Down,
    /// Too many wait already.
    #[error("too many questions wait for it")]
    TooMany,
}

#[derive(Debug)]
struct Open<A> {
    question: AuthorityMessage,
    /// Whose the answer is; nobody's for what is asked only to see whether there is one.
    whose: Option<A>,
    /// When it was said on the present connection.
    said: Option<Time>,
}

/// The questions of a relay; an answer goes to an `A`.
#[derive(Debug)]
pub(super) struct Asking<A> {
    next: u64,
    open: BTreeMap<u64, Open<A>>,
    /// Those that were not said on the present connection, in their order.
    unsaid: VecDeque<u64>,
    down_since: Option<Time>,
    /// Whether the present connection has brought an answer.
    useful: bool,
}

impl<A> Asking<A> {
    /// Before the first connection.
    pub(super) fn new(now: Time) -> Self {
        Self {
            next: 1,
            open: BTreeMap::new(),
            unsaid: VecDeque::new(),
            down_since: Some(now),
            useful: false,
        }
    }

    /// Takes a question up; its number, and for how long its answer is to be waited for.
    pub(super) fn ask(
        &mut self,
        question: AuthorityMessage,
        whose: A,
        now: Time,
    ) -> Result<(u64, Duration), NotAsked> {
        let down = self.down_since.map_or(Duration::ZERO, |it| now.since(it));
        let patience = PATIENCE.saturating_sub(down);
        if patience.is_zero() {
            return Err(NotAsked::Down);
        }
        if self.open.len() >= MOST_QUESTIONS {
            return Err(NotAsked::TooMany);
        }
        Ok((self.add(question, Some(whose)), patience))
    }

    /// Asks whether anybody is there.
    pub(super) fn ping(&mut self) {
        self.add(Ping { request: 0 }.into(), None);
    }

    fn add(&mut self, question: AuthorityMessage, whose: Option<A>) -> u64 {
        let number = self.next;
        self.next += 1;
        let open = Open {
            question: question.numbered(number),
            whose,
            said: None,
        };
        self.open.insert(number, open);
        self.unsaid.push_back(number);
        number
    }

    /// Nobody waits for the answer any more.
    pub(super) fn give_up(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// A new connection is there.
    pub(super) fn connected(&mut self) {
        self.down_since = None;
    }

    /// It was lost: what has no answer is asked again on the next. Whether it had brought one.
    pub(super) fn lost(&mut self, now: Time) -> bool {
        self.down_since.get_or_insert(now);
        self.open.retain(|_, open| open.whose.is_some());
        for open in self.open.values_mut() {
            open.said = None;
        }
        self.unsaid = self.open.keys().copied().collect();
        std::mem::take(&mut self.useful)
    }

    /// What to say next, if anything.
    pub(super) fn say(&mut self, now: Time) -> Option<&AuthorityMessage> {
        loop {
            let number = self.unsaid.pop_front()?;
            // One that was given up meanwhile is not said.
            if self.open.contains_key(&number) {
                let open = self.open.get_mut(&number)?;
                open.said = Some(now);
                return Some(&open.question);
            }
        }
    }

    /// Whose an answer is. One that nobody waits for any more is nobody's.
    pub(super) fn answered(&mut self, answer: &AuthorityMessage) -> Option<A> {
        self.useful = true;
        self.open.remove(&answer.request()?)?.whose
    }

    /// When the connection is to be given up, unless there is an answer.
    pub(super) fn overdue_at(&self) -> Option<Time> {
        let first = self.open.values().filter_map(|open| open.said).min()?;
        Some(first + ANSWER_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::authority::{Discard, Settled};

    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn question(handle: u8) -> AuthorityMessage {
        let handle = [handle; 16];
        Discard { request: 0, handle }.into()
    }

    fn said(asking: &mut Asking<char>, now: Time) -> Vec<u64> {
        std::iter::from_fn(|| asking.say(now)?.request()).collect()
    }

    fn settled(request: u64) -> AuthorityMessage {
        Settled { request }.into()
    }

    #[test]
    fn answers_come_in_any_order_and_once() {
        let mut asking = Asking::new(at(0));
        asking.connected();
        let numbers: Vec<u64> = ['a', 'b', 'c']
            .map(|who| asking.ask(question(1), who, at(0)).unwrap().0)
            .into();
        assert_eq!(said(&mut asking, at(0)), numbers);
        assert!(said(&mut asking, at(0)).is_empty(), "each is said once");
        for (n, who) in [(2, 'c'), (0, 'a'), (1, 'b')] {
            assert_eq!(asking.answered(&settled(numbers[n])), Some(who));
            assert_eq!(asking.answered(&settled(numbers[n])), None);
        }
        assert_eq!(asking.answered(&settled(99)), None, "nobody asked that");
        assert_eq!(asking.overdue_at(), None);
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_under_its_number() {
        let mut asking = Asking::new(at(0));
        asking.connected();
        let (first, _) = asking.ask(question(1), 'a', at(0)).unwrap();
        let (second, _) = asking.ask(question(2), 'b', at(0)).unwrap();
        assert_eq!(said(&mut asking, at(1)), [first, second]);
        asking.answered(&settled(first)).unwrap();
        asking.ping();
        assert!(asking.lost(at(2)));
        let (third, _) = asking.ask(question(3), 'c', at(3)).unwrap();
        asking.connected();
        assert_eq!(said(&mut asking, at(4)), [second, third], "no old ping");
        assert_eq!(asking.answered(&settled(second)), Some('b'));
        asking.give_up(third);
        asking.lost(at(5));
        assert!(said(&mut asking, at(5)).is_empty());
        assert_eq!(asking.answered(&settled(third)), None);
    }

    #[test]
    fn nobody_waits_long_for_an_authority_that_is_away() {
        let mut asking = Asking::new(at(0));
        let patience = |asking: &mut Asking<char>, now| {
            let asked = asking.ask(question(1), 'a', now);
            asked.map(|(number, patience)| {
                asking.give_up(number);
                patience
            })
        };
        assert_eq!(patience(&mut asking, at(1)), Ok(Duration::from_secs(7)));
        assert_eq!(patience(&mut asking, at(8)), Err(NotAsked::Down));
        asking.connected();
        assert_eq!(patience(&mut asking, at(100)), Ok(PATIENCE));
        assert!(!asking.lost(at(100)));
        assert!(!asking.lost(at(107)), "an attempt that failed");
        assert_eq!(patience(&mut asking, at(107)), Ok(Duration::from_secs(1)));
        assert_eq!(patience(&mut asking, at(109)), Err(NotAsked::Down));
    }

    #[test]
    fn the_oldest_question_without_an_answer_condemns_the_connection() {
        let mut asking = Asking::new(at(0));
        asking.connected();
        let (first, _) = asking.ask(question(1), 'a', at(0)).unwrap();
        assert_eq!(asking.overdue_at(), None, "it was not said yet");
        said(&mut asking, at(1));
        asking.ping();
        said(&mut asking, at(2));
        assert_eq!(asking.overdue_at(), Some(at(1) + ANSWER_WITHIN));
        asking.answered(&settled(first)).unwrap();
        assert_eq!(asking.overdue_at(), Some(at(2) + ANSWER_WITHIN));
        asking.lost(at(3));
        assert_eq!(asking.overdue_at(), None);
    }

    #[test]
    fn the_questions_are_bounded() {
        let mut asking = Asking::new(at(0));
        for _ in 0..MOST_QUESTIONS {
            asking.ask(question(1), 'a', at(0)).unwrap();
        }
        let more = asking.ask(question(1), 'a', at(0));
        assert_eq!(more, Err(NotAsked::TooMany));
    }
}
