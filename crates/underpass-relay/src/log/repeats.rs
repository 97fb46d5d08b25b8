//! Refusals that come again and again: the first is written, the same within a minute are counted. Pure.
//!
//! Without this whoever is refused in a loop would push everything else out of the log.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use underpass_proto::Time;

use super::{Kind, Note};

/// For how long the same refusal is counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Refusals that are counted at the same time; further ones are all written.
const MOST: usize = 1024;

/// What makes two refusals the same: kind, who, from where (without the port), code.
type Key = (Kind, Option<String>, Option<IpAddr>, Option<String>);

#[derive(Debug)]
struct Count {
    until: Time,
    /// How many were not written, and the last of them.
    times: u64,
    last: Option<Note>,
}

/// What is being counted.
#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<Key, Count>);

fn key_of(note: &Note) -> Key {
    let address = note.address.as_deref();
    let address = address.and_then(|it| it.parse::<SocketAddr>().ok());
    let code = note.details.get("code").and_then(|it| it.as_str());
    let actor = note.actor.clone();
    (
        note.kind,
        actor,
        address.map(|it| it.ip()),
        code.map(str::to_owned),
    )
}

impl Repeats {
    /// Takes an event: it comes back unless it is counted.
    pub(super) fn take(&mut self, note: Note, now: Time) -> Option<Note> {
        if !note.kind.repeats() {
            return Some(note);
        }
        let key = key_of(&note);
        if let Some(count) = self.0.get_mut(&key) {
            count.times += 1;
            count.last = Some(note);
            return None;
        }
        if self.0.len() < MOST {
            let count = Count {
                until: now + WINDOW,
                times: 0,
                last: None,
            };
            self.0.insert(key, count);
        }
        Some(note)
    }

    /// When [`Repeats::ended`] has something next.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.values().map(|count| count.until).min()
    }

    /// Whose time is up, with how often they came: an event for each that came more than once.
    pub(super) fn ended(&mut self, now: Time) -> Vec<Note> {
        let ended = self.0.extract_if(|_, count| count.until <= now);
        ended.filter_map(|(_, count)| count.told()).collect()
    }

    /// The same of all: nothing more comes.
    pub(super) fn all(&mut self) -> Vec<Note> {
        let counts = std::mem::take(&mut self.0);
        counts.into_values().filter_map(Count::told).collect()
    }
}

impl Count {
    fn told(self) -> Option<Note> {
        let times = self.times;
        self.last.map(|note| note.with("times", times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(user: &str, port: u16, code: &str) -> Note {
        Note::new(Kind::Refuse)
            .by(user)
            .from(Some(&format!("192.0.2.1:{port}")))
            .with("code", code)
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_loop_of_refusals_is_two_events_a_minute() {
        let mut repeats = Repeats::default();
        let mut written = 0;
        for second in 0..120 {
            written += repeats.ended(at(second)).len();
            for port in 0..10 {
                let note = refusal("bob", port, "UP-DENIED");
                written += usize::from(repeats.take(note, at(second)).is_some());
            }
        }
        assert_eq!(
            written, 3,
            "the first of each minute, and the count of the first"
        );
        let told = repeats.all();
        assert_eq!(told[0].details["times"], 599);
        assert!(repeats.due().is_none());
    }

    #[test]
    fn others_and_other_reasons_are_written() {
        let mut repeats = Repeats::default();
        for note in [
            refusal("bob", 1, "UP-DENIED"),
            refusal("alice", 1, "UP-DENIED"),
            refusal("bob", 1, "UP-BUSY"),
        ] {
            assert!(repeats.take(note, at(0)).is_some());
        }
        let connected = || Note::new(Kind::Connect).by("bob");
        assert!(repeats.take(connected(), at(0)).is_some());
        assert!(
            repeats.take(connected(), at(0)).is_some(),
            "no refusal is never left out"
        );
        assert_eq!(repeats.due(), Some(at(60)));
        assert!(
            repeats.ended(at(60)).is_empty(),
            "what came once was written"
        );
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..2 * MOST {
            assert!(
                repeats
                    .take(refusal(&format!("u{n}"), 1, "UP"), at(0))
                    .is_some()
            );
        }
        assert_eq!(repeats.0.len(), MOST);
    }
}
