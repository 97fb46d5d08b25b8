//! System calls that no safe library has.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

use libc::{c_int, c_long, c_ulong, c_void, iovec, sock_filter, sock_fprog};
use rustix::thread::UnshareFlags;

/// A call that is held until it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// What the kernel knows it by.
    pub(crate) id: u64,
    /// The thread that made it; 0 where it is in no process that can be seen from here.
    pub(crate) thread: i32,
    pub(crate) number: c_long,
    pub(crate) arguments: [u64; 6],
}

/// What a held call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// What it would have given.
    Pass,
    /// This, without having been made.
    Value(i64),
    /// This error, without having been made.
    Errno(i32),
}

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`
const WAKE_TOGETHER: u64 = 1;

fn checked(result: c_long) -> io::Result<c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Sets a filter for this thread, and for what it becomes and starts. Held calls are told at the descriptor.
///
/// # Errors
/// `EACCES` where rights could still be gained, `EBUSY` where another supervisor is there already.
pub(crate) fn install(filter: &[sock_filter]) -> io::Result<OwnedFd> {
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let install = |flags: c_ulong| {
        let operation = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the kernel reads the filter, which is as long as said, and writes nothing.
        checked(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
    };
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Signals that do not end the program wait for the answer (since Linux 5.19): those that Go sends itself would have
    // each call begin anew for ever.
    let patient = install(listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    let listener = match patient {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(listen),
        other => other,
    }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as c_int) })
}

/// Has the kernel expect an answer soon, where it knows that (since Linux 6.6).
pub(crate) fn wake_together(listener: BorrowedFd<'_>) {
    // SAFETY: this request takes a number and no memory.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            WAKE_TOGETHER,
        )
    };
}

/// Waits for a call that is held.
///
/// # Errors
/// `EINTR`, and `ENOENT` where the caller went away.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Held> {
    // SAFETY: a structure of numbers may be all zeros, as the kernel wants it.
    let mut held: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
    // SAFETY: the structure is the one of this request.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut held) };
    checked(done.into())?;
    Ok(Held {
        id: held.id,
        thread: held.pid as i32,
        number: held.data.nr.into(),
        arguments: held.data.args,
    })
}

/// Whether a call is still held: its caller is there, and is still the one who made it.
pub(crate) fn is_held(listener: BorrowedFd<'_>, id: u64) -> bool {
    let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID;
    // SAFETY: this request reads a number of 64 bits.
    unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const id) == 0 }
}

/// Lets a call go. Where it is not held any more there is nobody to tell.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, reply: Reply) {
    let (val, error, flags) = match reply {
        Reply::Pass => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Reply::Value(value) => (value, 0, 0),
        Reply::Errno(errno) => (0, -errno, 0),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
    // SAFETY: the structure is the one of this request, which only reads it.
    unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const response) };
}

/// Reads the memory of a process, as much of it as there is; how much.
///
/// # Errors
/// There is none at `place`, or it is not ours to see.
pub(crate) fn read_memory(thread: i32, place: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let (local, remote) = ends(buffer.as_mut_ptr(), place, buffer.len());
    // SAFETY: the local end is the buffer, as long as it is; the other end is not our memory.
    let read =
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    checked(read as c_long).map(|read| read as usize)
}

/// Writes to the memory of a process; how much.
///
/// # Errors
/// As [`read_memory`].
pub(crate) fn write_memory(thread: i32, place: u64, bytes: &[u8]) -> io::Result<usize> {
    let (local, remote) = ends(bytes.as_ptr().cast_mut(), place, bytes.len());
    // SAFETY: the local end is only read, and as long as it is; the other end is not our memory.
    let written =
        unsafe { libc::process_vm_writev(thread, &raw const local, 1, &raw const remote, 1, 0) };
    checked(written as c_long).map(|written| written as usize)
}

fn ends(local: *mut u8, remote: u64, length: usize) -> (iovec, iovec) {
    let end = |base: *mut c_void| iovec {
        iov_base: base,
        iov_len: length,
    };
    (
        end(local.cast()),
        end(ptr::without_provenance_mut(remote as usize)),
    )
}

/// The state of a TCP socket (`TCP_CLOSE` and its like, tcp(7)); `None` where it is none.
pub(crate) fn tcp_state(socket: BorrowedFd<'_>) -> Option<u8> {
    let mut state = 0u8;
    let mut length = 1;
    // SAFETY: the place is as long as said; the state is the first byte of `struct tcp_info`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    (got == 0).then_some(state)
}

/// Leaves the process that started this one, its session and its terminal, and closes everything but the standard streams.
///
/// # Errors
/// The system has no room for another process.
pub(crate) fn leave() -> io::Result<()> {
    // SAFETY: called before this process has a second thread.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: ends this process without what the other one still needs.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::setsid()?;
    // SAFETY: called before anything of ours is open but the standard streams.
    unsafe { libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0) };
    Ok(())
}

/// Gives this process namespaces of its own.
///
/// # Errors
/// It may not have them.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: open files stay those of all threads.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
