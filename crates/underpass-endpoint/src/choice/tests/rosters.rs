//! Which relays are attached to, and varying the path.

use super::*;

/// A [`Simulated`] world in which only what the roster wants is attached to and measured.
struct Attached {
    world: Simulated,
    roster: Roster,
    /// Whether each one is there.
    up: Vec<bool>,
    rng: StdRng,
}

impl Attached {
    fn new(paths: &[(f64, f64, u64)]) -> Self {
        let mut world = Simulated::new(paths);
        let mut roster = Roster::new(RosterSettings::default());
        for relay in 0..paths.len() {
            roster.add(Time::ZERO);
            world.choice.set_presence(Time::ZERO, relay, Presence::Away);
        }
        Self {
            world,
            roster,
            up: vec![true; paths.len()],
            rng: StdRng::seed_from_u64(5),
        }
    }

    fn run(&mut self, seconds: u64) -> Vec<usize> {
        for _ in 0..seconds {
            let now = self.world.now + Duration::from_secs(1);
            self.world.now = now;
            for relay in 0..self.up.len() {
                let presence = match (self.roster.is_wanted(relay), self.up[relay]) {
                    (true, true) => Presence::Alive,
                    (true, false) => Presence::Away,
                    (false, _) => Presence::Resting,
                };
                self.world.choice.set_presence(now, relay, presence);
                let (near, far, rate) = self.world.paths[relay];
                for (side, ms) in [(Side::Near, near), (Side::Far, far)] {
                    let measured = Measured {
                        round_trip: Duration::from_secs_f64(ms / 1e3),
                        rate,
                        full: false,
                    };
                    if side == Side::Far || presence == Presence::Alive {
                        self.world.choice.measured(now, relay, side, measured);
                    }
                }
            }
            let choice = &self.world.choice;
            self.roster.review(now, choice, &[], &mut self.rng);
        }
        self.wanted()
    }

    fn wanted(&self) -> Vec<usize> {
        let all = 0..self.up.len();
        all.filter(|at| self.roster.is_wanted(*at)).collect()
    }
}

#[test]
fn the_best_and_one_more_are_attached_to() {
    let mut world = Attached::new(&[
        (30.0, 30.0, 0),
        (80.0, 80.0, 0),
        (10.0, 10.0, 0),
        (20.0, 20.0, 0),
    ]);
    assert_eq!(world.run(1), [0, 1], "the first ones in the list");
    assert_eq!(world.run(7), [0, 1, 2, 3], "all are looked at");
    assert_eq!(world.run(60), [2, 3]);
    assert_eq!(world.world.choice.chosen(), Some(2));
    let words = world.world.words(0);
    assert!(words.contains("not attached to now"), "{words}");
    // In an hour each of the others is looked at a few times, for some seconds each.
    let mut looked = 0;
    for _ in 0..3600 {
        looked += u32::from(world.run(1) != [2, 3]);
    }
    assert!((30..600).contains(&looked), "{looked} s");
    assert_eq!(world.world.choice.chosen(), Some(2));
}

#[test]
fn when_one_dies_the_other_carries_and_a_third_is_made_warm() {
    let mut world = Attached::new(&[(10.0, 10.0, 0), (20.0, 20.0, 0), (30.0, 30.0, 0)]);
    assert_eq!(world.run(60), [0, 1]);
    world.up[0] = false;
    world.run(1);
    assert_eq!(world.world.choice.chosen(), Some(1), "at once");
    assert_eq!(world.run(3), [1, 2], "the dead one is not waited for");
    world.up[0] = true;
    world.run(1800);
    assert_eq!(world.wanted(), [0, 1]);
    assert_eq!(world.world.choice.chosen(), Some(0), "found again");
}

#[test]
fn a_rest_that_is_as_good_changes_nothing() {
    let mut world = Attached::new(&[(20.0, 20.0, 0); 4]);
    let kept = world.run(60);
    assert_eq!(kept.len(), 2);
    for _ in 0..120 {
        let now = world.run(60);
        assert!(kept.iter().all(|relay| now.contains(relay)), "{now:?}");
    }
}

#[test]
fn a_path_varies_among_equals_only_and_not_regularly() {
    let mut world = Simulated::new(&[(20.0, 20.0, 0), (20.0, 20.0, 0), (60.0, 60.0, 0)]);
    world.run(60, 0.1);
    let mean = Duration::from_secs(100);
    let (mut vary, mut rng) = (Vary::every(mean), StdRng::seed_from_u64(3));
    let mut moves = Vec::new();
    for second in 0..10_000 {
        let used = world.run(1, 0.1);
        if let Some(relay) = vary.pick(world.now, &world.choice, &mut rng) {
            assert!(relay != 2 && Some(relay) != used);
            world.choice.go_over(world.now, relay);
            assert_eq!(world.choice.chosen(), Some(relay));
            moves.push(second);
        }
    }
    assert!((85..120).contains(&moves.len()), "{}", moves.len());
    let mut gaps: Vec<_> = moves.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| (50..=151).contains(gap)), "{gaps:?}");
    gaps.sort_unstable();
    gaps.dedup();
    assert!(gaps.len() > 40, "{gaps:?}");
}
