//! Measuring what boxes on the way do to HTTP: requests that are no carrier's, and their answers.
//!
//! ```text
//! POST PREFIX/probe/echo                       the body comes back
//! GET  PREFIX/probe/drip/COUNT/BYTES/MILLIS    COUNT pieces of BYTES, one every MILLIS
//! POST PREFIX/probe/trickle                    when each piece of the body came, one number of
//!                                              milliseconds in each line
//! ```
//!
//! Nobody has to be known to the relay for this. So an answer is never much longer than 64 KiB (or
//! than its request), lasts five minutes at the most, and each source has a bounded number of them.

mod allowance;
mod measure;
mod serve;
mod steps;

use std::time::Duration;

use bytes::Bytes;
use http::Method;

pub(crate) use allowance::Allowance;
pub use measure::{Greeting, Measurements, ProbeSettings, greet, measure, survives_silence};
pub(crate) use serve::serve;
pub use steps::{knock, resolve};

use crate::ladder::pattern;

/// The segment of the path, where carriers have the name of their kind.
const NAME: &str = "probe";
/// Pieces of one answer, at most.
const MOST_PIECES: u32 = 32;
/// Bytes of a dripping answer, at most.
const MOST_BYTES: u64 = 64 * 1024;
/// How long a dripping answer may last: longer than Envoy lets a connection be idle, which is 5 minutes.
const LONGEST: Duration = Duration::from_secs(310);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Echo,
    Drip {
        count: u32,
        bytes: usize,
        every: Duration,
    },
    Trickle,
}

impl Ask {
    /// Reads a request's method and path; `None` where it asks for nothing of this, or for too much.
    pub(crate) fn parse(prefix: &str, method: &Method, path: &str) -> Option<Ask> {
        let rest = path.strip_prefix(prefix)?.strip_prefix('/')?;
        let words: Vec<&str> = rest.split('/').take(6).collect();
        match (method, words.as_slice()) {
            (&Method::POST, [NAME, "echo"]) => Some(Ask::Echo),
            (&Method::POST, [NAME, "trickle"]) => Some(Ask::Trickle),
            (&Method::GET, [NAME, "drip", count, bytes, millis]) => {
                let count: u32 = count
                    .parse()
                    .ok()
                    .filter(|it| (1..=MOST_PIECES).contains(it))?;
                let bytes: u64 = bytes.parse().ok()?;
                let every = Duration::from_millis(millis.parse().ok()?);
                let whole = bytes.checked_mul(u64::from(count))?;
                if !(1..=MOST_BYTES).contains(&whole) || every.checked_mul(count - 1)? > LONGEST {
                    return None;
                }
                let bytes = usize::try_from(bytes).ok()?;
                Some(Ask::Drip {
                    count,
                    bytes,
                    every,
                })
            }
            _ => None,
        }
    }

    /// The path under `prefix`, and a query that makes it unique, because boxes on the way cache by
    /// path.
    pub(crate) fn to_target(self, prefix: &str, unique: u64) -> String {
        match self {
            Ask::Echo => format!("{prefix}/{NAME}/echo?r={unique:016x}"),
            Ask::Trickle => format!("{prefix}/{NAME}/trickle?r={unique:016x}"),
            Ask::Drip {
                count,
                bytes,
                every,
            } => {
                let millis = every.as_millis();
                format!("{prefix}/{NAME}/drip/{count}/{bytes}/{millis}?r={unique:016x}")
            }
        }
    }
}

/// All values of a byte, and more than any box needs to tell text from other things.
fn sample(length: usize) -> Bytes {
    pattern(0, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        let drip = Ask::Drip {
            count: 4,
            bytes: 64,
            every: Duration::from_millis(250),
        };
        for (ask, method) in [
            (Ask::Echo, Method::POST),
            (Ask::Trickle, Method::POST),
            (drip, Method::GET),
        ] {
            let target = ask.to_target("/pre", 7);
            let (path, query) = target.split_once('?').unwrap();
            assert_eq!(query, "r=0000000000000007");
            assert_eq!(Ask::parse("/pre", &method, path), Some(ask));
            assert_eq!(Ask::parse("/pre", &Method::DELETE, path), None);
            assert_eq!(Ask::parse("/other", &method, path), None);
        }
    }

    #[test]
    fn what_would_cost_too_much_is_not_answered() {
        for path in [
            "/probe/drip/0/64/250",
            "/probe/drip/33/64/1",
            "/probe/drip/2/32769/1",
            "/probe/drip/1/65537/0",
            "/probe/drip/2/1/310001",
            "/probe/drip/32/1/10001",
            "/probe/drip/4/0/250",
            "/probe/drip/4/64",
            "/probe/drip/4/64/250/1",
            "/probe/drip/-4/64/250",
            "/probe/drip/18446744073709551615/18446744073709551615/18446744073709551615",
            "/probe/",
        ] {
            assert_eq!(Ask::parse("", &Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn a_sample_has_every_value_of_a_byte() {
        let sample = sample(4096);
        assert!((0..=255u8).all(|byte| sample.contains(&byte)));
    }
}
