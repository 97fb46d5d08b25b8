//! One-time codes.

use std::time::Duration;

use underpass_store::{
    Enrolled, InviteError, MachineState, RedeemError, Role, SetupCodeError, UnixMillis, UserId,
    UserState,
};

use super::{
    DAY, Place, START, administrator, code, enrolled, invitation, key, machine, name, race,
};

pub(crate) async fn the_setup_code_makes_the_first_administrator(place: &mut impl Place) {
    let store = place.store().await;
    store.set_setup_code(code(0), START).await.unwrap();
    assert!(!store.has_administrator().await.unwrap());

    let store = place.store().await;
    let later = START.saturating_add(DAY);
    let made = store
        .redeem_setup_code(code(0), &name("root"), &machine("console", 0), later)
        .await
        .unwrap();
    assert_eq!(made.user.name, name("root"));
    assert_eq!(made.user.role, Role::Administrator);
    assert_eq!(made.machine.name, name("console"));
    assert_eq!((made.user.created, made.machine.enrolled), (later, later));
    assert!(made.is_admitted());

    let store = place.store().await;
    assert!(store.has_administrator().await.unwrap());
    assert_eq!(store.machine_by_key(&key(0)).await.unwrap(), Some(made));
    let another = store.set_setup_code(code(1), later).await;
    assert!(
        matches!(another, Err(SetupCodeError::AdministratorExists)),
        "{another:?}"
    );
    let unknown = store
        .redeem_setup_code(code(1), &name("eve"), &machine("m", 1), later)
        .await;
    assert!(
        matches!(unknown, Err(RedeemError::UnknownCode)),
        "{unknown:?}"
    );
}

pub(crate) async fn only_the_newest_setup_code_counts(place: &mut impl Place) {
    let store = place.store().await;
    let none = store
        .redeem_setup_code(code(0), &name("eve"), &machine("m", 0), START)
        .await;
    assert!(matches!(none, Err(RedeemError::UnknownCode)), "{none:?}");
    store.set_setup_code(code(1), START).await.unwrap();
    place
        .store()
        .await
        .set_setup_code(code(2), START)
        .await
        .unwrap();
    let store = place.store().await;
    let old = store
        .redeem_setup_code(code(1), &name("eve"), &machine("m", 1), START)
        .await;
    assert!(matches!(old, Err(RedeemError::UnknownCode)), "{old:?}");
    assert!(store.users().await.unwrap().is_empty());
    // A setup code is no invitation.
    let wrong = store
        .redeem_invitation(code(2), &machine("m", 1), START)
        .await;
    assert!(matches!(wrong, Err(RedeemError::UnknownCode)), "{wrong:?}");
    store
        .redeem_setup_code(code(2), &name("root"), &machine("m", 1), START)
        .await
        .unwrap();
}

pub(crate) async fn a_used_setup_code_answers_its_machine_alone(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let store = place.store().await;
    let again = store
        .redeem_setup_code(code(0), &name("root"), &machine("console", 0), START)
        .await
        .unwrap();
    assert_eq!(again, root);
    let other = store
        .redeem_setup_code(code(0), &name("eve"), &machine("console", 1), START)
        .await;
    assert!(matches!(other, Err(RedeemError::Used)), "{other:?}");
    assert_eq!(store.users().await.unwrap(), [root.user]);
}

pub(crate) async fn a_setup_code_is_won_once(place: &mut impl Place) {
    place
        .store()
        .await
        .set_setup_code(code(0), START)
        .await
        .unwrap();
    let results = race(place, 16, |store, number| async move {
        let (user, machine) = (name(&format!("user-{number}")), machine("m", number));
        store
            .redeem_setup_code(code(0), &user, &machine, START)
            .await
    })
    .await;
    assert_one_winner(&results);
    let store = place.store().await;
    assert_eq!(store.users().await.unwrap().len(), 1);
    assert_eq!(store.machines(None).await.unwrap().len(), 1);
}

pub(crate) async fn an_invitation_makes_a_user(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let made = store.invite(&invitation(1, "bob", &root)).await.unwrap();
    assert_eq!((made.user.as_str(), made.used_at), ("bob", None));
    assert_eq!(store.user_by_name(&name("bob")).await.unwrap(), None);

    let store = place.store().await;
    let later = START.saturating_add(Duration::from_secs(5));
    let bob = store
        .redeem_invitation(code(1), &machine("laptop", 1), later)
        .await
        .unwrap();
    assert_eq!((bob.user.role, bob.user.created), (Role::User, later));
    let store = place.store().await;
    assert_eq!(
        store.machine_by_key(&key(1)).await.unwrap(),
        Some(bob.clone())
    );
    assert_eq!(store.invitations().await.unwrap()[0].used_at, Some(later));

    let again = store
        .redeem_invitation(code(1), &machine("laptop", 1), later)
        .await;
    assert_eq!(again.unwrap(), bob);
    let other = store
        .redeem_invitation(code(1), &machine("other", 2), later)
        .await;
    assert!(matches!(other, Err(RedeemError::Used)), "{other:?}");
    // Not even to a machine that is enrolled already, by another code.
    let known = store
        .redeem_invitation(code(1), &machine("console", 0), later)
        .await;
    assert!(matches!(known, Err(RedeemError::Used)), "{known:?}");
}

pub(crate) async fn an_invitation_adds_a_machine(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let second = enrolled(&*store, &root, "root", 1).await;
    // The role stays what it was.
    assert_eq!(second.user, root.user);
    assert_ne!(second.machine.id, root.machine.id);
    assert_eq!(
        place
            .store()
            .await
            .machines(Some(root.user.id))
            .await
            .unwrap()
            .len(),
        2
    );
}

pub(crate) async fn codes_are_refused_for_their_own_reasons(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let unknown = store
        .redeem_invitation(code(1), &machine("m", 1), START)
        .await;
    assert!(
        matches!(unknown, Err(RedeemError::UnknownCode)),
        "{unknown:?}"
    );

    store.invite(&invitation(1, "bob", &root)).await.unwrap();
    let end = START.saturating_add(DAY);
    let late = store
        .redeem_invitation(code(1), &machine("m", 1), end)
        .await;
    assert!(matches!(late, Err(RedeemError::Expired)), "{late:?}");
    let last_moment = UnixMillis(end.0 - 1);
    store
        .redeem_invitation(code(1), &machine("m", 1), last_moment)
        .await
        .unwrap();
    // What a code was worth once does not change by waiting.
    let later = store
        .redeem_invitation(code(1), &machine("m", 2), end)
        .await;
    assert!(matches!(later, Err(RedeemError::Used)), "{later:?}");

    let twice = store.invite(&invitation(1, "carol", &root)).await;
    assert!(matches!(twice, Err(InviteError::CodeInUse)), "{twice:?}");
}

pub(crate) async fn a_refused_code_is_not_spent(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    store.invite(&invitation(1, "root", &root)).await.unwrap();
    let taken = store
        .redeem_invitation(code(1), &machine("console", 1), START)
        .await;
    assert!(
        matches!(taken, Err(RedeemError::MachineNameTaken)),
        "{taken:?}"
    );
    let known = store
        .redeem_invitation(code(1), &machine("laptop", 0), START)
        .await;
    assert!(matches!(known, Err(RedeemError::KeyKnown)), "{known:?}");
    assert_eq!(
        store.machines(None).await.unwrap(),
        std::slice::from_ref(&root.machine)
    );
    store
        .redeem_invitation(code(1), &machine("laptop", 1), START)
        .await
        .unwrap();

    // Nor does a refused redemption leave the user behind that it would have made.
    store.invite(&invitation(2, "bob", &root)).await.unwrap();
    let known = store
        .redeem_invitation(code(2), &machine("laptop", 0), START)
        .await;
    assert!(matches!(known, Err(RedeemError::KeyKnown)), "{known:?}");
    assert_eq!(
        place
            .store()
            .await
            .user_by_name(&name("bob"))
            .await
            .unwrap(),
        None
    );
}

pub(crate) async fn disabled_people_neither_invite_nor_enter(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    store.invite(&invitation(2, "carol", &bob)).await.unwrap();
    store.invite(&invitation(3, "bob", &root)).await.unwrap();
    store
        .set_user_state(bob.user.id, UserState::Disabled)
        .await
        .unwrap();

    let store = place.store().await;
    let by_bob = store
        .redeem_invitation(code(2), &machine("m", 2), START)
        .await;
    assert!(
        matches!(by_bob, Err(RedeemError::InviterDisabled)),
        "{by_bob:?}"
    );
    let for_bob = store
        .redeem_invitation(code(3), &machine("m", 3), START)
        .await;
    assert!(
        matches!(for_bob, Err(RedeemError::UserDisabled)),
        "{for_bob:?}"
    );
    let spent = store
        .redeem_invitation(code(1), &machine("m-1", 1), START)
        .await;
    assert!(matches!(spent, Err(RedeemError::Used)), "{spent:?}");

    let invites = store.invite(&invitation(4, "dave", &bob)).await;
    assert!(
        matches!(invites, Err(InviteError::InviterUnknown)),
        "{invites:?}"
    );
    let invited = store.invite(&invitation(4, "bob", &root)).await;
    assert!(
        matches!(invited, Err(InviteError::UserDisabled)),
        "{invited:?}"
    );
    let mut stranger = invitation(4, "dave", &root);
    stranger.made_by = UserId(99);
    let invites = store.invite(&stranger).await;
    assert!(
        matches!(invites, Err(InviteError::InviterUnknown)),
        "{invites:?}"
    );
}

pub(crate) async fn a_revoked_machine_gets_no_second_answer(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    let revoked = store.revoke_machine(bob.machine.id).await.unwrap();
    assert_eq!(revoked.state, MachineState::Revoked);
    let again = store
        .redeem_invitation(code(1), &machine("m-1", 1), START)
        .await;
    assert!(matches!(again, Err(RedeemError::Used)), "{again:?}");
}

pub(crate) async fn invitations_are_listed_cancelled_and_pruned(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    enrolled(&*store, &root, "bob", 1).await;
    let open = store.invite(&invitation(2, "carol", &root)).await.unwrap();
    let mut longer = invitation(3, "dave", &root);
    longer.expires_at = START.saturating_add(2 * DAY);
    let longer = store.invite(&longer).await.unwrap();

    let store = place.store().await;
    let listed = store.invitations().await.unwrap();
    assert_eq!(listed[..2], [longer.clone(), open.clone()]);
    assert_eq!((listed.len(), listed[2].used_at), (3, Some(START)));
    // A used one stays: its machine is enrolled, and may ask again.
    assert!(!store.cancel_invitation(listed[2].id).await.unwrap());
    assert!(store.cancel_invitation(open.id).await.unwrap());
    assert!(!store.cancel_invitation(open.id).await.unwrap());
    let cancelled = store
        .redeem_invitation(code(2), &machine("m", 2), START)
        .await;
    assert!(
        matches!(cancelled, Err(RedeemError::UnknownCode)),
        "{cancelled:?}"
    );

    let end = START.saturating_add(DAY);
    assert_eq!(store.prune_invitations(end).await.unwrap(), 0);
    let after = UnixMillis(end.0 + 1);
    assert_eq!(
        place.store().await.prune_invitations(after).await.unwrap(),
        1
    );
    assert_eq!(place.store().await.invitations().await.unwrap(), [longer]);
}

pub(crate) async fn an_invitation_is_won_once(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    store.invite(&invitation(100, "bob", &root)).await.unwrap();
    let results = race(place, 16, |store, number| async move {
        let machine = machine(&format!("m-{number}"), 1 + number);
        store.redeem_invitation(code(100), &machine, START).await
    })
    .await;
    assert_one_winner(&results);
    assert_eq!(place.store().await.machines(None).await.unwrap().len(), 2);
}

fn assert_one_winner(results: &[Result<Enrolled, RedeemError>]) {
    let won = results.iter().filter(|result| result.is_ok()).count();
    let used = |result: &&Result<_, _>| matches!(result, Err(RedeemError::Used));
    let lost = results.iter().filter(used).count();
    assert_eq!((won, lost), (1, results.len() - 1), "{results:?}");
}
