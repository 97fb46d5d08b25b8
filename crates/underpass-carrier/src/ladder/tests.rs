//! The ladder on simulated networks.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Boxes, Fate, World};
use super::*;
use crate::{KINDS, Kind};

fn all() -> Vec<Rung> {
    let kinds: Vec<&'static Kind> = KINDS.iter().collect();
    rungs_of(&kinds)
}

fn index(name: &str) -> usize {
    all().iter().position(|rung| rung.name == name).unwrap()
}

fn unknown_network() -> Event {
    Event::NetworkChanged {
        best: None,
        held: Vec::new(),
        keepalive: None,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The hardest path that lets requests and whole answers through.
const STRICTEST: Boxes = Boxes {
    refuse_upgrades: true,
    hold_responses: true,
    hold_requests: true,
    drop_udp: true,
    refuse_http2: true,
    swallow_upgrades: false,
    cut_streams_after: None,
    round_trip_ms: 50,
    drag_streams_ms: 0,
    dead: false,
};

/// Where all passes but UDP and HTTP/2, as behind most proxies.
fn old() -> Boxes {
    Boxes {
        drop_udp: true,
        refuse_http2: true,
        ..near()
    }
}

fn near() -> Boxes {
    Boxes {
        round_trip_ms: 20,
        ..Boxes::default()
    }
}

#[test]
fn an_open_network_gets_the_first_choice_and_one_attempt() {
    let mut world = World::new(all(), None, near());
    world.run(Duration::from_millis(200));
    assert_eq!(world.most_at_once, 1);
    world.run(secs(30));
    assert_eq!(world.carrying(), Some(0));
    // What needs UDP is no start, but the best one in the end.
    assert_eq!(world.switches(), 1);
}

#[test]
fn the_strictest_path_carries_within_a_second_and_a_half() {
    let mut world = World::new(all(), None, STRICTEST);
    world.run(Duration::from_millis(1500));
    assert_eq!(world.carrying(), STRICTEST.best(&all()));
}

#[test]
fn what_is_remembered_is_the_first_to_be_tried() {
    let best = STRICTEST.best(&all());
    let mut world = World::new(all(), best, STRICTEST);
    world.run(Duration::from_millis(200));
    assert_eq!((world.carrying(), world.tries), (best, 1));
}

#[test]
fn a_path_that_is_dead_is_tried_until_it_lives() {
    let mut dead = near();
    dead.dead = true;
    let mut world = World::new(all(), None, dead);
    world.run(secs(60));
    assert_eq!(world.carrying(), None);
    world.change(near());
    world.run(secs(40));
    assert_eq!(world.carrying(), Some(0));
}

#[test]
fn a_box_that_turns_hostile_costs_little_more_than_the_doubt() {
    let mut swallows = near();
    swallows.swallow_upgrades = true;
    let mut no_udp = near();
    no_udp.drop_udp = true;
    for hostile in [STRICTEST, swallows, no_udp] {
        let mut world = World::new(all(), None, near());
        world.run(secs(30));
        world.longest_stall = Duration::ZERO;
        world.change(hostile);
        world.run(secs(60));
        assert_eq!(world.carrying(), hostile.best(&all()), "{hostile:?}");
        // 2 s until the leg is suspect, and one round trip on what was made ready meanwhile.
        let longest = secs(2) + Duration::from_millis(100);
        assert!(world.longest_stall <= longest, "{:?}", world.longest_stall);
        world.change(near());
        world.run(secs(10 * 60));
        assert_eq!(world.carrying(), Some(0), "friendly again");
    }
}

#[test]
fn what_was_made_ready_is_dropped_when_the_answer_comes() {
    let mut world = World::new(all(), None, near());
    world.run(secs(30));
    let (switches, tries) = (world.switches(), world.tries);
    for _ in 0..20 {
        world.change(STRICTEST);
        world.run(Duration::from_millis(1200));
        world.change(near());
        world.run(Duration::from_millis(1300));
    }
    assert_eq!(world.switches(), switches, "nothing was suspect");
    // In 50 s there are two preparations, of a few carriers each.
    assert!(world.tries - tries <= 8, "{}", world.tries - tries);
    world.run(secs(10));
    assert_eq!(world.under_way(), 0, "nothing is kept");
    assert_eq!(world.carrying(), Some(0));
}

#[test]
fn what_is_not_ready_in_time_goes_on_beside_what_is_begun_anew() {
    let mut far = near();
    far.round_trip_ms = 500;
    let mut world = World::new(all(), None, far);
    world.run(secs(40));
    assert_eq!(world.carrying(), Some(index("quic")));
    let tries = world.tries;
    world.longest_stall = Duration::ZERO;
    far.drop_udp = true;
    world.change(far);
    world.run(Duration::from_millis(1900));
    assert!(world.tries > tries && world.carrying().is_none());
    // Until something carries, and before anything better is tried beside it.
    world.run(secs(2));
    assert!(world.carrying().is_some());
    assert!(world.longest_stall <= secs(4), "{:?}", world.longest_stall);
    assert!(
        world.tries - tries <= 2 * all().len(),
        "{}",
        world.tries - tries
    );
}

/// What was made ready in an outage, by a firewall that then forgot all flows, is as dead as the leg.
#[test]
fn what_was_made_ready_in_an_outage_holds_nothing_up() {
    let mut dead = near();
    dead.dead = true;
    for one in all() {
        // Late after 0.7 s: before that nothing is made ready, after it one is.
        for outage_ms in [500, 1000, 1900] {
            let mut world = World::new(vec![one], None, near());
            world.run(secs(30));
            world.longest_stall = Duration::ZERO;
            world.change(dead);
            world.run(Duration::from_millis(outage_ms));
            world.forget_flows(near());
            world.run(secs(20));
            let longest = secs(2) + Duration::from_millis(100);
            assert!(world.longest_stall <= longest, "{:?}", world.longest_stall);
        }
    }
}

/// The same where it was ready, and is forgotten with the leg: it is gone on with in vain.
#[test]
fn what_was_ready_and_died_with_the_leg_holds_nothing_up() {
    for one in all() {
        let mut world = World::new(vec![one], None, near());
        world.run(secs(30));
        world.longest_stall = Duration::ZERO;
        world.silence();
        world.run(Duration::from_millis(1500));
        world.forget_flows(near());
        world.run(secs(20));
        let longest = secs(2) + Duration::from_millis(400);
        assert!(world.longest_stall <= longest, "{:?}", world.longest_stall);
    }
}

#[test]
fn the_same_carrier_again_goes_before_the_hardier_ones() {
    let mut world = World::new(all(), None, near());
    world.run(secs(30));
    let (in_use, before) = (world.carrying(), world.history.len());
    // One flow is lost on the way, and no other.
    world.silence();
    world.run(secs(3));
    assert_eq!(world.history.len(), before + 1);
    assert_eq!(world.carrying(), in_use);
}

#[test]
fn without_udp_the_next_best_takes_over() {
    let mut world = World::new(all(), None, near());
    world.run(secs(30));
    assert_eq!(world.carrying(), Some(index("quic")));
    let mut no_udp = near();
    no_udp.drop_udp = true;
    world.change(no_udp);
    world.run(secs(3));
    assert_eq!(world.carrying(), Some(index("upgrade")));
}

#[test]
fn a_leg_that_begins_to_drag_is_relieved() {
    let mut world = World::new(all(), None, old());
    world.run(secs(30));
    let mut drags = old();
    drags.drag_streams_ms = 1800;
    world.change(drags);
    world.run(secs(8));
    let carrying = world.carrying().unwrap();
    assert!(
        all()[carrying].abilities.survives_holding_proxy,
        "{carrying}"
    );
    let before = world.switches();
    world.run(secs(30 * 60));
    assert_eq!(world.carrying(), Some(carrying), "nothing better");
    assert_eq!(world.switches(), before);
}

#[test]
fn a_path_that_is_slow_for_all_is_left_alone() {
    let mut world = World::new(all(), None, near());
    world.run(secs(30));
    let mut slow = near();
    slow.round_trip_ms = 1800;
    let (before, tries) = (world.switches(), world.tries);
    world.change(slow);
    world.run(secs(10 * 60));
    assert_eq!(world.switches(), before);
    assert!(world.tries - tries <= 11, "{}", world.tries - tries);
}

#[test]
fn what_is_cut_early_again_and_again_gives_way() {
    for after in [3, 7, 9] {
        let mut cuts = near();
        cuts.cut_streams_after = Some(after);
        let mut world = World::new(all(), None, cuts);
        world.run(secs(3 * 60 * 60));
        let poll = cuts.best(&all());
        assert_eq!(world.carrying(), poll, "cut after {after} s");
        // In three hours each of the others comes back no oftener than its backoff allows.
        assert!(world.switches() <= 20 * all().len(), "{}", world.switches());
    }
}

#[test]
fn a_path_that_was_cut_again_and_again_is_as_good_as_before() {
    // Seconds between the cuts: a test of twenty, a train, a bad afternoon.
    for between in [&[1][..], &[2], &[3], &[9], &[2, 7, 4], &[11, 1, 6, 23]] {
        let mut world = World::new(all(), None, near());
        // As with any agent: what it tries keeps no time with what happens to it.
        world.ladder.settings.spread = 0.43;
        world.run(secs(30));
        for (_, seconds) in (0..20).zip(between.iter().cycle()) {
            world.cut_all();
            world.run(secs(*seconds));
        }
        // Half a minute at the most, a probation of 12 s, and another that was under way.
        world.run(secs(75));
        let carrying = world.carrying().map(|rung| all()[rung].name);
        assert_eq!(carrying, Some("quic"), "cut every {between:?} s");
        assert!(world.longest_stall <= secs(2), "{:?}", world.longest_stall);
    }
}

#[test]
fn what_dies_together_with_the_leg_in_use_dies_of_the_path() {
    let mut world = World::new(all(), Some(index("upgrade")), near());
    // The first choice is on probation when all is cut.
    world.run(secs(4));
    assert_eq!(world.carrying(), Some(index("upgrade")));
    assert_eq!(world.ladder.story(world.now)[0].state, RungState::Trying);
    world.cut_all();
    world.run(secs(8));
    assert_eq!(world.carrying(), Some(0), "tried again at once");
}

#[test]
fn a_final_answer_ends_a_round_at_once() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    let now = Time::ZERO;
    ladder.handle(now, Event::Wanted(Wanted::Start));
    let Some(Action::Try { attempt, .. }) = ladder.poll_action() else {
        panic!("nothing is tried");
    };
    for fault in [Fault::Final, Fault::Host, Fault::Busy] {
        let mut ladder = Ladder::new(all(), None, LadderSettings::default());
        ladder.handle(now, Event::Wanted(Wanted::Start));
        ladder.poll_action().unwrap();
        let reason = "no".to_owned();
        ladder.handle(
            now,
            Event::Failed {
                attempt,
                fault,
                reason,
            },
        );
        match ladder.poll_action() {
            Some(Action::RoundOver { fault: why, tried }) => {
                assert_eq!((why, tried.len()), (fault, 1));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(ladder.poll_timeout(), None);
    }
}

#[test]
fn a_host_that_one_carrier_reached_is_not_given_up_for_another() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    ladder.handle(Time::ZERO, Event::Wanted(Wanted::Start));
    ladder.poll_action().unwrap();
    let (first, second) = (AttemptId(1), AttemptId(2));
    ladder.handle(Time::ZERO, Event::Reached { attempt: first });
    let now = Time::ZERO + STAGGER;
    ladder.handle_timeout(now);
    ladder.poll_action().unwrap();
    ladder.handle(
        now,
        Event::Failed {
            attempt: second,
            fault: Fault::Host,
            reason: "no UDP".into(),
        },
    );
    assert!(matches!(ladder.poll_action(), Some(Action::Try { .. })));
}

/// The rungs that are begun, and the attempts that are given up, at this moment.
fn done(ladder: &mut Ladder, now: Time) -> (Vec<usize>, Vec<AttemptId>) {
    ladder.handle_timeout(now);
    let (mut begun, mut dropped) = (Vec::new(), Vec::new());
    while let Some(action) = ladder.poll_action() {
        match action {
            Action::Try { rung, .. } => begun.push(rung),
            Action::Drop { attempt } => dropped.push(attempt),
            Action::RoundOver { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    (begun, dropped)
}

/// A relay that many agents come back to at once says which attempt it has; a further one would only be
/// one more.
#[test]
fn what_the_relay_has_is_waited_for_instead_of_trying_others() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    let at = |ms: u64| Time::ZERO + Duration::from_millis(ms);
    ladder.handle(at(0), Event::Wanted(Wanted::Start));
    let (first, second) = (AttemptId(1), AttemptId(2));
    assert_eq!(done(&mut ladder, at(0)).0.len(), 1);
    let (begun, _) = done(&mut ladder, at(250));
    assert_eq!(begun.len(), 1);
    ladder.handle(at(300), Event::Heard { attempt: first });
    assert_eq!(done(&mut ladder, at(300)), (vec![], vec![second]));
    // For as long as the relay says so again, and no longer.
    for ms in [2300, 4300] {
        assert_eq!(done(&mut ladder, at(ms)), (vec![], vec![]));
        ladder.handle(at(ms), Event::Heard { attempt: first });
    }
    assert_eq!(done(&mut ladder, at(9299)), (vec![], vec![]));
    assert_eq!(ladder.poll_timeout(), Some(at(9300)));
    assert_eq!(done(&mut ladder, at(9300)), (begun, vec![]));
    // Its own time began anew with the relay's last word.
    assert!(!done(&mut ladder, at(14_299)).1.contains(&first));
    assert!(done(&mut ladder, at(14_300)).1.contains(&first));
}

#[test]
fn the_word_of_a_relay_that_never_comes_to_an_end_has_one() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    ladder.handle(Time::ZERO, Event::Wanted(Wanted::Start));
    let attempt = AttemptId(1);
    for second in 0..60 {
        let now = Time::ZERO + secs(second);
        assert_eq!(done(&mut ladder, now).1, vec![]);
        ladder.handle(now, Event::Heard { attempt });
    }
    assert_eq!(done(&mut ladder, Time::ZERO + secs(60)).1, vec![attempt]);
}

#[test]
fn a_relay_that_does_not_answer_is_asked_less_and_less_often() {
    let mut dead = near();
    dead.dead = true;
    let mut world = World::new(all(), None, dead);
    for (until, tries) in [(700, 3), (1200, 4), (2200, 5), (4200, 6), (8200, 7)] {
        world.run(Duration::from_millis(until).saturating_sub(world.now.since(Time::ZERO)));
        assert_eq!(world.tries, tries, "{until} ms");
    }
}

/// The attempt that is begun and the time of the next one, in a round that begins now.
fn begin_round(ladder: &mut Ladder, now: Time) -> (AttemptId, Option<Time>) {
    ladder.handle(now, Event::Wanted(Wanted::Start));
    let Some(Action::Try { attempt, .. }) = ladder.poll_action() else {
        panic!("nothing is tried");
    };
    assert_eq!(ladder.poll_action(), None);
    (attempt, ladder.poll_timeout())
}

fn fail(ladder: &mut Ladder, now: Time, attempt: AttemptId, fault: Fault) {
    let reason = "no".to_owned();
    let failed = Event::Failed {
        attempt,
        fault,
        reason,
    };
    ladder.handle(now, failed);
}

/// Whoever comes back to a relay that was away is one of many.
#[test]
fn a_relay_that_was_away_or_busy_is_asked_slowly() {
    for fault in [Fault::Host, Fault::Busy, Fault::Final] {
        let mut ladder = Ladder::new(all(), None, LadderSettings::default());
        let at = |ms: u64| Time::ZERO + Duration::from_millis(ms);
        let (attempt, next) = begin_round(&mut ladder, at(0));
        assert_eq!(next, Some(at(250)));
        fail(&mut ladder, at(0), attempt, fault);
        done(&mut ladder, at(0));
        let (attempt, next) = begin_round(&mut ladder, at(1000));
        assert_eq!(next, Some(at(3000)), "{fault:?}");
        assert_eq!(done(&mut ladder, at(3000)).0.len(), 1);
        assert_eq!(ladder.poll_timeout(), Some(at(3500)));
        // One has reached the relay, and no other would be quicker; unless it fails after all.
        ladder.handle(at(3200), Event::Reached { attempt });
        assert_eq!(ladder.poll_timeout(), Some(at(4200)));
        fail(&mut ladder, at(3300), attempt, Fault::Path);
        assert_eq!(done(&mut ladder, at(3300)).0.len(), 1);
    }
}

#[test]
fn the_others_have_passed_after_a_while_and_on_another_network_there_are_none() {
    let at = |seconds: u64| Time::ZERO + secs(seconds);
    for (network_changed, later, apart) in [(false, 14, 2000), (false, 15, 250), (true, 1, 250)] {
        let mut ladder = Ladder::new(all(), None, LadderSettings::default());
        let (attempt, _) = begin_round(&mut ladder, at(0));
        fail(&mut ladder, at(0), attempt, Fault::Host);
        done(&mut ladder, at(0));
        if network_changed {
            ladder.handle(at(0), unknown_network());
        }
        let (_, next) = begin_round(&mut ladder, at(later));
        let apart = Duration::from_millis(apart);
        assert_eq!(next, Some(at(later) + apart));
    }
}

/// Nothing was wrong with it, and whoever cut it may have cut a thousand others.
#[test]
fn what_was_cut_has_time_to_come_back() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    let at = |ms: u64| Time::ZERO + Duration::from_millis(ms);
    let (attempt, _) = begin_round(&mut ladder, at(0));
    ladder.handle(at(100), Event::Carries { attempt });
    ladder.handle(at(500), Event::Wanted(Wanted::Lost));
    let mut begun = Vec::new();
    for ms in (500..4000).step_by(100) {
        let (rungs, _) = done(&mut ladder, at(ms));
        begun.extend(rungs.iter().map(|_| ms));
    }
    assert_eq!(begun, [500, 2000, 2500, 3500]);
}

/// What is late after a restart is late because of all the others.
#[test]
fn nothing_is_made_ready_beside_the_leg_of_a_relay_that_was_just_busy() {
    let mut ladder = Ladder::new(all(), None, LadderSettings::default());
    let at = |seconds: u64| Time::ZERO + secs(seconds);
    let (attempt, _) = begin_round(&mut ladder, at(0));
    ladder.handle(at(0), Event::Heard { attempt });
    ladder.handle(at(1), Event::Carries { attempt });
    for (second, ready) in [(2, 0), (14, 0), (15, 1)] {
        ladder.handle(at(second), Event::Late);
        let actions: Vec<Action> = std::iter::from_fn(|| ladder.poll_action()).collect();
        let standby = |action: &&Action| {
            matches!(
                action,
                Action::Try {
                    purpose: Purpose::Standby,
                    ..
                }
            )
        };
        assert_eq!(actions.iter().filter(standby).count(), ready, "{second} s");
    }
}

#[test]
fn what_was_refused_is_told_with_the_time_of_the_next_try() {
    let mut refuses = near();
    refuses.refuse_upgrades = true;
    let mut world = World::new(all(), None, refuses);
    world.run(secs(20));
    let story = world.ladder.story(world.now);
    let upgrade = &story[index("upgrade")];
    let RungState::Failed { reason, retry_in } = &upgrade.state else {
        panic!("{story:?}");
    };
    assert_eq!(reason, "refused");
    assert!(*retry_in <= FIRST_BACKOFF, "{retry_in:?}");
    let in_use = |it: &&RungStory| it.state == RungState::InUse;
    assert_eq!(story.iter().filter(in_use).count(), 1);
}

#[test]
fn what_a_measurement_has_shown_is_not_tried() {
    let mut world = World::new(all(), Some(index("poll")), STRICTEST);
    world.run(Duration::from_millis(500));
    for rung in 0..index("poll") {
        let reason = "held".to_owned();
        let event = Event::Hopeless { rung, reason };
        world.ladder.handle(world.now, event);
    }
    let tries = world.tries;
    world.run(secs(50));
    assert_eq!(world.tries, tries);
    world.run(secs(50));
    assert!(world.tries > tries, "a measurement is not for ever");
}

#[test]
fn another_network_is_met_without_prejudice() {
    let mut world = World::new(all(), None, STRICTEST);
    world.run(secs(60));
    world.change(near());
    world.ladder.handle(world.now, unknown_network());
    let story = world.ladder.story(world.now);
    assert!(
        !story
            .iter()
            .any(|it| matches!(it.state, RungState::Failed { .. }))
    );
    world.run(secs(20));
    assert_eq!(world.carrying(), Some(0));
}

#[test]
fn what_failed_before_a_restart_is_left_alone_after_it() {
    let mut world = World::new(all(), None, STRICTEST);
    world.run(secs(40));
    let best = world.carrying();
    let held = world.ladder.held(world.now);
    let upgrade = held.iter().find(|it| it.rung == index("upgrade")).unwrap();
    assert_eq!(upgrade.failures, 1);
    assert!(upgrade.retry_in <= FIRST_BACKOFF && upgrade.retry_in >= FIRST_BACKOFF / 4);
    let retry_in = secs(40);
    let held: Vec<Held> = (0..best.unwrap())
        .map(|rung| Held {
            rung,
            retry_in,
            ..*upgrade
        })
        .collect();
    let mut again = World::remembering(all(), best, held.clone(), STRICTEST);
    assert_eq!(again.ladder.held(again.now), held);
    again.run(secs(39));
    assert_eq!(
        (again.carrying(), again.tries),
        (best, 1),
        "nothing else was tried"
    );
    again.run(secs(60));
    assert!(again.tries > 1, "but it is not for ever");
    // Where only what has failed is left, it is tried all the same.
    let held = (0..all().len()).map(|rung| Held { rung, ..held[0] });
    let mut again = World::remembering(all(), None, held.collect(), near());
    again.run(secs(1));
    assert!(again.carrying().is_some());
}

#[test]
fn what_is_cut_when_idle_is_kept_alive_and_not_given_up() {
    let mut ladder = Ladder::new(all(), Some(1), LadderSettings::default());
    let mut now = Time::ZERO;
    ladder.handle(now, Event::Wanted(Wanted::Start));
    let mut told = Vec::new();
    for _ in 0..4 {
        let actions: Vec<_> = std::iter::from_fn(|| ladder.poll_action()).collect();
        for action in actions {
            match action {
                Action::Try {
                    attempt, rung: 1, ..
                } => {
                    ladder.handle(now, Event::Carries { attempt });
                }
                Action::KeepAlive { every } => told.push(every),
                _ => {}
            }
        }
        assert_eq!(ladder.in_use().map(|rung| rung.name), Some(all()[1].name));
        now = now + secs(6);
        ladder.handle(now, Event::CutAfter { silence: secs(6) });
        ladder.handle(now, Event::Wanted(Wanted::Lost));
    }
    assert_eq!(told, [Some(secs(3))]);
    assert_eq!(ladder.keepalive(), Some(secs(3)));
    assert_eq!(ladder.held(now), []);
    ladder.handle(now, unknown_network());
    assert_eq!(ladder.keepalive(), None, "another network, another limit");
}

fn boxes() -> impl Strategy<Value = Boxes> {
    (
        any::<[bool; 6]>(),
        1u64..300,
        prop::option::weighted(0.2, 3u64..9),
    )
        .prop_map(|(bits, round_trip_ms, cut_streams_after)| Boxes {
            refuse_upgrades: bits[0],
            swallow_upgrades: bits[1],
            hold_responses: bits[2],
            hold_requests: bits[3],
            drop_udp: bits[4],
            refuse_http2: bits[5],
            cut_streams_after,
            round_trip_ms,
            drag_streams_ms: 0,
            dead: false,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the boxes do, and whatever they do next: it connects in time, ends on the best rung
    /// that works and lasts, and does not flap.
    #[test]
    fn it_ends_on_the_best_rung_that_works(
        first in boxes(),
        then in prop::collection::vec(boxes(), 0..4),
        best in prop::option::of(0usize..KINDS.len()),
    ) {
        let mut world = World::new(all(), best, first);
        world.run(secs(5));
        prop_assert!(!world.history.is_empty(), "not connected within 5 s");
        prop_assert!(world.longest_stall <= secs(5));
        let mut phases = 1;
        for boxes in then {
            world.run(secs(40));
            world.longest_stall = Duration::ZERO;
            world.change(boxes);
            world.run(secs(8));
            prop_assert!(world.longest_stall <= secs(5), "{:?} {boxes:?}", world.longest_stall);
            phases += 1;
        }
        // An hour is the longest backoff, and one rung is tried after the other.
        world.run(secs(3 * 3600));
        let before = world.switches();
        let expected = world.boxes.best(&all());
        // One that does not last may just be having its hourly try.
        for _ in 0..60 {
            if world.carrying() == expected {
                break;
            }
            world.run(secs(1));
        }
        prop_assert_eq!(world.carrying(), expected);
        // Each rung that does not last comes and goes once for each of its backoffs, which double.
        prop_assert!(before <= phases * 20 * KINDS.len(), "{} switches", before);
        // Each once in a round, beside what was made ready before it.
        prop_assert!(world.most_at_once <= KINDS.len() + standby::MOST);
        let fate = world.boxes.fate(&all()[expected.unwrap()]);
        prop_assert_eq!(fate, Fate::Works);
    }
}
