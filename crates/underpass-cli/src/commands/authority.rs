//! `underpass authority`

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;

use clap::Args;
use underpass_relay::authority::{
    AuthorityHandle, AuthorityProcess, ProcessError, ProcessSettings,
};
use underpass_seal::{Fingerprint, ParseFingerprintError};

use super::Context;
use super::signals::{hang_ups, heard, stop_asked};
use crate::failure::{Failure, LISTEN};
use crate::ready;

/// Run a ticket authority of its own for relays that share it, until stopped
///
/// Prints its address with the fingerprint of its certificate, which relays are given as --authority. It
/// answers the relays that it is told to allow, and nobody else; each relay prints its fingerprint when it
/// starts with --authority. The file of --allow-file is read again at SIGHUP; who is not on the list any more is
/// cut off.
///
/// The settings file (--config) holds the same settings as the flags, with underscores. Variables are named
/// UNDERPASS_AUTHORITY_ and the flag; several values are separated by commas.
#[derive(Debug, Args)]
pub struct Authority {
    /// Where relays reach it; may be given several times [default: 0.0.0.0:8484]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "UNDERPASS_AUTHORITY_LISTEN",
        hide_env = true,
        value_delimiter = ','
    )]
    listen: Vec<SocketAddr>,
    /// The folder with its certificate and its tickets; if not given, the folder authority below
    /// UNDERPASS_HOME
    #[arg(
        long,
        value_name = "PATH",
        env = "UNDERPASS_AUTHORITY_DATA",
        hide_env = true
    )]
    data: Option<PathBuf>,
    /// The fingerprint of a relay that may ask; given once for each relay
    #[arg(
        long,
        value_name = "FINGERPRINT",
        env = "UNDERPASS_AUTHORITY_ALLOW",
        hide_env = true,
        value_delimiter = ','
    )]
    allow: Vec<Fingerprint>,
    /// A file with more of them, one in each line; what follows a # is a comment
    #[arg(
        long,
        value_name = "PATH",
        env = "UNDERPASS_AUTHORITY_ALLOW_FILE",
        hide_env = true
    )]
    allow_file: Option<PathBuf>,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    /// Set from --config, which all commands have
    #[arg(skip)]
    config: Option<PathBuf>,
}

/// Where relays reach it unless something else is said.
const LISTEN_AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8484);

impl Authority {
    /// Takes up the settings file's name.
    pub fn with_config(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// Takes from the settings file what neither a flag nor a variable gave.
    fn complete(&mut self) -> Result<(), Failure> {
        if let Some(path) = self.config.clone() {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::file(format!("cannot read {}: {error}", path.display()))
            })?;
            let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
            self.take_toml(&text).map_err(wrong)?;
        }
        if self.listen.is_empty() {
            self.listen.push(LISTEN_AT);
        }
        Ok(())
    }

    fn take_toml(&mut self, text: &str) -> Result<(), String> {
        let file: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| error.message().to_owned())?;
        for (key, value) in &file {
            let texts =
                texts(value).ok_or_else(|| format!("{key}: not a text or list of texts"))?;
            match key.as_str() {
                "listen" => fill(&mut self.listen, key, &texts)?,
                "allow" => fill(&mut self.allow, key, &texts)?,
                "data" => fill_one(&mut self.data, key, &texts)?,
                "allow_file" => fill_one(&mut self.allow_file, key, &texts)?,
                _ => {
                    return Err(format!(
                        "there is no setting {key:?}; those of an authority are: listen, data, allow, allow_file"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Runs it until it is told to stop.
    pub async fn run(mut self, context: Context) -> Result<(), Failure> {
        self.complete()?;
        let settings = ProcessSettings {
            listen: self.listen,
            data: self.data.unwrap_or_else(|| context.home.authority_data()),
            allow: allowed(&self.allow, self.allow_file.as_deref())?,
        };
        let count = settings.allow.len();
        let mut stop = pin!(stop_asked()?);
        // Without a file there is nothing to read again.
        let mut again = self.allow_file.as_ref().map(|_| hang_ups()).transpose()?;
        let authority = AuthorityProcess::start(settings)
            .await
            .map_err(|error| of_start(&error))?;
        tell_ready(&context, &authority, count)?;
        ready::signal(self.ready_fd)?;
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(()) = heard(&mut again) => match allowed(&self.allow, self.allow_file.as_deref()) {
                    Ok(relays) => {
                        tracing::info!("the list of relays was read again; on it: {}", relays.len());
                        authority.allow(&relays);
                    }
                    Err(error) => tracing::error!("who may ask stays as it was: {}", error.what),
                },
            }
        }
        tracing::info!("shutting down");
        ready::tell_manager("STOPPING=1");
        authority.shutdown().await;
        Ok(())
    }
}

/// What stands for a setting in a file: one text, or several.
fn texts(value: &toml::Value) -> Option<Vec<&str>> {
    match value {
        toml::Value::Array(values) => values.iter().map(toml::Value::as_str).collect(),
        value => Some(vec![value.as_str()?]),
    }
}

/// Takes values up where none were given; they are checked in any case.
fn fill<T: FromStr<Err: Display>>(
    given: &mut Vec<T>,
    key: &str,
    texts: &[&str],
) -> Result<(), String> {
    let read = texts.iter().map(|text| {
        let value = text.parse();
        value.map_err(|error| format!("{key}: {text:?}: {error}"))
    });
    let read = read.collect::<Result<Vec<T>, String>>()?;
    if given.is_empty() {
        *given = read;
    }
    Ok(())
}

/// The same of a setting with one value.
fn fill_one(given: &mut Option<PathBuf>, key: &str, texts: &[&str]) -> Result<(), String> {
    let [text] = texts else {
        return Err(format!("{key}: one path is expected"));
    };
    given.get_or_insert_with(|| PathBuf::from(text));
    Ok(())
}

/// Those that were given, and those in the file.
fn allowed(given: &[Fingerprint], file: Option<&Path>) -> Result<Vec<Fingerprint>, Failure> {
    let mut relays = given.to_vec();
    let Some(file) = file else { return Ok(relays) };
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::file(format!("cannot read {shown}: {error}")))?;
    for (line, number) in text.lines().zip(1..) {
        let print = line.split('#').next().unwrap_or_default().trim();
        if !print.is_empty() {
            let print = print.parse();
            relays.push(print.map_err(|error: ParseFingerprintError| {
                Failure::usage(format!("{shown}, line {number}: {error}"))
            })?);
        }
    }
    Ok(relays)
}

fn of_start(error: &ProcessError) -> Failure {
    let what = format!("the ticket authority cannot start: {error}");
    match error {
        ProcessError::Listen { .. } => Failure::local(&LISTEN, what)
            .with_next("choose another address with --listen ADDRESS:PORT"),
        _ => Failure::file(what),
    }
}

fn tell_ready(
    context: &Context,
    authority: &AuthorityHandle,
    allowed: usize,
) -> Result<(), Failure> {
    if allowed == 0 {
        context.output.message(
            "no relay may ask yet; give the fingerprints that relays print as --allow FINGERPRINT, or in --allow-file",
        );
    }
    let certificate = authority.certificate();
    // An address that stands for all of them is shown as this machine.
    let shown = authority.addresses().iter().map(|address| {
        let place = match address.ip().is_unspecified() {
            true => format!("localhost:{}", address.port()),
            false => address.to_string(),
        };
        format!("{place}#{certificate}")
    });
    let shown: Vec<String> = shown.collect();
    context.output.result(
        &format!("ticket authority at {}", shown.join(" ")),
        &serde_json::json!({
            "addresses": shown,
            "certificate": certificate.to_string(),
            "allowed": allowed,
        }),
    )
}
