//! Which client has which flow. Pure: time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Where there are too many, one from which nothing came for so long makes room for a new one.
const QUIET: Duration = Duration::from_secs(5);

/// The flows of clients `K`, of each of which `T` is kept; a bounded number.
#[derive(Debug)]
pub(crate) struct Flows<K, T> {
    entries: HashMap<K, Entry<T>>,
    most: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    kept: T,
    last: Instant,
}

impl<K: Hash + Eq + Clone, T> Flows<K, T> {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            most,
            next: 0,
        }
    }

    /// What is kept of the flow of `client`, which has sent something.
    pub(crate) fn used(&mut self, client: &K, now: Instant) -> Option<&T> {
        let entry = self.entries.get_mut(client)?;
        entry.last = now;
        Some(&entry.kept)
    }

    /// Begins one for `client`, in the place of the one it has. Where there are too many, one that is quiet is
    /// forgotten, and dropping what was kept of it ends it; where none is, there is no room. The flow's number tells it from
    /// later ones of the same client.
    pub(crate) fn begin(&mut self, client: K, kept: T, now: Instant) -> Option<u64> {
        if self.entries.len() >= self.most && !self.entries.contains_key(&client) {
            let longest = self.entries.iter().min_by_key(|(_, entry)| entry.last);
            let quiet = longest.filter(|(_, entry)| now.duration_since(entry.last) >= QUIET);
            let quiet = quiet.map(|(client, _)| client.clone())?;
            self.entries.remove(&quiet);
        }
        let number = self.next;
        self.next += 1;
        let entry = Entry {
            number,
            kept,
            last: now,
        };
        self.entries.insert(client, entry);
        Some(number)
    }

    /// Forgets the flow with this number.
    pub(crate) fn end(&mut self, client: &K, number: u64) {
        let is_it = |entry: &Entry<T>| entry.number == number;
        if self.entries.get(client).is_some_and(is_it) {
            self.entries.remove(client);
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_one_flow() {
        let now = Instant::now();
        let mut flows = Flows::new(10);
        assert!(flows.used(&1, now).is_none());
        let first = flows.begin(1, "first", now).unwrap();
        assert_eq!(flows.used(&1, now), Some(&"first"));
        let second = flows.begin(1, "second", now).unwrap();
        assert_eq!(flows.len(), 1);
        // The end of the first is heard late.
        flows.end(&1, first);
        assert_eq!(flows.used(&1, now), Some(&"second"));
        flows.end(&1, second);
        assert_eq!(flows.len(), 0);
    }

    #[test]
    fn who_is_quiet_makes_room_and_who_is_not_does_not() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut flows = Flows::new(3);
        for client in 0..3 {
            assert!(flows.begin(client, (), start + second * client).is_some());
        }
        assert_eq!(flows.begin(3, (), start + QUIET - second), None);
        flows.used(&0, start + QUIET);
        // The second one is now the longest without a word, but not yet for long enough.
        assert_eq!(flows.begin(3, (), start + QUIET), None);
        assert!(flows.begin(3, (), start + QUIET + second).is_some());
        assert_eq!(flows.used(&1, start + QUIET), None);
        assert_eq!(flows.len(), 3);
        // A client that is there begins anew without taking anybody's place.
        assert!(flows.begin(3, (), start + QUIET + second).is_some());
        assert_eq!(flows.len(), 3);
    }
}
