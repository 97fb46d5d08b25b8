//! Sending to several receivers at once: sealed once, each told as it gets on.
//!
//! It goes in rounds. Whoever is there takes part in the round, which is one file in the `age` format for all of them. Whose
//! connection breaks, or who stays behind while others wait, is asked again for the next round, and goes on there from what
//! has arrived.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use underpass_proto::Code;
use underpass_proto::transfer::{Declined, Got, NotTaken, Taken, Transfer};

use super::job::{Job, Receiver};
use super::line::Hearing;
use super::offer::{Ripe, Want, known, offer};
use super::sealing::{Fan, Queue, seal, write};
use super::{FilesError, Lines, Progress, Report, Sending, Sources, Trouble};

/// Sealed pieces of 64 KiB that wait for one receiver.
const QUEUE: usize = 32;
/// Between looks.
const LOOK: Duration = Duration::from_secs(1);
/// A receiver must answer within this.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How it is sent.
pub struct Settings {
    /// For how long receivers are waited for that are not there.
    pub wait: Duration,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Is told what happens.
    pub on: Box<dyn Fn(Sending) + Send + Sync>,
}

/// Sends `sources` to all of `users`. What each of them came to stands in the report.
pub async fn send<L: Lines>(
    lines: Arc<L>,
    sources: Sources,
    users: &[String],
    settings: Settings,
) -> Report {
    let job = Arc::new(Job::new(sources, settings, Handle::current()));
    let until = Instant::now() + job.settings.wait;
    let mut receivers: Vec<Receiver> = users.iter().map(|it| Receiver::new(it, until)).collect();
    loop {
        let ripe = open_all(&lines, &job, &mut receivers).await;
        if !ripe.is_empty() {
            round(&job, &mut receivers, ripe).await;
        } else if receivers.iter().all(|it| it.end.is_some()) {
            return job.report(receivers);
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Offers everything to all who are not done yet; those who are ready, with their places in the list.
async fn open_all<L: Lines>(
    lines: &Arc<L>,
    job: &Arc<Job>,
    receivers: &mut [Receiver],
) -> Vec<(usize, Ripe)> {
    let mut opening = JoinSet::new();
    for (at, receiver) in receivers.iter().enumerate() {
        if receiver.end.is_some() {
            continue;
        }
        let (lines, job, user) = (Arc::clone(lines), Arc::clone(job), receiver.user.clone());
        opening.spawn(async move {
            let opened = tokio::time::timeout(OPEN_LIMIT, lines.open(&user)).await;
            let opened = opened.unwrap_or_else(|_| Err(Trouble::of(Code::ReceiverAway)));
            let line = opened.map_err(FilesError::from);
            let offering = tokio::task::spawn_blocking(move || {
                line.and_then(|line| offer(line, &job.sources, &job.beginnings, &job.runtime))
            });
            let failed = |error: JoinError| Trouble::new(Code::Internal, error.to_string());
            let offered = offering.await.map_err(|error| failed(error).into());
            (at, offered.and_then(|offered| offered))
        });
    }
    let mut ripe = Vec::new();
    while let Some(opened) = opening.join_next().await {
        let (at, offered) = opened.expect("nothing in it panics, and nobody aborts it");
        let receiver = &mut receivers[at];
        match offered {
            Ok(it) => {
                receiver.is_ripe(&it.wants);
                for (entry, trouble) in receiver.declined.clone() {
                    let (user, path) = (receiver.user.clone(), job.path(entry));
                    job.tell(Sending::Declined {
                        user,
                        path,
                        trouble,
                    });
                }
                ripe.push((at, it));
            }
            Err(error) => {
                let broke = matches!(error, FilesError::Line(_));
                let trouble = Trouble::from(error);
                let waits = trouble.code.retry_helps() && Instant::now() < receiver.until;
                match broke {
                    true => job.broke(receiver, trouble),
                    false if waits => {}
                    false => job.end(receiver, Err(trouble)),
                }
            }
        }
    }
    ripe.sort_by_key(|(at, _)| *at);
    ripe
}

/// What became of one receiver in a round.
#[derive(Default)]
struct Heard {
    declined: Vec<(usize, Trouble)>,
    taken: Option<Taken>,
    trouble: Option<FilesError>,
}

/// Sends to all who are ready.
async fn round(job: &Arc<Job>, receivers: &mut [Receiver], ripe: Vec<(usize, Ripe)>) {
    job.settings.progress.expect(&job.sources.entries());
    let (mut keys, mut wants, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    let mut hearing = JoinSet::new();
    for (at, it) in ripe {
        let Ripe {
            hearing: line,
            telling,
            key,
            wants: wanted,
        } = it;
        let (queue, pieces) = mpsc::channel(QUEUE);
        let hears = hearing.spawn(hear(Arc::clone(job), at, receivers[at].user.clone(), line));
        let writes = tokio::spawn(write(telling.into_writer(), pieces)).abort_handle();
        queues.push(Queue::new(queue, [hears, writes]));
        keys.push(key);
        wants.push((at, wanted));
    }
    let sealing = Arc::clone(job);
    let asked: Vec<Vec<Want>> = wants.iter().map(|(_, wants)| wants.clone()).collect();
    let sealed = tokio::task::spawn_blocking(move || {
        let fan = Fan::new(queues, &sealing.runtime);
        seal(&sealing, fan, &keys, &asked)
    });
    let failed = match sealed.await {
        Ok(outcome) => outcome.err(),
        Err(error) => Some(Trouble::new(Code::Internal, error.to_string()).into()),
    };
    let mut heard: Vec<(usize, Heard)> = Vec::new();
    while let Some(done) = hearing.join_next().await {
        // Who was left behind has said nothing.
        heard.extend(done.ok());
    }
    let failed = failed.map(Trouble::from);
    for (at, _) in wants {
        let found = heard.iter().position(|(it, _)| *it == at);
        let heard = found.map(|found| heard.swap_remove(found).1);
        conclude(
            job,
            &mut receivers[at],
            heard.unwrap_or_default(),
            failed.as_ref(),
        );
    }
}

fn conclude(job: &Job, receiver: &mut Receiver, heard: Heard, failed: Option<&Trouble>) {
    let Heard {
        declined,
        taken,
        trouble,
    } = heard;
    receiver.declined.extend(declined);
    match (taken, trouble) {
        (Some(taken), _) => {
            let expected = job.digest_without(&receiver.declined);
            let outcome = match taken.sha256 == expected {
                true => Ok((taken.files, expected)),
                false => Err(Trouble::of(Code::Checksum)),
            };
            job.end(receiver, outcome);
        }
        (None, Some(error)) if !matches!(error, FilesError::Line(_)) => {
            job.end(receiver, Err(error.into()));
        }
        (None, broke) => match (failed, broke) {
            // The sealing itself has failed, and would again.
            (Some(failed), _) => job.end(receiver, Err(failed.clone())),
            (None, Some(error)) => job.broke(receiver, error.into()),
            (None, None) => {
                let text = "it took nothing any more while others waited";
                job.broke(receiver, Trouble::new(Code::TimedOut, text));
            }
        },
    }
}

/// Hears what a receiver says while it is sent to.
async fn hear(job: Arc<Job>, at: usize, user: String, mut line: Hearing) -> (usize, Heard) {
    let mut heard = Heard::default();
    heard.trouble = hear_all(&job, &user, &mut line, &mut heard).await.err();
    (at, heard)
}

async fn hear_all(
    job: &Job,
    user: &str,
    line: &mut Hearing,
    heard: &mut Heard,
) -> Result<(), FilesError> {
    loop {
        let message = line.hear().await?;
        match message.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))? {
            Transfer::Got(Got { entry, sha256 }) => {
                let entry = known(entry, &job.sources.list)?;
                if job.digest(entry) != Some(sha256) {
                    return Err(Trouble::of(Code::Checksum).into());
                }
            }
            Transfer::Declined(Declined { entry, code, text }) => {
                let entry = known(entry, &job.sources.list)?;
                let trouble = Trouble::said(code, &text);
                heard.declined.push((entry, trouble.clone()));
                // Of what could not be read everybody was told.
                if !job.is_unsent(entry) {
                    let (user, path) = (user.to_owned(), job.path(entry));
                    job.tell(Sending::Declined {
                        user,
                        path,
                        trouble,
                    });
                }
            }
            Transfer::Taken(taken) => {
                heard.taken = Some(taken);
                return Ok(());
            }
            Transfer::NotTaken(NotTaken { code, text }) => {
                return Err(Trouble::said(code, &text).into());
            }
            _ => return Err(FilesError::Turn("something else than what arrived")),
        }
    }
}
