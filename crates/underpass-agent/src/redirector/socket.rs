//! The socket where hooked programs ask: packets, for this user only.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net as blocking;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, socket_with};
use tokio::net::UnixListener;
use underpass_hook::message::{self, Answer, Question};
use underpass_proto::names::Suffix;
use underpass_seal::Fingerprint;

use super::names::hash;
use crate::home::{Home, HomeError};

/// Programs that may wait to be heard. A burst of lookups is not turned away.
const BACKLOG: i32 = 1024;
/// So much of a relay's fingerprint as tells the relays of one user apart.
const FINGERPRINT_PART: usize = 8;

/// Where the redirector of a home, a relay and a suffix listens; the name ends with `.sock`. So programs and the redirector
/// that they ask have the same suffix.
///
/// # Errors
/// The folder cannot be made.
pub fn place(home: &Home, relay: &Fingerprint, suffix: &Suffix) -> Result<PathBuf, HomeError> {
    let text = relay.to_string();
    let letters = text.chars().filter(char::is_ascii_alphanumeric);
    let part: String = letters.take(FINGERPRINT_PART).collect();
    let other = match *suffix == Suffix::default() {
        true => String::new(),
        // A socket's path is short, and a suffix need not be.
        false => format!("-{:08x}", hash(suffix.as_str())),
    };
    let name = format!("redirector-{part}{other}.sock");
    let path = home.run_folder()?.join(name);
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// Asks a redirector to be there until this process ends, whatever program it becomes by then.
///
/// # Errors
/// There is no redirector, or it is of another version.
pub fn stay(place: &Path) -> io::Result<()> {
    match asked(place, &Question::Stay)? {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks a redirector to give a pseudo name this address; whether it has that from now on.
///
/// # Errors
/// As [`stay`].
pub fn fix(place: &Path, name: &str, address: Ipv4Addr) -> io::Result<bool> {
    asked(place, &Question::Fix(address.octets(), name.as_bytes()))
}

/// Asks for something to be done; whether it was.
fn asked(place: &Path, question: &Question<'_>) -> io::Result<bool> {
    let address = SocketAddrUnix::new(place)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &address)?;
    let mut buffer = [0; message::MAX];
    rustix::io::write(&socket, question.write(&mut buffer))?;
    let read = rustix::io::read(&socket, &mut buffer)?;
    match Answer::read(&buffer[..read]) {
        Some(Answer::Done) => Ok(true),
        Some(Answer::Unknown) => Ok(false),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Listens at `place`. The caller has made sure that nobody else does.
///
/// # Errors
/// The path is too long for a socket (108 bytes, unix(7)), or the system refuses.
pub(super) fn listen_at(place: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(place)?;
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &address)?;
    // Nobody can be in between: its folder is for this user only.
    fs::set_permissions(place, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    // What is read from it, or written to it, is a packet; all else is as for streams.
    UnixListener::from_std(blocking::UnixListener::from(socket))
}
