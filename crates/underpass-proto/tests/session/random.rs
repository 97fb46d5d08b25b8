//! Worlds made of one number each.
//!
//! `UNDERPASS_SIM_SEEDS=N` runs so many, `UNDERPASS_SIM_FIRST=N` begins elsewhere,
//! `UNDERPASS_SIM_SEED=N` runs one, and `UNDERPASS_SIM_TRACE=1` prints what happens in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use underpass_proto::frame::{ChannelKind, Class};
use underpass_proto::session::{Budget, ClosedBy, Config, LegId};
use underpass_proto::{Time, code};

use crate::apps::{ChannelPlan, ReadPlan, SendPlan, World};
use crate::dice::Dice;
use crate::pair::{A, B, Cut, Faults, Link, Pair, Reconnect, Setup, config};

/// How many worlds a plain test run makes.
const SEEDS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn ten_thousand_random_worlds_keep_the_promises() {
    if let Some(seed) = number("UNDERPASS_SIM_SEED") {
        run_world(seed, legs_of(seed));
        return;
    }
    let first = number("UNDERPASS_SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let end = first + number("UNDERPASS_SIM_SEEDS").unwrap_or(SEEDS);
    let worlds = [const { AtomicU64::new(0) }; 4];
    let failed = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.lock().unwrap().len() >= 200 {
                        return;
                    }
                    let world = AssertUnwindSafe(|| run_world(seed, legs_of(seed)));
                    match catch_unwind(world) {
                        Ok(legs) => _ = worlds[legs.min(3)].fetch_add(1, Ordering::Relaxed),
                        Err(_) => {
                            println!("^ seed {seed}");
                            failed.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "failed, to be run again with UNDERPASS_SIM_SEED=N UNDERPASS_SIM_TRACE=1: {failed:?}"
    );
    let worlds = worlds.map(AtomicU64::into_inner);
    println!("worlds with none, one, two and three legs at once: {worlds:?}");
    assert!(worlds[2..].iter().all(|count| *count >= (end - first) / 8));
}

/// What kind of trouble a world has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Packets vanish, with and without notice.
    Loss,
    /// Packets come twice, in another order, or changed.
    Mess,
    /// Legs end in every way, often.
    Cuts,
    /// Legs end within their first packets, so that each step of a resume is hit.
    Stumble,
    All,
}

/// Half of the worlds have several legs at once.
fn legs_of(seed: u64) -> usize {
    [1, 2, 1, 3][(seed % 4) as usize]
}

/// A world in which the session has one leg at a time.
pub(crate) fn run_seed(seed: u64) {
    run_world(seed, 1);
}

/// Returns how many legs the session had at once at the most.
pub(crate) fn run_world(seed: u64, legs: usize) -> usize {
    let mut dice = Dice::new(seed);
    let trouble = dice.pick(&[
        Trouble::None,
        Trouble::Loss,
        Trouble::Mess,
        Trouble::Cuts,
        Trouble::Cuts,
        Trouble::Stumble,
        Trouble::Stumble,
        Trouble::All,
    ]);
    let link = random_link(&mut dice);
    let mut setup = Setup {
        seed,
        link,
        faults: random_faults(&mut dice, trouble),
        config: [random_config(&mut dice), random_config(&mut dice)],
        reconnect: Some(Reconnect {
            delay: dice.micros(100, 300_000),
            patience: dice.micros(300_000, 3_000_000),
            twins: dice.pick(&[0, 0, 200, 1000]),
            legs,
        }),
        handshake: dice.chance(50),
    };
    for config in &mut setup.config {
        config.params.max_legs = legs as u64;
    }
    // Not by the dice: so the worlds of the other seeds stay what they were.
    if seed % 16 >= 12 {
        setup.config[(seed % 2) as usize].params.split_ways = true;
    }
    let budgets = [
        setup.config[A].budget.clone(),
        setup.config[B].budget.clone(),
    ];
    let mut world = World::new(Pair::new(setup));
    world
        .pair
        .sessions
        .iter()
        .for_each(|s| assert!(!s.is_closed()));
    for _ in 0..=dice.size(24) {
        let plan = random_channel(&mut dice);
        world.add(plan);
    }
    make_trouble(&mut world, &mut dice, trouble);
    assert!(
        world
            .pair
            .sessions
            .iter()
            .all(|s| s.active_legs().count() <= legs)
    );
    world
        .pair
        .heal(Link::new(10_000_000, Duration::from_millis(5)));
    if dice.chance(50) {
        close_early(&mut world, &mut dice);
    } else {
        world.finish(Duration::from_secs(120));
        world.check_settled();
        check_effort(&world);
        check_idle(&mut world, legs as u64);
        check_credit(&mut world);
        close(&mut world, &mut dice);
    }
    let at_once = world.pair.counts.legs_at_once;
    drop(world);
    assert_eq!(budgets.map(|b| b.used()), [0, 0], "the budget leaks");
    at_once
}

fn random_link(dice: &mut Dice) -> Link {
    let mut link = Link::new(
        dice.pick(&[0, 20_000, 200_000, 2_000_000, 20_000_000]),
        dice.micros(10, 60_000),
    );
    if dice.chance(500) {
        link.backlog = dice.pick(&[1000, 20_000, 200_000]);
    }
    link
}

fn random_faults(dice: &mut Dice, trouble: Trouble) -> Faults {
    let mut faults = Faults::default();
    let all = trouble == Trouble::All;
    if all || trouble == Trouble::Loss {
        faults.drop = dice.size(100);
        faults.noticed_drop = dice.size(200);
    }
    if all || trouble == Trouble::Mess {
        faults.duplicate = dice.size(100);
        faults.reorder = dice.size(100);
        faults.corrupt = dice.size(20);
    }
    faults
}

fn random_config(dice: &mut Dice) -> Config {
    let mut config = Config {
        budget: Budget::new(dice.pick(&[1, 300_000, 512 << 20])),
        max_replay: dice.pick(&[256 << 10, 1 << 20, 64 << 20]),
        ping_after: dice.micros(1_000_000, 15_000_000),
        records_per_epoch: dice.pick(&[5, 50, 1 << 20]),
        ..config()
    };
    if dice.chance(500) {
        config.params.max_channel_data = dice.between(1000, 100_000);
        config.params.max_data = dice.between(1000, 200_000);
        config.params.max_channels = dice.between(1, 10);
        config.max_channel_window = dice.pick(&[1, 1 << 16, 16 << 20]);
        config.max_session_window = dice.pick(&[1, 1 << 16, 64 << 20]);
    }
    config
}

fn random_send(dice: &mut Dice, kind: ChannelKind) -> SendPlan {
    let most = if dice.chance(100) { 1 << 20 } else { 1 << 16 };
    let length = dice.size(most);
    let mut plan = SendPlan {
        chunk: (1 + dice.size(100_000)).max(length / 200),
        pause: if dice.chance(500) {
            Duration::ZERO
        } else {
            dice.micros(1, 50_000)
        },
        reset: dice.chance(100).then(|| 1000 + dice.below(100)),
        ..SendPlan::bytes(length)
    };
    if kind == ChannelKind::Datagram {
        plan.chunk = (1 + dice.size(20_000)).max(length / 100).min(60_000);
        plan.pause = dice.micros(1, 50_000);
    } else if dice.chance(100) {
        plan.redial = Some(dice.between(0, length));
    }
    plan
}

fn random_read(dice: &mut Dice) -> ReadPlan {
    let mut plan = ReadPlan::all();
    if dice.chance(300) {
        plan.piece = 1000 + usize::try_from(dice.size(60_000)).unwrap();
        plan.pause = dice.micros(1, 20_000);
    }
    if dice.chance(200) {
        plan.from = Time::ZERO + dice.micros(1, 10_000_000);
    }
    if dice.chance(100) {
        plan.stop = Some((dice.size(50_000), 2000 + dice.below(100)));
    }
    plan
}

fn random_channel(dice: &mut Dice) -> ChannelPlan {
    let kind = if dice.chance(100) {
        ChannelKind::Datagram
    } else {
        ChannelKind::Stream
    };
    ChannelPlan {
        at: Time::ZERO + dice.micros(0, 3_000_000),
        opener: dice.pick(&[A, B]),
        kind,
        class: dice.pick(&[Class::Interactive, Class::Normal, Class::Bulk]),
        send: [random_send(dice, kind), random_send(dice, kind)],
        read: [random_read(dice), random_read(dice)],
        refuse: dice.chance(50).then(|| 3000 + dice.below(100)),
    }
}

/// Some seconds in which the network does what it can.
fn make_trouble(world: &mut World, dice: &mut Dice, trouble: Trouble) {
    let until = Time::ZERO + dice.micros(500_000, 8_000_000);
    let cuts = matches!(trouble, Trouble::Cuts | Trouble::All);
    let stumble = matches!(trouble, Trouble::Stumble | Trouble::All);
    while world.pair.now < until {
        let next = (world.pair.now + dice.micros(1, 500_000)).min(until);
        if stumble {
            let how = random_cut(dice);
            world.pair.faults.cut_after = Some((dice.size(12), how));
        }
        while world.pair.now < next {
            world.step(next);
        }
        if world.is_done() {
            return;
        }
        world.pair.link = random_link(dice);
        if dice.chance(100) {
            world.pair.sessions[dice.pick(&[A, B])].update_keys();
        }
        let legs = world.pair.open_legs();
        if (cuts || stumble) && !legs.is_empty() && dice.chance(600) {
            let leg = dice.pick(&legs);
            world.pair.cut(leg, random_cut(dice));
        }
        if trouble != Trouble::None && dice.chance(150) {
            // A better leg before the old one is gone.
            make_leg(world, dice);
        }
        if !world.pair.overheard.is_empty() && dice.chance(200) {
            replay(world, dice);
        }
    }
}

/// A new leg in the place of all others; where there are several, mostly beside or for one of them.
fn make_leg(world: &mut World, dice: &mut Dice) {
    let legs: Vec<LegId> = world.pair.sessions[A]
        .active_legs()
        .map(|leg| leg.leg)
        .collect();
    if legs.len() > 1 && dice.chance(700) {
        let instead = dice.pick(&legs);
        let now = world.pair.now;
        if dice.chance(300) {
            let side = dice.pick(&[A, B]);
            world.pair.sessions[side].set_spare(now, instead, dice.chance(500));
            return;
        }
        world.pair.join(Some(instead));
    } else {
        world.pair.connect();
    }
}

fn random_cut(dice: &mut Dice) -> Cut {
    dice.pick(&[
        Cut::Reset,
        Cut::Half(A),
        Cut::Half(B),
        Cut::Silent,
        Cut::SilentFrom(A),
        Cut::SilentFrom(B),
        Cut::Gentle,
    ])
}

/// A stranger sends again what it overheard, and hangs up.
fn replay(world: &mut World, dice: &mut Dice) {
    let count = world.pair.overheard.len() as u64;
    let which = usize::try_from(dice.below(count)).unwrap();
    let packet = world.pair.overheard[which].clone();
    if packet[0] == 0x04 {
        let (leg, answers) = world.pair.inject(B, packet);
        for answer in answers {
            if dice.chance(500) {
                world.pair.inject(A, answer);
            }
        }
        if dice.chance(700) {
            let now = world.pair.now;
            world.pair.sessions[B].leg_lost(now, leg);
        }
        world.pair.settle(B);
    } else {
        world.pair.inject(B, packet);
    }
}

/// The network was well at the end, so everything went through with a bounded number of packets.
fn check_effort(world: &World) {
    let counts = world.pair.counts;
    let seconds = world.pair.now.since(Time::ZERO).as_secs() + 1;
    let packets = 500 + world.delivered / 50 + seconds * 500 + counts.legs * 2000;
    assert!(counts.packets < packets, "too many packets: {counts:?}");
    let bytes = 1_000_000 + world.delivered * 8 + counts.legs * 2_000_000;
    assert!(counts.bytes < bytes, "too many bytes: {counts:?}");
    let timeouts = 500 + seconds * 400;
    assert!(counts.timeouts < timeouts, "too many timeouts: {counts:?}");
}

/// A session with nothing to do does next to nothing.
fn check_idle(world: &mut World, legs: u64) {
    let before = world.pair.counts;
    world.run(Duration::from_secs(60));
    let after = world.pair.counts;
    // At most one that was silent before, by two attempts at once, and those that were missing.
    assert!(
        after.legs <= before.legs + 2 * legs,
        "an idle leg was replaced"
    );
    assert!(
        after.packets - before.packets < 500 * legs,
        "packets of an idle session: {}",
        after.packets - before.packets
    );
    assert!(after.timeouts - before.timeouts < 400 * legs);
}

/// More than both windows goes through after everything else: no credit has leaked.
fn check_credit(world: &mut World) {
    let now = world.pair.now;
    for opener in [A, B] {
        world.add(ChannelPlan {
            at: now,
            ..ChannelPlan::exchange(opener, 20_000, 20_000)
        });
    }
    world.finish(Duration::from_secs(60));
    world.check_settled();
}

fn close(world: &mut World, dice: &mut Dice) {
    let side = dice.pick(&[A, B]);
    let now = world.pair.now;
    world.pair.sessions[side].close(now, 4321, "done");
    world.pair.settle(side);
    world.pair.run(Duration::from_secs(20));
    check_closed(world, side, true);
}

fn check_closed(world: &World, side: usize, both: bool) {
    for end in [A, B] {
        let session = &world.pair.sessions[end];
        if end == side || both {
            let closed = world.pair.closed[end].as_ref().expect("no word of the end");
            assert_eq!((closed.code, closed.reason.as_str()), (4321, "done"));
            let by = if end == side {
                ClosedBy::Local
            } else {
                ClosedBy::Peer
            };
            assert_eq!(closed.by, by);
            assert!(session.is_closed(), "does not come to an end");
            assert_eq!(session.poll_timeout(), None);
            assert_eq!((session.unacknowledged(), session.unread()), (0, 0));
        }
    }
}

/// One side ends the session while it is busy.
fn close_early(world: &mut World, dice: &mut Dice) {
    let side = dice.pick(&[A, B]);
    world.run(dice.micros(0, 2_000_000));
    let now = world.pair.now;
    world.pair.sessions[side].close(now, 4321, "done");
    world.pair.settle(side);
    if dice.chance(300) {
        for leg in world.pair.open_legs() {
            world.pair.cut(leg, Cut::Reset);
        }
    }
    world.run(Duration::from_secs(40));
    check_closed(world, side, false);
    let other = 1 - side;
    if world.pair.closed[other].is_some() {
        check_closed(world, side, true);
        return;
    }
    // The last leg was silent for longer than the other side waits. It is found out by time.
    world.run(Duration::from_secs(800));
    let closed = world.pair.closed[other].as_ref().expect("kept for ever");
    assert_eq!(
        (closed.by, closed.code),
        (ClosedBy::Local, code::SESSION_EXPIRED)
    );
    assert!(world.pair.sessions[other].is_closed());
}
