//! Sending to several receivers at once: sealed once, each told as it gets on.
//!
//! It goes in rounds. Whoever is there takes part in the round, which is one file in the `age` format for all of them. Whose
//! connection breaks, or who stays behind while others wait, is asked again for the next round, and goes on there from what
//! has arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use underpass_proto::Code;
use underpass_proto::transfer::{
    Data, Declined, End, EntryKind, FILES_SERVICE, Gone, Got, Hole, MAX_DATA, NotTaken, Start,
    Taken, Transfer, Whole,
};
use underpass_seal::PublicKey;

use super::body::BodySealer;
use super::extent::{Extent, Extents};
use super::line::Hearing;
use super::offer::{Beginnings, Digests, Ripe, Want, begin, known, offer};
use super::source::{Reading, Source};
use super::{Digest, FilesError, Line, Progress, Sources, Trouble, digest_of_all, hex};
use crate::Connector;
use crate::connect::OpenError;

/// Sealed pieces of 64 KiB that wait for one receiver.
const QUEUE: usize = 32;
/// Who takes nothing for so long while others wait goes on in a round of its own.
const STALL: Duration = Duration::from_secs(30);
/// For how long a receiver is looked for whose connection broke.
const AGAIN: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_secs(1);
/// A receiver must answer within this.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Rounds of one receiver without anything new, before it is given up.
const TRIES: usize = 4;

/// Makes lines to receivers.
pub trait Lines: Send + Sync + 'static {
    /// A line to the machine that takes files for `user`.
    ///
    /// # Errors
    /// Nobody there, or nobody that takes anything from us.
    fn open(&self, user: &str) -> impl Future<Output = Result<Line, Trouble>> + Send;
}

/// What happens while files are sent.
#[derive(Debug)]
pub enum Sending {
    /// A file was read to its end.
    File {
        /// As it was offered.
        path: String,
        /// Its bytes.
        size: u64,
        /// Their SHA-256.
        digest: Digest,
    },
    /// A file could not be.
    Unsent {
        /// As it was offered.
        path: String,
        /// Why.
        trouble: Trouble,
    },
    /// A receiver does not take a file.
    Declined {
        /// Who.
        user: String,
        /// As it was offered.
        path: String,
        /// Why.
        trouble: Trouble,
    },
    /// The connection with a receiver broke; it is tried again.
    Again {
        /// Who.
        user: String,
        /// What happened.
        trouble: Trouble,
    },
    /// A receiver is done.
    Done(ReceiverEnd),
}

/// How it ended with one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverEnd {
    /// Who.
    pub user: String,
    /// How many files it has now, and the digest of all of them, or why it was given up.
    pub outcome: Result<(u64, Digest), Trouble>,
    /// Files and folders that it did not take.
    pub declined: Vec<(String, Trouble)>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// With each receiver, in the order in which they were named.
    pub receivers: Vec<ReceiverEnd>,
    /// Files that could not be read to their ends.
    pub unsent: Vec<(String, Trouble)>,
}

impl Report {
    /// Whether everybody has everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = |it: &ReceiverEnd| it.outcome.is_ok() && it.declined.is_empty();
        self.unsent.is_empty() && self.receivers.iter().all(whole)
    }

    /// All reasons why something is missing somewhere.
    #[must_use]
    pub fn troubles(&self) -> Vec<&Trouble> {
        let of_receivers = self.receivers.iter().flat_map(|it| {
            let declined = it.declined.iter().map(|(_, trouble)| trouble);
            it.outcome.as_ref().err().into_iter().chain(declined)
        });
        let unsent = self.unsent.iter().map(|(_, trouble)| trouble);
        of_receivers.chain(unsent).collect()
    }
}

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
    let job = Arc::new(Job {
        digests: Mutex::new(vec![None; sources.list.len()]),
        unsent: Mutex::new(vec![None; sources.list.len()]),
        beginnings: Beginnings::default(),
        sources,
        settings,
        runtime: Handle::current(),
    });
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

/// What all receivers share.
struct Job {
    sources: Sources,
    settings: Settings,
    beginnings: Beginnings,
    digests: Digests,
    unsent: Mutex<Vec<Option<Trouble>>>,
    runtime: Handle,
}

/// One who is to have everything.
struct Receiver {
    user: String,
    /// Until when it is looked for.
    until: Instant,
    tries: usize,
    /// What it has, or does not want.
    wants: Vec<Want>,
    declined: Vec<(usize, Trouble)>,
    end: Option<Result<(u64, Digest), Trouble>>,
}

impl Receiver {
    fn new(user: &str, until: Instant) -> Self {
        Self {
            user: user.to_owned(),
            until,
            tries: TRIES,
            wants: Vec::new(),
            declined: Vec::new(),
            end: None,
        }
    }

    /// What it says that it wants now. Where that is less than before, something has arrived.
    fn is_ripe(&mut self, wants: &[Want]) {
        if self.wants != wants {
            self.tries = TRIES;
        }
        wants.clone_into(&mut self.wants);
        self.declined = wants
            .iter()
            .enumerate()
            .filter_map(|(entry, want)| match want {
                Want::Declined(trouble) => Some((entry, trouble.clone())),
                _ => None,
            })
            .collect();
    }
}

impl Job {
    fn tell(&self, what: Sending) {
        (self.settings.on)(what);
    }

    fn path(&self, entry: usize) -> String {
        self.sources.list[entry].entry.path.clone()
    }

    fn digest(&self, entry: usize) -> Option<Digest> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)[entry]
    }

    fn set_digest(&self, entry: usize, digest: Digest) {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)[entry] = Some(digest);
    }

    fn set_unsent(&self, entry: usize, trouble: Trouble) {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)[entry] = Some(trouble);
    }

    fn is_unsent(&self, entry: usize) -> bool {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)[entry].is_some()
    }

    /// What is read from standard input can be sent only once.
    fn can_repeat(&self) -> bool {
        let list = &self.sources.list;
        list.iter().all(|it| it.entry.kind != EntryKind::Open)
    }

    /// The receiver is done, one way or the other.
    fn end(&self, receiver: &mut Receiver, outcome: Result<(u64, Digest), Trouble>) {
        receiver.end = Some(outcome);
        self.tell(Sending::Done(self.end_of(receiver)));
    }

    fn end_of(&self, receiver: &Receiver) -> ReceiverEnd {
        let declined = receiver.declined.iter();
        let declined = declined.map(|(entry, trouble)| (self.path(*entry), trouble.clone()));
        let gone = || Err(Trouble::of(Code::Internal));
        ReceiverEnd {
            user: receiver.user.clone(),
            outcome: receiver.end.clone().unwrap_or_else(gone),
            declined: declined.collect(),
        }
    }

    /// It broke off; whether it is tried again.
    fn broke(&self, receiver: &mut Receiver, trouble: Trouble) {
        receiver.tries = receiver.tries.saturating_sub(1);
        if receiver.tries == 0 || !self.can_repeat() {
            return self.end(receiver, Err(trouble));
        }
        let until = Instant::now() + self.settings.wait.max(AGAIN);
        receiver.until = until;
        let user = receiver.user.clone();
        self.tell(Sending::Again { user, trouble });
    }

    fn report(&self, receivers: Vec<Receiver>) -> Report {
        let unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let unsent = unsent.iter().enumerate();
        let unsent = unsent.filter_map(|(at, it)| Some((self.path(at), it.clone()?)));
        Report {
            unsent: unsent.collect(),
            receivers: receivers.iter().map(|it| self.end_of(it)).collect(),
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
            (at, offering.await)
        });
    }
    let mut ripe = Vec::new();
    while let Some(opened) = opening.join_next().await {
        let Ok((at, Ok(offered))) = opened else {
            tracing::error!("an offer has failed");
            continue;
        };
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
        queues.push(Some(Queue {
            queue,
            tasks: [hears, writes],
        }));
        keys.push(key);
        wants.push((at, wanted));
    }
    let sealing = Arc::clone(job);
    let asked: Vec<Vec<Want>> = wants.iter().map(|(_, wants)| wants.clone()).collect();
    let sealed = tokio::task::spawn_blocking(move || {
        let fan = Fan {
            queues,
            runtime: sealing.runtime.clone(),
        };
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
            let missing = &receiver.declined;
            let there = job.sources.list.iter().enumerate();
            let there = there.filter(|(at, _)| !missing.iter().any(|(it, _)| it == at));
            let expected = digest_of_all(
                there.filter_map(|(at, it)| Some((&*it.entry.path, job.digest(at)?))),
            );
            let outcome = match taken.sha256 == expected {
                true => Ok((taken.files, expected)),
                false => Err(Trouble::of(Code::Checksum)),
            };
            job.end(receiver, outcome);
        }
        (None, Some(error)) if !matches!(error, FilesError::Line(_)) => {
            job.end(receiver, Err(error.into()));
        }
        // The sealing itself has failed, and would again.
        (None, _) if failed.is_some() => {
            let trouble = failed.cloned();
            job.end(
                receiver,
                trouble.map_or_else(|| Err(Trouble::of(Code::Internal)), Err),
            );
        }
        (None, Some(error)) => job.broke(receiver, error.into()),
        (None, None) => {
            let text = "it took nothing any more while others waited";
            job.broke(receiver, Trouble::new(Code::TimedOut, text));
        }
    }
}

/// Hears what a receiver says while it is sent to.
async fn hear(job: Arc<Job>, at: usize, user: String, mut line: Hearing) -> (usize, Heard) {
    let mut heard = Heard::default();
    loop {
        match line.hear().await {
            Ok(Some(Transfer::Got(Got { entry, sha256 }))) => {
                let of = known(entry, &job.sources.list).ok();
                if of.and_then(|it| job.digest(it)) != Some(sha256) {
                    let trouble = Trouble::of(Code::Checksum);
                    heard.trouble = Some(trouble.into());
                    break;
                }
            }
            Ok(Some(Transfer::Declined(Declined { entry, code, text }))) => {
                let trouble = Trouble::said(code, &text);
                match known(entry, &job.sources.list) {
                    Ok(entry) => {
                        heard.declined.push((entry, trouble.clone()));
                        let (user, path) = (user.clone(), job.path(entry));
                        // Of what could not be read everybody was told.
                        if !job.is_unsent(entry) {
                            job.tell(Sending::Declined {
                                user,
                                path,
                                trouble,
                            });
                        }
                    }
                    Err(error) => {
                        heard.trouble = Some(error);
                        break;
                    }
                }
            }
            Ok(Some(Transfer::Taken(taken))) => {
                heard.taken = Some(taken);
                break;
            }
            Ok(Some(Transfer::NotTaken(NotTaken { code, text }))) => {
                heard.trouble = Some(Trouble::said(code, &text).into());
                break;
            }
            Ok(Some(_)) => {
                heard.trouble = Some(FilesError::Turn("something else than what arrived"));
                break;
            }
            Ok(None) => {
                let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                heard.trouble = Some(end.into());
                break;
            }
            Err(error) => {
                heard.trouble = Some(error);
                break;
            }
        }
    }
    (at, heard)
}

/// Writes sealed pieces as they come. The last one is empty, and says that all is said; without it the line is broken off.
async fn write(
    mut writer: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    mut pieces: mpsc::Receiver<Bytes>,
) {
    while let Some(piece) = pieces.recv().await {
        let written = match piece.is_empty() {
            true => return drop(writer.shutdown().await),
            false => writer.write_all(&piece).await,
        };
        // Why, is heard in the other direction.
        if written.is_err() {
            return;
        }
    }
}

/// The way to one receiver.
struct Queue {
    queue: mpsc::Sender<Bytes>,
    tasks: [AbortHandle; 2],
}

/// Hands each piece to all receivers.
struct Fan {
    queues: Vec<Option<Queue>>,
    runtime: Handle,
}

impl Fan {
    /// Waits for the slowest, unless it has stopped altogether while others go on. False once nobody is left.
    fn put(&mut self, piece: &Bytes) -> bool {
        let alone = self.queues.iter().flatten().count() <= 1;
        for place in &mut self.queues {
            let Some(Queue { queue, tasks }) = place else {
                continue;
            };
            let sending = queue.send(piece.clone());
            let sent = match alone {
                true => self.runtime.block_on(sending).is_ok(),
                false => {
                    let limited = async { tokio::time::timeout(STALL, sending).await };
                    match self.runtime.block_on(limited) {
                        Ok(sent) => sent.is_ok(),
                        Err(_) => {
                            tasks.iter().for_each(AbortHandle::abort);
                            false
                        }
                    }
                }
            };
            if !sent {
                *place = None;
            }
        }
        self.queues.iter().any(Option::is_some)
    }
}

/// Everything that is said inside of the seal.
struct Body<'a> {
    job: &'a Job,
    sealer: BodySealer,
    fan: Fan,
    buffer: Box<[u8; MAX_DATA]>,
}

/// Reads, seals and hands out everything that any of the receivers wants.
fn seal(
    job: &Job,
    mut fan: Fan,
    keys: &[PublicKey],
    wants: &[Vec<Want>],
) -> Result<(), FilesError> {
    let (header, sealer) = BodySealer::start(keys)?;
    if !fan.put(&header) {
        return Ok(());
    }
    let mut body = Body {
        job,
        sealer,
        fan,
        buffer: Box::new([0; MAX_DATA]),
    };
    for (at, source) in job.sources.list.iter().enumerate() {
        let wanted = begin(wants.iter().map(|it| &it[at]));
        if wants.iter().any(|it| it[at] == Want::Nothing) {
            body.know(at, source);
        }
        let goes_on = match (wanted, source.entry.kind) {
            (Some(offset), _) => body.file(at, source, offset)?,
            (None, EntryKind::File) => {
                job.settings.progress.add(source.entry.size);
                true
            }
            (None, _) => true,
        };
        if !goes_on {
            return Ok(());
        }
    }
    let list = job.sources.list.iter().enumerate();
    let sha256 =
        digest_of_all(list.filter_map(|(at, it)| Some((&*it.entry.path, job.digest(at)?))));
    body.say(Whole { sha256 });
    let Body {
        sealer, mut fan, ..
    } = body;
    if fan.put(&sealer.end()) {
        fan.put(&Bytes::new());
    }
    Ok(())
}

impl Body<'_> {
    /// False once nobody listens any more.
    fn say(&mut self, message: impl Into<Transfer>) -> bool {
        self.sealer.put(&message.into());
        while let Some(piece) = self.sealer.piece() {
            if !self.fan.put(&piece) {
                return false;
            }
        }
        true
    }

    /// A receiver has all of this file.
    fn know(&mut self, at: usize, source: &Source) {
        let known = self.job.beginnings.of(at, source, source.entry.size);
        if let Some(digest) = known.filter(|_| source.entry.kind == EntryKind::File) {
            self.job.set_digest(at, digest.digest());
        }
    }

    /// One file, from `offset` on; false once nobody listens any more.
    fn file(&mut self, at: usize, source: &Source, offset: u64) -> Result<bool, FilesError> {
        let entry = at as u64;
        if !self.say(Start { entry, offset }) {
            return Ok(false);
        }
        self.job.settings.progress.add(offset);
        let read = match source.open() {
            Ok(Reading::File(file)) => self.read_file(at, source, &file, offset),
            Ok(Reading::Input(input)) => self.read_input(input),
            Err(trouble) => Err(trouble),
        };
        let path = source.entry.path.clone();
        match read {
            Ok(None) => Ok(false),
            Ok(Some((size, digest))) => {
                // Before anybody can say that it has arrived.
                self.job.set_digest(at, digest);
                tracing::debug!("sent {path}, {size} bytes, SHA-256 {}", hex(&digest));
                self.job.tell(Sending::File { path, size, digest });
                Ok(self.say(End { sha256: digest }))
            }
            Err(trouble) => {
                self.job.set_unsent(at, trouble.clone());
                let (code, text) = (trouble.code.number(), trouble.text.clone());
                self.job.tell(Sending::Unsent { path, trouble });
                Ok(self.say(Gone { code, text }))
            }
        }
    }

    /// Its size and digest; nothing once nobody listens.
    fn read_file(
        &mut self,
        at: usize,
        source: &Source,
        file: &std::fs::File,
        offset: u64,
    ) -> Result<Option<(u64, Digest)>, Trouble> {
        let changed = || Trouble::of(Code::FileChanged);
        let beginning = self.job.beginnings.of(at, source, offset);
        let mut digest = beginning.ok_or_else(changed)?;
        let size = source.entry.size;
        let mut extents = Extents::new(file, offset, size);
        let failed = |error| Trouble::of_disk(&error, &source.entry.path);
        while let Some(extent) = extents.next(&mut self.buffer).map_err(failed)? {
            let (length, heard) = match extent {
                Extent::Data(length) => {
                    let bytes = Bytes::copy_from_slice(&self.buffer[..length]);
                    digest.update(&bytes);
                    (length as u64, self.say(Data { bytes }))
                }
                Extent::Hole(length) => {
                    super::extent::add_zeros(&mut digest, length);
                    (length, self.say(Hole { length }))
                }
            };
            self.job.settings.progress.add(length);
            if !heard {
                return Ok(None);
            }
        }
        match source.is_unchanged(file) {
            true => Ok(Some((size, digest.digest()))),
            false => Err(changed()),
        }
    }

    fn read_input(
        &mut self,
        mut input: Box<dyn std::io::Read>,
    ) -> Result<Option<(u64, Digest)>, Trouble> {
        let (mut size, mut digest) = (0, underpass_seal::Sha256::default());
        loop {
            let read = match input.read(&mut self.buffer[..]) {
                Ok(0) => return Ok(Some((size, digest.digest()))),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::of_disk(&error, "standard input")),
            };
            let bytes = Bytes::copy_from_slice(&self.buffer[..read]);
            digest.update(&bytes);
            size += read as u64;
            self.job.settings.progress.add(read as u64);
            if !self.say(Data { bytes }) {
                return Ok(None);
            }
        }
    }
}

/// Lines to the machines that take files for their users.
#[derive(Debug)]
pub struct ServiceLines(pub Connector);

impl Lines for ServiceLines {
    async fn open(&self, user: &str) -> Result<Line, Trouble> {
        let Self(connector) = self;
        let service = format!("{FILES_SERVICE}.{user}");
        let resolved = connector.resolve(&service).await;
        let resolved = resolved.map_err(|error| unopened(&OpenError::Resolve(error), user))?;
        if !resolved.present {
            return Err(Trouble::of(Code::ReceiverAway));
        }
        let channel = connector.open(&service).await;
        let channel = channel.map_err(|error| unopened(&error, user))?;
        let (reader, writer) = channel.into_split();
        Ok(Line::new(reader, writer))
    }
}

/// What it means for files that a service cannot be opened.
fn unopened(error: &OpenError, user: &str) -> Trouble {
    match error.code() {
        Code::NoService | Code::NoUser => Trouble::of(Code::NoReceiver),
        Code::Denied => Trouble::of(Code::SenderRefused),
        Code::ServiceAway => Trouble::of(Code::ReceiverAway),
        code => Trouble::new(code, format!("{user}: {error}")),
    }
}
