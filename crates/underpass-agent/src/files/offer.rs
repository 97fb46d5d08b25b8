//! Offering files to one receiver: what it wants of them, and from where on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use underpass_proto::Role;
use underpass_proto::transfer::{
    Declined, EntryKind, FILES_VERSION, GoOn, Have, Offer, Proof, Ready, Transfer,
};
use underpass_seal::{PublicKey, Sha256};

use super::extent::digest_of;
use super::line::{Hearing, Line, Telling};
use super::source::{Reading, Source};
use super::{FilesError, Sources, Trouble};

/// Digests of the beginnings of files, so that nothing is read again for the next receiver.
#[derive(Debug, Default)]
pub(super) struct Beginnings(Mutex<HashMap<(usize, u64), Sha256>>);

impl Beginnings {
    /// The digest of the first `length` bytes of an entry, of which it may go on; none where there are not so many.
    pub(super) fn of(&self, entry: usize, source: &Source, length: u64) -> Option<Sha256> {
        if length == 0 {
            return Some(Sha256::default());
        }
        if let Some(known) = self.lock().get(&(entry, length)) {
            return Some(known.clone());
        }
        let Ok(Reading::File(file)) = source.open() else {
            return None;
        };
        let digest = digest_of(&file, length).ok()?;
        let unchanged = source.is_unchanged(&file);
        unchanged.then(|| {
            self.lock().insert((entry, length), digest.clone());
            digest
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, u64), Sha256>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a receiver wants of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// All from this offset on.
    From(u64),
    /// Nothing, since it is all there.
    Nothing,
    /// Nothing, for a reason of its own.
    Declined(Trouble),
}

/// A receiver that is ready.
pub(super) struct Ripe {
    pub(super) hearing: Hearing,
    pub(super) telling: Telling,
    /// For which it is to be sealed.
    pub(super) key: PublicKey,
    /// Of each entry.
    pub(super) wants: Vec<Want>,
}

/// Offers everything on a line, and hears what is wanted.
///
/// # Errors
/// The receiver takes nothing, or the line broke.
pub(super) fn offer(
    line: Line,
    sources: &Sources,
    beginnings: &Beginnings,
    runtime: &tokio::runtime::Handle,
) -> Result<Ripe, FilesError> {
    let (mut hearing, mut telling) = line.split(Role::Responder, runtime);
    let told = tell_offer(&mut telling, sources);
    // A receiver that takes nothing may say so while it is still being told.
    if let Err(error) = told {
        return Err(hear_why(&mut hearing).unwrap_or(error));
    }
    let mut wants: Vec<Want> = sources.list.iter().map(want_all).collect();
    let (key, has) = hear_answer(&mut hearing, &mut wants)?;
    for (entry, length) in &has {
        let source = &sources.list[*entry];
        let fits = *length <= source.entry.size;
        let known = fits.then(|| beginnings.of(*entry, source, *length));
        let sha256 = known.flatten().map_or([0; 32], |digest| digest.digest());
        let entry = *entry as u64;
        telling.say(Proof { entry, sha256 })?;
    }
    telling.flush()?;
    for (entry, length) in has {
        let size = sources.list[entry].entry.size;
        wants[entry] = match hearing.expect()? {
            Transfer::GoOn(GoOn {
                entry: of,
                offset,
                complete,
            }) if of == entry as u64 && (offset == length || offset == 0) => match complete {
                true if offset == size => Want::Nothing,
                true => return Err(FilesError::Turn("a file that is complete and is not")),
                false => Want::From(offset),
            },
            Transfer::Declined(declined) if declined.entry == entry as u64 => {
                Want::Declined(Trouble::said(declined.code, &declined.text))
            }
            _ => return Err(FilesError::Turn("no answer to a proof")),
        };
    }
    Ok(Ripe {
        hearing,
        telling,
        key,
        wants,
    })
}

fn tell_offer(telling: &mut Telling, sources: &Sources) -> Result<(), FilesError> {
    let list = &sources.list;
    telling.say(Offer {
        version: FILES_VERSION,
        entries: list.len() as u64,
        bytes: list.iter().map(|it| it.entry.size).sum(),
    })?;
    for source in list {
        telling.say(source.entry.clone())?;
    }
    telling.flush()
}

/// What the receiver has said before the line broke, if it said that it takes nothing.
fn hear_why(hearing: &mut Hearing) -> Option<FilesError> {
    loop {
        match hearing.expect() {
            Ok(_) => {}
            Err(FilesError::Trouble(trouble)) => return Some(trouble.into()),
            Err(_) => return None,
        }
    }
}

fn want_all(source: &Source) -> Want {
    match source.entry.kind {
        EntryKind::Folder => Want::Nothing,
        EntryKind::File | EntryKind::Open => Want::From(0),
    }
}

/// The key, and what the receiver has already.
fn hear_answer(
    hearing: &mut Hearing,
    wants: &mut [Want],
) -> Result<(PublicKey, Vec<(usize, u64)>), FilesError> {
    let mut has = Vec::new();
    loop {
        match hearing.expect()? {
            Transfer::Ready(Ready { key }) => return Ok((PublicKey(key), has)),
            Transfer::Have(Have { entry, length }) => {
                has.push((known(entry, wants)?, length));
            }
            Transfer::Declined(Declined { entry, code, text }) => {
                let entry = known(entry, wants)?;
                wants[entry] = Want::Declined(Trouble::said(code, &text));
            }
            _ => return Err(FilesError::Turn("no answer to an offer")),
        }
        if has.len() > wants.len() {
            return Err(FilesError::Turn("more answers than files"));
        }
    }
}

/// An entry that was offered.
pub(super) fn known<T>(entry: u64, offered: &[T]) -> Result<usize, FilesError> {
    let entry = usize::try_from(entry).ok();
    let entry = entry.filter(|it| *it < offered.len());
    entry.ok_or(FilesError::Turn("a file that was not offered"))
}

/// What the receivers together want of an entry: the lowest offset, where any of them wants it.
pub(super) fn begin<'a>(wants: impl Iterator<Item = &'a Want>) -> Option<u64> {
    let offsets = wants.filter_map(|want| match want {
        Want::From(offset) => Some(*offset),
        _ => None,
    });
    offsets.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpass_proto::Code;

    #[test]
    fn the_one_who_has_least_sets_where_it_begins() {
        let (nothing, declined) = (Want::Nothing, Want::Declined(Trouble::of(Code::FileExists)));
        assert_eq!(begin([&nothing, &declined].into_iter()), None);
        assert_eq!(begin([&nothing, &Want::From(7)].into_iter()), Some(7));
        assert_eq!(begin([&Want::From(9), &Want::From(7)].into_iter()), Some(7));
    }
}
