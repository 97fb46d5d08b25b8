//! `underpass services`

use clap::{Args, Subcommand};
use underpass_agent::Standing;
use underpass_proto::control::{ServiceDecision, ServiceRow, ServiceState};
use underpass_seal::Fingerprint;

use super::retarget::Retarget;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, ToRelay};

/// List the services you may use, and say who may use yours
///
/// Columns in a pipe: name, owner, state (present, away, waiting or refused), who is allowed, description, full name,
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
    /// Let somebody use a service
    Allow(Whom),
    /// Take that back, at once
    ///
    /// What is open is cut within a second, and nothing new is opened. Of several entries that fit, the one for
    /// the machine decides over the one for its user, that over the one for the role, and that over the one
    /// for everybody.
    Deny(Whom),
    /// Let a service be used that waits for a manager's approval; only managers may
    Approve(Named),
    /// Let nobody use a service, whether it waits for approval or was approved; only managers may
    ///
    /// Its owner can withdraw it and publish it again; then it waits for approval again. A service that is
    /// approved and refused at the same moment is refused.
    Refuse(Named),
    /// Forget a service of yours, and who may use it; what is open is cut
    Withdraw(Named),
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
    /// A user; a machine, by the fingerprint that `underpass status` shows there; all users of a role, as @user, @manager
    /// or @administrator; `*` for every enrolled user
    who: String,
    /// The service
    name: String,
}

#[derive(Debug, Args)]
struct Named {
    /// The service, as NAME or NAME.OWNER
    name: String,
}

/// Does what is done with one service.
async fn change(context: &Context, standing: &Standing, action: &Action) -> Result<(), Failure> {
    let (done, trying, said) = match action {
        Action::Allow(Whom { who, name }) => (
            standing.allow(who, name).await,
            format!("cannot allow {who} to use {name}"),
            format!("{who} may use {name}"),
        ),
        Action::Deny(Whom { who, name }) => (
            standing.deny(who, name).await,
            format!("cannot deny {who} {name}"),
            format!("{who} may not use {name} any more"),
        ),
        Action::Approve(Named { name }) => (
            standing
                .decide_service(name, ServiceDecision::Approve)
                .await,
            format!("cannot approve {name}"),
            format!("{name} is approved"),
        ),
        Action::Refuse(Named { name }) => (
            standing.decide_service(name, ServiceDecision::Refuse).await,
            format!("cannot refuse {name}"),
            format!("{name} is refused"),
        ),
        Action::Withdraw(Named { name }) => (
            standing.withdraw(name).await,
            format!("cannot withdraw {name}"),
            format!("{name} is withdrawn"),
        ),
        // Done elsewhere.
        Action::Retarget(_) => return Ok(()),
    };
    done.map_err(|error| errors::of_request(&error, &trying))?;
    context.output.message(&said);
    Ok(())
}

impl Services {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        if let Some(Action::Retarget(retarget)) = &self.action {
            return retarget.run(&context).await;
        }
        let standing = context.enrolled().await?.standing;
        let outcome = match &self.action {
            None => {
                let rows = standing.services().await;
                let rows =
                    rows.map_err(|error| errors::of_request(&error, "cannot list services"))?;
                context.output.rows(&as_rows(&rows))
            }
            Some(action) => change(&context, &standing, action).await,
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
    let state = |row: &ServiceRow| match (row.state, row.present) {
        (ServiceState::Waiting, _) => "waiting",
        (ServiceState::Refused, _) => "refused",
        (ServiceState::Active, true) => "present",
        (ServiceState::Active, false) => "away",
    };
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
            "state": state(row),
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
