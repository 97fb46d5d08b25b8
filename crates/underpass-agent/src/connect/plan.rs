//! What changes where local addresses and services are to be others than they are. Pure.

use std::fmt;

use super::{Local, Sources};

/// A service that is to be offered at a local address, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The service, as it is named to the relay.
    pub service: String,
    /// Where.
    pub local: Local,
    /// For whom.
    pub sources: Sources,
}

/// One thing to do. An address that stays what it was needs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more is taken here.
    Close(Local),
    /// What is taken here from now on goes to another service, or is taken from others.
    Change(Wanted),
    /// Listen here as well.
    Open(Wanted),
}

/// What makes `wanted` of what is `running`, in the order in which it is to be done: an address is given up before another
/// one is asked for, since the one may contain the other. No two of either have one address.
pub(super) fn plan(running: &[Wanted], wanted: &[Wanted]) -> Vec<Step> {
    let at = |list: &[Wanted], local: Local| list.iter().find(|it| it.local == local).cloned();
    let gone = running.iter().map(|it| it.local);
    let gone = gone.filter(|local| at(wanted, *local).is_none());
    let changed = wanted.iter().filter(|it| {
        let before = at(running, it.local);
        before.is_some_and(|before| before != **it)
    });
    let new = wanted.iter().filter(|it| at(running, it.local).is_none());
    gone.map(Step::Close)
        .chain(changed.cloned().map(Step::Change))
        .chain(new.cloned().map(Step::Open))
        .collect()
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.service, self.local)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `SERVICE LOCAL [SOURCES]`
    fn wanted(text: &str) -> Wanted {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        Wanted {
            service: word().to_owned(),
            local: word().parse().unwrap(),
            sources: word().parse().unwrap(),
        }
    }

    fn told(steps: &[Step]) -> Vec<String> {
        let tell = |step: &Step| match step {
            Step::Close(local) => format!("close {local}"),
            Step::Change(wanted) => format!("change {wanted} for {}", wanted.sources),
            Step::Open(wanted) => format!("open {wanted} for {}", wanted.sources),
        };
        steps.iter().map(tell).collect()
    }

    #[test]
    fn only_what_is_another_is_touched() {
        let all = |texts: &[&str]| texts.iter().map(|it| wanted(it)).collect::<Vec<_>>();
        let steps = |running: &[&str], other: &[&str]| told(&plan(&all(running), &all(other)));
        let both = ["db 1", "web 0.0.0.0:80 10.0.0.0/8"];
        assert!(steps(&both, &both).is_empty());
        assert!(steps(&both, &[both[1], both[0]]).is_empty());
        assert_eq!(
            steps(&[], &both[..1]),
            ["open db at 127.0.0.1:1 for this machine"]
        );
        assert_eq!(steps(&both, &both[1..]), ["close 127.0.0.1:1"]);
        assert_eq!(
            steps(&both, &["db2 1", "web 0.0.0.0:80 10.0.0.0/9"]),
            [
                "change db2 at 127.0.0.1:1 for this machine",
                "change web at 0.0.0.0:80 for this machine, 10.0.0.0/9"
            ]
        );
        // The address for all would stand in the way of that for one network.
        assert_eq!(
            steps(&both, &["db 1", "web 10.0.0.1:80 10.0.0.0/8"]),
            [
                "close 0.0.0.0:80",
                "open web at 10.0.0.1:80 for this machine, 10.0.0.0/8"
            ]
        );
        // Ports of TCP and of UDP are not the same.
        assert_eq!(
            steps(&["dns 53"], &["dns udp:53"]),
            [
                "close 127.0.0.1:53",
                "open dns at udp:127.0.0.1:53 for this machine"
            ]
        );
    }

    fn lists() -> impl Strategy<Value = Vec<Wanted>> {
        let one =
            (0..4_u8, 1..6_u16, prop::bool::ANY, 0..3_u8).prop_map(|(name, port, udp, net)| {
                let udp = if udp { "udp:" } else { "" };
                wanted(&format!("s{name} {udp}{port} 10.{net}.0.0/16"))
            });
        prop::collection::vec(one, 0..8).prop_map(|mut list| {
            let mut seen = Vec::new();
            list.retain(|it| {
                let new = !seen.contains(&it.local);
                seen.push(it.local);
                new
            });
            list
        })
    }

    proptest! {
        /// Done one after the other, the steps lead there, each of them changes something, and what is the same in both is
        /// in none of them.
        #[test]
        fn the_steps_lead_from_any_list_to_any_other(running in lists(), other in lists()) {
            let mut now = running.clone();
            for step in plan(&running, &other) {
                let before = now.clone();
                match step {
                    Step::Close(local) => now.retain(|it| it.local != local),
                    Step::Change(new) => {
                        prop_assert!(now.iter().any(|it| it.local == new.local));
                        now.retain(|it| it.local != new.local);
                        now.push(new);
                    }
                    Step::Open(new) => {
                        prop_assert!(now.iter().all(|it| it.local != new.local));
                        now.push(new);
                    }
                }
                prop_assert_ne!(before, now.clone());
            }
            let sorted = |mut list: Vec<Wanted>| {
                list.sort_by_key(ToString::to_string);
                list
            };
            let same = running.iter().filter(|it| other.contains(it)).count();
            let kept = plan(&running, &other).len() + same;
            prop_assert!(kept <= running.len() + other.len());
            prop_assert_eq!(sorted(now), sorted(other));
        }
    }
}
