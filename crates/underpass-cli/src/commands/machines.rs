//! `underpass machines`

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use underpass_proto::control::MachineRow;
use underpass_seal::PublicKey;

use super::users::state_word;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, ToRelay};

/// List your machines and tokens (all, for a manager), and shut one out
///
/// Columns in a pipe: name, user, active or disabled, present or away, last seen (RFC 3339),
/// fingerprint, agent or token, expiry (RFC 3339).
#[derive(Debug, Args)]
pub struct Machines {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shut a machine out for good: its key is not accepted any more
    Revoke {
        /// The machine or token, as MACHINE or MACHINE.USER
        machine: String,
    },
}

impl Machines {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let standing = context.enrolled().await?.standing;
        let outcome = match &self.action {
            None => {
                let rows = standing.machines().await;
                let rows =
                    rows.map_err(|error| errors::of_request(&error, "cannot list machines"))?;
                context.output.rows(&as_rows(&rows))
            }
            Some(Action::Revoke { machine }) => {
                let done = standing.revoke(machine).await;
                done.map_err(|error| {
                    errors::of_request(&error, &format!("cannot revoke {machine}"))
                })?;
                context.output.message(&format!("{machine} is shut out"));
                Ok(())
            }
        };
        standing.attachment().detach().await;
        outcome
    }
}

/// The end of the year 9999, beyond which RFC 3339 has no words.
const END_OF_TIME: u64 = 253_402_300_800;

/// A moment in seconds since 1970 as text; empty for never, and for what is no date.
pub fn moment(seconds: u64) -> String {
    match seconds {
        0 | END_OF_TIME.. => String::new(),
        seconds => {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            humantime::format_rfc3339_seconds(time).to_string()
        }
    }
}

fn kind_word(row: &MachineRow) -> &'static str {
    if row.token { "token" } else { "agent" }
}

fn as_rows(machines: &[MachineRow]) -> Rows {
    let key = |row: &MachineRow| PublicKey(row.key).fingerprint().to_string();
    let cells = machines.iter().map(|row| {
        vec![
            row.name.clone(),
            row.user.clone(),
            state_word(row.state).to_owned(),
            if row.present { "present" } else { "away" }.to_owned(),
            moment(row.last_seen_s),
            key(row),
            kind_word(row).to_owned(),
            moment(row.expires_s),
        ]
    });
    let json = machines.iter().map(|row| {
        serde_json::json!({
            "name": row.name,
            "user": row.user,
            "state": state_word(row.state),
            "present": row.present,
            "last_seen": moment(row.last_seen_s),
            "key": key(row),
            "kind": kind_word(row),
            "expires": moment(row.expires_s),
        })
    });
    Rows {
        columns: &[
            "name",
            "user",
            "state",
            "presence",
            "last seen",
            "key",
            "kind",
            "expires",
        ],
        cells: cells.collect(),
        json: json.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn moments() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(u64::MAX), "");
        assert_eq!(moment(super::END_OF_TIME - 1), "9999-12-31T23:59:59Z");
        assert_eq!(moment(1_700_000_000), "2023-11-14T22:13:20Z");
    }
}
