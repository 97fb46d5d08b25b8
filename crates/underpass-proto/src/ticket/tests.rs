//! The authority's lines and the client's tickets against each other, on a virtual clock.

use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::packet::SessionId;
use crate::time::Time;

const KEEP: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);

fn claim(session: u8) -> Claim {
    Claim {
        holder: [1; 32],
        session: SessionId([session; 16]),
    }
}

/// An authority with its lines, as a store would keep them, and one client.
struct Both {
    lines: Vec<Line>,
    client: FirstTickets,
    now: Time,
    rng: ChaCha8Rng,
}

impl Both {
    fn new(seed: u64) -> Self {
        let mut both = Both {
            lines: Vec::new(),
            client: FirstTickets::default(),
            now: Time::ZERO,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        let first = both.issue(&claim(1));
        let handle = both.lines[0].handle;
        assert_eq!(both.client.take_in(first, handle), None);
        both
    }

    fn issue(&mut self, claim: &Claim) -> Ticket {
        let far = b"far".to_vec();
        let issued = Line::issue(claim, far, KEEP, self.now, &mut self.rng);
        self.lines.push(issued.line);
        issued.ticket
    }

    fn present(&mut self, ticket: &Ticket, claim: &Claim) -> Result<(Ticket, Handle), NotGood> {
        let mut why = NotGood::Unknown;
        for line in &mut self.lines {
            match line.present(ticket, claim, self.now, &mut self.rng) {
                Ok(Presented { changed, next }) => {
                    if let Some(changed) = changed {
                        *line = changed;
                    }
                    return Ok((next, line.handle));
                }
                Err(NotGood::Unknown) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    /// The client presents what it has; `answered`: and gets the answer.
    fn use_ticket(&mut self, answered: bool) -> Result<(), NotGood> {
        let ticket = self.client.to_present().ok_or(NotGood::Unknown)?.clone();
        match self.present(&ticket, &claim(1)) {
            Ok((next, handle)) if answered => {
                assert_eq!(self.client.take_in(next, handle), None);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(why) => {
                self.client.refused(&ticket);
                Err(why)
            }
        }
    }
}

#[test]
fn a_ticket_is_spent_when_the_one_after_it_is_used() {
    let mut both = Both::new(1);
    let first = both.client.to_present().unwrap().clone();
    let (second, _) = both.present(&first, &claim(1)).unwrap();
    let (again, _) = both.present(&first, &claim(1)).unwrap();
    assert_eq!(second.digest(), again.digest(), "the same answer each time");
    let (third, _) = both.present(&second, &claim(1)).unwrap();
    assert_eq!(
        both.present(&first, &claim(1)).err(),
        Some(NotGood::Unknown)
    );
    both.present(&second, &claim(1)).unwrap();
    both.present(&third, &claim(1)).unwrap();
    assert_eq!(
        both.present(&second, &claim(1)).err(),
        Some(NotGood::Unknown)
    );
}

#[test]
fn an_answer_to_a_used_ticket_changes_what_is_kept_only_once() {
    let both = Both::new(1);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let ticket = both.client.to_present().unwrap();
    let line = &both.lines[0];
    let asked = line.present(ticket, &claim(1), both.now, &mut rng).unwrap();
    assert_eq!(asked.changed, None, "asking writes nothing");
    let used = line.present(&asked.next, &claim(1), both.now, &mut rng);
    assert!(used.unwrap().changed.is_some());
}

#[test]
fn somebody_elses_ticket_is_no_good() {
    let mut both = Both::new(1);
    let foreign = both.issue(&claim(2));
    let mine = both.client.to_present().unwrap().clone();
    let thief = Claim {
        holder: [9; 32],
        ..claim(1)
    };
    for (ticket, claim) in [(&foreign, claim(1)), (&mine, claim(2)), (&mine, thief)] {
        let before = both.lines.clone();
        assert_eq!(both.present(ticket, &claim).err(), Some(NotGood::Foreign));
        assert_eq!(both.lines, before);
    }
    both.present(&mine, &claim(1)).unwrap();
}

#[test]
fn tickets_outlive_their_session_and_then_expire() {
    let mut both = Both::new(1);
    let issued = both.now;
    // Renewed for a day, as a relay does while the route is open.
    while both.now < issued + HOUR * 24 {
        both.now = both.now + MARGIN / 3;
        let now = both.now;
        both.lines.iter_mut().for_each(|line| line.renew(now));
    }
    let cut = both.now;
    both.now = cut + KEEP;
    both.use_ticket(true)
        .expect("the session may still be there");
    both.now = both.now + KEEP + MARGIN;
    assert_eq!(both.use_ticket(true), Err(NotGood::Expired));
    assert!(both.lines[0].is_over(both.now));
}

/// The worst moment: the path broke just before the ticket would have been renewed.
#[test]
fn a_ticket_that_was_not_renewed_for_half_the_margin_still_outlives_its_session() {
    let mut both = Both::new(1);
    both.now = both.now + MARGIN / 2 + MARGIN / 3;
    both.now = both.now + KEEP;
    both.use_ticket(true).unwrap();
}

#[test]
fn the_handle_of_a_line_that_was_given_up_comes_back() {
    let mut both = Both::new(1);
    let old = both.client.handle().unwrap();
    let ticket = both.issue(&claim(1));
    let new = both.lines[1].handle;
    assert_eq!(both.client.take_in(ticket, new), Some(old));
    assert_eq!(both.client.handle(), Some(new));
}

/// An authority restored from an older copy knows the ticket before the newest.
#[test]
fn the_last_word_of_the_authority_may_get_lost() {
    let mut both = Both::new(1);
    both.use_ticket(true).unwrap();
    let copy = both.lines.clone();
    both.use_ticket(true).unwrap();
    both.lines = copy;
    assert_eq!(both.use_ticket(true), Err(NotGood::Unknown));
    both.use_ticket(true).unwrap();
    both.use_ticket(true).unwrap();
}

proptest! {
    /// However many answers are lost, in whatever order: the client is never locked out, and no
    /// ticket is good once a later one was used.
    #[test]
    fn lost_answers_lock_nobody_out(answers in prop::collection::vec(any::<bool>(), 0..60), seed: u64) {
        let mut both = Both::new(seed);
        let mut used = Vec::<Ticket>::new();
        for answered in answers {
            let ticket = both.client.to_present().unwrap().clone();
            prop_assert_eq!(both.use_ticket(answered), Ok(()));
            if used.last().is_none_or(|last| last.digest() != ticket.digest()) {
                used.push(ticket);
            }
            for spent in &used[..used.len() - 1] {
                prop_assert_eq!(both.present(spent, &claim(1)).err(), Some(NotGood::Unknown));
            }
        }
    }

    #[test]
    fn changed_tickets_are_unknown(seed: u64, bit in 0usize..256) {
        let mut both = Both::new(seed);
        let mut bytes = *both.client.to_present().unwrap().as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(both.present(&Ticket::new(bytes), &claim(1)).err(), Some(NotGood::Unknown));
        let mut random = [0; 32];
        both.rng.fill_bytes(&mut random);
        prop_assert_eq!(both.present(&Ticket::new(random), &claim(1)).err(), Some(NotGood::Unknown));
        prop_assert_eq!(both.use_ticket(true), Ok(()));
    }
}
