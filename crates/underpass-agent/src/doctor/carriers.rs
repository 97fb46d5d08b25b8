//! Rows about carriers, and about who is at their other end. Pure.

use std::time::Duration;

use underpass_carrier::{CarrierError, KINDS};
use underpass_endpoint::{Trial, TrialError};
use underpass_proto::Code;
use underpass_seal::Fingerprint;

use super::deadline::Step;
use super::findings::{CarrierFinding, Findings};
use super::row::{Check, Row, Verdict, show};

/// A carrier is slow whose round trip is so many times that of the quickest, and so much more: what
/// the choice among them goes by too.
const SLOWER: (u32, Duration) = (4, Duration::from_millis(100));

/// All of them.
pub(super) fn rows(found: &Findings) -> Vec<Row> {
    let trials = found.carriers.iter().filter_map(|it| it.tried.done());
    let quickest = trials.map(|it| it.round_trip).min();
    let mut rows: Vec<Row> = found
        .carriers
        .iter()
        .map(|carrier| carrier_row(found, carrier, quickest))
        .collect();
    let left_out = KINDS.iter().filter(|kind| {
        let mut tried = found.carriers.iter();
        !tried.any(|it| it.kind.name == kind.name)
    });
    rows.extend(left_out.map(|kind| {
        let reason = "--carrier leaves it out";
        Row::new(Check::Carrier, kind.name, Verdict::Skipped, reason)
    }));
    rows.push(key(found));
    rows.push(login(found));
    rows
}

fn carrier_row(found: &Findings, carrier: &CarrierFinding, quickest: Option<Duration>) -> Row {
    let name = carrier.kind.name;
    match &carrier.tried {
        Step::Done(trial) => carries(name, trial, quickest),
        Step::Failed(error) => {
            let reason = blocked_because(carrier, error);
            let row = Row::new(Check::Carrier, name, Verdict::Blocked, reason);
            match (quickest, error) {
                // Others do; there is nothing that has to be done.
                (Some(_), _) => row,
                (None, TrialError::Carrier(error)) => with_advice(row, error),
                (None, _) => row.next(format!(
                    "ask whoever runs this network what it does to requests to {}",
                    found.relay.host()
                )),
            }
        }
        step => Row::open(Check::Carrier, name, step),
    }
}

fn carries(name: &'static str, trial: &Trial, quickest: Option<Duration>) -> Row {
    let (times, more) = SLOWER;
    let slow = quickest.is_some_and(|quickest| trial.round_trip > quickest * times + more);
    let through = match &trial.info.proxy {
        Some(used) if used.tunnel => format!(", through {}", used.proxy),
        Some(used) => format!(", by {}, which forwards", used.proxy),
        None => String::new(),
    };
    let reason = format!(
        "64 KiB there and back, round trip {}, made in {}{through}",
        show(trial.round_trip),
        show(trial.made_in),
    );
    let verdict = match slow {
        true => Verdict::Slow,
        false => Verdict::Pass,
    };
    Row::new(Check::Carrier, name, verdict, reason).ms(trial.round_trip)
}

/// What a failure says about the way, as far as the carrier's abilities tell.
fn blocked_because(carrier: &CarrierFinding, error: &TrialError) -> String {
    let needs = &carrier.kind.abilities;
    let held = || match needs.needs_request_streaming || needs.needs_response_streaming {
        true => "bytes are held on the way",
        false => "bytes do not come back",
    };
    match error {
        TrialError::Relay(_) => error.to_string(),
        _ if needs.needs_udp => format!(
            "nothing comes back over UDP: a firewall on the way drops it, or the relay does not listen for it ({error})"
        ),
        TrialError::Carrier(error) if error.is_about_the_host() => {
            format!("the relay is not reached: {error}")
        }
        TrialError::Carrier(
            error @ (CarrierError::Refused { .. } | CarrierError::Protocol { .. }),
        ) if needs.needs_upgrade => {
            format!("a box on the way does not pass upgrades on: {error}")
        }
        TrialError::Carrier(error @ CarrierError::TimedOut { .. }) => {
            format!("{}: {error}", held())
        }
        TrialError::TimedOut(limit) => format!("{} within {limit:.0?}", held()),
        error => error.to_string(),
    }
}

fn with_advice(row: Row, error: &CarrierError) -> Row {
    match error.reason() {
        Some(code) => {
            let mut row = row.next(code.explain().next);
            row.code = Some(code);
            row
        }
        None => row,
    }
}

/// The first key that is not the known one.
pub(super) fn other_key(found: &Findings) -> Option<(Fingerprint, Fingerprint)> {
    let known = found.relay_key?;
    let mut trials = found.carriers.iter().filter_map(|it| it.tried.done());
    let other = trials.find(|trial| trial.relay_key != known)?;
    Some((known, other.relay_key))
}

fn key(found: &Findings) -> Row {
    let (check, host) = (Check::Key, found.relay.host());
    if let Some((known, seen)) = other_key(found) {
        let reason = format!("it is {seen}, and {known} was expected");
        return Row::barred(check, host, reason, Code::KeyMismatch);
    }
    let mut trials = found.carriers.iter().filter_map(|it| it.tried.done());
    match (trials.next(), found.relay_key) {
        (None, _) => Row::new(
            check,
            host,
            Verdict::Skipped,
            "no carrier reaches the relay",
        ),
        (Some(trial), Some(_)) => {
            let reason = format!("it is the known one, {}", trial.relay_key);
            Row::new(check, host, Verdict::Pass, reason)
        }
        (Some(trial), None) => {
            let reason = format!("seen for the first time: {}", trial.relay_key);
            let row = Row::new(check, host, Verdict::Pass, reason);
            row.next("compare with what the relay printed at its start")
        }
    }
}

fn login(found: &Findings) -> Row {
    let (check, host) = (Check::Login, found.relay.host());
    match &found.login {
        Step::Done(login) if login.identity.user.is_empty() => {
            let reason = "the relay does not know this machine";
            Row::barred(check, host, reason, Code::NotEnrolled)
        }
        Step::Done(login) => {
            let reason = format!("as {} on {}", login.identity.user, login.identity.machine);
            Row::new(check, host, Verdict::Pass, reason)
        }
        Step::Failed(error) => Row::barred(check, host, error.to_string(), error.code()),
        step => Row::open(check, host, step),
    }
}
