//! `underpass events`

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use underpass_agent::Standing;
use underpass_proto::control::{EventRow, Events as Request, MAX_EVENTS};
use underpass_proto::event::EventKind;

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::{Rows, printable};
use crate::settings::{Flags, ToRelay};

/// Between looks at the log, where it is watched.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Show what the relay has written down: what you did and what was done with you (everything, for a manager)
///
/// Columns in a pipe: time (RFC 3339), kind, actor, peer, address, details (name=value, separated by spaces).
#[derive(Debug, Args)]
pub struct Events {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List events, the newest last
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many, the newest
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: u64,
    },
    /// Show events as they happen, until interrupted
    Watch {
        #[command(flatten)]
        which: Which,
    },
    /// List the kinds of events that there are
    Kinds,
}

#[derive(Debug, Args)]
struct Which {
    /// Only those since then: a time before now such as 2h, or a moment such as 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only those that this user did, or that were done to or with them
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only those of this kind
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    kind: Option<Kind>,
}

/// A kind of event as it is written on the command line.
#[derive(Debug, Clone, Copy)]
struct Kind(EventKind);

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: std::sync::LazyLock<Vec<Kind>> =
            std::sync::LazyLock::new(|| EventKind::ALL.iter().copied().map(Kind).collect());
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.word()).help(self.0.what()))
    }
}

/// A moment, however it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(SystemTime),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        // A day alone begins at midnight.
        let day = format!("{text}T00:00:00Z");
        humantime::parse_rfc3339_weak(text)
            .or_else(|_| humantime::parse_rfc3339(&day))
            .map(Self::At)
            .map_err(|_| "a time is written like 2h, 2026-01-31 or 2026-01-31T08:00:00Z".to_owned())
    }
}

impl Since {
    /// Milliseconds since 1970, at least one: zero would mean all.
    pub fn millis(self, now: SystemTime) -> u64 {
        let at = match self {
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(UNIX_EPOCH),
            Self::At(at) => at,
        };
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl Which {
    fn request(&self) -> Request {
        Request {
            request: 0,
            since_ms: self
                .since
                .map_or(0, |since| since.millis(SystemTime::now())),
            user: self.user.clone().unwrap_or_default(),
            kind: self
                .kind
                .map_or_else(String::new, |kind| kind.0.word().to_owned()),
            before: 0,
            after: 0,
            limit: MAX_EVENTS,
        }
    }
}

impl Events {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let (which, limit) = match &self.action {
            Action::Kinds => return context.output.rows(&kinds()),
            Action::List { which, limit } => (which, Some(*limit)),
            Action::Watch { which } => (which, None),
        };
        let standing = context.enrolled().await?.standing;
        let outcome = match limit {
            Some(limit) => list(&context, &standing, which, limit).await,
            None => watch(&context, &standing, which).await,
        };
        standing.attachment().detach().await;
        outcome
    }
}

async fn ask(standing: &Standing, request: &Request) -> Result<Vec<EventRow>, Failure> {
    let rows = standing.events(request).await;
    rows.map_err(|error| errors::of_request(&error, "cannot list events"))
}

async fn list(
    context: &Context,
    standing: &Standing,
    which: &Which,
    limit: u64,
) -> Result<(), Failure> {
    let mut request = which.request();
    let mut found = Vec::new();
    loop {
        let left = limit - u64::try_from(found.len()).unwrap_or(limit).min(limit);
        request.limit = left.min(MAX_EVENTS);
        if left == 0 {
            break;
        }
        let rows = ask(standing, &request).await?;
        let Some(oldest) = rows.last() else { break };
        request.before = oldest.id;
        let was_last = u64::try_from(rows.len()).unwrap_or(0) < request.limit;
        found.extend(rows);
        if was_last {
            break;
        }
    }
    found.reverse();
    context.output.rows(&as_rows(&found))
}

/// Follows the log from its newest event on, or from the moment that was given.
async fn watch(context: &Context, standing: &Standing, which: &Which) -> Result<(), Failure> {
    let mut request = which.request();
    if which.since.is_none() {
        let newest = Request {
            limit: 1,
            ..request.clone()
        };
        request.after = ask(standing, &newest)
            .await?
            .first()
            .map_or(0, |row| row.id);
    }
    loop {
        // Zero would ask for the newest first.
        let from = Request {
            after: request.after.max(1),
            ..request.clone()
        };
        let rows = match request.after {
            0 => first_page(standing, &request).await?,
            _ => ask(standing, &from).await?,
        };
        for row in &rows {
            context.output.result(&line(row), &as_json(row))?;
        }
        request.after = rows.last().map_or(request.after, |row| row.id);
        if rows.len() < usize::try_from(MAX_EVENTS).unwrap_or(usize::MAX) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The newest, the oldest of them first.
async fn first_page(standing: &Standing, request: &Request) -> Result<Vec<EventRow>, Failure> {
    let mut rows = ask(standing, request).await?;
    rows.reverse();
    Ok(rows)
}

/// A moment in milliseconds since 1970 as text.
pub fn moment(millis: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(millis)) {
        // RFC 3339 has no words for what comes after the year 9999.
        Some(at) if millis < 253_402_300_800_000 => {
            humantime::format_rfc3339_millis(at).to_string()
        }
        _ => String::new(),
    }
}

fn cells(row: &EventRow) -> Vec<String> {
    vec![
        moment(row.at_ms),
        row.kind.clone(),
        row.actor.clone(),
        row.peer.clone(),
        row.address.clone(),
        in_words(&row.details),
    ]
}

fn line(row: &EventRow) -> String {
    let cells: Vec<String> = cells(row).iter().map(|cell| printable(cell)).collect();
    cells.join("\t")
}

/// Details as `name=value`; a text is quoted where it would not be told from what follows.
fn in_words(details: &str) -> String {
    let Ok(Value::Object(details)) = serde_json::from_str(details) else {
        return details.to_owned();
    };
    let words = details.iter().map(|(name, value)| match value {
        Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
            format!("{name}={text}")
        }
        value => format!("{name}={value}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn as_json(row: &EventRow) -> Value {
    let details: Value = serde_json::from_str(&row.details).unwrap_or(Value::Null);
    json!({
        "id": row.id,
        "time": moment(row.at_ms),
        "kind": row.kind,
        "actor": row.actor,
        "peer": row.peer,
        "address": row.address,
        "details": details,
    })
}

fn as_rows(events: &[EventRow]) -> Rows {
    Rows {
        columns: &["time", "kind", "actor", "peer", "address", "details"],
        cells: events.iter().map(cells).collect(),
        json: events.iter().map(as_json).collect(),
    }
}

fn kinds() -> Rows {
    let all = EventKind::ALL.iter();
    Rows {
        columns: &["kind", "what happened"],
        cells: all
            .clone()
            .map(|kind| vec![kind.word().to_owned(), kind.what().to_owned()])
            .collect(),
        json: all
            .map(|kind| json!({"kind": kind.word(), "number": kind.number(), "what": kind.what()}))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_several_ways() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let millis = |text: &str| text.parse::<Since>().unwrap().millis(now);
        assert_eq!(millis("2h"), 1_699_992_800_000);
        assert_eq!(millis("2023-11-14T22:13:20Z"), 1_700_000_000_000);
        assert_eq!(millis("2023-11-14 22:13:20"), 1_700_000_000_000);
        assert_eq!(millis("2023-11-14"), 1_699_920_000_000);
        assert_eq!(millis("1970-01-01"), 1, "not all");
        assert_eq!(millis("100years"), 1);
        assert!("yesterday".parse::<Since>().is_err());
    }

    #[test]
    fn details_are_words_for_people() {
        let words =
            in_words(r#"{"service":"db","sent":7,"limit":"too many","x":"","beside":true}"#);
        assert_eq!(
            words,
            r#"beside=true limit="too many" sent=7 service=db x="""#
        );
        assert_eq!(in_words("7"), "7");
    }

    #[test]
    fn what_the_relay_says_cannot_steer_the_terminal() {
        let row = EventRow {
            id: 1,
            at_ms: 1_700_000_000_123,
            kind: "connect".into(),
            actor: "a\tb".into(),
            peer: "\u{1b}[31m".into(),
            address: String::new(),
            details: r#"{"service":"\u001b]0;x"}"#.into(),
        };
        let line = line(&row);
        assert!(
            line.starts_with("2023-11-14T22:13:20.123Z\tconnect\ta"),
            "{line}"
        );
        assert_eq!(line.matches('\t').count(), 5);
        assert!(!line.contains('\u{1b}'));
        assert_eq!(moment(u64::MAX), "");
    }
}
