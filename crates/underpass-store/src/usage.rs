//! How much users have used, what they may use, and sessions that were ended for good.

use underpass_proto::limit::LimitKind;
use underpass_proto::packet::SessionId;

use crate::{UnixMillis, UserId};

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// A day in UTC: days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

impl Day {
    /// The day that a moment falls on.
    #[must_use]
    pub fn of(at: UnixMillis) -> Self {
        Self(at.0.div_euclid(DAY))
    }

    /// Year, month (1 to 12) and day of the month, in the Gregorian calendar.
    #[must_use]
    pub fn date(self) -> (i64, u8, u8) {
        // Counted from 0000-03-01, so that the day that some years have and some have not is a year's last one.
        let days = self.0.saturating_add(719_468);
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let small = |number: i64| u8::try_from(number).unwrap_or(u8::MAX);
        (year, small(month), small(day_of_month))
    }

    /// The first day of its month.
    #[must_use]
    pub fn first_of_month(self) -> Self {
        let (_, _, day) = self.date();
        Self(self.0 - i64::from(day) + 1)
    }
}

impl std::fmt::Display for Day {
    /// As `2026-01-31`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// What was used since the last time that somebody told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUsage {
    /// On which day.
    pub day: Day,
    /// By whom.
    pub user: UserId,
    /// Of which service, as `NAME.OWNER`.
    pub service: String,
    /// How much.
    pub used: Used,
}

/// How much was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Sessions that began.
    pub sessions: u64,
    /// Bytes from the user.
    pub sent: u64,
    /// Bytes to the user.
    pub received: u64,
}

impl Used {
    /// Whether that is nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Adds more.
    pub fn add(&mut self, more: Self) {
        let Self {
            sessions,
            sent,
            received,
        } = more;
        self.sessions = self.sessions.saturating_add(sessions);
        self.sent = self.sent.saturating_add(sent);
        self.received = self.received.saturating_add(received);
    }
}

/// By what usage is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageKey {
    /// By user; the key is the name.
    User,
    /// By day; the key is the date.
    Day,
    /// By service; the key is `NAME.OWNER`.
    Service,
}

/// Which usage is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageFilter {
    /// Only on this day or later.
    pub since: Option<Day>,
    /// Only by this user.
    pub user: Option<UserId>,
    /// By what it is summed up.
    pub by: UsageKey,
}

/// A user's exception from a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitException {
    /// Whose.
    pub user: UserId,
    /// From which limit.
    pub kind: LimitKind,
    /// What holds instead; none for no limit.
    pub value: Option<u64>,
}

/// A session that somebody has ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedSession {
    /// Which.
    pub session: SessionId,
    /// Why, for those at its ends.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, shown) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (790, "1972-03-01"),
            (11_016, "2000-02-29"),
            (20_453, "2025-12-31"),
            (20_780, "2026-11-23"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(Day(day).to_string(), shown);
        }
        assert_eq!(Day(20_780).first_of_month().to_string(), "2026-11-01");
        assert_eq!(Day(20_453).first_of_month().to_string(), "2025-12-01");
        assert_eq!(Day::of(UnixMillis(86_399_999)), Day(0));
        assert_eq!(Day::of(UnixMillis(-1)), Day(-1));
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut before = Day(-800).date();
        for day in -799..60_000 {
            let (year, month, of_month) = Day(day).date();
            let next = match before {
                (y, m, d) if (year, month) == (y, m) => of_month == d + 1,
                (y, 12, 31) => (year, month, of_month) == (y + 1, 1, 1),
                (y, m, 28..=31) => (year, month, of_month) == (y, m + 1, 1),
                _ => false,
            };
            assert!(next, "{:?} after {before:?}", (year, month, of_month));
            before = (year, month, of_month);
        }
    }
}
