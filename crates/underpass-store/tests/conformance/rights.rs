//! The count of changes by which relays of a group learn of each other's.

use underpass_store::{Access, Role, UserState, Who};

use super::{Place, START, administrator, enrolled, published};

pub(crate) async fn every_change_of_rights_is_counted(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let service = published(&*store, &alice, "db", 1).await;
    let other = place.another().await;
    let mut last = store.rights_revision().await.unwrap();

    // What gives and takes nothing.
    store
        .note_machines_seen(&[(alice.machine.id, START)])
        .await
        .unwrap();
    store.users().await.unwrap();
    assert_eq!(other.rights_revision().await.unwrap(), last);

    let mut grown = async |what: &str| {
        let now = other.rights_revision().await.unwrap();
        assert!(now > last, "{what}");
        assert_eq!(
            place.store().await.rights_revision().await.unwrap(),
            now,
            "{what}"
        );
        last = now;
    };
    let user = alice.user.id;
    store.set_user_role(user, Role::Manager).await.unwrap();
    grown("a role").await;
    store
        .set_user_state(user, UserState::Disabled)
        .await
        .unwrap();
    grown("a user disabled").await;
    let all = Who::Everyone;
    store
        .set_access(service.id, &all, Access::Allow, START)
        .await
        .unwrap();
    grown("an entry").await;
    store
        .set_access(service.id, &all, Access::Deny, START)
        .await
        .unwrap();
    grown("an entry changed").await;
    store.revoke_machine(alice.machine.id).await.unwrap();
    grown("a machine revoked").await;
    assert!(store.withdraw_service(service.id).await.unwrap());
    grown("a service withdrawn").await;
}
