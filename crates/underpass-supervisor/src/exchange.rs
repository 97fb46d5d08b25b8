//! Asking the redirector.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, send, socket_with};
use underpass_hook::address::Address;
use underpass_hook::message::{self, Answer, Question};

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Port(u16),
    Errno(i32),
    Entry(Address, Vec<u8>),
    Done,
    Unknown,
    /// No answer within the limit.
    Late,
    /// Whoever was to be answered is gone.
    Gone,
    /// There is no redirector, or it is of another version.
    Nobody,
}

/// Asks a question and waits for the answer, for at most `limit`, and only as long as the process of `until` is there.
pub(crate) fn ask(
    place: &Path,
    question: &Question<'_>,
    limit: Duration,
    until: Option<BorrowedFd<'_>>,
) -> Outcome {
    let mut buffer = [0; message::MAX];
    let Ok(socket) = sent(place, question, &mut buffer) else {
        return Outcome::Nobody;
    };
    let mut watched = vec![PollFd::new(&socket, PollFlags::IN)];
    watched.extend(until.map(|process| PollFd::from_borrowed_fd(process, PollFlags::IN)));
    let limit = Timespec::try_from(limit).ok();
    loop {
        match poll(&mut watched, limit.as_ref()) {
            Ok(0) => return Outcome::Late,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Outcome::Nobody,
            Ok(_) => break,
        }
    }
    if watched[0].revents().is_empty() {
        return Outcome::Gone;
    }
    match rustix::io::read(&socket, &mut buffer) {
        Ok(read) => understood(&buffer[..read]),
        Err(_) => Outcome::Nobody,
    }
}

fn sent(
    place: &Path,
    question: &Question<'_>,
    buffer: &mut [u8; message::MAX],
) -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(place)?)?;
    send(&socket, question.write(buffer), SendFlags::NOSIGNAL)?;
    Ok(socket)
}

fn understood(bytes: &[u8]) -> Outcome {
    match Answer::read(bytes) {
        Some(Answer::Port(port)) => Outcome::Port(port),
        Some(Answer::Errno(errno)) => Outcome::Errno(errno),
        Some(Answer::Entry(address, name)) => Outcome::Entry(address, name.to_owned()),
        Some(Answer::Done) => Outcome::Done,
        Some(Answer::Unknown) => Outcome::Unknown,
        Some(Answer::Address(_) | Answer::Name(_)) | None => Outcome::Nobody,
    }
}
