//! The file in which programs find the cookies of displays (`Xau(3)`, `struct xauth`). Pure.

use super::display::Display;
use super::setup::COOKIE_NAME;
use super::{COOKIE, Cookie};

/// Families of addresses (`X11/X.h`, `X11/Xauth.h`): of the internet, of the machine itself, any at all.
const INTERNET: u16 = 0;
const INTERNET6: u16 = 6;
const LOCAL: u16 = 256;
const WILD: u16 = 65535;

/// Reads the fields of a file, each with its length before it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

/// The first cookie in `file` for a display; `host` is what this machine is called. What cannot be read ends the search.
pub(super) fn find(file: &[u8], display: &Display, host: &str) -> Option<Cookie> {
    let mut fields = Fields(file);
    loop {
        let (family, address) = (fields.number()?, fields.text()?);
        let (number, name, data) = (fields.text()?, fields.text()?, fields.text()?);
        let here = match family {
            WILD => true,
            LOCAL => display.is_local() && address == host.as_bytes(),
            INTERNET | INTERNET6 => display
                .ip()
                .is_some_and(|ip| address == crate::x11::display::octets(ip)),
            _ => false,
        };
        // Without a number it is good for all displays.
        let this = number.is_empty() || number == display.number().to_string().as_bytes();
        if here
            && this
            && name == COOKIE_NAME
            && let Ok(cookie) = <[u8; COOKIE]>::try_from(data)
        {
            return Some(cookie);
        }
    }
}

/// A file with the cookie of the display of this number, by whatever address it is reached.
pub(super) fn write(number: u16, cookie: &Cookie) -> Vec<u8> {
    let mut bytes = WILD.to_be_bytes().to_vec();
    let number = number.to_string();
    for field in [b"", number.as_bytes(), COOKIE_NAME, cookie] {
        let length = u16::try_from(field.len()).expect("fields of some bytes");
        bytes.extend(length.to_be_bytes());
        bytes.extend(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(family: u16, address: &[u8], number: &str, name: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = family.to_be_bytes().to_vec();
        for field in [address, number.as_bytes(), name, data] {
            bytes.extend((field.len() as u16).to_be_bytes());
            bytes.extend(field);
        }
        bytes
    }

    fn display(text: &str) -> Display {
        text.parse().unwrap()
    }

    #[test]
    fn the_cookie_of_the_display_is_found() {
        let file = [
            entry(LOCAL, b"other", "0", COOKIE_NAME, &[1; 16]),
            entry(LOCAL, b"here", "1", COOKIE_NAME, &[2; 16]),
            entry(LOCAL, b"here", "0", b"XDM-AUTHORIZATION-1", &[3; 16]),
            entry(LOCAL, b"here", "0", COOKIE_NAME, &[4; 15]),
            entry(INTERNET, &[10, 0, 0, 1], "0", COOKIE_NAME, &[5; 16]),
            entry(LOCAL, b"here", "0", COOKIE_NAME, &[6; 16]),
        ]
        .concat();
        assert_eq!(find(&file, &display(":0"), "here"), Some([6; 16]));
        assert_eq!(find(&file, &display(":1.0"), "here"), Some([2; 16]));
        assert_eq!(find(&file, &display("10.0.0.1:0"), "here"), Some([5; 16]));
        assert_eq!(find(&file, &display(":2"), "here"), None);
        assert_eq!(find(&file[..file.len() - 1], &display(":0"), "here"), None);
    }

    #[test]
    fn what_is_written_is_found_by_every_address() {
        let file = write(10, &[9; 16]);
        for text in [":10", "10.0.0.1:10", "[::1]:10", "host:10"] {
            assert_eq!(find(&file, &display(text), "any"), Some([9; 16]));
        }
        assert_eq!(find(&file, &display(":1"), "any"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_a_panic(file in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = find(&file, &display(":0"), "here");
        }
    }
}
