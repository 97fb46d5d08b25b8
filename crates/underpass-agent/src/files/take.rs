//! Taking what one sender offers.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use underpass_proto::transfer::{
    Data, Declined, End, Entry, EntryKind, FILES_VERSION, GoOn, Gone, Got, Have, Hole, MAX_ENTRIES,
    NotTaken, Offer, Proof, Ready, Start, Taken, Transfer, path,
};
use underpass_proto::{Code, code};
use underpass_seal::StaticKey;

use super::body::BodyOpener;
use super::claims::Claimant;
use super::line::{Hearing, Telling};
use super::place::{Part, Place, settle};
use super::{Digest, FilesError, Progress, Trouble, digest_of_all, hex};

/// Parts that are kept open between the agreement on them and their turn.
const KEPT: usize = 64;
/// Finished files that are brought to the disk together: the first one of them pays for all.
const BATCH: usize = 128;
/// The same in bytes.
const BATCH_BYTES: u64 = 16 << 20;
/// Threads that bring them there.
const STORING: usize = 16;
/// Text of all paths of an offer at the most, in bytes.
const MAX_PATHS: usize = 64 << 20;

/// For so long a sender's earlier transfer, which gives way, may hold a file.
const GIVE_WAY: Duration = Duration::from_secs(10);
/// Between looks.
const LOOK: Duration = Duration::from_millis(20);

/// What happens while files arrive.
#[derive(Debug)]
pub enum Arrival {
    /// Files are offered.
    Offered {
        /// How many.
        files: u64,
        /// Their bytes, holes as well, as far as that is known.
        bytes: u64,
    },
    /// A file is in its place.
    Got {
        /// Where, below the folder.
        path: String,
        /// Its bytes.
        size: u64,
        /// Their SHA-256.
        digest: Digest,
    },
    /// A file, or folder, is not.
    Declined {
        /// Which.
        path: String,
        /// Why.
        trouble: Trouble,
    },
}

/// What a transfer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Files that are in their places, those included that were there before.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files and folders that are not.
    pub missing: u64,
    /// The digest of all these files, as [`hex`](super::hex) shows it; the sender shows the same.
    pub digest: Digest,
}

/// What is to become of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is wanted from this offset on; its first bytes have this digest.
    Wanted(Option<(u64, Digest)>),
    /// All of it is there.
    Got(u64, Digest),
    /// It is a folder that is there.
    Folder,
    /// It is not taken.
    Declined,
}

/// Bytes of an entry that are there, and whether under the name that it is to have.
struct Candidate {
    entry: usize,
    length: u64,
    named: bool,
}

/// The file that is being written.
struct Current {
    entry: usize,
    part: Part,
    /// Bytes that others wanted and this receiver has.
    pass: u64,
}

/// Takes what is offered on a line into a folder, in the place of other files where that is wanted.
///
/// # Errors
/// The sender broke off, does not keep to the rules, or the disk fails. Files that have arrived stay.
pub(super) fn take(
    hearing: &mut Hearing,
    telling: &mut Telling,
    (folder, overwrite): (&Path, bool),
    claims: &Claimant,
    progress: &Progress,
    on: &dyn Fn(Arrival),
) -> Result<Received, FilesError> {
    let place = Place::open(folder, overwrite)?;
    let entries = hear_offer(hearing)?;
    let files = entries.iter().filter(|it| it.kind != EntryKind::Folder);
    on(Arrival::Offered {
        files: files.count() as u64,
        bytes: entries.iter().map(|it| it.size).sum(),
    });
    progress.expect(&entries);
    let states = vec![State::Declined; entries.len()];
    let mut taking = Taking {
        place,
        entries,
        states,
        claims,
        kept: HashMap::new(),
        made: Vec::new(),
        finished: Vec::new(),
        finished_bytes: 0,
        current: None,
        whole: false,
        telling,
        progress,
        on,
    };
    let identity = StaticKey::generate();
    taking.agree(hearing, &identity)?;
    let heard = taking.hear_files(hearing, &identity);
    // What has arrived whole is not to be sent again.
    let kept = taking.bring_to_disk();
    heard.and(kept)?;
    taking.finish()
}

/// Says why nothing (more) is taken, as far as anybody listens.
pub(super) fn say_not_taken(telling: &mut Telling, error: &FilesError) {
    if matches!(error, FilesError::Line(_)) {
        return;
    }
    let (code, text) = (error.code().number(), error.to_string());
    if telling.say(NotTaken { code, text }).is_ok() {
        let _ = telling.end();
    }
}

fn hear_offer(hearing: &mut Hearing) -> Result<Vec<Entry>, FilesError> {
    let Transfer::Offer(Offer {
        version, entries, ..
    }) = hearing.expect()?
    else {
        return Err(FilesError::Turn("something else than an offer"));
    };
    if version != FILES_VERSION {
        return Err(Trouble::of(Code::VersionUnsupported).into());
    }
    if entries > MAX_ENTRIES {
        let text = format!("{entries} files are too many at once: {MAX_ENTRIES} may be");
        return Err(Trouble::new(Code::TooLarge, text).into());
    }
    let (mut all, mut paths, mut bytes) = (Vec::new(), HashSet::new(), 0_u64);
    let mut text = 0;
    for _ in 0..entries {
        let Transfer::Entry(entry) = hearing.expect()? else {
            return Err(FilesError::Turn("an offer that is not complete"));
        };
        path::check(&entry.path)
            .map_err(|error| Trouble::new(Code::PathRefused, error.to_string()))?;
        text += entry.path.len();
        if text > MAX_PATHS {
            return Err(Trouble::of(Code::TooLarge).into());
        }
        if !paths.insert(entry.path.clone()) {
            let text = format!("{:?} is offered twice", entry.path);
            return Err(Trouble::new(Code::PathRefused, text).into());
        }
        let sum = bytes.checked_add(entry.size);
        bytes = sum.ok_or(FilesError::Turn("more bytes than can be"))?;
        all.push(entry);
    }
    Ok(all)
}

/// Has files on the disk, several at once: a file system writes its log once for all who wait for it.
fn store_all(finished: &[(usize, Part)], entries: &[Entry]) -> Result<(), Trouble> {
    let store = |some: &[(usize, Part)]| -> Result<(), Trouble> {
        some.iter()
            .try_for_each(|(at, part)| part.store(&entries[*at]))
    };
    std::thread::scope(|scope| {
        let some = finished.chunks(finished.len().div_ceil(STORING).max(1));
        let storing: Vec<_> = some.map(|some| scope.spawn(move || store(some))).collect();
        let mut joined = storing.into_iter().map(|it| it.join());
        joined.try_for_each(|it| it.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

struct Taking<'a> {
    place: Place,
    entries: Vec<Entry>,
    states: Vec<State>,
    claims: &'a Claimant,
    /// Parts whose turn comes.
    kept: HashMap<usize, Part>,
    /// Folders that were made for this.
    made: Vec<usize>,
    /// Files that are whole and not yet in their places.
    finished: Vec<(usize, Part)>,
    finished_bytes: u64,
    current: Option<Current>,
    /// Whether the sender has said that this is all.
    whole: bool,
    telling: &'a mut Telling,
    progress: &'a Progress,
    on: &'a dyn Fn(Arrival),
}

impl Taking<'_> {
    /// Comes to terms on what is sent, and from where on.
    fn agree(&mut self, hearing: &mut Hearing, identity: &StaticKey) -> Result<(), FilesError> {
        let mut candidates = Vec::new();
        for at in 0..self.entries.len() {
            match self.examine(at) {
                Ok(Some(candidate)) => {
                    let (entry, length) = (at as u64, candidate.length);
                    self.telling.say(Have { entry, length })?;
                    candidates.push(candidate);
                }
                Ok(None) => {}
                Err(trouble) => self.decline(at, trouble)?,
            }
        }
        let key = identity.public().0;
        self.telling.say(Ready { key })?;
        self.telling.flush()?;
        let mut proofs = Vec::new();
        for candidate in &candidates {
            match hearing.expect()? {
                Transfer::Proof(Proof { entry, sha256 }) if entry == candidate.entry as u64 => {
                    proofs.push(sha256)
                }
                _ => return Err(FilesError::Turn("no proof where one was due")),
            }
        }
        for (candidate, sha256) in candidates.iter().zip(proofs) {
            self.compare(candidate, sha256)?;
        }
        self.telling.flush()
    }

    /// Decides on one entry; what there is of it already, where that is to be compared.
    fn examine(&mut self, at: usize) -> Result<Option<Candidate>, Trouble> {
        let Entry {
            kind, path, size, ..
        } = self.entries[at].clone();
        if kind == EntryKind::Folder {
            if self.place.make_folder(&path)? {
                self.made.push(at);
            }
            self.states[at] = State::Folder;
            return Ok(None);
        }
        let found = self.place.look(&path)?;
        let candidate = |length, named| {
            Ok(Some(Candidate {
                entry: at,
                length,
                named,
            }))
        };
        match (found.whole, found.part) {
            _ if found.other => return Err(Trouble::of(Code::FileExists)),
            (Some(there), _) if kind == EntryKind::File && there == size => {
                return candidate(there, true);
            }
            (Some(_), _) if !self.place.overwrites() => {
                return Err(Trouble::of(Code::FileExists));
            }
            (_, Some(there)) if kind == EntryKind::File && (1..=size).contains(&there) => {
                return candidate(there, false);
            }
            _ => self.states[at] = State::Wanted(None),
        }
        Ok(None)
    }

    /// Compares what there is with what the sender has, and says where it goes on.
    fn compare(&mut self, candidate: &Candidate, sha256: Digest) -> Result<(), FilesError> {
        let Candidate {
            entry: at,
            length,
            named,
        } = *candidate;
        let path = self.entries[at].path.clone();
        let (entry, mut offset, mut complete) = (at as u64, 0, false);
        if named {
            match self.place.begins_with(&path, length, &sha256) {
                Ok(true) => {
                    self.states[at] = State::Got(length, sha256);
                    (offset, complete) = (length, true);
                    self.progress.add(length);
                }
                Ok(false) if self.place.overwrites() => self.states[at] = State::Wanted(None),
                Ok(false) => return self.decline(at, Trouble::of(Code::FileExists)),
                Err(trouble) => return self.decline(at, trouble),
            }
        } else {
            match self.open_part(&path, Some((length, sha256))) {
                Ok(part) => {
                    offset = part.at();
                    self.progress.add(offset);
                    match offset {
                        0 => {
                            tracing::info!("{path} begins anew: what there was is of another file")
                        }
                        _ => tracing::info!("{path} goes on after {offset} bytes"),
                    }
                    self.states[at] = State::Wanted((offset > 0).then_some((offset, sha256)));
                    if self.kept.len() < KEPT {
                        self.kept.insert(at, part);
                    }
                }
                Err(trouble) => return self.decline(at, trouble),
            }
        }
        self.telling.say(GoOn {
            entry,
            offset,
            complete,
        })
    }

    /// Opens the part of a file, and waits a little where this sender's earlier transfer still has it.
    fn open_part(&mut self, path: &str, agreed: Option<(u64, Digest)>) -> Result<Part, Trouble> {
        let until = Instant::now() + GIVE_WAY;
        loop {
            match self.place.open_part(path, agreed) {
                Err(trouble)
                    if trouble.code == Code::Busy
                        && self.claims.contend(path)
                        && Instant::now() < until =>
                {
                    std::thread::sleep(LOOK);
                }
                opened => {
                    if opened.is_ok() {
                        self.claims.claim(path);
                    }
                    return opened;
                }
            }
        }
    }

    /// Hears the sealed part to its end.
    fn hear_files(
        &mut self,
        hearing: &mut Hearing,
        identity: &StaticKey,
    ) -> Result<(), FilesError> {
        let mut body = BodyOpener::new(identity);
        while let Some(bytes) = hearing.bytes()? {
            body.push(&bytes)?;
            while let Some(message) = body.message()? {
                self.heed(message)?;
            }
        }
        body.end()?;
        while let Some(message) = body.message()? {
            self.heed(message)?;
        }
        match self.whole && self.current.is_none() {
            true => Ok(()),
            false => Err(FilesError::Turn("an end before all was said")),
        }
    }

    fn heed(&mut self, message: Transfer) -> Result<(), FilesError> {
        match message {
            _ if self.whole => Err(FilesError::Turn("something after the end")),
            Transfer::Start(start) => self.start(&start),
            Transfer::Data(Data { bytes }) => self.write(bytes.len() as u64, Some(&bytes)),
            Transfer::Hole(Hole { length }) => self.write(length, None),
            Transfer::End(End { sha256 }) => self.end(sha256),
            Transfer::Gone(Gone { code, text }) => self.gone(Trouble::said(code, &text)),
            Transfer::Whole(_) => {
                self.whole = true;
                Ok(())
            }
            _ => Err(FilesError::Turn("something else than files")),
        }
    }

    fn start(&mut self, start: &Start) -> Result<(), FilesError> {
        if self.current.is_some() {
            return Err(FilesError::Turn("a file within another"));
        }
        let at = usize::try_from(start.entry).unwrap_or(usize::MAX);
        let Some(State::Wanted(agreed)) = self.states.get(at) else {
            // Another receiver wants it.
            return Ok(());
        };
        let agreed = *agreed;
        let from = agreed.map_or(0, |(from, _)| from);
        let pass = from
            .checked_sub(start.offset)
            .ok_or(FilesError::Turn("a file that begins too late"))?;
        let part = match self.kept.remove(&at) {
            Some(part) => Ok(part),
            None => self.open_part(&self.entries[at].path.clone(), agreed),
        };
        match part {
            Ok(part) if part.at() == from => {
                self.current = Some(Current {
                    entry: at,
                    part,
                    pass,
                });
                Ok(())
            }
            Ok(_) => self.decline(at, Trouble::of(Code::Checksum)),
            Err(trouble) => self.decline(at, trouble),
        }
    }

    /// Writes bytes, or as many zeros.
    fn write(&mut self, length: u64, bytes: Option<&[u8]>) -> Result<(), FilesError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Current { entry, part, pass } = current;
        let passed = length.min(*pass);
        *pass -= passed;
        let length = length - passed;
        let entry = &self.entries[*entry];
        let fits = part
            .at()
            .checked_add(length)
            .is_some_and(|end| end <= entry.size);
        if !fits && entry.kind != EntryKind::Open {
            return Err(FilesError::Turn("more of a file than was offered"));
        }
        let written = match bytes {
            // Not more than there are bytes.
            Some(bytes) => part.write(&bytes[bytes.len() - length as usize..]),
            None => part.skip(length),
        };
        self.progress.add(length);
        Ok(written.map_err(|error| Trouble::of_disk(&error, &entry.path))?)
    }

    fn end(&mut self, sha256: Digest) -> Result<(), FilesError> {
        let Some(Current { entry, part, pass }) = self.current.take() else {
            return Ok(());
        };
        let Entry { kind, size, .. } = self.entries[entry];
        if pass > 0 || (kind == EntryKind::File && part.at() != size) {
            return Err(FilesError::Turn("less of a file than was offered"));
        }
        if part.digest() != sha256 {
            part.discard();
            return self.decline(entry, Trouble::of(Code::Checksum));
        }
        self.finished_bytes += part.at();
        self.finished.push((entry, part));
        match self.finished.len() >= BATCH || self.finished_bytes >= BATCH_BYTES {
            true => self.bring_to_disk(),
            false => Ok(()),
        }
    }

    /// The sender cannot send the rest.
    fn gone(&mut self, trouble: Trouble) -> Result<(), FilesError> {
        let Some(Current { entry, part, .. }) = self.current.take() else {
            return Ok(());
        };
        if self.entries[entry].kind == EntryKind::Open {
            part.discard();
        }
        self.decline(entry, trouble)
    }

    /// Has all finished files on the disk and in their places, and says so.
    fn bring_to_disk(&mut self) -> Result<(), FilesError> {
        let (mut got, mut folders) = (Vec::new(), Vec::new());
        self.finished_bytes = 0;
        let finished = std::mem::take(&mut self.finished);
        store_all(&finished, &self.entries)?;
        for (at, part) in finished {
            match part.name(&self.entries[at], self.place.overwrites()) {
                Ok(folder) => {
                    folders.push(folder);
                    got.push((at, part.at(), part.digest()));
                }
                Err(trouble) if trouble.code == Code::FileExists => self.decline(at, trouble)?,
                Err(trouble) => return Err(trouble.into()),
            }
        }
        settle(&folders).map_err(|error| Trouble::of_disk(&error, "the folder"))?;
        for (at, size, digest) in got {
            self.states[at] = State::Got(size, digest);
            let path = self.entries[at].path.clone();
            tracing::debug!("received {path}, {size} bytes, SHA-256 {}", hex(&digest));
            (self.on)(Arrival::Got { path, size, digest });
            let (entry, sha256) = (at as u64, digest);
            self.telling.say(Got { entry, sha256 })?;
        }
        self.telling.flush()
    }

    fn decline(&mut self, at: usize, trouble: Trouble) -> Result<(), FilesError> {
        self.states[at] = State::Declined;
        let (entry, code) = (at as u64, trouble.code.number());
        let text = trouble.text.clone();
        let path = self.entries[at].path.clone();
        tracing::debug!("{path} is not taken: {}", code::name(code));
        (self.on)(Arrival::Declined { path, trouble });
        self.telling.say(Declined { entry, code, text })
    }

    /// Says what it came to.
    fn finish(mut self) -> Result<Received, FilesError> {
        // What is inside first: writing there changes a folder's time.
        for at in std::mem::take(&mut self.made).into_iter().rev() {
            if let Err(trouble) = self.place.finish_folder(&self.entries[at]) {
                tracing::warn!("{trouble}");
            }
        }
        let (mut files, mut bytes, mut missing) = (0, 0, 0);
        for state in &self.states {
            match state {
                State::Got(size, _) => (files, bytes) = (files + 1, bytes + size),
                State::Folder => {}
                State::Wanted(_) | State::Declined => missing += 1,
            }
        }
        let there = self.entries.iter().zip(&self.states);
        let digest = digest_of_all(there.filter_map(|(entry, state)| match state {
            State::Got(_, digest) => Some((&*entry.path, *digest)),
            _ => None,
        }));
        let sha256 = digest;
        self.telling.say(Taken { files, sha256 })?;
        self.telling.end()?;
        Ok(Received {
            files,
            bytes,
            missing,
            digest,
        })
    }
}
