//! What the protocol promises about speed, waiting and memory, in virtual time.

use std::time::Duration;

use bytes::Bytes;
use underpass_proto::Time;
use underpass_proto::frame::{ChannelId, ChannelKind, Class, Encoding};
use underpass_proto::session::{Event, ReadOutcome};

use crate::apps::{ChannelPlan, ReadPlan, SendPlan, World};
use crate::pair::{A, B, Link, Pair, Setup};

fn on(link: Link) -> Pair {
    Pair::new(Setup {
        link,
        ..Setup::default()
    })
}

pub(crate) fn open(pair: &mut Pair, class: Class, service: &str) -> ChannelId {
    let now = pair.now;
    let id = pair.sessions[A]
        .open(now, ChannelKind::Stream, class, Encoding::Raw, service)
        .unwrap();
    pair.settle(A);
    id
}

/// Writes zeros until the channel takes no more.
pub(crate) fn fill(pair: &mut Pair, side: usize, id: ChannelId) {
    let mut zeros = Bytes::from_static(&[0; 65_536]);
    while pair.sessions[side].write(id, &mut zeros).is_ok() {
        zeros = Bytes::from_static(&[0; 65_536]);
    }
    pair.settle(side);
}

/// Reads what there is and says how much it was.
fn drain(pair: &mut Pair, side: usize, id: ChannelId) -> usize {
    let mut bytes = 0;
    while let ReadOutcome::Data(data) = pair.sessions[side].read(id, usize::MAX) {
        bytes += data.len();
    }
    pair.settle(side);
    bytes
}

/// One-byte exchanges for so long, one after the other, each with a pause before it. Returns how
/// long they took, sorted.
pub(crate) fn exchanges(
    pair: &mut Pair,
    key: ChannelId,
    bulk: Option<ChannelId>,
    time: Duration,
) -> Vec<u64> {
    let end = pair.now + time;
    let mut times = Vec::new();
    let mut asked: Option<Time> = None;
    let mut next = pair.now;
    while pair.now < end || asked.is_some() {
        if asked.is_none() && pair.now >= next {
            let now = pair.now;
            pair.sessions[A]
                .write(key, &mut Bytes::from_static(b"k"))
                .unwrap();
            pair.settle(A);
            asked = Some(now);
        }
        if asked.is_none() {
            pair.wake_at(next);
        }
        pair.step(end + Duration::from_secs(5));
        for side in [A, B] {
            while let Some(event) = pair.events[side].pop_front() {
                match event {
                    Event::Writable { channel } if Some(channel) == bulk => {
                        fill(pair, side, channel)
                    }
                    Event::Readable { channel } if Some(channel) == bulk => {
                        drain(pair, side, channel);
                    }
                    Event::Readable { channel } if channel == key => {
                        let bytes = drain(pair, side, channel);
                        assert_eq!(bytes, 1);
                        if side == B {
                            pair.sessions[B]
                                .write(key, &mut Bytes::from_static(b"K"))
                                .unwrap();
                            pair.settle(B);
                        } else if let Some(at) = asked.take() {
                            times.push(pair.now.since(at).as_micros() as u64);
                            // Between 20 and 50 ms later.
                            next =
                                pair.now + Duration::from_millis(20 + times.len() as u64 * 7 % 31);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    times.sort_unstable();
    times
}

/// A keystroke beside a bulk transfer: at the 99th percentile at most three times what it takes on
/// an idle link, plus 30 ms, and hardly ever more than that.
fn keystroke_beside_bulk(link: Link) {
    let mut idle = on(link);
    let key = open(&mut idle, Class::Interactive, "key");
    let alone = exchanges(&mut idle, key, None, Duration::from_secs(5));
    let mut busy = on(link);
    let key = open(&mut busy, Class::Interactive, "key");
    let bulk = open(&mut busy, Class::Bulk, "bulk");
    fill(&mut busy, A, bulk);
    // The path is not known yet: one window of the initial size may be in the way.
    let first = exchanges(&mut busy, key, Some(bulk), Duration::from_secs(2));
    let times = exchanges(&mut busy, key, Some(bulk), Duration::from_secs(30));
    let bound = alone[alone.len() / 2] * 3 + 30_000;
    let p99 = times[times.len() * 99 / 100];
    println!(
        "{link:?}: alone {} us, beside bulk median {} p99 {p99} worst {}, at first {}, rate {}",
        alone[alone.len() / 2],
        times[times.len() / 2],
        times[times.len() - 1],
        first[first.len() - 1],
        busy.sessions[A].delivery_rate(),
    );
    assert!(p99 <= bound, "p99 {p99} us, bound {bound} us");
    assert!(times[times.len() - 1] <= bound * 2);
    assert!(times.len() > 100);
}

/// The same from the first byte of the bulk on, up or down, while both ends get their turn late now
/// and then. The leg hands everything to its slow part at once, as a relay does whose link to the
/// other end is the narrow one.
#[test]
fn a_keystroke_does_not_wait_behind_the_start_of_a_bulk_transfer() {
    let from_the_start = |link: Link, from: usize, seconds: u64| {
        let mut idle = on(link);
        let key = open(&mut idle, Class::Normal, "key");
        let alone = exchanges(&mut idle, key, None, Duration::from_secs(5));
        let mut busy = on(link);
        let key = open(&mut busy, Class::Normal, "key");
        // As in life: the path's delay is known, its rate is not.
        exchanges(&mut busy, key, None, Duration::from_secs(1));
        let bulk = open(&mut busy, Class::Normal, "bulk");
        busy.run(Duration::from_millis(100));
        fill(&mut busy, from, bulk);
        let before = busy.counts.bytes;
        let times = exchanges(&mut busy, key, Some(bulk), Duration::from_secs(seconds));
        let rate = (busy.counts.bytes - before) / seconds;
        let p99 = |times: &[u64]| times[times.len() * 99 / 100];
        let bound = p99(&alone) * 3 + 30_000;
        println!(
            "{link:?} from {from} for {seconds} s: alone p99 {}, median {} p99 {} worst {} bound {bound}, rate {rate}",
            p99(&alone),
            times[times.len() / 2],
            p99(&times),
            times[times.len() - 1],
        );
        assert!(p99(&times) <= bound, "{} us, bound {bound} us", p99(&times));
        assert!(rate >= link.rate * 8 / 10, "{rate} bytes per second");
    };
    for micros in [100, 2000, 10_000] {
        for nap in [0, 3, 8] {
            for from in [A, B] {
                for seconds in [2, 20] {
                    let link = Link {
                        nap: Duration::from_millis(nap),
                        ..Link::new(2_500_000, Duration::from_micros(micros))
                    };
                    from_the_start(link, from, seconds);
                }
            }
        }
    }
}

#[test]
fn a_keystroke_beside_bulk_on_20_mbit_and_10_ms() {
    keystroke_beside_bulk(Link::new(2_500_000, Duration::from_millis(10)));
}

#[test]
fn a_keystroke_beside_bulk_on_20_mbit_and_no_delay() {
    keystroke_beside_bulk(Link::new(2_500_000, Duration::from_micros(100)));
}

#[test]
fn a_keystroke_beside_bulk_on_2_mbit() {
    keystroke_beside_bulk(Link::new(250_000, Duration::from_millis(20)));
}

/// Bytes per second that one bulk channel gets from `from` to `to` seconds.
fn bulk_rate(link: Link, from: u64, to: u64) -> u64 {
    let mut world = World::new(on(link));
    world.add(ChannelPlan::exchange(A, 1 << 40, 0));
    world.run(Duration::from_secs(from));
    let before = world.delivered;
    world.run(Duration::from_secs(to - from));
    (world.delivered - before) / (to - from)
}

#[test]
fn a_long_fat_link_is_filled() {
    let rate = bulk_rate(Link::new(100_000_000, Duration::from_millis(50)), 3, 6);
    assert!(rate > 85_000_000, "{rate} bytes per second of 100,000,000");
}

#[test]
fn links_of_every_kind_are_filled() {
    for (rate, seconds) in [(100_000, 10), (2_500_000, 5), (50_000_000, 1)] {
        for micros in [100, 1000, 20_000, 100_000] {
            for backlog in [64 << 10, 1 << 40] {
                let link = Link {
                    backlog,
                    ..Link::new(rate, Duration::from_micros(micros))
                };
                let got = bulk_rate(link, 5, 5 + seconds);
                assert!(got > rate * 85 / 100, "{got} bytes per second of {link:?}");
            }
        }
    }
}

#[test]
fn delay_that_is_no_queue_does_not_starve_the_path() {
    for millis in [10, 42, 150] {
        let link = Link {
            cork: Duration::from_millis(millis),
            ..Link::new(20_000_000, Duration::from_micros(100))
        };
        let got = bulk_rate(link, 5, 15);
        assert!(got > 17_000_000, "{got} with {millis} ms");
    }
}

#[test]
fn a_reader_that_stopped_slows_nobody_and_fills_no_memory() {
    let link = Link::new(10_000_000, Duration::from_millis(10));
    let alone = bulk_rate(link, 2, 6);
    let mut world = World::new(on(link));
    let never = ReadPlan {
        from: Time::from_micros(u64::MAX / 2),
        ..ReadPlan::all()
    };
    for _ in 0..20 {
        world.add(ChannelPlan {
            read: [never; 2],
            ..ChannelPlan::exchange(A, 1 << 30, 1 << 30)
        });
    }
    world.add(ChannelPlan::exchange(A, 1 << 40, 0));
    world.run(Duration::from_secs(2));
    let before = world.delivered;
    world.run(Duration::from_secs(4));
    let rate = (world.delivered - before) / 4;
    assert!(
        rate > alone * 9 / 10,
        "{rate} beside stopped readers, {alone} alone"
    );
    // Twenty first windows, and the one channel that is read.
    assert!(
        world.worst_unread <= 21 * (256 << 10),
        "{}",
        world.worst_unread
    );
    assert!(
        world.worst_unacknowledged <= 4 << 20,
        "{}",
        world.worst_unacknowledged
    );
}

#[test]
fn a_slow_reader_bounds_what_is_kept_for_it() {
    let mut world = World::new(on(Link::new(100_000_000, Duration::from_millis(1))));
    let slow = ReadPlan {
        piece: 16_384,
        pause: Duration::from_micros(15_625), // 1 MiB/s
        ..ReadPlan::all()
    };
    world.add(ChannelPlan {
        read: [slow; 2],
        ..ChannelPlan::exchange(A, 1 << 40, 0)
    });
    world.run(Duration::from_secs(20));
    assert!((18 << 20..22 << 20).contains(&world.delivered));
    assert!(world.worst_unread <= 512 << 10, "{}", world.worst_unread);
    assert!(
        world.worst_unacknowledged <= 512 << 10,
        "{}",
        world.worst_unacknowledged
    );
}

#[test]
fn a_thousand_channels_at_once_share_evenly() {
    let mut world = World::new(on(Link::new(10_000_000, Duration::from_millis(10))));
    for n in 0..1000 {
        world.add(ChannelPlan {
            send: [SendPlan::bytes(100_000); 2],
            ..ChannelPlan::exchange(if n % 2 == 0 { A } else { B }, 0, 0)
        });
    }
    world.run(Duration::from_secs(5));
    // The first one was alone for a moment.
    let got = || world.channels[1..].iter().map(|c| c.read[B].got);
    let (least, most) = (got().min().unwrap(), got().max().unwrap());
    assert!(least > 0 && most - least <= 16 << 10, "{least} to {most}");
    world.finish(Duration::from_secs(20));
    world.check_settled();
}

#[test]
fn each_class_gets_its_share_of_a_full_link() {
    let mut world = World::new(on(Link::new(5_000_000, Duration::from_millis(5))));
    for class in [Class::Interactive, Class::Normal, Class::Bulk] {
        world.add(ChannelPlan {
            class,
            ..ChannelPlan::exchange(A, 1 << 40, 0)
        });
    }
    world.run(Duration::from_secs(20));
    let got: Vec<u64> = world.channels.iter().map(|c| c.read[B].got).collect();
    assert!(got[0] > got[1] * 3 && got[1] > got[2] * 3, "{got:?}");
    let total: u64 = got.iter().sum();
    assert!(got[2] > total / 50, "bulk starves: {got:?}");
}
