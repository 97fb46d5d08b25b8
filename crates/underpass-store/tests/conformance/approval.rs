//! Services that wait for a manager's approval.

use underpass_store::{
    Enrolled, PublishError, Publishing, ResolveError, Role, Service, ServiceDecisionError,
    ServiceId, ServiceState, Store, UserChangeError, UserId, Who,
};

use super::{Place, START, administrator, enrolled, name, new_service, race};

/// Publishes at a relay that wants approval.
async fn publish(
    store: &dyn Store,
    who: &Enrolled,
    service: &str,
    number: u32,
) -> Result<Service, PublishError> {
    let mut new = new_service(who, service, number);
    new.approval = true;
    let published = store.publish_service(&new).await?;
    Ok(published.service().clone())
}

pub(crate) async fn who_needs_approval_waits(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let first = publish(&*store, &alice, "a", 1).await.unwrap();
    assert_eq!(first.state, ServiceState::Waiting);
    // Who approves needs no approval.
    let own = publish(&*store, &root, "a", 2).await.unwrap();
    assert_eq!(own.state, ServiceState::Active);

    let set = |publishing| store.set_publishing(alice.user.id, publishing);
    assert_eq!(store.publishing_exceptions().await.unwrap(), []);
    set(Publishing::Free).await.unwrap();
    let store = place.store().await;
    assert_eq!(
        store.publishing_exceptions().await.unwrap(),
        [(alice.user.id, Publishing::Free)]
    );
    let free = publish(&*store, &alice, "b", 3).await.unwrap();
    assert_eq!(free.state, ServiceState::Active);
    // What waits is free with the next word of its publisher.
    let again = publish(&*store, &alice, "a", 1).await.unwrap();
    assert_eq!((again.id, again.state), (first.id, ServiceState::Active));

    // Also where the relay is set to want none, and for those who approve.
    for (who, number) in [(&alice, 4), (&root, 5)] {
        let set = store.set_publishing(who.user.id, Publishing::Approval);
        set.await.unwrap();
        let new = new_service(who, "c", number);
        let published = store.publish_service(&new).await.unwrap();
        assert_eq!(published.service().state, ServiceState::Waiting);
    }
    // What was approved stays so.
    let again = publish(&*store, &alice, "b", 3).await.unwrap();
    assert_eq!(again.state, ServiceState::Active);
    let nobody = store.set_publishing(UserId(99), Publishing::Free).await;
    assert!(
        matches!(nobody, Err(UserChangeError::NoSuchUser)),
        "{nobody:?}"
    );
}

pub(crate) async fn what_nobody_has_approved_nobody_uses(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let bob = enrolled(&*store, &root, "bob", 2).await;
    let service = publish(&*store, &alice, "db", 1).await.unwrap();
    let everyone = Who::Everyone;
    let access = underpass_store::Access::Allow;
    let set = store.set_access(service.id, &everyone, access, START);
    set.await.unwrap();
    let reference = "db.alice".parse().unwrap();
    for state in [
        ServiceState::Waiting,
        ServiceState::Active,
        ServiceState::Refused,
    ] {
        let store = place.store().await;
        if state != ServiceState::Waiting {
            let before = store.rights_revision().await.unwrap();
            let approve = state == ServiceState::Active;
            let decided = store.decide_service(service.id, approve).await.unwrap();
            assert_eq!(decided.state, state);
            assert!(store.rights_revision().await.unwrap() > before);
        }
        let found = store.service(service.id).await.unwrap().unwrap();
        assert_eq!(found.state, state);
        let usable = state == ServiceState::Active;
        for caller in [alice.caller(), bob.caller()] {
            let may = store.may_use(caller, service.id).await.unwrap();
            assert_eq!(may, usable, "{state}");
            let seen = store.services_for(caller).await.unwrap();
            assert_eq!(!seen.is_empty(), usable, "{state}");
        }
        // Its owner is told why, and others only that they may not.
        let own = store.resolve_service(alice.caller(), &reference).await;
        let others = store.resolve_service(bob.caller(), &reference).await;
        match usable {
            true => assert_eq!(
                (own.unwrap().id, others.unwrap().id),
                (service.id, service.id)
            ),
            false => {
                assert!(
                    matches!(own, Err(ResolveError::NotApproved(found)) if found == state),
                    "{own:?}"
                );
                assert!(matches!(others, Err(ResolveError::Denied)), "{others:?}");
            }
        }
    }
    let again = publish(&*store, &alice, "db", 1).await;
    assert!(matches!(again, Err(PublishError::Refused)), "{again:?}");
    for approve in [true, false] {
        let decided = store.decide_service(service.id, approve).await;
        assert!(
            matches!(
                decided,
                Err(ServiceDecisionError::Decided(ServiceState::Refused))
            ),
            "{decided:?}"
        );
    }
    let none = store.decide_service(ServiceId(99), true).await;
    assert!(
        matches!(none, Err(ServiceDecisionError::NoSuchService)),
        "{none:?}"
    );
    // Its owner may forget it and ask anew.
    assert!(store.withdraw_service(service.id).await.unwrap());
    let anew = publish(&*store, &alice, "db", 1).await.unwrap();
    assert_eq!(anew.state, ServiceState::Waiting);
}

pub(crate) async fn of_approving_and_refusing_at_once_refusing_holds(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    for round in 0..10 {
        let service = publish(&*store, &alice, &format!("s-{round}"), round).await;
        let id = service.unwrap().id;
        let outcomes = race(place, 8, move |store, number| async move {
            let approve = number % 4 < 2;
            (approve, store.decide_service(id, approve).await.is_ok())
        })
        .await;
        let done = |approve| {
            let of = outcomes.iter().filter(|it| **it == (approve, true));
            of.count()
        };
        assert_eq!(done(false), 1, "one has refused it: {outcomes:?}");
        assert!(done(true) <= 1, "{outcomes:?}");
        let found = store.service(id).await.unwrap().unwrap();
        assert_eq!(found.state, ServiceState::Refused);
    }
}

/// A name is its owner's: both have it, each their own one, and whoever else may use both names the owner too.
pub(crate) async fn one_name_by_two_users_is_two_services(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let bob = enrolled(&*store, &root, "bob", 2).await;
    let both = [alice.clone(), bob.clone()];
    let services = race(place, 2, move |store, number| {
        let who = both[number as usize].clone();
        async move {
            let new = new_service(&who, "db", number);
            let published = store.publish_service(&new).await.unwrap();
            published.service().clone()
        }
    })
    .await;
    for service in &services {
        let everyone = Who::Everyone;
        let access = underpass_store::Access::Allow;
        let set = store.set_access(service.id, &everyone, access, START);
        set.await.unwrap();
    }
    let reference = "db".parse().unwrap();
    for (who, service) in [&alice, &bob].into_iter().zip(&services) {
        let found = store.resolve_service(who.caller(), &reference).await;
        assert_eq!(found.unwrap().id, service.id, "one's own comes first");
    }
    match store.resolve_service(root.caller(), &reference).await {
        Err(ResolveError::Ambiguous { owners }) => {
            assert_eq!(owners, [name("alice"), name("bob")]);
        }
        other => panic!("there are two: {other:?}"),
    }
    assert_eq!(root.user.role, Role::Administrator);
}
