//! In which order carriers are tried, derived from what each states about itself.

use super::Rung;

/// How much a path may do to a carrier: 0 where all must be passed on as it is, 1 where requests may
/// be gathered, 2 where everything may.
fn hardiness(rung: &Rung) -> u8 {
    let abilities = &rung.abilities;
    if abilities.needs_udp || abilities.needs_http2 {
        0
    } else if abilities.survives_holding_proxy {
        2
    } else if abilities.needs_response_streaming && !abilities.needs_request_streaming {
        1
    } else {
        0
    }
}

/// The order of a round that begins from nothing: what is remembered for this network, then the first
/// choice, then of each hardier sort the first choice, then all others. What failed of late comes last.
pub(super) fn start_order(
    rungs: &[Rung],
    first: Option<usize>,
    shunned: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let (good, bad): (Vec<usize>, Vec<usize>) = (0..rungs.len()).partition(|rung| !shunned(*rung));
    let mut order: Vec<usize> = first.into_iter().filter(|rung| !shunned(*rung)).collect();
    order.extend(spearheads(rungs, &good));
    order.extend(good);
    order.extend(bad);
    once_each(order)
}

/// Of each sort the most preferred, the least hardy first. What needs UDP waits: nothing tells that it
/// does not pass, and a start must not wait to find out.
fn spearheads(rungs: &[Rung], among: &[usize]) -> Vec<usize> {
    let among: Vec<usize> = among
        .iter()
        .copied()
        .filter(|rung| !rungs[*rung].abilities.needs_udp)
        .collect();
    let mut heads: Vec<usize> = Vec::new();
    for hardy in 0..=2 {
        let head = among
            .iter()
            .copied()
            .find(|rung| hardiness(&rungs[*rung]) == hardy);
        heads.extend(head);
    }
    // Somebody who put a hardy one first meant it.
    if let Some(first) = among.first() {
        heads.insert(0, *first);
    }
    once_each(heads)
}

/// The order of a round that replaces the leg of `previous`: the same again, because mostly it was
/// but cut, then what is hardier, then all others. A box that stops UDP seldom stops anything else:
/// what needed it is followed by the first choice of what does not.
pub(super) fn recovery_order(
    rungs: &[Rung],
    previous: usize,
    shunned: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let (good, bad): (Vec<usize>, Vec<usize>) = (0..rungs.len()).partition(|rung| !shunned(*rung));
    let mut order: Vec<usize> = Vec::new();
    if !shunned(previous) {
        order.push(previous);
    }
    if rungs[previous].abilities.needs_udp {
        order.extend(good.iter().find(|rung| !rungs[**rung].abilities.needs_udp));
    }
    order.extend(hardier(rungs, previous).filter(|rung| !shunned(*rung)));
    order.extend(good);
    order.extend(bad);
    once_each(order)
}

/// Of each sort that is hardier than `than` the first choice, the least hardy first.
pub(super) fn hardier(rungs: &[Rung], than: usize) -> impl Iterator<Item = usize> + '_ {
    let level = hardiness(&rungs[than]);
    (level + 1..=2)
        .filter_map(|hardy| (0..rungs.len()).find(|rung| hardiness(&rungs[*rung]) == hardy))
}

fn once_each(order: Vec<usize>) -> Vec<usize> {
    let mut seen = Vec::with_capacity(order.len());
    for rung in order {
        if !seen.contains(&rung) {
            seen.push(rung);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ladder::rungs_of;
    use crate::{KINDS, Kind};

    fn names(rungs: &[Rung], order: &[usize]) -> Vec<&'static str> {
        order.iter().map(|rung| rungs[*rung].name).collect()
    }

    fn among(names: &[&str]) -> Vec<Rung> {
        let kinds: Vec<&'static Kind> = names
            .iter()
            .map(|name| crate::kind_by_name(name).unwrap())
            .collect();
        rungs_of(&kinds)
    }

    #[test]
    fn a_start_spreads_over_the_sorts_before_it_goes_through_all() {
        let rungs = among(&["upgrade", "ws", "stream", "posts", "poll"]);
        let order = start_order(&rungs, None, |_| false);
        let expected = ["upgrade", "posts", "poll", "ws", "stream"];
        assert_eq!(names(&rungs, &order), expected);
        let order = start_order(&rungs, Some(4), |_| false);
        let expected = ["poll", "upgrade", "posts", "ws", "stream"];
        assert_eq!(names(&rungs, &order), expected);
        let order = start_order(&rungs, Some(4), |rung| rung == 4 || rung == 0);
        let expected = ["ws", "posts", "stream", "upgrade", "poll"];
        assert_eq!(names(&rungs, &order), expected);
    }

    #[test]
    fn what_needs_udp_waits_until_something_carries() {
        let rungs = among(&["quic", "upgrade", "h2", "posts", "h2posts", "poll"]);
        let order = start_order(&rungs, None, |_| false);
        let expected = ["upgrade", "posts", "poll", "quic", "h2", "h2posts"];
        assert_eq!(names(&rungs, &order), expected);
        let order = start_order(&rungs, Some(0), |_| false);
        assert_eq!(names(&rungs, &order)[..2], ["quic", "upgrade"]);
        let alone = among(&["quic"]);
        assert_eq!(start_order(&alone, None, |_| false), [0]);
    }

    #[test]
    fn the_order_that_was_asked_for_is_kept() {
        let rungs = among(&["poll", "ws"]);
        let order = start_order(&rungs, None, |_| false);
        assert_eq!(names(&rungs, &order), ["poll", "ws"]);
    }

    #[test]
    fn a_recovery_tries_the_same_then_what_is_hardier() {
        let rungs = among(&["upgrade", "ws", "stream", "posts", "poll"]);
        let order = recovery_order(&rungs, 2, |_| false);
        let expected = ["stream", "posts", "poll", "upgrade", "ws"];
        assert_eq!(names(&rungs, &order), expected);
        let order = recovery_order(&rungs, 2, |rung| rung == 2);
        let expected = ["posts", "poll", "upgrade", "ws", "stream"];
        assert_eq!(names(&rungs, &order), expected);
        assert_eq!(recovery_order(&rungs, 4, |_| false)[0], 4);
    }

    #[test]
    fn what_needed_udp_is_followed_by_the_first_choice_of_what_does_not() {
        let rungs = among(&["quic", "upgrade", "h2", "posts", "poll"]);
        let order = recovery_order(&rungs, 0, |_| false);
        let expected = ["quic", "upgrade", "posts", "poll", "h2"];
        assert_eq!(names(&rungs, &order), expected);
        let order = recovery_order(&rungs, 0, |rung| rung < 2);
        assert_eq!(names(&rungs, &order)[..2], ["h2", "posts"]);
    }

    #[test]
    fn every_order_has_each_carrier_once() {
        let all: Vec<&'static Kind> = KINDS.iter().collect();
        let rungs = rungs_of(&all);
        for rung in 0..rungs.len() {
            for order in [
                start_order(&rungs, Some(rung), |other| other % 2 == 0),
                recovery_order(&rungs, rung, |other| other % 3 == 0),
            ] {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..rungs.len()).collect::<Vec<_>>());
            }
        }
    }
}
