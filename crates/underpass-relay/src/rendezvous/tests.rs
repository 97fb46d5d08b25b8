//! The rendezvous against stories, and against a plain model.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// Machines 1 to 6: two of each of the users 1 to 3.
fn user_of(machine: u8) -> UserId {
    UserId(i64::from(machine.div_ceil(2)))
}

/// A wish of a machine, said on an attachment of the same number, for a user or (0) for anybody.
fn wish(machine: u8, whom: i64) -> Wish {
    let name = |user: i64| format!("user-{user}");
    Wish {
        attachment: AttachmentId(machine.into()),
        holder: [machine; 16],
        user: user_of(machine),
        user_name: name(user_of(machine).0),
        machine: [machine; 32],
        application: "chat".to_owned(),
        whom: match whom {
            0 => Whom::Anybody,
            user => Whom::User {
                id: UserId(user),
                name: name(user),
            },
        },
        only: None,
    }
}

fn everybody(_: AttachmentId) -> bool {
    true
}

fn take(rendezvous: &mut Rendezvous, wish: Wish) -> (Option<Meeting>, Vec<AttachmentId>) {
    let taken = rendezvous.wish(wish, &everybody).unwrap();
    (rendezvous.answer(taken.place), taken.tell)
}

fn code(refused: Result<Waiting, Refusal>) -> Code {
    refused.unwrap_err().code
}

#[test]
fn two_who_wish_for_each_other_meet_and_the_smaller_key_opens() {
    for (first, second) in [(1, 3), (3, 1)] {
        let mut rendezvous = Rendezvous::default();
        let whom = |machine: u8| if machine == 1 { 2 } else { 1 };
        let (met, tell) = take(&mut rendezvous, wish(first, whom(first)));
        assert_eq!((met, tell), (None, vec![]));
        let (met, tell) = take(&mut rendezvous, wish(second, whom(second)));
        assert_eq!(tell, [AttachmentId(first.into())], "who waited asks again");
        let met = met.unwrap();
        assert_eq!(met.machine, [first; 32]);
        assert_eq!(met.opens, second == 1);
        let other = rendezvous.answer(number_of(&wish(first, whom(first)).place()));
        let other = other.unwrap();
        assert_eq!((other.machine, other.opens), ([second; 32], first == 1));
        assert_eq!(
            other.place, met.place,
            "both mean the place of the one who waits"
        );
        assert_eq!(met.place, wish(3, 1).place());
    }
}

#[test]
fn who_wishes_for_anybody_waits_for_all_who_come_and_two_of_them_never_meet() {
    let mut rendezvous = Rendezvous::default();
    // The smallest key waits all the same.
    assert_eq!(take(&mut rendezvous, wish(1, 0)), (None, vec![]));
    assert_eq!(take(&mut rendezvous, wish(3, 0)), (None, vec![]));
    for machine in [2, 4, 5, 6] {
        let (met, tell) = take(&mut rendezvous, wish(machine, 1));
        let met = met.unwrap();
        assert!(
            met.opens && tell.is_empty(),
            "who waits learns it by who comes"
        );
        assert_eq!(met.place, wish(1, 0).place());
    }
    let waits = number_of(&wish(1, 0).place());
    assert_eq!(rendezvous.answer(waits), None);
    for machine in 2..=6 {
        let admitted = rendezvous.admits(waits, user_of(machine), [machine; 32]);
        assert_eq!(admitted.unwrap().user, "user-1");
    }
    let oneself = rendezvous.admits(waits, UserId(1), [1; 32]);
    assert_eq!(code(oneself), Code::Oneself);
}

#[test]
fn a_wish_meets_one_and_others_wait_until_it_is_free() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 2));
    let (met, _) = take(&mut rendezvous, wish(3, 1));
    assert!(met.is_some());
    // Another machine of the same user.
    assert_eq!(take(&mut rendezvous, wish(4, 1)), (None, vec![]));
    let place = number_of(&wish(3, 1).place());
    assert!(rendezvous.admits(place, UserId(1), [1; 32]).is_ok());
    let refused = rendezvous.admits(place, UserId(1), [2; 32]);
    assert_eq!(code(refused), Code::Connected, "it has met another machine");
    let refused = rendezvous.admits(place, UserId(3), [5; 32]);
    assert_eq!(code(refused), Code::Denied, "it is not for that user");
    // The first one goes: the second one's turn has come, and both are told.
    let (_, tell) = rendezvous
        .part(&wish(3, 1).place(), [3; 16], &everybody)
        .unwrap();
    let tell: HashSet<AttachmentId> = tell.into_iter().collect();
    assert_eq!(tell, [AttachmentId(1), AttachmentId(4)].into());
    let met = rendezvous.answer(number_of(&wish(1, 2).place())).unwrap();
    assert_eq!(met.machine, [4; 32]);
    let gone = rendezvous.admits(place, UserId(1), [1; 32]);
    assert_eq!(code(gone), Code::ServiceAway);
}

#[test]
fn who_has_a_session_meets_nobody_else() {
    let mut rendezvous = Rendezvous::default();
    let only = Wish {
        only: Some([3; 32]),
        ..wish(1, 2)
    };
    take(&mut rendezvous, only.clone());
    // At this relay the other machine of that user comes first.
    assert_eq!(take(&mut rendezvous, wish(4, 1)), (None, vec![]));
    let place = number_of(&wish(1, 2).place());
    let refused = rendezvous.admits(place, UserId(2), [4; 32]);
    assert_eq!(code(refused), Code::Connected);
    assert!(rendezvous.admits(place, UserId(2), [3; 32]).is_ok());
    let (met, tell) = take(&mut rendezvous, wish(3, 1));
    assert_eq!(met.unwrap().machine, [1; 32]);
    assert_eq!(tell, [AttachmentId(1)]);
    // The session ends: the wish is made anew, and may meet whoever came first.
    let (met, _) = take(&mut rendezvous, wish(1, 2));
    assert_eq!(met.unwrap().machine, [4; 32]);
}

#[test]
fn the_same_wish_of_another_program_is_refused_while_the_first_is_there() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 2));
    let again = Wish {
        attachment: AttachmentId(11),
        holder: [11; 16],
        ..wish(1, 2)
    };
    let refused = rendezvous.wish(again.clone(), &everybody);
    assert_eq!(refused.unwrap_err().code, Code::Connected);
    // Another user or application is another wish.
    take(
        &mut rendezvous,
        Wish {
            whom: wish(1, 0).whom,
            ..again.clone()
        },
    );
    // One that crashed has no link any more.
    let taken = rendezvous.wish(again, &|id| id != AttachmentId(1)).unwrap();
    assert_eq!(taken.replaced, Some(AttachmentId(1)));
    assert!(
        rendezvous
            .part(&wish(1, 2).place(), [1; 16], &everybody)
            .is_none()
    );
    // The same program, attached anew, takes its own place.
    let moved = Wish {
        attachment: AttachmentId(12),
        holder: [11; 16],
        ..wish(1, 2)
    };
    let taken = rendezvous.wish(moved, &everybody).unwrap();
    assert_eq!(taken.replaced, Some(AttachmentId(11)));
}

#[test]
fn who_cannot_be_reached_is_met_when_it_returns() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 2));
    let away = |id| id != AttachmentId(1);
    let taken = rendezvous.wish(wish(3, 1), &away).unwrap();
    assert_eq!(rendezvous.answer(taken.place), None);
    let tell = rendezvous.returned(AttachmentId(1), &everybody);
    assert_eq!(tell.len(), 2, "both ask again");
    assert!(rendezvous.answer(taken.place).is_some());
}

#[test]
fn machines_of_one_user_meet_and_a_machine_never_meets_itself() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 0));
    let (met, _) = take(&mut rendezvous, wish(1, 1));
    assert_eq!(met, None);
    let (met, _) = take(&mut rendezvous, wish(2, 1));
    assert!(met.is_some());
}

#[test]
fn who_waits_for_a_service_is_known_by_its_names() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 2));
    take(&mut rendezvous, wish(5, 2));
    assert_eq!(rendezvous.alone_for("chat", UserId(2)).len(), 2);
    assert!(rendezvous.alone_for("talk", UserId(2)).is_empty());
    take(&mut rendezvous, wish(3, 1));
    assert_eq!(rendezvous.alone_for("chat", UserId(2)), [AttachmentId(5)]);
}

/// A wish made anew sets free who had met it, for another wish of the same agent: of that the agent is told.
#[test]
fn what_another_wish_of_the_same_agent_meets_is_told() {
    let mut rendezvous = Rendezvous::default();
    take(&mut rendezvous, wish(1, 0));
    take(&mut rendezvous, wish(1, 3));
    take(&mut rendezvous, wish(5, 1));
    let busy = number_of(&wish(5, 1).place());
    assert!(
        rendezvous.answer(busy).unwrap().opens,
        "the first one was met"
    );
    let only = Wish {
        only: Some([2; 32]),
        ..wish(1, 0)
    };
    let (_, tell) = take(&mut rendezvous, only);
    let tell: HashSet<AttachmentId> = tell.into_iter().collect();
    assert_eq!(tell, [AttachmentId(1), AttachmentId(5)].into());
    assert!(!rendezvous.answer(busy).unwrap().opens);
}

#[derive(Clone, Debug)]
enum Step {
    Wish {
        machine: u8,
        whom: i64,
        program: u8,
        only: Option<u8>,
    },
    Part {
        machine: u8,
        whom: i64,
        program: u8,
    },
    Away(u8),
    Back(u8),
    Detach(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (machine, whom, program) = (|| 1u8..7, || 0i64..4, || 0u8..2);
    prop_oneof![
        8 => (machine(), whom(), program(), prop::option::weighted(0.2, 1u8..7))
            .prop_map(|(machine, whom, program, only)| Step::Wish { machine, whom, program, only }),
        3 => (machine(), whom(), program())
            .prop_map(|(machine, whom, program)| Step::Part { machine, whom, program }),
        2 => machine().prop_map(Step::Away),
        2 => machine().prop_map(Step::Back),
        1 => machine().prop_map(Step::Detach),
    ]
}

/// What is known of wishes without any index: who stands, and who is there.
#[derive(Default)]
struct Model {
    rendezvous: Rendezvous,
    standing: HashMap<(u8, i64), Wish>,
    away: HashSet<AttachmentId>,
    /// What each agent knows: by what it was answered the last time.
    known: HashMap<(u8, i64), Option<Meeting>>,
}

impl Model {
    fn take(&mut self, step: Step) {
        let away = self.away.clone();
        let is_there = move |id| !away.contains(&id);
        match step {
            Step::Wish {
                machine,
                whom,
                program,
                only,
            } => {
                let attachment = AttachmentId(u64::from(machine) + 100 * u64::from(program));
                let wish = Wish {
                    attachment,
                    holder: [program; 16],
                    only: only.map(|only| [only; 32]),
                    ..wish(machine, whom)
                };
                let before = self.standing.get(&(machine, whom));
                let held =
                    before.is_some_and(|it| it.holder != wish.holder && is_there(it.attachment));
                match self.rendezvous.wish(wish.clone(), &is_there) {
                    Ok(taken) => {
                        assert!(!held);
                        assert_eq!(taken.place, number_of(&wish.place()));
                        self.standing.insert((machine, whom), wish);
                        self.ask(machine, whom);
                        self.tell(taken.tell);
                    }
                    Err(why) => assert!(held && why.code == Code::Connected),
                }
            }
            Step::Part {
                machine,
                whom,
                program,
            } => {
                let place = wish(machine, whom).place();
                let parted = self.rendezvous.part(&place, [program; 16], &is_there);
                let before = self.standing.get(&(machine, whom));
                let held = before.is_some_and(|it| it.holder == [program; 16]);
                assert_eq!(parted.is_some(), held);
                if let Some((_, tell)) = parted {
                    self.standing.remove(&(machine, whom));
                    self.known.remove(&(machine, whom));
                    self.tell(tell);
                }
            }
            Step::Away(machine) => {
                self.away.insert(AttachmentId(machine.into()));
            }
            Step::Back(machine) => {
                let attachment = AttachmentId(machine.into());
                self.away.remove(&attachment);
                let away = self.away.clone();
                let tell = self
                    .rendezvous
                    .returned(attachment, &move |id| !away.contains(&id));
                self.tell(tell);
            }
            Step::Detach(machine) => {
                let attachment = AttachmentId(machine.into());
                let tell = self.rendezvous.detached(attachment, &is_there);
                self.standing
                    .retain(|_, wish| wish.attachment != attachment);
                self.known.retain(|key, _| self.standing.contains_key(key));
                self.tell(tell);
            }
        }
    }

    fn ask(&mut self, machine: u8, whom: i64) {
        let answer = self
            .rendezvous
            .answer(number_of(&wish(machine, whom).place()));
        self.known.insert((machine, whom), answer);
    }

    /// Those who are told ask again, for all that they wish.
    fn tell(&mut self, tell: Vec<AttachmentId>) {
        let told = |wish: &Wish| tell.contains(&wish.attachment);
        let again: Vec<(u8, i64)> = self
            .standing
            .iter()
            .filter(|(_, wish)| told(wish))
            .map(|(key, _)| *key)
            .collect();
        for (machine, whom) in again {
            self.ask(machine, whom);
        }
    }

    fn check(&self) {
        for (key, wish) in &self.standing {
            let now = self.rendezvous.answer(number_of(&wish.place()));
            assert_eq!(self.known[key], now, "{key:?} knows what is so");
            match &now {
                Some(met) => self.check_met(*key, wish, met),
                None => self.check_alone(*key, wish),
            }
        }
        let all = self.standing.len();
        let rendezvous = &self.rendezvous;
        assert_eq!(rendezvous.standing.len(), all);
        let indexed: usize = rendezvous.of.values().map(BTreeSet::len).sum();
        let held: usize = rendezvous.held.values().map(BTreeSet::len).sum();
        assert_eq!((indexed, held), (all, all));
        let named = self.standing.keys().filter(|(_, whom)| *whom != 0).count();
        let indexed: usize = rendezvous.for_user.values().map(BTreeSet::len).sum();
        assert_eq!(indexed, named);
    }

    fn check_met(&self, (machine, whom): (u8, i64), wish: &Wish, met: &Meeting) {
        assert_ne!(whom, 0, "one for anybody has met nobody in particular");
        let other = self.standing.values().find(|other| {
            let waits = if met.opens { other } else { wish };
            other.machine == met.machine && waits.place() == met.place && wish.fits(other)
        });
        let Some(other) = other else {
            panic!("{machine} for {whom} has met one that is not there: {met:?}");
        };
        if !other.is_for_anybody() {
            let theirs = self.rendezvous.answer(number_of(&other.place())).unwrap();
            assert_eq!((theirs.machine, theirs.opens), (wish.machine, !met.opens));
            assert_eq!(theirs.place, met.place);
        }
        if met.opens {
            let waits = number_of(&met.place);
            let admitted = self.rendezvous.admits(waits, wish.user, wish.machine);
            assert!(admitted.is_ok(), "{admitted:?}");
        }
    }

    /// Nobody who fits and is there is alone as well.
    fn check_alone(&self, key: (u8, i64), wish: &Wish) {
        if self.away.contains(&wish.attachment) || key.1 == 0 {
            return;
        }
        for (other, it) in &self.standing {
            let alone = other.1 == 0 || self.known[other].is_none();
            let there = !self.away.contains(&it.attachment);
            assert!(
                !(alone && there && wish.fits(it)),
                "{key:?} and {other:?} are left alone"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn whoever_fits_meets_and_everybody_knows_it(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut model = Model::default();
        for step in steps {
            model.take(step);
            model.check();
        }
    }
}
