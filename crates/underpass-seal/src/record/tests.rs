//! Published vectors, and what must fail.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Secrets;
use crate::samples::{from_hex, to_hex};

struct Vector {
    cipher: Cipher,
    key: &'static str,
    nonce: &'static str,
    aad: &'static str,
    plaintext: &'static str,
    ciphertext: &'static str,
    tag: &'static str,
}

/// "The Galois/Counter Mode of Operation" (McGrew, Viega), test cases 15 and 16, cited by NIST SP 800-38D;
/// RFC 8439 section 2.8.2.
const VECTORS: [Vector; 3] = [
    Vector {
        cipher: Cipher::Aes256Gcm,
        key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
        tag: "b094dac5d93471bdec1a502270e3cc6c",
    },
    Vector {
        cipher: Cipher::Aes256Gcm,
        key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        tag: "76fc6ece0f4e1768cddf8853bb2d551b",
    },
    Vector {
        cipher: Cipher::ChaCha20Poly1305,
        key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        nonce: "070000004041424344454647",
        aad: "50515253c0c1c2c3c4c5c6c7",
        plaintext: "4c616469657320616e642047656e746c656d656e206f662074686520636c6173\
                    73206f66202739393a204966204920636f756c64206f6666657220796f75206f\
                    6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73\
                    637265656e20776f756c642062652069742e",
        ciphertext: "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
                     3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
                     92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                     3ff4def08e4b7a9de576d26586cec64b6116",
        tag: "1ae10b594f09e26a7e902ecbd0600691",
    },
];

/// The vector's nonce is split into an initial vector and a space and number, in both ways.
#[test]
fn published_vectors_come_out_for_any_split_of_their_nonce() {
    for vector in &VECTORS {
        let key: Secret = zeroize::Zeroizing::new(from_hex(vector.key).try_into().unwrap());
        let nonce: [u8; NONCE_LEN] = from_hex(vector.nonce).try_into().unwrap();
        for (space, number) in [
            (Space::Reliable, 0),
            (Space::Unreliable, 0),
            (Space::Unreliable, 0x0123_4567_89ab_cdef_u64),
        ] {
            let mut iv = nonce;
            iv[3] ^= space as u8;
            for (byte, counted) in iv[4..].iter_mut().zip(number.to_be_bytes()) {
                *byte ^= counted;
            }
            let record_key = || RecordKey::new(vector.cipher, &key, iv);
            let aad = from_hex(vector.aad);
            let mut text = from_hex(vector.plaintext);
            let tag = SealingKey(record_key()).seal_in_place(space, number, &aad, &mut text);
            assert_eq!(to_hex(&text), vector.ciphertext);
            assert_eq!(to_hex(&tag), vector.tag);

            text.extend_from_slice(&tag);
            let mut out = vec![0; text.len() - TAG_LEN];
            OpeningKey(record_key())
                .open_into(space, number, &aad, &text, &mut out)
                .unwrap();
            assert_eq!(to_hex(&out), vector.plaintext);
        }
    }
}

#[test]
fn codes_are_fixed_and_read_back() {
    assert_eq!(Cipher::from_code(1), Some(Cipher::Aes256Gcm));
    assert_eq!(Cipher::from_code(2), Some(Cipher::ChaCha20Poly1305));
    let known = (0..=255).filter_map(Cipher::from_code);
    assert!(known.eq(Cipher::ALL.into_iter().chain(Cipher::TAG_ONLY)));
    assert_eq!(Cipher::ALL.map(Cipher::tag_only), Cipher::TAG_ONLY);
    assert!(Cipher::ALL.into_iter().all(Cipher::encrypts));
    assert!(!Cipher::TAG_ONLY.into_iter().any(Cipher::encrypts));
}

/// What stands before a text and the text are told apart: neither can grow at the other's cost.
#[test]
fn what_stays_in_clear_can_be_read_and_not_changed() {
    let secret = Secrets::dangerous_from_seed([1; 32]).initiator_records;
    for cipher in Cipher::TAG_ONLY {
        let sealed = sealed(&secret, cipher, Space::Reliable, 1, b"aad", b"text");
        assert_eq!(&sealed[..4], b"text");
        let open = |aad: &[u8], sealed: &[u8]| {
            let mut out = vec![0xaa; sealed.len() - TAG_LEN];
            let key = secret.opening_key(cipher);
            let opened = key.open_into(Space::Reliable, 1, aad, sealed, &mut out);
            (opened, out)
        };
        assert_eq!(open(b"aad", &sealed), (Ok(()), b"text".to_vec()));
        let refused = Err(OpenError::NotAuthentic);
        assert_eq!(open(b"aadt", &sealed[1..]), (refused, vec![0; 3]));
        assert_eq!(open(b"aa", &[b"d", &sealed[..]].concat()).0, refused);
        assert_eq!(open(b"aad", &[b"texx", &sealed[4..]].concat()).0, refused);
        // Nothing that was authenticated under it helps with what is encrypted.
        let mut out = [0; 4];
        let of_other = Cipher::ALL.map(|cipher| {
            let key = secret.opening_key(cipher);
            key.open_into(Space::Reliable, 1, b"aad", &sealed, &mut out)
        });
        assert_eq!(of_other, [refused; 2]);
    }
}

#[test]
fn nonces_never_meet_across_spaces_and_numbers() {
    let secret = Secrets::dangerous_from_seed([1; 32]).initiator_records;
    let key = secret.record_key(Cipher::Aes256Gcm);
    let mut seen = HashSet::new();
    for space in [Space::Reliable, Space::Unreliable] {
        for bit in 0..64 {
            assert!(seen.insert(*key.nonce(space, 1 << bit).as_ref()));
        }
        assert!(seen.insert(*key.nonce(space, 0).as_ref()));
        assert!(seen.insert(*key.nonce(space, u64::MAX).as_ref()));
    }
}

#[test]
fn an_epoch_opens_nothing_of_another() {
    let first = Secrets::dangerous_from_seed([1; 32]).initiator_records;
    let second = first.next_epoch();
    let other_direction = Secrets::dangerous_from_seed([1; 32]).responder_records;
    for cipher in Cipher::ALL {
        let sealed = sealed(&second, cipher, Space::Reliable, 9, b"aad", b"text");
        let mut out = [0; 4];
        for wrong in [&first, &second.next_epoch(), &other_direction] {
            let opened =
                wrong
                    .opening_key(cipher)
                    .open_into(Space::Reliable, 9, b"aad", &sealed, &mut out);
            assert_eq!(opened, Err(OpenError::NotAuthentic));
        }
        let opened =
            second
                .opening_key(cipher)
                .open_into(Space::Reliable, 9, b"aad", &sealed, &mut out);
        assert_eq!((opened, &out), (Ok(()), b"text"));
    }
}

#[test]
fn what_is_not_authentic_leaves_nothing_behind() {
    let secret = Secrets::dangerous_from_seed([1; 32]).initiator_records;
    for cipher in Cipher::ALL {
        let sealed = sealed(&secret, cipher, Space::Reliable, 1, b"", &[0x55; 1000]);
        let mut out = [0xaa; 1000];
        let opened =
            secret
                .opening_key(cipher)
                .open_into(Space::Reliable, 2, b"", &sealed, &mut out);
        assert_eq!(opened, Err(OpenError::NotAuthentic));
        assert_eq!(out, [0; 1000]);
    }
}

fn sealed(
    secret: &RecordSecret,
    cipher: Cipher,
    space: Space,
    number: u64,
    aad: &[u8],
    text: &[u8],
) -> Vec<u8> {
    let mut record = text.to_vec();
    let tag = secret
        .sealing_key(cipher)
        .seal_in_place(space, number, aad, &mut record);
    record.extend_from_slice(&tag);
    record
}

fn cipher() -> impl Strategy<Value = Cipher> {
    prop::sample::select([Cipher::ALL, Cipher::TAG_ONLY].concat())
}

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![Just(Space::Reliable), Just(Space::Unreliable)]
}

fn bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..limit)
}

proptest! {
    #[test]
    fn what_was_sealed_opens(
        seed: [u8; 32], cipher in cipher(), space in space(), number: u64,
        aad in bytes(64), text in bytes(2000),
    ) {
        let secret = Secrets::dangerous_from_seed(seed).responder_records;
        let sealed = sealed(&secret, cipher, space, number, &aad, &text);
        let mut out = vec![0; text.len()];
        secret.opening_key(cipher).open_into(space, number, &aad, &sealed, &mut out).unwrap();
        prop_assert_eq!(out, text);
    }

    #[test]
    fn any_other_circumstance_is_refused(
        cipher in cipher(), space in space(), number: u64, distance in 1..=u64::MAX,
        aad in bytes(64), text in bytes(300),
        position: prop::sample::Index, change in 1..=255u8, cut in 1usize..20,
    ) {
        let secret = Secrets::dangerous_from_seed([1; 32]).initiator_records;
        let sealed = sealed(&secret, cipher, space, number, &aad, &text);
        let other_space = if space == Space::Reliable { Space::Unreliable } else { Space::Reliable };
        let other_cipher = if cipher == Cipher::Aes256Gcm { Cipher::ChaCha20Poly1305 } else { Cipher::Aes256Gcm };
        let other_aad = [aad.as_slice(), &[0]].concat();
        let mut changed = sealed.clone();
        changed[position.index(sealed.len())] ^= change;
        let shorter = &sealed[..sealed.len().saturating_sub(cut)];
        let open = |cipher, space, number, aad: &[u8], sealed: &[u8]| {
            let mut out = vec![0; sealed.len().saturating_sub(TAG_LEN)];
            secret.opening_key(cipher).open_into(space, number, aad, sealed, &mut out)
        };
        let refused = Err(OpenError::NotAuthentic);
        prop_assert_eq!(open(cipher, other_space, number, &aad, &sealed), refused);
        prop_assert_eq!(open(cipher, space, number.wrapping_add(distance), &aad, &sealed), refused);
        prop_assert_eq!(open(cipher, space, number, &other_aad, &sealed), refused);
        prop_assert_eq!(open(other_cipher, space, number, &aad, &sealed), refused);
        prop_assert_eq!(open(cipher, space, number, &aad, &changed), refused);
        prop_assert!(open(cipher, space, number, &aad, shorter).is_err());
    }

    #[test]
    fn random_bytes_never_open_and_never_panic(
        cipher in cipher(), space in space(), number: u64,
        aad in bytes(64), sealed in bytes(100), given in 0usize..100,
    ) {
        let secret = Secrets::dangerous_from_seed([1; 32]).initiator_records;
        let mut out = vec![0xaa; given];
        let opened = secret.opening_key(cipher).open_into(space, number, &aad, &sealed, &mut out);
        let expected = match sealed.len().checked_sub(TAG_LEN) {
            None => OpenError::TooShort(sealed.len()),
            Some(needed) if needed != given => OpenError::OutputLength { needed, given },
            Some(_) => OpenError::NotAuthentic,
        };
        prop_assert_eq!(opened, Err(expected));
    }
}
