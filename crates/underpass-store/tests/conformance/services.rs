//! Services, access lists and names.

use std::time::Duration;

use underpass_store::{
    Access, AccessEntry, AccessError, Caller, Enrolled, MachineId, PublishError, Published,
    ResolveError, Role, Service, ServiceId, Store, UserId, UserState, Who,
};

use super::{
    Place, START, administrator, code, enrolled, invitation, key, machine, name, new_service,
    published, race, service_key,
};

async fn allow(store: &dyn Store, service: &Service, who: &str) {
    set(store, service, who, Access::Allow).await;
}

async fn set(store: &dyn Store, service: &Service, who: &str, access: Access) {
    let who: Who = who.parse().unwrap();
    store
        .set_access(service.id, &who, access, START)
        .await
        .unwrap();
}

async fn resolve(
    store: &dyn Store,
    caller: &Enrolled,
    text: &str,
) -> Result<Service, ResolveError> {
    store
        .resolve_service(caller.caller(), &text.parse().unwrap())
        .await
}

pub(crate) async fn a_service_keeps_its_key_when_published_again(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let first = published(&*store, &root, "db", 1).await;
    assert_eq!(first.owner_name, name("root"));
    assert_eq!((&first.key, first.created), (&service_key(1), START));

    let store = place.store().await;
    let mut again = new_service(&root, "db", 2);
    assert!(!first.plain_http, "closed by default");
    again.compression = false;
    again.plain_http = true;
    again.at = START.saturating_add(Duration::from_secs(1));
    let second = match store.publish_service(&again).await.unwrap() {
        Published::Again(service) => service,
        new => panic!("published before: {new:?}"),
    };
    let expected = Service {
        compression: false,
        plain_http: true,
        ..first
    };
    assert_eq!(second, expected);
    let store = place.store().await;
    assert_eq!(store.service(second.id).await.unwrap(), Some(expected));
    assert_eq!(store.service(ServiceId(99)).await.unwrap(), None);

    let taken = store.publish_service(&new_service(&root, "web", 1)).await;
    assert!(matches!(taken, Err(PublishError::KeyInUse)), "{taken:?}");
}

pub(crate) async fn publishing_needs_an_admitted_machine(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    let carol = enrolled(&*store, &root, "carol", 2).await;
    let mut foreign = new_service(&bob, "db", 1);
    foreign.machine = root.machine.id;
    let mut unknown = new_service(&bob, "db", 1);
    unknown.owner = UserId(99);
    store.revoke_machine(bob.machine.id).await.unwrap();
    store
        .set_user_state(carol.user.id, UserState::Disabled)
        .await
        .unwrap();
    let (revoked, disabled) = (new_service(&bob, "db", 1), new_service(&carol, "db", 1));
    let store = place.store().await;
    for service in [foreign, unknown, revoked, disabled] {
        let refused = store.publish_service(&service).await;
        assert!(
            matches!(refused, Err(PublishError::MachineNotAdmitted)),
            "{refused:?}"
        );
    }
    assert!(store.services(None).await.unwrap().is_empty());
}

pub(crate) async fn a_service_stays_on_its_machine_until_that_is_revoked(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let old = enrolled(&*store, &root, "bob", 1).await;
    let new = enrolled(&*store, &root, "bob", 2).await;
    let service = published(&*store, &old, "db", 1).await;
    allow(&*store, &service, "root").await;
    match store.publish_service(&new_service(&new, "db", 2)).await {
        Err(PublishError::OnOtherMachine { machine }) => assert_eq!(machine, name("m-1")),
        other => panic!("the other machine publishes it: {other:?}"),
    }
    store.revoke_machine(old.machine.id).await.unwrap();
    assert!(!store.may_use(root.caller(), service.id).await.unwrap());
    let moved = store
        .publish_service(&new_service(&new, "db", 2))
        .await
        .unwrap();
    let expected = Service {
        machine: new.machine.id,
        ..service
    };
    assert_eq!(moved, Published::Again(expected.clone()));
    assert_eq!(
        place.store().await.service(expected.id).await.unwrap(),
        Some(expected.clone())
    );
    assert!(store.may_use(root.caller(), expected.id).await.unwrap());
}

pub(crate) async fn two_machines_publish_at_once(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let mut machines = Vec::new();
    for number in 1..=8 {
        machines.push(enrolled(&*store, &root, "bob", number).await);
    }
    let results = race(place, 8, |store, number| {
        let service = new_service(&machines[number as usize], "db", number);
        async move { store.publish_service(&service).await }
    })
    .await;
    let won = results
        .iter()
        .filter(|result| matches!(result, Ok(Published::New(_))));
    let lost = |result: &&Result<_, _>| matches!(result, Err(PublishError::OnOtherMachine { .. }));
    assert_eq!(won.count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(lost).count(), 7, "{results:?}");
    // Names belong to owners: another owner's service of the same name is in nobody's way.
    published(&*place.store().await, &root, "db", 100).await;
}

pub(crate) async fn withdrawing_forgets_the_access_list(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    let service = published(&*store, &root, "db", 1).await;
    allow(&*store, &service, "bob").await;
    allow(&*store, &service, "*").await;
    assert!(store.withdraw_service(service.id).await.unwrap());
    assert!(!store.withdraw_service(service.id).await.unwrap());

    let store = place.store().await;
    assert!(store.access_list(service.id).await.unwrap().is_empty());
    assert!(!store.may_use(root.caller(), service.id).await.unwrap());
    let again = published(&*store, &root, "db", 1).await;
    assert_ne!(again.id, service.id, "numbers are never given again");
    assert!(store.access_list(again.id).await.unwrap().is_empty());
    assert!(!store.may_use(bob.caller(), again.id).await.unwrap());
}

/// One entry of the table of access: the state of everything that bears on it.
#[derive(Debug, Clone, Copy)]
struct Case {
    of_user: Option<Access>,
    of_everyone: Option<Access>,
    caller_disabled: bool,
    owner_disabled: bool,
    machine_revoked: bool,
}

fn all_cases() -> Vec<Case> {
    let entries = [None, Some(Access::Allow), Some(Access::Deny)];
    let mut cases = Vec::new();
    for machine_revoked in [false, true] {
        for (owner_disabled, caller_disabled) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            for (of_user, of_everyone) in entries
                .iter()
                .flat_map(|user| entries.iter().map(move |all| (*user, *all)))
            {
                cases.push(Case {
                    of_user,
                    of_everyone,
                    caller_disabled,
                    owner_disabled,
                    machine_revoked,
                });
            }
        }
    }
    cases
}

pub(crate) async fn access_follows_one_table(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let caller = enrolled(&*store, &root, "caller", 1).await;
    let state = |disabled: bool| match disabled {
        true => UserState::Disabled,
        false => UserState::Active,
    };
    for (number, case) in (10..).zip(all_cases()) {
        let owner = enrolled(&*store, &root, &format!("owner-{number}"), number).await;
        let service = published(&*store, &owner, "db", number).await;
        if let Some(access) = case.of_user {
            set(&*store, &service, "caller", access).await;
        }
        if let Some(access) = case.of_everyone {
            set(&*store, &service, "*", access).await;
        }
        if case.machine_revoked {
            store.revoke_machine(owner.machine.id).await.unwrap();
        }
        store
            .set_user_state(owner.user.id, state(case.owner_disabled))
            .await
            .unwrap();
        store
            .set_user_state(caller.user.id, state(case.caller_disabled))
            .await
            .unwrap();

        let listed = match (case.of_user, case.of_everyone) {
            (Some(access), _) | (None, Some(access)) => access == Access::Allow,
            (None, None) => false,
        };
        let alive = !case.owner_disabled && !case.machine_revoked;
        let expected = listed && alive && !case.caller_disabled;
        let may = store.may_use(caller.caller(), service.id).await.unwrap();
        assert_eq!(may, expected, "{case:?}");
        let owner_may = store.may_use(owner.caller(), service.id).await.unwrap();
        assert_eq!(owner_may, alive, "the owner: {case:?}");
        // The other two ways of asking say the same.
        let found = resolve(&*store, &caller, &format!("db.owner-{number}")).await;
        assert_eq!(found.is_ok(), expected, "{case:?}: {found:?}");
        let seen = store.services_for(caller.caller()).await.unwrap();
        assert_eq!(
            seen.iter().any(|seen| seen.id == service.id),
            expected,
            "{case:?}"
        );
        let stranger = Caller {
            user: UserId(9999),
            machine: MachineId(9999),
        };
        assert!(
            !store.may_use(stranger, service.id).await.unwrap(),
            "a stranger: {case:?}"
        );
    }
}

pub(crate) async fn access_lists_are_kept_and_listed(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    enrolled(&*store, &root, "bob", 1).await;
    let service = published(&*store, &root, "db", 1).await;
    assert!(store.access_list(service.id).await.unwrap().is_empty());
    allow(&*store, &service, "bob").await;
    allow(&*store, &service, "*").await;
    let later = START.saturating_add(Duration::from_secs(1));
    let bob = Who::User(name("bob"));
    store
        .set_access(service.id, &bob, Access::Deny, later)
        .await
        .unwrap();
    let entry = |who, access, since| AccessEntry { who, access, since };
    assert_eq!(
        place.store().await.access_list(service.id).await.unwrap(),
        [
            entry(Who::Everyone, Access::Allow, START),
            entry(bob, Access::Deny, later)
        ]
    );

    let store = place.store().await;
    let nobody = Who::User(name("nobody"));
    match store
        .set_access(service.id, &nobody, Access::Allow, START)
        .await
    {
        Err(AccessError::NoSuchUser { name }) => assert_eq!(name.as_str(), "nobody"),
        other => panic!("there is no such user: {other:?}"),
    }
    let unknown = Who::Machine(key(77));
    let unknown = store
        .set_access(service.id, &unknown, Access::Allow, START)
        .await;
    assert!(
        matches!(unknown, Err(AccessError::NoSuchMachine)),
        "{unknown:?}"
    );
    let nothing = store
        .set_access(ServiceId(99), &Who::Everyone, Access::Allow, START)
        .await;
    assert!(
        matches!(nothing, Err(AccessError::NoSuchService)),
        "{nothing:?}"
    );
}

pub(crate) async fn names_resolve_as_the_caller_may_see(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let alice = enrolled(&*store, &root, "alice", 1).await;
    let bob = enrolled(&*store, &root, "bob", 2).await;
    let of_alice = published(&*store, &alice, "db", 1).await;
    let not_found = |found| assert!(matches!(found, Err(ResolveError::NotFound)), "{found:?}");
    not_found(resolve(&*store, &root, "d").await);
    not_found(resolve(&*store, &root, "db.bob").await);
    not_found(resolve(&*store, &root, "db.nobody").await);
    for text in ["db", "db.alice"] {
        let denied = resolve(&*store, &root, text).await;
        assert!(matches!(denied, Err(ResolveError::Denied)), "{denied:?}");
        assert_eq!(resolve(&*store, &alice, text).await.unwrap(), of_alice);
    }

    allow(&*store, &of_alice, "root").await;
    let store = place.store().await;
    assert_eq!(resolve(&*store, &root, "db").await.unwrap(), of_alice);
    let of_bob = published(&*store, &bob, "db", 2).await;
    // One that root may not use is in nobody's way.
    assert_eq!(resolve(&*store, &root, "db").await.unwrap(), of_alice);
    allow(&*store, &of_bob, "*").await;
    match resolve(&*store, &root, "db").await {
        Err(ResolveError::Ambiguous { owners }) => assert_eq!(owners, [name("alice"), name("bob")]),
        other => panic!("there are two: {other:?}"),
    }
    assert_eq!(resolve(&*store, &root, "db.bob").await.unwrap(), of_bob);
    assert_eq!(resolve(&*store, &root, "db.alice").await.unwrap(), of_alice);
    // Everyone's service of the same name does not take over the owner's own.
    assert_eq!(resolve(&*store, &alice, "db").await.unwrap(), of_alice);
}

pub(crate) async fn listings_show_what_may_be_used(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let bob = enrolled(&*store, &root, "bob", 1).await;
    store.invite(&invitation(2, "bob", &root)).await.unwrap();
    store
        .redeem_invitation(code(2), &machine("second", 2), START)
        .await
        .unwrap();
    let web = published(&*store, &root, "web", 1).await;
    let db = published(&*store, &root, "db", 2).await;
    let ssh = published(&*store, &bob, "ssh", 3).await;
    allow(&*store, &web, "bob").await;

    let store = place.store().await;
    assert_eq!(
        store.services_for(bob.caller()).await.unwrap(),
        [ssh.clone(), web.clone()]
    );
    let of_root = store.services(Some(root.user.id)).await.unwrap();
    assert_eq!(of_root, [db.clone(), web.clone()]);
    assert_eq!(store.services(None).await.unwrap(), [db, ssh, web]);
}

/// Entries for the machine, its user, the user's role and everyone: the narrowest that there is decides.
pub(crate) async fn the_narrowest_entry_decides(place: &mut impl Place) {
    let store = place.store().await;
    let root = administrator(&*store).await;
    let caller = enrolled(&*store, &root, "caller", 1).await;
    let other = enrolled(&*store, &root, "other", 2).await;
    let who = [
        Who::Machine(caller.machine.key),
        Who::User(name("caller")),
        Who::Role(Role::User),
        Who::Everyone,
    ];
    let entries = [None, Some(Access::Allow), Some(Access::Deny)];
    // Every combination: the digits of the case in base three say what stands for each of the four.
    for case in 0..81_usize {
        let service = published(&*store, &root, &format!("s-{case}"), case as u32).await;
        let digit = |place: u32| entries[case / 3_usize.pow(place) % 3];
        let here: Vec<_> = (0..4).map(digit).collect();
        for (who, access) in who.iter().zip(&here) {
            if let Some(access) = access {
                let set = store.set_access(service.id, who, *access, START);
                set.await.unwrap();
            }
        }
        let decides = |entries: &[Option<Access>]| {
            entries.iter().flatten().next().copied() == Some(Access::Allow)
        };
        let may = store.may_use(caller.caller(), service.id).await.unwrap();
        assert_eq!(may, decides(&here), "{here:?}");
        let may = store.may_use(other.caller(), service.id).await.unwrap();
        assert_eq!(may, decides(&here[2..]), "another user: {here:?}");
        let found = resolve(&*store, &caller, &format!("s-{case}")).await;
        assert_eq!(found.is_ok(), decides(&here), "{here:?}: {found:?}");
        // Entries for the same are replaced, and all are kept.
        let listed = store.access_list(service.id).await.unwrap();
        let there = here.iter().flatten().count();
        assert_eq!(listed.len(), there, "{here:?}");
        let about = |entry: &AccessEntry| who.contains(&entry.who);
        assert!(listed.iter().all(about), "{listed:?}");
    }
    // A role is that of the moment.
    let service = published(&*store, &root, "managers", 100).await;
    set(&*store, &service, "@manager", Access::Allow).await;
    assert!(!store.may_use(caller.caller(), service.id).await.unwrap());
    let promoted = store.set_user_role(caller.user.id, Role::Manager);
    promoted.await.unwrap();
    assert!(store.may_use(caller.caller(), service.id).await.unwrap());
}
