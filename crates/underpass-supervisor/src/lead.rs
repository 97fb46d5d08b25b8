//! What becomes of one held call.
//!
//! What is looked at is a copy, and what is connected is that copy: the program cannot change its mind in between. That a
//! call is still held is asked after each look into its process, since the number of a process that ended may be another's
//! by then. A call that is let go is the program's own business again: it gives it nothing that it had not without us.

use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, socket_cookie, socket_protocol, socket_timeout, socket_type};
use rustix::net::{
    SendFlags, SocketAddrAny, SocketType, bind, connect, getsockname, ipproto, send,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use underpass_hook::address::{INET6, LONGEST, Target};
use underpass_hook::message::{Mark, Question};

use crate::calls::{Call, Header, Piece, pieces};
use crate::exchange::{Outcome, ask};
use crate::kernel::{self, Held, Reply};

/// Without a limit of its own a connection attempt ends after some two minutes (tcp(7), `tcp_syn_retries`).
const CONNECT_LIMIT: Duration = Duration::from_secs(130);
/// How long a program that cannot wait is kept from its work at the most. The redirector answers at once.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// The most that is sent with a connection's first packet on behalf of a program, which sends the rest itself.
const MOST_SENT: usize = 1 << 20;
/// The length of a `sockaddr_in`, in bytes.
const SHORTEST: u32 = 16;
/// `TCP_CLOSE` (tcp(7)): neither connected nor about to be.
const CLOSED: u8 = 7;
/// `PIDFD_THREAD` (pidfd_open(2), since Linux 6.9).
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);

/// What all calls have in common.
pub(crate) struct Leader {
    /// Where held calls are told and answered.
    pub(crate) listener: OwnedFd,
    /// The redirector's socket.
    pub(crate) place: PathBuf,
    /// Whose sockets are led.
    pub(crate) user: u32,
}

/// Where a program wants to go, in which family.
struct Wish {
    target: Target,
    mapped: bool,
}

/// What a process shows of itself while it waits.
struct Caller {
    process: OwnedFd,
    socket: OwnedFd,
}

impl Leader {
    /// Answers a call.
    pub(crate) fn serve(&self, held: &Held) {
        // An error of a look into the process is for the kernel to find again.
        let reply = self.decide(held).unwrap_or(Reply::Pass);
        kernel::answer(self.listener.as_fd(), held.id, reply);
    }

    /// `None` where it is not for us, or nobody waits any more.
    fn decide(&self, held: &Held) -> Option<Reply> {
        match Call::read(held.number, held.arguments)? {
            Call::Connect {
                socket,
                address,
                length,
            } => {
                let wish = self.wish(held, address, length)?;
                let caller = self.caller(held, socket)?;
                Some(reply(self.connect(held, &caller, &wish)))
            }
            Call::SendTo {
                socket,
                data,
                flags,
                address,
                length,
            } => {
                let wish = self.wish(held, address, length)?;
                let caller = self.caller(held, socket)?;
                let data = self.data(held, &[data])?;
                Some(reply(
                    self.connect_and_send(held, &caller, &wish, &data, flags),
                ))
            }
            Call::Send {
                socket,
                header,
                flags,
                several,
            } => {
                let mut bytes = [0; Header::LENGTH];
                self.read(held, header, &mut bytes)?;
                let message = Header::read(&bytes);
                let wish = self.wish(held, message.address, message.length)?;
                let caller = self.caller(held, socket)?;
                let mut list = vec![0; usize::try_from(message.count).ok()?.min(1024) * 16];
                self.read(held, message.pieces, &mut list)?;
                let data = self.data(held, &pieces(&list).collect::<Vec<_>>())?;
                let sent = self.connect_and_send(held, &caller, &wish, &data, flags);
                Some(match (sent, several) {
                    (Ok(sent), true) => {
                        let count = (sent as u32).to_ne_bytes();
                        let place = header + Header::LENGTH as u64;
                        kernel::write_memory(held.thread, place, &count).ok()?;
                        Reply::Value(1)
                    }
                    (sent, _) => reply(sent),
                })
            }
        }
    }

    fn is_held(&self, held: &Held) -> bool {
        kernel::is_held(self.listener.as_fd(), held.id)
    }

    /// Reads a program's memory, all that was asked for.
    fn read(&self, held: &Held, place: u64, buffer: &mut [u8]) -> Option<()> {
        if buffer.is_empty() {
            return Some(());
        }
        let read = kernel::read_memory(held.thread, place, buffer).ok()?;
        (read == buffer.len() && self.is_held(held)).then_some(())
    }

    /// Where a program wants to go, if that is a pseudo address.
    fn wish(&self, held: &Held, address: u64, length: u32) -> Option<Wish> {
        let mut bytes = [0; LONGEST];
        // The kernel takes none that is shorter, of either family.
        if length < SHORTEST {
            return None;
        }
        let bytes = &mut bytes[..LONGEST.min(length as usize)];
        self.read(held, address, bytes)?;
        Some(Wish {
            target: Target::read(bytes)?,
            mapped: u16::from_ne_bytes([bytes[0], bytes[1]]) == INET6,
        })
    }

    /// What a program wants to send first; its beginning where it is much.
    fn data(&self, held: &Held, pieces: &[Piece]) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        for piece in pieces {
            let room = MOST_SENT - data.len();
            let length = usize::try_from(piece.length).map_or(room, |length| length.min(room));
            let end = data.len();
            data.resize(end + length, 0);
            self.read(held, piece.place, &mut data[end..])?;
        }
        Some(data)
    }

    /// The program's own socket, where it is a TCP socket that is neither connected nor about to be.
    fn caller(&self, held: &Held, socket: i32) -> Option<Caller> {
        let process = open(held.thread)?;
        let socket = pidfd_getfd(&process, socket, PidfdGetfdFlags::empty()).ok()?;
        let fresh = socket_type(&socket).ok()? == SocketType::STREAM
            && kernel::tcp_state(socket.as_fd()).is_none_or(|state| state == CLOSED);
        (fresh && self.is_held(held)).then_some(Caller { process, socket })
    }

    /// Announces the connection, and makes it.
    fn connect(&self, held: &Held, caller: &Caller, wish: &Wish) -> Result<i64, i32> {
        let refused = Errno::CONNREFUSED.raw_os_error();
        let socket = caller.socket.as_fd();
        // The redirector would reset what another user connects, but not before it has dialled for it.
        if fstat(socket).map_err(of)?.st_uid != self.user {
            return Err(refused);
        }
        let mark = mark(socket, wish.mapped).ok_or(refused)?;
        let wait = !fcntl_getfl(socket).map_err(of)?.contains(OFlags::NONBLOCK);
        let patience = socket_timeout(socket, Timeout::Send).ok().flatten();
        let limit = match wait {
            true => patience.unwrap_or(CONNECT_LIMIT),
            false => IMPATIENCE,
        };
        let target = wish.target;
        let question = Question::Connect { mark, target, wait };
        let process = Some(caller.process.as_fd());
        let port = match ask(&self.place, &question, limit, process) {
            Outcome::Port(port) => port,
            Outcome::Errno(errno) => return Err(errno),
            // As connect(2) has it for a socket with SO_SNDTIMEO.
            Outcome::Late if wait && patience.is_some() => {
                return Err(Errno::INPROGRESS.raw_os_error());
            }
            _ => return Err(refused),
        };
        // On a kernel where signals end the wait, the call begins anew, and so must the connection.
        if !self.is_held(held) {
            return Err(Errno::INTR.raw_os_error());
        }
        connect_to(socket, target, port, wish.mapped).map_err(of)?;
        Ok(0)
    }

    /// The same, and sends what was to go with the first packet (TCP Fast Open, RFC 7413).
    fn connect_and_send(
        &self,
        held: &Held,
        caller: &Caller,
        wish: &Wish,
        data: &[u8],
        flags: u32,
    ) -> Result<i64, i32> {
        self.connect(held, caller, wish)?;
        let flags = SendFlags::from_bits_retain(flags & !(libc::MSG_FASTOPEN as u32));
        let sent = send(&caller.socket, data, flags | SendFlags::NOSIGNAL).map_err(of)?;
        Ok(sent as i64)
    }
}

fn reply(result: Result<i64, i32>) -> Reply {
    match result {
        Ok(value) => Reply::Value(value),
        Err(errno) => Reply::Errno(errno),
    }
}

fn of(errno: Errno) -> i32 {
    errno.raw_os_error()
}

/// A handle of a thread, or of its process where this kernel has none of threads.
fn open(thread: i32) -> Option<OwnedFd> {
    let of = |number| Pid::from_raw(number);
    pidfd_open(of(thread)?, THREAD)
        .or_else(|_| {
            pidfd_open(
                of(process_of(thread)).ok_or(Errno::SRCH)?,
                PidfdFlags::empty(),
            )
        })
        .ok()
}

/// The process of a thread; 0 where there is none.
fn process_of(thread: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// By what the redirector will know a socket. A multipath socket is bound to a port for this, since what arrives of it is
/// another socket.
fn mark(socket: BorrowedFd<'_>, mapped: bool) -> Option<Mark> {
    if socket_protocol(socket).ok()? != Some(ipproto::MPTCP) {
        return socket_cookie(socket).ok().map(Mark::Cookie);
    }
    // One that is bound already keeps its port.
    let _ = match mapped {
        true => bind(socket, &v6(Ipv4Addr::LOCALHOST, 0)),
        false => bind(socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
    };
    let port = port_of(getsockname(socket).ok()?)?;
    (port != 0).then_some(Mark::Source(port))
}

fn port_of(name: SocketAddrAny) -> Option<u16> {
    let v4 = SocketAddrV4::try_from(name.clone()).map(|name| name.port());
    v4.or_else(|_| SocketAddrV6::try_from(name).map(|name| name.port()))
        .ok()
}

fn connect_to(
    socket: BorrowedFd<'_>,
    target: Target,
    port: u16,
    mapped: bool,
) -> rustix::io::Result<()> {
    let address = Ipv4Addr::from(target.address);
    match mapped {
        true => connect(socket, &v6(address, port)),
        false => connect(socket, &SocketAddrV4::new(address, port)),
    }
}

fn v6(address: Ipv4Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address.to_ipv6_mapped(), port, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, ipproto, socket_with};
    use std::net::TcpListener;

    #[test]
    fn a_socket_is_connected_in_its_own_family() {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 64, 3, 3), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target {
            address: [127, 64, 3, 3],
            port: 1,
        };
        for (family, mapped) in [(AddressFamily::INET, false), (AddressFamily::INET6, true)] {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            let socket = socket.as_fd();
            assert_eq!(kernel::tcp_state(socket), Some(CLOSED));
            assert!(matches!(mark(socket, mapped), Some(Mark::Cookie(_))));
            connect_to(socket, target, port, mapped).unwrap();
            assert_ne!(kernel::tcp_state(socket), Some(CLOSED));
        }
        let multipath = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::MPTCP),
        );
        // Not every kernel has it.
        if let Ok(socket) = multipath {
            assert!(matches!(mark(socket.as_fd(), false), Some(Mark::Source(_))));
        }
    }

    #[test]
    fn a_thread_is_found_by_its_number() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(process_of(own) as u32, std::process::id());
        assert!(open(own).is_some());
        assert_eq!(process_of(i32::MAX), 0);
        assert!(open(i32::MAX).is_none() && open(0).is_none());
    }
}
