//! Tokens: what a bare HTTP client shows to say whose it is.
//!
//! A token is 256 random bits, from which the secret half of a machine's key is made. The relay stores
//! the public half, which says nothing about the token: that is what a hash of a password is for, and
//! no salt is needed where nothing can be guessed. Looking a key up compares public halves only, so the
//! time it takes tells nothing of use either.

use std::fmt;

use underpass_seal::{StaticKey, sha256};

/// Random bytes in a token.
pub const TOKEN_LEN: usize = 32;
/// What every token begins with, so that people and secret scanners recognise one.
const MARK: &str = "upt_";
const KEY_LABEL: &[u8] = b"underpass plain http token 1";

/// A token, which is shown once and never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// A token that nobody can guess.
    #[must_use]
    pub fn draw() -> Self {
        Self(rand::random())
    }

    /// The token made of these random bytes.
    #[must_use]
    pub fn new(random: [u8; TOKEN_LEN]) -> Self {
        Self(random)
    }

    /// Reads a token as it was shown: `upt_` and 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(MARK)?.as_bytes();
        if digits.len() != 2 * TOKEN_LEN {
            return None;
        }
        let mut bytes = [0; TOKEN_LEN];
        let (pairs, _) = digits.as_chunks::<2>();
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = value_of(*high)? << 4 | value_of(*low)?;
        }
        Some(Self(bytes))
    }

    /// The key pair that it stands for.
    #[must_use]
    pub fn key(&self) -> StaticKey {
        StaticKey::from_bytes(sha256(&[KEY_LABEL, &self.0]))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

fn value_of(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_token_is_refused() {
        let token = Token::new([0xab; 32]).to_string();
        assert_eq!(token.len(), 68);
        for wrong in [
            "",
            "upt_",
            &token[4..],
            &token[..67],
            &format!("{token}0"),
            &token.replace("upt_", "UPT_"),
            &token.to_uppercase(),
            &token.replacen("ab", "äb", 1),
            &token.replacen("ab", "g0", 1),
        ] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_shows_the_token_by_accident() {
        let token = Token::new([0xab; 32]);
        assert!(!format!("{token:?} {:?}", token.key()).contains("abab"));
        assert_ne!(
            *token.key().to_bytes(),
            [0xab; 32],
            "the key is not the token"
        );
    }

    proptest! {
        #[test]
        fn a_token_is_read_back(random: [u8; 32]) {
            let token = Token::new(random);
            let read = Token::parse(&token.to_string()).unwrap();
            prop_assert_eq!(read.key().public(), token.key().public());
        }

        #[test]
        fn nothing_panics(text in ".{0,80}") {
            let _ = Token::parse(&text);
        }
    }
}
