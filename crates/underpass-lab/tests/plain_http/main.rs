//! Services for clients that have nothing but curl.
//!
//! Topology of each: curl on `b`, behind a firewall that lets out only what goes to a proxy in public; the proxy, a real squid,
//! forbids CONNECT (where the relay is reached by `http://`); the relay in public; a publisher on `a` behind firewall A.

mod place;
mod refusals;
mod streams;

use std::process::ExitCode;

use refusals::{
    a_token_is_good_for_what_it_says, refusals_are_told_apart, what_a_session_takes_is_bounded,
    who_shows_wrong_tokens_waits,
};
use streams::{
    an_abort_is_told_from_an_end, bytes_are_exact_both_ways,
    many_clients_have_sessions_of_their_own, repeated_requests_do_no_harm,
    the_end_of_one_direction_is_not_that_of_the_other, the_examples_work_as_printed,
    the_same_over_https,
};
use underpass_lab::tests;

fn main() -> ExitCode {
    tests!(
        the_examples_work_as_printed,
        the_same_over_https,
        bytes_are_exact_both_ways,
        many_clients_have_sessions_of_their_own,
        the_end_of_one_direction_is_not_that_of_the_other,
        repeated_requests_do_no_harm,
        an_abort_is_told_from_an_end,
        refusals_are_told_apart,
        who_shows_wrong_tokens_waits,
        a_token_is_good_for_what_it_says,
        what_a_session_takes_is_bounded
    )
}
