//! Listening with a queue that takes a burst.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted; the system may lower it (Linux: `net.core.somaxconn`,
/// 4096). With the usual 128 a burst of a thousand connections loses some for ever: the system
/// answers them with SYN cookies, forgets them while the queue is full, and a client that waits for
/// the other side to speak first never learns of it.
const BACKLOG: u32 = 4096;

/// Listens on an address; port 0 lets the system choose. Must be called inside a tokio runtime.
///
/// # Errors
/// The system refuses the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
