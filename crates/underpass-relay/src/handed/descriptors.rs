//! Taking up descriptors that this process was started with.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::FdFlags;
use rustix::net::{SocketType, sockopt};

use super::announced::Shape;

/// Those that were taken up already.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes a descriptor up; none if that was done before. Programs that this one starts do not get it.
pub(super) fn take(fd: RawFd) -> io::Result<Option<OwnedFd>> {
    // Its name is there for as long as it is open.
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}"))?;
    {
        let mut taken = TAKEN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if taken.contains(&fd) {
            return Ok(None);
        }
        taken.push(fd);
    }
    // SAFETY: the descriptor is open; LISTEN_PID and LISTEN_FDS say that it was opened for this very
    // process to own; and TAKEN sees to it that nobody else in it was given it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
    Ok(Some(owned))
}

/// What kind of socket it is.
pub(super) fn shape(socket: &OwnedFd) -> io::Result<Shape> {
    let kind = sockopt::socket_type(socket)?;
    if kind == SocketType::DGRAM {
        return Ok(Shape::Datagrams);
    }
    if kind == SocketType::STREAM && sockopt::socket_acceptconn(socket)? {
        return Ok(Shape::Listener);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is neither a TCP socket that listens nor a UDP socket",
    ))
}
