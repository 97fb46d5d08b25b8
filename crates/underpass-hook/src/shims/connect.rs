//! Connecting, in all the ways that there are.

use crate::address::{LONGEST, Target, set_port};
use crate::c::{
    self, Length, MessageHeader, MessageHeaders, Sockaddr, c_int, c_long, c_uint, c_void,
};
use crate::exchange::{Kept, Outcome, Redirector, Socket};
use crate::message::{self, Question};
use crate::next::pass;

/// The first bytes of an address that a program gave, and how many there are.
///
/// # Safety
/// `address` is null or as long as said.
unsafe fn copy(address: *const Sockaddr, length: Length) -> ([u8; LONGEST], usize) {
    let mut bytes = [0; LONGEST];
    let length = if address.is_null() {
        0
    } else {
        LONGEST.min(length as usize)
    };
    // SAFETY: the caller promises the source, and the place is at least as long.
    unsafe { core::ptr::copy_nonoverlapping(address, bytes.as_mut_ptr(), length) };
    (bytes, length)
}

fn pass_connect(fd: c_int, address: *const Sockaddr, length: Length) -> c_int {
    pass!(c"connect": (c_int, *const Sockaddr, Length) -> c_int, (fd, address, length)
        else fail(c::ENOSYS))
}

fn fail(errno: c_int) -> c_int {
    c::set_errno(errno);
    -1
}

/// connect(2)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn connect(fd: c_int, address: *const Sockaddr, length: Length) -> c_int {
    // SAFETY: as connect(2) demands it.
    let (mut bytes, known) = unsafe { copy(address, length) };
    let target = Target::read(&bytes[..known]);
    let socket = Socket(fd);
    let Some(target) = target.filter(|_| socket.is_fresh_stream()) else {
        return pass_connect(fd, address, length);
    };
    let Some(redirector) = Redirector::find() else {
        return pass_connect(fd, address, length);
    };
    match let_in(&redirector, socket, target, &bytes) {
        Ok(port) => {
            set_port(&mut bytes, port);
            pass_connect(fd, bytes.as_ptr(), known as Length)
        }
        Err(errno) => fail(errno),
    }
}

/// The port where the redirector awaits this socket, or what connect(2) fails with.
fn let_in(
    redirector: &Redirector,
    socket: Socket,
    target: Target,
    sockaddr: &[u8; LONGEST],
) -> Result<u16, c_int> {
    let family = u16::from_ne_bytes([sockaddr[0], sockaddr[1]]);
    let mark = socket.mark(Some(family)).ok_or(c::ECONNREFUSED)?;
    let wait = socket.waits();
    let limit = if wait {
        // Without a limit of its own a connection attempt ends after some two minutes (tcp(7), tcp_syn_retries).
        let seconds = 130;
        Some(socket.patience().unwrap_or(c::TimeValue {
            seconds,
            microseconds: 0,
        }))
    } else {
        None
    };
    let question = Question::Connect { mark, target, wait };
    match redirector.ask_in(&question, limit, &mut [0; message::MAX]) {
        Outcome::Answered(Kept::Port(port)) => Ok(port),
        Outcome::Answered(Kept::Errno(errno)) => Err(errno),
        Outcome::Interrupted => Err(c::EINTR),
        // As connect(2) has it for a socket with SO_SNDTIMEO.
        Outcome::Late if socket.patience().is_some() && wait => Err(c::EINPROGRESS),
        _ => Err(c::ECONNREFUSED),
    }
}

/// Whether a program wants to connect to a pseudo address while it sends (TCP Fast Open, RFC 7413): then it is connected
/// first. `None` where the call is to pass; else what connect(2) gave.
unsafe fn connect_first(
    fd: c_int,
    flags: c_int,
    address: *const Sockaddr,
    length: Length,
) -> Option<c_int> {
    if flags & c::MSG_FASTOPEN == 0 {
        return None;
    }
    // SAFETY: as the calling function demands it.
    unsafe {
        let (bytes, known) = copy(address, length);
        Target::read(&bytes[..known])?;
        Some(connect(fd, address, length))
    }
}

/// sendto(2)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn sendto(
    fd: c_int,
    buffer: *const c_void,
    length: usize,
    flags: c_int,
    address: *const Sockaddr,
    address_length: Length,
) -> isize {
    // SAFETY: as sendto(2) demands it.
    let connected = unsafe { connect_first(fd, flags, address, address_length) };
    match connected {
        None => pass!(c"sendto":
            (c_int, *const c_void, usize, c_int, *const Sockaddr, Length) -> isize,
            (fd, buffer, length, flags, address, address_length) else fail(c::ENOSYS) as isize),
        // SAFETY: as sendto(2) demands it.
        Some(0) => unsafe { c::send(fd, buffer, length, flags & !c::MSG_FASTOPEN) },
        Some(failed) => failed as isize,
    }
}

/// sendmsg(2)
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn sendmsg(fd: c_int, message: *const MessageHeader, flags: c_int) -> isize {
    // SAFETY: as sendmsg(2) demands it.
    let (connected, mut header) = unsafe {
        let header = *message;
        (
            connect_first(fd, flags, header.name, header.namelen),
            header,
        )
    };
    let (message, flags) = match connected {
        None => (message, flags),
        Some(0) => {
            (header.name, header.namelen) = (core::ptr::null_mut(), 0);
            (&raw const header, flags & !c::MSG_FASTOPEN)
        }
        Some(failed) => return failed as isize,
    };
    pass!(c"sendmsg": (c_int, *const MessageHeader, c_int) -> isize, (fd, message, flags)
        else fail(c::ENOSYS) as isize)
}

/// sendmmsg(2). To send less than was asked for is its right.
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn sendmmsg(
    fd: c_int,
    messages: *mut MessageHeaders,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let fast_open = flags & c::MSG_FASTOPEN != 0 && count > 0;
    // SAFETY: as sendmmsg(2) demands it, there is a first one.
    let to_us = fast_open
        && unsafe {
            let first = (*messages).header;
            let (bytes, known) = copy(first.name, first.namelen);
            Target::read(&bytes[..known]).is_some()
        };
    if !to_us {
        return pass!(c"sendmmsg": (c_int, *mut MessageHeaders, c_uint, c_int) -> c_int,
            (fd, messages, count, flags) else fail(c::ENOSYS));
    }
    // SAFETY: as above.
    unsafe {
        match u32::try_from(sendmsg(fd, &raw const (*messages).header, flags)) {
            Ok(sent) => {
                (*messages).length = sent;
                1
            }
            Err(_) => -1,
        }
    }
}

/// getpeername(2): with the port that the program named, not the redirector's.
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn getpeername(
    fd: c_int,
    address: *mut Sockaddr,
    length: *mut Length,
) -> c_int {
    // SAFETY: where there is a length, it can be read.
    let room = unsafe { length.as_ref() }.copied().unwrap_or_default();
    let got = pass!(c"getpeername": (c_int, *mut Sockaddr, *mut Length) -> c_int,
        (fd, address, length) else fail(c::ENOSYS));
    if got != 0 {
        return got;
    }
    // SAFETY: the call succeeded, so there is as much as it says, or as there was room for.
    let (bytes, known) = unsafe { copy(address, room.min(*length)) };
    if Target::read(&bytes[..known]).is_none() {
        return got;
    }
    let asked = Redirector::find().zip(Socket(fd).mark(None));
    if let Some((redirector, mark)) = asked
        && let Outcome::Answered(Kept::Port(port)) =
            redirector.ask(&Question::Port(mark), &mut [0; message::MAX])
    {
        // SAFETY: a target was read from it, so there are more than four bytes.
        set_port(unsafe { core::slice::from_raw_parts_mut(address, 4) }, port);
    }
    got
}

/// syscall(2), where the number is one of the calls above. It takes its numbers as any function does (System V ABI for
/// AMD64 §3.2.3, AAPCS64 §6.4), so those that a call does not have may be passed on too.
#[cfg_attr(preload, unsafe(no_mangle))]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let pointer = |value: c_long| core::ptr::with_exposed_provenance_mut::<c_void>(value as usize);
    let fd = a as c_int;
    let pass = || {
        pass!(c"syscall":
                (c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long,
                (number, a, b, c, d, e, f) else fail(c::ENOSYS).into())
    };
    // SAFETY: the numbers are those of the call that the first one names.
    unsafe {
        match number {
            c::SYS_CONNECT => connect(fd, pointer(b).cast(), c as Length).into(),
            c::SYS_SENDTO if d as c_int & c::MSG_FASTOPEN != 0 => {
                let (buffer, address) = (pointer(b), pointer(e).cast());
                sendto(fd, buffer, c as usize, d as c_int, address, f as Length) as c_long
            }
            c::SYS_SENDMSG if c as c_int & c::MSG_FASTOPEN != 0 => {
                sendmsg(fd, pointer(b).cast(), c as c_int) as c_long
            }
            _ => pass(),
        }
    }
}
