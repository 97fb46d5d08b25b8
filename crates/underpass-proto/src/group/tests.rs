use proptest::prelude::*;

use super::*;
use crate::Speaker;
use crate::control::{Control, ControlDecoder};

fn relay(n: u8) -> GroupRelay {
    GroupRelay {
        url: format!("https://relay-{n}.example:8443/under"),
        key: [n; 32],
        certificate: (n.is_multiple_of(2))
            .then_some([n ^ 0xff; 32])
            .into_iter()
            .collect(),
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes([n; 32])
}

fn list(serial: u64, relays: &[u8]) -> RelayList {
    let relays = relays.iter().copied().map(relay).collect();
    RelayList::sign(&key(1), serial, relays).unwrap()
}

fn up(result: Result<impl std::fmt::Debug, GroupError>) -> &'static str {
    result.unwrap_err().code().up()
}

#[test]
fn a_list_comes_through_the_wire_and_through_a_file() {
    let list = list(7, &[1, 2, 3]);
    assert_eq!(RelayList::try_from(list.answer(9)), Ok(list.clone()));
    assert_eq!(RelayList::parse(&list.to_string()), Ok(list));
}

#[test]
fn whatever_is_changed_breaks_the_signature() {
    let sound = list(7, &[1, 2, 3]).answer(1);
    let changes: [fn(&mut GroupList); 9] = [
        |it| it.signature[5] ^= 4,
        |it| it.group = key(2).public().0,
        |it| it.serial = 8,
        |it| it.relays.swap(0, 1),
        |it| it.relays.truncate(2),
        |it| it.relays.push(relay(4)),
        |it| it.relays[2].url.push('x'),
        |it| it.relays[0].key[31] ^= 1,
        |it| it.relays[1].certificate.clear(),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = sound.clone();
        change(&mut changed);
        assert_eq!(
            up(RelayList::try_from(changed)),
            "UP-GROUP-SIGNATURE",
            "{n}"
        );
    }
}

#[test]
fn bytes_never_stand_for_two_lists() {
    // The end of an address as the beginning of what follows, and so on.
    let mut seen = std::collections::HashSet::new();
    for url in ["http://a", "http://ab"] {
        for certificate in [vec![], vec![[0; 32]]] {
            for count in 1..3 {
                let relay = |n: u8| GroupRelay {
                    url: format!("{url}{n}"),
                    key: [n; 32],
                    certificate: certificate.clone(),
                };
                let relays: Vec<_> = (0..count).map(relay).collect();
                assert!(seen.insert(signed(key(1).public(), 1, &relays)));
            }
        }
    }
}

#[test]
fn only_the_pinned_key_is_believed() {
    let foreign = RelayList::sign(&key(2), 9, vec![relay(1)]).unwrap();
    let kept = list(7, &[1]);
    let checked = foreign.check(key(1).public(), Some(&kept));
    assert_eq!(up(checked.clone()), "UP-GROUP-KEY");
    let said = checked.unwrap_err().to_string();
    assert!(said.contains(&key(1).public().to_string()), "{said}");
    assert!(said.contains(&key(2).public().to_string()), "{said}");
    // Who pins the other key by hand begins with its lists, whatever their serials.
    let early = RelayList::sign(&key(2), 1, vec![relay(1)]).unwrap();
    assert_eq!(early.check(key(2).public(), Some(&kept)), Ok(News::New));
}

#[test]
fn serials_never_go_back() {
    let pinned = key(1).public();
    let kept = list(7, &[1, 2]);
    let checked = |serial, relays: &[u8]| list(serial, relays).check(pinned, Some(&kept));
    assert_eq!(up(checked(6, &[1, 2, 3])), "UP-GROUP-SERIAL");
    assert_eq!(up(checked(7, &[1, 2, 3])), "UP-GROUP-SERIAL");
    assert_eq!(checked(7, &[1, 2]), Ok(News::Known));
    assert_eq!(checked(8, &[1]), Ok(News::New));
    assert_eq!(kept.check(pinned, None), Ok(News::New));
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let text = list(7, &[1, 2, 3]).to_string();
    // Without the line end it is still whole.
    for len in 0..text.len() - 1 {
        let code = up(RelayList::parse(&text[..len]));
        assert_eq!(code, "UP-GROUP-UNREADABLE", "{:?}", &text[..len]);
    }
    let body = text.rsplit_once("signature").unwrap().0;
    let LineError { line, reason } = match RelayList::parse(body) {
        Err(GroupError::Line(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(line, 6);
    assert!(
        reason.contains("not signed, or its end is cut off"),
        "{reason}"
    );
}

#[test]
fn every_truncation_of_a_message_is_refused() {
    let mut bytes = Vec::new();
    let message = Control::from(list(7, &[1, 2]).answer(1));
    message.encode(&mut bytes);
    for len in 0..bytes.len() {
        let mut part = bytes::Bytes::copy_from_slice(&bytes[..len]);
        let error = Control::decode(&mut part).unwrap_err();
        assert!(
            matches!(error, crate::DecodeError::Truncated { .. }),
            "{len}: {error}"
        );
    }
}

#[test]
fn the_longest_list_fits_into_one_message_and_a_longer_one_is_none() {
    let relay = |n: u8| GroupRelay {
        url: format!("https://{}{n:03}", "x".repeat(MAX_RELAY_URL - 11)),
        key: [n; 32],
        certificate: vec![[n; 32]],
    };
    let mut relays: Vec<_> = (0..MAX_GROUP as u8).map(relay).collect();
    let list = RelayList::sign(&key(1), varint::VARINT_MAX, relays.clone()).unwrap();
    let mut bytes = Vec::new();
    Control::from(list.answer(1))
        .put_framed(&mut bytes)
        .unwrap();
    let mut decoder = ControlDecoder::new(Speaker::Relay);
    decoder.push(&bytes);
    assert_eq!(decoder.next(), Ok(Some(list.answer(1).into())));
    relays.push(relay(200));
    let longer = RelayList::sign(&key(1), 1, relays);
    assert_eq!(up(longer), "UP-GROUP-UNREADABLE");
}

#[test]
fn what_is_no_list_is_not_signed() {
    let mut same_key = relay(2);
    same_key.key = relay(1).key;
    let with_url = |url: &str| GroupRelay {
        url: url.to_owned(),
        ..relay(1)
    };
    for relays in [
        vec![],
        vec![relay(1), relay(1)],
        vec![relay(1), same_key],
        vec![with_url("ftp://a")],
        vec![with_url("http://a b")],
        vec![with_url("http://a#b")],
        vec![with_url(&format!("http://{}", "x".repeat(MAX_RELAY_URL)))],
    ] {
        let signed = RelayList::sign(&key(1), 1, relays.clone());
        assert_eq!(up(signed), "UP-GROUP-UNREADABLE", "{relays:?}");
    }
    assert!(RelayList::sign(&key(1), 0, vec![relay(1)]).is_err());
}

#[test]
fn signing_keeps_what_people_wrote_and_counts_up() {
    let print = underpass_seal::Fingerprint::from_bytes([1; 32]);
    let text = format!("# ours\n\nrelay http://a#{print}  \n");
    let draft = Draft::parse(&text).unwrap();
    assert!(draft.signed().is_err());
    let first = draft.sign(&key(1)).unwrap();
    let text = draft.text(&first);
    assert!(
        text.starts_with(&format!("# ours\n\nrelay http://a#{print}\ngroup ")),
        "{text}"
    );
    assert_eq!(RelayList::parse(&text), Ok(first.clone()));
    // Nothing has changed, so nothing is signed anew.
    assert_eq!(Draft::parse(&text).unwrap().sign(&key(1)), Ok(first));
    let edited = text.replace("http://a", "http://b");
    assert_eq!(up(RelayList::parse(&edited)), "UP-GROUP-SIGNATURE");
    let draft = Draft::parse(&edited).unwrap();
    let second = draft.sign(&key(1)).unwrap();
    assert_eq!(
        (second.serial(), second.relays()[0].url.as_str()),
        (2, "http://b")
    );
    // Another key signs anew, and counts on.
    assert_eq!(
        Draft::parse(&text).unwrap().sign(&key(2)).unwrap().serial(),
        2
    );
}

#[test]
fn mistakes_in_a_file_are_found_with_their_line() {
    for (text, line, word) in [
        ("rely http://a", 1, "rely"),
        ("#\nrelay", 2, "URL#FINGERPRINT"),
        ("relay http://a", 1, "#FINGERPRINT"),
        ("relay http://a#abc", 1, "52 characters"),
        ("serial 1\nserial 2", 2, "serial"),
        ("serial one", 1, "digit"),
        ("signature ab", 1, "128"),
        ("group x", 1, "52 characters"),
    ] {
        let error = Draft::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}");
        assert!(error.reason.contains(word), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_is_taken_for_a_list(text in ".{0,200}") {
        prop_assert!(RelayList::parse(&text).is_err());
    }
}
