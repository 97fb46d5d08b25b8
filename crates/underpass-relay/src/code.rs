//! One-time codes: the setup code of a fresh relay, and invitations.
//!
//! A code is 128 random bits, written in base32 with 12 bits of a checksum behind them, in seven
//! groups of four. The checksum tells a mistyped code from a wrong one before the store is asked. Only
//! a hash of the code is stored.

use std::fmt;

use underpass_seal::sha256;
use underpass_store::CodeDigest;

/// Random bytes in a code: 128 bits, which nobody guesses.
pub const CODE_LEN: usize = 16;
/// RFC 4648 section 6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 128 bits of code and 12 of checksum, five to a character.
const CHARACTERS: usize = 28;
const GROUP: usize = 4;
const DIGEST_LABEL: &[u8] = b"underpass one-time code 1";
const CHECKSUM_LABEL: &[u8] = b"underpass one-time code checksum 1";

/// A one-time code, which is shown once and never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct OneTimeCode([u8; CODE_LEN]);

/// A text that is no one-time code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Too few or too many characters, hyphens and spaces not counted.
    #[error("a one-time code has {CHARACTERS} letters and digits, this one has {0}")]
    Length(usize),
    /// A character that codes do not have.
    #[error(
        "{0:?} cannot stand in a one-time code, which uses the letters a to z and the digits 2 to 7"
    )]
    Character(char),
    /// The checksum does not fit.
    #[error("the one-time code is mistyped; compare it with the original")]
    Mistyped,
}

impl OneTimeCode {
    /// The code made of these random bytes.
    #[must_use]
    pub fn new(random: [u8; CODE_LEN]) -> Self {
        Self(random)
    }

    /// Reads a code as it was shown, in any case, with or without hyphens and spaces.
    ///
    /// # Errors
    /// [`CodeError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let characters = || text.chars().filter(|c| !matches!(c, '-' | ' '));
        let count = characters().count();
        if count != CHARACTERS {
            return Err(CodeError::Length(count));
        }
        let mut bits: u128 = 0;
        let mut checksum = 0;
        for (position, character) in characters().enumerate() {
            let value = value_of(character).ok_or(CodeError::Character(character))?;
            // The 26th character has three bits of the code and two of the checksum.
            match position {
                0..25 => bits = bits << 5 | u128::from(value),
                25 => {
                    bits = bits << 3 | u128::from(value >> 2);
                    checksum = u16::from(value & 3);
                }
                _ => checksum = checksum << 5 | u16::from(value),
            }
        }
        let code = Self(bits.to_be_bytes());
        if code.checksum() == checksum {
            Ok(code)
        } else {
            Err(CodeError::Mistyped)
        }
    }

    /// What is stored of it.
    #[must_use]
    pub fn digest(&self) -> CodeDigest {
        CodeDigest(sha256(&[DIGEST_LABEL, &self.0]))
    }

    fn checksum(&self) -> u16 {
        let hash = sha256(&[CHECKSUM_LABEL, &self.0]);
        u16::from_be_bytes([hash[0], hash[1]]) >> 4
    }
}

impl fmt::Display for OneTimeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let checksum = self.checksum();
        for position in 0..CHARACTERS {
            if position > 0 && position % GROUP == 0 {
                f.write_str("-")?;
            }
            let value = match position {
                0..25 => bits >> (123 - 5 * position) & 31,
                25 => (bits & 7) << 2 | u128::from(checksum >> 10),
                26 => u128::from(checksum >> 5 & 31),
                _ => u128::from(checksum & 31),
            };
            let index = usize::try_from(value).expect("five bits fit");
            write!(f, "{}", char::from(ALPHABET[index]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for OneTimeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeCode(..)")
    }
}

fn value_of(character: char) -> Option<u8> {
    match character.to_ascii_lowercase() {
        letter @ 'a'..='z' => Some(letter as u8 - b'a'),
        digit @ '2'..='7' => Some(digit as u8 - b'2' + 26),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_is_seven_groups_of_four() {
        let code = OneTimeCode::new([0xff; 16]).to_string();
        assert!(
            code.starts_with("7777-7777-7777-7777-7777-7777-7"),
            "{code}"
        );
        assert_eq!((code.len(), code.split('-').count()), (34, 7));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(OneTimeCode::parse("abc"), Err(CodeError::Length(3)));
        let bad = "a".repeat(27) + "1";
        assert_eq!(OneTimeCode::parse(&bad), Err(CodeError::Character('1')));
        let code = OneTimeCode::new([7; 16]);
        assert!(!format!("{code:?}").contains(&code.to_string()[..4]));
    }

    proptest! {
        #[test]
        fn a_code_is_read_back_in_any_spelling(random: [u8; 16]) {
            let code = OneTimeCode::new(random);
            let shown = code.to_string();
            prop_assert_eq!(OneTimeCode::parse(&shown), Ok(code.clone()));
            let loose = shown.replace('-', " ").to_uppercase();
            prop_assert_eq!(OneTimeCode::parse(&loose), Ok(code));
        }

        #[test]
        fn one_wrong_character_is_nearly_always_noticed(random: [u8; 16], at in 0usize..28, to in 0usize..32) {
            let code = OneTimeCode::new(random);
            let mut shown: Vec<u8> = code.to_string().bytes().filter(|b| *b != b'-').collect();
            let changed = shown[at] != ALPHABET[to];
            shown[at] = ALPHABET[to];
            let read = OneTimeCode::parse(std::str::from_utf8(&shown).unwrap());
            // The checksum lets one wrong code in 4096 pass; it is then another code.
            prop_assert_eq!(read == Ok(code), !changed);
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = OneTimeCode::parse(&text);
        }
    }
}
