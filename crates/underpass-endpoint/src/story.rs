//! The story of a path, in plain words: what carries it and since when, what it survived, what it waits
//! for. The one place that makes these words; `status` and the log only repeat them. Pure: time is an
//! argument.

use std::fmt;
use std::time::Duration;

use underpass_carrier::CarrierInfo;
use underpass_proto::{Code, Time};

/// Why a path took the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The one before had broken.
    Lost,
    /// The one before had stopped answering.
    Silent,
    /// A better one was found, while the one before worked.
    Better,
    /// The relay was about to end and asked to be left.
    Asked,
    /// The relay had ended the attachment, or forgotten it.
    Forgotten,
}

impl Why {
    /// In words that go on from "because".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Why::Lost => "the path was lost",
            Why::Silent => "the path had stopped answering",
            Why::Better => "a better path was found",
            Why::Asked => "the relay asked to be left",
            Why::Forgotten => "the relay had ended the attachment",
        }
    }

    /// Whether the path before was of no use any more.
    fn is_drop(self) -> bool {
        matches!(self, Why::Lost | Why::Silent | Why::Forgotten)
    }
}

/// What a path that is missing waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The relay, or whatever is on the way to it.
    Relay,
    /// The other end.
    FarEnd,
    /// Somebody to log in: this machine to the relay, or its user to a proxy or portal on the way.
    Login,
    /// Somebody to allow it, or to trust the key or certificate that is shown.
    Approval,
}

impl WaitsFor {
    /// What has to change before this reason for a failure is gone.
    #[must_use]
    pub fn of(code: Code) -> Self {
        match code {
            Code::NotEnrolled
            | Code::InvalidCode
            | Code::CertificateUntrusted
            | Code::CertificateExpired
            | Code::CertificateRevoked
            | Code::CertificatePurpose
            | Code::CertificateUser
            | Code::ProxyNeedsCredentials
            | Code::ProxyWrongCredentials
            | Code::Portal => WaitsFor::Login,
            Code::Denied | Code::KeyMismatch | Code::Certificate | Code::ProxyRefused => {
                WaitsFor::Approval
            }
            Code::ServiceAway | Code::NoService | Code::UnknownSession | Code::TimedOut => {
                WaitsFor::FarEnd
            }
            _ => WaitsFor::Relay,
        }
    }

    /// In words that go on from "waiting for".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            WaitsFor::Relay => "the relay",
            WaitsFor::FarEnd => "the far end",
            WaitsFor::Login => "a login",
            WaitsFor::Approval => "an approval",
        }
    }
}

/// What carries something, in words.
#[must_use]
pub fn words_of(info: &CarrierInfo) -> String {
    let mut words = info.carrier.to_owned();
    if let Some(tls) = &info.tls {
        words = format!("{words} over {}", tls.version);
    }
    if let Some(way) = &info.proxy {
        let how = if way.tunnel { "tunnel" } else { "requests" };
        words = format!("{words} through {} ({how})", way.proxy);
    }
    words
}

/// How a path came to be where it is. Fed with what happens; tells it when asked.
#[derive(Clone, Debug)]
pub struct Story {
    /// What carries it; none while nothing does.
    by: Option<String>,
    /// Since when it is carried, or not.
    since: Time,
    /// Since when it is in doubt, or missing, and why.
    trouble: Option<(Time, Why)>,
    drops: u64,
    moves: u64,
    last: Option<(Time, Duration, Why)>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug)]
struct Waiting {
    what: WaitsFor,
    reason: String,
    until: Option<Time>,
}

impl Story {
    /// A path that is carried by `by` from now on, for the first time.
    #[must_use]
    pub fn begin(now: Time, by: String) -> Self {
        Self {
            by: Some(by),
            since: now,
            trouble: None,
            drops: 0,
            moves: 0,
            last: None,
            waiting: None,
        }
    }

    /// The path does not answer; another is being made while it is kept.
    pub fn doubted(&mut self, now: Time) {
        self.trouble.get_or_insert((now, Why::Silent));
    }

    /// The path is gone.
    pub fn lost(&mut self, now: Time, why: Why) {
        self.trouble.get_or_insert((now, why));
        if self.by.take().is_some() {
            self.since = now;
        }
    }

    /// Another path is missing something, which `reason` says more of where it is not empty. It is tried
    /// again at `until`, if that is known. Whether the reason is news.
    pub fn waits(&mut self, what: WaitsFor, reason: &str, until: Option<Time>) -> bool {
        let before = self.waiting.replace(Waiting {
            what,
            reason: reason.to_owned(),
            until,
        });
        before.is_none_or(|before| before.reason != reason)
    }

    /// It goes on without a break by what `by` says, because one of several legs has come or gone. Whether that is news.
    pub fn goes_on_by(&mut self, by: String) -> bool {
        let news = self.by.as_ref().is_some_and(|before| *before != by);
        if news {
            self.by = Some(by);
        }
        news
    }

    /// Whether nothing carries it, or nothing that answers.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// It is carried by `by` from now on. `why` counts only where nothing was wrong with the path before.
    pub fn carried(&mut self, now: Time, by: String, why: Why) {
        let (begun, why) = self.trouble.take().unwrap_or((now, why));
        match why.is_drop() {
            true => self.drops += 1,
            false => self.moves += 1,
        }
        self.last = Some((now, now.since(begun), why));
        self.by = Some(by);
        self.since = now;
        self.waiting = None;
    }

    /// Everything, as of now.
    #[must_use]
    pub fn told(&self, now: Time) -> Told {
        Told {
            by: self.by.clone(),
            since: now.since(self.since),
            drops: self.drops,
            moves: self.moves,
            last: self.last.map(|(at, took, why)| LastResume {
                ago: now.since(at),
                took,
                why,
            }),
            waiting: self.told_waiting(now),
        }
    }

    fn told_waiting(&self, now: Time) -> Option<ToldWaiting> {
        // Only while there is no path: a better one that is waited for is the ladder's affair.
        let waiting = self.waiting.as_ref().filter(|_| self.by.is_none())?;
        Some(ToldWaiting {
            what: waiting.what,
            reason: waiting.reason.clone(),
            next_try: waiting.until.map(|until| until.since(now)),
        })
    }
}

/// A story as of one moment. Shown, it is the story in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What carries it; none while nothing does.
    pub by: Option<String>,
    /// For how long it is carried, or not.
    pub since: Duration,
    /// How often it was lost and made anew.
    pub drops: u64,
    /// How often it went over to another path while the one before worked.
    pub moves: u64,
    /// How it came to the present path.
    pub last: Option<LastResume>,
    /// What it waits for.
    pub waiting: Option<ToldWaiting>,
}

/// How a path came to go on the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastResume {
    /// How long ago.
    pub ago: Duration,
    /// How long nothing, or nothing useful, carried it before.
    pub took: Duration,
    /// Why.
    pub why: Why,
}

/// What a path waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldWaiting {
    /// What.
    pub what: WaitsFor,
    /// More about it; may be empty.
    pub reason: String,
    /// When the next attempt follows.
    pub next_try: Option<Duration>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            Some(by) => write!(f, "carried by {by} for {}", Span(self.since))?,
            None => write!(f, "no path for {}", Span(self.since))?,
        }
        if let Some(waiting) = &self.waiting {
            write!(f, ", waiting for {}", waiting.what.words())?;
            if !waiting.reason.is_empty() {
                write!(f, " ({})", waiting.reason)?;
            }
            match waiting.next_try {
                Some(next) if next < Duration::from_secs(1) => write!(f, ", next try soon")?,
                Some(next) => write!(f, ", next try in {}", Span(next))?,
                None => {}
            }
        }
        match self.drops {
            0 => write!(f, ", no drops")?,
            1 => write!(f, ", 1 drop survived")?,
            drops => write!(f, ", {drops} drops survived")?,
        }
        if self.moves > 0 {
            write!(f, ", moved {}", Times(self.moves))?;
        }
        if let Some(LastResume { ago, took, why }) = self.last {
            write!(f, ", resumed {} ago", Span(ago))?;
            match why.is_drop() {
                true => write!(f, " after {:.1} s", took.as_secs_f64())?,
                false => write!(f, " without a break")?,
            }
            write!(f, " because {}", why.words())?;
        }
        Ok(())
    }
}

/// A time for people: exact to what matters at its size.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        match (days, hours, minutes) {
            (0, 0, 0) if seconds < 10 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _, _) => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

struct Times(u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            2 => f.write_str("twice"),
            times => write!(f, "{times} times"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::ZERO + Duration::from_secs_f64(seconds)
    }

    fn words(story: &Story, seconds: f64) -> String {
        story.told(at(seconds)).to_string()
    }

    #[test]
    fn a_quiet_life() {
        let story = Story::begin(at(0.0), "ws".into());
        assert_eq!(words(&story, 0.5), "carried by ws for 0.5 s, no drops");
        assert_eq!(words(&story, 61.0), "carried by ws for 1 min 1 s, no drops");
        assert_eq!(
            words(&story, 7260.0),
            "carried by ws for 2 h 1 min, no drops"
        );
        assert_eq!(
            words(&story, 93600.0),
            "carried by ws for 1 d 2 h, no drops"
        );
    }

    #[test]
    fn a_path_is_lost_waited_for_and_found() {
        let mut story = Story::begin(at(0.0), "ws".into());
        story.lost(at(60.0), Why::Lost);
        assert_eq!(words(&story, 60.2), "no path for 0.2 s, no drops");
        story.waits(WaitsFor::Relay, "ws: refused", Some(at(65.5)));
        assert_eq!(
            words(&story, 61.0),
            "no path for 1.0 s, waiting for the relay (ws: refused), next try in 4.5 s, no drops"
        );
        assert_eq!(
            words(&story, 65.0),
            "no path for 5.0 s, waiting for the relay (ws: refused), next try soon, no drops"
        );
        story.waits(WaitsFor::FarEnd, "", None);
        assert_eq!(
            words(&story, 72.0),
            "no path for 12 s, waiting for the far end, no drops"
        );
        story.carried(at(75.25), "posts".into(), Why::Better);
        assert_eq!(
            words(&story, 80.25),
            "carried by posts for 5.0 s, 1 drop survived, resumed 5.0 s ago after 15.2 s because the path was lost"
        );
        // What was waited for is forgotten with the path that was missing.
        story.lost(at(90.0), Why::Lost);
        assert_eq!(story.told(at(90.0)).waiting, None);
        story.carried(at(90.5), "ws".into(), Why::Lost);
        assert_eq!(story.told(at(90.5)).drops, 2);
    }

    #[test]
    fn a_path_that_stops_answering_counts_from_the_first_doubt() {
        let mut story = Story::begin(at(0.0), "ws".into());
        story.doubted(at(10.0));
        assert_eq!(words(&story, 11.0), "carried by ws for 11 s, no drops");
        story.doubted(at(11.0));
        story.carried(at(12.0), "h2".into(), Why::Better);
        let last = story.told(at(12.0)).last.unwrap();
        assert_eq!(last.took, Duration::from_secs(2));
        assert_eq!(last.why, Why::Silent);
        story.carried(at(30.0), "ws".into(), Why::Better);
        assert_eq!(
            words(&story, 31.0),
            "carried by ws for 1.0 s, 1 drop survived, moved once, resumed 1.0 s ago without a break because a \
             better path was found"
        );
        // It stays the reason when the path breaks in the end.
        story.doubted(at(40.0));
        story.lost(at(42.0), Why::Lost);
        story.carried(at(43.0), "ws".into(), Why::Better);
        let last = story.told(at(43.0)).last.unwrap();
        assert_eq!((last.took, last.why), (Duration::from_secs(3), Why::Silent));
    }

    #[test]
    fn a_move_that_was_asked_for_is_no_drop() {
        let mut story = Story::begin(at(0.0), "ws".into());
        for time in [5.0, 6.0, 7.0] {
            story.carried(at(time), "ws".into(), Why::Asked);
        }
        assert_eq!(
            words(&story, 8.0),
            "carried by ws for 1.0 s, no drops, moved 3 times, resumed 1.0 s ago without a break because the relay \
             asked to be left"
        );
    }

    #[test]
    fn what_is_waited_for_follows_from_the_reason() {
        for (code, what) in [
            (Code::Unreachable, WaitsFor::Relay),
            (Code::ProxyUnreachable, WaitsFor::Relay),
            (Code::Busy, WaitsFor::Relay),
            (Code::ServiceAway, WaitsFor::FarEnd),
            (Code::UnknownSession, WaitsFor::FarEnd),
            (Code::NotEnrolled, WaitsFor::Login),
            (Code::ProxyNeedsCredentials, WaitsFor::Login),
            (Code::Portal, WaitsFor::Login),
            (Code::Denied, WaitsFor::Approval),
            (Code::KeyMismatch, WaitsFor::Approval),
        ] {
            assert_eq!(WaitsFor::of(code), what, "{code}");
        }
        let mut story = Story::begin(at(0.0), "ws".into());
        story.lost(at(1.0), Why::Lost);
        story.waits(
            WaitsFor::Login,
            "the proxy p:3128 wants to know who asks",
            None,
        );
        assert_eq!(
            words(&story, 2.0),
            "no path for 1.0 s, waiting for a login (the proxy p:3128 wants to know who asks), no drops"
        );
    }
    #[test]
    fn legs_that_come_and_go_beside_others_are_no_drops() {
        let mut story = Story::begin(at(0.0), "ws through a".into());
        assert!(story.goes_on_by("ws through a and h2 through b".into()));
        assert_eq!(
            words(&story, 2.0),
            "carried by ws through a and h2 through b for 2.0 s, no drops"
        );
        assert!(story.goes_on_by("h2 through b".into()));
        assert!(!story.goes_on_by("h2 through b".into()));
        assert_eq!(
            words(&story, 3.0),
            "carried by h2 through b for 3.0 s, no drops"
        );
        story.lost(at(4.0), Why::Lost);
        // What is missing does not come back by words.
        assert!(story.is_in_trouble() && !story.goes_on_by("ws through a".into()));
    }
}
