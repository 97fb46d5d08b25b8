//! Which pseudo address stands for which name. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use underpass_hook::address::{Address, FIRST, LAST};
use underpass_proto::control::ServiceRow;
use underpass_proto::names::{ServiceName, Suffix};

/// The most names that are given addresses.
pub(super) const MOST: usize = 4096;

/// Names and their addresses. What was given out once stays for as long as this lives: programs keep addresses for as long
/// as they like.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: BTreeMap<String, Address>,
    by_address: HashMap<Address, String>,
}

impl Names {
    /// The address of a name, if it has one.
    pub(super) fn address(&self, name: &str) -> Option<Address> {
        self.by_name.get(name).copied()
    }

    /// The name of an address, if it was given to one.
    pub(super) fn name(&self, address: Address) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }

    /// The name that comes after `name`, which need not be one, and its address.
    pub(super) fn after(&self, name: &str) -> Option<(&str, Address)> {
        let rest = (Bound::Excluded(name), Bound::Unbounded);
        let (name, address) = self.by_name.range::<str, _>(rest).next()?;
        Some((name, *address))
    }

    /// Gives a name this very address; whether it has that from now on. Not where either is given already, or the address is
    /// none that names can have.
    pub(super) fn fix(&mut self, name: &str, address: Address) -> bool {
        if self.address(name) == Some(address) {
            return true;
        }
        let free = (FIRST..=LAST).contains(&u32::from_be_bytes(address))
            && !self.by_address.contains_key(&address)
            && !self.by_name.contains_key(name)
            && self.by_name.len() < MOST;
        if free {
            self.by_name.insert(name.to_owned(), address);
            self.by_address.insert(address, name.to_owned());
        }
        free
    }

    /// Gives a name an address, for which it need not ask again; `None` where there are too many names.
    ///
    /// A name mostly has the same address in every redirector's life: it begins to look for a free one where the name
    /// says, and not at the beginning of the net.
    pub(super) fn give(&mut self, name: &str) -> Option<Address> {
        if let Some(address) = self.address(name) {
            return Some(address);
        }
        if self.by_name.len() >= MOST {
            return None;
        }
        let all = LAST - FIRST + 1;
        let start = hash(name) % all;
        let address = (0..all)
            .map(|step| (FIRST + (start + step) % all).to_be_bytes())
            .find(|address| !self.by_address.contains_key(address))?;
        self.by_name.insert(name.to_owned(), address);
        self.by_address.insert(address, name.to_owned());
        Some(address)
    }
}

/// FNV-1a: names are not chosen by enemies, and the result must be the same tomorrow.
pub(super) fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Every pseudo name that means one of the services, and which. The short form is there where only one of them has the name.
pub fn pseudo_names<'a>(
    services: &'a [ServiceRow],
    suffix: &Suffix,
) -> Vec<(String, &'a ServiceRow)> {
    let mut names = Vec::new();
    for service in services {
        let alone = services
            .iter()
            .filter(|other| other.name == service.name)
            .count()
            == 1;
        let short = ServiceName::new(&service.name, None).ok().filter(|_| alone);
        let long = ServiceName::new(&service.name, Some(&service.owner)).ok();
        let both = short.into_iter().chain(long);
        names.extend(both.map(|name| (suffix.after(name), service)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use underpass_hook::address::{NOWHERE, is_pseudo};

    #[test]
    fn every_name_has_an_address_of_its_own_and_keeps_it() {
        let mut names = Names::default();
        let name = |number: usize| format!("s{number}.underpass.internal");
        let given: Vec<Address> = (0..MOST).map(|n| names.give(&name(n)).unwrap()).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), MOST);
        assert!(given.iter().all(|it| is_pseudo(*it) && *it != NOWHERE));
        assert_eq!(names.give("one.more"), None);
        for (number, address) in given.iter().enumerate() {
            assert_eq!(names.give(&name(number)), Some(*address));
            assert_eq!(names.address(&name(number)), Some(*address));
            assert_eq!(names.name(*address), Some(name(number).as_str()));
        }
        assert_eq!(names.address("one.more"), None);
    }

    #[test]
    fn a_name_has_the_same_address_in_the_next_life() {
        let [mut one, mut two] = [Names::default(), Names::default()];
        two.give("other");
        assert_eq!(one.give("db"), two.give("db"));
    }

    #[test]
    fn a_fixed_address_is_no_other_names() {
        let mut names = Names::default();
        let usual = names.give("db").unwrap();
        let chosen = [127, 64, 1, 1];
        assert!(names.fix("web", chosen) && names.fix("web", chosen));
        assert_eq!(names.give("web"), Some(chosen));
        assert!(
            !names.fix("other", chosen) && !names.fix("db", chosen) && !names.fix("web", usual)
        );
        for never in [
            NOWHERE,
            [127, 0, 0, 1],
            [192, 0, 2, 1],
            [127, 127, 255, 255],
        ] {
            assert!(!names.fix("other", never), "{never:?}");
        }
        assert_eq!(names.address("other"), None);
    }

    #[test]
    fn names_are_told_in_their_order() {
        let mut names = Names::default();
        let given = ["db", "web", "db.al"].map(|name| (name, names.give(name).unwrap()));
        let mut told = Vec::new();
        let mut last = "";
        while let Some((name, address)) = names.after(last) {
            told.push((name, address));
            last = name;
        }
        assert_eq!(told, [given[0], given[2], given[1]]);
        assert_eq!(names.after("c"), Some(given[0]));
        assert_eq!(Names::default().after(""), None);
    }

    #[test]
    fn names_that_begin_at_the_same_place_get_neighbours() {
        let mut names = Names::default();
        let first = names.give("db").unwrap();
        let mut taken = Names::default();
        taken.by_address.insert(first, "another".into());
        let second = taken.give("db").unwrap();
        let distance = u32::from_be_bytes(second).wrapping_sub(u32::from_be_bytes(first));
        assert!(distance == 1 || second == FIRST.to_be_bytes());
    }

    fn service(name: &str, owner: &str) -> ServiceRow {
        ServiceRow {
            name: name.into(),
            owner: owner.into(),
            full_name: format!("{name}.{owner}.corp"),
            description: String::new(),
            present: true,
            mine: false,
            publisher: [0; 32],
            allowed: Vec::new(),
            plain_http: false,
            state: underpass_proto::control::ServiceState::Active,
        }
    }

    #[test]
    fn a_short_name_means_one_service() {
        let services = [
            service("db", "al"),
            service("web", "al"),
            service("db", "bo"),
        ];
        let suffix = "corp".parse().unwrap();
        let names: Vec<String> = pseudo_names(&services, &suffix)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let expected = ["db.al", "web", "web.al", "db.bo"];
        assert_eq!(names, expected.map(|name| format!("{name}.corp")));
    }
}
