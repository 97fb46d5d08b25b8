//! Telling whoever started a command that it is ready.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::failure::Failure;

/// Writes a newline to the file descriptor of this number, which was inherited.
pub fn signal(fd: Option<u32>) -> Result<(), Failure> {
    let Some(fd) = fd else { return Ok(()) };
    // Opened by its name, which needs no promise about who else owns the number.
    let written = OpenOptions::new()
        .append(true)
        .open(format!("/dev/fd/{fd}"))
        .and_then(|mut file| file.write_all(b"\n"));
    written.map_err(|error| Failure::file(format!("cannot write to --ready-fd {fd}: {error}")))
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
    fn a_closed_descriptor_is_an_error() {
        let failure = signal(Some(987_654)).unwrap_err();
        assert!(failure.what.contains("--ready-fd 987654"), "{failure}");
        signal(None).unwrap();
    }
}
