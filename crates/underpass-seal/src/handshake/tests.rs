//! The handshake with fixed keys: every changed byte, every length, and the recorded transcript.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::samples::{Samples, read, writing};

const PROLOGUE: &[u8] = b"underpass sample prologue";
const ANSWER: &[u8] = b"payload of the answer";
const FINISH: &[u8] = b"payload of the finish";
const FILE: &str = "handshake.txt";

/// Both ends with every random choice fixed, so that any state can be made again.
struct Fixed {
    initiator: StaticKey,
    responder: StaticKey,
    initiator_ephemeral: [u8; 32],
    responder_ephemeral: [u8; 32],
    kem: Vec<u8>,
    encapsulation: Encapsulation,
}

impl Fixed {
    fn new(kem: &KemKey, encapsulation: Encapsulation) -> Self {
        Self {
            initiator: StaticKey::from_bytes([0x11; 32]),
            responder: StaticKey::from_bytes([0x22; 32]),
            initiator_ephemeral: [0x33; 32],
            responder_ephemeral: [0x44; 32],
            kem: kem.to_bytes(),
            encapsulation,
        }
    }

    fn drawn() -> Self {
        let kem = KemKey::generate().unwrap();
        let encapsulation = encapsulate(kem.encapsulation_key()).unwrap();
        Self::new(&kem, encapsulation)
    }

    fn committed() -> Self {
        let kem = KemKey::from_bytes(&read(FILE, "kem_decapsulation_key"));
        let ciphertext = read(FILE, "kem_ciphertext");
        let shared = kem.decapsulate(&ciphertext).unwrap();
        Self::new(&kem, Encapsulation { ciphertext, shared })
    }

    fn start(&self) -> (Initiator, Vec<u8>) {
        let ephemeral = Some(&self.initiator_ephemeral);
        let noise = Noise::new(Role::Initiator, &self.initiator, PROLOGUE, ephemeral).unwrap();
        Initiator::start_with(noise, KemKey::from_bytes(&self.kem)).unwrap()
    }

    fn read_hello(&self, prologue: &[u8], hello: &[u8]) -> Result<Responder, HandshakeError> {
        let ephemeral = Some(&self.responder_ephemeral);
        let noise = Noise::new(Role::Responder, &self.responder, prologue, ephemeral).unwrap();
        Responder::read_hello_with(noise, hello)
    }

    fn answer(&self, hello: &[u8]) -> (Vec<u8>, AwaitingFinish) {
        let responder = self.read_hello(PROLOGUE, hello).unwrap();
        responder.answer_with(ANSWER, &self.encapsulation).unwrap()
    }

    fn messages(&self) -> [Vec<u8>; 3] {
        let (initiator, hello) = self.start();
        let (answer, _) = self.answer(&hello);
        let answered = initiator.read_answer(&answer).unwrap();
        let (finish, _) = answered.finish(FINISH).unwrap();
        [hello, answer, finish]
    }
}

/// A live handshake through the public interface, with fresh keys.
fn handshake(
    prologues: (&[u8], &[u8]),
    payloads: (&[u8], &[u8]),
) -> Result<(Secrets, Secrets), HandshakeError> {
    let (near, far) = (StaticKey::generate(), StaticKey::generate());
    let (initiator, hello) = Initiator::start(&near, prologues.0)?;
    let responder = Responder::read_hello(&far, prologues.1, &hello)?;
    let (answer, awaiting) = responder.answer(payloads.0)?;
    let answered = initiator.read_answer(&answer)?;
    assert_eq!(answered.peer, far.public());
    assert_eq!(answered.payload, payloads.0);
    let (finish, secrets) = answered.finish(payloads.1)?;
    let finished = awaiting.read_finish(&finish)?;
    assert_eq!(finished.peer, near.public());
    assert_eq!(finished.payload, payloads.1);
    assert!(
        [&hello, &answer, &finish]
            .iter()
            .all(|message| message.len() <= MAX_MESSAGE)
    );
    Ok((secrets, finished.secrets))
}

fn same(one: &Secrets, other: &Secrets) -> bool {
    one.initiator_records.bytes() == other.initiator_records.bytes()
        && one.responder_records.bytes() == other.responder_records.bytes()
        && one.resume.bytes() == other.resume.bytes()
        && one.handshake_hash == other.handshake_hash
}

#[test]
fn both_ends_reach_the_same_secrets_and_no_two_sessions_do() {
    let (near, far) = handshake((b"p", b"p"), (b"answer", b"finish")).unwrap();
    assert!(same(&near, &far));
    let (other, _) = handshake((b"p", b"p"), (b"answer", b"finish")).unwrap();
    assert_ne!(
        near.initiator_records.bytes(),
        other.initiator_records.bytes()
    );
    assert_ne!(near.handshake_hash, other.handshake_hash);
}

#[test]
fn payloads_of_any_permitted_length_arrive() {
    let full = [0x5a; MAX_PAYLOAD];
    for (answer, finish) in [(0, 0), (0, MAX_PAYLOAD), (MAX_PAYLOAD, 0), (1, MAX_PAYLOAD)] {
        handshake((b"", b""), (&full[..answer], &full[..finish])).unwrap();
    }
    let long = [0; MAX_PAYLOAD + 1];
    let refused = Err(HandshakeError::PayloadTooLong(MAX_PAYLOAD + 1));
    assert_eq!(handshake((b"", b""), (&long, b"")).map(drop), refused);
    assert_eq!(handshake((b"", b""), (b"", &long)).map(drop), refused);
}

#[test]
fn a_different_prologue_is_noticed_by_the_first_reader() {
    for (one, other) in [(&b"a"[..], &b"b"[..]), (b"", b"a"), (b"ab", b"a")] {
        let refused = handshake((one, other), (b"", b"")).map(drop);
        assert_eq!(refused, Err(HandshakeError::NotAuthentic));
    }
}

#[test]
fn every_changed_byte_of_every_message_is_noticed() {
    let fixed = Fixed::drawn();
    let [hello, answer, finish] = fixed.messages();
    let notice = |which: &str, message: &[u8], read: &dyn Fn(&[u8]) -> Option<HandshakeError>| {
        assert_eq!(read(message), None, "the {which} is good as it is");
        for position in 0..message.len() {
            for change in [0x01, 0x80] {
                let mut changed = message.to_vec();
                changed[position] ^= change;
                let error = read(&changed);
                assert!(
                    error.is_some(),
                    "{which}, byte {position} changed by {change:#x}"
                );
            }
        }
    };
    notice("hello", &hello, &|message| {
        fixed.read_hello(PROLOGUE, message).err()
    });
    notice("answer", &answer, &|message| {
        fixed.start().0.read_answer(message).err()
    });
    notice("finish", &finish, &|message| {
        fixed.answer(&hello).1.read_finish(message).err()
    });
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let fixed = Fixed::drawn();
    let [hello, answer, finish] = fixed.messages();
    let longer = |message: &[u8]| [message, &[0]].concat();
    for length in 0..hello.len() {
        let refused = Responder::read_hello(&fixed.responder, PROLOGUE, &hello[..length]);
        assert!(matches!(refused, Err(HandshakeError::Length { .. })));
    }
    let refused = Responder::read_hello(&fixed.responder, PROLOGUE, &longer(&hello));
    assert!(matches!(refused, Err(HandshakeError::Length { .. })));
    for length in 0..answer.len() {
        assert!(fixed.start().0.read_answer(&answer[..length]).is_err());
    }
    assert!(fixed.start().0.read_answer(&longer(&answer)).is_err());
    for length in 0..finish.len() {
        let (_, awaiting) = fixed.answer(&hello);
        assert!(awaiting.read_finish(&finish[..length]).is_err());
    }
    let (_, awaiting) = fixed.answer(&hello);
    assert!(awaiting.read_finish(&longer(&finish)).is_err());
}

#[test]
fn oversize_messages_are_refused_by_length() {
    let fixed = Fixed::drawn();
    let (initiator, hello) = fixed.start();
    let (_, awaiting) = fixed.answer(&hello);
    for length in [MAX_MESSAGE + 1, 65_536, 10 << 20] {
        let huge = vec![0; length];
        let refused = fixed.start().0.read_answer(&huge).unwrap_err();
        assert!(matches!(
            refused,
            HandshakeError::Length {
                most: MAX_MESSAGE,
                ..
            }
        ));
        let refused = Responder::read_hello(&fixed.responder, PROLOGUE, &huge).unwrap_err();
        assert!(matches!(
            refused,
            HandshakeError::Length {
                most: HELLO_LEN,
                ..
            }
        ));
    }
    let most = FINISH_OVERHEAD + MAX_PAYLOAD;
    assert!(initiator.read_answer(&vec![0; MAX_MESSAGE]).is_err());
    let refused = awaiting.read_finish(&vec![0; most + 1]).unwrap_err();
    assert!(matches!(refused, HandshakeError::Length { .. }));
}

#[test]
fn messages_of_another_handshake_do_not_fit() {
    let fixed = Fixed::drawn();
    let [_, answer, finish] = fixed.messages();
    let (near, far) = (&fixed.initiator, &fixed.responder);
    let (initiator, hello) = Initiator::start(near, PROLOGUE).unwrap();
    let refused = initiator.read_answer(&answer).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAuthentic);
    let responder = Responder::read_hello(far, PROLOGUE, &hello).unwrap();
    let (_, awaiting) = responder.answer(b"").unwrap();
    let refused = awaiting.read_finish(&finish).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAuthentic);
}

/// Whoever breaks X25519 later knows everything but the encapsulated secret; that must not be enough.
#[test]
fn the_secrets_depend_on_the_encapsulated_secret() {
    let fixed = Fixed::drawn();
    let (initiator, hello) = fixed.start();
    let responder = fixed.read_hello(PROLOGUE, &hello).unwrap();
    let guess = Encapsulation {
        ciphertext: fixed.encapsulation.ciphertext.clone(),
        shared: zeroize::Zeroizing::new([0; 32]),
    };
    let (answer, awaiting) = responder.answer_with(ANSWER, &guess).unwrap();
    let (finish, _) = initiator
        .read_answer(&answer)
        .unwrap()
        .finish(FINISH)
        .unwrap();
    let refused = awaiting.read_finish(&finish).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAuthentic);
}

#[test]
fn the_recorded_transcript_comes_out_again() {
    let fixed = if writing() {
        Fixed::drawn()
    } else {
        Fixed::committed()
    };
    let (initiator, hello) = fixed.start();
    let (answer, awaiting) = fixed.answer(&hello);
    let answered = initiator.read_answer(&answer).unwrap();
    assert_eq!(answered.payload, ANSWER);
    let (finish, secrets) = answered.finish(FINISH).unwrap();
    let finished = awaiting.read_finish(&finish).unwrap();
    assert_eq!(finished.payload, FINISH);
    assert!(same(&secrets, &finished.secrets));

    let about = "One whole handshake with every random choice fixed (docs/protocol-keys.md).";
    let mut samples = Samples::new(FILE, about);
    samples.add("prologue", PROLOGUE);
    samples.add("initiator_static", fixed.initiator.to_bytes().as_slice());
    samples.add("initiator_public", &fixed.initiator.public().0);
    samples.add(
        "initiator_fingerprint",
        fixed.initiator.public().fingerprint().as_bytes(),
    );
    samples.add("initiator_ephemeral", &fixed.initiator_ephemeral);
    samples.add("responder_static", fixed.responder.to_bytes().as_slice());
    samples.add("responder_public", &fixed.responder.public().0);
    samples.add("responder_ephemeral", &fixed.responder_ephemeral);
    samples.add("kem_decapsulation_key", &fixed.kem);
    samples.add("kem_ciphertext", &fixed.encapsulation.ciphertext);
    samples.add("kem_shared_secret", fixed.encapsulation.shared.as_slice());
    samples.add("answer_payload", ANSWER);
    samples.add("finish_payload", FINISH);
    samples.add("message_1", &hello);
    samples.add("message_2", &answer);
    samples.add("message_3", &finish);
    samples.add("handshake_hash", &secrets.handshake_hash);
    samples.add("initiator_records", secrets.initiator_records.bytes());
    samples.add("responder_records", secrets.responder_records.bytes());
    samples.add("resume", secrets.resume.bytes());
    samples.check();
}

#[test]
fn states_can_move_between_threads() {
    fn sendable<T: Send + Sync>() {}
    sendable::<Initiator>();
    sendable::<Answered>();
    sendable::<Responder>();
    sendable::<AwaitingFinish>();
    sendable::<Finished>();
}

#[test]
fn debug_output_names_the_peer_and_no_secret() {
    let fixed = Fixed::drawn();
    let (initiator, hello) = fixed.start();
    assert_eq!(format!("{initiator:?}"), "Initiator { .. }");
    let (answer, awaiting) = fixed.answer(&hello);
    assert_eq!(format!("{awaiting:?}"), "AwaitingFinish { .. }");
    let printed = format!("{:?}", initiator.read_answer(&answer).unwrap());
    let fingerprint = fixed.responder.public().fingerprint();
    assert_eq!(
        printed,
        format!("Answered {{ peer: PublicKey({fingerprint}), .. }}")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_are_refused_without_panic(
        hello in vec(any::<u8>(), HELLO_LEN),
        answer in vec(any::<u8>(), ANSWER_OVERHEAD..ANSWER_OVERHEAD + 100),
        finish in vec(any::<u8>(), FINISH_OVERHEAD..FINISH_OVERHEAD + 100),
    ) {
        let (near, far) = (StaticKey::from_bytes([1; 32]), StaticKey::from_bytes([2; 32]));
        let refused = Responder::read_hello(&far, b"", &hello);
        prop_assert_eq!(refused.map(drop), Err(HandshakeError::NotAuthentic));
        let (initiator, good) = Initiator::start(&near, b"").unwrap();
        let refused = initiator.read_answer(&answer);
        prop_assert_eq!(refused.map(drop), Err(HandshakeError::NotAuthentic));
        let (_, awaiting) = Responder::read_hello(&far, b"", &good).unwrap().answer(b"").unwrap();
        let refused = awaiting.read_finish(&finish);
        prop_assert_eq!(refused.map(drop), Err(HandshakeError::NotAuthentic));
    }
}
