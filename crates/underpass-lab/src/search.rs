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
pub fn occurrences(mut source: impl Read, needle: &[u8]) -> io::Result<u64> {
    assert!(!needle.is_empty(), "an empty canary occurs everywhere");
    let mut found = 0;
    let mut window = Vec::with_capacity(CHUNK + needle.len());
    loop {
        let old = window.len();
        let read = source
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut window)?;
        if read == 0 {
            return Ok(found);
        }
        found += count(&window, needle);
        // What may be the beginning of an occurrence stays for the next round.
        let keep = window.len().min(needle.len() - 1);
        debug_assert!(old < needle.len());
        window.drain(..window.len() - keep);
    }
}

fn count(hay: &[u8], needle: &[u8]) -> u64 {
    let mut found = 0;
    let mut at = 0;
    while at + needle.len() <= hay.len() {
        let starts = &hay[at..=hay.len() - needle.len()];
        let Some(step) = starts.iter().position(|byte| *byte == needle[0]) else {
            break;
        };
        at += step;
        found += u64::from(hay[at..].starts_with(needle));
        at += 1;
    }
    found
}

/// How often `needle` occurs in the memory of process `pid`, in every mapping that can be read.
///
/// # Errors
/// The process is gone, or may not be looked into.
pub fn occurrences_in_memory(pid: u32, needle: &[u8]) -> io::Result<u64> {
    let folder = Path::new("/proc").join(pid.to_string());
    let maps = std::fs::read_to_string(folder.join("maps"))?;
    let mut memory = File::open(folder.join("mem"))?;
    let mut found = 0;
    for line in maps.lines() {
        let Some((start, end)) = readable(line) else {
            continue;
        };
        memory.seek(SeekFrom::Start(start))?;
        // Mappings come and go while the process runs, and some (of devices) refuse; neither holds application data.
        found += occurrences(memory.by_ref().take(end - start), needle).unwrap_or(0);
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
    }

    #[test]
    fn finds_a_canary_in_its_own_memory() {
        // Made at run time, so that only the heap holds it.
        let canary: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect();
        let kept = canary.clone();
        assert!(occurrences_in_memory(std::process::id(), &canary).unwrap() >= 2);
        drop(kept);
    }
}
