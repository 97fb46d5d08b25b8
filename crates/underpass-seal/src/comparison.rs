//! A code over two keys, short enough to be read aloud: whoever sees the same one at both ends knows that each end
//! has the other's key, and nobody's in between.

use std::fmt;
use std::str::FromStr;

use crate::fingerprint::Fingerprint;
use crate::key::sha256;
use crate::password::stretch;
use crate::schedule::Label;

/// Decimal digits of a code: 99.6 bits.
const DIGITS: usize = 30;
/// Digits between two hyphens.
const GROUP: usize = 5;
/// Bytes that each group is made of; what is left over by the modulus favours no group by more than 2^-23.
const GROUP_BYTES: usize = 5;

/// A code over two public keys.
///
/// Keys that live for years can be searched for at leisure. Whoever stands between two machines needs a pair of keys,
/// one to show to each, whose codes with the true keys are the same; with 99.6 bits that takes 2^50 stretchings at
/// either side, each of 64 MiB. A code of a few words, as programs have that let both ends commit to keys of the moment
/// first, would be found here within minutes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ComparisonCode([u32; DIGITS / GROUP]);

impl ComparisonCode {
    /// The code of two keys, whichever of them is named first. Takes a tenth of a second and 64 MiB.
    #[must_use]
    pub fn of(one: &Fingerprint, other: &Fingerprint) -> Self {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        let (first, second) = (one.min(other), one.max(other));
        let label = Label::Comparison.text().as_bytes();
        let mut stretched = [0; GROUP_BYTES * DIGITS / GROUP];
        stretch(&sha256(&[label, &[0], first, second]), &mut stretched);
        let (groups, _) = stretched.as_chunks::<GROUP_BYTES>();
        let mut code = [0; DIGITS / GROUP];
        for (digits, bytes) in code.iter_mut().zip(groups) {
            let number = bytes
                .iter()
                .fold(0u64, |it, byte| it << 8 | u64::from(*byte));
            // Less than 10^5, so the cast keeps all of it.
            *digits = (number % 100_000) as u32;
        }
        Self(code)
    }
}

impl fmt::Display for ComparisonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.0.iter().map(|group| format!("{group:05}")).collect();
        f.pad(&groups.join("-"))
    }
}

impl fmt::Debug for ComparisonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ComparisonCode({self})")
    }
}

/// Why a text is not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code to compare has 30 digits, in groups of five with hyphens or spaces between them")]
pub struct ParseComparisonCodeError;

impl FromStr for ComparisonCode {
    type Err = ParseComparisonCodeError;

    /// Hyphens and spaces do not count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Option<Vec<u32>> = text
            .chars()
            .filter(|it| !matches!(it, '-' | ' '))
            .map(|it| it.to_digit(10))
            .collect();
        let digits = digits.filter(|digits| digits.len() == DIGITS);
        let digits = digits.ok_or(ParseComparisonCodeError)?;
        let mut code = [0; DIGITS / GROUP];
        for (group, digits) in code.iter_mut().zip(digits.chunks(GROUP)) {
            *group = digits.iter().fold(0, |number, digit| number * 10 + digit);
        }
        Ok(Self(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Fingerprint {
        Fingerprint::from_bytes([byte; 32])
    }

    #[test]
    fn both_ends_see_one_code_and_nobody_else_does() {
        let code = ComparisonCode::of(&key(1), &key(2));
        assert_eq!(code, ComparisonCode::of(&key(2), &key(1)));
        for (one, other) in [(1, 3), (3, 2), (1, 1), (2, 2)] {
            assert_ne!(code, ComparisonCode::of(&key(one), &key(other)));
        }
    }

    /// By another implementation of Argon2id, from what docs/protocol-keys.md says.
    #[test]
    fn the_sample_of_the_specification() {
        let code = ComparisonCode::of(&key(1), &key(2)).to_string();
        let specification = include_str!("../../../docs/protocol-keys.md");
        assert!(specification.contains(&format!("`{code}`")), "{code}");
    }

    #[test]
    fn every_spelling_reads_back() {
        let code = ComparisonCode([0, 1, 99_999, 12_345, 500, 70_000]);
        let text = code.to_string();
        assert_eq!(text, "00000-00001-99999-12345-00500-70000");
        for spelling in [text.clone(), text.replace('-', " "), text.replace('-', "")] {
            assert_eq!(spelling.parse(), Ok(code), "{spelling}");
        }
        for bad in ["", "12345", &text[1..], &text.replace('1', "l")] {
            assert_eq!(bad.parse::<ComparisonCode>(), Err(ParseComparisonCodeError));
        }
    }
}
