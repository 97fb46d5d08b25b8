//! What all rows come to. Pure.

use std::time::Duration;

use underpass_carrier::CarrierError;
use underpass_proto::Code;

use super::findings::Findings;
use super::row::{Check, Row, Verdict, milliseconds, show};
use super::{carriers, measured, way};

/// Rows, and what they come to.
#[derive(Debug, Clone)]
pub struct Report {
    /// The relay.
    pub relay: String,
    /// One for each thing that was tried.
    pub rows: Vec<Row>,
    /// The carrier that would be used, where the relay is reached by one.
    pub carrier: Option<&'static str>,
    /// Its round trip, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// How many bytes per second bodies bring, at least, each way.
    pub bytes_per_s: Option<u64>,
    /// Why no attachment is possible; none where one is.
    pub trouble: Option<Trouble>,
    /// All that in one sentence.
    pub summary: String,
}

/// Why no attachment is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The reason from the table of codes, where it is in it; else the relay is not reached.
    pub code: Option<Code>,
    /// What is in the way.
    pub what: String,
    /// What to do about it.
    pub next: Option<String>,
}

impl Report {
    /// Says what was found.
    #[must_use]
    pub fn new(found: &Findings) -> Self {
        let mut rows = way::rows(found);
        rows.extend(carriers::rows(found));
        rows.extend(measured::rows(found));
        let mut reached = found.carriers.iter();
        let used = reached.find_map(|it| Some((it.kind.name, it.tried.done()?)));
        let trouble = trouble(found, &rows, used.is_some());
        let round_trip = used.map(|(_, trial)| trial.round_trip);
        let bytes_per_s = found
            .measured
            .done()
            .and_then(|known| rate(known.largest_body?, known.body_time?));
        let summary = match (&trouble, used) {
            (Some(trouble), _) => no_attachment(trouble),
            (None, used) => {
                let way = used.and_then(|(_, trial)| trial.info.proxy.as_ref());
                let way = way.map_or("straight".to_owned(), |it| format!("through {}", it.proxy));
                let speed = bytes_per_s.map_or(String::new(), |rate| {
                    format!(", at least {} each way", show_rate(rate))
                });
                format!(
                    "{} will be used, {way}: round trip {}{speed}",
                    used.map(|(name, _)| name).unwrap_or_default(),
                    show(round_trip.unwrap_or_default()),
                )
            }
        };
        Self {
            relay: found.relay.to_string(),
            rows,
            carrier: used.map(|(name, _)| name),
            round_trip_ms: round_trip.map(milliseconds),
            bytes_per_s,
            trouble,
            summary,
        }
    }
}

fn no_attachment(trouble: &Trouble) -> String {
    let Trouble { what, next, .. } = trouble;
    match next {
        Some(next) => format!("no attachment is possible: {what}; next: {next}"),
        None => format!("no attachment is possible: {what}"),
    }
}

/// A body goes there, and then back.
fn rate(length: usize, time: Duration) -> Option<u64> {
    let both_ways = 2.0 * length as f64;
    let rate = both_ways / time.as_secs_f64().max(1e-6);
    Some(rate as u64)
}

fn show_rate(bytes_per_s: u64) -> String {
    match bytes_per_s {
        0..10_000 => format!("{bytes_per_s} B/s"),
        10_000..10_000_000 => format!("{} kB/s", bytes_per_s / 1000),
        _ => format!("{} MB/s", bytes_per_s / 1_000_000),
    }
}

fn trouble(found: &Findings, rows: &[Row], reached: bool) -> Option<Trouble> {
    let row = |check: Check| {
        let mut rows = rows.iter();
        rows.find(|row| row.check == check && row.verdict == Verdict::Blocked)
    };
    let of = |row: &Row| Trouble {
        code: row.code,
        what: match row.check {
            Check::Key => format!("the relay's key is another: {}", row.reason),
            Check::Tcp | Check::Names => format!("{}: {}", row.subject, row.reason),
            _ => row.reason.clone(),
        },
        next: row.next.clone(),
    };
    if let Some(row) = row(Check::Key).or(row(Check::Login)) {
        return Some(of(row));
    }
    if reached {
        return None;
    }
    let decisive = [
        Check::Settings,
        Check::ProxyLogin,
        Check::Proxy,
        Check::Names,
        Check::Tls,
        Check::Http,
    ];
    if let Some(row) = decisive.into_iter().find_map(row) {
        return Some(of(row));
    }
    let hosts = found.hosts.done().map_or(&[][..], Vec::as_slice);
    if !hosts.iter().any(super::HostFinding::is_reached)
        && let Some(row) = row(Check::Tcp)
    {
        return Some(of(row));
    }
    Some(match row(Check::Carrier) {
        Some(row) => Trouble {
            what: format!(
                "no carrier gets through, {} for one: {}",
                row.subject, row.reason
            ),
            ..of(row)
        },
        None => not_known(found.greeting.failed()),
    })
}

fn not_known(error: Option<&CarrierError>) -> Trouble {
    Trouble {
        code: error.and_then(CarrierError::reason),
        what: match error {
            Some(error) => error.to_string(),
            None => "nothing was found out in time".to_owned(),
        },
        next: None,
    }
}
