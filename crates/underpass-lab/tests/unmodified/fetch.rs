//! This test itself as a program of Rust that fetches a page by name: by the standard library, or by system calls of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

/// How this program is called to fetch by the standard library: `WORD NAME PATH`.
pub(crate) const BY_STD: &str = "fetch-by-std";
/// The same for system calls past the C library.
pub(crate) const BY_CALLS: &str = "fetch-by-calls";

/// Does so, where this process was started for that.
pub(crate) fn asked() -> Option<io::Result<()>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [how, name, path] = &words[..] else {
        return None;
    };
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    match how.as_str() {
        BY_STD => Some(by_std(name, &request)),
        BY_CALLS => Some(by_calls(name, &request)),
        _ => None,
    }
}

fn by_std(name: &str, request: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect((name, 80))?;
    stream.write_all(request.as_bytes())?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    io::stdout().write_all(&page)
}

fn by_calls(name: &str, request: &str) -> io::Result<()> {
    let found = (name, 80).to_socket_addrs()?.find(|it| it.is_ipv4());
    let address = found.ok_or(io::ErrorKind::NotFound)?;
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &address)?;
    rustix::net::send(&socket, request.as_bytes(), SendFlags::empty())?;
    let mut bytes = [0; 4096];
    loop {
        let (read, _) = rustix::net::recv(&socket, &mut bytes[..], RecvFlags::empty())?;
        if read == 0 {
            return Ok(());
        }
        io::stdout().write_all(&bytes[..read])?;
    }
}
