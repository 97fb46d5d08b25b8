//! Events that were not written: how many, from when to when. Pure.

use underpass_store::UnixMillis;

use super::{Kind, Note};

/// Room for the longest text of a gap, so that writing one needs no more space on the disk than the last.
pub(super) const TEXT_LEN: usize = 128;

/// Events that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// How many; 0 for no gap.
    events: u64,
    /// When the first and the last of them happened, in milliseconds since 1970.
    from: i64,
    to: i64,
}

impl Gap {
    /// So many events between two moments.
    pub(super) fn between(events: u64, from: UnixMillis, to: UnixMillis) -> Self {
        let (from, to) = (from.0.min(to.0), from.0.max(to.0));
        Self { events, from, to }
    }

    /// Whether nothing is missing.
    pub(super) fn is_none(&self) -> bool {
        self.events == 0
    }

    /// One more event.
    pub(super) fn add(&mut self, at: UnixMillis) {
        self.merge(Self::between(1, at, at));
    }

    /// The events of both.
    pub(super) fn merge(&mut self, other: Self) {
        if other.is_none() {
            return;
        }
        if self.is_none() {
            *self = other;
            return;
        }
        self.events = self.events.saturating_add(other.events);
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
    }

    /// What is written down about it.
    pub(super) fn note(self) -> Note {
        Note::new(Kind::Lost)
            .with("events", self.events)
            .with("from", self.from)
            .with("to", self.to)
    }

    /// One line of [`TEXT_LEN`] bytes.
    pub(super) fn to_text(self) -> String {
        let Self { events, from, to } = self;
        let line = format!("lost {events} from {from} to {to}");
        format!("{line:<width$}\n", width = TEXT_LEN - 1)
    }

    /// Reads [`Gap::to_text`]; `None` for any other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let ["lost", events, "from", from, "to", to] = words[..] else {
            return None;
        };
        Some(Self {
            events: events.parse().ok()?,
            from: from.parse().ok()?,
            to: to.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_add_up_whatever_the_clock_does() {
        let mut gap = Gap::default();
        assert!(gap.is_none());
        gap.merge(Gap::default());
        assert!(gap.is_none());
        for at in [50, 20, 70] {
            gap.add(UnixMillis(at));
        }
        gap.merge(Gap::between(4, UnixMillis(90), UnixMillis(60)));
        gap.merge(Gap::default());
        assert_eq!(gap, Gap::between(7, UnixMillis(20), UnixMillis(90)));
    }

    #[test]
    fn what_is_kept_is_read_again_and_takes_the_same_room() {
        let widest = Gap {
            events: u64::MAX,
            from: i64::MIN,
            to: i64::MAX,
        };
        for gap in [
            Gap::default(),
            Gap::between(3, UnixMillis(-5), UnixMillis(9)),
            widest,
        ] {
            let text = gap.to_text();
            assert_eq!(text.len(), TEXT_LEN, "{text:?}");
            assert_eq!(Gap::parse(&text), Some(gap));
        }
        for text in [
            "",
            "lost",
            "lost x from 1 to 2",
            "lost 1 from 2 to 3 4",
            "\0\0",
        ] {
            assert_eq!(Gap::parse(text), None, "{text:?}");
        }
    }
}
