//! Telling whoever started a command that it is ready.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::failure::Failure;

/// Tells whoever waits for it that the command is ready: a newline on the file descriptor of this
/// number, which was inherited, and word to the service manager, if there is one.
pub fn signal(fd: Option<u32>) -> Result<(), Failure> {
    tell_manager("READY=1");
    let Some(fd) = fd else { return Ok(()) };
    // Opened by its name, which needs no promise about who else owns the number.
    let written = OpenOptions::new()
        .append(true)
        .open(format!("/dev/fd/{fd}"))
        .and_then(|mut file| file.write_all(b"\n"));
    written.map_err(|error| Failure::file(format!("cannot write to --ready-fd {fd}: {error}")))
}

/// Tells the service manager something, as sd_notify(3) describes it. One that cannot be told has to do without.
pub fn tell_manager(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&place, state) {
        tracing::warn!("cannot tell the service manager {state}: {error}");
    }
}

fn send(place: &OsStr, state: &str) -> io::Result<()> {
    let address = match place.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_newline_arrives_in_the_pipe() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let fd = u32::try_from(writer.as_raw_fd()).unwrap();
        signal(Some(fd)).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\n");
    }

    #[test]
    fn a_service_manager_is_told_at_either_kind_of_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("underpass-test-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, place) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.clone().into_os_string(),
            ),
            (
                UnixDatagram::bind_addr(&hidden).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            send(&place, "READY=1").unwrap();
            let mut text = [0; 32];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }

    #[test]
    fn a_closed_descriptor_is_an_error() {
        let failure = signal(Some(987_654)).unwrap_err();
        assert!(failure.what.contains("--ready-fd 987654"), "{failure}");
        signal(None).unwrap();
    }
}
