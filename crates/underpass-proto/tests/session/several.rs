//! Several legs at once: what must not wait goes on the quickest, much is spread over all, and the
//! loss of any costs nothing but time.

use std::time::Duration;

use underpass_proto::Time;
use underpass_proto::frame::Class;
use underpass_proto::session::{Config, LegId};

use crate::apps::{ChannelPlan, ReadPlan, World};
use crate::pair::{A, B, Cut, Faults, Link, Pair, Reconnect, Setup, config};
use crate::traffic::{exchanges, fill, open};

const CUTS: [Cut; 7] = [
    Cut::Reset,
    Cut::Half(A),
    Cut::Half(B),
    Cut::Silent,
    Cut::SilentFrom(A),
    Cut::SilentFrom(B),
    Cut::Gentle,
];

/// Bytes per second of one leg where the link is the limit.
const RATE: u64 = 2_500_000;

fn up_to(legs: u64) -> Config {
    let mut config = config();
    config.params.max_legs = legs;
    config
}

/// A pair with a leg on each of these links, and the legs. None is made anew.
fn on(links: &[Link]) -> (Pair, Vec<LegId>) {
    let legs = links.len() as u64;
    joined([up_to(legs), up_to(legs)], links)
}

fn joined(config: [Config; 2], links: &[Link]) -> (Pair, Vec<LegId>) {
    let mut pair = Pair::new(Setup {
        link: links[0],
        config,
        reconnect: None,
        ..Setup::default()
    });
    pair.run(Duration::from_secs(1));
    for link in &links[1..] {
        pair.link = *link;
        pair.join(None).expect("another leg is welcome");
        pair.run(Duration::from_secs(3));
    }
    let legs = pair.open_legs();
    assert_eq!(legs.len(), links.len());
    for leg in &legs {
        assert!(pair.sessions.iter().all(|s| s.is_active(*leg)), "{leg}");
    }
    (pair, legs)
}

fn link(millis: u64) -> Link {
    Link::new(RATE, Duration::from_millis(millis))
}

/// Bytes per second that bulk channels get one way over these links.
fn rate(links: &[Link], class: Class, channels: usize) -> u64 {
    let (pair, _) = on(links);
    let mut world = World::new(pair);
    for _ in 0..channels {
        world.add(ChannelPlan {
            class,
            ..ChannelPlan::exchange(A, 1 << 40, 0)
        });
    }
    world.run(Duration::from_secs(5));
    let before = world.delivered;
    world.run(Duration::from_secs(10));
    (world.delivered - before) / 10
}

#[test]
fn two_equal_legs_carry_nearly_twice_as_much_and_three_three_times() {
    for class in [Class::Normal, Class::Bulk] {
        for (legs, channels) in [(2, 1), (2, 10), (3, 1), (3, 10)] {
            let links = vec![link(10); legs];
            let got = rate(&links, class, channels);
            let all = RATE * legs as u64;
            println!("{legs} legs, {channels} {class:?} channels: {got} of {all}");
            assert!(got > all * 85 / 100, "{got} bytes per second of {all}");
        }
    }
}

#[test]
fn legs_of_unequal_delay_and_rate_carry_their_sum() {
    for links in [
        vec![link(5), link(100)],
        vec![link(100), link(5)],
        vec![link(1), Link::new(RATE / 5, Duration::from_millis(60))],
        vec![
            link(1),
            link(30),
            Link::new(RATE * 4, Duration::from_millis(200)),
        ],
        vec![
            Link {
                backlog: 64 << 10,
                ..link(20)
            };
            2
        ],
    ] {
        let got = rate(&links, Class::Bulk, 3);
        let all: u64 = links.iter().map(|link| link.rate).sum();
        println!("{got} of {all} on {links:?}");
        assert!(got > all * 75 / 100, "{got} bytes per second of {all}");
    }
}

/// A slow leg's records are gaps while they are under way: bounded, however small and many they are.
#[test]
fn what_slow_legs_delay_leaves_few_gaps() {
    let slow = Link::new(100_000, Duration::from_millis(800));
    let (pair, legs) = on(&[link(1), slow, slow]);
    let mut world = World::new(pair);
    world.add(ChannelPlan {
        class: Class::Bulk,
        ..ChannelPlan::exchange(A, 1 << 40, 0)
    });
    let mut worst = 0;
    for _ in 0..6000 {
        world.run(Duration::from_millis(5));
        worst = worst.max(world.pair.sessions[B].gaps());
    }
    println!("{worst} gaps at most");
    assert!((100..256).contains(&worst), "{worst} gaps");
    let slow: u64 = legs[1..].iter().map(|leg| world.pair.sent(A, *leg)).sum();
    assert!(slow > 1_000_000, "{slow} bytes on the slow legs");
}

#[test]
fn a_keystroke_takes_the_quick_leg_beside_bulk_on_both() {
    for links in [[link(5), link(80)], [link(80), link(5)]] {
        let (mut alone, _) = on(&[link(5)]);
        let key = open(&mut alone, Class::Interactive, "key");
        let times = exchanges(&mut alone, key, None, Duration::from_secs(5));
        let bound = times[times.len() / 2] * 3 + 30_000;
        let (mut pair, legs) = on(&links);
        let key = open(&mut pair, Class::Interactive, "key");
        let bulk = open(&mut pair, Class::Bulk, "bulk");
        fill(&mut pair, A, bulk);
        exchanges(&mut pair, key, Some(bulk), Duration::from_secs(3));
        let times = exchanges(&mut pair, key, Some(bulk), Duration::from_secs(20));
        let p99 = times[times.len() * 99 / 100];
        println!("median {} p99 {p99} bound {bound}", times[times.len() / 2]);
        assert!(p99 <= bound, "p99 {p99} us, bound {bound} us");
        for leg in legs {
            assert!(pair.sent(A, leg) > 10_000_000, "both carry bulk");
        }
    }
}

#[test]
fn a_leg_that_gets_slower_is_led_by_no_more_and_equals_do_not_flap() {
    let (mut pair, legs) = on(&[link(10), link(11)]);
    let key = open(&mut pair, Class::Interactive, "key");
    let bulk = open(&mut pair, Class::Bulk, "bulk");
    fill(&mut pair, A, bulk);
    let mut changes = 0;
    let mut lead = pair.sessions[A].lead();
    for _ in 0..200 {
        exchanges(&mut pair, key, Some(bulk), Duration::from_millis(100));
        let now = pair.sessions[A].lead();
        changes += usize::from(now != lead);
        lead = now;
    }
    println!("{changes} changes in 20 seconds");
    assert!(changes <= 4, "{changes} changes");
    pair.set_link(legs[0], link(100));
    exchanges(&mut pair, key, Some(bulk), Duration::from_secs(10));
    assert_eq!(pair.sessions[A].lead(), Some(legs[1]));
    assert_eq!(pair.sessions[B].lead(), Some(legs[1]));
}

#[test]
fn the_loss_of_any_leg_costs_nothing_but_time() {
    for how in CUTS {
        for (links, which) in [
            (vec![link(10); 2], 0),
            (vec![link(10); 2], 1),
            (vec![link(5), link(80)], 0),
            (vec![link(5), link(80)], 1),
            (vec![link(5), link(20), link(80)], 1),
        ] {
            let (pair, legs) = on(&links);
            let mut world = World::new(pair);
            world.add(ChannelPlan::exchange(A, 20_000_000, 10_000_000));
            world.add(ChannelPlan {
                class: Class::Bulk,
                ..ChannelPlan::exchange(B, 0, 10_000_000)
            });
            world.run(Duration::from_secs(2));
            world.pair.cut(legs[which], how);
            let before = world.delivered;
            world.run(Duration::from_millis(1500));
            let got = world.delivered - before;
            assert!(got > RATE / 4, "{got} bytes after {how:?} of leg {which}");
            let sessions = &world.pair.sessions;
            assert!(sessions.iter().all(|s| s.detached_since().is_none()));
            world.finish(Duration::from_secs(60));
            world.check_settled();
        }
    }
}

#[test]
fn a_leg_that_falls_silent_costs_less_than_two_seconds() {
    let (mut pair, legs) = on(&[link(5), link(20)]);
    let key = open(&mut pair, Class::Interactive, "key");
    exchanges(&mut pair, key, None, Duration::from_secs(2));
    assert_eq!(pair.sessions[A].lead(), Some(legs[0]));
    pair.cut(legs[0], Cut::Silent);
    let times = exchanges(&mut pair, key, None, Duration::from_secs(5));
    let worst = times[times.len() - 1];
    println!("{worst} us at worst");
    // Each side finds out for itself, after 700 ms without an answer.
    assert!(worst < 2_000_000, "{worst} us");
}

#[test]
fn lost_legs_are_made_again_beside_the_others() {
    for legs in [2, 3] {
        let setup = Setup {
            link: link(10),
            config: [up_to(3), up_to(3)],
            reconnect: Some(Reconnect {
                legs,
                ..Reconnect::default()
            }),
            ..Setup::default()
        };
        let mut world = World::new(Pair::new(setup));
        world.add(ChannelPlan::exchange(A, 1 << 40, 1 << 40));
        for round in 0..40 {
            world.run(Duration::from_millis(700));
            if round % 4 == 3 {
                let carrying = world
                    .pair
                    .sessions
                    .each_ref()
                    .map(|s| s.active_legs().count());
                assert!(carrying.iter().all(|n| *n >= 2), "{carrying:?} legs");
            }
            let open: Vec<LegId> = world.pair.sessions[A]
                .active_legs()
                .map(|l| l.leg)
                .collect();
            let hit = open[round % open.len()];
            world
                .pair
                .cut(hit, [Cut::Reset, Cut::Gentle, Cut::Half(A)][round % 3]);
        }
        assert!(world.pair.sessions[A].resumes() >= 40);
        world.run(Duration::from_secs(3));
        for session in &world.pair.sessions {
            assert_eq!(session.active_legs().count(), legs);
        }
        assert!(world.delivered > 28 * RATE, "{}", world.delivered);
    }
}

#[test]
fn a_peer_that_wants_one_leg_gets_one() {
    for config in [[up_to(3), up_to(1)], [up_to(1), up_to(3)]] {
        let mut pair = Pair::new(Setup {
            config,
            ..Setup::default()
        });
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.join(None), None);
        let before = pair.active[A];
        pair.connect();
        pair.run(Duration::from_secs(1));
        assert_ne!(pair.active[A], before);
        assert_eq!(pair.open_legs().len(), 1);
    }
    let (mut pair, legs) = on(&[link(5), link(5)]);
    assert_eq!(pair.join(None), None, "two are two");
    let third = pair.join(Some(legs[0])).expect("one for another");
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.open_legs(), [legs[1], third]);
}

#[test]
fn each_side_sends_where_it_likes() {
    let (mut pair, legs) = on(&[link(5), link(20)]);
    let now = pair.now;
    pair.sessions[A].set_spare(now, legs[1], true);
    pair.sessions[B].set_spare(now, legs[0], true);
    let before = [0, 1].map(|side| [0, 1].map(|leg| pair.sent(side, legs[leg])));
    let mut world = World::new(pair);
    world.add(ChannelPlan::exchange(A, 5_000_000, 5_000_000));
    world.finish(Duration::from_secs(10));
    let sent = |side: usize, leg: usize| world.pair.sent(side, legs[leg]) - before[side][leg];
    for (side, used, spare) in [(A, 0, 1), (B, 1, 0)] {
        println!("{side}: {} and {}", sent(side, used), sent(side, spare));
        assert!(sent(side, used) > 5_000_000);
        assert!(sent(side, spare) < 100_000, "only answers");
    }
    // Its only leg is better than none.
    world.pair.cut(legs[0], Cut::Reset);
    world.add(ChannelPlan::exchange(A, 1_000_000, 1_000_000));
    world.finish(Duration::from_secs(10));
    world.check_settled();
}

/// Sessions of which this side asks that the directions take different ways.
fn split(asks: usize, links: &[Link]) -> (Pair, Vec<LegId>) {
    let mut config = [up_to(3), up_to(3)];
    config[asks].params.split_ways = true;
    joined(config, links)
}

#[test]
fn directions_take_different_legs_where_one_end_asks() {
    for asks in [A, B] {
        for links in [[link(10); 2], [link(5), link(60)], [link(60), link(5)]] {
            let (pair, legs) = split(asks, &links);
            let before = [A, B].map(|side| [0, 1].map(|leg| pair.sent(side, legs[leg])));
            let mut world = World::new(pair);
            for opener in [A, B] {
                world.add(ChannelPlan {
                    class: Class::Bulk,
                    ..ChannelPlan::exchange(opener, 1 << 40, 1 << 40)
                });
            }
            world.add(ChannelPlan::exchange(A, 1 << 40, 1 << 40));
            world.run(Duration::from_secs(20));
            let sent =
                |side: usize, leg: usize| world.pair.sent(side, legs[leg]) - before[side][leg];
            for (side, own, other) in [(A, 0, 1), (B, 1, 0)] {
                let (own, other) = (sent(side, own), sent(side, other));
                println!("{side}: {own} and {other} bytes");
                // As much as on one leg alone, where there is as much to send both ways.
                assert!(own > 20 * RATE * 11 / 20, "{own} bytes");
                assert!(
                    other < own / 100,
                    "{other} of {own} bytes on the other one's leg"
                );
            }
        }
    }
}

#[test]
fn directions_that_take_different_legs_outlive_the_loss_of_any() {
    for how in CUTS {
        for (legs, which) in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)] {
            let (pair, ids) = split(which % 2, &vec![link(10); legs]);
            let mut world = World::new(pair);
            // So much that both sides still send when it is looked who sends where: that is how they learn.
            world.add(ChannelPlan::exchange(A, 40_000_000, 40_000_000));
            world.run(Duration::from_secs(1));
            world.pair.cut(ids[which], how);
            world.run(Duration::from_secs(3));
            let dead = ids[which];
            let there = world.pair.sessions[A].is_active(dead).then_some(dead);
            world.pair.join(there).expect("another one is welcome");
            world.run(Duration::from_secs(2));
            let mut carries = [A, B].map(|side| {
                let legs = world.pair.sessions[side].active_legs();
                let uses = legs.map(|it| (it.leg, it.sends, it.takes));
                uses.collect::<Vec<_>>()
            });
            println!("{how:?} of {which}: {carries:?}");
            assert_eq!(carries[A].len(), legs);
            assert!(carries[A].iter().all(|(_, sends, takes)| sends != takes));
            for (_, sends, takes) in &mut carries[A] {
                std::mem::swap(sends, takes);
            }
            assert_eq!(carries[A], carries[B], "each knows what the other one does");
            world.finish(Duration::from_secs(60));
            world.check_settled();
        }
    }
}

#[test]
fn losses_on_every_leg_are_repaired_in_place() {
    let links = [link(10), link(40)];
    let (mut pair, legs) = on(&links);
    for leg in &legs {
        pair.set_faults(
            *leg,
            Faults {
                drop: 30,
                noticed_drop: 30,
                ..Faults::default()
            },
        );
    }
    let mut world = World::new(pair);
    for _ in 0..10 {
        world.add(ChannelPlan::exchange(A, 1_000_000, 300_000));
    }
    world.finish(Duration::from_secs(60));
    world.check_settled();
    assert_eq!(world.pair.counts.legs, 2);
}

/// A slow leg beside a quick one makes the receiver wait for what is under way on it: within windows
/// that are bounded.
#[test]
fn memory_is_bounded_where_delays_differ() {
    let (pair, _) = on(&[
        Link::new(50_000_000, Duration::from_millis(1)),
        Link::new(5_000_000, Duration::from_millis(300)),
    ]);
    let mut world = World::new(pair);
    world.add(ChannelPlan {
        read: [ReadPlan::all(); 2],
        at: Time::ZERO,
        ..ChannelPlan::exchange(A, 1 << 40, 0)
    });
    world.run(Duration::from_secs(20));
    println!(
        "unread {} unacknowledged {} delivered {}",
        world.worst_unread, world.worst_unacknowledged, world.delivered
    );
    assert!(world.worst_unread <= 64 << 20);
    assert!(world.worst_unacknowledged <= 64 << 20);
    assert!(world.delivered > 20 * 30_000_000);
}
