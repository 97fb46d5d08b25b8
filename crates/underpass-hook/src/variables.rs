//! The variables by which a program is hooked, and how they outlive an emptied environment.

/// The variables that hook a program: the library, and the way to the redirector.
pub const NAMES: [&[u8]; 2] = [b"LD_PRELOAD", crate::VARIABLE.as_bytes()];

/// Whether a new program's environment lost both. One that has either was made by somebody who knew what they did.
pub fn emptied<'a>(mut entries: impl Iterator<Item = &'a [u8]>) -> bool {
    !entries.any(|entry| NAMES.iter().any(|name| value(entry, name).is_some()))
}

/// The value of an entry `NAME=VALUE` of this name.
#[must_use]
pub fn value<'a>(entry: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(name)?.strip_prefix(b"=")
}

/// Whether a value leads to a redirector.
#[must_use]
pub fn leads(value: &[u8]) -> bool {
    value.starts_with(b"/")
}

/// What a value that leads to a redirector says: its socket, and after a colon what pseudo names end with, where that is not
/// the usual. A suffix has no slash in it, and a path has one after whatever colon is in it.
#[must_use]
pub fn parts(value: &[u8]) -> (&[u8], &[u8]) {
    let colon = value.iter().rposition(|byte| *byte == b':');
    let split = colon.and_then(|at| value.split_at_checked(at));
    let split = split.and_then(|(place, rest)| Some((place, rest.strip_prefix(b":")?)));
    match split {
        Some((place, suffix)) if !suffix.contains(&b'/') => (place, suffix),
        _ => (value, crate::name::SUFFIX.as_bytes()),
    }
}

/// Finds an entry in an environment that comes in pieces, entries with a zero after each, as `/proc/PID/environ` has them.
/// What is found is `NAME=VALUE` and a zero, at most `N` bytes.
#[derive(Debug)]
pub struct Search<'a, const N: usize> {
    name: &'a [u8],
    found: [u8; N],
    length: usize,
    over: bool,
}

impl<'a, const N: usize> Search<'a, N> {
    /// For the variable `name`.
    #[must_use]
    pub fn new(name: &'a [u8]) -> Self {
        Self {
            name,
            found: [0; N],
            length: 0,
            over: false,
        }
    }

    /// Takes the next piece; whether the entry is complete.
    pub fn take(&mut self, piece: &[u8]) -> bool {
        piece.iter().any(|byte| self.step(*byte))
    }

    fn step(&mut self, byte: u8) -> bool {
        if byte == 0 {
            // Also the end of one that was too long, which counts as not there.
            let complete = !self.over && value(&self.found[..self.length], self.name).is_some();
            self.over = false;
            if !complete {
                self.length = 0;
            }
            return complete;
        }
        // The last byte stays zero.
        if self.length + 1 < N && !self.over {
            self.found[self.length] = byte;
            self.length += 1;
        } else {
            self.over = true;
        }
        false
    }

    /// The entry with the zero after it, once [`Search::take`] said that it is complete.
    #[must_use]
    pub fn entry(&mut self) -> &[u8] {
        self.found[self.length] = 0;
        &self.found[..=self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(environment: &[u8], piece: usize) -> Option<Vec<u8>> {
        let mut search = Search::<32>::new(b"NAME");
        for piece in environment.chunks(piece) {
            if search.take(piece) {
                return Some(search.entry().to_vec());
            }
        }
        None
    }

    #[test]
    fn a_suffix_of_its_own_stands_after_the_socket() {
        let usual = crate::name::SUFFIX;
        for (value, place, suffix) in [
            ("/run/r.sock", "/run/r.sock", usual),
            ("/run/a:b/r.sock", "/run/a:b/r.sock", usual),
            ("/run/r.sock:corp", "/run/r.sock", "corp"),
            ("/run/a:b/r.sock:my.corp", "/run/a:b/r.sock", "my.corp"),
            ("/run/r.sock:", "/run/r.sock", ""),
            ("", "", usual),
        ] {
            let expected = (place.as_bytes(), suffix.as_bytes());
            assert_eq!(parts(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn an_entry_is_found_however_it_is_cut() {
        let environment = b"A=1\0NAMES=2\0XNAME=3\0NAME\0NAME=four\0NAME=five\0";
        for piece in 1..environment.len() {
            assert_eq!(search(environment, piece).unwrap(), b"NAME=four\0");
        }
        assert_eq!(search(b"NAMES=1\0", 3), None);
        assert_eq!(search(b"NAME=cut off", 3), None);
    }

    #[test]
    fn what_is_too_long_counts_as_not_there() {
        let fits = [b"NAME=", &[b'x'; 26][..], b"\0"].concat();
        assert_eq!(search(&fits, 5).unwrap(), fits);
        let long = [b"NAME=", &[b'x'; 27][..], b"\0"].concat();
        assert_eq!(search(&long, 5), None);
        let then = [&long[..], b"NAME=y\0"].concat();
        assert_eq!(search(&then, 7).unwrap(), b"NAME=y\0");
    }

    #[test]
    fn only_an_environment_without_either_is_taken_for_emptied() {
        let is = |entries: &[&'static str]| emptied(entries.iter().map(|entry| entry.as_bytes()));
        assert!(is(&[]));
        assert!(is(&["PATH=/bin", "LD_PRELOADED=1", "UNDERPASS_HOOKS=/x"]));
        assert!(!is(&["PATH=/bin", "LD_PRELOAD=/other.so"]));
        assert!(!is(&["UNDERPASS_HOOK=off"]));
        assert!(leads(b"/run/x") && !leads(b"off") && !leads(b""));
    }
}
