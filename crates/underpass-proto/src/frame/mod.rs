//! Frames: what stands inside a sealed record, in the vocabulary of QUIC (RFC 9000 §19).
//!
//! A frame is a type code (a varint) and its fields. One table below gives every frame its
//! code and the places where it may stand; one file each holds the fields, what they mean,
//! and byte-exact samples. Offsets are absolute, so receiving a frame twice is harmless.

mod ack;
mod beside;
mod channel;
mod close;
mod data;
mod datagram;
mod key_update;
mod max_channel_data;
mod max_channels;
mod max_data;
mod open;
mod opened;
mod ping;
mod pong;
mod redial;
mod reset;
mod stop;
mod ticket;

pub use ack::{Ack, AckRanges};
pub use beside::{Beside, LegName, MAX_LEGS};
pub use channel::{ChannelId, ChannelKind, Class, Encoding};
pub use close::Close;
pub use data::Data;
pub use datagram::Datagram;
pub use key_update::KeyUpdate;
pub use max_channel_data::MaxChannelData;
pub use max_channels::MaxChannels;
pub use max_data::MaxData;
pub use open::Open;
pub use opened::Opened;
pub use ping::Ping;
pub use pong::Pong;
pub use redial::Redial;
pub use reset::Reset;
pub use stop::Stop;
pub use ticket::Ticket;

use bytes::Bytes;

use crate::wire::{DecodeError, messages};

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a record that is acknowledged and sent again until it has arrived.
    Reliable,
    /// In a record that is sent once.
    Unreliable,
    /// In the sealed part of RESUME or RESUMED.
    ResumePayload,
}

impl Place {
    /// The place in words, as errors and the specification use them.
    pub fn name(self) -> &'static str {
        match self {
            Place::Reliable => "reliable record",
            Place::Unreliable => "unreliable record",
            Place::ResumePayload => "resume payload",
        }
    }
}

messages! {
    /// Any frame.
    pub enum Frame;
    /// The type of a frame.
    pub enum FrameType, unknown = UnknownFrame;
    place = Place, family = "frame";

    /// Is the leg alive, and how long is the round trip?
    0x01 Ping in [Unreliable];
    /// The answer to a ping.
    0x02 Pong in [Unreliable];
    /// Which reliable records have arrived.
    0x03 Ack in [Unreliable, ResumePayload];
    /// Opens a channel.
    0x04 Open in [Reliable];
    /// The channel leads where it should.
    0x05 Opened in [Reliable];
    /// Bytes of a stream, and its end.
    0x06 | 0x07 Data in [Reliable];
    /// Credit for the whole session.
    0x08 MaxData in [Reliable];
    /// Credit for one channel.
    0x09 MaxChannelData in [Reliable];
    /// How many channels the peer may open.
    0x0a MaxChannels in [Reliable];
    /// The sender ends its direction of a channel at once.
    0x0b Reset in [Reliable];
    /// The receiver wants no more of a channel.
    0x0c Stop in [Reliable];
    /// One datagram.
    0x0d Datagram in [Unreliable];
    /// Moves a channel to another host service.
    0x0e Redial in [Reliable];
    /// What re-opens a path to this session.
    0x0f Ticket in [ResumePayload];
    /// The next records are sealed with newer keys.
    0x10 KeyUpdate in [Reliable];
    /// The end of the session.
    0x11 Close in [Reliable];
    /// A new leg joins others.
    0x12 Beside in [ResumePayload];
}

/// All frames in `buf`, each checked to be one that may stand in `place`. After an error there
/// is nothing more.
pub fn decode_all(place: Place, buf: &mut Bytes) -> Frames<'_> {
    Frames { place, buf }
}

/// The frames of one record; made by [`decode_all`].
#[derive(Debug)]
pub struct Frames<'a> {
    place: Place,
    buf: &'a mut Bytes,
}

impl Iterator for Frames<'_> {
    type Item = Result<Frame, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.buf.is_empty() {
            return None;
        }
        let frame = Frame::decode_in(self.place, self.buf);
        if frame.is_err() {
            self.buf.clear();
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_several_frames() {
        let mut buf = Bytes::from_static(b"\x05\x02\x06\x02\x00\x02hi\x07\x02\x02\x00");
        let frames: Result<Vec<_>, _> = decode_all(Place::Reliable, &mut buf).collect();
        let data = |offset, fin, data| Data {
            channel: ChannelId(2),
            offset,
            fin,
            data: Bytes::from_static(data),
        };
        assert_eq!(
            frames.unwrap(),
            [
                Opened {
                    channel: ChannelId(2)
                }
                .into(),
                Frame::from(data(0, false, b"hi")),
                data(2, true, b"").into(),
            ]
        );
        assert!(buf.is_empty());
    }

    #[test]
    fn a_frame_in_the_wrong_place_ends_the_record() {
        let mut buf = Bytes::from_static(b"\x01\x07\x05\x02\x01\x08");
        let mut frames = decode_all(Place::Unreliable, &mut buf);
        assert_eq!(frames.next(), Some(Ok(Ping { token: 7 }.into())));
        assert_eq!(
            frames.next(),
            Some(Err(DecodeError::NotAllowed {
                what: "Opened",
                place: "unreliable record"
            }))
        );
        assert_eq!(frames.next(), None);
    }

    #[test]
    fn unknown_types_are_named() {
        for (bytes, code) in [(&b"\x00"[..], 0), (b"\x13", 0x13), (b"\x7f\xff", 0x3fff)] {
            assert_eq!(
                Frame::decode(&mut Bytes::copy_from_slice(bytes)),
                Err(DecodeError::UnknownFrame(code))
            );
        }
    }

    #[test]
    fn places_of_every_frame() {
        use Place::{Reliable, ResumePayload, Unreliable};
        for kind in FrameType::ALL {
            let places: &[Place] = match kind {
                FrameType::Ping | FrameType::Pong | FrameType::Datagram => &[Unreliable],
                FrameType::Ack => &[Unreliable, ResumePayload],
                FrameType::Ticket | FrameType::Beside => &[ResumePayload],
                _ => &[Reliable],
            };
            for place in [Reliable, Unreliable, ResumePayload] {
                assert_eq!(kind.allowed_in(place), places.contains(&place), "{kind:?}");
            }
        }
    }
}
