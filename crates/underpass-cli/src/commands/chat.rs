//! `underpass chat`

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{Mutex, oneshot};
use underpass_agent::connect::arrived;
use underpass_agent::publish::{Guest, Inside};
use underpass_endpoint::{Channel, ChannelError, ChannelReader, ChannelWriter};
use underpass_proto::{Code, names};
use underpass_seal::{Fingerprint, PublicKey};

use super::publish::{Publishing, inside};
use super::signals::stop_asked;
use super::using::Using;
use super::{Context, errors};
use crate::failure::Failure;
use crate::output::printable;
use crate::settings::{Flags, OnInside};

/// The service by which two users talk.
const CHAT_SERVICE: &str = "underpass-chat";
/// The longest line, in bytes; a longer one is cut where it is shown.
const LONGEST: usize = 16 * 1024;
/// Between looks whether the other user is there.
const LOOK: Duration = Duration::from_secs(1);

/// Talk with another user, who runs the same command
///
/// Waits until both are there; which of them came first makes no difference. Each line that is typed is sent, sealed from
/// end to end. Ends when both have ended their input, at a terminal as soon as the other one has.
#[derive(Debug, Args)]
pub struct Chat {
    /// The other user
    #[arg(value_name = "USER")]
    user: String,
    /// The only machine to talk with, by the fingerprint that `underpass status` shows there
    #[arg(long, value_name = "FINGERPRINT")]
    peer_key: Option<Fingerprint>,
    #[command(flatten)]
    pub flags: Flags<OnInside>,
}

impl Chat {
    /// Talks until either side ends.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        names::check(&self.user)
            .map_err(|error| Failure::usage(format!("the user {:?}: {error}", self.user)))?;
        let enrolled = context.enrolled().await?;
        let me = enrolled.standing.who_am_i().await;
        enrolled.standing.attachment().detach().await;
        let me = me.map_err(|error| errors::of_request(&error, "cannot chat"))?;
        if me.user == self.user {
            return Err(Failure::usage("that is you: name another user"));
        }
        // One of them waits and the other one looks for it. The names decide, so that it never is the same for both.
        match me.user < self.user {
            true => self.wait(&context).await,
            false => self.look(&context).await,
        }
    }

    /// Lets the other one in, once.
    async fn wait(&self, context: &Context) -> Result<(), Failure> {
        let (tell, mut told) = oneshot::channel();
        let place = Arc::new(Mutex::new(Some(tell)));
        let user = self.user.clone();
        let serving = Inside::new(move |guest: Guest| {
            let (place, user) = (Arc::clone(&place), user.clone());
            async move {
                let Guest {
                    channel,
                    peer,
                    session,
                } = guest;
                let tell = match peer.user == user {
                    true => place.lock().await.take(),
                    // Dropping the channel says no.
                    false => None,
                };
                if let Some(tell) = tell {
                    let done = talk(channel, &user, &peer.machine.fingerprint()).await;
                    arrived(&session).await;
                    let _ = tell.send(done);
                }
            }
        });
        let allow = [self.user.clone()];
        let only: Vec<Fingerprint> = self.peer_key.into_iter().collect();
        let publishing = Publishing {
            command: "chat",
            offers: vec![inside(CHAT_SERVICE, "chat", &only, serving)],
            allow: &allow,
            wait: None,
            ready_fd: None,
        };
        let waiting = format!("waiting for {}", self.user);
        let serving = publishing.serve(context, |_| {
            context.output.message(&waiting);
            Ok(())
        });
        tokio::select! {
            served = serving => served,
            done = &mut told => done.unwrap_or(Ok(())),
        }
    }

    /// Looks for the other one until it is there.
    async fn look(&self, context: &Context) -> Result<(), Failure> {
        let stop = stop_asked()?;
        let Some(using) = Using::start(context, "chat", self.peer_key).await? else {
            return Ok(());
        };
        let service = format!("{CHAT_SERVICE}.{}", self.user);
        let connector = using.connector.clone();
        let outcome = Mutex::new(Ok(()));
        let looking = async {
            let mut told = false;
            let channel = loop {
                let present = connector.resolve(&service).await;
                let opened: Result<Channel, Code> = match present {
                    Ok(resolved) if !resolved.present => Err(Code::ServiceAway),
                    Ok(resolved) => match connector.open(&service).await {
                        Ok(channel) => {
                            break Ok((channel, PublicKey(resolved.publisher_key).fingerprint()));
                        }
                        Err(error) if may_come(error.code()) => Err(error.code()),
                        Err(error) => break Err(errors::of_open(&error, &service)),
                    },
                    Err(error) if may_come(error.code()) => Err(error.code()),
                    Err(error) => break Err(errors::of_request(&error, "cannot chat")),
                };
                tracing::debug!("{service}: {opened:?}");
                if !std::mem::replace(&mut told, true) {
                    context
                        .output
                        .message(&format!("waiting for {}", self.user));
                }
                tokio::time::sleep(LOOK).await;
            };
            let done = match channel {
                Ok((channel, key)) => talk(channel, &self.user, &key).await,
                Err(failure) => Err(failure),
            };
            *outcome.lock().await = done;
            connector.finish().await;
        };
        using.until_stopped(stop, looking).await?;
        outcome.into_inner()
    }
}

/// Whether somebody may be there a little later who is not now, or who has not let us in yet.
fn may_come(code: Code) -> bool {
    code.retry_helps() || matches!(code, Code::NoService | Code::Denied)
}

/// Sends what is typed and shows what comes, until either side ends.
async fn talk(channel: Channel, user: &str, machine: &Fingerprint) -> Result<(), Failure> {
    say(&format!("talking with {user} (machine {machine})"), true);
    let (mut reader, mut writer) = channel.into_split();
    // Somebody who sits there need not end what nobody hears any more; what comes from a pipe is sent to its end.
    let at_terminal = std::io::stdin().is_terminal();
    let ended = {
        let typing = type_lines(&mut writer);
        let showing = show_lines(&mut reader, user);
        tokio::pin!(typing, showing);
        tokio::select! {
            typed = &mut typing => match typed {
                Ok(()) => showing.await,
                broke => broke,
            },
            shown = &mut showing => match shown {
                Ok(()) if !at_terminal => typing.await,
                ended => ended,
            },
        }
    };
    let ended = match ended {
        Ok(()) => writer.shutdown().await.map_err(|_| Code::Aborted),
        Err(error) => Err(error.code()),
    };
    ended.map_err(|code| Failure::of_code(code, &format!("the talk with {user} broke off")))
}

/// Sends each line of standard input, and its end.
async fn type_lines(writer: &mut ChannelWriter) -> Result<(), ChannelError> {
    let mut typed = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    loop {
        line.clear();
        match typed.read_line(&mut line).await {
            Ok(0) | Err(_) => return writer.finish().await,
            Ok(_) => {
                let text = line.trim_end_matches(['\r', '\n']);
                writer.write_chunk(format!("{text}\n").into()).await?;
            }
        }
    }
}

/// Shows what the other one says, to its end.
async fn show_lines(reader: &mut ChannelReader, user: &str) -> Result<(), ChannelError> {
    let mut heard = Vec::new();
    while let Some(bytes) = reader.read_chunk().await? {
        heard.extend_from_slice(&bytes);
        while let Some(line) = cut_line(&mut heard) {
            say(&format!("{user}: {line}"), false);
        }
    }
    Ok(())
}

/// The next line, or so much of one that nobody waits for its end.
fn cut_line(heard: &mut Vec<u8>) -> Option<String> {
    let end = heard.iter().position(|byte| *byte == b'\n');
    let (length, whole) = match end {
        Some(end) if end <= LONGEST => (end, end + 1),
        _ if heard.len() > LONGEST => (LONGEST, LONGEST),
        _ => return None,
    };
    let line = String::from_utf8_lossy(&heard[..length]).into_owned();
    heard.drain(..whole);
    Some(printable(&line))
}

/// Shows a line; what is not said by anybody stands on standard error.
fn say(text: &str, aside: bool) {
    // Where nobody looks any more, nothing is missing.
    let _ = match aside {
        true => writeln!(std::io::stderr().lock(), "{text}"),
        false => writeln!(std::io::stdout().lock(), "{text}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_cannot_steer_the_terminal() {
        let mut heard = b"one\n\x1b[2Jtwo\nthr".to_vec();
        assert_eq!(cut_line(&mut heard).as_deref(), Some("one"));
        assert_eq!(cut_line(&mut heard).as_deref(), Some("\u{fffd}[2Jtwo"));
        assert_eq!(cut_line(&mut heard), None);
        heard.extend(vec![b'x'; LONGEST]);
        assert_eq!(cut_line(&mut heard).map(|it| it.len()), Some(LONGEST));
        assert_eq!(heard, b"xxx");
    }
}
