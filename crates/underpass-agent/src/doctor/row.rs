//! One thing that was tried, and what it showed.

use std::time::Duration;

use serde::{Serialize, Serializer};
use underpass_proto::Code;

use super::deadline::Step;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, and could be better.
    Slow,
    /// It does not work.
    Blocked,
    /// It was not tried, or there was no answer to it in time.
    Skipped,
}

impl Verdict {
    /// The word that people and programs read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Slow => "SLOW",
            Verdict::Blocked => "BLOCKED",
            Verdict::Skipped => "SKIPPED",
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

macro_rules! checks {
    ($( #[doc = $doc:literal] $name:ident $text:literal, )*) => {
        /// What can be tried.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Check { $( #[doc = $doc] $name, )* }

        impl Check {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Check] = &[$( Check::$name, )*];

            /// The name that never changes.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Check::$name => $text, )* }
            }
        }
    };
}

checks! {
    #[doc = "Which proxy is used, and who says so."]
    Settings "settings",
    #[doc = "Whether a name has addresses."]
    Names "names",
    #[doc = "Whether an address takes TCP connections."]
    Tcp "tcp",
    #[doc = "Whether the proxy leads to the relay."]
    Proxy "proxy",
    #[doc = "Whether the proxy takes what is said about who asks."]
    ProxyLogin "proxy-login",
    #[doc = "TLS, and whose certificate is shown."]
    Tls "tls",
    #[doc = "Whether a relay answers."]
    Http "http",
    #[doc = "How far the clocks are apart."]
    Clock "clock",
    #[doc = "Whether a carrier brings bytes there and back."]
    Carrier "carrier",
    #[doc = "Whether the relay's key is the one that is known."]
    Key "key",
    #[doc = "Whether the relay knows this machine."]
    Login "login",
    #[doc = "Whether bodies are passed on while they are sent, down (answers) and up (requests)."]
    Streaming "streaming",
    #[doc = "How long an answer is held."]
    HoldTime "hold-time",
    #[doc = "How many bytes a box gathers before it passes them on."]
    Buffer "buffer",
    #[doc = "The largest body that is let through."]
    LargestBody "largest-body",
    #[doc = "Whether bytes arrive as they were sent."]
    BytesIntact "bytes-intact",
    #[doc = "How long a connection may be silent."]
    IdleLimit "idle-limit",
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that was tried. The names of the fields are a promise to programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was tried.
    pub check: Check,
    /// With what: a host, an address, a carrier, a direction; empty where there is only one.
    pub subject: String,
    /// How it stands.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// What to do about it; none where there is nothing to do.
    pub next: Option<String>,
    /// The reason from the table of codes, where there is one.
    #[serde(serialize_with = "as_up")]
    pub code: Option<Code>,
    /// What was measured, in milliseconds: how long it took; how far apart the clocks are (positive where this
    /// one is ahead); how long an answer was held; the silence that was survived.
    pub ms: Option<f64>,
    /// What was measured, in bytes.
    pub bytes: Option<u64>,
}

fn as_up<S: Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(Code::up).serialize(serializer)
}

impl Row {
    /// Without figures.
    pub(super) fn new(
        check: Check,
        subject: impl Into<String>,
        verdict: Verdict,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            check,
            subject: subject.into(),
            verdict,
            reason: reason.into(),
            next: None,
            code: None,
            ms: None,
            bytes: None,
        }
    }

    /// Blocked for a reason that has a code, which says what to do.
    pub(super) fn barred(
        check: Check,
        subject: impl Into<String>,
        reason: impl Into<String>,
        code: Code,
    ) -> Self {
        let mut row = Self::new(check, subject, Verdict::Blocked, reason);
        row.code = Some(code);
        row.next(code.explain().next)
    }

    /// For a step that has neither succeeded nor failed.
    pub(super) fn open<T, E>(check: Check, subject: impl Into<String>, step: &Step<T, E>) -> Self {
        let reason = match step {
            Step::Late(limit) => format!("not known: it was not done with after {limit:.0?}"),
            Step::Skipped(reason) => (*reason).to_owned(),
            _ => "its turn did not come in time".to_owned(),
        };
        Self::new(check, subject, Verdict::Skipped, reason)
    }

    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    pub(super) fn ms(mut self, time: Duration) -> Self {
        self.ms = Some(milliseconds(time));
        self
    }

    pub(super) fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = u64::try_from(bytes).ok();
        self
    }
}

/// In milliseconds, to a hundredth.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// A time as people read it.
pub(super) fn show(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 10.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_stable_fields() {
        let row = Row::barred(Check::ProxyLogin, "http://p:1", "no", Code::ProxyRefused);
        let json = serde_json::to_value(row.ms(Duration::from_micros(1234)).bytes(5)).unwrap();
        let next = Code::ProxyRefused.explain().next;
        assert_eq!(
            json,
            serde_json::json!({
                "check": "proxy-login", "subject": "http://p:1", "verdict": "BLOCKED", "reason": "no",
                "next": next, "code": "UP-PROXY-REFUSED", "ms": 1.23, "bytes": 5,
            })
        );
    }

    #[test]
    fn checks_have_names_of_their_own() {
        let mut names: Vec<_> = Check::ALL.iter().map(|it| it.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Check::ALL.len());
    }

    #[test]
    fn times_as_people_read_them() {
        let shown = [200, 12_340, 1_234_000, 12_340_000].map(|us| show(Duration::from_micros(us)));
        assert_eq!(shown, ["0.2 ms", "12.3 ms", "1.2 s", "12 s"]);
    }
}
