//! Machines and their keys.

use std::time::Duration;

use underpass_store::{
    MachineId, MachineKind, MachineState, PublishError, RedeemError, RevokeError, TokenError,
    UserId, UserState,
};

use super::{
    DAY, Place, START, administrator, code, enrolled, invitation, key, machine, name, new_service,
};

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
    let root = administrator(&*store).await;
    let id = root.machine.id;
    let other = enrolled(&*store, &root, "alice", 1).await.machine.id;
    let later = START.saturating_add(Duration::from_millis(1));
    for (seen, expected) in [(START, START), (later, later), (START, later)] {
        // One that nobody knows is no hindrance.
        let all = [(id, seen), (MachineId(99), later), (other, START)];
        store.note_machines_seen(&all).await.unwrap();
        for (id, expected) in [(id, expected), (other, START)] {
            let machine = place.store().await.machine(id).await.unwrap().unwrap();
            assert_eq!(machine.last_seen, Some(expected));
        }
    }
    store.note_machines_seen(&[]).await.unwrap();
}

pub(crate) async fn a_token_is_a_machine_that_publishes_nothing(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    assert_eq!(root.machine.kind, MachineKind::Agent);
    let end = START.saturating_add(DAY);
    let token = machine("meter", 5);
    let made = store
        .make_token(root.user.id, &token, Some(end), START)
        .await
        .unwrap();
    assert_eq!(
        (made.machine.kind, made.machine.expires),
        (MachineKind::Token, Some(end))
    );
    // The answer may have been lost.
    let again = store
        .make_token(root.user.id, &token, Some(end), START)
        .await
        .unwrap();
    assert_eq!(again, made);

    let store = place.store().await;
    let found = store.machine_by_key(&key(5)).await.unwrap().unwrap();
    assert_eq!(found, made);
    assert!(found.is_admitted_at(START));
    assert!(!found.is_admitted_at(end));
    assert!(root.is_admitted_at(end), "an agent's key does not expire");
    let publishing = store.publish_service(&new_service(&made, "db", 1)).await;
    assert!(
        matches!(publishing, Err(PublishError::MachineNotAdmitted)),
        "{publishing:?}"
    );
    let listed = store.machines(Some(root.user.id)).await.unwrap();
    assert_eq!(listed, [root.machine, made.machine.clone()]);

    store.revoke_machine(made.machine.id).await.unwrap();
    let found = store.machine_by_key(&key(5)).await.unwrap().unwrap();
    assert!(!found.is_admitted_at(START));
}

pub(crate) async fn tokens_are_refused_for_their_own_reasons(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    let make = async |user, name, number| {
        store
            .make_token(user, &machine(name, number), None, START)
            .await
    };
    let unknown = make(UserId(99), "meter", 5).await;
    assert!(
        matches!(unknown, Err(TokenError::NoSuchUser)),
        "{unknown:?}"
    );
    let taken = make(bob.user.id, "m-1", 5).await;
    assert!(matches!(taken, Err(TokenError::NameTaken)), "{taken:?}");
    let of_a_machine = make(bob.user.id, "meter", 1).await;
    assert!(
        matches!(of_a_machine, Err(TokenError::KeyKnown)),
        "{of_a_machine:?}"
    );
    let made = make(bob.user.id, "meter", 5).await.unwrap();
    assert_eq!(made.machine.expires, None);
    let of_another = make(root.user.id, "meter", 5).await;
    assert!(
        matches!(of_another, Err(TokenError::KeyKnown)),
        "{of_another:?}"
    );
    store.revoke_machine(made.machine.id).await.unwrap();
    let revoked = make(bob.user.id, "meter", 5).await;
    assert!(matches!(revoked, Err(TokenError::KeyKnown)), "{revoked:?}");
    store
        .set_user_state(bob.user.id, UserState::Disabled)
        .await
        .unwrap();
    let disabled = make(bob.user.id, "meter", 6).await;
    assert!(
        matches!(disabled, Err(TokenError::UserDisabled)),
        "{disabled:?}"
    );
}
