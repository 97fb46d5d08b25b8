//! A second implementation, written after `docs/protocol-keys.md` with primitives only: it reproduces every
//! committed sample, talks to the first implementation, and plays the attacker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "it reads the committed samples")]

use std::collections::BTreeMap;

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::{digest, hmac};
use underpass_seal::{Cipher, HandshakeError, Initiator, PublicKey, Responder, Space, StaticKey};

type Bytes32 = [u8; 32];

const PROLOGUE: &[u8] = b"a prologue of the second implementation";
const TAG: usize = 16;
const CIPHERTEXT: usize = 1088;

fn hash(parts: &[&[u8]]) -> Bytes32 {
    let whole = parts.concat();
    let digest = digest::digest(&digest::SHA256, &whole);
    digest.as_ref().try_into().unwrap()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Bytes32 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, &parts.concat());
    tag.as_ref().try_into().unwrap()
}

/// HKDF of Noise section 4.3, all three outputs.
fn noise_hkdf(chaining_key: &Bytes32, input: &[u8]) -> [Bytes32; 3] {
    let temporary = mac(chaining_key, &[input]);
    let first = mac(&temporary, &[&[1]]);
    let second = mac(&temporary, &[&first, &[2]]);
    let third = mac(&temporary, &[&second, &[3]]);
    [first, second, third]
}

/// `Derive` of the specification; no output is longer than one block.
fn derive(secret: &Bytes32, label: &str, context: &[u8]) -> Bytes32 {
    mac(secret, &[label.as_bytes(), &[0], context, &[1]])
}

/// X25519, with zeros where the public key is of low order.
fn x25519(secret: &Bytes32, public: &Bytes32) -> Bytes32 {
    let secret = PrivateKey::from_private_key(&X25519, secret).unwrap();
    let public = UnparsedPublicKey::new(&X25519, public);
    agree(&secret, public, (), |shared| Ok(shared.try_into().unwrap())).unwrap_or([0; 32])
}

/// The agreement as the peer computes it: when the own public key is a pretended one of low order, it is zero.
fn dh(own: &(Bytes32, Bytes32), peer: &Bytes32) -> Bytes32 {
    if x25519(&own.0, &own.1) == [0; 32] {
        return [0; 32];
    }
    x25519(&own.0, peer)
}

fn public_of(secret: &Bytes32) -> Bytes32 {
    let key = PrivateKey::from_private_key(&X25519, secret).unwrap();
    key.compute_public_key()
        .unwrap()
        .as_ref()
        .try_into()
        .unwrap()
}

fn aead(algorithm: &'static Algorithm, key: &Bytes32) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())
}

fn seal(
    algorithm: &'static Algorithm,
    key: &Bytes32,
    nonce: [u8; 12],
    aad: &[u8],
    text: &[u8],
) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    aead(algorithm, key)
        .seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed)
        .unwrap();
    sealed
}

/// One end of the handshake. The public halves are free, so that an attacker can send any.
struct Party {
    hash: Bytes32,
    chaining_key: Bytes32,
    key: Bytes32,
    counter: u64,
    fixed: (Bytes32, Bytes32),
    ephemeral: (Bytes32, Bytes32),
    peer_fixed: Bytes32,
    peer_ephemeral: Bytes32,
}

impl Party {
    fn new(fixed: Bytes32, ephemeral: Bytes32, prologue: &[u8]) -> Self {
        let name = b"Noise_XXpsk3_25519_AESGCM_SHA256";
        // 32 bytes: the name is its own hash.
        let start: Bytes32 = *name;
        Self {
            hash: hash(&[&start, prologue]),
            chaining_key: start,
            key: [0; 32],
            counter: 0,
            fixed: (fixed, public_of(&fixed)),
            ephemeral: (ephemeral, public_of(&ephemeral)),
            peer_fixed: [0; 32],
            peer_ephemeral: [0; 32],
        }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        [self.chaining_key, self.key, _] = noise_hkdf(&self.chaining_key, input);
        self.counter = 0;
    }

    fn mix_psk(&mut self, psk: &Bytes32) {
        let mixed;
        [self.chaining_key, mixed, self.key] = noise_hkdf(&self.chaining_key, psk);
        self.mix_hash(&mixed);
        self.counter = 0;
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        nonce
    }

    fn encrypt(&mut self, text: &[u8]) -> Vec<u8> {
        let nonce = self.nonce();
        let sealed = seal(&AES_256_GCM, &self.key, nonce, &self.hash, text);
        self.mix_hash(&sealed);
        sealed
    }

    fn decrypt(&mut self, sealed: &[u8]) -> Vec<u8> {
        let nonce = Nonce::assume_unique_for_key(self.nonce());
        let mut text = sealed.to_vec();
        let opened = aead(&AES_256_GCM, &self.key)
            .open_in_place(nonce, Aad::from(&self.hash), &mut text)
            .unwrap()
            .to_vec();
        self.mix_hash(sealed);
        opened
    }

    fn write_ephemeral(&mut self) -> Vec<u8> {
        let public = self.ephemeral.1;
        self.mix_hash(&public);
        self.mix_key(&public);
        public.to_vec()
    }

    fn read_ephemeral(&mut self, message: &[u8]) {
        self.peer_ephemeral = message[..32].try_into().unwrap();
        self.mix_hash(&message[..32]);
        self.mix_key(&message[..32]);
    }

    fn write_hello(&mut self, encapsulation_key: &[u8]) -> Vec<u8> {
        let mut message = self.write_ephemeral();
        message.extend(self.encrypt(encapsulation_key));
        message
    }

    fn read_hello(&mut self, message: &[u8]) -> Vec<u8> {
        self.read_ephemeral(message);
        self.decrypt(&message[32..])
    }

    fn write_answer(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut message = self.write_ephemeral();
        self.mix_key(&dh(&self.ephemeral, &self.peer_ephemeral));
        message.extend(self.encrypt(&self.fixed.1.clone()));
        self.mix_key(&dh(&self.fixed, &self.peer_ephemeral));
        message.extend(self.encrypt(payload));
        message
    }

    fn read_answer(&mut self, message: &[u8]) -> Vec<u8> {
        self.read_ephemeral(message);
        self.mix_key(&dh(&self.ephemeral, &self.peer_ephemeral));
        let (sealed_key, sealed_payload) = message[32..].split_at(32 + TAG);
        self.peer_fixed = self.decrypt(sealed_key).try_into().unwrap();
        self.mix_key(&dh(&self.ephemeral, &self.peer_fixed));
        self.decrypt(sealed_payload)
    }

    fn write_finish(&mut self, psk: &Bytes32, payload: &[u8]) -> Vec<u8> {
        let mut message = self.encrypt(&self.fixed.1.clone());
        self.mix_key(&dh(&self.fixed, &self.peer_ephemeral));
        self.mix_psk(psk);
        message.extend(self.encrypt(payload));
        message
    }

    fn read_finish(&mut self, psk: &Bytes32, message: &[u8]) -> Vec<u8> {
        let (sealed_key, sealed_payload) = message.split_at(32 + TAG);
        self.peer_fixed = self.decrypt(sealed_key).try_into().unwrap();
        self.mix_key(&dh(&self.ephemeral, &self.peer_fixed));
        self.mix_psk(psk);
        self.decrypt(sealed_payload)
    }

    /// Initiator's records, responder's records, resume secret.
    fn secrets(&self) -> [Bytes32; 3] {
        let [k1, k2, _] = noise_hkdf(&self.chaining_key, &[]);
        secrets(&k1, &k2, &self.hash)
    }
}

fn secrets(k1: &Bytes32, k2: &Bytes32, handshake_hash: &Bytes32) -> [Bytes32; 3] {
    let root = mac(handshake_hash, &[k1, k2]);
    [
        "underpass/1 initiator records",
        "underpass/1 responder records",
        "underpass/1 resume",
    ]
    .map(|label| derive(&root, label, &[]))
}

fn seal_record(
    secret: &Bytes32,
    code: u8,
    space: u32,
    number: u64,
    aad: &[u8],
    text: &[u8],
) -> Vec<u8> {
    let algorithm = [&AES_256_GCM, &CHACHA20_POLY1305][usize::from(code - 1) % 2];
    let key = derive(secret, "underpass/1 record key", &[code]);
    let iv = &derive(secret, "underpass/1 record iv", &[code])[..12];
    let counter = [&space.to_be_bytes()[..], &number.to_be_bytes()[..]].concat();
    let mut nonce = [0; 12];
    for (byte, (left, right)) in nonce.iter_mut().zip(iv.iter().zip(&counter)) {
        *byte = left ^ right;
    }
    if code <= 2 {
        return seal(algorithm, &key, nonce, aad, text);
    }
    let length = &(aad.len() as u64).to_be_bytes()[..];
    let tag = seal(algorithm, &key, nonce, &[length, aad, text].concat(), &[]);
    [text, &tag].concat()
}

fn encapsulate(key: &[u8]) -> (Vec<u8>, Bytes32) {
    let key = EncapsulationKey::new(&ML_KEM_768, key).unwrap();
    let (ciphertext, shared) = key.encapsulate().unwrap();
    (
        ciphertext.as_ref().to_vec(),
        shared.as_ref().try_into().unwrap(),
    )
}

fn decapsulate(key: &DecapsulationKey, ciphertext: &[u8]) -> Bytes32 {
    let shared = key.decapsulate(Ciphertext::from(ciphertext)).unwrap();
    shared.as_ref().try_into().unwrap()
}

fn kem_pair() -> (DecapsulationKey, Vec<u8>) {
    let key = DecapsulationKey::generate(&ML_KEM_768).unwrap();
    let public = key.encapsulation_key().unwrap().key_bytes().unwrap();
    (key, public.as_ref().to_vec())
}

struct Samples(BTreeMap<String, Vec<u8>>);

impl Samples {
    fn read(file: &str) -> Self {
        let path = format!("{}/tests/samples/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let values = text.lines().filter_map(|line| line.split_once(" = "));
        Self(
            values
                .map(|(name, value)| (name.to_owned(), from_hex(value)))
                .collect(),
        )
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("no sample is called {name}"))
    }

    fn key(&self, name: &str) -> Bytes32 {
        self.bytes(name).try_into().unwrap()
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn it_reproduces_the_sample_handshake_on_both_sides() {
    let samples = Samples::read("handshake.txt");
    let party = |side: &str| {
        let (fixed, ephemeral) = (format!("{side}_static"), format!("{side}_ephemeral"));
        Party::new(
            samples.key(&fixed),
            samples.key(&ephemeral),
            samples.bytes("prologue"),
        )
    };
    let (mut initiator, mut responder) = (party("initiator"), party("responder"));
    let kem = DecapsulationKey::new(&ML_KEM_768, samples.bytes("kem_decapsulation_key")).unwrap();
    let psk = decapsulate(&kem, samples.bytes("kem_ciphertext"));
    assert_eq!(psk, samples.key("kem_shared_secret"));
    assert_eq!(initiator.fixed.1, samples.key("initiator_public"));
    assert_eq!(
        hash(&[b"underpass/1 key fingerprint\0", &initiator.fixed.1]),
        samples.key("initiator_fingerprint")
    );

    let encapsulation_key = &samples.bytes("kem_decapsulation_key")[1152..1152 + 1184];
    let hello = initiator.write_hello(encapsulation_key);
    assert_eq!(hello, samples.bytes("message_1"));
    assert_eq!(responder.read_hello(&hello), encapsulation_key);

    let payload = [
        samples.bytes("kem_ciphertext"),
        samples.bytes("answer_payload"),
    ]
    .concat();
    let answer = responder.write_answer(&payload);
    assert_eq!(answer, samples.bytes("message_2"));
    assert_eq!(initiator.read_answer(&answer), payload);

    let finish = initiator.write_finish(&psk, samples.bytes("finish_payload"));
    assert_eq!(finish, samples.bytes("message_3"));
    assert_eq!(
        responder.read_finish(&psk, &finish),
        samples.bytes("finish_payload")
    );

    for party in [&initiator, &responder] {
        assert_eq!(party.hash, samples.key("handshake_hash"));
        let names = ["initiator_records", "responder_records", "resume"];
        assert_eq!(party.secrets(), names.map(|name| samples.key(name)));
    }
}

#[test]
fn it_reproduces_the_record_samples() {
    let samples = Samples::read("records.txt");
    let seed = samples.key("seed");
    let handshake_hash = hash(&[b"underpass/1 seed\0", &seed]);
    assert_eq!(handshake_hash, samples.key("handshake_hash"));
    let [initiator, responder, _] = secrets(&seed, &seed, &handshake_hash);
    let epoch_1 = derive(&initiator, "underpass/1 key update", &[]);
    let epoch_2 = derive(&epoch_1, "underpass/1 key update", &[]);
    let mut checked = 0;
    for (name, secret) in [
        ("initiator_records", initiator),
        ("responder_records", responder),
        ("initiator_records_epoch_1", epoch_1),
        ("initiator_records_epoch_2", epoch_2),
    ] {
        assert_eq!(secret, samples.key(name));
        let prefix = format!("{name}.sealed.");
        for (name, sealed) in samples.0.range(prefix.clone()..) {
            let Some(parameters) = name.strip_prefix(&prefix) else {
                break;
            };
            let numbers: Vec<u64> = parameters.split('.').map(|n| n.parse().unwrap()).collect();
            let (code, space) = (numbers[0] as u8, numbers[1] as u32);
            let text = b"a record of Underpass";
            let made = seal_record(&secret, code, space, numbers[2], b"header", text);
            assert_eq!(&made, sealed, "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 4 * 12);
}

#[test]
fn it_reproduces_the_resume_samples() {
    let samples = Samples::read("resume.txt");
    let seed = samples.key("seed");
    let [_, _, mut secret] = secrets(&seed, &seed, &hash(&[b"underpass/1 seed\0", &seed]));
    for generation in 0..2 {
        let name = |value: &str| format!("generation_{generation}.{value}");
        let key = |value: &str| samples.key(&name(value));
        let nonce_a = samples.bytes(&name("nonce_a"));
        let nonces = [nonce_a, samples.bytes(&name("nonce_b"))].concat();
        let once = |label: &str, context: &[u8]| {
            let key = derive(&secret, label, context);
            seal(&AES_256_GCM, &key, [0; 12], b"session", b"what I have")
        };
        assert_eq!(secret, key("secret"));
        assert_eq!(
            derive(&secret, "underpass/1 resume confirm", &[]),
            key("confirm_tag")
        );
        assert_eq!(
            derive(&secret, "underpass/1 initiator route", &[]),
            key("initiator_route")
        );
        assert_eq!(
            derive(&secret, "underpass/1 responder route", &[]),
            key("responder_route")
        );
        let request = once("underpass/1 resume request", nonce_a);
        assert_eq!(request, samples.bytes(&name("request")));
        let reply = once("underpass/1 resume reply", &nonces);
        assert_eq!(reply, samples.bytes(&name("reply")));
        secret = derive(&secret, "underpass/1 resume advance", &nonces);
    }
}

#[test]
fn it_starts_a_session_with_the_first_implementation() {
    let far = StaticKey::generate();
    let mut near = Party::new([1; 32], [2; 32], PROLOGUE);
    let (kem, encapsulation_key) = kem_pair();
    let hello = near.write_hello(&encapsulation_key);
    let responder = Responder::read_hello(&far, PROLOGUE, &hello).unwrap();
    let (answer, awaiting) = responder.answer(b"answer").unwrap();
    let payload = near.read_answer(&answer);
    assert_eq!(&payload[CIPHERTEXT..], b"answer");
    assert_eq!(near.peer_fixed, far.public().0);
    let psk = decapsulate(&kem, &payload[..CIPHERTEXT]);
    let finish = near.write_finish(&psk, b"finish");
    let finished = awaiting.read_finish(&finish).unwrap();
    assert_eq!(finished.payload, b"finish");
    assert_eq!(finished.peer, PublicKey(near.fixed.1));

    let [records, _, resume] = near.secrets();
    for cipher in Cipher::ALL {
        let sealed = seal_record(&records, cipher.code(), 1, 77, b"aad", b"text");
        let key = finished.secrets.initiator_records.opening_key(cipher);
        let mut text = [0; 4];
        key.open_into(Space::Unreliable, 77, b"aad", &sealed, &mut text)
            .unwrap();
        assert_eq!(&text, b"text");
    }
    let tag = derive(&resume, "underpass/1 resume confirm", &[]);
    assert_eq!(tag, finished.secrets.resume.confirm_tag());
}

#[test]
fn it_answers_the_first_implementation() {
    let near = StaticKey::generate();
    let mut far = Party::new([1; 32], [2; 32], PROLOGUE);
    let (initiator, hello) = Initiator::start(&near, PROLOGUE).unwrap();
    let (ciphertext, psk) = encapsulate(&far.read_hello(&hello));
    let answer = far.write_answer(&[&ciphertext[..], b"answer"].concat());
    let answered = initiator.read_answer(&answer).unwrap();
    assert_eq!(answered.payload, b"answer");
    assert_eq!(answered.peer, PublicKey(far.fixed.1));
    let (finish, secrets) = answered.finish(b"finish").unwrap();
    assert_eq!(far.read_finish(&psk, &finish), b"finish");
    assert_eq!(far.peer_fixed, near.public().0);
    assert_eq!(far.hash, secrets.handshake_hash);
    let [_, _, resume] = far.secrets();
    let tag = derive(&resume, "underpass/1 resume confirm", &[]);
    assert_eq!(tag, secrets.resume.confirm_tag());
}

/// Message 1 can be remade by anybody: the responder cannot see it, the initiator does.
#[test]
fn a_replaced_encapsulation_key_is_noticed_by_the_initiator() {
    let (near, far) = (StaticKey::generate(), StaticKey::generate());
    let (initiator, hello) = Initiator::start(&near, PROLOGUE).unwrap();
    let mut attacker = Party::new([1; 32], [2; 32], PROLOGUE);
    attacker.ephemeral.1 = hello[..32].try_into().unwrap();
    let (_, own_key) = kem_pair();
    let replaced = attacker.write_hello(&own_key);
    assert_eq!(replaced[..32], hello[..32]);
    let responder = Responder::read_hello(&far, PROLOGUE, &replaced).unwrap();
    let (answer, _) = responder.answer(b"").unwrap();
    let refused = initiator.read_answer(&answer).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAuthentic);
}

/// The ciphertext is sealed, so whoever replaces it must be the responder as far as the initiator can see.
#[test]
fn a_man_in_the_middle_shows_his_own_key_to_both_ends() {
    let (near, far) = (StaticKey::generate(), StaticKey::generate());
    let (initiator, hello) = Initiator::start(&near, PROLOGUE).unwrap();
    let mut towards_near = Party::new([1; 32], [2; 32], PROLOGUE);
    let (ciphertext, _) = encapsulate(&towards_near.read_hello(&hello));
    let answered = initiator
        .read_answer(&towards_near.write_answer(&ciphertext))
        .unwrap();
    assert_eq!(answered.peer, PublicKey(towards_near.fixed.1));
    assert_ne!(answered.peer, far.public());

    let mut towards_far = Party::new([1; 32], [3; 32], PROLOGUE);
    let (kem, own_key) = kem_pair();
    let hello = towards_far.write_hello(&own_key);
    let responder = Responder::read_hello(&far, PROLOGUE, &hello).unwrap();
    let (answer, awaiting) = responder.answer(b"").unwrap();
    let psk = decapsulate(&kem, &towards_far.read_answer(&answer)[..CIPHERTEXT]);
    let finished = awaiting
        .read_finish(&towards_far.write_finish(&psk, b""))
        .unwrap();
    assert_ne!(finished.peer, near.public());
}

#[test]
fn an_initiator_that_cannot_decapsulate_gets_nowhere() {
    let far = StaticKey::generate();
    let mut near = Party::new([1; 32], [2; 32], PROLOGUE);
    let (_, encapsulation_key) = kem_pair();
    let hello = near.write_hello(&encapsulation_key);
    let responder = Responder::read_hello(&far, PROLOGUE, &hello).unwrap();
    let (answer, awaiting) = responder.answer(b"").unwrap();
    near.read_answer(&answer);
    let finish = near.write_finish(&[0; 32], b"");
    let refused = awaiting.read_finish(&finish).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAuthentic);
}

/// The u-coordinates of order 1, 2, 4 and 8 on the curve and its twist, and the same with the bit that
/// X25519 ignores (RFC 7748 section 5) set.
fn low_order_keys() -> Vec<Bytes32> {
    let keys = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let plain = keys.map(|key| from_hex(key).try_into().unwrap());
    let marked = plain.map(|mut key: Bytes32| {
        key[31] |= 0x80;
        key
    });
    [plain, marked].concat()
}

#[test]
fn keys_of_low_order_are_refused_wherever_they_come() {
    let own = StaticKey::generate();
    for weak in low_order_keys() {
        assert_eq!(x25519(&own.to_bytes(), &weak), [0; 32]);

        // As the initiator's ephemeral key.
        let mut near = Party::new([1; 32], [2; 32], PROLOGUE);
        near.ephemeral.1 = weak;
        let hello = near.write_hello(&kem_pair().1);
        let responder = Responder::read_hello(&own, PROLOGUE, &hello).unwrap();
        let refused = responder.answer(b"").unwrap_err();
        assert_eq!(refused, HandshakeError::WeakKey);

        // As the responder's ephemeral key, and as its static key.
        for ephemeral in [true, false] {
            let mut far = Party::new([1; 32], [2; 32], PROLOGUE);
            if ephemeral {
                far.ephemeral.1 = weak;
            } else {
                far.fixed.1 = weak;
            }
            let (initiator, hello) = Initiator::start(&own, PROLOGUE).unwrap();
            let (ciphertext, _) = encapsulate(&far.read_hello(&hello));
            let refused = initiator
                .read_answer(&far.write_answer(&ciphertext))
                .unwrap_err();
            assert_eq!(refused, HandshakeError::WeakKey);
        }

        // As the initiator's static key.
        let mut near = Party::new([1; 32], [2; 32], PROLOGUE);
        let (kem, encapsulation_key) = kem_pair();
        let hello = near.write_hello(&encapsulation_key);
        let responder = Responder::read_hello(&own, PROLOGUE, &hello).unwrap();
        let (answer, awaiting) = responder.answer(b"").unwrap();
        let psk = decapsulate(&kem, &near.read_answer(&answer)[..CIPHERTEXT]);
        near.fixed.1 = weak;
        let refused = awaiting
            .read_finish(&near.write_finish(&psk, b""))
            .unwrap_err();
        assert_eq!(refused, HandshakeError::WeakKey);
    }
}
