//! What a held call asks for. Pure.

use libc::c_long;

/// A call by which a program may connect. Places are addresses in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// connect(2)
    Connect {
        socket: i32,
        address: u64,
        length: u32,
    },
    /// sendto(2)
    SendTo {
        socket: i32,
        data: Piece,
        flags: u32,
        address: u64,
        length: u32,
    },
    /// sendmsg(2), or sendmmsg(2), of whose messages only the first counts: what follows may be sent by the next call.
    Send {
        socket: i32,
        header: u64,
        flags: u32,
        several: bool,
    },
}

/// Some of a program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) place: u64,
    pub(crate) length: u64,
}

impl Call {
    /// From the number and the arguments; `None` where it is none that is held.
    pub(crate) fn read(number: c_long, arguments: [u64; 6]) -> Option<Self> {
        let [first, second, third, fourth, fifth, sixth] = arguments;
        // The kernel looks at the lower half of what is an `int` or a `socklen_t`.
        let socket = first as i32;
        match number {
            libc::SYS_connect => Some(Self::Connect {
                socket,
                address: second,
                length: third as u32,
            }),
            libc::SYS_sendto => Some(Self::SendTo {
                socket,
                data: Piece {
                    place: second,
                    length: third,
                },
                flags: fourth as u32,
                address: fifth,
                length: sixth as u32,
            }),
            libc::SYS_sendmsg => Some(Self::Send {
                socket,
                header: second,
                flags: third as u32,
                several: false,
            }),
            // Of no message nothing is sent.
            libc::SYS_sendmmsg if third as u32 > 0 => Some(Self::Send {
                socket,
                header: second,
                flags: fourth as u32,
                several: true,
            }),
            _ => None,
        }
    }
}

/// `struct msghdr` (recvmsg(2)) on a machine of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) pieces: u64,
    pub(crate) count: u64,
}

impl Header {
    /// Its length in bytes; in a `struct mmsghdr` the count of what was sent follows.
    pub(crate) const LENGTH: usize = 56;

    /// From the memory of a program.
    pub(crate) fn read(bytes: &[u8; Self::LENGTH]) -> Self {
        let word = |at: usize| {
            let part = bytes[at..].first_chunk();
            u64::from_ne_bytes(*part.expect("the places below lie within it"))
        };
        Self {
            address: word(0),
            length: word(8) as u32,
            pieces: word(16),
            count: word(24),
        }
    }
}

/// The pieces of a message, from an array of `struct iovec`.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece> {
    let (pairs, _) = bytes.as_chunks::<16>();
    pairs.iter().map(|pair| {
        let (place, length) = pair.split_at(8);
        let word = |bytes: &[u8]| {
            u64::from_ne_bytes(*bytes.first_chunk().expect("a half of 16 bytes has 8"))
        };
        Piece {
            place: word(place),
            length: word(length),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_the_kernel_reads_them() {
        let arguments = [0xffff_ffff_0000_0007, 2, 0x1_0000_0010, 4, 5, 0x1_0000_001c];
        assert_eq!(
            Call::read(libc::SYS_connect, arguments),
            Some(Call::Connect {
                socket: 7,
                address: 2,
                length: 16,
            })
        );
        assert_eq!(
            Call::read(libc::SYS_sendto, arguments),
            Some(Call::SendTo {
                socket: 7,
                data: Piece {
                    place: 2,
                    length: 0x1_0000_0010,
                },
                flags: 4,
                address: 5,
                length: 28,
            })
        );
        let send = |several, flags| Call::Send {
            socket: 7,
            header: 2,
            flags,
            several,
        };
        assert_eq!(
            Call::read(libc::SYS_sendmsg, arguments),
            Some(send(false, 16))
        );
        assert_eq!(
            Call::read(libc::SYS_sendmmsg, arguments),
            Some(send(true, 4))
        );
        assert_eq!(Call::read(libc::SYS_sendmmsg, [0; 6]), None);
        assert_eq!(Call::read(libc::SYS_bind, arguments), None);
    }

    #[test]
    fn messages_are_laid_out_as_the_c_library_has_them() {
        assert_eq!(size_of::<libc::msghdr>(), Header::LENGTH);
        assert_eq!(std::mem::offset_of!(libc::msghdr, msg_namelen), 8);
        assert_eq!(std::mem::offset_of!(libc::msghdr, msg_iov), 16);
        assert_eq!(std::mem::offset_of!(libc::msghdr, msg_iovlen), 24);
        assert_eq!(std::mem::offset_of!(libc::mmsghdr, msg_len), Header::LENGTH);
        let words: Vec<u8> = (1..=7).flat_map(|word: u64| word.to_ne_bytes()).collect();
        let header = Header::read(words.first_chunk().unwrap());
        assert_eq!(
            header,
            Header {
                address: 1,
                length: 2,
                pieces: 3,
                count: 4,
            }
        );
        let all: Vec<Piece> = pieces(&words[..40]).collect();
        let piece = |place, length| Piece { place, length };
        assert_eq!(all, [piece(1, 2), piece(3, 4)]);
    }
}
