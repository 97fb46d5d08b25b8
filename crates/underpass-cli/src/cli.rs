//! The command line as a whole.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    Context, authority, chat, completions, connect, connections, doctor, events, login, machines,
    meet, names, nc, peers, proxy, publish, receive, redirector, relay, run, send, services,
    status, usage, users,
};
use crate::failure::Failure;
use crate::logging;
use crate::settings::{Everywhere, Flags};

/// Carry any TCP service past firewalls and proxies that only let web traffic out
///
/// Two machines, each behind its own firewall, meet at a relay. What they exchange is sealed from
/// end to end and survives every break of the path.
#[derive(Debug, Parser)]
#[command(name = "underpass", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub everywhere: Flags<Everywhere>,
    /// The settings file (TOML); if not given, config.toml in the home folder where it exists
    ///
    /// [env: UNDERPASS_CONFIG]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "UNDERPASS_CONFIG",
        hide_env = true
    )]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Keys and settings are kept in UNDERPASS_HOME, or in the usual folders of the user (XDG).
Flags win over UNDERPASS_... variables, those over the settings file, that over defaults.
Exit codes: 0 ok, 1 failed, 2 usage, 3 denied, 4 not found, 5 unreachable, 6 waiting for approval,
7 ended by a manager; run passes on what the program exits with.";

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    Relay(relay::Relay),
    Authority(authority::Authority),
    Login(login::Login),
    Publish(publish::Publish),
    Connect(connect::Connect),
    Nc(nc::Nc),
    Meet(meet::Meet),
    Run(run::Run),
    Proxy(proxy::Proxy),
    Send(send::Send),
    Receive(receive::Receive),
    Chat(chat::Chat),
    Redirector(redirector::Redirector),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Services(services::Services),
    Names(names::Names),
    Peers(peers::Peers),
    Users(users::Users),
    Machines(machines::Machines),
    Events(events::Events),
    Connections(connections::Connections),
    Usage(usage::Usage),
    Completions(completions::Completions),
}

impl Cli {
    /// Whether the flag for JSON was given: asked before settings can be read.
    pub fn wants_json(&self) -> bool {
        self.everywhere
            .given
            .iter()
            .any(|(name, _)| *name == "json")
    }
}

impl Command {
    /// The flags of settings that were given after the command.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Login(it) => it.flags.given.clone(),
            Self::Publish(it) => it.flags.given.clone(),
            Self::Connect(it) => it.flags.given.clone(),
            Self::Nc(it) => it.flags.given.clone(),
            Self::Meet(it) => it.flags.given.clone(),
            Self::Run(it) => it.flags.given.clone(),
            Self::Proxy(it) => it.flags.given.clone(),
            Self::Send(it) => it.flags.given.clone(),
            Self::Receive(it) => it.flags.given.clone(),
            Self::Chat(it) => it.flags.given.clone(),
            Self::Redirector(it) => it.flags.given.clone(),
            Self::Status(it) => it.flags.given.clone(),
            Self::Doctor(it) => it.flags.given.clone(),
            Self::Services(it) => it.flags.given.clone(),
            Self::Names(it) => it.flags.given.clone(),
            Self::Peers(it) => it.flags.given.clone(),
            Self::Users(it) => it.flags.given.clone(),
            Self::Machines(it) => it.flags.given.clone(),
            Self::Events(it) => it.flags.given.clone(),
            Self::Connections(it) => it.flags.given.clone(),
            Self::Usage(it) => it.flags.given.clone(),
            Self::Relay(_) | Self::Authority(_) | Self::Completions(_) => Vec::new(),
        }
    }

    /// Whether the process turns into another program, which must find the limits that it would find without us.
    pub fn becomes_another(&self) -> bool {
        matches!(self, Self::Run(_))
    }

    /// What is logged where nothing else is said.
    pub fn usual_log(&self) -> &'static str {
        match self {
            Self::Relay(_)
            | Self::Authority(_)
            | Self::Publish(_)
            | Self::Receive(_)
            | Self::Connect(_)
            | Self::Proxy(_)
            | Self::Redirector(_) => logging::LONG,
            _ => logging::SHORT,
        }
    }

    /// Hands the settings file to the command whose file is of its own kind, and to those that start another.
    pub fn with_config(self, config: Option<PathBuf>) -> Self {
        match self {
            Self::Relay(it) => Self::Relay(it.with_config(config)),
            Self::Authority(it) => Self::Authority(it.with_config(config)),
            Self::Run(it) => Self::Run(it.with_config(config)),
            Self::Redirector(it) => Self::Redirector(it.with_config(config)),
            other => other,
        }
    }

    /// Does it.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        match self {
            Self::Relay(it) => it.run(context).await,
            Self::Authority(it) => it.run(context).await,
            Self::Login(it) => it.run(context).await,
            Self::Publish(it) => it.run(context).await,
            Self::Connect(it) => it.run(context).await,
            Self::Nc(it) => it.run(context).await,
            Self::Meet(it) => it.run(context).await,
            Self::Run(it) => it.run(context).await,
            Self::Proxy(it) => it.run(context).await,
            Self::Send(it) => it.run(context).await,
            Self::Receive(it) => it.run(context).await,
            Self::Chat(it) => it.run(context).await,
            Self::Redirector(it) => it.run(context).await,
            Self::Status(it) => it.run(context).await,
            Self::Doctor(it) => it.run(context).await,
            Self::Services(it) => it.run(context).await,
            Self::Names(it) => it.run(context).await,
            Self::Peers(it) => it.run(context).await,
            Self::Users(it) => it.run(context).await,
            Self::Machines(it) => it.run(context).await,
            Self::Events(it) => it.run(context).await,
            Self::Connections(it) => it.run(context).await,
            Self::Usage(it) => it.run(context).await,
            Self::Completions(it) => it.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        for line in [
            &[
                "underpass",
                "--json",
                "services",
                "allow",
                "bob",
                "db",
                "--relay",
                "http://r",
            ][..],
            &[
                "underpass",
                "services",
                "--relay",
                "http://r",
                "allow",
                "bob",
                "db",
                "--json",
            ],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(cli.wants_json(), "{line:?}");
            assert_eq!(
                cli.command.flags(),
                [("relay", "http://r".to_owned())],
                "{line:?}"
            );
        }
    }
}
