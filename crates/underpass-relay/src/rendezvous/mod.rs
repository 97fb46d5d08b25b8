//! Who wishes to meet whom, and who is there for whom: a pure state machine beside the hub.
//!
//! A [`Wish`] is of one machine, for one application, for a user or for anybody. Two wishes *fit* each other where they are
//! for the same application, of different machines, each for the user of the other or for anybody, and not both for
//! anybody. A wish for a user meets one other wish; one for anybody meets all that fit it.
//!
//! The hub
//!
//! 1. hands in wishes, those that are taken back, and attachments that come back or go;
//! 2. tells the attachments that it is given in return to ask again;
//! 3. asks for what they are to be [answered](Rendezvous::answer), and who is [admitted](Rendezvous::admits) where
//!    somebody waits.
//!
//! # What holds at any moment
//!
//! - Of two wishes for users that have met, each has met the other.
//! - Two that fit, are there and may meet anybody of that user, are not both left alone.
//! - Who opens the path and who waits follows from the two wishes alone: whoever wishes for anybody waits, else the
//!   machine whose key is the greater. So the relays of a group agree without a word.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use underpass_proto::Code;
use underpass_proto::meeting::{Peer, Place};
use underpass_seal::PublicKey;
use underpass_store::{ServiceId, UserId};

use crate::hub::AttachmentId;
use crate::refusal::Refusal;

/// Whom a wish is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Anybody who wishes for the one who says this.
    Anybody,
    /// This user.
    User {
        /// Whose number is this.
        id: UserId,
        /// Whose name is this.
        name: String,
    },
}

/// The wish of one machine to meet somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where it was said.
    pub attachment: AttachmentId,
    /// The program that said it, by bytes of its choice.
    pub holder: [u8; 16],
    /// The machine's user.
    pub user: UserId,
    /// That user's name.
    pub user_name: String,
    /// The machine's key.
    pub machine: [u8; 32],
    /// What for.
    pub application: String,
    /// Whom.
    pub whom: Whom,
    /// The only machine that it may meet: that of a session which there is already.
    pub only: Option<[u8; 32]>,
}

/// What became of a wish that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The number of the place where its machine would wait.
    pub place: ServiceId,
    /// The attachment that held the same wish before.
    pub replaced: Option<AttachmentId>,
    /// Who is to ask again.
    pub tell: Vec<AttachmentId>,
}

/// Whom a wish has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The other user.
    pub user: String,
    /// The key of that user's machine.
    pub machine: [u8; 32],
    /// Where one of them waits.
    pub place: Place,
    /// Whether the one who asks opens the path to there.
    pub opens: bool,
}

/// Who waits at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The name of the place.
    pub name: String,
    /// The user who waits.
    pub user: String,
}

/// The number of a place among those of services: what stands for it in routes and tickets. Stores count services from 1
/// up, so none has a negative one.
#[must_use]
pub fn number_of(place: &Place) -> ServiceId {
    // It has 63 bits.
    ServiceId(!place.number().cast_signed())
}

/// Whether this is the number of a place, and of no service.
#[must_use]
pub fn is_place(service: ServiceId) -> bool {
    service.0 < 0
}

impl Wish {
    /// Where its machine would wait.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            application: self.application.clone(),
            waiting: *PublicKey(self.machine).fingerprint().as_bytes(),
            peer: match &self.whom {
                Whom::Anybody => Peer::Anybody,
                Whom::User { name, .. } => Peer::User(name.clone()),
            },
        }
    }

    fn is_for(&self, user: UserId) -> bool {
        match self.whom {
            Whom::Anybody => true,
            Whom::User { id, .. } => id == user,
        }
    }

    fn is_for_anybody(&self) -> bool {
        self.whom == Whom::Anybody
    }

    fn fits(&self, other: &Wish) -> bool {
        let allows = |wish: &Wish, other: &Wish| {
            wish.is_for(other.user) && wish.only.is_none_or(|only| only == other.machine)
        };
        self.application == other.application
            && self.machine != other.machine
            && allows(self, other)
            && allows(other, self)
            && !(self.is_for_anybody() && other.is_for_anybody())
    }
}

/// A wish that stands.
#[derive(Debug)]
struct Standing {
    wish: Wish,
    place: Place,
    /// Its number among all that ever were: who came first is met first.
    order: u64,
    /// The wish that it has met; of one for anybody, none.
    met: Option<ServiceId>,
}

/// An application, and a user.
type Key = (String, UserId);

/// The orders and numbers of wishes.
type Index<K> = BTreeMap<K, BTreeSet<(u64, ServiceId)>>;

/// All wishes. The module's documentation states how it is driven.
#[derive(Debug, Default)]
pub struct Rendezvous {
    /// By the numbers of their places.
    standing: BTreeMap<ServiceId, Standing>,
    /// Those of a user, in the order in which they came.
    of: Index<Key>,
    /// Those for a user, in the order in which they came.
    for_user: Index<Key>,
    /// Those of an attachment.
    held: Index<AttachmentId>,
    next: u64,
}

/// Says whether an attachment can be reached at the moment.
pub type IsThere<'a> = &'a dyn Fn(AttachmentId) -> bool;

impl Rendezvous {
    /// Takes a wish up, or takes it up anew: it meets the first one that fits it and is there.
    ///
    /// # Errors
    /// Another program holds the same wish of the same machine, and is there.
    pub fn wish(&mut self, wish: Wish, is_there: IsThere<'_>) -> Result<Taken, Refusal> {
        let place = wish.place();
        let number = number_of(&place);
        let attachment = wish.attachment;
        let mut replaced = None;
        let mut tell = Vec::new();
        if let Some(known) = self.standing.get(&number) {
            let before = &known.wish;
            if known.place != place {
                return Err(Refusal::busy("places of meetings"));
            }
            if before.holder != wish.holder && is_there(before.attachment) {
                return Err(Refusal::of(Code::Connected));
            }
            replaced = Some(before.attachment).filter(|it| *it != attachment);
            if *before != wish {
                tell = self.remove(number, is_there);
                self.add(number, place, wish);
            }
        } else {
            self.add(number, place, wish);
        }
        let met = self.meet(number, is_there).into_iter();
        // It is answered at once. What another wish of the same attachment has met by it, it is told.
        tell.extend(met.filter(|it| *it != attachment));
        Ok(Taken {
            place: number,
            replaced,
            tell,
        })
    }

    /// Takes a wish back: that of this machine and program whose place this is. Who held it, and who is to ask again.
    pub fn part(
        &mut self,
        place: &Place,
        holder: [u8; 16],
        is_there: IsThere<'_>,
    ) -> Option<(AttachmentId, Vec<AttachmentId>)> {
        let number = number_of(place);
        let known = self.standing.get(&number)?;
        if known.place != *place || known.wish.holder != holder {
            return None;
        }
        let attachment = known.wish.attachment;
        Some((attachment, self.remove(number, is_there)))
    }

    /// An attachment is no more, and neither are its wishes. Who is to ask again.
    pub fn detached(
        &mut self,
        attachment: AttachmentId,
        is_there: IsThere<'_>,
    ) -> Vec<AttachmentId> {
        let mut tell = Vec::new();
        for number in self.held_by(attachment) {
            tell.extend(self.remove(number, is_there));
        }
        tell
    }

    /// An attachment can be reached again. Who is to ask again.
    pub fn returned(
        &mut self,
        attachment: AttachmentId,
        is_there: IsThere<'_>,
    ) -> Vec<AttachmentId> {
        let mut tell = Vec::new();
        for number in self.held_by(attachment) {
            tell.extend(self.meet(number, is_there));
        }
        tell
    }

    /// Whom the wish has met whose place this is; none where it is alone, or is for anybody.
    #[must_use]
    pub fn answer(&self, number: ServiceId) -> Option<Meeting> {
        let known = self.standing.get(&number)?;
        let other = self.standing.get(&known.met?)?;
        let opens = other.wish.is_for_anybody() || known.wish.machine < other.wish.machine;
        let waits = if opens { other } else { known };
        Some(Meeting {
            user: other.wish.user_name.clone(),
            machine: other.wish.machine,
            place: waits.place.clone(),
            opens,
        })
    }

    /// Whether a machine of a user may open a path to a place, and who waits there. It need not have met the wish here:
    /// it may have met it through another relay.
    ///
    /// # Errors
    /// Nobody waits there, for somebody else, or for another machine of that user.
    pub fn admits(
        &self,
        number: ServiceId,
        user: UserId,
        machine: [u8; 32],
    ) -> Result<Waiting, Refusal> {
        let away = || Refusal::new(Code::ServiceAway, "nobody waits there");
        let known = self.standing.get(&number).ok_or_else(away)?;
        let wish = &known.wish;
        if wish.machine == machine {
            return Err(Refusal::of(Code::Oneself));
        }
        if !wish.is_for(user) {
            return Err(Refusal::of(Code::Denied));
        }
        let met = known.met.and_then(|met| self.standing.get(&met));
        let met = met.map(|other| other.wish.machine);
        if wish.only.or(met).is_some_and(|other| other != machine) {
            return Err(Refusal::of(Code::Connected));
        }
        Ok(Waiting {
            name: known.place.to_string(),
            user: wish.user_name.clone(),
        })
    }

    /// Who wishes for this user and application, and is alone.
    #[must_use]
    pub fn alone_for(&self, application: &str, user: UserId) -> Vec<AttachmentId> {
        let wanting = self.for_user.get(&(application.to_owned(), user));
        let wanting = wanting.into_iter().flatten();
        let wanting = wanting.filter_map(|(_, number)| self.standing.get(number));
        let alone = wanting.filter(|known| known.met.is_none());
        alone.map(|known| known.wish.attachment).collect()
    }

    fn held_by(&self, attachment: AttachmentId) -> Vec<ServiceId> {
        in_order(&self.held, &attachment).collect()
    }

    fn add(&mut self, number: ServiceId, place: Place, wish: Wish) {
        self.next += 1;
        let entry = (self.next, number);
        let key = |user| (wish.application.clone(), user);
        self.of.entry(key(wish.user)).or_default().insert(entry);
        if let Whom::User { id, .. } = wish.whom {
            self.for_user.entry(key(id)).or_default().insert(entry);
        }
        let held = self.held.entry(wish.attachment).or_default();
        held.insert(entry);
        let known = Standing {
            wish,
            place,
            order: self.next,
            met: None,
        };
        self.standing.insert(number, known);
    }

    /// Forgets a wish; those that had met it look for another. Who is to ask again.
    fn remove(&mut self, number: ServiceId, is_there: IsThere<'_>) -> Vec<AttachmentId> {
        let Some(Standing {
            wish, order, met, ..
        }) = self.standing.remove(&number)
        else {
            return Vec::new();
        };
        let entry = (order, number);
        let key = |user| (wish.application.clone(), user);
        take_out(&mut self.of, &key(wish.user), entry);
        if let Whom::User { id, .. } = wish.whom {
            take_out(&mut self.for_user, &key(id), entry);
        }
        take_out(&mut self.held, &wish.attachment, entry);
        let met: Vec<ServiceId> = match (met, wish.is_for_anybody()) {
            (Some(other), _) => vec![other],
            (None, false) => Vec::new(),
            (None, true) => in_order(&self.for_user, &key(wish.user)).collect(),
        };
        let mut tell = Vec::new();
        let mut left = Vec::new();
        for other in met {
            if let Some(known) = self.standing.get_mut(&other)
                && known.met.take_if(|met| *met == number).is_some()
            {
                tell.push(known.wish.attachment);
                left.push(other);
            }
        }
        for other in left {
            tell.extend(self.meet(other, is_there));
        }
        tell
    }

    /// Has a wish meet whom it can: one for anybody all who are alone, one for a user the first. Who is to ask again.
    fn meet(&mut self, number: ServiceId, is_there: IsThere<'_>) -> Vec<AttachmentId> {
        let Some(known) = self.standing.get(&number) else {
            return Vec::new();
        };
        let wish = &known.wish;
        let application = wish.application.clone();
        if known.met.is_some() || !is_there(wish.attachment) {
            return Vec::new();
        }
        let candidates: Vec<ServiceId> = match wish.whom {
            Whom::Anybody => in_order(&self.for_user, &(application, wish.user)).collect(),
            Whom::User { id, .. } => in_order(&self.of, &(application, id)).collect(),
        };
        let fitting = candidates.into_iter().filter(|candidate| {
            let other = self.standing.get(candidate);
            other.is_some_and(|other| {
                other.met.is_none() && is_there(other.wish.attachment) && wish.fits(&other.wish)
            })
        });
        let most = if wish.is_for_anybody() { usize::MAX } else { 1 };
        let fitting: Vec<ServiceId> = fitting.take(most).collect();
        let mut tell = Vec::new();
        for other in fitting {
            for (one, met) in [(number, other), (other, number)] {
                if let Some(known) = self.standing.get_mut(&one)
                    && !known.wish.is_for_anybody()
                {
                    known.met = Some(met);
                    tell.push(known.wish.attachment);
                }
            }
        }
        tell
    }
}

fn take_out<K: Ord>(index: &mut Index<K>, key: &K, entry: (u64, ServiceId)) {
    if let Some(entries) = index.get_mut(key) {
        entries.remove(&entry);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

fn in_order<'a, K: Ord>(
    index: &'a Index<K>,
    key: &K,
) -> impl Iterator<Item = ServiceId> + use<'a, K> {
    let entries = index.get(key).into_iter().flatten();
    entries.map(|(_, number)| *number)
}
