//! `underpass send`

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use serde_json::json;
use underpass_agent::files::{
    Progress, Report, Sending, ServiceLines, Settings, Sources, Trouble, hex, send,
};
use underpass_proto::names;
use underpass_seal::Fingerprint;

use super::Context;
use super::signals::stop_asked;
use super::using::Using;
use crate::failure::{Failure, INCOMPLETE};
use crate::meter::Bar;
use crate::output::{Output, printable};
use crate::settings::{Flags, OnSession, Span};

/// Send files and folders to users who run `underpass receive`
///
/// All of them are sent at once: sealed once, for the machines of all receivers and nobody else. Where it breaks off the
/// same command goes on where it stopped. Says what became of it with each file and each receiver, and fails unless
/// everybody has everything.
///
/// In a pipe one line each, with tabs: file NAME UP-OK BYTES SHA-256; file NAME CODE TEXT where it could not be read;
/// refused NAME CODE USER TEXT; user USER UP-OK FILES SHA-256; user USER CODE TEXT. The SHA-256 of all files is that of
/// what sha256sum says of them.
#[derive(Debug, Args)]
pub struct Send {
    /// The file or folder, or - for standard input, and the users; with --to, any number of files
    #[arg(required = true, num_args = 1.., value_names = ["FILE", "USER"])]
    arguments: Vec<String>,
    /// A user who is to get them; may be given several times
    #[arg(long, value_name = "USER")]
    to: Vec<String>,
    /// What standard input is to be called
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    name: String,
    /// For how long to wait for users who are not receiving, such as 10m
    #[arg(long, value_name = "TIME", default_value = "0s")]
    wait: Span,
    /// The fingerprint that the receiving machine must show, if it was learnt from its owner; it takes the place of the
    /// one that is pinned. For one user at a time
    #[arg(long, value_name = "FINGERPRINT")]
    peer_key: Option<Fingerprint>,
    #[command(flatten)]
    pub flags: Flags<OnSession>,
}

impl Send {
    /// Sends everything to everybody.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let (files, users) = self.split()?;
        if self.peer_key.is_some() && users.len() > 1 {
            return Err(Failure::usage("--peer-key is for one user at a time"));
        }
        let paths: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let (name, gathering) = (self.name.clone(), move |name: &str| {
            Sources::gather(&paths, name)
        });
        let gathered = tokio::task::spawn_blocking(move || gathering(&name)).await;
        let gathered = gathered.map_err(|error| Failure::file(error.to_string()))?;
        let sources = gathered.map_err(|trouble| of_trouble(&trouble, "cannot send"))?;
        for skipped in &sources.skipped {
            let text = format!(
                "{} is neither a file nor a folder: left out",
                skipped.display()
            );
            context.output.message(&printable(&text));
        }
        let stop = stop_asked()?;
        let Some(using) = Using::start(&context, "send", self.peer_key).await? else {
            return Err(stopped());
        };
        let connector = using.connector.clone();
        let lines = Arc::new(ServiceLines(connector.clone()));
        let (bar, on) = shown(context.output);
        let settings = Settings {
            wait: self.wait.0,
            progress: bar.progress(),
            on,
        };
        let drawing = tokio::spawn(Arc::clone(&bar).keep_drawn());
        let report = Mutex::new(None);
        let sending = async {
            let done = send(lines, sources, &users, settings).await;
            *report.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            // What was said last must arrive.
            connector.finish().await;
        };
        let ended = using.until_stopped(stop, sending).await;
        drawing.abort();
        bar.clear();
        ended?;
        let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        conclude(&report.ok_or_else(stopped)?)
    }

    /// The files, and the users.
    fn split(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let (files, users) = match (&self.to[..], &self.arguments[..]) {
            ([], [_]) => return Err(Failure::usage("to whom? underpass send FILE USER")),
            ([], [file, users @ ..]) => (vec![file.clone()], users.to_vec()),
            (users, files) => (files.to_vec(), users.to_vec()),
        };
        for (at, user) in users.iter().enumerate() {
            names::check(user).map_err(|error| {
                Failure::usage(format!(
                    "the user {user:?}: {error} (several files: --to USER)"
                ))
            })?;
            if users[..at].contains(user) {
                return Err(Failure::usage(format!("{user} is named twice")));
            }
        }
        Ok((files, users))
    }
}

type On = Box<dyn Fn(Sending) + std::marker::Send + Sync>;

/// Shows what happens, above a bar where somebody looks.
fn shown(output: Output) -> (Arc<Bar>, On) {
    let bar = Arc::new(Bar::new(output, Arc::new(Progress::default())));
    let above = Arc::clone(&bar);
    let on = move |what: Sending| above.above(|| tell(output, &what));
    (bar, Box::new(on))
}

fn tell(output: Output, what: &Sending) {
    let shown = match what {
        Sending::File { path, size, digest } => {
            let digest = hex(digest);
            output.event(
                &["file", path, "UP-OK", &size.to_string(), &digest],
                &format!("{path}: {size} bytes, SHA-256 {digest}"),
                &json!({ "event": "file", "path": path, "bytes": size, "sha256": digest }),
            )
        }
        Sending::Unsent { path, trouble } => {
            let Trouble { code, text } = trouble;
            output.event(
                &["file", path, code.up(), text],
                &format!("{path}: {text} [{}]", code.up()),
                &json!({ "event": "file", "path": path, "code": code.up(), "text": text }),
            )
        }
        Sending::Declined {
            user,
            path,
            trouble,
        } => {
            let Trouble { code, text } = trouble;
            output.event(
                &["refused", path, code.up(), user, text],
                &format!("{user} does not take {path}: {text} [{}]", code.up()),
                &json!({ "event": "refused", "user": user, "path": path, "code": code.up(), "text": text }),
            )
        }
        Sending::Again { user, trouble } => {
            let text = format!("{user}: {trouble}; trying again");
            output.message(&printable(&text));
            Ok(())
        }
        Sending::Done(end) => {
            let user = &end.user;
            match &end.outcome {
                Ok((files, digest)) => {
                    let digest = hex(digest);
                    output.event(
                        &["user", user, "UP-OK", &files.to_string(), &digest],
                        &format!("{user} has {files} files, SHA-256 of all {digest}"),
                        &json!({ "event": "user", "user": user, "files": files, "sha256": digest }),
                    )
                }
                Err(Trouble { code, text }) => output.event(
                    &["user", user, code.up(), text],
                    &format!("{user} has not got everything: {text} [{}]", code.up()),
                    &json!({ "event": "user", "user": user, "code": code.up(), "text": text }),
                ),
            }
        }
    };
    if let Err(failure) = shown {
        tracing::warn!("{}", failure.what);
    }
}

/// What is missing somewhere is a failure, with its own reason where that is one and the same.
fn conclude(report: &Report) -> Result<(), Failure> {
    if report.is_complete() {
        return Ok(());
    }
    let troubles = report.troubles();
    let whole = |it: &&underpass_agent::files::ReceiverEnd| it.outcome.is_ok();
    let (there, all) = (
        report.receivers.iter().filter(whole).count(),
        report.receivers.len(),
    );
    let what = format!("not everything has arrived: {there} of {all} receivers are done");
    match troubles.split_first() {
        Some((first, rest)) if rest.iter().all(|it| it.code == first.code) => {
            let text = format!("{what}; {first}");
            Err(Failure::of_code(first.code, "").with_what(printable(&text)))
        }
        _ => Err(Failure::local(&INCOMPLETE, what)),
    }
}

/// Something on this machine, or that another one said.
pub fn of_trouble(trouble: &Trouble, trying: &str) -> Failure {
    let text = format!("{trying}: {trouble}");
    Failure::of_code(trouble.code, trying).with_what(printable(&text))
}

fn stopped() -> Failure {
    Failure::of_code(underpass_proto::Code::Cancelled, "sending was stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use underpass_agent::files::ReceiverEnd;
    use underpass_proto::Code;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        send: Send,
    }

    fn split(line: &[&str]) -> Result<(Vec<String>, Vec<String>), Failure> {
        Line::parse_from([&["x"], line].concat()).send.split()
    }

    #[test]
    fn one_file_to_several_and_several_to_some() {
        let owned =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|it| (*it).into()).collect() };
        for (line, files, users) in [
            (&["a.txt", "bob"][..], &["a.txt"][..], &["bob"][..]),
            (&["-", "bob", "carol"], &["-"], &["bob", "carol"]),
            (&["a", "b", "--to", "bob"], &["a", "b"], &["bob"]),
            (
                &["a", "--to", "bob", "--to", "carol"],
                &["a"],
                &["bob", "carol"],
            ),
        ] {
            assert_eq!(
                split(line).unwrap(),
                (owned(files), owned(users)),
                "{line:?}"
            );
        }
        for bad in [
            &["a"][..],
            &["a", "b.txt"],
            &["a", "bob", "bob"],
            &["a", "--to", "B"],
        ] {
            assert_eq!(split(bad).unwrap_err().exit, 2, "{bad:?}");
        }
    }

    #[test]
    fn the_exit_code_tells_whether_everybody_has_everything() {
        let end = |user: &str, code: Option<Code>| ReceiverEnd {
            user: user.into(),
            outcome: code.map_or(Ok((1, [0; 32])), |code| Err(Trouble::of(code))),
            declined: Vec::new(),
        };
        let exit = |receivers: Vec<ReceiverEnd>| {
            let unsent = Vec::new();
            let failure = conclude(&Report { receivers, unsent });
            failure.map_or_else(|failure| failure.exit, |()| 0)
        };
        assert_eq!(exit(vec![end("a", None), end("b", None)]), 0);
        assert_eq!(
            exit(vec![end("a", None), end("b", Some(Code::ReceiverAway))]),
            5
        );
        let both = vec![
            end("a", Some(Code::SenderRefused)),
            end("b", Some(Code::ReceiverAway)),
        ];
        assert_eq!(exit(both), 1);
        let mut declined = end("a", None);
        declined.declined = vec![("x".into(), Trouble::of(Code::PathRefused))];
        assert_eq!(exit(vec![declined]), 3);
    }
}
