//! How sessions begin, and how they do not.

use bytes::Bytes;
use underpass_proto::handshake::{Accepting, ConnectError, Connecting};
use underpass_proto::packet::{Answer, Hello, HelloTarget, Packet, PacketKind, Refused, VERSION};
use underpass_proto::session::{Event, LegId};
use underpass_proto::{Time, code};
use underpass_seal::StaticKey;

use crate::dice::Dice;
use crate::pair::config;

const LEG: LegId = LegId(1);
const END: HelloTarget = HelloTarget::Endpoint;

fn begin(identity: &StaticKey, relay: &[u8]) -> (Connecting, Hello) {
    let (connecting, packet) =
        Connecting::start(config(), identity, END, relay, &mut Dice::new(1).0).unwrap();
    (connecting, Hello::decode(packet.body).unwrap())
}

fn accept(
    hello: &Hello,
    target: HelloTarget,
    relay: &[u8],
) -> Result<(Accepting, Packet), ConnectError> {
    let body = hello.to_packet().body;
    let identity = StaticKey::from_bytes([2; 32]);
    Accepting::start(
        config(),
        &identity,
        target,
        relay,
        body,
        &mut Dice::new(2).0,
    )
}

#[test]
fn both_ends_learn_the_others_key_and_the_first_record_establishes() {
    let keys = [
        StaticKey::from_bytes([1; 32]),
        StaticKey::from_bytes([2; 32]),
    ];
    let (connecting, hello) = begin(&keys[0], b"relay");
    let (accepting, answer) = accept(&hello, END, b"relay").unwrap();
    assert_eq!(accepting.session(), connecting.session());
    let answered = connecting.handle_answer(answer).unwrap();
    assert_eq!(answered.peer, keys[1].public());
    let (mut near, finish) = answered.finish(LEG, Time::ZERO).unwrap();
    let (mut far, peer) = accepting.handle_finish(finish, LEG, Time::ZERO).unwrap();
    assert_eq!(peer, keys[0].public());
    assert_eq!(near.id(), far.id());
    assert_eq!(near.poll_event(), Some(Event::LegActive { leg: LEG }));
    assert_eq!(
        near.poll_event(),
        None,
        "nothing has shown yet that the peer holds the session"
    );
    let first = far.poll_transmit(Time::ZERO, LEG).unwrap();
    let first = Packet::parse_unframed(first).unwrap();
    near.handle_packet(Time::ZERO, LEG, first, &mut Dice::new(3).0)
        .unwrap();
    assert_eq!(near.poll_event(), Some(Event::Established));
    // Keys of routing headers are the same at both ends.
    let ((seal, _), (_, open)) = (near.route_keys(), far.route_keys());
    let mut header = *b"header";
    let tag = seal.seal_in_place(underpass_seal::Space::Reliable, 0, b"", &mut header);
    let sealed = [&header[..], &tag].concat();
    let mut plain = [0; 6];
    open.open_into(underpass_seal::Space::Reliable, 0, b"", &sealed, &mut plain)
        .unwrap();
    assert_eq!(&plain, b"header");
}

#[test]
fn another_version_is_told_apart_from_everything_else() {
    let (_, hello) = begin(&StaticKey::generate(), b"");
    let newer = Hello {
        version: VERSION + 3,
        min_version: VERSION + 1,
        ..hello.clone()
    };
    let Err(error) = accept(&newer, END, b"") else {
        panic!("accepted a version that is not known");
    };
    assert!(matches!(error, ConnectError::Version { theirs } if theirs == VERSION + 3));
    assert_eq!(error.code(), code::VERSION_UNSUPPORTED);
    let older = Hello {
        version: VERSION - 1,
        min_version: VERSION - 1,
        ..hello
    };
    let outcome = accept(&older, END, b"");
    assert!(matches!(outcome, Err(ConnectError::Version { theirs: 0 })));
}

#[test]
fn what_the_prologue_binds_must_be_the_same() {
    let (_, hello) = begin(&StaticKey::generate(), b"relay one");
    assert!(accept(&hello, END, b"relay one").is_ok());
    assert!(matches!(
        accept(&hello, END, b"relay two"),
        Err(ConnectError::Keys(_))
    ));
    assert!(matches!(
        accept(&hello, END, b""),
        Err(ConnectError::Keys(_))
    ));
    let outcome = accept(&hello, HelloTarget::Relay, b"relay one");
    assert!(matches!(outcome, Err(ConnectError::Malformed(_))));
    let mut turned = hello.clone();
    turned.target = HelloTarget::Relay;
    let outcome = accept(&turned, HelloTarget::Relay, b"relay one");
    assert!(
        matches!(outcome, Err(ConnectError::Keys(_))),
        "a target changed on the way"
    );
    let mut renamed = hello;
    renamed.session.0[0] ^= 1;
    let outcome = accept(&renamed, END, b"relay one");
    assert!(
        matches!(outcome, Err(ConnectError::Keys(_))),
        "a session id changed on the way"
    );
}

#[test]
fn changed_or_misplaced_messages_are_refused() {
    for at in [0, 40, 600, 1200] {
        let (_, mut hello) = begin(&StaticKey::generate(), b"");
        hello.message = changed(&hello.message, at);
        assert!(accept(&hello, END, b"").is_err(), "HELLO changed at {at}");
        let (connecting, hello) = begin(&StaticKey::generate(), b"");
        let (_, packet) = accept(&hello, END, b"").unwrap();
        let answer = Answer {
            message: changed(&packet.body, at),
        };
        let outcome = connecting.handle_answer(answer.to_packet());
        assert!(
            matches!(outcome, Err(ConnectError::Keys(_))),
            "ANSWER changed at {at}"
        );
    }
    let (connecting, hello) = begin(&StaticKey::generate(), b"");
    let (accepting, answer) = accept(&hello, END, b"").unwrap();
    let (_, mut finish) = connecting
        .handle_answer(answer.clone())
        .unwrap()
        .finish(LEG, Time::ZERO)
        .unwrap();
    finish.body = changed(&finish.body, 20);
    let outcome = accepting.handle_finish(finish, LEG, Time::ZERO);
    assert!(matches!(outcome, Err(ConnectError::Keys(_))));
    let (accepting, _) = accept(&hello, END, b"").unwrap();
    let outcome = accepting.handle_finish(answer, LEG, Time::ZERO);
    assert!(matches!(outcome, Err(ConnectError::Unexpected(_))));
}

fn changed(message: &Bytes, at: usize) -> Bytes {
    let mut message = message.to_vec();
    let at = at.min(message.len() - 1);
    message[at] ^= 0x10;
    message.into()
}

#[test]
fn a_refusal_comes_with_its_reason() {
    let (connecting, _) = begin(&StaticKey::generate(), b"");
    let refused = Refused {
        code: code::SERVICE_AWAY,
        text: "come back later".into(),
    };
    let Err(error) = connecting.handle_answer(refused.to_packet()) else {
        panic!("went on");
    };
    assert_eq!(error.code(), code::SERVICE_AWAY);
    assert!(error.to_string().contains("come back later"), "{error}");
    let (connecting, _) = begin(&StaticKey::generate(), b"");
    let padding = Packet {
        kind: PacketKind::Padding,
        body: Bytes::new(),
    };
    let outcome = connecting.handle_answer(padding);
    assert!(matches!(outcome, Err(ConnectError::Unexpected(_))));
}
