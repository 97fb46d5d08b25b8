//! A stream of bytes that a seed and a position determine, and what is wrong with a copy of it.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Bytes generated at once; a multiple of the generator's word.
const BLOCK: usize = 16 * 1024;
/// How many bytes identify a place in the stream.
const PROBE: usize = 24;
/// How far ahead and back the checker looks for where the bytes that it got belong.
const WINDOW: u64 = 8 << 20;

/// The stream of a seed, from any position: ChaCha8, so that no box can compress it and no two places look alike.
pub struct Pattern {
    generator: ChaCha8Rng,
    block: Box<[u8; BLOCK]>,
    /// Position of the next byte to give.
    at: u64,
}

impl Pattern {
    /// The stream of `seed` from its beginning.
    pub fn new(seed: u64) -> Self {
        let mut pattern = Self {
            generator: ChaCha8Rng::seed_from_u64(seed),
            block: Box::new([0; BLOCK]),
            at: 0,
        };
        pattern.seek(0);
        pattern
    }

    /// Position of the next byte.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Goes to position `at`.
    pub fn seek(&mut self, at: u64) {
        self.at = at;
        self.generate(at / BLOCK as u64);
    }

    /// Fills `buffer` with what comes next.
    pub fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let next = self.next_piece(buffer.len());
            let length = next.len();
            buffer[..length].copy_from_slice(next);
            buffer = &mut buffer[length..];
            self.advance(length);
        }
    }

    /// What comes next, up to `most` bytes and the end of the block.
    fn next_piece(&self, most: usize) -> &[u8] {
        let inside = (self.at % BLOCK as u64) as usize;
        &self.block[inside..BLOCK.min(inside + most)]
    }

    fn advance(&mut self, length: usize) {
        self.at += length as u64;
        if self.at.is_multiple_of(BLOCK as u64) {
            self.generate(self.at / BLOCK as u64);
        }
    }

    fn generate(&mut self, block: u64) {
        // The generator's position counts words of four bytes.
        self.generator
            .set_word_pos(u128::from(block) * (BLOCK as u128 / 4));
        self.generator.fill_bytes(&mut *self.block);
    }
}

/// What is right and wrong with a copy of a [`Pattern`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Bytes that came.
    pub received: u64,
    /// Bytes that were left out at the place where they belong.
    pub lost: u64,
    /// Bytes that came again. What came in the wrong order counts as lost and as doubled.
    pub doubled: u64,
    /// Bytes that are of no place nearby.
    pub changed: u64,
    /// Position of the first difference.
    pub first: Option<u64>,
}

impl Findings {
    /// Whether exactly the first `length` bytes came, once and in order.
    pub fn is_exact(&self, length: u64) -> bool {
        *self
            == Self {
                received: length,
                ..Self::default()
            }
    }

    /// Fails unless exactly the first `length` bytes came, once and in order.
    ///
    /// # Errors
    /// The findings.
    pub fn exact(&self, length: u64) -> anyhow::Result<()> {
        anyhow::ensure!(self.is_exact(length), "{length} bytes were sent: {self}");
        Ok(())
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            lost,
            doubled,
            changed,
            first,
        } = self;
        write!(
            f,
            "{received} bytes came, {lost} lost, {doubled} doubled, {changed} changed"
        )?;
        match first {
            Some(first) => write!(f, ", the first difference at {first}"),
            None => Ok(()),
        }
    }
}

/// Compares a stream that arrives in pieces with a [`Pattern`].
pub struct Checker {
    expected: Pattern,
    seed: u64,
    findings: Findings,
    /// Bytes that differ, not yet enough to find where they belong.
    pending: Vec<u8>,
}

impl Checker {
    /// Expects the stream of `seed` from its beginning.
    pub fn new(seed: u64) -> Self {
        Self {
            expected: Pattern::new(seed),
            seed,
            findings: Findings::default(),
            pending: Vec::new(),
        }
    }

    /// Takes in what arrived.
    pub fn take(&mut self, bytes: &[u8]) {
        self.findings.received += bytes.len() as u64;
        if self.pending.is_empty() {
            self.compare(bytes);
        } else {
            let mut all = std::mem::take(&mut self.pending);
            all.extend_from_slice(bytes);
            self.compare(&all);
        }
    }

    /// What was found, once everything has arrived.
    pub fn finish(mut self) -> Findings {
        self.findings.changed += self.pending.len() as u64;
        self.findings
    }

    fn compare(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.expected.next_piece(bytes.len());
            let length = expected.len();
            if bytes[..length] == *expected {
                bytes = &bytes[length..];
                self.expected.advance(length);
                continue;
            }
            let same = bytes
                .iter()
                .zip(expected)
                .take_while(|(a, b)| a == b)
                .count();
            self.expected.advance(same);
            bytes = &bytes[same..];
            self.findings.first.get_or_insert(self.expected.position());
            if bytes.len() < PROBE {
                self.pending = bytes.to_vec();
                return;
            }
            if !self.resume_at(&bytes[..PROBE]) {
                self.findings.changed += 1;
                self.expected.seek(self.expected.position() + 1);
                bytes = &bytes[1..];
            }
        }
    }

    /// Looks for where `probe` belongs and goes on from there.
    fn resume_at(&mut self, probe: &[u8]) -> bool {
        let here = self.expected.position();
        let start = here.saturating_sub(WINDOW);
        let mut around = vec![0; (here - start + WINDOW) as usize];
        let mut pattern = Pattern::new(self.seed);
        pattern.seek(start);
        pattern.fill(&mut around);
        let Some(found) = around.windows(PROBE).position(|window| window == probe) else {
            return false;
        };
        let found = start + found as u64;
        self.findings.lost += found.saturating_sub(here);
        self.findings.doubled += here.saturating_sub(found);
        self.expected.seek(found);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Pattern::new(seed).fill(&mut bytes);
        bytes
    }

    fn check(pieces: &[&[u8]]) -> Findings {
        let mut checker = Checker::new(5);
        // Torn at odd places, as a network does.
        for piece in pieces.concat().chunks(1009) {
            checker.take(piece);
        }
        checker.finish()
    }

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let whole = bytes(5, 3 * BLOCK + 77);
        let mut pieces = Pattern::new(5);
        let mut buffer = vec![0; 777];
        for chunk in whole.chunks(777) {
            pieces.fill(&mut buffer[..chunk.len()]);
            assert_eq!(buffer[..chunk.len()], *chunk);
        }
        let mut later = Pattern::new(5);
        later.seek(BLOCK as u64 + 3);
        later.fill(&mut buffer);
        assert_eq!(buffer[..], whole[BLOCK + 3..BLOCK + 3 + 777]);
        assert_ne!(bytes(6, 64), whole[..64]);
    }

    #[test]
    fn an_exact_copy_has_no_findings() {
        let good = bytes(5, 100_000);
        assert!(check(&[&good]).is_exact(100_000));
        assert!(!check(&[&good[..99_999]]).is_exact(100_000));
    }

    #[test]
    fn what_is_missing_counts_as_lost() {
        let good = bytes(5, 100_000);
        let findings = check(&[&good[..40_000], &good[41_234..]]);
        assert_eq!(
            (findings.lost, findings.doubled, findings.changed),
            (1234, 0, 0)
        );
        assert_eq!(findings.first, Some(40_000));
    }

    #[test]
    fn what_comes_again_counts_as_doubled() {
        let good = bytes(5, 100_000);
        let findings = check(&[&good[..40_000], &good[39_000..]]);
        assert_eq!(
            (findings.lost, findings.doubled, findings.changed),
            (0, 1000, 0)
        );
    }

    #[test]
    fn swapped_parts_count_as_lost_and_doubled() {
        let good = bytes(5, 100_000);
        let swapped = [
            &good[..10_000],
            &good[20_000..30_000],
            &good[10_000..20_000],
            &good[30_000..],
        ];
        let findings = check(&swapped);
        assert_eq!((findings.lost, findings.doubled), (10_000 + 10_000, 20_000));
        assert_eq!(findings.changed, 0);
    }

    #[test]
    fn a_flipped_bit_counts_as_one_changed_byte() {
        let mut bad = bytes(5, 3000);
        bad[1500] ^= 4;
        let findings = check(&[&bad]);
        assert_eq!(
            (findings.lost, findings.doubled, findings.changed),
            (0, 0, 1)
        );
        assert_eq!(findings.first, Some(1500));
        // Foreign bytes at the very end are found too.
        let good = bytes(5, 3000);
        let findings = check(&[&good, b"tail"]);
        assert_eq!((findings.received, findings.changed), (3004, 4));
    }
}
