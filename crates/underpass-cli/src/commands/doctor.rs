//! `underpass doctor`

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use underpass_agent::doctor::{Deadline, Report, Row, Subject, Trouble, Verdict, examine};
use underpass_carrier::{RelayUrl, TlsTrust};

use super::{Context, pinned_by, plain_url};
use crate::failure::{Failure, NO_PATH};
use crate::output::{Rows, printable};
use crate::settings::{Flags, OnPath};

/// All is over by then, so that starting and printing fit into the half minute that is promised.
const LIMIT: Duration = Duration::from_secs(28);

/// Find out what is in the way to a relay, what to do about it, and how fast the way is
///
/// Tries each step by itself (proxy, names, TCP, TLS, the first answer, every carrier) and measures what boxes on
/// the way do to bodies. Takes 30 seconds at the most. Nothing is changed, and no credential is shown.
///
/// PASS is as it should be, SLOW works and could be better, BLOCKED does not work, SKIPPED was not tried. The exit
/// code is 0 where this machine can attach to the relay; else it says why not.
///
/// Columns in a pipe: verdict, check, with what, milliseconds, bytes, reason, what to do, code. The last line is the
/// check `result`: the carrier that will be used, its round trip, bytes per second, and all that in words.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The relay's address; if not given, the relay that this machine has logged in to
    #[arg(value_name = "RELAY")]
    relay: Option<RelayUrl>,
    /// Try longer silences too, of up to five minutes, which takes as long
    #[arg(long)]
    long: bool,
    #[command(flatten)]
    pub flags: Flags<OnPath>,
}

impl Doctor {
    /// Tries everything, and prints what came of it.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let begin = Instant::now();
        let deadline = Deadline::after(LIMIT);
        let subject = self.subject(&context)?;
        if context.output.for_people() {
            let takes = match self.long {
                true => "about five minutes",
                false => "up to 30 seconds",
            };
            let url = plain_url(&subject.reach.relay);
            let text = format!("examining the way to {url}; this takes {takes}");
            context.output.message(&text);
        }
        let report = Report::new(&examine(&subject, deadline).await);
        let failure = report.trouble.as_ref().map(as_failure);
        print(&context, &report, failure.as_ref(), begin.elapsed())?;
        failure.map_or(Ok(()), Err)
    }

    fn subject(&self, context: &Context) -> Result<Subject, Failure> {
        let asked = match &self.relay {
            Some(relay) => relay.clone(),
            None => {
                let known = context.known_relay()?;
                let parsed = known.url.parse();
                parsed
                    .map_err(|error| Failure::local(&NO_PATH, format!("{}: {error}", known.url)))?
            }
        };
        let known = context.home.relays()?.find(&plain_url(&asked)).cloned();
        let key = pinned_by(&asked)?.or(known.as_ref().map(|known| known.key));
        let trust = known.as_ref().map_or(TlsTrust::System, |it| it.tls.into());
        let identity = match known {
            Some(_) => Some(Arc::new(context.home.machine_key()?)),
            None => None,
        };
        Ok(Subject {
            any_certificate: identity.is_none(),
            reach: context.reach(asked, key, trust)?,
            identity,
            long: self.long,
        })
    }
}

fn as_failure(trouble: &Trouble) -> Failure {
    let what = printable(&trouble.what);
    let failure = match trouble.code {
        Some(code) => Failure::of_code(code, "").with_what(what),
        None => Failure::local(&NO_PATH, what),
    };
    match &trouble.next {
        Some(next) => failure.with_next(printable(next)),
        None => failure,
    }
}

fn print(
    context: &Context,
    report: &Report,
    failure: Option<&Failure>,
    took: Duration,
) -> Result<(), Failure> {
    let output = context.output;
    let json = to_json(report, failure, took);
    if output.for_people() {
        output.rows(&Rows {
            columns: &["verdict", "check", "with", "reason", "what to do"],
            cells: report.rows.iter().map(cells_for_people).collect(),
            json,
        })?;
        let summary = printable(&report.summary);
        return output.result(&format!("\n{summary}"), &serde_json::Value::Null);
    }
    let mut cells: Vec<Vec<String>> = report.rows.iter().map(cells).collect();
    cells.push(result_cells(report, failure));
    output.rows(&Rows {
        columns: &[],
        cells,
        json,
    })
}

fn to_json(report: &Report, failure: Option<&Failure>, took: Duration) -> serde_json::Value {
    let Report {
        relay,
        rows,
        carrier,
        round_trip_ms,
        bytes_per_s,
        trouble: _,
        summary,
    } = report;
    serde_json::json!({
        "relay": relay,
        "possible": failure.is_none(),
        "carrier": carrier,
        "round_trip_ms": round_trip_ms,
        "bytes_per_s": bytes_per_s,
        "summary": summary,
        "code": failure.map(|failure| failure.up),
        "exit": failure.map_or(0, |failure| failure.exit),
        "next": failure.map(|failure| &failure.next),
        "took_s": took.as_secs_f64(),
        "rows": rows,
    })
}

fn cells_for_people(row: &Row) -> Vec<String> {
    vec![
        row.verdict.as_str().to_owned(),
        row.check.as_str().to_owned(),
        row.subject.clone(),
        row.reason.clone(),
        row.next.clone().unwrap_or_default(),
    ]
}

fn cells(row: &Row) -> Vec<String> {
    let number = |number: Option<f64>| number.map(|it| format!("{it:.2}")).unwrap_or_default();
    vec![
        row.verdict.as_str().to_owned(),
        row.check.as_str().to_owned(),
        row.subject.clone(),
        number(row.ms),
        row.bytes.map(|it| it.to_string()).unwrap_or_default(),
        row.reason.clone(),
        row.next.clone().unwrap_or_default(),
        row.code
            .map(|code| code.up().to_owned())
            .unwrap_or_default(),
    ]
}

fn result_cells(report: &Report, failure: Option<&Failure>) -> Vec<String> {
    let verdict = match failure {
        None => Verdict::Pass,
        Some(_) => Verdict::Blocked,
    };
    let text = |it: Option<String>| it.unwrap_or_default();
    vec![
        verdict.as_str().to_owned(),
        "result".to_owned(),
        text(report.carrier.map(str::to_owned)),
        text(report.round_trip_ms.map(|it| format!("{it:.2}"))),
        text(report.bytes_per_s.map(|it| it.to_string())),
        report.summary.clone(),
        text(failure.map(|it| it.next.clone())),
        text(failure.map(|it| it.up.to_owned())),
    ]
}
