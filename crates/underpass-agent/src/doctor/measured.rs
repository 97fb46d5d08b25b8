//! Rows about what boxes on the way do to bodies. Pure.

use std::time::Duration;

use underpass_carrier::probe::Measurements;

use super::deadline::Step;
use super::findings::Findings;
use super::row::{Check, Row, Verdict, show};

/// The largest body that carriers send of themselves; smaller limits cost throughput.
const LARGEST_BODY: usize = 1_000_000;
/// Carriers say something this often even if there is nothing to say; a limit below costs traffic.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// All of them.
pub(super) fn rows(found: &Findings) -> Vec<Row> {
    let mut rows = match &found.measured {
        Step::Done(known) => measured(known),
        Step::Failed(error) => not_measured(&format!("not measured: {error}")),
        step => not_measured(&Row::open(Check::Streaming, "", step).reason),
    };
    rows.push(idle(&found.silences));
    rows
}

/// The same rows, all of them without an answer.
fn not_measured(reason: &str) -> Vec<Row> {
    let mut rows = measured(&Measurements::default());
    for row in &mut rows {
        row.reason = reason.to_owned();
    }
    rows
}

fn measured(known: &Measurements) -> Vec<Row> {
    vec![
        streaming("down", "answers are", known.streaming_down),
        streaming("up", "requests are", known.streaming_up),
        hold_time(known),
        buffer(known),
        largest_body(known),
        intact(known),
    ]
}

fn unknown(check: Check, subject: &str) -> Row {
    Row::new(
        check,
        subject,
        Verdict::Skipped,
        "not known: the measurement was not done in time",
    )
}

fn streaming(subject: &str, what: &str, passes: Option<bool>) -> Row {
    let row = |verdict, reason| Row::new(Check::Streaming, subject, verdict, reason);
    match passes {
        Some(true) => row(
            Verdict::Pass,
            format!("{what} passed on while they are sent"),
        ),
        Some(false) => row(
            Verdict::Slow,
            format!("{what} held on the way; carriers that send whole ones do all the same"),
        ),
        None => unknown(Check::Streaming, subject),
    }
}

fn hold_time(known: &Measurements) -> Row {
    let check = Check::HoldTime;
    match (known.streaming_down, known.held_for) {
        (None, _) => unknown(check, ""),
        (Some(true), _) | (Some(false), None) => {
            Row::new(check, "", Verdict::Pass, "nothing is held").ms(Duration::ZERO)
        }
        (Some(false), Some(time)) => {
            let reason = format!("the first piece of an answer came after {}", show(time));
            Row::new(check, "", Verdict::Slow, reason).ms(time)
        }
    }
}

fn buffer(known: &Measurements) -> Row {
    let check = Check::Buffer;
    match (known.streaming_down, known.flush_size) {
        (None, _) => unknown(check, ""),
        (Some(true), _) => Row::new(check, "", Verdict::Pass, "nothing is gathered").bytes(0),
        (Some(false), Some(size)) => {
            let reason = format!("a box gathers up to {size} bytes before it passes them on");
            Row::new(check, "", Verdict::Slow, reason).bytes(size)
        }
        (Some(false), None) => {
            let reason = "a box gathers whole answers before it passes them on";
            Row::new(check, "", Verdict::Slow, reason)
        }
    }
}

fn largest_body(known: &Measurements) -> Row {
    let check = Check::LargestBody;
    match known.largest_body {
        Some(size) if size >= LARGEST_BODY => {
            let reason = format!("{size} bytes pass, and no more are ever sent at once");
            Row::new(check, "", Verdict::Pass, reason).bytes(size)
        }
        Some(size) => {
            let reason = format!("{size} bytes pass, {} do not", size * 2);
            Row::new(check, "", Verdict::Slow, reason).bytes(size)
        }
        None => unknown(check, ""),
    }
}

fn intact(known: &Measurements) -> Row {
    let check = Check::BytesIntact;
    match known.intact {
        Some(true) => Row::new(
            check,
            "",
            Verdict::Pass,
            "all values of a byte arrive as they were sent",
        ),
        Some(false) => {
            let reason = "something on the way changes bytes";
            Row::new(check, "", Verdict::Blocked, reason)
                .next("ask whoever runs this network what it does to bodies; --media-type may keep it from that")
        }
        None => unknown(check, ""),
    }
}

fn idle<E>(silences: &[(Duration, Step<bool, E>)]) -> Row {
    let check = Check::IdleLimit;
    let of = |survived: bool| {
        let all = silences.iter();
        all.filter_map(move |(length, step)| (step.done() == Some(&survived)).then_some(*length))
    };
    let (cut, survived) = (of(false).min(), of(true).max());
    // One that was survived beyond one that was cut was luck.
    let survived = survived.filter(|it| cut.is_none_or(|cut| *it < cut));
    match (cut, survived) {
        (None, Some(longest)) => {
            let reason = format!("{} of silence are survived", show(longest));
            Row::new(check, "", Verdict::Pass, reason).ms(longest)
        }
        (Some(cut), survived) => {
            let verdict = match cut < KEEPALIVE {
                true => Verdict::Slow,
                false => Verdict::Pass,
            };
            let reason = format!("connections are cut that are silent for {}", show(cut));
            Row::new(check, "", verdict, reason).ms(survived.unwrap_or_default())
        }
        (None, None) => match silences.first() {
            Some((_, Step::Failed(_))) => unknown(check, ""),
            Some((_, step)) => Row::open(check, "", step),
            None => unknown(check, ""),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(known: &Measurements) -> Vec<(Check, Verdict)> {
        let rows = measured(known);
        rows.iter().map(|row| (row.check, row.verdict)).collect()
    }

    #[test]
    fn a_clear_path_passes_all_and_an_unknown_one_nothing() {
        let known = Measurements {
            intact: Some(true),
            streaming_down: Some(true),
            streaming_up: Some(true),
            largest_body: Some(1_000_000),
            ..Measurements::default()
        };
        assert!(verdicts(&known).iter().all(|(_, it)| *it == Verdict::Pass));
        let nothing = verdicts(&Measurements::default());
        assert!(nothing.iter().all(|(_, it)| *it == Verdict::Skipped));
        assert_eq!(nothing.len(), 6);
    }

    #[test]
    fn a_box_that_holds_is_slow_and_one_that_changes_blocks() {
        let known = Measurements {
            intact: Some(false),
            streaming_down: Some(false),
            streaming_up: Some(false),
            flush_size: Some(16384),
            held_for: Some(Duration::from_millis(750)),
            largest_body: Some(62_500),
            ..Measurements::default()
        };
        let rows = measured(&known);
        let of = |check| rows.iter().rfind(|row| row.check == check).unwrap();
        assert_eq!(of(Check::Streaming).verdict, Verdict::Slow);
        assert_eq!(of(Check::HoldTime).ms, Some(750.0));
        assert_eq!(of(Check::Buffer).bytes, Some(16384));
        assert_eq!(of(Check::LargestBody).verdict, Verdict::Slow);
        assert!(of(Check::LargestBody).reason.contains("125000 do not"));
        let intact = of(Check::BytesIntact);
        assert_eq!(intact.verdict, Verdict::Blocked);
        assert!(intact.next.is_some());
    }

    #[test]
    fn the_idle_limit_lies_between_what_was_survived_and_what_was_cut() {
        let s = Duration::from_secs;
        type Silences = &'static [(u64, Option<bool>)];
        let cases: &[(Silences, Verdict, Option<f64>)] = &[
            (&[(11, Some(true))], Verdict::Pass, Some(11_000.0)),
            (&[(11, Some(false))], Verdict::Slow, Some(0.0)),
            (
                &[(11, Some(true)), (31, Some(true)), (61, Some(false))],
                Verdict::Pass,
                Some(31_000.0),
            ),
            (
                &[(11, Some(false)), (31, Some(true))],
                Verdict::Slow,
                Some(0.0),
            ),
            (
                &[(11, Some(true)), (31, None)],
                Verdict::Pass,
                Some(11_000.0),
            ),
            (&[(11, None)], Verdict::Skipped, None),
            (&[], Verdict::Skipped, None),
        ];
        for (silences, verdict, ms) in cases {
            let steps: Vec<(Duration, Step<bool, ()>)> = silences
                .iter()
                .map(|(length, done)| {
                    let late = Step::Late(s(*length));
                    (s(*length), done.map_or(late, Step::Done))
                })
                .collect();
            let row = idle(&steps);
            assert_eq!((row.verdict, row.ms), (*verdict, *ms), "{silences:?}");
        }
    }
}
