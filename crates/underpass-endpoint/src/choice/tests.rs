//! Simulated relays on a virtual clock.

mod rosters;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

/// Relays whose paths are measured once a second with noise.
struct Simulated {
    choice: Choice,
    now: Time,
    rng: StdRng,
    /// Round trips of both sides in milliseconds; and the rate.
    paths: Vec<(f64, f64, u64)>,
    /// Whether the paths are full of data.
    full: bool,
    /// What was chosen, and when.
    story: Vec<(u64, Option<usize>)>,
}

impl Simulated {
    fn new(paths: &[(f64, f64, u64)]) -> Self {
        Self::seeded(1, paths)
    }

    fn seeded(seed: u64, paths: &[(f64, f64, u64)]) -> Self {
        let mut choice = Choice::new(ChoiceSettings::default());
        for at in 0..paths.len() {
            assert_eq!(choice.add(), at);
            choice.set_presence(Time::ZERO, at, Presence::Alive);
        }
        Self {
            choice,
            now: Time::ZERO,
            rng: StdRng::seed_from_u64(seed),
            paths: paths.to_vec(),
            full: false,
            story: Vec::new(),
        }
    }

    /// Goes on for so many seconds; each measurement is up to `noise` (a part) off.
    fn run(&mut self, seconds: u64, noise: f64) -> Option<usize> {
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            for at in 0..self.paths.len() {
                let (near, far, rate) = self.paths[at];
                for (side, ms) in [(Side::Near, near), (Side::Far, far)] {
                    let off = 1.0 + self.rng.random_range(-1.0..=1.0) * noise;
                    let round_trip = Duration::from_secs_f64(ms * off / 1e3);
                    let rate =
                        (rate as f64 * (1.0 + self.rng.random_range(-1.0..=1.0) * noise)) as u64;
                    let measured = Measured {
                        round_trip,
                        rate,
                        full: self.full,
                    };
                    self.choice.measured(self.now, at, side, measured);
                }
            }
            let chosen = self.choice.chosen();
            if self.story.last().map(|last| last.1) != Some(chosen) {
                self.story.push((self.now.as_micros() / 1_000_000, chosen));
            }
        }
        self.choice.chosen()
    }

    fn order(&self) -> Vec<usize> {
        let ranking = self.choice.ranking(self.now);
        ranking.iter().map(|ranked| ranked.relay).collect()
    }

    fn words(&self, relay: usize) -> String {
        let ranking = self.choice.ranking(self.now);
        let found = ranking.into_iter().find(|ranked| ranked.relay == relay);
        found.unwrap().words
    }
}

#[test]
fn both_sides_count_and_not_only_ours() {
    // The first one is nearer to us, the second one to both together.
    let mut world = Simulated::new(&[(5.0, 90.0, 0), (30.0, 20.0, 0)]);
    assert_eq!(world.run(60, 0.1), Some(1));
    assert_eq!(world.order(), [1, 0]);
    assert!(
        world
            .words(1)
            .ends_with("ms to the far end and back; in use"),
        "{}",
        world.words(1)
    );
    assert!(
        world.words(0).ends_with("; worse than the one in use"),
        "{}",
        world.words(0)
    );
}

#[test]
fn the_better_one_is_left_when_it_becomes_worse_and_taken_again() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (40.0, 40.0, 0)]);
    assert_eq!(world.run(100, 0.1), Some(0));
    world.paths[0] = (150.0, 10.0, 0);
    assert_eq!(world.run(5, 0.1), Some(0), "a moment is no reason");
    assert_eq!(world.run(60, 0.1), Some(1));
    world.paths[0] = (10.0, 10.0, 0);
    assert_eq!(world.run(100, 0.1), Some(0));
    let taken: Vec<_> = world.story.iter().map(|it| it.1).collect();
    assert_eq!(taken, [Some(0), Some(1), Some(0)], "{:?}", world.story);
}

#[test]
fn a_spike_changes_nothing() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (20.0, 20.0, 0)]);
    world.run(100, 0.1);
    for _ in 0..20 {
        world.paths[0].0 = 300.0;
        world.run(1, 0.1);
        world.paths[0].0 = 10.0;
        world.run(29, 0.1);
    }
    assert_eq!(world.story.len(), 1, "{:?}", world.story);
}

/// An hour each, with noise of a third: whichever it takes, it stays there.
#[test]
fn equal_relays_do_not_alternate() {
    for seed in 0..200 {
        let mut world = Simulated::seeded(seed, &[(20.0, 20.0, 1_000_000); 3]);
        world.run(3600, 0.33);
        // It may take another one right at the beginning, of which little is known then.
        assert!(world.story.len() <= 2, "seed {seed}: {:?}", world.story);
    }
}

#[test]
fn with_equal_round_trips_the_faster_one_is_taken() {
    let mut world = Simulated::new(&[(20.0, 20.0, 1_000_000), (20.0, 20.0, 9_000_000)]);
    assert_eq!(world.run(60, 0.1), Some(1));
    // But a shorter way comes before a broader one.
    world.paths[0] = (5.0, 5.0, 1_000_000);
    assert_eq!(world.run(60, 0.1), Some(0));
}

#[test]
fn of_equals_the_one_that_fails_less_is_taken() {
    let mut world = Simulated::new(&[(20.0, 20.0, 0); 2]);
    assert_eq!(world.run(60, 0.1), Some(0));
    for _ in 0..60 {
        // Every fourth attempt.
        for failed in [true, false, false, false] {
            world.choice.outcome(world.now, 0, !failed);
        }
        world.choice.outcome(world.now, 1, true);
        world.run(1, 0.1);
    }
    assert_eq!(world.choice.chosen(), Some(1));
    assert!(
        world.words(0).contains("% of attempts fail"),
        "{}",
        world.words(0)
    );
}

#[test]
fn a_dead_one_is_left_at_once_and_is_the_last() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (30.0, 30.0, 0), (20.0, 20.0, 0)]);
    assert_eq!(world.run(60, 0.1), Some(0));
    assert_eq!(world.order(), [0, 2, 1]);
    world.choice.set_presence(world.now, 0, Presence::Away);
    assert_eq!(
        world.choice.chosen(),
        Some(2),
        "the next best, without any wait"
    );
    assert_eq!(world.order(), [2, 1, 0]);
    assert_eq!(world.words(0), "not reached");
    world.choice.set_presence(world.now, 2, Presence::Away);
    world.choice.set_presence(world.now, 1, Presence::Away);
    assert_eq!(world.choice.chosen(), None);
    world.choice.set_presence(world.now, 1, Presence::Alive);
    assert_eq!(world.choice.chosen(), Some(1));
}

#[test]
fn one_that_comes_back_is_taken_after_a_while_only() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (30.0, 30.0, 0)]);
    world.run(60, 0.1);
    world.choice.set_presence(world.now, 0, Presence::Away);
    world.choice.set_presence(world.now, 0, Presence::Alive);
    assert_eq!(world.run(5, 0.1), Some(1));
    assert!(
        world.words(0).contains("; better, taken in "),
        "{}",
        world.words(0)
    );
    assert_eq!(world.run(30, 0.1), Some(0));
}

#[test]
fn one_that_is_there_but_fails_is_left_at_once() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (30.0, 30.0, 0)]);
    world.run(60, 0.1);
    for _ in 0..4 {
        world.choice.outcome(world.now, 0, false);
    }
    assert_eq!(world.choice.chosen(), Some(1));
    assert_eq!(world.order(), [1, 0]);
    // Where all of them fail, that is no reason to go from one to the next.
    for _ in 0..9 {
        world.choice.outcome(world.now, 1, false);
        world.choice.outcome(world.now, 0, false);
    }
    assert_eq!(world.choice.chosen(), Some(1));
}

#[test]
fn what_is_not_known_is_no_advantage_and_what_is_old_is_not_known() {
    let mut choice = Choice::new(ChoiceSettings::default());
    let at = |second: u64| Time::from_micros(second * 1_000_000);
    let ms = |ms| Measured {
        round_trip: Duration::from_millis(ms),
        rate: 0,
        full: false,
    };
    for relay in [choice.add(), choice.add()] {
        choice.set_presence(at(0), relay, Presence::Alive);
    }
    choice.measured(at(1), 0, Side::Near, ms(20));
    choice.measured(at(1), 0, Side::Far, ms(50));
    for second in 1..=100 {
        choice.measured(at(second), 0, Side::Near, ms(20));
        // Nearer to us, by how much it is farther from the peer nobody knows.
        choice.measured(at(second), 1, Side::Near, ms(19));
    }
    assert_eq!(choice.chosen(), Some(0));
    assert!(
        choice.ranking(at(2))[0]
            .words
            .contains("70.0 ms to the far end")
    );
    assert!(
        choice.ranking(at(100))[0]
            .words
            .contains("20.0 ms to the relay")
    );
}

/// Whoever carries the data has the longer queue, and so the longer round trip.
#[test]
fn a_path_that_is_full_is_not_left_for_one_that_is_empty() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (10.0, 10.0, 0)]);
    world.run(100, 0.1);
    let used = world.choice.chosen().unwrap();
    let moves = world.story.len();
    world.full = true;
    world.paths[used].0 = 25.0;
    assert_eq!(world.run(600, 0.1), Some(used));
    assert_eq!(world.story.len(), moves, "{:?}", world.story);
    // But one that is far worse is left, full or not.
    world.paths[used].0 = 200.0;
    assert_eq!(world.run(60, 0.1), Some(1 - used));
}

#[test]
fn a_session_learns_of_its_peer_and_goes_where_both_are_near() {
    let mut world = Simulated::new(&[(10.0, 0.0, 0), (20.0, 0.0, 0)]);
    assert_eq!(world.run(100, 0.1), Some(0));
    let mut other = Simulated {
        choice: world.choice.for_session(),
        ..Simulated::new(&[(10.0, 90.0, 0), (20.0, 10.0, 0)])
    };
    other.now = world.now;
    assert_eq!(
        other.run(10, 0.1),
        Some(1),
        "without the wait after a change"
    );
    assert_eq!(world.run(10, 0.1), Some(0));
}

#[test]
fn directions_are_compared_each_with_its_own_kind_and_old_rates_are_forgotten() {
    let mut world = Simulated::new(&[(20.0, 20.0, 0); 2]);
    let used = world.run(60, 0.1).unwrap();
    let other = 1 - used;
    // What we can send tells nothing of what the peer can send elsewhere.
    world.choice.delivered(world.now, used, 100_000);
    let fast = Measured {
        round_trip: Duration::from_millis(20),
        rate: 9_000_000,
        full: false,
    };
    world.choice.measured(world.now, other, Side::Far, fast);
    assert_eq!(world.run(60, 0.1), Some(used));
    world.choice.delivered(world.now, other, 9_000_000);
    assert_eq!(world.run(30, 0.1), Some(other));
    assert!(world.words(other).contains(" B/s"));
    world.run(300, 0.1);
    assert!(!world.words(other).contains(" B/s"));
}

/// Where several legs carry a session every relay that one of them passes through is seen at work, one beside the other.
#[test]
fn what_each_leg_delivers_counts_and_equals_do_not_alternate() {
    let mut world = Simulated::new(&[(18.0, 18.0, 0); 3]);
    let used = world.run(60, 0.1).unwrap();
    let (faster, slower) = ((used + 1) % 3, (used + 2) % 3);
    let moves = world.story.len();
    let run = |world: &mut Simulated, seconds: u64, rates: [u64; 3]| {
        for _ in 0..seconds {
            for (relay, rate) in rates.into_iter().enumerate() {
                let off = world.rng.random_range(0.6..1.4);
                let rate = (rate as f64 * off) as u64;
                world.choice.delivered(world.now, relay, rate);
            }
            world.run(1, 0.1);
        }
    };
    // As much on all of them, as far as noise lets one see.
    run(&mut world, 1800, [1_000_000; 3]);
    assert_eq!(world.story.len(), moves, "{:?}", world.story);
    let mut rates = [1_000_000; 3];
    (rates[faster], rates[slower]) = (3_000_000, 500_000);
    run(&mut world, 120, rates);
    assert_eq!(world.order(), [faster, used, slower]);
    assert_eq!(world.story.len(), moves + 1, "{:?}", world.story);
    // A single moment tells nothing.
    world.choice.delivered(world.now, slower, 90_000_000);
    run(&mut world, 60, rates);
    assert_eq!(world.choice.chosen(), Some(faster));
    assert_eq!(world.story.len(), moves + 1, "{:?}", world.story);
    // And a longer way is not made good by what it carries.
    world.paths[faster] = (60.0, 60.0, 0);
    run(&mut world, 120, rates);
    assert_eq!(world.order(), [used, slower, faster]);
}

#[test]
fn of_equals_the_one_that_drops_less_is_taken() {
    let mut world = Simulated::new(&[(18.0, 18.0, 0); 2]);
    let used = world.run(60, 0.1).unwrap();
    let moves = world.story.len();
    for _ in 0..60 {
        // Too few to tell anything, and what is usual where a relay is busy now and then.
        world.choice.dropped(world.now, used, 10, 10);
        world.choice.dropped(world.now, used, 1000, 50);
        world.run(1, 0.1);
    }
    assert_eq!(world.story.len(), moves, "{:?}", world.story);
    for _ in 0..60 {
        world.choice.dropped(world.now, used, 1000, 300);
        world.run(1, 0.1);
    }
    assert_eq!(world.choice.chosen(), Some(1 - used));
    assert!(
        world.words(used).contains("% of what is sent is dropped"),
        "{}",
        world.words(used)
    );
    // Nothing is sent there any more: it is forgotten, and no reason to go back.
    world.run(600, 0.1);
    assert_eq!(world.choice.chosen(), Some(1 - used));
    assert!(world.words(used).ends_with("; as good as the one in use"));
}

/// A leg that dies is held against its relay, and one death is not enough for a move.
#[test]
fn a_relay_at_which_legs_die_comes_after_one_at_which_they_do_not() {
    let mut world = Simulated::new(&[(18.0, 18.0, 0); 3]);
    let used = world.run(60, 0.1).unwrap();
    let (bad, good) = ((used + 1) % 3, (used + 2) % 3);
    world.choice.leg_failed(world.now, used);
    assert_eq!(world.run(30, 0.1), Some(used));
    for _ in 0..20 {
        world.choice.leg_failed(world.now, bad);
        world.choice.outcome(world.now, good, true);
        world.run(2, 0.1);
    }
    assert_eq!(world.order(), [used, good, bad]);
}
