//! `underpass users limit`

use std::str::FromStr;

use clap::Args;
use underpass_agent::Standing;
use underpass_proto::control::{LimitRow, LimitRule};
use underpass_proto::limit::LimitKind;

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;

/// Show or set what a user may take up; without a limit to set, shows
///
/// Columns in a pipe: limit, how much is allowed (or unlimited), usual or exception, how much is taken up now.
#[derive(Debug, Args)]
pub struct Limit {
    /// The user
    name: String,
    /// How many attachments the user may have at a relay at a time
    #[arg(long, value_name = "NUMBER")]
    attachments: Option<Allowed>,
    /// How many sessions the user may have begun through a relay at a time
    #[arg(long, value_name = "NUMBER")]
    sessions: Option<Allowed>,
    /// How many channels the user may have, to services that a relay dials itself or by plain HTTP, at a time
    #[arg(long, value_name = "NUMBER")]
    channels: Option<Allowed>,
    /// How many bytes per second may pass in the user's sessions, each way, such as 500KiB
    #[arg(long, value_name = "SIZE")]
    bytes_per_second: Option<Allowed>,
    /// How many bytes may pass in the user's sessions in a month (UTC), such as 50GiB
    #[arg(long, value_name = "SIZE")]
    bytes_per_month: Option<Allowed>,
    /// Make no exceptions for the user: what is usual at the relay holds
    #[arg(long, conflicts_with_all = ["attachments", "sessions", "channels", "bytes_per_second", "bytes_per_month"])]
    none: bool,
    /// Show the user's limits
    #[arg(long)]
    show: bool,
}

/// How much is allowed: a number or a size, `usual`, or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Usual,
    Value(u64),
    Unlimited,
}

/// Units of sizes, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "usual" => return Ok(Self::Usual),
            "unlimited" => return Ok(Self::Unlimited),
            _ => {}
        }
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        let number = number.trim().parse::<u64>().ok();
        let value = number.and_then(|number| number.checked_mul(factor));
        value.map(Self::Value).ok_or_else(|| {
            "a number, a size such as 500KiB or 50GiB, usual, or unlimited is expected".to_owned()
        })
    }
}

impl Allowed {
    fn as_rule(self) -> (LimitRule, u64) {
        match self {
            Self::Usual => (LimitRule::Usual, 0),
            Self::Value(value) => (LimitRule::Value, value),
            Self::Unlimited => (LimitRule::Unlimited, 0),
        }
    }
}

impl Limit {
    /// What is to be set.
    fn wishes(&self) -> Vec<(LimitKind, Allowed)> {
        let wish = |kind: LimitKind| {
            let given = match kind {
                LimitKind::Attachments => self.attachments,
                LimitKind::Sessions => self.sessions,
                LimitKind::Channels => self.channels,
                LimitKind::BytesPerSecond => self.bytes_per_second,
                LimitKind::BytesPerMonth => self.bytes_per_month,
            };
            let wished = given.or(self.none.then_some(Allowed::Usual));
            wished.map(|allowed| (kind, allowed))
        };
        LimitKind::ALL.into_iter().filter_map(wish).collect()
    }

    pub(super) async fn run(&self, context: &Context, standing: &Standing) -> Result<(), Failure> {
        let name = &self.name;
        let wishes = self.wishes();
        for (kind, allowed) in &wishes {
            let (rule, value) = allowed.as_rule();
            let set = standing.set_limit(name, *kind, rule, value).await;
            set.map_err(|error| errors::of_request(&error, &format!("cannot limit {name}")))?;
        }
        if !wishes.is_empty() && !self.show {
            context
                .output
                .message(&format!("the limits of {name} are set"));
            return Ok(());
        }
        let rows = standing.limits(name).await;
        let rows = rows.map_err(|error| {
            errors::of_request(&error, &format!("cannot list limits of {name}"))
        })?;
        context.output.rows(&as_rows(&rows))
    }
}

fn as_rows(limits: &[LimitRow]) -> Rows {
    let allowed = |row: &LimitRow| match row.limited {
        true => row.value.to_string(),
        false => "unlimited".to_owned(),
    };
    let rule = |row: &LimitRow| match row.exception {
        true => "exception",
        false => "usual",
    };
    let cells = limits.iter().map(|row| {
        vec![
            row.limit.word().to_owned(),
            allowed(row),
            rule(row).to_owned(),
            // How fast somebody is at the moment nobody measures.
            match row.limit {
                LimitKind::BytesPerSecond => String::new(),
                _ => row.used.to_string(),
            },
        ]
    });
    let json = limits.iter().map(|row| {
        serde_json::json!({
            "limit": row.limit.word(),
            "allowed": row.limited.then_some(row.value),
            "exception": row.exception,
            "used": (row.limit != LimitKind::BytesPerSecond).then_some(row.used),
        })
    });
    Rows {
        columns: &["limit", "allowed", "rule", "used"],
        cells: cells.collect(),
        json: json.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_written_in_several_ways() {
        for (text, expected) in [
            ("7", Allowed::Value(7)),
            ("500KiB", Allowed::Value(512_000)),
            ("50 GiB", Allowed::Value(50 << 30)),
            ("usual", Allowed::Usual),
            ("unlimited", Allowed::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "-1", "many", "99999999TiB", "1.5GiB"] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }
}
