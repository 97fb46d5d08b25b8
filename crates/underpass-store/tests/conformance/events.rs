//! The log of events.

use underpass_store::{
    AppendError, EventField, EventFilter, EventId, EventRetention, MAX_EVENT_ADDRESS,
    MAX_EVENT_DETAILS, MAX_EVENT_KIND, MAX_EVENT_NAME, NewEvent, Store, UnixMillis,
};

use super::{Place, administrator};

fn event(at: i64, kind: &str, actor: Option<&str>, peer: Option<&str>) -> NewEvent {
    NewEvent {
        at: UnixMillis(at),
        kind: kind.to_owned(),
        actor: actor.map(str::to_owned),
        peer: peer.map(str::to_owned),
        address: Some("192.0.2.7:4711".to_owned()),
        details: r#"{"bytes":1}"#.to_owned(),
    }
}

fn all() -> EventFilter {
    EventFilter {
        limit: u32::MAX,
        ..EventFilter::default()
    }
}

async fn times(store: &dyn Store, filter: &EventFilter) -> Vec<i64> {
    let events = store.events(filter).await.unwrap();
    events.iter().map(|listed| listed.event.at.0).collect()
}

pub(crate) async fn events_come_back_newest_first(place: &mut impl Place) {
    let store = place.store().await;
    let strange = NewEvent {
        actor: Some("näme\0\u{1f600}'\"".to_owned()),
        peer: None,
        address: None,
        details: "null".to_owned(),
        ..event(-5, "refused", None, None)
    };
    let first = event(7, "login", Some("bob"), None);
    store.append_events(&[]).await.unwrap();
    store
        .append_events(&[first.clone(), strange.clone()])
        .await
        .unwrap();
    let third = event(6, "connect", Some("bob"), Some("alice"));
    place
        .store()
        .await
        .append_events(std::slice::from_ref(&third))
        .await
        .unwrap();

    let listed = place.store().await.events(&all()).await.unwrap();
    // In order of writing, whatever the clocks said.
    assert!(listed.is_sorted_by(|a, b| a.id > b.id));
    let events: Vec<NewEvent> = listed.into_iter().map(|listed| listed.event).collect();
    assert_eq!(events, [third, strange, first]);
}

pub(crate) async fn filters_narrow_and_pages_go_on(place: &mut impl Place) {
    let store = place.store().await;
    let events: Vec<NewEvent> = (0..30)
        .map(|n| {
            let kind = if n % 2 == 0 { "even" } else { "odd" };
            let peer = (n % 5 == 0).then_some("bob");
            event(
                n,
                kind,
                Some(if n % 3 == 0 { "bob" } else { "alice" }),
                peer,
            )
        })
        .collect();
    store.append_events(&events).await.unwrap();
    let store = place.store().await;
    let expected =
        |keep: &dyn Fn(i64) -> bool| -> Vec<i64> { (0..30).rev().filter(|n| keep(*n)).collect() };
    let filter = EventFilter {
        since: Some(UnixMillis(20)),
        ..all()
    };
    assert_eq!(times(&*store, &filter).await, expected(&|n| n >= 20));
    let filter = EventFilter {
        user: Some("bob".to_owned()),
        ..all()
    };
    assert_eq!(
        times(&*store, &filter).await,
        expected(&|n| n % 3 == 0 || n % 5 == 0)
    );
    let filter = EventFilter {
        kind: Some("odd".to_owned()),
        ..filter
    };
    let odd_of_bob = expected(&|n| n % 2 == 1 && (n % 3 == 0 || n % 5 == 0));
    assert_eq!(times(&*store, &filter).await, odd_of_bob);
    assert_eq!(times(&*store, &EventFilter::default()).await, [0_i64; 0]);

    // Page by page the same comes out as at once.
    let mut paged = Vec::new();
    let mut page = EventFilter { limit: 3, ..filter };
    loop {
        let events = store.events(&page).await.unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= 3);
        page.before = Some(last.id);
        paged.extend(events.iter().map(|listed| listed.event.at.0));
    }
    assert_eq!(paged, odd_of_bob);

    // Going on from an event, the oldest first, ends with the newest.
    let mut onward = EventFilter {
        before: None,
        after: Some(EventId(0)),
        ..page
    };
    let mut followed = Vec::new();
    loop {
        let events = store.events(&onward).await.unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= 3);
        onward.after = Some(last.id);
        followed.extend(events.iter().map(|listed| listed.event.at.0));
    }
    followed.reverse();
    assert_eq!(followed, odd_of_bob);
}

pub(crate) async fn what_does_not_fit_is_refused_whole(place: &mut impl Place) {
    let store = place.store().await;
    let good = event(1, "login", None, None);
    let json = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    let longest = NewEvent {
        at: UnixMillis(1),
        kind: "k".repeat(MAX_EVENT_KIND),
        actor: Some("a".repeat(MAX_EVENT_NAME)),
        peer: Some("p".repeat(MAX_EVENT_NAME)),
        address: Some("d".repeat(MAX_EVENT_ADDRESS)),
        details: json(MAX_EVENT_DETAILS),
    };
    store
        .append_events(std::slice::from_ref(&longest))
        .await
        .unwrap();
    let too_long = [
        (
            EventField::Kind,
            NewEvent {
                kind: format!("{}k", longest.kind),
                ..good.clone()
            },
        ),
        (
            EventField::Actor,
            NewEvent {
                actor: longest.actor.clone().map(|a| a + "a"),
                ..good.clone()
            },
        ),
        (
            EventField::Peer,
            NewEvent {
                peer: longest.peer.clone().map(|p| p + "p"),
                ..good.clone()
            },
        ),
        (
            EventField::Address,
            NewEvent {
                address: longest.address.map(|d| d + "d"),
                ..good.clone()
            },
        ),
        (
            EventField::Details,
            NewEvent {
                details: json(MAX_EVENT_DETAILS + 1),
                ..good.clone()
            },
        ),
    ];
    for (expected, bad) in too_long {
        match store.append_events(&[good.clone(), bad]).await {
            Err(AppendError::TooLong { field, len, limit }) => {
                assert_eq!((field, len), (expected, limit + 1));
            }
            other => panic!("{expected} is too long: {other:?}"),
        }
    }
    for details in ["", "{", "{'a':1}", "nul", "{} {}"] {
        let bad = NewEvent {
            details: details.to_owned(),
            ..good.clone()
        };
        let refused = store.append_events(&[good.clone(), bad]).await;
        assert!(
            matches!(refused, Err(AppendError::NotJson)),
            "{details}: {refused:?}"
        );
    }
    assert_eq!(place.store().await.events(&all()).await.unwrap().len(), 1);
}

pub(crate) async fn pruning_keeps_what_it_should(place: &mut impl Place) {
    let store = place.store().await;
    // More than one step of pruning, written with a clock that once went back.
    let events: Vec<NewEvent> = (0..5_000)
        .map(|n| event(if n == 4_990 { 0 } else { n }, "tick", None, None))
        .collect();
    store.append_events(&events).await.unwrap();
    assert_eq!(
        store.prune_events(EventRetention::default()).await.unwrap(),
        0
    );
    let by_age = EventRetention {
        not_before: Some(UnixMillis(4_500)),
        at_most: None,
    };
    assert_eq!(
        place.store().await.prune_events(by_age).await.unwrap(),
        4_501
    );
    let store = place.store().await;
    let kept = times(&*store, &all()).await;
    assert_eq!((kept.len(), kept[0], kept[498]), (499, 4_999, 4_500));

    let by_number = |at_most| EventRetention {
        not_before: None,
        at_most: Some(at_most),
    };
    assert_eq!(store.prune_events(by_number(499)).await.unwrap(), 0);
    assert_eq!(store.prune_events(by_number(u64::MAX)).await.unwrap(), 0);
    let both = EventRetention {
        not_before: Some(UnixMillis(4_600)),
        at_most: Some(2),
    };
    assert_eq!(store.prune_events(both).await.unwrap(), 497);
    assert_eq!(times(&*place.store().await, &all()).await, [4_999, 4_998]);
    let newest = store.events(&all()).await.unwrap()[0].id;
    assert_eq!(store.prune_events(by_number(0)).await.unwrap(), 2);
    // Numbers go on where they were, so that a page asked for before is not confused.
    place
        .store()
        .await
        .append_events(&[event(1, "tick", None, None)])
        .await
        .unwrap();
    let EventId(next) = store.events(&all()).await.unwrap()[0].id;
    assert!(next > newest.0);
}

pub(crate) async fn texts_shaped_like_statements_are_texts(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let shaped = [
        "' OR '1'='1",
        "'; DROP TABLE events; --",
        "\" OR \"\"=\"",
        "bob' UNION SELECT digest FROM invitations --",
        "$1",
        "?1",
        "%",
        "_",
        "bob\0' OR 1",
    ];
    let texts = |text: &str| NewEvent {
        address: Some(text.to_owned()),
        ..event(1, text, Some(text), Some(text))
    };
    for text in shaped {
        store.append_events(&[texts(text)]).await.unwrap();
    }
    for text in shaped {
        let by_user = EventFilter {
            user: Some(text.to_owned()),
            ..all()
        };
        let by_kind = EventFilter {
            kind: Some(text.to_owned()),
            ..all()
        };
        for filter in [by_user, by_kind] {
            let found = place.store().await.events(&filter).await.unwrap();
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].event, texts(text));
        }
        // As a name it never reaches the database.
        assert!(text.parse::<underpass_store::Who>().is_err(), "{text}");
        assert!(
            text.parse::<underpass_store::ServiceRef>().is_err(),
            "{text}"
        );
    }
    assert_eq!(store.users().await.unwrap(), [root.user]);
    assert_eq!(store.events(&all()).await.unwrap().len(), shaped.len());
}
