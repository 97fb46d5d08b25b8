//! Simulated relays on a virtual clock.

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
            choice.set_alive(Time::ZERO, at, true);
        }
        Self {
            choice,
            now: Time::ZERO,
            rng: StdRng::seed_from_u64(seed),
            paths: paths.to_vec(),
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
                    let measured = Measured { round_trip, rate };
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
    world.choice.set_alive(world.now, 0, false);
    assert_eq!(
        world.choice.chosen(),
        Some(2),
        "the next best, without any wait"
    );
    assert_eq!(world.order(), [2, 1, 0]);
    assert_eq!(world.words(0), "not reached");
    world.choice.set_alive(world.now, 2, false);
    world.choice.set_alive(world.now, 1, false);
    assert_eq!(world.choice.chosen(), None);
    world.choice.set_alive(world.now, 1, true);
    assert_eq!(world.choice.chosen(), Some(1));
}

#[test]
fn one_that_comes_back_is_taken_after_a_while_only() {
    let mut world = Simulated::new(&[(10.0, 10.0, 0), (30.0, 30.0, 0)]);
    world.run(60, 0.1);
    world.choice.set_alive(world.now, 0, false);
    world.choice.set_alive(world.now, 0, true);
    assert_eq!(world.run(20, 0.1), Some(1));
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
    };
    for relay in [choice.add(), choice.add()] {
        choice.set_alive(at(0), relay, true);
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
