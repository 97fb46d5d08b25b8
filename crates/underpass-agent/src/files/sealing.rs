//! Sealing what the receivers want, and handing it to all of them.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use underpass_proto::Code;
use underpass_proto::transfer::{
    Data, End, EntryKind, Gone, Hole, MAX_DATA, Start, Transfer, Whole,
};
use underpass_seal::{PublicKey, Sha256};

use super::body::BodySealer;
use super::extent::{Extent, Extents, add_zeros};
use super::job::Job;
use super::offer::{Want, begin};
use super::source::{Reading, Source};
use super::{Digest, FilesError, Sending, Trouble, digest_of_all, hex};

/// Who takes nothing for so long while others wait goes on in a round of its own.
const STALL: Duration = Duration::from_secs(30);

/// Writes sealed pieces as they come. The last one is empty, and says that all is said; without it the line is broken off.
pub(super) async fn write(
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
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
pub(super) struct Queue {
    queue: mpsc::Sender<Bytes>,
    tasks: [AbortHandle; 2],
}

impl Queue {
    /// `tasks` serve the receiver, and end where it is left behind.
    pub(super) fn new(queue: mpsc::Sender<Bytes>, tasks: [AbortHandle; 2]) -> Self {
        Self { queue, tasks }
    }
}

/// Hands each piece to all receivers.
pub(super) struct Fan {
    queues: Vec<Option<Queue>>,
    runtime: Handle,
}

impl Fan {
    pub(super) fn new(queues: Vec<Queue>, runtime: &Handle) -> Self {
        Self {
            queues: queues.into_iter().map(Some).collect(),
            runtime: runtime.clone(),
        }
    }

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
pub(super) fn seal(
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
                    add_zeros(&mut digest, length);
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
        let (mut size, mut digest) = (0, Sha256::default());
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
