//! How much of a session the relay between its ends can read: the three grades of secrecy, and the keys that a relay is
//! given in one of them.
//!
//! Who begins a session chooses its grade, which stands in [`Hello::target`](crate::packet::Hello) and enters the
//! prologue of the handshake: nobody on the way can turn it into another. In [`Grade::Blind`] nothing of this is seen.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, Bytes};
use underpass_seal::{Cipher, RecordSecret, Space, TAG_LEN};

use crate::packet::{HelloTarget, Packet, PacketKind, RecordHeader, whole};
use crate::role::Role;
use crate::session::ReceiveEpochs;
use crate::wire::{Auto, Codec, DecodeError, Secret, wire_enum};
wire_enum! {
    /// A grade of secrecy. Their order is that of how much stays secret.
    pub enum Grade {
        /// Nothing is encrypted from end to end: records are framed and authenticated only, and whoever the bytes pass can
        /// read them. For programs that encrypt themselves.
        None = 0,
        /// The relay is given the keys of the records, and nobody else is.
        Relay = 1,
        /// Only both ends can read it.
        Blind = 2,
    }
}

impl PartialOrd for Grade {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Grade {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(&other.code())
    }
}

impl Grade {
    /// All of them, the most secret one first.
    pub const ALL: [Grade; 3] = [Grade::Blind, Grade::Relay, Grade::None];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Grade::Blind => "blind",
            Grade::Relay => "relay",
            Grade::None => "none",
        }
    }

    /// Who can read a session of this grade, beside its two ends; in words for people.
    #[must_use]
    pub fn readers(self) -> &'static str {
        match self {
            Grade::Blind => "readable by its two ends only",
            Grade::Relay => "readable by the relay",
            Grade::None => "readable by everybody on the way",
        }
    }

    /// What a HELLO for an endpoint says.
    #[must_use]
    pub fn target(self) -> HelloTarget {
        match self {
            Grade::Blind => HelloTarget::Endpoint,
            Grade::Relay => HelloTarget::EndpointGradeRelay,
            Grade::None => HelloTarget::EndpointGradeNone,
        }
    }

    /// The grade of a session that begins with this in its HELLO. What a relay is itself an end of is blind to all others.
    #[must_use]
    pub fn of(target: HelloTarget) -> Self {
        match target {
            HelloTarget::Relay | HelloTarget::Endpoint => Grade::Blind,
            HelloTarget::EndpointGradeRelay => Grade::Relay,
            HelloTarget::EndpointGradeNone => Grade::None,
        }
    }

    /// The cipher of its records, where both ends would encrypt with `encrypting`.
    pub(crate) fn cipher(self, encrypting: Cipher) -> Cipher {
        match self {
            Grade::Blind | Grade::Relay => encrypting,
            Grade::None => encrypting.tag_only(),
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A text that is the word for no grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is one of blind, relay, none")]
pub struct ParseGradeError;

impl FromStr for Grade {
    type Err = ParseGradeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Grade::ALL.into_iter();
        all.find(|grade| grade.word() == text)
            .ok_or(ParseGradeError)
    }
}

/// What opens the records of a session of [`Grade::Relay`], of both directions, from their present epochs on: what its
/// initiator gives to the relay, sealed for the hop.
#[derive(Clone)]
pub struct RecordKeys {
    cipher: Cipher,
    initiator: (u64, RecordSecret),
    responder: (u64, RecordSecret),
}

impl RecordKeys {
    pub(crate) fn new(
        cipher: Cipher,
        initiator: (u64, RecordSecret),
        responder: (u64, RecordSecret),
    ) -> Self {
        Self {
            cipher,
            initiator,
            responder,
        }
    }

    /// `cipher: byte`, then for the initiator and for the responder `epoch: varint | record secret: 32 bytes`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = Vec::with_capacity(1 + 2 * (8 + 32));
        buf.put_u8(self.cipher.code());
        for (epoch, secret) in [&self.initiator, &self.responder] {
            <Auto as Codec<u64>>::put(epoch, &mut buf);
            <Secret as Codec<[u8; 32]>>::put(&secret.dangerous_to_bytes(), &mut buf);
        }
        buf.into()
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// It is cut short, too long, or of a cipher that does not exist.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        whole(bytes, "RecordKeys", |bytes| {
            let what = "RecordKeys.cipher";
            let code = <Auto as Codec<u8>>::get(bytes, what)?;
            let cipher = Cipher::from_code(code).ok_or(DecodeError::InvalidValue { what })?;
            let mut direction = || {
                let epoch = <Auto as Codec<u64>>::get(bytes, "RecordKeys.epoch")?;
                let secret = <Secret as Codec<[u8; 32]>>::get(bytes, "RecordKeys.secret")?;
                Ok((epoch, RecordSecret::dangerous_from_bytes(secret)))
            };
            let (initiator, responder) = (direction()?, direction()?);
            Ok(Self::new(cipher, initiator, responder))
        })
    }

    /// What opens the records that `sender` sends.
    #[must_use]
    pub fn reader(&self, sender: Role) -> RecordReader {
        let (epoch, secret) = match sender {
            Role::Initiator => self.initiator.clone(),
            Role::Responder => self.responder.clone(),
        };
        RecordReader(ReceiveEpochs::from_epoch(epoch, secret, self.cipher))
    }
}

impl fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordKeys")
            .field("cipher", &self.cipher)
            .field("epochs", &(self.initiator.0, self.responder.0))
            .finish_non_exhaustive()
    }
}

/// Opens the records of one direction with the keys that a relay was given.
pub struct RecordReader(ReceiveEpochs);

impl RecordReader {
    /// The frames in a record, as they follow upon each other. `None` for another packet, for a record of an epoch that is over,
    /// and for one that is not authentic.
    pub fn open(&mut self, packet: &Packet) -> Option<Bytes> {
        let space = match packet.kind {
            PacketKind::Reliable => Space::Reliable,
            PacketKind::Unreliable => Space::Unreliable,
            _ => return None,
        };
        let (header, length) = RecordHeader::parse_body(packet.kind, &packet.body).ok()?;
        let sealed = &packet.body[length..];
        let mut frames = vec![0; sealed.len().checked_sub(TAG_LEN)?];
        let (aad, aad_length) = header.aad();
        let (epoch, number) = (header.epoch, header.number);
        let opened = self.0.open(
            epoch,
            space,
            number,
            &aad[..aad_length],
            sealed,
            &mut frames,
        );
        opened.is_ok().then(|| frames.into())
    }
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_have_words_and_an_order_and_targets_of_their_own() {
        for grade in Grade::ALL {
            assert_eq!(grade.word().parse(), Ok(grade));
            assert_eq!(Grade::of(grade.target()), grade);
        }
        assert!(Grade::Blind > Grade::Relay && Grade::Relay > Grade::None);
        assert_eq!("open".parse::<Grade>(), Err(ParseGradeError));
        assert_eq!(Grade::of(HelloTarget::Relay), Grade::Blind);
    }

    #[test]
    fn keys_are_read_back_and_never_shown() {
        let secrets = underpass_seal::Secrets::dangerous_from_seed([1; 32]);
        let keys = RecordKeys::new(
            Cipher::ChaCha20Poly1305,
            (3, secrets.initiator_records.clone()),
            (300, secrets.responder_records.clone()),
        );
        let bytes = keys.encode();
        assert_eq!(bytes.len(), 1 + 1 + 32 + 2 + 32);
        let read = RecordKeys::decode(bytes.clone()).unwrap();
        assert_eq!(read.encode(), bytes);
        let shown = format!("{read:?}");
        assert!(
            shown.contains("(3, 300)") && !shown.contains("Secret"),
            "{shown}"
        );
        for cut in 0..bytes.len() {
            assert!(RecordKeys::decode(bytes.slice(..cut)).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(RecordKeys::decode(longer.into()).is_err());
    }
}
