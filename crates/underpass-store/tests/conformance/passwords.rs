//! Passwords, registrations, and who decides about them.

use std::sync::Arc;

use underpass_store::{
    DecideError, EnrolError, Enrolled, InviteError, PasswordFile, PasswordSecret, RedeemError,
    RegisterError, Role, Store, TokenError, User, UserChangeError, UserId, UserState,
};

use super::{DAY, Place, START, administrator, code, enrolled, invitation, machine, name, race};

const MOST: u64 = 100;

fn file(tag: u8) -> PasswordFile {
    PasswordFile([tag; 192])
}

/// A user who waits, with machine `m-NUMBER` and a password of that number.
async fn waiting(store: &dyn Store, user: &str, number: u32) -> Enrolled {
    let machine = machine(&format!("m-{number}"), number);
    let file = file(u8::try_from(number).unwrap());
    let registered = store
        .register(&name(user), &file, &machine, MOST, START)
        .await;
    registered.unwrap()
}

pub(crate) async fn the_secret_of_passwords_is_made_once(place: &mut impl Place) {
    let secrets = race(place, 8, |store, number| async move {
        let fresh = PasswordSecret([u8::try_from(number).unwrap(); 128]);
        store.password_secret(&fresh).await.unwrap()
    })
    .await;
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    let again = place.store().await;
    let kept = again.password_secret(&PasswordSecret([99; 128])).await;
    assert_eq!(kept.unwrap(), secrets[0]);
}

pub(crate) async fn who_registers_waits_and_is_approved(place: &mut impl Place) {
    let store = place.store().await;
    administrator(&*store).await;
    let bob = waiting(&*store, "bob", 1).await;
    assert_eq!(
        (bob.user.role, bob.user.state),
        (Role::User, UserState::Waiting)
    );
    assert!(!bob.is_admitted());
    let store = place.store().await;
    let known = store
        .machine_by_key(&bob.machine.key)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known, bob);
    let kept = store.password(&name("bob")).await.unwrap().unwrap();
    assert_eq!((kept.user, kept.file), (bob.user.id, file(1)));
    assert_eq!(store.password(&name("bo")).await.unwrap(), None);
    assert_eq!(store.password(&name("root")).await.unwrap(), None);

    // The same machine again, whose answer was lost or who thought of another password.
    let again = machine("m-1", 1);
    let again = store
        .register(&name("bob"), &file(9), &again, MOST, START)
        .await;
    assert_eq!(again.unwrap(), bob);
    let kept = store.password(&name("bob")).await.unwrap().unwrap();
    assert_eq!(kept.file, file(9));

    let approved = store.approve(bob.user.id).await.unwrap();
    assert_eq!(approved.state, UserState::Active);
    let known = place.store().await.machine_by_key(&bob.machine.key).await;
    assert!(known.unwrap().unwrap().is_admitted());
    let kept = store.password(&name("bob")).await.unwrap().unwrap();
    assert_eq!(kept.file, file(9));
}

pub(crate) async fn who_is_denied_is_forgotten(place: &mut impl Place) {
    let store = place.store().await;
    administrator(&*store).await;
    let bob = waiting(&*store, "bob", 1).await;
    let revision = store.rights_revision().await.unwrap();
    store.deny(bob.user.id).await.unwrap();
    let store = place.store().await;
    assert!(store.rights_revision().await.unwrap() > revision);
    assert_eq!(store.user_by_name(&name("bob")).await.unwrap(), None);
    assert_eq!(store.machine_by_key(&bob.machine.key).await.unwrap(), None);
    assert_eq!(store.password(&name("bob")).await.unwrap(), None);
    // Name and key are free again, for somebody else.
    let other = waiting(&*store, "bob", 1).await;
    assert_ne!(other.user.id, bob.user.id);
    let late = store
        .enrol_machine(bob.user.id, &machine("m-2", 2), START)
        .await;
    assert!(matches!(late, Err(EnrolError::NoSuchUser)), "{late:?}");
}

pub(crate) async fn registrations_are_refused_for_their_own_reasons(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    waiting(&*store, "bob", 1).await;
    let register = async |user: &str, number: u32, most: u64| {
        let machine = machine("m", number);
        store
            .register(&name(user), &file(5), &machine, most, START)
            .await
    };
    for taken in ["root", "bob"] {
        let refused = register(taken, 2, MOST).await;
        assert!(
            matches!(refused, Err(RegisterError::NameTaken)),
            "{refused:?}"
        );
    }
    // Nobody takes over an enrolled machine, nor one that waits under another name.
    for key in [0, 1] {
        let refused = register("eve", key, MOST).await;
        assert!(
            matches!(refused, Err(RegisterError::KeyKnown)),
            "{refused:?}"
        );
    }
    let refused = register("eve", 3, 1).await;
    assert!(
        matches!(refused, Err(RegisterError::TooManyWait)),
        "{refused:?}"
    );
    assert_eq!(store.users().await.unwrap().len(), 2);
    let root = store.user(root.user.id).await.unwrap().unwrap();
    assert_eq!(root.state, UserState::Active);
}

pub(crate) async fn who_waits_is_changed_by_a_decision_alone(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = waiting(&*store, "bob", 1).await.user.id;
    let waits =
        |result: Result<User, UserChangeError>| matches!(result, Err(UserChangeError::Waits));
    assert!(waits(store.set_user_role(bob, Role::Administrator).await));
    assert!(waits(store.set_user_state(bob, UserState::Active).await));
    assert!(waits(store.set_user_state(bob, UserState::Disabled).await));
    let invited = store.invite(&invitation(7, "bob", &root)).await;
    assert!(
        matches!(invited, Err(InviteError::UserWaits)),
        "{invited:?}"
    );
    let token = store.make_token(bob, &machine("t", 8), None, START).await;
    assert!(matches!(token, Err(TokenError::UserDisabled)), "{token:?}");
    let enrolled = store.enrol_machine(bob, &machine("m-2", 2), START).await;
    assert!(
        matches!(enrolled, Err(EnrolError::UserWaits)),
        "{enrolled:?}"
    );
    // Invited before somebody registered under the name.
    store.invite(&invitation(8, "carol", &root)).await.unwrap();
    waiting(&*store, "carol", 3).await;
    let redeemed = store
        .redeem_invitation(code(8), &machine("m-4", 4), START)
        .await;
    assert!(
        matches!(redeemed, Err(RedeemError::UserWaits)),
        "{redeemed:?}"
    );
    assert_eq!(
        store.user(bob).await.unwrap().unwrap().state,
        UserState::Waiting
    );
}

pub(crate) async fn only_who_waits_is_decided_about(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await.user.id;
    let decided = |result: Result<User, DecideError>| matches!(result, Err(DecideError::Decided));
    assert!(decided(store.deny(root.user.id).await));
    assert!(decided(store.approve(bob).await));
    store
        .set_user_state(bob, UserState::Disabled)
        .await
        .unwrap();
    assert!(
        decided(store.approve(bob).await),
        "a disabled user comes back by being enabled"
    );
    assert!(decided(store.deny(bob).await));
    let nobody = store.approve(UserId(99)).await;
    assert!(matches!(nobody, Err(DecideError::NoSuchUser)), "{nobody:?}");
    assert_eq!(store.users().await.unwrap().len(), 2);
}

pub(crate) async fn of_approve_and_deny_at_once_one_happens(place: &mut impl Place) {
    let store = place.store().await;
    administrator(&*store).await;
    for round in 1..9 {
        let bob = waiting(&*store, "bob", round).await;
        let id = bob.user.id;
        let results = race(place, 8, move |store, number| async move {
            match number % 2 {
                0 => store.approve(id).await,
                _ => store.deny(id).await,
            }
        })
        .await;
        let done: Vec<usize> = (0..8).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(done.len(), 1, "{results:?}");
        let approved = done[0].is_multiple_of(2);
        for (number, result) in results.iter().enumerate().filter(|(n, _)| *n != done[0]) {
            let stated = match result {
                Err(DecideError::Decided) => approved,
                Err(DecideError::NoSuchUser) => !approved,
                _ => false,
            };
            assert!(
                stated,
                "{number}: {result:?} although approved is {approved}"
            );
        }
        let now = store.user_by_name(&name("bob")).await.unwrap();
        assert_eq!(
            now.map(|user| user.state),
            approved.then_some(UserState::Active)
        );
        if approved {
            // Out of the way of the next round.
            return;
        }
    }
}

pub(crate) async fn machines_come_in_under_an_active_user(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    store
        .set_password(bob.user.id, &file(1), START)
        .await
        .unwrap();
    store
        .set_password(bob.user.id, &file(2), START)
        .await
        .unwrap();
    let kept = place
        .store()
        .await
        .password(&name("bob"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.file, file(2));
    let nobody = store.set_password(UserId(99), &file(1), START).await;
    assert!(
        matches!(nobody, Err(UserChangeError::NoSuchUser)),
        "{nobody:?}"
    );

    let id = bob.user.id;
    let second = store
        .enrol_machine(id, &machine("second", 2), START)
        .await
        .unwrap();
    assert_eq!(second.user, bob.user);
    let again = store.enrol_machine(id, &machine("second", 2), START).await;
    assert_eq!(again.unwrap(), second, "a lost answer locks nobody out");
    let taken = store.enrol_machine(id, &machine("second", 3), START).await;
    assert!(
        matches!(taken, Err(EnrolError::MachineNameTaken)),
        "{taken:?}"
    );
    let others = store
        .enrol_machine(root.user.id, &machine("third", 2), START)
        .await;
    assert!(matches!(others, Err(EnrolError::KeyKnown)), "{others:?}");
    store.revoke_machine(second.machine.id).await.unwrap();
    let revoked = store.enrol_machine(id, &machine("second", 2), START).await;
    assert!(matches!(revoked, Err(EnrolError::KeyKnown)), "{revoked:?}");
    store.set_user_state(id, UserState::Disabled).await.unwrap();
    let later = START.saturating_add(DAY);
    let disabled = store.enrol_machine(id, &machine("fourth", 4), later).await;
    assert!(
        matches!(disabled, Err(EnrolError::UserDisabled)),
        "{disabled:?}"
    );
}

pub(crate) async fn fifty_changes_of_roles_at_once_leave_what_one_of_them_said(
    place: &mut impl Place,
) {
    const ROLES: [Role; 3] = [Role::User, Role::Manager, Role::Administrator];
    let store = place.store().await;
    let root = administrator(&*store).await;
    let mut ids = vec![root.user.id];
    for number in 1..5 {
        ids.push(
            enrolled(&*store, &root, &format!("u-{number}"), number)
                .await
                .user
                .id,
        );
    }
    let ids = Arc::new(ids);
    let tried = Arc::clone(&ids);
    let results = race(place, 50, move |store, number| {
        let (id, role) = (tried[number as usize % 5], ROLES[number as usize / 5 % 3]);
        async move { (id, role, store.set_user_role(id, role).await) }
    })
    .await;
    for (id, role, result) in &results {
        match result {
            Ok(user) => assert_eq!((user.id, user.role), (*id, *role)),
            Err(UserChangeError::LastAdministrator) => assert_ne!(*role, Role::Administrator),
            Err(other) => panic!("{other:?}"),
        }
    }
    let users = place.store().await.users().await.unwrap();
    for user in &users {
        let carried_out = |role: Role| {
            results
                .iter()
                .any(|(id, said, result)| *id == user.id && *said == role && result.is_ok())
        };
        assert!(carried_out(user.role), "{user:?}");
    }
    assert!(users.iter().any(|user| user.role == Role::Administrator));
}
