//! Whose a connection is that came to this machine from this machine: asked of the kernel (`sock_diag(7)`).

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, sendto, socket_with};

/// The socket at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its cookie, as `SO_COOKIE` has it.
    pub(super) cookie: u64,
    /// The user who made it.
    pub(super) user: u32,
}

/// `struct nlmsghdr`, in bytes (netlink(7)).
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`, in bytes.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`, in bytes.
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`; without `NLM_F_DUMP` it is for one socket.
const FLAG_REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `AF_INET` and `IPPROTO_TCP`. A socket of IPv6 that is connected by IPv4 is found so too.
const INET_TCP: [u8; 2] = [2, 6];

/// The question for the socket that connected from `from` to `to`.
fn question(from: SocketAddrV4, to: SocketAddrV4) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &FLAG_REQUEST.to_ne_bytes());
    put(HEADER, &INET_TCP);
    // In every state.
    put(HEADER + 4, &[0xff; 4]);
    put(HEADER + 8, &from.port().to_be_bytes());
    put(HEADER + 10, &to.port().to_be_bytes());
    put(HEADER + 12, &from.ip().octets());
    put(HEADER + 28, &to.ip().octets());
    // With whatever cookie (INET_DIAG_NOCOOKIE).
    put(HEADER + 48, &[0xff; 8]);
    bytes
}

/// What the kernel answered; `None` where there is no such socket, or it is not one.
fn answer(bytes: &[u8]) -> Option<Origin> {
    let half = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    if half(4)? == ERROR || half(4)? != BY_FAMILY || bytes.len() < HEADER + MESSAGE {
        return None;
    }
    Some(Origin {
        cookie: u64::from(word(HEADER + 44)?) | u64::from(word(HEADER + 48)?) << 32,
        user: word(HEADER + 64)?,
    })
}

/// A way to ask.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// This kernel cannot be asked.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::DGRAM;
        let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(SOCK_DIAG))?;
        Ok(Self { socket })
    }

    /// The socket that connected from `from` to `to`, if there is one. Does not wait: the kernel answers before the
    /// question has been sent.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) fn origin(
        &mut self,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> io::Result<Option<Origin>> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(
            &self.socket,
            &question(from, to),
            SendFlags::empty(),
            &kernel,
        )?;
        let mut bytes = [0; 1024];
        let (read, _) = recv(&self.socket, &mut bytes, RecvFlags::empty())?;
        Ok(answer(&bytes[..read]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("{address}"),
        }
    }

    #[test]
    fn the_kernel_names_the_very_socket_that_connected() {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 64, 9, 9), 0)).unwrap();
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..3 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, from) = listener.accept().unwrap();
            let to = v4(server.local_addr().unwrap());
            let origin = kernel.origin(v4(from), to).unwrap().unwrap();
            assert_eq!(
                origin.cookie,
                rustix::net::sockopt::socket_cookie(&client).unwrap()
            );
            assert_eq!(origin.user, rustix::process::getuid().as_raw());
            let other = SocketAddrV4::new(*to.ip(), 1);
            assert_eq!(kernel.origin(v4(from), other).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_answer_names_nobody() {
        let mut bytes = [0; HEADER + MESSAGE];
        assert_eq!(answer(&bytes), None);
        bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        assert!(answer(&bytes).is_some());
        assert_eq!(answer(&bytes[..HEADER + MESSAGE - 1]), None);
        bytes[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert_eq!(answer(&bytes), None);
        assert_eq!(answer(&[]), None);
    }
}
