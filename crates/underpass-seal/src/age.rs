//! The `age` file format, version 1 (C2SP `age.md`), with X25519 recipients: what several recipients are to read is
//! sealed once, and each finds the key to it wrapped for itself.
//!
//! Written here and not taken from a crate because a sender seals pieces as they come and a receiver opens them the same
//! way: bytes in, bytes out. The program `age` reads what this writes, and the other way round; a test holds it to that.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use crate::key::{PublicKey, StaticKey};
use crate::record::TAG_LEN;

/// Bytes of a whole piece before it is sealed.
pub const PIECE: usize = 64 * 1024;
/// Bytes of a whole piece once it is sealed.
pub const SEALED_PIECE: usize = PIECE + TAG_LEN;
/// The longest header that is read, in bytes: one of about 160 recipients.
pub const MAX_HEADER: usize = 16 * 1024;

const VERSION: &str = "age-encryption.org/v1";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const FILE_KEY_LEN: usize = 16;
const NONCE_LEN: usize = 16;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Why a file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    /// It is not a file of this format, or of a version that is not known.
    #[error("this is no file in the age format, version 1")]
    Format,
    /// No recipient's key is the one that was shown.
    #[error("the file is not for this key")]
    NotForUs,
    /// The bytes are not those that were sealed.
    #[error("the sealed file was changed on its way")]
    Changed,
    /// A recipient's key is none that anything can be sealed for.
    #[error("a recipient's key cannot be used")]
    Recipient,
}

/// The beginning of a file for `recipients`, and what seals its pieces.
///
/// # Errors
/// [`AgeError::Recipient`]
///
/// # Panics
/// When the operating system cannot give random bytes.
pub fn seal_for(recipients: &[PublicKey]) -> Result<(Vec<u8>, Sealer), AgeError> {
    let mut file_key = Zeroizing::new([0; FILE_KEY_LEN]);
    let mut nonce = [0; NONCE_LEN];
    for part in [file_key.as_mut_slice(), nonce.as_mut_slice()] {
        rand::fill(part).expect("the system's random generator does not fail once the system runs");
    }
    let mut text = format!("{VERSION}\n");
    for recipient in recipients {
        let once = StaticKey::generate();
        let share = once.public();
        let shared = once.agree(recipient).ok_or(AgeError::Recipient)?;
        let key = wrapping_key(&shared, &share, recipient);
        let mut wrapped = file_key.to_vec();
        seal(&key, [0; 12], &mut wrapped);
        text += &format!("-> X25519 {}\n{}\n", base64(&share.0), base64(&wrapped));
    }
    text += "---";
    let mac = hmac::sign(&header_key(&file_key), text.as_bytes());
    text += &format!(" {}\n", base64(mac.as_ref()));
    let mut header = text.into_bytes();
    header.extend_from_slice(&nonce);
    let pieces = Pieces::new(&file_key, &nonce);
    Ok((header, Sealer(pieces)))
}

/// Seals the pieces of one file, in their order.
#[derive(Debug)]
pub struct Sealer(Pieces);

impl Sealer {
    /// Seals the next piece in place. All but the last have exactly [`PIECE`] bytes; the last has fewer or as many, and
    /// none only where it is the first.
    ///
    /// # Panics
    /// Where that is not kept, which no input from outside can bring about.
    pub fn seal(&mut self, piece: &mut Vec<u8>, last: bool) {
        let fits = match last {
            false => piece.len() == PIECE,
            true => piece.len() <= PIECE && (!piece.is_empty() || self.0.count == 0),
        };
        assert!(fits, "a piece of {} bytes, last: {last}", piece.len());
        let nonce = self.0.nonce(last);
        seal(&self.0.key, nonce, piece);
    }
}

/// Opens the pieces of one file, in their order.
#[derive(Debug)]
pub struct Opener(Pieces);

impl Opener {
    /// Reads the beginning of a file. `None` until all of it is there; then how many of the bytes it was, and what opens
    /// the pieces after it.
    ///
    /// # Errors
    /// See [`AgeError`].
    pub fn start(bytes: &[u8], identity: &StaticKey) -> Result<Option<(usize, Self)>, AgeError> {
        let Some((text, length)) = cut_header(bytes)? else {
            return Ok(None);
        };
        let Some(nonce) = bytes[length..].first_chunk::<NONCE_LEN>() else {
            return Ok(None);
        };
        let (signed, mac) = text.rsplit_once(' ').ok_or(AgeError::Format)?;
        let mac = from_base64(mac).ok_or(AgeError::Format)?;
        let file_key = unwrap_key(signed, identity)?;
        hmac::verify(&header_key(&file_key), signed.as_bytes(), &mac)
            .map_err(|_| AgeError::Changed)?;
        let pieces = Pieces::new(&file_key, nonce);
        Ok(Some((length + NONCE_LEN, Self(pieces))))
    }

    /// Opens the next piece in place. All but the last have exactly [`SEALED_PIECE`] bytes.
    ///
    /// # Errors
    /// It is not the piece that was sealed at this place, or is `last` and was not, or the other way round.
    pub fn open(&mut self, piece: &mut Vec<u8>, last: bool) -> Result<(), AgeError> {
        let first = self.0.count == 0;
        let nonce = Nonce::assume_unique_for_key(self.0.nonce(last));
        let opened = self.0.key.open_in_place(nonce, Aad::empty(), piece);
        let length = opened.map_err(|_| AgeError::Changed)?.len();
        if length == 0 && !(last && first) {
            return Err(AgeError::Format);
        }
        piece.truncate(length);
        Ok(())
    }
}

/// STREAM with ChaCha20-Poly1305: eleven bytes of the nonce count, the last one tells the end.
struct Pieces {
    key: LessSafeKey,
    count: u64,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Pieces {
    fn new(file_key: &[u8; FILE_KEY_LEN], nonce: &[u8; NONCE_LEN]) -> Self {
        let key = derive(file_key, nonce, b"payload");
        Self {
            key: cipher(&key),
            count: 0,
        }
    }

    fn nonce(&mut self, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.count.to_be_bytes());
        nonce[11] = u8::from(last);
        self.count += 1;
        nonce
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869) of 32 bytes.
fn derive(input: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(input)
        .expand(&[info], Length(32))
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("HKDF-SHA256 yields up to 8160 bytes");
    out
}

fn header_key(file_key: &[u8; FILE_KEY_LEN]) -> hmac::Key {
    hmac::Key::new(
        hmac::HMAC_SHA256,
        derive(file_key, &[], b"header").as_slice(),
    )
}

fn wrapping_key(shared: &[u8; 32], share: &PublicKey, recipient: &PublicKey) -> LessSafeKey {
    let salt = [share.0, recipient.0].concat();
    cipher(&derive(shared, &salt, X25519_INFO))
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key);
    LessSafeKey::new(key.expect("ChaCha20-Poly1305 takes any 32 bytes for a key"))
}

fn seal(key: &LessSafeKey, nonce: [u8; 12], bytes: &mut Vec<u8>) {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::empty(), bytes)
        .expect("a piece is far shorter than ChaCha20-Poly1305 can seal");
}

/// The text of the header without its last line's end, and how many bytes it takes with that.
fn cut_header(bytes: &[u8]) -> Result<Option<(&str, usize)>, AgeError> {
    let start = bytes.len().min(VERSION.len());
    if bytes[..start] != VERSION.as_bytes()[..start] {
        return Err(AgeError::Format);
    }
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let (line, next) = (&bytes[at..at + end], at + end + 1);
        if next > MAX_HEADER {
            return Err(AgeError::Format);
        }
        if line.starts_with(b"--- ") {
            let text = std::str::from_utf8(&bytes[..at + end]);
            return Ok(Some((text.map_err(|_| AgeError::Format)?, next)));
        }
        at = next;
    }
    match bytes.len() > MAX_HEADER {
        true => Err(AgeError::Format),
        false => Ok(None),
    }
}

/// The key of the file, from the one of its stanzas that is ours.
fn unwrap_key(
    header: &str,
    identity: &StaticKey,
) -> Result<Zeroizing<[u8; FILE_KEY_LEN]>, AgeError> {
    let mut lines = header.lines();
    if lines.next() != Some(VERSION) {
        return Err(AgeError::Format);
    }
    let recipient = identity.public();
    while let Some(line) = lines.next() {
        let Some(share) = line.strip_prefix("-> X25519 ") else {
            continue;
        };
        let decode = |text: &str| from_base64(text).and_then(|it| <[u8; 32]>::try_from(it).ok());
        let share = decode(share).map(PublicKey).ok_or(AgeError::Format)?;
        let mut wrapped = lines.next().and_then(decode).ok_or(AgeError::Format)?;
        // A share of low order agrees on nothing secret.
        let shared = identity.agree(&share).ok_or(AgeError::Format)?;
        let key = wrapping_key(&shared, &share, &recipient);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        if let Ok(opened) = key.open_in_place(nonce, Aad::empty(), &mut wrapped) {
            let opened = opened.first_chunk().copied();
            return opened.map(Zeroizing::new).ok_or(AgeError::Format);
        }
    }
    Err(AgeError::NotForUs)
}

/// RFC 4648 section 4, without padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=three.len()].copy_from_slice(three);
        let word = u32::from_be_bytes(word);
        for character in 0..=three.len() {
            let index = word >> (18 - 6 * character) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// The same backwards; only what [`base64`] may have written.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for (place, character) in four.iter().enumerate() {
            let index = ALPHABET.iter().position(|it| it == character)?;
            word |= (index as u32) << (18 - 6 * place);
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len().max(1)]);
    }
    (base64(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::from_hex;

    #[test]
    fn a_key_of_low_order_is_no_recipient() {
        assert_eq!(
            seal_for(&[PublicKey([0; 32])]).map(drop),
            Err(AgeError::Recipient)
        );
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("66", "Zg"),
            ("666f", "Zm8"),
            ("666f6f", "Zm9v"),
            ("666f6f626172", "Zm9vYmFy"),
            ("fbff", "+/8"),
        ] {
            assert_eq!(base64(&from_hex(bytes)), text);
            assert_eq!(from_base64(text), Some(from_hex(bytes)));
        }
        for wrong in ["Z", "Zh", "Zg==", "Zm9v\n", "a b", "-_8"] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }
}
