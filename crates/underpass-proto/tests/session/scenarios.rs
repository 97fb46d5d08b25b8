//! What the protocol promises, one by one.

use std::time::Duration;

use bytes::Bytes;
use underpass_proto::frame::{ChannelKind, Class, Encoding, Hop};
use underpass_proto::session::{Event, OpenError, ReadOutcome, WriteError};
use underpass_proto::{Time, code};

use crate::apps::{ChannelPlan, Outcome, ReadPlan, SendPlan, World};
use crate::pair::{A, B, Cut, Faults, Link, Pair, Reconnect, Setup, config};

fn slow() -> Link {
    Link::new(1_000_000, Duration::from_millis(20))
}

fn world(link: Link) -> World {
    World::new(Pair::new(Setup {
        link,
        ..Setup::default()
    }))
}

fn active(world: &World) -> underpass_proto::session::LegId {
    world.pair.active[A].expect("an active leg")
}

#[test]
fn bytes_go_both_ways_and_end() {
    let mut world = World::new(Pair::new(Setup {
        handshake: true,
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 3_000_000, 2_000_000));
    world.finish(Duration::from_secs(5));
    world.check_settled();
    assert_eq!(world.established, 1);
    assert_eq!(world.pair.counts.legs, 1);
}

#[test]
fn a_half_close_survives_a_drop_in_between() {
    for how in [
        Cut::Reset,
        Cut::Silent,
        Cut::Half(A),
        Cut::Half(B),
        Cut::Gentle,
    ] {
        let mut world = world(slow());
        // The service answers only when it has read everything: here, after a while.
        let answer = ChannelPlan::exchange(A, 500, 0);
        world.add(answer);
        world.add(ChannelPlan {
            send: [
                SendPlan::bytes(100_000),
                SendPlan {
                    chunk: 100,
                    pause: Duration::from_millis(300),
                    ..SendPlan::bytes(1000)
                },
            ],
            ..answer
        });
        world.run(Duration::from_millis(25));
        let leg = active(&world);
        world.pair.cut(leg, how);
        world.finish(Duration::from_secs(30));
        world.check_settled();
        assert_eq!(world.channels[1].read[B].outcome, Some(Outcome::Finished));
        assert_eq!(world.channels[1].read[A].outcome, Some(Outcome::Finished));
        assert!(world.pair.counts.legs > 1, "{how:?}");
    }
}

#[test]
fn an_aborted_service_is_an_error_never_a_clean_end() {
    let mut world = world(slow());
    let mut plan = ChannelPlan::exchange(A, 100, 200_000);
    plan.send[B].reset = Some(code::ABORTED);
    world.add(plan);
    world.finish(Duration::from_secs(5));
    world.check_settled();
    let outcome = world.channels[0].read[A].outcome;
    assert_eq!(outcome, Some(Outcome::Reset(code::ABORTED)));
}

#[test]
fn a_session_that_ends_is_an_error_to_its_readers() {
    let mut world = world(slow());
    world.add(ChannelPlan::exchange(A, 1 << 30, 1 << 30));
    world.run(Duration::from_secs(1));
    let now = world.pair.now;
    world.pair.sessions[B].close(now, code::GOING_AWAY, "maintenance");
    world.pair.settle(B);
    world.pair.run(Duration::from_secs(1));
    let id = world.channels[0].id.unwrap();
    for side in [A, B] {
        let closed = world.pair.closed[side].clone().unwrap();
        assert_eq!(
            (closed.code, &*closed.reason),
            (code::GOING_AWAY, "maintenance")
        );
        let session = &mut world.pair.sessions[side];
        assert_eq!(session.read(id, 10), ReadOutcome::Closed);
        assert_eq!(
            session.write(id, &mut Bytes::from_static(b"x")),
            Err(WriteError::Closed)
        );
        let open = session.open(now, ChannelKind::Stream, Class::Normal, Encoding::Raw, "x");
        assert_eq!(open, Err(OpenError::Closed));
        assert!(session.is_closed());
    }
}

#[test]
fn what_was_ended_before_the_session_can_still_be_read() {
    let mut pair = world(slow()).pair;
    let now = pair.now;
    let mut begin = |bytes: usize| {
        let session = &mut pair.sessions[A];
        let class = Class::Normal;
        let id = session.open(now, ChannelKind::Stream, class, Encoding::Raw, "x");
        let id = id.unwrap();
        session.write(id, &mut Bytes::from(vec![7; bytes])).unwrap();
        id
    };
    let [ended, unwanted, open] = [10_000, 20, 30].map(&mut begin);
    pair.sessions[A].finish(ended);
    pair.sessions[A].finish(unwanted);
    assert!(!pair.sessions[A].is_delivered());
    pair.settle(A);
    pair.run(Duration::from_secs(1));
    assert!(pair.sessions[A].is_delivered());
    let now = pair.now;
    pair.sessions[A].close(now, code::GOING_AWAY, "done");
    pair.settle(A);
    pair.run(Duration::from_secs(1));
    let reader = &mut pair.sessions[B];
    assert!(reader.is_closed());
    let mut read = 0;
    while let ReadOutcome::Data(data) = reader.read(ended, 3000) {
        read += data.len();
    }
    assert_eq!(read, 10_000);
    // The end was told once, by the read that was not data; and of what had no end there is nothing.
    reader.stop(unwanted, 0);
    for id in [ended, unwanted, open] {
        assert_eq!(reader.read(id, 10), ReadOutcome::Closed);
    }
}

#[test]
fn close_reaches_the_peer_though_the_leg_dies_with_it() {
    for how in [
        Cut::Reset,
        Cut::Silent,
        Cut::SilentFrom(A),
        Cut::SilentFrom(B),
    ] {
        for side in [A, B] {
            let mut world = world(slow());
            world.add(ChannelPlan::exchange(A, 1 << 30, 1 << 30));
            world.run(Duration::from_secs(1));
            let leg = active(&world);
            world.pair.cut(leg, how);
            let now = world.pair.now;
            world.pair.sessions[side].close(now, 99, "enough");
            world.pair.settle(side);
            world.pair.run(Duration::from_secs(5));
            let told = world.pair.closed[1 - side].clone();
            assert_eq!(told.map(|c| c.code), Some(99), "{how:?} closed by {side}");
        }
    }
}

/// A leg is cut after each of its first packets in every way, so that each step of a resume is hit.
#[test]
fn a_resume_may_break_at_every_point() {
    let hows = [
        Cut::Reset,
        Cut::Silent,
        Cut::Half(A),
        Cut::Half(B),
        Cut::SilentFrom(A),
        Cut::SilentFrom(B),
        Cut::Gentle,
    ];
    for how in hows {
        for after in 0..12 {
            for twins in [0, 1000] {
                resume_breaks(how, after, twins);
            }
        }
    }
}

fn resume_breaks(how: Cut, after: u64, twins: u64) {
    let mut world = World::new(Pair::new(Setup {
        link: slow(),
        reconnect: Some(Reconnect {
            twins,
            ..Reconnect::default()
        }),
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 300_000, 300_000));
    world.run(Duration::from_millis(100));
    for _ in 0..4 {
        world.pair.faults.cut_after = Some((after, how));
        for leg in world.pair.open_legs() {
            world.pair.cut(leg, Cut::Reset);
        }
        world.run(Duration::from_millis(700));
    }
    world.pair.heal(slow());
    world.finish(Duration::from_secs(100));
    world.check_settled();
}

#[test]
fn a_new_leg_takes_over_while_the_old_one_still_carries() {
    let mut world = world(slow());
    world.add(ChannelPlan::exchange(A, 2_000_000, 2_000_000));
    for _ in 0..10 {
        world.run(Duration::from_millis(150));
        let before = active(&world);
        world.pair.connect();
        world.run(Duration::from_millis(150));
        assert_ne!(active(&world), before);
    }
    world.finish(Duration::from_secs(20));
    world.check_settled();
    assert_eq!(world.pair.sessions[A].resumes(), 10);
    assert_eq!(world.pair.sessions[A].generation(), 10);
    assert_eq!(world.pair.sessions[B].generation(), 10);
}

#[test]
fn a_corrupt_leg_is_given_up_and_nothing_else() {
    let mut world = World::new(Pair::new(Setup {
        link: slow(),
        faults: Faults {
            corrupt: 20,
            ..Faults::default()
        },
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 1_000_000, 1_000_000));
    world.run(Duration::from_secs(5));
    world.pair.heal(slow());
    world.finish(Duration::from_secs(20));
    world.check_settled();
    assert!(world.pair.counts.corrupt > 3);
}

#[test]
fn losses_are_repaired_on_the_same_leg() {
    for (drop, noticed_drop) in [(50, 0), (0, 50), (200, 200)] {
        let mut world = World::new(Pair::new(Setup {
            link: slow(),
            faults: Faults {
                drop,
                noticed_drop,
                ..Faults::default()
            },
            ..Setup::default()
        }));
        for _ in 0..10 {
            world.add(ChannelPlan::exchange(A, 30_000, 30_000));
        }
        world.finish(Duration::from_secs(30));
        world.check_settled();
        assert_eq!(world.pair.counts.legs, 1, "{drop} {noticed_drop}");
    }
}

#[test]
fn a_loss_is_repaired_within_a_round_trip() {
    // What is lost is followed by more, so nobody needs to ask.
    let mut world = world(Link::new(10_000_000, Duration::from_millis(50)));
    world.add(ChannelPlan {
        send: [
            SendPlan {
                chunk: 1000,
                pause: Duration::from_millis(10),
                ..SendPlan::bytes(1 << 20)
            },
            SendPlan::bytes(0),
        ],
        ..ChannelPlan::exchange(A, 0, 0)
    });
    world.run(Duration::from_secs(1));
    world.pair.drop_next(A, 3);
    let before = world.channels[0].read[B].got;
    // Three pauses, three half round trips: told, sent again, arrived.
    world.run(Duration::from_millis(30 + 150 + 20));
    let got = world.channels[0].read[B].got - before;
    assert!(got >= 13_000, "{got}");
}

#[test]
fn the_last_record_may_be_lost_without_a_new_leg() {
    let mut world = world(slow());
    world.run(Duration::from_millis(500));
    world.pair.faults.drop = 1000;
    let lossy = world.pair.connect().unwrap();
    world.pair.faults.drop = 0;
    // That leg never comes to life; the one that is there carries on alone.
    world.add(ChannelPlan::exchange(A, 10, 0));
    world.pair.drop_next(A, 1);
    world.finish(Duration::from_secs(1));
    assert_ne!(active(&world), lossy);
    assert_eq!(world.pair.sessions[A].resumes(), 0);
}

#[test]
fn keys_are_renewed_under_way() {
    let renewing = || underpass_proto::session::Config {
        records_per_epoch: 7,
        ..config()
    };
    let mut world = World::new(Pair::new(Setup {
        link: slow(),
        config: [renewing(), renewing()],
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 1_000_000, 1_000_000));
    world.run(Duration::from_millis(600));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Reset);
    world.finish(Duration::from_secs(20));
    world.check_settled();
    assert!(world.pair.sessions[A].send_epoch() > 5);
    assert!(world.pair.sessions[B].send_epoch() > 5);
}

#[test]
fn a_session_of_datagrams_alone_renews_its_keys() {
    let renewing = || underpass_proto::session::Config {
        records_per_epoch: 20,
        ..config()
    };
    let mut world = World::new(Pair::new(Setup {
        config: [renewing(), renewing()],
        ..Setup::default()
    }));
    let datagrams = SendPlan {
        chunk: 100,
        pause: Duration::from_millis(10),
        ..SendPlan::bytes(100_000)
    };
    world.add(ChannelPlan {
        kind: ChannelKind::Datagram,
        send: [datagrams, SendPlan::bytes(0)],
        ..ChannelPlan::exchange(A, 0, 0)
    });
    world.finish(Duration::from_secs(20));
    assert_eq!(world.channels[0].read[B].seen.len(), 1000);
    assert!(world.pair.sessions[A].send_epoch() > 10);
}

#[test]
fn a_detached_session_expires() {
    let mut keeping = config();
    keeping.params.keep_s = 30;
    let mut world = World::new(Pair::new(Setup {
        link: slow(),
        config: [config(), keeping],
        reconnect: None,
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 1 << 30, 0));
    world.run(Duration::from_secs(1));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Reset);
    world.run(Duration::from_secs(29));
    assert!(world.pair.closed.iter().all(Option::is_none));
    assert!(world.pair.sessions[A].unacknowledged() > 0);
    assert!(world.pair.sessions[A].detached_since().is_some());
    world.run(Duration::from_secs(2));
    for side in [A, B] {
        let closed = world.pair.closed[side].clone().unwrap();
        assert_eq!(closed.code, code::SESSION_EXPIRED);
        assert_eq!(world.pair.sessions[side].poll_timeout(), None);
        assert_eq!(world.pair.sessions[side].unacknowledged(), 0);
    }
}

#[test]
fn a_silent_leg_is_replaced_within_seconds_and_an_outage_of_minutes_is_survived() {
    let mut world = world(slow());
    world.add(ChannelPlan {
        send: [SendPlan {
            chunk: 10,
            pause: Duration::from_millis(100),
            ..SendPlan::bytes(30_000)
        }; 2],
        ..ChannelPlan::exchange(A, 0, 0)
    });
    world.run(Duration::from_secs(2));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Silent);
    let from = world.delivered;
    world.run(Duration::from_millis(3500));
    assert_ne!(active(&world), leg);
    assert!(world.delivered > from);
    // Two minutes in which nothing gets through.
    world.pair.faults.cut_after = Some((0, Cut::Silent));
    for leg in world.pair.open_legs() {
        world.pair.cut(leg, Cut::Silent);
    }
    world.run(Duration::from_secs(120));
    world.pair.faults.cut_after = None;
    world.finish(Duration::from_secs(400));
    world.check_settled();
}

#[test]
fn large_records_get_through_a_path_that_became_slow() {
    let mut world = world(Link::new(20_000_000, Duration::from_millis(5)));
    world.add(ChannelPlan::exchange(A, 1 << 40, 0));
    world.run(Duration::from_secs(1));
    // The records under way were cut for a path a thousand times as fast.
    world.pair.link = Link::new(16_000, Duration::from_millis(200));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Reset);
    world.run(Duration::from_secs(120));
    let before = world.delivered;
    world.run(Duration::from_secs(60));
    let got = world.delivered - before;
    assert!(got > 60 * 16_000 * 7 / 10, "{got} bytes in a minute");
}

#[test]
fn redial_splits_the_stream_at_its_offset() {
    for cut in [false, true] {
        let mut world = world(slow());
        let mut plan = ChannelPlan::exchange(A, 300_000, 1000);
        plan.send[A].redial = Some(100_000);
        plan.send[A].chunk = 10_000;
        world.add(plan);
        if cut {
            world.run(Duration::from_millis(130));
            let leg = active(&world);
            world.pair.cut(leg, Cut::Reset);
        }
        world.finish(Duration::from_secs(10));
        world.check_settled();
        assert_eq!(world.channels[0].read[B].redials, [100_000]);
    }
}

#[test]
fn late_datagrams_are_dropped_and_none_is_repeated() {
    // 20 datagrams of 10,000 bytes at once on a link that carries 100,000 bytes per second: those
    // that would leave after 200 ms do not.
    let mut world = world(Link {
        backlog: 10_000,
        ..Link::new(100_000, Duration::from_millis(10))
    });
    let burst = SendPlan {
        chunk: 10_000,
        ..SendPlan::bytes(200_000)
    };
    world.add(ChannelPlan {
        kind: ChannelKind::Datagram,
        send: [burst, SendPlan::bytes(0)],
        ..ChannelPlan::exchange(A, 0, 0)
    });
    world.run(Duration::from_millis(150));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Reset);
    world.finish(Duration::from_secs(10));
    let seen = world.channels[0].read[B].seen.len();
    assert!((1..=10).contains(&seen), "{seen} datagrams arrived");
    world.check_settled();
}

#[test]
fn the_largest_datagrams_fit_beside_everything_else() {
    let mut world = world(slow());
    let large = SendPlan {
        chunk: 65_499,
        pause: Duration::from_millis(80),
        ..SendPlan::bytes(65_499 * 20)
    };
    let small = SendPlan {
        chunk: 10,
        pause: Duration::from_millis(3),
        ..SendPlan::bytes(5000)
    };
    for send in [large, small] {
        world.add(ChannelPlan {
            kind: ChannelKind::Datagram,
            send: [send, SendPlan::bytes(0)],
            ..ChannelPlan::exchange(A, 0, 0)
        });
    }
    world.add(ChannelPlan::exchange(A, 0, 100_000));
    world.finish(Duration::from_secs(10));
    assert_eq!(world.channels[0].read[B].seen.len(), 20);
    assert_eq!(world.channels[1].read[B].seen.len(), 500);
}

#[test]
fn an_end_without_bytes_does_not_wait_for_credit() {
    let mut narrow = config();
    narrow.params.max_data = 10_000;
    narrow.max_session_window = 10_000;
    let mut world = World::new(Pair::new(Setup {
        config: [config(), narrow],
        ..Setup::default()
    }));
    let mut stuck = ChannelPlan::exchange(A, 1 << 20, 0);
    stuck.read[B].from = Time::from_micros(5_000_000);
    world.add(stuck);
    world.run(Duration::from_millis(100));
    let ends = world.add(ChannelPlan::exchange(A, 0, 0));
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.channels[ends].read[B].outcome,
        Some(Outcome::Finished)
    );
    world.finish(Duration::from_secs(10));
}

#[test]
fn a_reader_that_wants_no_more_ends_only_its_direction() {
    let mut world = world(slow());
    let mut plan = ChannelPlan::exchange(A, 1 << 20, 50_000);
    plan.read[B].stop = Some((10_000, 77));
    world.add(plan);
    world.finish(Duration::from_secs(5));
    world.check_settled();
    assert_eq!(world.channels[0].send[A].stopped, Some(77));
    assert_eq!(world.channels[0].read[A].outcome, Some(Outcome::Finished));
}

#[test]
fn channels_beyond_the_limit_wait_for_their_turn() {
    let mut few = config();
    few.params.max_channels = 3;
    let mut world = World::new(Pair::new(Setup {
        config: [config(), few],
        ..Setup::default()
    }));
    for _ in 0..50 {
        world.add(ChannelPlan {
            read: [ReadPlan {
                pause: Duration::from_millis(10),
                ..ReadPlan::all()
            }; 2],
            ..ChannelPlan::exchange(A, 100, 100)
        });
    }
    world.finish(Duration::from_secs(30));
    world.check_settled();
}

#[test]
fn a_refused_channel_tells_why() {
    let mut world = world(slow());
    let mut plan = ChannelPlan::exchange(A, 1 << 20, 0);
    plan.refuse = Some(code::REFUSED);
    world.add(plan);
    world.finish(Duration::from_secs(5));
    world.check_settled();
    let c = &world.channels[0];
    assert_eq!(c.read[A].outcome, Some(Outcome::Reset(code::REFUSED)));
    assert_eq!(c.send[A].stopped, Some(code::REFUSED));
    assert_eq!(c.accepted, 0);
}

#[test]
fn an_idle_session_says_little_and_is_told_of_every_leg() {
    let mut world = world(slow());
    world.run(Duration::from_secs(3600));
    let counts = world.pair.counts;
    assert_eq!(counts.legs, 1);
    let pings = 3600 / config().ping_after.as_secs();
    assert!(counts.packets < 10 + pings * 4, "{counts:?}");
    let leg = active(&world);
    world.pair.cut(leg, Cut::Silent);
    world.run(Duration::from_secs(60));
    assert_ne!(active(&world), leg, "a dead leg is found without traffic");
}

#[test]
fn credit_and_budget_hold_while_detached() {
    let budget = underpass_proto::session::Budget::new(300_000);
    let limited = underpass_proto::session::Config {
        budget: budget.clone(),
        ..config()
    };
    let mut world = World::new(Pair::new(Setup {
        config: [limited, config()],
        reconnect: None,
        ..Setup::default()
    }));
    world.add(ChannelPlan::exchange(A, 1 << 30, 0));
    world.run(Duration::from_millis(50));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Silent);
    world.run(Duration::from_secs(2));
    assert!(budget.used() <= 300_000 + (1 << 16), "{}", budget.used());
    let id = world.channels[0].id.unwrap();
    let room = world.pair.sessions[A].write_room(id).unwrap_or(0);
    assert!(room < 200_000, "writers are held back");
    world.pair.reconnect = Some(Reconnect::default());
    world.pair.connect();
    let before = world.delivered;
    world.run(Duration::from_secs(1));
    assert!(world.delivered > before + 1_000_000, "and go on afterwards");
}

#[test]
fn events_of_a_channel_come_after_its_opening() {
    let mut pair = Pair::new(Setup::default());
    let now = pair.now;
    let id = pair.sessions[A]
        .open(now, ChannelKind::Stream, Class::Normal, Encoding::Raw, "s")
        .unwrap();
    pair.drop_next(A, 1);
    pair.settle(A); // OPEN is lost
    pair.sessions[A]
        .write(id, &mut Bytes::from_static(b"x"))
        .unwrap();
    pair.sessions[A].redial(id, "t");
    pair.sessions[A].stop(id, 5);
    pair.sessions[A].finish(id);
    pair.settle(A);
    pair.run(Duration::from_secs(1));
    let events: Vec<Event> = pair.events[B].drain(..).collect();
    assert!(
        matches!(events[0], Event::Opened { channel, .. } if channel == id),
        "{events:?}"
    );
    assert!(matches!(&events[1], Event::Redial { offset: 1, service, .. } if service == "t"));
    assert!(events.contains(&Event::Readable { channel: id }));
    assert!(events.contains(&Event::Writable { channel: id }));
    assert_eq!(pair.sessions[B].read(id, 9), ReadOutcome::Data("x".into()));
    assert_eq!(pair.sessions[B].read(id, 9), ReadOutcome::Finished);
    assert_eq!(pair.sessions[B].write_room(id), Err(WriteError::Stopped(5)));
    assert_eq!(pair.sessions[B].channel_count(), 0);
}

/// What is told of a path arrives although the leg is cut, and nothing is told that is out of date already.
#[test]
fn the_newest_word_of_each_path_to_a_relay_arrives() {
    let hop = |relay, round_trip_us| Hop {
        relay: [relay; 32],
        round_trip_us,
        rate: 0,
    };
    let mut world = world(slow());
    world.run(Duration::from_secs(1));
    let leg = active(&world);
    world.pair.cut(leg, Cut::Silent);
    for told in [hop(1, 10), hop(2, 20), hop(1, 30)] {
        world.pair.sessions[B].tell_of_hop(told);
    }
    world.pair.settle(B);
    world.run(Duration::from_secs(30));
    assert!(world.pair.counts.legs > 1);
    assert_eq!(
        world.hops,
        [Vec::from([hop(2, 20), hop(1, 30)]), Vec::new()]
    );
}
