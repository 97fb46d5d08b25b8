//! `underpass connections`

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use underpass_agent::Standing;
use underpass_proto::Code;
use underpass_proto::control::{ConnectionKind, ConnectionRow};

use super::events::moment;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::{Rows, printable};
use crate::settings::{Flags, ToRelay};

/// Between two looks, where connections are watched.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// List the sessions that live, watch them, and end one (your own, and those with your services; all, for a manager)
///
/// Every relay of the group is asked. Columns in a pipe: id, user, machine, address, service as NAME.OWNER, publishing
/// machine, kind (sealed, direct or plain-http), what carries it (to the relay, and on from it), paths, since (RFC 3339),
/// bytes from the client, bytes to it, round trip in milliseconds (empty while it is not known), relay.
#[derive(Debug, Args)]
pub struct Connections {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the sessions that live, the oldest first
    List,
    /// Show them as they come and go, until interrupted
    ///
    /// On a terminal the list is shown anew each second. In a pipe there is a line for each session: `now` for those that
    /// there are at first, then `begin` and `end`, each with the columns of the list behind a time and that word.
    Watch,
    /// End a session for good: both ends are told why, and it cannot be resumed
    Kick {
        /// The session, as the list names it
        id: String,
        /// Why, for those at both ends
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
}

/// A session, at one relay.
struct Found {
    relay: String,
    row: ConnectionRow,
}

impl Connections {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let relays = context.enrolled_at_each().await?;
        let outcome = match &self.action {
            Action::List => match ask(&relays).await {
                Ok(found) => context.output.rows(&as_rows(&found)),
                Err(failure) => Err(failure),
            },
            Action::Watch => watch(&context, &relays).await,
            Action::Kick { id, reason } => kick(&context, &relays, id, reason).await,
        };
        for (_, standing) in &relays {
            standing.attachment().detach().await;
        }
        outcome
    }
}

async fn ask(relays: &[(String, Standing)]) -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for (relay, standing) in relays {
        let rows = standing.connections().await;
        let rows = rows.map_err(|error| {
            errors::of_request(&error, &format!("cannot list connections of {relay}"))
        })?;
        all.extend(rows.into_iter().map(|row| Found {
            relay: relay.clone(),
            row,
        }));
    }
    all.sort_by_key(|found| found.row.since_ms);
    Ok(all)
}

async fn kick(
    context: &Context,
    relays: &[(String, Standing)],
    id: &str,
    reason: &str,
) -> Result<(), Failure> {
    let trying = format!("cannot end {id}");
    let mut ended = false;
    let mut failed = None;
    for (_, standing) in relays {
        match standing.kick(id, reason).await {
            Ok(()) => ended = true,
            // It may be at another one; and there it ends by itself, once one relay has said so.
            Err(error) if error.code() == Code::NoConnection => {}
            Err(error) => {
                failed.get_or_insert(errors::of_request(&error, &trying));
            }
        }
    }
    match (ended, failed) {
        (true, _) => {
            context.output.message(&format!("{id} is ended"));
            Ok(())
        }
        (false, Some(failure)) => Err(failure),
        (false, None) => Err(Failure::of_code(Code::NoConnection, &trying)),
    }
}

async fn watch(context: &Context, relays: &[(String, Standing)]) -> Result<(), Failure> {
    let mut known: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut word = "now";
    loop {
        let found = ask(relays).await?;
        if context.output.for_people() {
            context.output.rows_anew(&as_rows(&found))?;
        } else {
            let time = moment(millis(SystemTime::now()));
            let mut here = BTreeSet::new();
            for found in &found {
                let key = (found.relay.clone(), found.row.id.clone());
                if known.insert(key.clone(), cells(found)).is_none() {
                    tell(context, &time, word, &cells(found), as_json(found))?;
                }
                here.insert(key);
            }
            let gone: Vec<_> = known
                .keys()
                .filter(|key| !here.contains(*key))
                .cloned()
                .collect();
            for key in gone {
                let cells = known.remove(&key).unwrap_or_default();
                let (relay, id) = key;
                let json = json!({ "id": id, "relay": relay });
                tell(context, &time, "end", &cells, json)?;
            }
        }
        word = "begin";
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn tell(
    context: &Context,
    time: &str,
    word: &str,
    cells: &[String],
    json: Value,
) -> Result<(), Failure> {
    let cells: Vec<String> = cells.iter().map(|cell| printable(cell)).collect();
    let line = format!("{time}\t{word}\t{}", cells.join("\t"));
    let json = json!({ "time": time, "what": word, "connection": json });
    context.output.result(&line, &json)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn kind_word(kind: ConnectionKind) -> &'static str {
    match kind {
        ConnectionKind::Sealed => "sealed",
        ConnectionKind::Direct => "direct",
        ConnectionKind::PlainHttp => "plain-http",
    }
}

fn carriers(row: &ConnectionRow) -> String {
    match row.way.far_carrier.as_str() {
        "" => row.way.carrier.clone(),
        far => format!("{}, {far}", row.way.carrier),
    }
}

/// In milliseconds, with a tenth; empty while it is not known.
fn round_trip(micros: u64) -> String {
    match micros {
        0 => String::new(),
        micros => format!("{}.{}", micros / 1000, micros % 1000 / 100),
    }
}

fn cells(Found { relay, row }: &Found) -> Vec<String> {
    vec![
        row.id.clone(),
        row.client.user.clone(),
        row.client.machine.clone(),
        row.client.address.clone(),
        format!("{}.{}", row.service, row.owner),
        row.publisher.clone(),
        kind_word(row.kind).to_owned(),
        carriers(row),
        row.way.paths.to_string(),
        moment(row.since_ms),
        row.sent.to_string(),
        row.received.to_string(),
        round_trip(row.way.round_trip_us),
        relay.clone(),
    ]
}

fn as_json(Found { relay, row }: &Found) -> Value {
    json!({
        "id": row.id,
        "user": row.client.user,
        "machine": row.client.machine,
        "address": row.client.address,
        "service": row.service,
        "owner": row.owner,
        "publisher": row.publisher,
        "kind": kind_word(row.kind),
        "carrier": row.way.carrier,
        "far_carrier": row.way.far_carrier,
        "paths": row.way.paths,
        "since": moment(row.since_ms),
        "sent": row.sent,
        "received": row.received,
        "round_trip_us": row.way.round_trip_us,
        "relay": relay,
    })
}

fn as_rows(found: &[Found]) -> Rows {
    Rows {
        columns: &[
            "id",
            "user",
            "machine",
            "address",
            "service",
            "publisher",
            "kind",
            "carrier",
            "paths",
            "since",
            "sent",
            "received",
            "ms",
            "relay",
        ],
        cells: found.iter().map(cells).collect(),
        json: found.iter().map(as_json).collect(),
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::control::{ConnectionClient, ConnectionWay};

    use super::*;

    #[test]
    fn a_row_has_as_many_cells_as_columns() {
        let row = ConnectionRow {
            id: "0a0b0c0d".into(),
            kind: ConnectionKind::Sealed,
            client: ConnectionClient {
                user: "alice".into(),
                machine: "laptop".into(),
                address: String::new(),
            },
            service: "db".into(),
            owner: "bob".into(),
            publisher: "desk".into(),
            way: ConnectionWay {
                carrier: "h2".into(),
                far_carrier: "ws".into(),
                paths: 1,
                round_trip_us: 12_345,
            },
            since_ms: 1_700_000_000_123,
            sent: 7,
            received: 9,
        };
        let relay = "http://r".to_owned();
        let rows = as_rows(&[Found { relay, row }]);
        assert_eq!(rows.cells[0].len(), rows.columns.len());
        let line = rows.cells[0].join(" ");
        assert!(line.contains("db.bob desk sealed h2, ws 1 2023-11-14T22:13:20.123Z 7 9 12.3"));
    }
}
