//! `underpass redirector`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use underpass_agent::connect::PinnedTrust;
use underpass_agent::redirector::{RedirectorError, place};
use underpass_agent::status::{Board, StatusServer};
use underpass_agent::{Connector, Redirector as Serving};

use super::signals::stop_asked;
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::{Failure, REDIRECTOR};
use crate::ready;
use crate::settings::{Flags, OnSession, Span};

/// Serve programs that are started with `underpass run`, until stopped
///
/// `underpass run` starts one when none is there, which ends when nobody needs it any more. There is one for each home and
/// relay. Started by hand it stays, and takes the flags that its way to the relay needs.
#[derive(Debug, Args)]
pub struct Redirector {
    /// End when no program has needed it for this long
    #[arg(long, value_name = "TIME")]
    linger: Option<Span>,
    /// Return when it is ready, and leave it behind
    #[arg(long)]
    background: bool,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnSession>,
    /// The settings file, which the one in the background needs too.
    #[arg(skip)]
    config: Option<PathBuf>,
}

impl Redirector {
    /// The same with the settings file that was given.
    pub fn with_config(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// Serves until it is told to stop, is needed no more, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        if self.background {
            return self.leave_behind(&context);
        }
        let stop = stop_asked()?;
        let board = Board::new("redirector");
        let EnrolledAtAll { standings, first } = tokio::select! {
            enrolled = context.enrolled_at_all(false) => enrolled?,
            () = stop_asked()? => return Ok(()),
        };
        board.show_standings(standings.clone());
        let _status = StatusServer::start(&context.home, board.clone())?;
        tokio::spawn(log_notices(standings.clone()));
        let trust = PinnedTrust::new(context.home.clone(), first.key, None);
        let (class, grade) = (context.settings.class.0, context.settings.grade.0);
        let connector = Connector::new(standings.clone(), trust, class, grade, board);
        let suffix = context.settings.suffix.clone();
        let serving = Serving::start(&context.home, &first.key, connector.clone(), suffix)
            .map_err(|error| of_redirector(&error))?;
        let place = serving.place().display().to_string();
        context.output.result(
            &format!("the redirector is at {place}"),
            &serde_json::json!({ "redirector": place }),
        )?;
        ready::signal(self.ready_fd)?;
        let ended = tokio::select! {
            ended = standings.fleet().ended() => Err(errors::of_attach(&ended, &first.url)),
            () = stop => Ok(()),
            () = serving.serve(self.linger.map(|span| span.0)) => Ok(()),
        };
        // Programs see at once that it is gone, and not when all has been said good-bye to.
        drop(serving);
        if ended.is_ok() {
            connector.close().await;
            standings.detach().await;
        }
        ended
    }

    /// Starts another that serves, and waits until it is ready. Its log lies beside its socket.
    fn leave_behind(&self, context: &Context) -> Result<(), Failure> {
        let key = context.known_relay()?.key;
        let place = place(&context.home, &key, &context.settings.suffix)?;
        let path = place.with_extension("log");
        let log = File::create(&path).map_err(|error| failed("make a log for", &error))?;
        let mut command = own_command()?;
        command.arg("redirector");
        if let Some(linger) = self.linger {
            command.arg(format!("--linger={}ms", linger.0.as_millis()));
        }
        command.args(flags(self.config.as_deref(), &self.flags));
        // A Ctrl-C that is meant for a program does not end it.
        command.process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().map_err(|error| failed("start", &error))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            let heard = BufReader::new(output).read_line(&mut line);
            heard.map_err(|error| failed("hear of", &error))?;
        }
        if !line.is_empty() {
            return context.output.result(
                line.trim_end(),
                &serde_json::json!({ "redirector": place.display().to_string() }),
            );
        }
        let status = child.wait().map_err(|error| failed("wait for", &error))?;
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        Err(Failure::local(
            &REDIRECTOR,
            format!("it ended with {status}; it said:\n{}", said.trim_end()),
        ))
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::local(
        &REDIRECTOR,
        format!("cannot {what} the redirector: {error}"),
    )
}

/// This program, not hooked, whatever it was started under.
pub fn own_command() -> Result<Command, Failure> {
    let own = std::env::current_exe().map_err(|error| failed("find the program of", &error))?;
    let mut command = Command::new(own);
    // Were the second one taken away too, a hook of this process would put both back.
    command
        .env_remove("LD_PRELOAD")
        .env(underpass_hook::VARIABLE, "off");
    Ok(command)
}

/// What was given to one command, to be given to another that has the same flags.
pub fn flags(config: Option<&Path>, given: &Flags<OnSession>) -> Vec<OsString> {
    let mut all = Vec::new();
    if let Some(config) = config {
        all.extend(["--config".into(), config.into()]);
    }
    all.extend(
        given
            .given
            .iter()
            .map(|(name, text)| OsString::from(format!("--{}={text}", name.replace('_', "-")))),
    );
    all
}

fn of_redirector(error: &RedirectorError) -> Failure {
    let failure = Failure::local(&REDIRECTOR, error.to_string());
    match error {
        RedirectorError::TooLong(_) => failure
            .with_cause("the home lies deep in other folders")
            .with_next("set XDG_RUNTIME_DIR, or UNDERPASS_HOME, to a shorter path"),
        RedirectorError::Taken(_) => failure,
        _ => failure.with_cause("its folder, or addresses of 127.64.0.0/10, cannot be used"),
    }
}
