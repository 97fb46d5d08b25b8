//! `underpass relay`

use std::path::PathBuf;
use std::pin::pin;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use underpass_carrier::show_fingerprint;
use underpass_relay::handed::Handed;
use underpass_relay::settings::{Setting, SettingError, Settings};
use underpass_relay::{AnnounceError, Relay as Server, RelayHandle, StartError};

use super::Context;
use super::group::Group;
use super::signals::{hang_ups, heard, stop_asked};
use crate::failure::{Failure, LISTEN};
use crate::ready;

/// Run a relay, until stopped
///
/// Prints its address with the fingerprint of its key and, as long as nobody administers it, a
/// one-time setup code for the first login. A fresh relay serves nobody.
///
/// The settings file (--config) holds the same settings as the flags, with underscores, and [[service]]
/// tables for services that the relay reaches itself: name, target, allow, compression. Variables are
/// named UNDERPASS_RELAY_ and the setting.
///
/// On SIGHUP the list of --announce is read again, and so are --certificate-authorities and
/// --certificate-revocations, which are read again when they change as well.
///
/// Sockets that a service manager hands over (LISTEN_FDS) take the place of the addresses to listen on;
/// a relay that is told to stop then asks its agents to move to the process that uses them next.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Relay {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    given: Given,
    /// The certificate of --tls-listen is made by the relay itself, which also happens when no
    /// --tls-cert is given
    #[arg(long, value_name = "self-signed", value_parser = ["self-signed"], conflicts_with = "tls_cert", requires = "tls_listen")]
    tls: Option<String>,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    /// Set from --config, which all commands have
    #[arg(skip)]
    config: Option<PathBuf>,
}

/// What is done instead of running one.
#[derive(Debug, Subcommand)]
enum Other {
    Group(Group),
}

/// The relay's settings that were given as flags: name and text.
#[derive(Debug)]
struct Given(Vec<(&'static str, String)>);

impl Relay {
    /// Takes up the settings file's name.
    pub fn with_config(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// Runs the relay until it is told to stop.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        if let Some(Other::Group(group)) = self.other {
            return group.run(&context);
        }
        let settings = self.settings(&context, |name| std::env::var(name).ok())?;
        let mut stop = pin!(stop_asked()?);
        // Without a file there is nothing to read again.
        let read_again = settings.announce.is_some() || settings.certificate_authorities.is_some();
        let again = read_again.then(hang_ups);
        let mut again = again.transpose()?;
        let handed = Handed::from_environment()
            .map_err(|error| Failure::usage(format!("the relay cannot start: {error}")))?;
        let relay = Server::start_with(settings, handed, None)
            .await
            .map_err(|error| of_start(&error))?;
        tell_ready(&context, &relay)?;
        ready::signal(self.ready_fd)?;
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(()) = heard(&mut again) => if let Err(error) = relay.reload() {
                    tracing::error!("{error}");
                }
            }
        }
        tracing::info!("shutting down");
        ready::tell_manager("STOPPING=1");
        relay.shutdown().await;
        Ok(())
    }

    fn settings(
        &self,
        context: &Context,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings, Failure> {
        let mut settings = Settings {
            data: context.home.relay_data(),
            ..Settings::default()
        };
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::file(format!("cannot read {}: {error}", path.display()))
            })?;
            let taken = settings.read_toml(&text);
            taken.map_err(|error| of_setting(&error, &path.display().to_string()))?;
        }
        for setting in Settings::table() {
            let name = format!("UNDERPASS_RELAY_{}", setting.name.to_uppercase());
            if let Some(text) = variable(&name) {
                let taken = settings.set(setting.name, &text);
                taken.map_err(|error| of_setting(&error, &name))?;
            }
        }
        for (name, text) in &self.given.0 {
            let taken = settings.set(name, text);
            taken.map_err(|error| of_setting(&error, &format!("--{}", name.replace('_', "-"))))?;
        }
        Ok(settings)
    }
}

fn of_setting(error: &SettingError, place: &str) -> Failure {
    Failure::usage(format!("{place}: {error}"))
}

fn of_start(error: &StartError) -> Failure {
    let failure = |it: Failure| it.with_what(format!("the relay cannot start: {error}"));
    match error {
        StartError::Setting(_) => failure(Failure::usage("")),
        StartError::Announce(AnnounceError::List { error, .. }) => {
            failure(Failure::of_code(error.code(), ""))
        }
        StartError::Listen(_) => failure(Failure::local(&LISTEN, ""))
            .with_next("choose another address with --listen ADDRESS:PORT"),
        _ => failure(Failure::file("")),
    }
}

fn tell_ready(context: &Context, relay: &RelayHandle) -> Result<(), Failure> {
    let setup = relay.setup_code();
    let tls = relay
        .tls_fingerprint()
        .map(|print| show_fingerprint(&print));
    if let Some(print) = &tls {
        context
            .output
            .message(&format!("certificate (SHA-256): {print}"));
    }
    let first = relay.urls().first().cloned().unwrap_or_default();
    for address in relay.quic_addresses() {
        context
            .output
            .message(&format!("QUIC on UDP address {address}"));
    }
    if let Some(print) = relay.authority_certificate() {
        context.output.message(&format!(
            "the ticket authority has to know this relay: underpass authority --allow {print}"
        ));
    }
    if let Some(code) = &setup {
        context.output.message(&format!(
            "nobody administers this relay yet; the first login: underpass login {first} --setup {code}"
        ));
    }
    context.output.result(
        &format!("relay at {}", relay.urls().join(" ")),
        &serde_json::json!({
            "urls": relay.urls(),
            "key": relay.fingerprint().to_string(),
            "certificate_sha256": tls,
            "authority_allow": relay.authority_certificate().map(|it| it.to_string()),
            "quic": relay.quic_addresses(),
            "setup": setup,
        }),
    )
}

fn argument(setting: &Setting) -> Arg {
    let default = match setting.default.as_str() {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let action = if setting.several {
        ArgAction::Append
    } else {
        ArgAction::Set
    };
    Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .value_name(setting.kind)
        .help(format!(
            "{}{default}",
            setting.doc.trim().trim_end_matches('.')
        ))
        .action(action)
}

/// Defaults that depend on where the command runs are told in other words.
fn shown(mut setting: Setting) -> Setting {
    if setting.name == "data" {
        setting.default = "the folder relay below UNDERPASS_HOME".to_owned();
    }
    setting
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Settings::table().into_iter().filter_map(|setting| {
            let texts: Vec<&str> = matches
                .get_many::<String>(setting.name)?
                .map(String::as_str)
                .collect();
            Some((setting.name, texts.join(",")))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(
            Settings::table()
                .into_iter()
                .map(|setting| argument(&shown(setting))),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
