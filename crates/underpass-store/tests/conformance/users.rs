//! Users, their roles and states.

use std::sync::Arc;

use underpass_store::{Role, UserChangeError, UserId, UserState};

use super::{Place, START, administrator, enrolled, name, race};

pub(crate) async fn a_fresh_store_is_empty(place: &mut impl Place) {
    let store = place.store().await;
    assert!(!store.has_administrator().await.unwrap());
    assert!(store.users().await.unwrap().is_empty());
    assert!(store.machines(None).await.unwrap().is_empty());
    assert!(store.services(None).await.unwrap().is_empty());
    assert!(store.invitations().await.unwrap().is_empty());
    assert_eq!(store.user(UserId(1)).await.unwrap(), None);
    assert!(
        !store
            .services_for(underpass_store::Caller {
                user: UserId(1),
                machine: underpass_store::MachineId(1)
            })
            .await
            .unwrap()
            .iter()
            .any(|_| true)
    );
}

pub(crate) async fn users_are_found_and_listed(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let zoe = enrolled(&*store, &root, "zoe", 1).await;
    let bob = enrolled(&*store, &root, "bob", 2).await;

    let store = place.store().await;
    let users = store.users().await.unwrap();
    assert_eq!(users, [bob.user.clone(), root.user, zoe.user]);
    assert_eq!(bob.user.created, START);
    assert_eq!(
        store.user(bob.user.id).await.unwrap(),
        Some(bob.user.clone())
    );
    let found = store.user_by_name(&name("bob")).await.unwrap();
    assert_eq!(found, Some(bob.user));
    assert_eq!(store.user_by_name(&name("bo")).await.unwrap(), None);
}

pub(crate) async fn roles_and_states_are_kept(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await.user;
    assert_eq!((bob.role, bob.state), (Role::User, UserState::Active));

    let changed = store.set_user_role(bob.id, Role::Manager).await.unwrap();
    assert_eq!(
        (changed.role, changed.state),
        (Role::Manager, UserState::Active)
    );
    let changed = store
        .set_user_state(bob.id, UserState::Disabled)
        .await
        .unwrap();
    assert_eq!(
        (changed.role, changed.state),
        (Role::Manager, UserState::Disabled)
    );
    let store = place.store().await;
    assert_eq!(store.user(bob.id).await.unwrap(), Some(changed));
    let changed = store
        .set_user_state(bob.id, UserState::Active)
        .await
        .unwrap();
    assert_eq!(
        (changed.role, changed.state),
        (Role::Manager, UserState::Active)
    );

    let nobody = store.set_user_role(UserId(99), Role::User).await;
    assert!(
        matches!(nobody, Err(UserChangeError::NoSuchUser)),
        "{nobody:?}"
    );
}

pub(crate) async fn the_last_administrator_stays(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await.user;
    let demoted = store.set_user_role(root.user.id, Role::Manager).await;
    assert!(
        matches!(demoted, Err(UserChangeError::LastAdministrator)),
        "{demoted:?}"
    );
    let disabled = store
        .set_user_state(root.user.id, UserState::Disabled)
        .await;
    assert!(
        matches!(disabled, Err(UserChangeError::LastAdministrator)),
        "{disabled:?}"
    );
    assert_eq!(
        store.user(root.user.id).await.unwrap(),
        Some(root.user.clone())
    );

    // A disabled second administrator does not count.
    store
        .set_user_role(bob.id, Role::Administrator)
        .await
        .unwrap();
    store
        .set_user_state(bob.id, UserState::Disabled)
        .await
        .unwrap();
    let demoted = store.set_user_role(root.user.id, Role::User).await;
    assert!(
        matches!(demoted, Err(UserChangeError::LastAdministrator)),
        "{demoted:?}"
    );
    store
        .set_user_state(bob.id, UserState::Active)
        .await
        .unwrap();
    store.set_user_role(root.user.id, Role::User).await.unwrap();
    assert!(place.store().await.has_administrator().await.unwrap());
}

pub(crate) async fn administrators_that_leave_at_once_leave_one(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let mut ids = vec![root.user.id];
    for number in 1..8 {
        let user = enrolled(&*store, &root, &format!("admin-{number}"), number)
            .await
            .user;
        store
            .set_user_role(user.id, Role::Administrator)
            .await
            .unwrap();
        ids.push(user.id);
    }
    let ids = Arc::new(ids);
    let left = race(place, 8, |store, number| {
        let id = ids[number as usize];
        async move { store.set_user_role(id, Role::User).await }
    })
    .await;
    let refused =
        |result: &&Result<_, _>| matches!(result, Err(UserChangeError::LastAdministrator));
    assert_eq!(
        left.iter().filter(|result| result.is_ok()).count(),
        7,
        "{left:?}"
    );
    assert_eq!(left.iter().filter(refused).count(), 1, "{left:?}");
    assert!(place.store().await.has_administrator().await.unwrap());
}
