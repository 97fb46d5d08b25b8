//! What the protocol promises, one by one.

use std::time::Duration;

use crate::apps::{ChannelPlan, World};
use crate::pair::{A, Pair, Setup};

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
}
