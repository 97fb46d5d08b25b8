//! Both sides of a resume against each other, with every message lost, late or out of order.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use underpass_seal::Secrets;

use super::far::MAX_OFFERS;
use super::*;
use crate::frame::MAX_LEGS;
use crate::packet::Confirm;
use crate::session::LegId;
use crate::session::received::Acks;
use crate::ticket::Ticket;

const SESSION: SessionId = SessionId([9; 16]);
const FIRST: LegId = LegId(0);

struct Both {
    near: Near,
    far: Far,
    rng: ChaCha8Rng,
    legs: u64,
    /// CONFIRMs that are still on their way, with their legs.
    late: Vec<(LegId, Confirm)>,
}

/// How far an attempt gets before its leg breaks.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Request,
    Answer,
    /// CONFIRM went out; it arrives later, or never.
    Confirm,
    All,
}

impl Both {
    fn new(seed: u64) -> Self {
        let secret = || Secrets::dangerous_from_seed([1; 32]).resume;
        let ticket = Ticket::new([2; 32]);
        Both {
            near: Near::new(FIRST, secret(), ticket.clone()),
            far: Far::new(FIRST, secret(), &ticket, MAX_LEGS),
            rng: ChaCha8Rng::seed_from_u64(seed),
            legs: 0,
            late: Vec::new(),
        }
    }

    fn leg(&mut self) -> LegId {
        self.legs += 1;
        LegId(self.legs)
    }

    fn ask(&mut self, leg: LegId) -> Resume {
        self.ask_beside(leg, LegNames::new())
    }

    fn ask_beside(&mut self, leg: LegId, beside: LegNames) -> Resume {
        self.near
            .request(SESSION, leg, beside, Acks::new(), &mut self.rng)
    }

    fn answer(&mut self, leg: LegId, request: &Resume) -> Result<Resumed, Refusal> {
        let outcome = self
            .far
            .answer(leg, request, Acks::new(), 60, &mut self.rng);
        outcome.map(|(_, answer)| answer)
    }

    /// One attempt. True when both sides went on.
    fn attempt(&mut self, reach: Reach) -> bool {
        let leg = self.leg();
        let request = self.ask(leg);
        if matches!(reach, Reach::Request) {
            return false;
        }
        let Ok(answer) = self.answer(leg, &request) else {
            self.near.leg_gone(leg);
            return false;
        };
        if matches!(reach, Reach::Answer) {
            self.far.leg_gone(leg);
            return false;
        }
        let (_, confirm) = self
            .near
            .accept(SESSION, leg, &answer)
            .expect("an honest answer is accepted");
        if matches!(reach, Reach::Confirm) {
            self.late.push((leg, confirm));
            return false;
        }
        if self.far.confirm(leg, &confirm).is_err() {
            return false;
        }
        self.near.heard();
        true
    }

    /// A CONFIRM that was on its way arrives after all.
    fn arrive(&mut self, which: usize) {
        if self.late.is_empty() {
            return;
        }
        let (leg, confirm) = self.late.remove(which % self.late.len());
        let _ = self.far.confirm(leg, &confirm);
    }

    fn agree(&self) -> bool {
        let tag = |secret: &ResumeSecret| secret.confirm_tag();
        self.near.generation() == self.far.generation()
            && tag(self.near.secret()) == tag(self.far.secret())
    }
}

fn reach() -> impl Strategy<Value = Reach> {
    prop_oneof![
        1 => Just(Reach::Request),
        1 => Just(Reach::Answer),
        3 => Just(Reach::Confirm),
        1 => Just(Reach::All),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever was lost or late before, a path that works brings both sides together again.
    #[test]
    fn nobody_is_locked_out(
        steps in prop::collection::vec((reach(), any::<Option<usize>>()), 0..60),
        seed: u64,
    ) {
        let mut both = Both::new(seed);
        for (reach, late) in steps {
            both.attempt(reach);
            if let Some(which) = late {
                both.arrive(which);
            }
        }
        let attempts = (0..100).position(|_| both.attempt(Reach::All));
        prop_assert!(attempts.is_some(), "locked out");
        prop_assert!(attempts <= Some(9), "after {attempts:?} attempts");
        prop_assert!(both.agree());
        prop_assert!(both.attempt(Reach::All), "and the next one works at once");
        prop_assert!(both.agree());
    }
}

#[test]
fn a_spent_ticket_is_good_for_nothing() {
    let mut both = Both::new(1);
    let leg = both.leg();
    let first = both.ask(leg);
    let answer = both.answer(leg, &first).unwrap();
    let again = both.leg();
    assert_eq!(
        both.answer(again, &first).unwrap(),
        answer,
        "the same answer"
    );
    let (_, confirm) = both.near.accept(SESSION, leg, &answer).unwrap();
    both.far.confirm(leg, &confirm).unwrap();
    assert_eq!(both.answer(again, &first).err(), Some(Refusal::Stale));
    assert_eq!(both.far.confirm(again, &confirm), Err(Refusal::Stale));
    assert_eq!(both.far.confirm(leg, &confirm), Err(Refusal::Stale));
    assert!(both.agree());
}

#[test]
fn of_two_requests_at_once_one_is_taken_up() {
    let mut both = Both::new(1);
    let (one, two) = (both.leg(), both.leg());
    let (first, second) = (both.ask(one), both.ask(two));
    let answer_one = both.answer(one, &first).unwrap();
    let answer_two = both.answer(two, &second).unwrap();
    let (_, confirm) = both.near.accept(SESSION, two, &answer_two).unwrap();
    let late = both.near.accept(SESSION, one, &answer_one);
    assert!(matches!(late, Err(Refusal::Stale)));
    both.far.confirm(two, &confirm).unwrap();
    assert!(both.agree());
}

#[test]
fn changed_messages_change_nothing() {
    let mut both = Both::new(1);
    let leg = both.leg();
    let request = both.ask(leg);
    let mut changed = request.clone();
    changed.sealed = [&changed.sealed[..], &[0]].concat().into();
    assert_eq!(both.answer(leg, &changed).err(), Some(Refusal::Stale));
    let answer = both.answer(leg, &request).unwrap();
    for change in [
        |a: &mut Resumed| a.nonce[0] ^= 1,
        |a: &mut Resumed| a.generation += 1,
        |a: &mut Resumed| a.sealed = a.sealed.slice(1..),
    ] {
        let mut changed = answer.clone();
        change(&mut changed);
        let outcome = both.near.accept(SESSION, leg, &changed);
        assert!(matches!(outcome, Err(Refusal::Stale)));
    }
    let (_, confirm) = both.near.accept(SESSION, leg, &answer).unwrap();
    let mut changed = confirm.clone();
    changed.tag[31] ^= 1;
    assert_eq!(both.far.confirm(leg, &changed), Err(Refusal::Stale));
    both.far.confirm(leg, &confirm).unwrap();
    assert!(both.agree());
}

/// Who has one of the two, the secret or the ticket, has nothing.
#[test]
fn a_ticket_without_the_keys_is_useless_and_so_are_the_keys_without_it() {
    let mut both = Both::new(1);
    let secret = |seed: u8| Secrets::dangerous_from_seed([seed; 32]).resume;
    for mut stranger in [
        Near::new(FIRST, secret(1), Ticket::new([3; 32])),
        Near::new(FIRST, secret(3), Ticket::new([2; 32])),
    ] {
        let leg = both.leg();
        let none = LegNames::new();
        let request = stranger.request(SESSION, leg, none, Acks::new(), &mut both.rng);
        assert_eq!(both.answer(leg, &request).err(), Some(Refusal::Stale));
    }
    assert!(both.attempt(Reach::All));
}

/// Every bit of a request counts, while the one as it was still opens.
#[test]
fn a_request_with_any_bit_changed_is_refused() {
    let mut both = Both::new(1);
    let leg = both.leg();
    let beside = both.near.standing().names(None);
    let request = both.ask_beside(leg, beside);
    let mut body = Vec::new();
    request.encode(&mut body);
    let (mut tried, session) = (0, SESSION.0.len());
    for bit in session * 8..body.len() * 8 {
        let mut changed = body.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = Resume::decode(changed.into()) else {
            continue;
        };
        let outcome = both.answer(leg, &changed);
        assert_eq!(outcome.err(), Some(Refusal::Stale), "bit {bit}");
        tried += 1;
    }
    assert!(tried >= 500, "{tried} bits");
    assert!(both.answer(leg, &request).is_ok());
}

#[test]
fn an_offer_that_was_forgotten_does_not_lock_out() {
    let mut both = Both::new(1);
    assert!(both.attempt(Reach::All));
    both.attempt(Reach::Confirm);
    for _ in 0..MAX_OFFERS {
        // With the confirmed one, which gets lost, then with the one before.
        both.attempt(Reach::Request);
        both.attempt(Reach::Answer);
    }
    both.arrive(0);
    assert_eq!(both.far.generation(), 1, "the offer was forgotten");
    assert!((0..4).any(|_| both.attempt(Reach::All)), "locked out");
    assert!(both.agree());
}

impl Both {
    /// One attempt beside these legs in which nothing is lost.
    fn join(&mut self, beside: LegNames) -> LegId {
        let leg = self.leg();
        let request = self.ask_beside(leg, beside);
        let answer = self.answer(leg, &request).unwrap();
        let (_, confirm) = self.near.accept(SESSION, leg, &answer).unwrap();
        self.far.confirm(leg, &confirm).unwrap();
        self.near.heard();
        leg
    }

    /// What both ends hold.
    fn legs(&self) -> Vec<LegId> {
        let (near, far) = (self.near.standing().legs(), self.far.standing().legs());
        assert_eq!(near, far);
        near
    }
}

#[test]
fn a_leg_beside_ends_just_those_that_it_does_not_name() {
    let mut both = Both::new(1);
    let second = both.join(both.near.standing().names(None));
    assert_eq!(both.legs(), [FIRST, second]);
    let third = both.join(both.near.standing().names(None));
    assert_eq!(both.legs(), [FIRST, second, third]);
    let fourth = both.join(both.near.standing().names(Some(second)));
    assert_eq!(both.legs(), [FIRST, third, fourth]);
    assert!(both.agree(), "each was a generation of its own");
    let alone = both.join(LegNames::new());
    assert_eq!(both.legs(), [alone]);
}

/// What one end lost without the other's knowledge is gone at both after the next resume.
#[test]
fn a_leg_that_only_one_end_holds_does_not_stay() {
    for near in [true, false] {
        let mut both = Both::new(1);
        let second = both.join(both.near.standing().names(None));
        match near {
            true => both.near.leg_gone(FIRST),
            false => both.far.leg_gone(FIRST),
        }
        let third = both.join(both.near.standing().names(None));
        assert_eq!(both.legs(), [second, third]);
    }
}

#[test]
fn the_responder_keeps_no_more_legs_than_it_said() {
    let mut both = Both::new(1);
    let secret = Secrets::dangerous_from_seed([1; 32]).resume;
    both.far = Far::new(FIRST, secret, &Ticket::new([2; 32]), 3);
    let legs: Vec<LegId> = (0..5)
        .map(|_| both.join(both.near.standing().names(None)))
        .collect();
    assert_eq!(both.legs(), legs[2..], "the newest three");
    // Nor does either keep more than there may be at all.
    let mut both = Both::new(1);
    for _ in 0..2 * MAX_LEGS {
        both.join(both.near.standing().names(None));
    }
    assert_eq!(both.legs().len(), MAX_LEGS);
}
