//! `underpass users`

use clap::{Args, Subcommand};
use underpass_proto::control::{Standing as Enrolment, UserRole, UserRow};

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, Span, ToRelay};

/// List users, and invite further machines and users
///
/// Columns in a pipe: name, role, state, number of machines.
#[derive(Debug, Args)]
pub struct Users {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a one-time code with which a machine can log in as a user, new or known
    Invite {
        /// The user
        name: String,
        /// How long the code is good for, such as 2h or 7d; if not given, the relay decides
        #[arg(long, value_name = "TIME")]
        lifetime: Option<Span>,
    },
}

impl Users {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let enrolled = context.enrolled().await?;
        let standing = &enrolled.standing;
        let outcome = match &self.action {
            None => {
                let rows = standing.users().await;
                let rows = rows.map_err(|error| errors::of_request(&error, "cannot list users"))?;
                context.output.rows(&as_rows(&rows))
            }
            Some(Action::Invite { name, lifetime }) => {
                let lifetime_s = lifetime.map_or(0, |span| span.0.as_secs().max(1));
                let invited = standing.invite(name, lifetime_s).await;
                let invited = invited.map_err(|error| {
                    errors::of_request(&error, &format!("cannot invite {name}"))
                })?;
                let expires = std::time::Duration::from_secs(invited.expires_s);
                let address = format!("{}#{}", enrolled.known.url, enrolled.known.key);
                context.output.message(&format!(
                    "on {name}'s machine, within {}: underpass login {address} --invite CODE",
                    humantime::format_duration(expires)
                ));
                let json = serde_json::json!({
                    "user": name, "code": invited.code, "expires_s": invited.expires_s, "relay": address,
                });
                context.output.result(&invited.code, &json)
            }
        };
        standing.attachment().detach().await;
        outcome
    }
}

/// The word for a role.
pub fn role_word(role: UserRole) -> &'static str {
    match role {
        UserRole::User => "user",
        UserRole::Manager => "manager",
        UserRole::Administrator => "administrator",
    }
}

/// The word for whether somebody is let in.
pub fn state_word(state: Enrolment) -> &'static str {
    match state {
        Enrolment::Active => "active",
        Enrolment::Disabled => "disabled",
    }
}

fn as_rows(users: &[UserRow]) -> Rows {
    let cells = users.iter().map(|user| {
        vec![
            user.name.clone(),
            role_word(user.role).to_owned(),
            state_word(user.state).to_owned(),
            user.machines.to_string(),
        ]
    });
    let json = users.iter().map(|user| {
        serde_json::json!({
            "name": user.name,
            "role": role_word(user.role),
            "state": state_word(user.state),
            "machines": user.machines,
        })
    });
    Rows {
        columns: &["name", "role", "state", "machines"],
        cells: cells.collect(),
        json: json.collect(),
    }
}
