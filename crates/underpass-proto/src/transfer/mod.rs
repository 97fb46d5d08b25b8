//! What the sender of files and their receiver say to each other.
//!
//! The sender opens a session with the receiving machine, as for using a service, and in it a stream channel to
//! [`FILES_SERVICE`], of which it is the initiator. Each speaks in turn, in messages of `length: varint | type: varint |
//! fields`:
//!
//! 1. The sender: [`Offer`], and an [`Entry`] for each file and folder, numbered from 0 in their order.
//! 2. The receiver: [`Have`] for what it has (a part of) already, [`Declined`] for what it does not take, then [`Ready`]
//!    with the X25519 key for which this transfer is to be sealed. It comes out of the session whose handshake has proven
//!    the machine's key, and is thrown away afterwards.
//! 3. The sender: one [`Proof`] for each [`Have`], in their order. So the receiver learns what the sender has, and not the
//!    other way round.
//! 4. The receiver: a [`GoOn`] or [`Declined`] for each of them, in their order.
//! 5. The sender: one file in the `age` format, for all receivers at once, and the end of its direction. Sealed in it stand,
//!    again as messages: for each file that one of the receivers wants [`Start`], [`Data`] and [`Hole`], then [`End`] or
//!    [`Gone`]; and at the end [`Whole`]. Receivers pass over what they did not want.
//! 6. Meanwhile the receiver: [`Got`] or [`Declined`] for each file it wanted, at the end [`Taken`].
//!
//! At any time the receiver may say [`NotTaken`], which ends it.

pub mod path;

use bytes::{BufMut, Bytes, BytesMut};

use crate::packet::whole;
use crate::wire::{Counted, DecodeError, Label, Text, body, cut_message, messages, wire_enum};
use crate::{Role, varint};

/// The service under which a machine receives files for its user. Nobody else should publish one of this name.
pub const FILES_SERVICE: &str = "underpass-files";

/// The version of these messages.
pub const FILES_VERSION: u16 = 1;

/// The most that the length of a message may say, in bytes.
pub const MAX_TRANSFER: usize = 80 * 1024;

/// Bytes of a file that one message carries at the most.
pub const MAX_DATA: usize = 64 * 1024;

/// Entries of one transfer at the most.
pub const MAX_ENTRIES: u64 = 1 << 20;

wire_enum! {
    /// What an entry is.
    pub enum EntryKind {
        /// A file whose size is known.
        File = 1,
        /// A folder.
        Folder = 2,
        /// A file that ends where its data do, such as what is read from a pipe.
        Open = 3,
    }
}

messages! {
    /// Any message of a transfer.
    pub enum Transfer;
    /// The type of a message of a transfer.
    pub enum TransferType, unknown = UnknownTransfer;
    place = Role, family = "transfer";

    /// Files are offered.
    0x01 Offer in [Initiator];
    /// One of them.
    0x02 Entry in [Initiator];
    /// What the sender has of it.
    0x03 Proof in [Initiator];
    /// The next bytes are of this file.
    0x04 Start in [Initiator];
    /// Bytes.
    0x05 Data in [Initiator];
    /// Zeros that take no place on the sender's disk.
    0x06 Hole in [Initiator];
    /// The file is whole.
    0x07 End in [Initiator];
    /// The rest of the file cannot be sent.
    0x08 Gone in [Initiator];
    /// All files were sent.
    0x09 Whole in [Initiator];
    /// Bytes that are there already.
    0x11 Have in [Responder];
    /// One entry is not taken.
    0x12 Declined in [Responder];
    /// The transfer may go on.
    0x13 Ready in [Responder];
    /// Where to go on.
    0x14 GoOn in [Responder];
    /// A file has arrived, and is where it should be.
    0x15 Got in [Responder];
    /// All is done.
    0x16 Taken in [Responder];
    /// Nothing (more) is taken.
    0x17 NotTaken in [Responder];
}

body! {
    /// What is offered.
    pub struct Offer {
        /// The version that the sender speaks.
        pub version: u16,
        /// How many entries follow, at most 2^20.
        pub entries: u64,
        /// Bytes of all files together, holes as well, as far as their sizes are known.
        pub bytes: u64,
    }
}

body! {
    /// One file or folder. A folder comes before what is in it.
    pub struct Entry {
        /// What it is.
        pub kind: EntryKind,
        /// Where it belongs below the receiver's folder: names with slashes between them.
        pub path: String as Label<4096>,
        /// Its bytes; 0 where that is not known.
        pub size: u64,
        /// Permissions, of which the lowest nine bits are heeded.
        pub mode: u32,
        /// When it was changed, in seconds since 1970.
        pub modified_s: u64,
        /// And nanoseconds.
        pub modified_ns: u32,
    }
}

body! {
    /// The digest of the bytes up to where the receiver said that it has them.
    pub struct Proof {
        /// The entry.
        pub entry: u64,
        /// SHA-256; zeros where the sender does not have so many.
        pub sha256: [u8; 32],
    }
}

body! {
    /// A file goes on from here.
    pub struct Start {
        /// The entry.
        pub entry: u64,
        /// The lowest offset from which a receiver wants it.
        pub offset: u64,
    }
}

body! {
    /// The next bytes of the file.
    pub struct Data {
        /// At most 65,536.
        pub bytes: Bytes as Counted,
    }
}

body! {
    /// The next bytes of the file are zero.
    pub struct Hole {
        /// How many.
        pub length: u64,
    }
}

body! {
    /// The file has ended.
    pub struct End {
        /// SHA-256 of all of it.
        pub sha256: [u8; 32],
    }
}

body! {
    /// The file cannot be read to its end, or changed meanwhile.
    pub struct Gone {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people.
        pub text: String as Text<1024>,
    }
}

body! {
    /// The end of all.
    pub struct Whole {
        /// SHA-256 over `HEX  PATH\n` of each file that was read to its end, in the order of the entries.
        pub sha256: [u8; 32],
    }
}

body! {
    /// The receiver has so many bytes already, of this file or of another of the same name.
    pub struct Have {
        /// The entry.
        pub entry: u64,
        /// How many.
        pub length: u64,
    }
}

body! {
    /// An entry is not taken, or was not.
    pub struct Declined {
        /// The entry.
        pub entry: u64,
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people.
        pub text: String as Text<1024>,
    }
}

body! {
    /// The transfer may be sealed for this key.
    pub struct Ready {
        /// An X25519 public key that is used once.
        pub key: [u8; 32],
    }
}

body! {
    /// The digests agree up to here.
    pub struct GoOn {
        /// The entry.
        pub entry: u64,
        /// Where to go on.
        pub offset: u64,
        /// Whether nothing is missing.
        pub complete: bool,
    }
}

body! {
    /// A file is complete, on disk, and has its name.
    pub struct Got {
        /// The entry.
        pub entry: u64,
        /// SHA-256 of all of it, as the receiver computed it.
        pub sha256: [u8; 32],
    }
}

body! {
    /// The transfer is over.
    pub struct Taken {
        /// Files that are there now.
        pub files: u64,
        /// As in [`Whole`], over the files that are there now.
        pub sha256: [u8; 32],
    }
}

body! {
    /// The receiver takes nothing (more).
    pub struct NotTaken {
        /// Why, from the table of codes.
        pub code: u64,
        /// The same for people.
        pub text: String as Text<1024>,
    }
}

impl Transfer {
    /// Appends the message with its length.
    pub fn put_framed(&self, buf: &mut impl BufMut) {
        varint::put(buf, self.encoded_len() as u64);
        self.encode(buf);
    }
}

/// Cuts a stream into messages of one end. It holds less than one message after
/// [`next`](Self::next) has returned `None`; after an error it is of no further use.
#[derive(Debug)]
pub struct TransferDecoder {
    role: Role,
    buf: BytesMut,
}

impl TransferDecoder {
    /// For what the end `role` says.
    #[must_use]
    pub fn new(role: Role) -> Self {
        let buf = BytesMut::new();
        Self { role, buf }
    }

    /// Adds received bytes; they are copied.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Whether what was pushed ends between two messages.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.buf.is_empty()
    }

    /// The next message, or `None` until more is pushed.
    ///
    /// # Errors
    /// It is too long, cannot be read, or is not this end's to send.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not go on after None"
    )]
    pub fn next(&mut self) -> Result<Option<Transfer>, DecodeError> {
        let Some(message) = cut_message(&mut self.buf, MAX_TRANSFER, "Transfer")? else {
            return Ok(None);
        };
        let role = self.role;
        let read = whole(message, "Transfer", |bytes| {
            Transfer::decode_in(role, bytes)
        });
        read.map(Some)
    }
}

#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_messages_can_be_read() {
        let longest = [
            Transfer::from(Data {
                bytes: vec![7; MAX_DATA].into(),
            }),
            Transfer::from(Entry {
                kind: EntryKind::File,
                path: "x".repeat(4096),
                size: varint::VARINT_MAX,
                mode: u32::MAX,
                modified_s: varint::VARINT_MAX,
                modified_ns: u32::MAX,
            }),
        ];
        let mut decoder = TransferDecoder::new(Role::Initiator);
        for message in longest {
            let mut bytes = Vec::new();
            message.put_framed(&mut bytes);
            let (last, before) = bytes.split_last().expect("a length at least");
            decoder.push(before);
            assert_eq!(decoder.next(), Ok(None));
            decoder.push(&[*last]);
            assert_eq!(decoder.next(), Ok(Some(message)));
            assert!(decoder.is_between_messages());
        }
    }

    #[test]
    fn each_end_says_only_what_is_its_to_say() {
        let mut bytes = Vec::new();
        Transfer::from(Hole { length: 1 }).put_framed(&mut bytes);
        let mut decoder = TransferDecoder::new(Role::Responder);
        decoder.push(&bytes);
        assert!(matches!(
            decoder.next(),
            Err(DecodeError::NotAllowed { .. })
        ));
        let mut decoder = TransferDecoder::new(Role::Initiator);
        decoder.push(&[0x80, 0x01, 0x40, 0x01]);
        assert!(matches!(decoder.next(), Err(DecodeError::TooLong { .. })));
    }
}
