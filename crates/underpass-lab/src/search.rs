//! Looking for a canary in bytes that nobody should have seen it in.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// How often `needle` occurs in what `source` gives; occurrences may overlap.
///
/// # Errors
/// Those of `source`.
pub fn occurrences(source: impl Read, needle: &[u8]) -> io::Result<u64> {
    Ok(occurrences_of_each(source, &[needle])?[0])
}

/// The same for several needles in one pass: a count for each.
///
/// # Errors
/// Those of `source`.
pub fn occurrences_of_each(mut source: impl Read, needles: &[&[u8]]) -> io::Result<Vec<u64>> {
    let table = Starts::new(needles);
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or(0);
    let mut found = vec![0; needles.len()];
    let mut window = Vec::with_capacity(CHUNK + longest);
    loop {
        let old = window.len();
        let read = source
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut window)?;
        if read == 0 {
            return Ok(found);
        }
        table.count(&window, old, &mut found);
        // What may be the beginning of an occurrence stays for the next round.
        let keep = window.len().min(longest.saturating_sub(1));
        window.drain(..window.len() - keep);
    }
}

/// Needles by their first two bytes, so that nearly every place is dismissed by one look.
struct Starts<'a> {
    needles: &'a [&'a [u8]],
    seen: Vec<bool>,
}

impl<'a> Starts<'a> {
    fn new(needles: &'a [&'a [u8]]) -> Self {
        let mut seen = vec![false; 1 << 16];
        for needle in needles {
            assert!(needle.len() >= 2, "a canary this short occurs everywhere");
            seen[pair(needle)] = true;
        }
        Self { needles, seen }
    }

    /// Counts the occurrences in `hay` that do not lie wholly within its first `old` bytes.
    fn count(&self, hay: &[u8], old: usize, found: &mut [u64]) {
        for at in 0..hay.len().saturating_sub(1) {
            if !self.seen[pair(&hay[at..])] {
                continue;
            }
            for (needle, count) in self.needles.iter().zip(found.iter_mut()) {
                let new = at + needle.len() > old;
                *count += u64::from(new && hay[at..].starts_with(needle));
            }
        }
    }
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// How often each of `needles` occurs in the memory of process `pid`, in every mapping that can be read.
///
/// # Errors
/// The process is gone, or may not be looked into.
pub fn occurrences_in_memory(pid: u32, needles: &[&[u8]]) -> io::Result<Vec<u64>> {
    let folder = Path::new("/proc").join(pid.to_string());
    let maps = std::fs::read_to_string(folder.join("maps"))?;
    let mut memory = File::open(folder.join("mem"))?;
    let mut found = vec![0; needles.len()];
    for line in maps.lines() {
        let Some((start, end)) = readable(line) else {
            continue;
        };
        memory.seek(SeekFrom::Start(start))?;
        // Mappings come and go while the process runs, and some (of devices) refuse; neither holds application data.
        let here = occurrences_of_each(memory.by_ref().take(end - start), needles);
        for (total, here) in found.iter_mut().zip(here.unwrap_or_default()) {
            *total += here;
        }
    }
    Ok(found)
}

/// The range of a line of `/proc/PID/maps` (proc(5)), unless it cannot be read or is the kernel's own.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
        return None;
    }
    Some((
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_lies_across_chunks() {
        let needle = b"canary-canary";
        let mut hay = vec![b'c'; 3 * CHUNK];
        for at in [0, CHUNK - 5, 2 * CHUNK - 1, 3 * CHUNK - needle.len()] {
            hay[at..at + needle.len()].copy_from_slice(needle);
        }
        assert_eq!(occurrences(&hay[..], needle).unwrap(), 4);
        assert_eq!(occurrences(&b"aaaa"[..], b"aa").unwrap(), 3);
        assert_eq!(occurrences(&b"abc"[..], b"abcd").unwrap(), 0);
        // A short needle in what stays from one chunk to the next counts once.
        let mut hay = vec![b'-'; CHUNK + 100];
        hay[CHUNK - 5..CHUNK - 3].copy_from_slice(b"xy");
        let found = occurrences_of_each(&hay[..], &[&b"xy"[..], &[b'z'; 50]]).unwrap();
        assert_eq!(found, [1, 0]);
    }

    #[test]
    fn finds_a_canary_in_its_own_memory() {
        // Made at run time, so that only the heap holds it.
        let canary: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
        let kept = canary.clone();
        assert!(occurrences_in_memory(std::process::id(), &[&canary]).unwrap()[0] >= 2);
        drop(kept);
    }
}
