//! Machines and their keys.

use std::time::Duration;

use underpass_store::{MachineId, MachineState, RedeemError, RevokeError, UserState};

use super::{Place, START, administrator, code, enrolled, invitation, key, machine, name};

pub(crate) async fn machines_are_found_and_listed(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let first = enrolled(&*store, &root, "bob", 2).await;
    let second = enrolled(&*store, &root, "bob", 1).await;
    assert_eq!(first.user, second.user);

    let store = place.store().await;
    let found = store.machine_by_key(&key(2)).await.unwrap().unwrap();
    assert_eq!(found, first);
    assert!(found.is_admitted());
    assert_eq!(
        (found.machine.enrolled, found.machine.last_seen),
        (START, None)
    );
    assert_eq!(store.machine_by_key(&key(3)).await.unwrap(), None);
    assert_eq!(
        store.machine(second.machine.id).await.unwrap(),
        Some(second.machine.clone())
    );
    assert_eq!(store.machine(MachineId(99)).await.unwrap(), None);
    let of_bob = store.machines(Some(first.user.id)).await.unwrap();
    assert_eq!(of_bob, [second.machine, first.machine.clone()]);
    assert_eq!(store.machines(None).await.unwrap().len(), 3);

    store
        .set_user_state(first.user.id, UserState::Disabled)
        .await
        .unwrap();
    let found = store.machine_by_key(&key(2)).await.unwrap().unwrap();
    assert_eq!(found.machine, first.machine);
    assert!(!found.is_admitted());
}

pub(crate) async fn a_revoked_key_never_comes_back(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let old = enrolled(&*store, &root, "bob", 1).await;
    let revoked = store.revoke_machine(old.machine.id).await.unwrap();
    assert_eq!(revoked.state, MachineState::Revoked);
    // Asked again, the answer is the same.
    assert_eq!(store.revoke_machine(old.machine.id).await.unwrap(), revoked);
    let nobody = store.revoke_machine(MachineId(99)).await;
    assert!(
        matches!(nobody, Err(RevokeError::NoSuchMachine)),
        "{nobody:?}"
    );

    let store = place.store().await;
    let found = store.machine_by_key(&key(1)).await.unwrap().unwrap();
    assert!(!found.is_admitted());
    store.invite(&invitation(2, "bob", &root)).await.unwrap();
    let again = store
        .redeem_invitation(code(2), &machine("m-9", 1), START)
        .await;
    assert!(matches!(again, Err(RedeemError::KeyKnown)), "{again:?}");
    // Its name is free, though, for the machine that takes its place.
    let new = store
        .redeem_invitation(code(2), &machine("m-1", 2), START)
        .await
        .unwrap();
    assert_eq!(new.machine.name, name("m-1"));
    assert_ne!(new.machine.id, old.machine.id);
    assert_eq!(store.machines(Some(old.user.id)).await.unwrap().len(), 2);
}

pub(crate) async fn last_seen_only_moves_forward(place: &mut impl Place) {
    let store = place.store().await;
    let id = administrator(&*store).await.machine.id;
    let later = START.saturating_add(Duration::from_millis(1));
    for (seen, expected) in [(START, START), (later, later), (START, later)] {
        store.note_machine_seen(id, seen).await.unwrap();
        let machine = place.store().await.machine(id).await.unwrap().unwrap();
        assert_eq!(machine.last_seen, Some(expected));
    }
    store.note_machine_seen(MachineId(99), later).await.unwrap();
}
