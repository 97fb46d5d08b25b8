//! Sealing and opening of records: one secret per direction and epoch, one nonce per record number.

use std::fmt;

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};

use zeroize::Zeroizing;

use crate::schedule::{Label, Secret, expand, root};

/// Bytes that sealing adds: the authentication tag of either cipher (RFC 5116 section 5.1, RFC 8439 section 2.8).
pub const TAG_LEN: usize = 16;

/// Cipher that seals records. The sender of a direction chooses, the receiver follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D): the faster one where the processor has AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): the faster one everywhere else, and constant in time there.
    ChaCha20Poly1305,
    /// AES-256-GCM over an empty plaintext (GMAC, NIST SP 800-38D section 3): the record stays in clear and is only
    /// authenticated, as a part of the associated data.
    Aes256Gmac,
    /// The same with ChaCha20-Poly1305.
    ChaCha20Poly1305Tag,
}

impl Cipher {
    /// Every cipher that encrypts, in the order of their codes.
    pub const ALL: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    /// Those that only authenticate, in the same order: each the counterpart of one that encrypts.
    pub const TAG_ONLY: [Cipher; 2] = [Cipher::Aes256Gmac, Cipher::ChaCha20Poly1305Tag];

    /// AES where this processor has instructions for it, else ChaCha20.
    #[must_use]
    pub fn preferred() -> Cipher {
        if processor_has_aes() {
            Cipher::Aes256Gcm
        } else {
            Cipher::ChaCha20Poly1305
        }
    }

    /// The number that stands for this cipher on the wire and in the key schedule.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Cipher::Aes256Gcm => 1,
            Cipher::ChaCha20Poly1305 => 2,
            Cipher::Aes256Gmac => 3,
            Cipher::ChaCha20Poly1305Tag => 4,
        }
    }

    /// The cipher with the same algorithm that leaves records in clear and authenticates them.
    #[must_use]
    pub fn tag_only(self) -> Cipher {
        match self {
            Cipher::Aes256Gcm | Cipher::Aes256Gmac => Cipher::Aes256Gmac,
            Cipher::ChaCha20Poly1305 | Cipher::ChaCha20Poly1305Tag => Cipher::ChaCha20Poly1305Tag,
        }
    }

    /// Whether nobody without the key can read what it seals.
    #[must_use]
    pub fn encrypts(self) -> bool {
        Self::ALL.contains(&self)
    }

    /// The cipher of a code, `None` for a code that this version does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let mut all = Self::ALL.into_iter().chain(Self::TAG_ONLY);
        all.find(|cipher| cipher.code() == code)
    }

    /// Records of up to 64 KiB that one epoch may seal before the sender must go on to the next.
    ///
    /// RFC 9001 section 6.6 and appendix B.1: 2^23 for AES-GCM; for ChaCha20-Poly1305 more than can be numbered.
    #[must_use]
    pub fn records_per_epoch(self) -> u64 {
        match self {
            Cipher::Aes256Gcm | Cipher::Aes256Gmac => 1 << 23,
            Cipher::ChaCha20Poly1305 | Cipher::ChaCha20Poly1305Tag => 1 << 62,
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Cipher::Aes256Gcm | Cipher::Aes256Gmac => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 | Cipher::ChaCha20Poly1305Tag => &CHACHA20_POLY1305,
        }
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn processor_has_aes() -> bool {
    // GCM needs the carry-less multiplication as much as the cipher itself.
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn processor_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_has_aes() -> bool {
    false
}

/// Which sequence of record numbers a record belongs to: each counts from zero under the same key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Space {
    /// Records that are kept until acknowledged and sent again as they are.
    Reliable = 0,
    /// Records that are sent once and never again.
    Unreliable = 1,
}

/// Root of the keys of one direction in one epoch. Overwritten when dropped.
#[derive(Clone)]
pub struct RecordSecret(Secret);

impl RecordSecret {
    pub(crate) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret itself, to be handed to somebody who is to open this direction from this epoch on. Whoever has it can
    /// seal as well.
    #[must_use]
    pub fn dangerous_to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The secret that somebody handed over.
    #[must_use]
    pub fn dangerous_from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret that replaces this one after a key update; the way back does not exist.
    #[must_use]
    pub fn next_epoch(&self) -> RecordSecret {
        Self(expand(&root(&self.0), Label::KeyUpdate, &[]))
    }

    /// The sender's key of this direction and epoch.
    ///
    /// Whoever makes two of them from one secret must never seal the same number with both.
    #[must_use]
    pub fn sealing_key(&self, cipher: Cipher) -> SealingKey {
        SealingKey(self.record_key(cipher))
    }

    /// The receiver's key of this direction and epoch.
    #[must_use]
    pub fn opening_key(&self, cipher: Cipher) -> OpeningKey {
        OpeningKey(self.record_key(cipher))
    }

    /// Key and initial vector are different for each cipher, so that no key serves two algorithms.
    fn record_key(&self, cipher: Cipher) -> RecordKey {
        let root = root(&self.0);
        let key = expand::<32>(&root, Label::RecordKey, &[cipher.code()]);
        let iv = expand::<NONCE_LEN>(&root, Label::RecordIv, &[cipher.code()]);
        RecordKey::new(cipher, &key, *iv)
    }
}

impl fmt::Debug for RecordSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSecret").finish_non_exhaustive()
    }
}

/// Key and initial vector of one cipher; the library overwrites the key when it is dropped.
pub(crate) struct RecordKey {
    encrypts: bool,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl RecordKey {
    pub(crate) fn new(cipher: Cipher, key: &Secret, iv: [u8; NONCE_LEN]) -> Self {
        let key = UnboundKey::new(cipher.algorithm(), key.as_slice())
            .expect("both ciphers take any 32 bytes as their key");
        Self {
            encrypts: cipher.encrypts(),
            key: LessSafeKey::new(key),
            iv,
        }
    }

    /// The initial vector XOR (space as 32-bit big-endian || number as 64-bit big-endian).
    fn nonce(&self, space: Space, number: u64) -> Nonce {
        let mut nonce = self.iv;
        let counter = (space as u32)
            .to_be_bytes()
            .into_iter()
            .chain(number.to_be_bytes());
        for (byte, counted) in nonce.iter_mut().zip(counter) {
            *byte ^= counted;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    pub(crate) fn seal(
        &self,
        space: Space,
        number: u64,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let nonce = self.nonce(space, number);
        let tag = match self.encrypts {
            true => self
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(aad), in_out),
            false => {
                let all = in_clear(aad, in_out);
                self.key
                    .seal_in_place_separate_tag(nonce, Aad::from(&all), &mut [])
            }
        };
        tag.ok()
            .and_then(|tag| tag.as_ref().try_into().ok())
            .expect("sealing fails only for lengths near 64 GiB, a record has at most 64 KiB")
    }

    pub(crate) fn open(
        &self,
        space: Space,
        number: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        let (ciphertext, tag) = sealed
            .split_last_chunk::<TAG_LEN>()
            .ok_or(OpenError::TooShort(sealed.len()))?;
        if out.len() != ciphertext.len() {
            return Err(OpenError::OutputLength {
                needed: ciphertext.len(),
                given: out.len(),
            });
        }
        let nonce = self.nonce(space, number);
        let opened = match self.encrypts {
            true => self
                .key
                .open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out),
            false => {
                let all = in_clear(aad, ciphertext);
                out.copy_from_slice(ciphertext);
                self.key
                    .open_separate_gather(nonce, Aad::from(&all), &[], tag, &mut [])
            }
        };
        opened.map_err(|_| {
            // The library leaves the output unspecified; nobody shall read what was not authentic.
            out.fill(0);
            OpenError::NotAuthentic
        })
    }
}

/// What a record in clear is authenticated as: the length of the associated data (8 bytes, so that nothing can
/// be moved between the two), the associated data, and the text.
fn in_clear(aad: &[u8], text: &[u8]) -> Vec<u8> {
    [&(aad.len() as u64).to_be_bytes(), aad, text].concat()
}

/// Seals the records of one direction and epoch.
pub struct SealingKey(RecordKey);

impl SealingKey {
    /// Encrypts `in_out` in place and returns the tag, which belongs behind it; `aad` is authenticated only. A cipher
    /// that does not encrypt leaves `in_out` as it is.
    ///
    /// The caller guarantees that each pair of space and number is sealed once under this key: a second
    /// record under the same pair would let an observer read and forge. What is sent again is the same ciphertext.
    ///
    /// # Panics
    /// When `in_out` or `aad` comes near the ciphers' limit of 64 GiB.
    pub fn seal_in_place(
        &self,
        space: Space,
        number: u64,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        self.0.seal(space, number, aad, in_out)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").finish_non_exhaustive()
    }
}

/// Opens the records of one direction and epoch.
pub struct OpeningKey(RecordKey);

impl OpeningKey {
    /// Decrypts `sealed` (ciphertext, then tag) into `out`, which must be exactly [`TAG_LEN`] bytes shorter.
    ///
    /// Nothing is copied beside the decryption itself.
    ///
    /// # Errors
    /// [`OpenError`] says which; `out` holds zeros after [`OpenError::NotAuthentic`] and is untouched after the others.
    pub fn open_into(
        &self,
        space: Space,
        number: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        self.0.open(space, number, aad, sealed, out)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey").finish_non_exhaustive()
    }
}

/// Why something sealed could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Fewer bytes than the tag alone.
    #[error("sealed data of {0} bytes cannot hold its tag of 16: it was cut off on the way")]
    TooShort(usize),
    /// The caller gave a buffer of the wrong size; the sealed data was not looked at.
    #[error(
        "opening needs a buffer of {needed} bytes and was given {given}: the caller miscounted"
    )]
    OutputLength {
        /// Length of the plaintext, in bytes.
        needed: usize,
        /// Length of the buffer, in bytes.
        given: usize,
    },
    /// Key, space, number, associated data or a byte of the sealed data is not what was sealed.
    #[error(
        "sealed data is not authentic: it was changed on the way, replayed, or sealed with another key"
    )]
    NotAuthentic,
}

#[cfg(test)]
mod tests;
