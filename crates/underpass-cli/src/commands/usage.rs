//! `underpass usage`

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use underpass_proto::control::{Usage as Request, UsageBy, UsageRow};

use super::events::Since;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, ToRelay};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// Show how many sessions you had and what passed in them (everybody's, for a manager)
///
/// What has passed is counted at the relays, all that share a database together, on the account of the user who has
/// opened the session. Columns in a pipe: user, day or service; sessions; bytes from the user; bytes to the user.
#[derive(Debug, Args)]
pub struct Usage {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    /// Only since then, in whole days (UTC): a time before now such as 7d, or a day such as 2026-01-31
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only what this user has used
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What it is summed up by
    #[arg(long, value_name = "WHAT", default_value = "user")]
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// By user
    User,
    /// By day, in UTC
    Day,
    /// By service
    Service,
}

impl Usage {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let (by, columns): (_, &'static [&'static str]) = match self.by {
            By::User => (UsageBy::User, &["user", "sessions", "sent", "received"]),
            By::Day => (UsageBy::Day, &["day", "sessions", "sent", "received"]),
            By::Service => (
                UsageBy::Service,
                &["service", "sessions", "sent", "received"],
            ),
        };
        let request = Request {
            request: 0,
            since_day: self
                .since
                .map_or(0, |since| since.millis(SystemTime::now()) / DAY),
            user: self.user.unwrap_or_default(),
            by,
        };
        let standing = context.enrolled().await?.standing;
        let rows = standing.usage(&request).await;
        standing.attachment().detach().await;
        let rows = rows.map_err(|error| errors::of_request(&error, "cannot list usage"))?;
        context.output.rows(&as_rows(columns, &rows))
    }
}

fn as_rows(columns: &'static [&'static str], rows: &[UsageRow]) -> Rows {
    let cells = rows.iter().map(|row| {
        vec![
            row.key.clone(),
            row.sessions.to_string(),
            row.sent.to_string(),
            row.received.to_string(),
        ]
    });
    let json = rows.iter().map(|row| {
        serde_json::json!({
            columns[0]: row.key,
            "sessions": row.sessions,
            "sent": row.sent,
            "received": row.received,
        })
    });
    Rows {
        columns,
        cells: cells.collect(),
        json: json.collect(),
    }
}
