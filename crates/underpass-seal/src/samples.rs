//! Byte-exact samples for a second implementation, in `tests/samples/`: `name = hex`, one value a line.
//!
//! The tests compare. With `UNDERPASS_WRITE_SAMPLES=1` in the environment they write the files anew,
//! which is right only after a deliberate change of the protocol.
#![allow(
    clippy::disallowed_methods,
    reason = "tests compare with committed files"
)]

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::{Cipher, RecordSecret, Secrets, Space};

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes();
    assert_eq!(digits.len() % 2, 0, "hex comes in pairs");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Whether this run writes the samples instead of comparing with them.
pub(crate) fn writing() -> bool {
    std::env::var_os("UNDERPASS_WRITE_SAMPLES").is_some()
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(file)
}

/// One value of a committed file.
pub(crate) fn read(file: &str, name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path(file)).unwrap();
    let value = text
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .find_map(|(key, value)| (key == name).then_some(value));
    from_hex(value.unwrap_or_else(|| panic!("{file} holds no {name}")))
}

/// A file of samples under construction.
pub(crate) struct Samples {
    file: &'static str,
    text: String,
}

impl Samples {
    pub(crate) fn new(file: &'static str, about: &str) -> Self {
        let text = about.lines().map(|line| format!("# {line}\n")).collect();
        Self { file, text }
    }

    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        writeln!(self.text, "{name} = {}", to_hex(bytes)).unwrap();
    }

    /// Compares line by line, so that a failure names the value that changed.
    pub(crate) fn check(self) {
        let path = path(self.file);
        if writing() {
            std::fs::write(path, self.text).unwrap();
            return;
        }
        let committed = std::fs::read_to_string(path).unwrap();
        for (now, then) in self.text.lines().zip(committed.lines()) {
            assert_eq!(now, then, "{} no longer agrees", self.file);
        }
        assert_eq!(self.text.lines().count(), committed.lines().count());
    }
}

/// Adds what follows from one record secret: every cipher, both spaces, small and large numbers.
fn add_records(samples: &mut Samples, name: &str, secret: &RecordSecret) {
    samples.add(name, secret.bytes());
    for cipher in Cipher::ALL.into_iter().chain(Cipher::TAG_ONLY) {
        let key = secret.sealing_key(cipher);
        for (space, number) in [
            (Space::Reliable, 0),
            (Space::Unreliable, 0),
            (Space::Reliable, 0x0102_0304_0506_0708),
        ] {
            let mut sealed = b"a record of Underpass".to_vec();
            let tag = key.seal_in_place(space, number, b"header", &mut sealed);
            sealed.extend_from_slice(&tag);
            let name = format!("{name}.sealed.{}.{}.{number}", cipher.code(), space as u32);
            samples.add(&name, &sealed);
        }
    }
}

#[test]
fn record_samples_agree() {
    let about = "Records under the secrets of a seed (docs/protocol-keys.md).\n\
                 NAME.sealed.CIPHER.SPACE.NUMBER: \"a record of Underpass\" with \"header\" as associated data.";
    let mut samples = Samples::new("records.txt", about);
    let seed = *b"a seed of samples, of 32 bytes..";
    let secrets = Secrets::dangerous_from_seed(seed);
    samples.add("seed", &seed);
    samples.add("handshake_hash", &secrets.handshake_hash);
    add_records(
        &mut samples,
        "initiator_records",
        &secrets.initiator_records,
    );
    add_records(
        &mut samples,
        "responder_records",
        &secrets.responder_records,
    );
    let next = secrets.initiator_records.next_epoch();
    add_records(&mut samples, "initiator_records_epoch_1", &next);
    add_records(
        &mut samples,
        "initiator_records_epoch_2",
        &next.next_epoch(),
    );
    samples.check();
}

#[test]
fn resume_samples_agree() {
    let about = "Two generations of resuming under the secrets of a seed (docs/protocol-keys.md).\n\
                 request and reply: \"what I have\" sealed with \"session\" as associated data.";
    let mut samples = Samples::new("resume.txt", about);
    let seed = *b"a seed of samples, of 32 bytes..";
    let mut secret = Secrets::dangerous_from_seed(seed).resume;
    samples.add("seed", &seed);
    for generation in 0..2u8 {
        let (nonce_a, nonce_b) = ([0xa0 | generation; 16], [0xb0 | generation; 16]);
        let name = |value: &str| format!("generation_{generation}.{value}");
        samples.add(&name("secret"), secret.bytes());
        samples.add(&name("confirm_tag"), &secret.confirm_tag());
        let (there, back) = secret.route_secrets();
        samples.add(&name("initiator_route"), there.bytes());
        samples.add(&name("responder_route"), back.bytes());
        samples.add(&name("nonce_a"), &nonce_a);
        samples.add(&name("nonce_b"), &nonce_b);
        let request = secret
            .request_key(&nonce_a)
            .seal(b"session", b"what I have");
        samples.add(&name("request"), &request);
        let reply = secret
            .reply_key(&nonce_a, &nonce_b)
            .seal(b"session", b"what I have");
        samples.add(&name("reply"), &reply);
        secret = secret.advance(&nonce_a, &nonce_b);
    }
    samples.check();
}
