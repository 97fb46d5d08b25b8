//! Worlds that once failed. Each is one number for [`run_seed`]; what went wrong stands above it.

use crate::random::run_seed;

/// The records of a new epoch were all lost, and the sender moved on to the next epoch since
/// KEY_UPDATE itself had been acknowledged: two epochs ahead of the receiver, nothing opened.
#[test]
fn an_epoch_of_which_nothing_arrived() {
    run_seed(47);
}

/// The peer had stopped reading and the other direction was over, so the channel was forgotten
/// before the writer had asked: it learned of an end without the code.
#[test]
fn the_code_of_a_stop_is_kept_until_the_writer_asks() {
    run_seed(2);
}

/// The last record and the PING that asked for it were both lost: no second PING followed, and the
/// leg stood still for ever.
#[test]
fn a_lost_ping_is_asked_again() {
    run_seed(4664);
}

/// Only the way from the initiator to the responder was silent. The responder's PINGs arrived, so
/// the initiator never found its leg too quiet, and nobody made another.
#[test]
fn one_silent_direction_is_found_by_the_side_that_makes_legs() {
    run_seed(1743);
    run_seed(3372);
}
