//! `underpass receive`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use underpass_agent::files::{Arrival, FILES_SERVICE, Inbox, Progress, Trouble, Visit, hex};
use underpass_endpoint::PeerInfo;
use underpass_proto::names;
use underpass_seal::Fingerprint;

use super::Context;
use super::publish::{Publishing, inside};
use crate::failure::Failure;
use crate::meter::Bar;
use crate::output::Output;
use crate::settings::{Flags, OnInside, Span};

/// Receive files that others send with `underpass send`, until stopped
///
/// Nobody may send unless --from lets them, or `underpass services allow USER underpass-files` did. Nothing takes the place
/// of another file, unless --overwrite says so, and nothing is written outside of the folder. A file has its name once all
/// of it is there; until then it is beside its place as .NAME.underpass-part, where a transfer that broke off goes on.
///
/// In a pipe one line each, with tabs: offer USER FILES BYTES FINGERPRINT; file NAME UP-OK BYTES SHA-256 USER; refused NAME
/// CODE USER TEXT; user USER UP-OK FILES SHA-256, where the SHA-256 of all files is the one that the sender shows; user USER
/// CODE TEXT.
#[derive(Debug, Args)]
pub struct Receive {
    /// The folder that files are put in
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Users who may send from now on, until `underpass services deny`; nobody else may while this runs
    #[arg(long, value_name = "USER", num_args = 1..)]
    from: Vec<String>,
    /// A machine that may send, by the fingerprint that `underpass status` shows there; may be given several times. No other
    /// machine may then, whatever the relay says
    #[arg(long, value_name = "FINGERPRINT")]
    only: Vec<Fingerprint>,
    /// Put files in the place of others of the same name
    #[arg(long)]
    overwrite: bool,
    /// How long to wait for a manager's approval, where the relay wants one, before this exits with 6; if not given, without
    /// a limit
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnInside>,
}

impl Receive {
    /// Receives until it is told to stop, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        for user in &self.from {
            names::check(user)
                .map_err(|error| Failure::usage(format!("the user {user:?}: {error}")))?;
        }
        if !self.dir.is_dir() {
            let text = format!("{} is no folder", self.dir.display());
            return Err(Failure::file(text).with_next("make it, or name another with --dir"));
        }
        let output = context.output;
        let bar = Arc::new(Bar::new(output, Arc::new(Progress::default())));
        tokio::spawn(Arc::clone(&bar).keep_drawn());
        let on = {
            let bar = Arc::clone(&bar);
            move |peer: &PeerInfo, visit| show(output, &bar, peer, visit)
        };
        let inbox = Inbox::new(self.dir.clone(), self.overwrite, self.from.clone(), on);
        let offer = inside(
            FILES_SERVICE,
            "files for this user",
            &self.only,
            inbox.serve(),
        );
        let publishing = Publishing {
            command: "receive",
            offers: vec![offer],
            allow: &self.from,
            wait: self.wait,
            ready_fd: self.ready_fd,
        };
        let folder = self.dir.display().to_string();
        let done = publishing.serve(&context, |listings| {
            let name = listings.first().map_or(FILES_SERVICE, |it| &it.full_name);
            output.event(
                &["ready", name],
                &format!("receiving files into {folder}"),
                &json!({ "event": "ready", "folder": folder }),
            )
        });
        let done = done.await;
        bar.clear();
        done
    }
}

fn show(output: Output, bar: &Bar, peer: &PeerInfo, visit: Visit) {
    if let Visit::Begun(progress) = visit {
        return bar.follow(progress);
    }
    if matches!(visit, Visit::Ended(_)) {
        bar.follow(Arc::new(Progress::default()));
    }
    let shown = bar.above(|| tell(output, peer, visit));
    if let Err(failure) = shown {
        tracing::warn!("{}", failure.what);
    }
}

fn tell(output: Output, peer: &PeerInfo, visit: Visit) -> Result<(), Failure> {
    let user = &peer.user;
    match visit {
        Visit::Begun(_) => Ok(()),
        Visit::Arrival(Arrival::Offered { files, bytes }) => {
            let machine = peer.machine.fingerprint().to_string();
            output.event(
                &["offer", user, &files.to_string(), &bytes.to_string(), &machine],
                &format!("{user} sends {files} files, {bytes} bytes (machine {machine})"),
                &json!({ "event": "offer", "user": user, "files": files, "bytes": bytes, "machine": machine }),
            )
        }
        Visit::Arrival(Arrival::Got { path, size, digest }) => {
            let digest = hex(&digest);
            output.event(
                &["file", &path, "UP-OK", &size.to_string(), &digest, user],
                &format!("{path}: {size} bytes, SHA-256 {digest}"),
                &json!({ "event": "file", "path": path, "bytes": size, "sha256": digest, "user": user }),
            )
        }
        Visit::Arrival(Arrival::Declined { path, trouble }) => {
            let Trouble { code, text } = trouble;
            output.event(
                &["refused", &path, code.up(), user, &text],
                &format!("{path}, from {user}, is not taken: {text} [{}]", code.up()),
                &json!({ "event": "refused", "path": path, "code": code.up(), "text": text, "user": user }),
            )
        }
        Visit::Ended(Ok(received)) => {
            let (files, digest) = (received.files, hex(&received.digest));
            output.event(
                &["user", user, "UP-OK", &files.to_string(), &digest],
                &format!("{files} files of {user} are here, SHA-256 of all {digest}"),
                &json!({ "event": "user", "user": user, "files": files, "sha256": digest }),
            )
        }
        Visit::Ended(Err(Trouble { code, text })) => output.event(
            &["user", user, code.up(), &text],
            &format!("the transfer from {user} has ended: {text} [{}]", code.up()),
            &json!({ "event": "user", "user": user, "code": code.up(), "text": text }),
        ),
    }
}
