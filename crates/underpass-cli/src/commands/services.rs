//! `underpass services`

use clap::{Args, Subcommand};
use underpass_proto::control::ServiceRow;
use underpass_seal::Fingerprint;

use super::retarget::Retarget;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, ToRelay};

/// List the services you may use, and say who may use yours
///
/// Columns in a pipe: name, owner, present or away, allowed users, description, full name,
/// fingerprint of the publisher, sealed or readable (whether the relay can read what clients without an
/// agent exchange with it).
#[derive(Debug, Args)]
pub struct Services {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Let a user use a service
    Allow(Whom),
    /// Take that back, at once
    Deny(Whom),
    /// Lead a service elsewhere, until its agent is started again
    ///
    /// New connections go to the new host at once; those that there are stay where they are, or, with
    /// --now, are cut on the host side and dialled anew, while the programs that use them keep theirs.
    /// A service that is published from this home can always be led elsewhere; one that another machine
    /// publishes if it was published there with --retarget-by and the fingerprint of this machine.
    Retarget(Retarget),
}

#[derive(Debug, Args)]
struct Whom {
    /// The user; `*` for every enrolled one
    who: String,
    /// The service
    name: String,
}

impl Services {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        if let Some(Action::Retarget(retarget)) = &self.action {
            return retarget.run(&context).await;
        }
        let standing = context.enrolled().await?.standing;
        let outcome = match &self.action {
            // The second was done above.
            None | Some(Action::Retarget(_)) => {
                let rows = standing.services().await;
                let rows =
                    rows.map_err(|error| errors::of_request(&error, "cannot list services"))?;
                context.output.rows(&as_rows(&rows))
            }
            Some(Action::Allow(Whom { who, name })) => {
                let done = standing.allow(who, name).await;
                done.map_err(|error| {
                    errors::of_request(&error, &format!("cannot allow {who} to use {name}"))
                })?;
                context.output.message(&format!("{who} may use {name}"));
                Ok(())
            }
            Some(Action::Deny(Whom { who, name })) => {
                let done = standing.deny(who, name).await;
                done.map_err(|error| {
                    errors::of_request(&error, &format!("cannot deny {who} {name}"))
                })?;
                context
                    .output
                    .message(&format!("{who} may not use {name} any more"));
                Ok(())
            }
        };
        standing.attachment().detach().await;
        outcome
    }
}

/// Whether the relay can read anything that is exchanged with a service.
fn secrecy(row: &ServiceRow) -> &'static str {
    if row.plain_http { "readable" } else { "sealed" }
}

fn as_rows(services: &[ServiceRow]) -> Rows {
    let state = |row: &ServiceRow| if row.present { "present" } else { "away" };
    let publisher = |row: &ServiceRow| Fingerprint::from_bytes(row.publisher).to_string();
    let cells = services.iter().map(|row| {
        vec![
            row.name.clone(),
            row.owner.clone(),
            state(row).to_owned(),
            row.allowed.join(","),
            row.description.clone(),
            row.full_name.clone(),
            publisher(row),
            secrecy(row).to_owned(),
        ]
    });
    let json = services.iter().map(|row| {
        serde_json::json!({
            "name": row.name,
            "owner": row.owner,
            "present": row.present,
            "mine": row.mine,
            "allowed": row.allowed,
            "description": row.description,
            "full_name": row.full_name,
            "publisher": publisher(row),
            "plain_http": row.plain_http,
        })
    });
    Rows {
        columns: &[
            "name",
            "owner",
            "state",
            "allowed",
            "description",
            "full name",
            "publisher",
            "relay",
        ],
        cells: cells.collect(),
        json: json.collect(),
    }
}
