//! First tickets.

use std::time::Duration;

use underpass_proto::Time;
use underpass_proto::ticket::{Handle, Line, MARGIN};

use super::{Place, bytes, race};

const KEEP: Duration = Duration::from_secs(600);

fn line(number: u32) -> Line {
    Line {
        handle: Handle(bytes(0x4a, number)),
        current: bytes(0xc1, number),
        next: bytes(0xc2, number),
        salt: bytes(0x5a, number),
        claim: bytes(0xc3, number),
        far: b"far".to_vec(),
        keep: KEEP,
        expires: Time::ZERO + KEEP + MARGIN,
    }
}

/// The line after its next ticket was used.
fn moved_on(line: &Line, number: u32) -> Line {
    Line {
        current: line.next,
        next: bytes(0xd2, number),
        salt: bytes(0xd3, number),
        ..line.clone()
    }
}

pub(crate) async fn a_line_is_found_by_both_its_tickets(place: &mut impl Place) {
    let (one, two) = (line(1), line(2));
    let store = place.store().await;
    store.add_ticket(&one).await.unwrap();
    store.add_ticket(&two).await.unwrap();
    let store = place.store().await;
    for (digest, found) in [(one.current, &one), (one.next, &one), (two.next, &two)] {
        assert_eq!(store.ticket(&digest).await.unwrap().as_ref(), Some(found));
    }
    assert_eq!(store.ticket(&one.salt).await.unwrap(), None);
    assert_eq!(store.ticket(&[0; 32]).await.unwrap(), None);
}

pub(crate) async fn a_spent_ticket_is_forgotten(place: &mut impl Place) {
    let before = line(1);
    let store = place.store().await;
    store.add_ticket(&before).await.unwrap();
    let after = moved_on(&before, 7);
    assert!(store.replace_ticket(&before, &after).await.unwrap());
    let store = place.store().await;
    assert_eq!(store.ticket(&before.current).await.unwrap(), None);
    assert_eq!(
        store.ticket(&before.next).await.unwrap(),
        Some(after.clone())
    );
    assert_eq!(
        store.ticket(&after.next).await.unwrap(),
        Some(after.clone())
    );
    assert!(
        !store
            .replace_ticket(&before, &moved_on(&before, 8))
            .await
            .unwrap(),
        "it is not as it was"
    );
    assert_eq!(store.ticket(&after.next).await.unwrap(), Some(after));
}

pub(crate) async fn of_two_that_change_a_line_one_does(place: &mut impl Place) {
    let before = line(1);
    place.store().await.add_ticket(&before).await.unwrap();
    let won = race(place, 20, |store, number| async move {
        let before = line(1);
        let after = moved_on(&before, 100 + number);
        store.replace_ticket(&before, &after).await.unwrap()
    })
    .await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
}

pub(crate) async fn a_handle_forgets_its_line_alone(place: &mut impl Place) {
    let (one, two) = (line(1), line(2));
    let store = place.store().await;
    store.add_ticket(&one).await.unwrap();
    store.add_ticket(&two).await.unwrap();
    assert!(store.forget_ticket(one.handle).await.unwrap());
    let store = place.store().await;
    assert!(!store.forget_ticket(one.handle).await.unwrap());
    assert_eq!(store.ticket(&one.current).await.unwrap(), None);
    assert_eq!(store.ticket(&one.next).await.unwrap(), None);
    assert_eq!(store.ticket(&two.current).await.unwrap(), Some(two));
}

pub(crate) async fn lines_expire_by_the_clock_that_only_goes_forward(place: &mut impl Place) {
    let (short, long) = (
        line(1),
        Line {
            keep: KEEP * 100,
            ..line(2)
        },
    );
    let store = place.store().await;
    store.add_ticket(&short).await.unwrap();
    store.add_ticket(&long).await.unwrap();
    assert_eq!(
        store.advance_ticket_clock(Time::ZERO).await.unwrap(),
        Time::ZERO
    );
    let soon = Time::ZERO + MARGIN;
    assert_eq!(store.advance_ticket_clock(soon).await.unwrap(), soon);
    assert_eq!(
        place
            .store()
            .await
            .advance_ticket_clock(Time::ZERO)
            .await
            .unwrap(),
        soon,
        "it is where the last authority left it"
    );
    let store = place.store().await;
    let both = [short.handle, long.handle, Handle([0; 16])];
    assert_eq!(store.renew_tickets(&both[1..], soon).await.unwrap(), 1);
    store.advance_ticket_clock(short.expires).await.unwrap();
    assert_eq!(store.ticket(&short.current).await.unwrap(), None);
    let renewed = store.ticket(&long.current).await.unwrap().unwrap();
    assert_eq!(renewed.expires, soon + KEEP * 100 + MARGIN);
    store.advance_ticket_clock(renewed.expires).await.unwrap();
    assert_eq!(store.renew_tickets(&both, soon).await.unwrap(), 0);
}
