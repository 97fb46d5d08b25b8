//! Fingerprints of public keys: what people read aloud, compare and pin.

use std::fmt;
use std::str::FromStr;

/// RFC 4648 section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 256 bits in base32: 51 characters of 5 bits and one that carries the last bit.
const CHARACTERS: usize = 52;
/// Characters between two hyphens.
const GROUP: usize = 4;

/// SHA-256 of a public key under a label of its own.
///
/// Shown as 13 groups of four base32 characters with hyphens between them; read back with or without
/// hyphens and in any case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Takes up a fingerprint stored as bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, to be stored or sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(CHARACTERS + CHARACTERS / GROUP - 1);
        for position in 0..CHARACTERS {
            if position > 0 && position % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(
                ALPHABET[usize::from(quintet(&self.0, position))],
            ));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The five bits of the character at `position`; bits past the end are zero.
fn quintet(bytes: &[u8; 32], position: usize) -> u8 {
    let bit = position * 5;
    let high = u16::from(bytes[bit / 8]) << 8;
    let low = u16::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
    // At most 31, so the cast keeps every bit.
    (((high | low) >> (11 - bit % 8)) & 0x1f) as u8
}

/// Why a text is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFingerprintError {
    /// Too few or too many characters, hyphens not counted.
    #[error(
        "a fingerprint has 52 characters beside its hyphens, this one has {0}: part of it may be missing"
    )]
    Length(usize),
    /// A character that base32 does not use.
    #[error(
        "{0:?} cannot stand in a fingerprint, which uses the letters a to z and the digits 2 to 7"
    )]
    Character(char),
    /// The last character sets bits that no fingerprint has.
    #[error("the last character of a fingerprint is a or q: this one was mistyped")]
    LastCharacter,
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let characters = || text.chars().filter(|character| *character != '-');
        let mut bytes = [0u8; 32];
        for (position, character) in characters().take(CHARACTERS).enumerate() {
            let value = value_of(character).ok_or(ParseFingerprintError::Character(character))?;
            let (index, shift) = (position * 5 / 8, 11 - position * 5 % 8);
            let [high, low] = (u16::from(value) << shift).to_be_bytes();
            bytes[index] |= high;
            match bytes.get_mut(index + 1) {
                Some(next) => *next |= low,
                None if low != 0 => return Err(ParseFingerprintError::LastCharacter),
                None => {}
            }
        }
        match characters().count() {
            CHARACTERS => Ok(Self(bytes)),
            other => Err(ParseFingerprintError::Length(other)),
        }
    }
}

/// The five bits that a character stands for, in either case.
fn value_of(character: char) -> Option<u8> {
    match character.to_ascii_lowercase() {
        letter @ 'a'..='z' => Some(letter as u8 - b'a'),
        digit @ '2'..='7' => Some(digit as u8 - b'2' + 26),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_and_ones_print_as_base32_does() {
        let zeros = Fingerprint([0; 32]).to_string();
        assert_eq!(zeros, ["aaaa"; 13].join("-"));
        let ones = Fingerprint([0xff; 32]).to_string();
        assert_eq!(ones, [["7777"; 12].join("-"), "777q".to_owned()].join("-"));
    }

    /// RFC 4648 section 10: "foobar" is MZXW6YTBOI.
    #[test]
    fn the_alphabet_is_that_of_rfc_4648() {
        let mut bytes = [0; 32];
        bytes[..6].copy_from_slice(b"foobar");
        assert!(Fingerprint(bytes).to_string().starts_with("mzxw-6ytb-oi"));
    }

    #[test]
    fn what_is_no_fingerprint_is_refused_with_the_reason() {
        let good = Fingerprint([0x5a; 32]).to_string();
        let parse = |text: &str| text.parse::<Fingerprint>().unwrap_err();
        assert_eq!(parse(""), ParseFingerprintError::Length(0));
        assert_eq!(
            parse(&good[..good.len() - 1]),
            ParseFingerprintError::Length(51)
        );
        assert_eq!(
            parse(&format!("{good}a")),
            ParseFingerprintError::Length(53)
        );
        assert_eq!(
            parse(&good.replacen('l', "1", 1)),
            ParseFingerprintError::Character('1')
        );
        assert_eq!(parse("é"), ParseFingerprintError::Character('é'));
        let mut wrong = Fingerprint([0; 32]).to_string();
        wrong.replace_range(wrong.len() - 1.., "b");
        assert_eq!(parse(&wrong), ParseFingerprintError::LastCharacter);
    }

    proptest! {
        #[test]
        fn every_spelling_reads_back(bytes: [u8; 32]) {
            let fingerprint = Fingerprint(bytes);
            let text = fingerprint.to_string();
            prop_assert_eq!(text.len(), 64);
            prop_assert_eq!(text.parse::<Fingerprint>(), Ok(fingerprint));
            prop_assert_eq!(text.replace('-', "").parse::<Fingerprint>(), Ok(fingerprint));
            prop_assert_eq!(text.to_uppercase().parse::<Fingerprint>(), Ok(fingerprint));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(fingerprint) = text.parse::<Fingerprint>() {
                prop_assert_eq!(fingerprint.to_string().replace('-', ""), text.replace('-', "").to_lowercase());
            }
        }
    }
}
