//! Which leg a session needs next: in the place of all others, beside them, or in the place of one. Pure: what is there
//! comes as arguments.

use underpass_proto::session::LegId;

/// A leg that carries the session, and where it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carrying {
    pub(crate) leg: LegId,
    /// The relay's number.
    pub(crate) relay: usize,
    /// The number of the link to it.
    pub(crate) link: u64,
    /// It does not answer.
    pub(crate) suspect: bool,
}

/// A way that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// The relay's number.
    pub(crate) relay: usize,
    /// The number of the link to it.
    pub(crate) link: u64,
    /// Nothing speaks against taking it at once.
    pub(crate) free: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing, as long as nothing changes.
    Stay,
    /// A leg by the best way there is, in the place of all others.
    Alone,
    /// One by this way beside the others, except for the one whose place it takes.
    Beside {
        /// Its place among the ways.
        way: usize,
        instead: Option<LegId>,
    },
}

/// How many legs a session is to have: as many as its agent wants, two where each direction is to have its own, and no
/// more than the two ends let carry it, `most`.
pub(crate) fn wanted(wants: usize, splits: bool, most: usize) -> usize {
    let least = if splits { 2 } else { 1 };
    wants.max(least).min(most)
}

/// Compares what carries a session with the ways that there are, the best first. `want` legs are to carry it, each by
/// another relay.
pub(crate) fn plan(legs: &[Carrying], ways: &[Offered], want: usize) -> Plan {
    // A link that was replaced is about to end: the session moves before it has to.
    let replaced = |leg: &Carrying| {
        let mut ways = ways.iter();
        ways.any(|way| way.relay == leg.relay && way.link != leg.link)
    };
    let is_fit = |leg: &&Carrying| !leg.suspect && !replaced(leg);
    if !legs.iter().any(|leg| is_fit(&leg)) {
        return Plan::Alone;
    }
    let carried = |way: &Offered| {
        let mut fit = legs.iter().filter(is_fit);
        fit.any(|leg| leg.relay == way.relay)
    };
    let mut others = ways.iter().enumerate();
    let Some((way, found)) = others.find(|(_, way)| way.free && !carried(way)) else {
        return Plan::Stay;
    };
    let mut unfit = legs.iter().filter(|leg| !is_fit(leg));
    let same = unfit.clone().find(|leg| leg.relay == found.relay);
    if let Some(leg) = same.or_else(|| unfit.next()) {
        let instead = Some(leg.leg);
        return Plan::Beside { way, instead };
    }
    if legs.len() < want {
        return Plan::Beside { way, instead: None };
    }
    // Only the first place is given with damping: the order of the others is no reason to go.
    if way > 0 {
        return Plan::Stay;
    }
    let place = |leg: &&Carrying| {
        let place = ways.iter().position(|way| way.relay == leg.relay);
        place.unwrap_or(usize::MAX)
    };
    match legs.iter().max_by_key(place) {
        Some(last) if legs.len() > 1 => Plan::Beside {
            way,
            instead: Some(last.leg),
        },
        _ => Plan::Alone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leg N passes the relay N by its link 10 * N.
    fn leg(relay: usize) -> Carrying {
        Carrying {
            leg: LegId(relay as u64),
            relay,
            link: 10 * relay as u64,
            suspect: false,
        }
    }

    fn doubted(relay: usize) -> Carrying {
        Carrying {
            suspect: true,
            ..leg(relay)
        }
    }

    fn way(relay: usize) -> Offered {
        let link = 10 * relay as u64;
        Offered {
            relay,
            link,
            free: true,
        }
    }

    fn detour(relay: usize) -> Offered {
        let free = false;
        Offered { free, ..way(relay) }
    }

    fn beside(way: usize, instead: Option<u64>) -> Plan {
        let instead = instead.map(LegId);
        Plan::Beside { way, instead }
    }

    #[test]
    fn two_directions_take_two_legs_where_there_may_be_two() {
        assert_eq!([wanted(1, false, 8), wanted(3, false, 8)], [1, 3]);
        assert_eq!([wanted(1, true, 8), wanted(3, true, 8)], [2, 3]);
        assert_eq!([wanted(1, true, 1), wanted(3, true, 2)], [1, 2]);
    }

    #[test]
    fn one_leg_is_on_the_best_relay() {
        let both = [way(1), way(2)];
        assert_eq!(plan(&[], &[], 1), Plan::Alone);
        assert_eq!(plan(&[leg(1)], &both, 1), Plan::Stay);
        assert_eq!(plan(&[leg(2)], &both, 1), Plan::Alone);
        assert_eq!(plan(&[leg(2)], &[detour(1), way(2)], 1), Plan::Stay);
        // Its relay's only way may be gone while the path still works.
        assert_eq!(plan(&[leg(1)], &[], 1), Plan::Stay);
    }

    #[test]
    fn one_that_fails_is_left_even_for_a_detour() {
        assert_eq!(plan(&[doubted(1)], &[detour(1), way(2)], 1), Plan::Alone);
        assert_eq!(plan(&[doubted(1)], &[detour(1)], 1), Plan::Alone);
        let replaced = Offered { link: 11, ..way(1) };
        assert_eq!(plan(&[leg(1)], &[replaced], 1), Plan::Alone);
    }

    #[test]
    fn further_legs_come_one_by_one_each_by_another_relay() {
        let ways = [way(1), detour(2), way(3), way(4)];
        assert_eq!(plan(&[leg(1)], &ways, 3), beside(2, None));
        assert_eq!(plan(&[leg(1), leg(3)], &ways, 3), beside(3, None));
        assert_eq!(plan(&[leg(1), leg(3), leg(4)], &ways, 3), Plan::Stay);
        assert_eq!(plan(&[leg(1)], &ways[..2], 3), Plan::Stay);
        // A relay is never passed twice.
        assert_eq!(plan(&[leg(1)], &ways[..1], 3), Plan::Stay);
    }

    #[test]
    fn a_leg_that_fails_is_replaced_beside_those_that_do_not() {
        let (here, now) = ([doubted(1), leg(2)], [detour(1), way(2), way(3)]);
        assert_eq!(plan(&here, &now, 2), beside(2, Some(1)));
        assert_eq!(plan(&here, &now[..2], 2), Plan::Stay);
        // Its own relay again, by the link that has taken the place of the one before.
        let again = [Offered { link: 11, ..way(1) }, way(2), way(3)];
        assert_eq!(plan(&[leg(1), leg(2)], &again, 2), beside(0, Some(1)));
        assert_eq!(plan(&[doubted(1), doubted(2)], &now, 2), Plan::Alone);
    }

    #[test]
    fn only_the_best_relay_is_a_reason_to_go() {
        let here = [leg(1), leg(2)];
        assert_eq!(plan(&here, &[way(1), way(3), way(2)], 2), Plan::Stay);
        let now = [way(3), way(1), way(2)];
        assert_eq!(plan(&here, &now, 2), beside(0, Some(2)));
        assert_eq!(plan(&here, &[detour(3), way(1), way(2)], 2), Plan::Stay);
    }
}
