//! Usage, exceptions from limits, and sessions that were ended for good.

use std::time::Duration;

use underpass_proto::limit::LimitKind;
use underpass_proto::packet::SessionId;
use underpass_store::{
    Day, EndedSession, LimitException, NewUsage, UsageFilter, UsageKey, Used, UserChangeError,
    UserId,
};

use super::{DAY, Place, START, administrator, enrolled, race};

fn used(sessions: u64, sent: u64, received: u64) -> Used {
    Used {
        sessions,
        sent,
        received,
    }
}

fn of(day: i64, user: UserId, service: &str, used: Used) -> NewUsage {
    NewUsage {
        day: Day(day),
        user,
        service: service.to_owned(),
        used,
    }
}

pub(crate) async fn usage_adds_up_whoever_writes_it(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let (root, alice) = (root.user.id, alice.user.id);
    store.add_usage(&[]).await.unwrap();
    race(place, 20, move |store, number| async move {
        let day = 10 + i64::from(number % 2);
        let entries = [
            of(day, alice, "db.bob", used(1, 10, 100)),
            of(day, root, "web.relay", used(0, 1, 2)),
        ];
        store.add_usage(&entries).await.unwrap();
    })
    .await;
    let store = place.store().await;
    let ask = async |since: Option<i64>, user, by| {
        let since = since.map(Day);
        let filter = UsageFilter { since, user, by };
        store.usage(filter).await.unwrap()
    };
    let named = |name: &str, used| (name.to_owned(), used);
    assert_eq!(
        ask(None, None, UsageKey::User).await,
        [
            named("alice", used(20, 200, 2000)),
            named("root", used(0, 20, 40))
        ]
    );
    assert_eq!(
        ask(None, Some(alice), UsageKey::Day).await,
        [
            named("1970-01-11", used(10, 100, 1000)),
            named("1970-01-12", used(10, 100, 1000))
        ]
    );
    assert_eq!(
        ask(Some(11), None, UsageKey::Service).await,
        [
            named("db.bob", used(10, 100, 1000)),
            named("web.relay", used(0, 10, 20))
        ]
    );
    assert_eq!(
        store.used_since(Day(11)).await.unwrap(),
        [(root, 30), (alice, 1100)]
    );
    assert_eq!(store.used_since(Day(12)).await.unwrap(), []);
    assert_eq!(store.prune_usage(Day(11)).await.unwrap(), 2);
    assert_eq!(
        ask(None, Some(alice), UsageKey::User).await,
        [named("alice", used(10, 100, 1000))]
    );
}

pub(crate) async fn exceptions_from_limits_are_kept(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let user = root.user.id;
    let before = store.rights_revision().await.unwrap();
    for value in [Some(7), None, Some(u64::MAX)] {
        let kind = LimitKind::Sessions;
        store.set_limit(user, kind, Some(value)).await.unwrap();
        let store = place.store().await;
        let [found] = store.limit_exceptions().await.unwrap()[..] else {
            panic!("one exception");
        };
        // Larger numbers than SQLite has are as good as the largest.
        let value = value.map(|value| value.min(i64::MAX as u64));
        assert_eq!(found, LimitException { user, kind, value });
    }
    let set = store.set_limit(user, LimitKind::Channels, Some(Some(0)));
    set.await.unwrap();
    assert_eq!(store.limit_exceptions().await.unwrap().len(), 2);
    for kind in LimitKind::ALL {
        store.set_limit(user, kind, None).await.unwrap();
    }
    assert_eq!(store.limit_exceptions().await.unwrap(), []);
    // Other relays see each of these.
    let changes = store.rights_revision().await.unwrap() - before;
    assert_eq!(changes, 6);
    let nobody = store
        .set_limit(UserId(99), LimitKind::Channels, Some(None))
        .await;
    assert!(
        matches!(nobody, Err(UserChangeError::NoSuchUser)),
        "{nobody:?}"
    );
}

pub(crate) async fn ended_sessions_are_known_until_their_time_is_over(place: &mut impl Place) {
    let store = place.store().await;
    let ended = |n: u8| EndedSession {
        session: SessionId([n; 16]),
        reason: format!("reason {n}"),
    };
    let before = store.rights_revision().await.unwrap();
    let later = |n: u32| START.saturating_add(DAY * n);
    for n in 1..=3 {
        let until = later(u32::from(n));
        store.end_session(&ended(n), until, START).await.unwrap();
        // Of two who end it, the first has said why.
        let mut again = ended(n);
        again.reason.clear();
        store.end_session(&again, until, START).await.unwrap();
    }
    assert!(store.rights_revision().await.unwrap() >= before + 3);
    let store = place.store().await;
    let known = |at| store.ended_sessions(at);
    assert_eq!(known(START).await.unwrap(), [1, 2, 3].map(ended));
    assert_eq!(known(later(1)).await.unwrap(), [2, 3].map(ended));
    let soon = later(2).saturating_add(Duration::from_secs(1));
    store.end_session(&ended(4), later(9), soon).await.unwrap();
    assert_eq!(known(START).await.unwrap(), [3, 4].map(ended), "forgotten");
}
