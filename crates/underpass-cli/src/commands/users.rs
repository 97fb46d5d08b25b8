//! `underpass users`

use clap::{Args, Subcommand};
use underpass_agent::Standing;
use underpass_proto::Code;
use underpass_proto::control::{
    MachineRow, Publishing, Standing as Enrolment, UserChange, UserRole, UserRow,
};
use underpass_relay::plain;

use super::limit::Limit;
use super::machines::moment;
use super::password::{PasswordFrom, Purpose};
use super::{Context, Enrolled, errors};
use crate::failure::Failure;
use crate::output::Rows;
use crate::settings::{Flags, Span, ToRelay};

/// List users, decide about them, invite, and make tokens for programs without an agent
///
/// Columns in a pipe: name, role, state (active, disabled or waiting), number of machines, whether what the
/// user publishes waits for approval (usual, free or approval).
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
    /// Let a user in who has registered and waits
    Approve {
        /// The user
        name: String,
    },
    /// Do not let a user in who has registered and waits, and forget them
    Deny {
        /// The user
        name: String,
    },
    /// Shut a user out: all that is open ends, and no machine of theirs is accepted
    Disable {
        /// The user
        name: String,
    },
    /// Let a user in again who was disabled
    Enable {
        /// The user
        name: String,
    },
    /// Give a user another role; only administrators may
    Role {
        /// The user
        name: String,
        /// user, manager or administrator
        #[arg(value_parser = ["user", "manager", "administrator"])]
        role: String,
    },
    /// Say whether what a user publishes from now on waits for a manager's approval
    Publishing {
        /// The user
        name: String,
        /// usual: as the relay is set (`approve_services`); free: it does not; approval: it does
        #[arg(value_parser = ["usual", "free", "approval"])]
        rule: String,
    },
    Limit(Limit),
    /// Set or change your own password
    Password {
        #[command(flatten)]
        password: PasswordFrom,
    },
    Token(Token),
}

/// Make a token, with which a program without an agent can use services by plain HTTP
///
/// The token is printed once and kept nowhere. Whoever has it can use what its user may use, as far as
/// the owners of services let the relay read what passes. Columns of --list in a pipe: name, user,
/// active or disabled, expiry (RFC 3339, empty for none).
#[derive(Debug, Args)]
struct Token {
    /// The token's name, which no machine of the user has
    #[arg(required_unless_present_any = ["list", "revoke"])]
    name: Option<String>,
    /// Whose token it is; if not given, your own
    #[arg(long, value_name = "USER", requires = "name")]
    user: Option<String>,
    /// How long it is good for, such as 12h or 30d; if not given, until it is revoked
    #[arg(long, value_name = "TIME", requires = "name")]
    expires: Option<Span>,
    /// List tokens instead
    #[arg(long, conflicts_with_all = ["name", "revoke"])]
    list: bool,
    /// Revoke a token instead, given as NAME or NAME.USER
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    revoke: Option<String>,
}

impl Token {
    async fn run(&self, context: &Context, enrolled: &Enrolled) -> Result<(), Failure> {
        match (&self.name, &self.revoke) {
            (Some(name), _) => self.make(context, enrolled, name).await,
            (None, Some(name)) => revoke(context, &enrolled.standing, name).await,
            (None, None) => {
                let rows = tokens(&enrolled.standing).await?;
                context.output.rows(&token_rows(&rows))
            }
        }
    }

    async fn make(
        &self,
        context: &Context,
        enrolled: &Enrolled,
        name: &str,
    ) -> Result<(), Failure> {
        let token = plain::Token::draw();
        let lifetime_s = self.expires.map_or(0, |span| span.0.as_secs().max(1));
        let user = self.user.as_deref().unwrap_or("");
        let key = token.key().public();
        let made = enrolled.standing.make_token(user, name, key, lifetime_s);
        made.await.map_err(|error| {
            errors::of_request(&error, &format!("cannot make the token {name}"))
        })?;
        let url = &enrolled.known.url;
        context.output.message(&format!(
            "try it with: curl -d '' -H 'Authorization: Bearer TOKEN' '{url}/plain/open?service=NAME'"
        ));
        let token = token.to_string();
        let json = serde_json::json!({
            "name": name, "token": token, "expires_s": lifetime_s, "relay": url,
        });
        context.output.result(&token, &json)
    }
}

/// What is done with one user.
async fn decide(context: &Context, standing: &Standing, action: &Action) -> Result<(), Failure> {
    let (name, change, done) = match action {
        Action::Approve { name } => (name, UserChange::Approve, "is let in"),
        Action::Deny { name } => (name, UserChange::Deny, "is not let in, and forgotten"),
        Action::Disable { name } => (name, UserChange::Disable, "is shut out"),
        Action::Enable { name } => (name, UserChange::Enable, "is let in again"),
        Action::Role { name, role } => {
            let meant = match role.as_str() {
                "administrator" => UserRole::Administrator,
                "manager" => UserRole::Manager,
                _ => UserRole::User,
            };
            let changed = standing.set_role(name, meant).await;
            changed.map_err(|error| {
                errors::of_request(&error, &format!("cannot make {name} {role}"))
            })?;
            context.output.message(&format!("{name} is {role} now"));
            return Ok(());
        }
        Action::Publishing { name, rule } => {
            let meant = match rule.as_str() {
                "free" => Publishing::Free,
                "approval" => Publishing::Approval,
                _ => Publishing::Usual,
            };
            let changed = standing.set_publishing(name, meant).await;
            changed.map_err(|error| {
                errors::of_request(&error, &format!("cannot decide about {name}"))
            })?;
            context.output.message(&format!("{name} publishes: {rule}"));
            return Ok(());
        }
        // Done elsewhere.
        Action::Invite { .. } | Action::Limit(_) | Action::Password { .. } | Action::Token(_) => {
            return Ok(());
        }
    };
    let changed = standing.change_user(name, change).await;
    changed.map_err(|error| errors::of_request(&error, &format!("cannot decide about {name}")))?;
    context.output.message(&format!("{name} {done}"));
    Ok(())
}

async fn set_password(
    context: &Context,
    standing: &Standing,
    from: &PasswordFrom,
) -> Result<(), Failure> {
    let trying = "cannot set the password";
    let me = standing.who_am_i().await;
    let me = me.map_err(|error| errors::of_request(&error, trying))?.user;
    let password = from.read(&me, Purpose::New)?;
    let set = standing.set_password(&me, &password).await;
    set.map_err(|error| errors::of_password(&error, trying))?;
    context
        .output
        .message(&format!("the password of {me} is set"));
    Ok(())
}

async fn tokens(standing: &Standing) -> Result<Vec<MachineRow>, Failure> {
    let rows = standing.machines().await;
    let mut rows = rows.map_err(|error| errors::of_request(&error, "cannot list tokens"))?;
    rows.retain(|row| row.token);
    Ok(rows)
}

async fn revoke(context: &Context, standing: &Standing, name: &str) -> Result<(), Failure> {
    let trying = format!("cannot revoke {name}");
    let failed = |error| errors::of_request(&error, &trying);
    let full = match name.split_once('.') {
        Some(_) => name.to_owned(),
        None => format!("{name}.{}", standing.who_am_i().await.map_err(failed)?.user),
    };
    // Said of tokens, it must not shut a machine out that has the name.
    let is_meant = |row: &MachineRow| {
        row.state == Enrolment::Active && format!("{}.{}", row.name, row.user) == full
    };
    if !tokens(standing).await?.iter().any(is_meant) {
        let failure = Failure::of_code(Code::NoMachine, &trying);
        return Err(failure
            .with_what(format!("there is no token {full}"))
            .with_next("list tokens with: underpass users token --list"));
    }
    standing.revoke(&full).await.map_err(failed)?;
    context.output.message(&format!("{name} is revoked"));
    Ok(())
}

fn token_rows(tokens: &[MachineRow]) -> Rows {
    let cells = tokens.iter().map(|row| {
        vec![
            row.name.clone(),
            row.user.clone(),
            state_word(row.state).to_owned(),
            moment(row.expires_s),
        ]
    });
    let json = tokens.iter().map(|row| {
        serde_json::json!({
            "name": row.name,
            "user": row.user,
            "state": state_word(row.state),
            "expires": moment(row.expires_s),
        })
    });
    Rows {
        columns: &["name", "user", "state", "expires"],
        cells: cells.collect(),
        json: json.collect(),
    }
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
            Some(Action::Limit(limit)) => limit.run(&context, standing).await,
            Some(Action::Token(token)) => token.run(&context, &enrolled).await,
            Some(Action::Password { password }) => set_password(&context, standing, password).await,
            Some(action) => decide(&context, standing, action).await,
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
        Enrolment::Waiting => "waiting",
    }
}

/// The word for whether what somebody publishes waits for approval.
fn publishing_word(publishing: Publishing) -> &'static str {
    match publishing {
        Publishing::Usual => "usual",
        Publishing::Free => "free",
        Publishing::Approval => "approval",
    }
}

fn as_rows(users: &[UserRow]) -> Rows {
    let cells = users.iter().map(|user| {
        vec![
            user.name.clone(),
            role_word(user.role).to_owned(),
            state_word(user.state).to_owned(),
            user.machines.to_string(),
            publishing_word(user.publishing).to_owned(),
        ]
    });
    let json = users.iter().map(|user| {
        serde_json::json!({
            "name": user.name,
            "role": role_word(user.role),
            "state": state_word(user.state),
            "machines": user.machines,
            "publishing": publishing_word(user.publishing),
        })
    });
    Rows {
        columns: &["name", "role", "state", "machines", "publishing"],
        cells: cells.collect(),
        json: json.collect(),
    }
}
