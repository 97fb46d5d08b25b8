//! Machines that are let in by a certificate.

use std::time::Duration;

use underpass_store::{EnrolError, NewCertificate, Role, UnixMillis, UserState};

use super::{DAY, Place, START, administrator, enrolled, machine, name, race};

/// A certificate that holds for so long from [`START`].
fn certificate(tag: u8, lasts: Duration) -> NewCertificate {
    NewCertificate {
        chain: vec![tag; 1000],
        expires: START.saturating_add(lasts),
    }
}

pub(crate) async fn a_certificate_lets_a_machine_in_until_it_is_over(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    let (bob, robot) = (bob.user, machine("robot", 2));
    let first = certificate(1, DAY);
    let certify = store.certify_machine(&bob.name, false, &robot, &first, START);
    let made = certify.await.unwrap();
    assert_eq!(made.user, bob);
    let store = place.store().await;
    let known = store.machine_by_key(&robot.key).await.unwrap().unwrap();
    assert_eq!(known, made);
    let end = first.expires;
    assert!(known.is_admitted_at(UnixMillis(end.0 - 1)) && !known.is_admitted_at(end));
    let id = made.machine.id;
    let kept = store.certificate(id).await.unwrap();
    assert_eq!(kept.as_ref(), Some(&first.chain));
    assert_eq!(store.certificate(root.machine.id).await.unwrap(), None);

    // Renewed after its end, under whatever name.
    let (second, other) = (certificate(2, DAY * 3), machine("other", 2));
    let revision = store.rights_revision().await.unwrap();
    let renewed = store.certify_machine(&bob.name, true, &other, &second, end);
    let renewed = renewed.await.unwrap();
    assert_eq!(
        (renewed.machine.id, &renewed.machine.name),
        (id, &robot.name)
    );
    assert!(renewed.is_admitted_at(end));
    assert!(store.rights_revision().await.unwrap() > revision);
    let all = store.certificates().await.unwrap();
    assert_eq!(all, [(id, second.chain)]);
    // A machine that came in otherwise is let in by the certificate alone from now on.
    let own = machine("m-1", 1);
    let bound = store.certify_machine(&bob.name, false, &own, &first, START);
    assert_eq!(bound.await.unwrap().machine.expires, Some(end));
    store.revoke_machine(id).await.unwrap();
    assert_eq!(store.certificates().await.unwrap().len(), 1);
    let gone = store.certify_machine(&bob.name, true, &robot, &first, START);
    assert!(matches!(gone.await, Err(EnrolError::KeyKnown)));
}

pub(crate) async fn certificates_are_refused_for_their_own_reasons(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    enrolled(&*store, &root, "carol", 2).await;
    let good = certificate(1, DAY);
    let refused = async |user: &str, number: u32, named: &str| {
        let (user, machine) = (name(user), machine(named, number));
        let certify = store.certify_machine(&user, false, &machine, &good, START);
        certify.await.unwrap_err()
    };
    assert!(matches!(
        refused("eve", 9, "x").await,
        EnrolError::NoSuchUser
    ));
    assert_eq!(store.user_by_name(&name("eve")).await.unwrap(), None);
    assert!(matches!(
        refused("carol", 1, "x").await,
        EnrolError::KeyKnown
    ));
    assert!(matches!(
        refused("bob", 9, "m-1").await,
        EnrolError::MachineNameTaken
    ));
    let token = machine("token", 7);
    store
        .make_token(bob.user.id, &token, None, START)
        .await
        .unwrap();
    assert!(matches!(refused("bob", 7, "x").await, EnrolError::KeyKnown));
    let disabled = UserState::Disabled;
    store.set_user_state(bob.user.id, disabled).await.unwrap();
    assert!(matches!(
        refused("bob", 9, "x").await,
        EnrolError::UserDisabled
    ));
    assert_eq!(store.certificates().await.unwrap(), []);
}

pub(crate) async fn machines_of_one_new_user_make_it_once(place: &mut impl Place) {
    administrator(&*place.store().await).await;
    let made = race(place, 8, |store, number| async move {
        let machine = machine(&format!("m-{number}"), number + 1);
        let (eve, good) = (name("eve"), certificate(1, DAY));
        let certify = store.certify_machine(&eve, true, &machine, &good, START);
        certify.await.unwrap().user
    })
    .await;
    assert!(
        made.iter()
            .all(|user| *user == made[0] && user.role == Role::User)
    );
}
