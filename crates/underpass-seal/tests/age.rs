//! Files for several recipients: read by each of them and by the program `age`, and the other way round; and what becomes of
//! those that were changed.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test that runs another program, and fails by panicking"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use underpass_seal::age::{AgeError, MAX_HEADER, Opener, PIECE, SEALED_PIECE, seal_for};
use underpass_seal::{StaticKey, TAG_LEN};

/// BIP 173, without its limit of 90 characters, which no key reaches.
fn bech32(prefix: &str, bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let (mut words, mut bits, mut held) = (Vec::new(), 0, 0_u32);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            words.push((held >> bits & 31) as u8);
        }
    }
    if bits > 0 {
        words.push((held << (5 - bits) & 31) as u8);
    }
    let high = prefix.bytes().map(|it| it >> 5);
    let low = prefix.bytes().map(|it| it & 31);
    let all = high
        .chain([0])
        .chain(low)
        .chain(words.iter().copied())
        .chain([0; 6]);
    let sum = all.fold(1_u32, |sum, word| {
        let top = sum >> 25;
        let next = (sum & 0x1ff_ffff) << 5 ^ u32::from(word);
        let generator = [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3_u32,
        ];
        let add = (0..5)
            .filter(|bit| top >> bit & 1 == 1)
            .map(|bit| generator[bit]);
        add.fold(next, |next, generator| next ^ generator)
    }) ^ 1;
    words.extend((0..6).map(|at| (sum >> (5 * (5 - at)) & 31) as u8));
    let text: String = words
        .iter()
        .map(|word| char::from(ALPHABET[usize::from(*word)]))
        .collect();
    format!("{prefix}1{text}")
}

fn age(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("age")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(done.status.success(), "age {arguments:?}");
    done.stdout
}

fn sealed(recipients: &[&StaticKey], text: &[u8]) -> Vec<u8> {
    let keys: Vec<_> = recipients.iter().map(|it| it.public()).collect();
    let (mut file, mut sealer) = seal_for(&keys).unwrap();
    let mut pieces = text.chunks(PIECE).peekable();
    loop {
        let mut piece = pieces.next().unwrap_or_default().to_vec();
        let last = pieces.peek().is_none();
        sealer.seal(&mut piece, last);
        file.extend(piece);
        if last {
            return file;
        }
    }
}

fn read(file: &[u8], identity: &StaticKey) -> Result<Vec<u8>, AgeError> {
    let (length, mut opener) = Opener::start(file, identity)?.ok_or(AgeError::Format)?;
    let mut pieces = file[length..].chunks(SEALED_PIECE).peekable();
    let mut text = Vec::new();
    while let Some(piece) = pieces.next() {
        let mut piece = piece.to_vec();
        opener.open(&mut piece, pieces.peek().is_none())?;
        text.extend(piece);
    }
    Ok(text)
}

fn identity_file(folder: &Path, name: usize, key: &StaticKey) -> String {
    let path = folder.join(name.to_string());
    let text = bech32("age-secret-key-", &*key.to_bytes()).to_uppercase();
    fs::write(&path, text + "\n").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_program_age_reads_it_and_what_it_writes_is_read() {
    if Command::new("age").arg("--version").output().is_err() {
        println!("skipped: there is no program age (scripts/install-test-packages.sh)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let keys = [(); 3].map(|()| StaticKey::generate());
    let files: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(name, key)| identity_file(folder.path(), name, key))
        .collect();
    let recipients: Vec<String> = keys
        .iter()
        .map(|key| bech32("age", &key.public().0))
        .collect();
    for length in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
        let text: Vec<u8> = (0..length).map(|at| (at * 31 / 7) as u8).collect();
        let file = sealed(&[&keys[0], &keys[1], &keys[2]], &text);
        for path in &files {
            assert!(
                age(&["--decrypt", "--identity", path], &file) == text,
                "{length}"
            );
        }
        let mut arguments = vec!["--encrypt"];
        for recipient in &recipients {
            arguments.extend(["--recipient", recipient]);
        }
        let file = age(&arguments, &text);
        for key in &keys {
            assert!(read(&file, key).as_ref() == Ok(&text), "{length}");
        }
    }
}

#[test]
fn each_recipient_reads_it_and_nobody_else() {
    let keys = [(); 3].map(|()| StaticKey::generate());
    let stranger = StaticKey::generate();
    for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
        let text: Vec<u8> = (0..length).map(|at| (at * 7 / 3) as u8).collect();
        let file = sealed(&[&keys[0], &keys[1], &keys[2]], &text);
        for key in &keys {
            assert_eq!(read(&file, key).as_ref(), Ok(&text), "{length}");
        }
        assert_eq!(read(&file, &stranger), Err(AgeError::NotForUs));
    }
}

#[test]
fn what_is_changed_cut_or_put_in_another_order_is_noticed() {
    let key = StaticKey::generate();
    let text = vec![5; 2 * PIECE + 9];
    let whole = sealed(&[&key], &text);
    let header = whole.len() - text.len() - 3 * TAG_LEN;
    for at in (0..whole.len()).step_by(997).chain(0..header) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(read(&changed, &key).is_err(), "{at}");
    }
    for cut in [header, header + SEALED_PIECE, whole.len() - 1] {
        assert_ne!(read(&whole[..cut], &key).as_ref(), Ok(&text), "{cut}");
    }
    let cut = &whole[..header + SEALED_PIECE];
    assert_eq!(read(cut, &key), Err(AgeError::Changed));
    let mut swapped = whole[..header].to_vec();
    swapped.extend_from_slice(&whole[header + SEALED_PIECE..header + 2 * SEALED_PIECE]);
    swapped.extend_from_slice(&whole[header..header + SEALED_PIECE]);
    swapped.extend_from_slice(&whole[header + 2 * SEALED_PIECE..]);
    assert_eq!(read(&swapped, &key), Err(AgeError::Changed));
}

#[test]
fn a_header_may_come_in_pieces_and_has_a_limit() {
    let key = StaticKey::generate();
    let whole = sealed(&[&key], b"x");
    let header = whole.len() - 1 - TAG_LEN;
    for cut in 0..header {
        assert!(matches!(Opener::start(&whole[..cut], &key), Ok(None)));
    }
    let endless = [&b"age-encryption.org/v1"[..], &[b'\n'; MAX_HEADER]].concat();
    assert!(matches!(
        Opener::start(&endless, &key),
        Err(AgeError::Format)
    ));
    assert!(matches!(Opener::start(b"PK", &key), Err(AgeError::Format)));
}
