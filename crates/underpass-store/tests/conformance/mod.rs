//! What every store must do, whatever database it stands on.
//!
//! A check is an async function over a [`Place`]; `conformance_suite!` makes a test of each for
//! one kind of place. Checks never rely on what a store holds in memory: each call of
//! [`Place::store`] may give a store opened anew.

pub(crate) mod approval;
pub(crate) mod certificates;
pub(crate) mod enrolment;
pub(crate) mod events;
pub(crate) mod machines;
pub(crate) mod passwords;
pub(crate) mod rights;
pub(crate) mod services;
pub(crate) mod tickets;
pub(crate) mod usage;
pub(crate) mod users;

use std::sync::Arc;
use std::time::Duration;

use underpass_store::{
    CodeDigest, Enrolled, MachineKey, Name, NewInvitation, NewMachine, NewService, Published,
    Service, ServiceKey, Store, UnixMillis,
};

/// A database, empty at first, that stores are opened on.
pub(crate) trait Place {
    /// A store on this database: the same one each time, or one opened anew.
    fn store(&mut self) -> impl Future<Output = Arc<dyn Store>>;

    /// A further store on this database, as another process would open it.
    fn another(&self) -> impl Future<Output = Arc<dyn Store>>;
}

/// The moment at which most checks begin.
pub(crate) const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// A time that no invitation of these checks lives through.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Distinct bytes for each number.
fn bytes<const N: usize>(tag: u8, number: u32) -> [u8; N] {
    let mut bytes = [tag; N];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn code(number: u32) -> CodeDigest {
    CodeDigest(bytes(0xc0, number))
}

pub(crate) fn key(number: u32) -> MachineKey {
    MachineKey(bytes(0x3e, number))
}

pub(crate) fn service_key(number: u32) -> ServiceKey {
    ServiceKey::new(&bytes::<16>(0x5e, number)).unwrap()
}

pub(crate) fn machine(machine_name: &str, number: u32) -> NewMachine {
    NewMachine {
        name: name(machine_name),
        key: key(number),
    }
}

/// Sets a fresh store up: administrator `root` on machine `console`, code and key number 0.
pub(crate) async fn administrator(store: &dyn Store) -> Enrolled {
    store.set_setup_code(code(0), START).await.unwrap();
    store
        .redeem_setup_code(code(0), &name("root"), &machine("console", 0), START)
        .await
        .unwrap()
}

pub(crate) fn invitation(number: u32, user: &str, by: &Enrolled) -> NewInvitation {
    NewInvitation {
        digest: code(number),
        user: name(user),
        made_by: by.user.id,
        made_at: START,
        expires_at: START.saturating_add(DAY),
    }
}

/// Enrols machine `m-NUMBER` of `user` by an invitation of `by`; code and key have the number.
pub(crate) async fn enrolled(
    store: &dyn Store,
    by: &Enrolled,
    user: &str,
    number: u32,
) -> Enrolled {
    store.invite(&invitation(number, user, by)).await.unwrap();
    store
        .redeem_invitation(
            code(number),
            &machine(&format!("m-{number}"), number),
            START,
        )
        .await
        .unwrap()
}

pub(crate) fn new_service(who: &Enrolled, service: &str, number: u32) -> NewService {
    NewService {
        name: name(service),
        owner: who.user.id,
        machine: who.machine.id,
        key: service_key(number),
        compression: true,
        plain_http: false,
        approval: false,
        at: START,
    }
}

/// Publishes a service that must be new.
pub(crate) async fn published(
    store: &dyn Store,
    who: &Enrolled,
    service: &str,
    number: u32,
) -> Service {
    match store
        .publish_service(&new_service(who, service, number))
        .await
    {
        Ok(Published::New(service)) => service,
        other => panic!("not a new service: {other:?}"),
    }
}

/// A test of every check, in a module of its own, on the places that `$place` makes.
macro_rules! conformance_suite {
    ($module:ident, $place:ty) => {
        conformance_suite! { $module, $place;
            users { a_fresh_store_is_empty, users_are_found_and_listed, roles_and_states_are_kept,
                the_last_administrator_stays, administrators_that_leave_at_once_leave_one }
            passwords { the_secret_of_passwords_is_made_once, who_registers_waits_and_is_approved,
                who_is_denied_is_forgotten, registrations_are_refused_for_their_own_reasons,
                who_waits_is_changed_by_a_decision_alone, only_who_waits_is_decided_about,
                of_approve_and_deny_at_once_one_happens, machines_come_in_under_an_active_user,
                fifty_changes_of_roles_at_once_leave_what_one_of_them_said }
            certificates { a_certificate_lets_a_machine_in_until_it_is_over,
                certificates_are_refused_for_their_own_reasons, machines_of_one_new_user_make_it_once }
            enrolment { the_setup_code_makes_the_first_administrator, only_the_newest_setup_code_counts,
                a_used_setup_code_answers_its_machine_alone, a_setup_code_is_won_once,
                an_invitation_makes_a_user, an_invitation_adds_a_machine,
                codes_are_refused_for_their_own_reasons, a_refused_code_is_not_spent,
                disabled_people_neither_invite_nor_enter, a_revoked_machine_gets_no_second_answer,
                invitations_are_listed_cancelled_and_pruned, an_invitation_is_won_once }
            machines { machines_are_found_and_listed, a_revoked_key_never_comes_back,
                last_seen_only_moves_forward, a_token_is_a_machine_that_publishes_nothing,
                tokens_are_refused_for_their_own_reasons }
            services { a_service_keeps_its_key_when_published_again, publishing_needs_an_admitted_machine,
                a_service_stays_on_its_machine_until_that_is_revoked, two_machines_publish_at_once,
                withdrawing_forgets_the_access_list, access_follows_one_table,
                access_lists_are_kept_and_listed, names_resolve_as_the_caller_may_see,
                listings_show_what_may_be_used, the_narrowest_entry_decides }
            approval { who_needs_approval_waits, what_nobody_has_approved_nobody_uses,
                of_approving_and_refusing_at_once_refusing_holds, one_name_by_two_users_is_two_services }
            tickets { a_line_is_found_by_both_its_tickets, a_spent_ticket_is_forgotten,
                of_two_that_change_a_line_one_does, a_handle_forgets_its_line_alone,
                lines_expire_by_the_clock_that_only_goes_forward }
            events { events_come_back_newest_first, filters_narrow_and_pages_go_on,
                what_does_not_fit_is_refused_whole, pruning_keeps_what_it_should,
                texts_shaped_like_statements_are_texts }
            rights { every_change_of_rights_is_counted }
            usage { usage_adds_up_whoever_writes_it, exceptions_from_limits_are_kept,
                ended_sessions_are_known_until_their_time_is_over }
        }
    };
    ($module:ident, $place:ty; $($family:ident { $($check:ident),+ $(,)? })+) => {
        mod $module {
            $(mod $family {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    let mut place = <$place>::new().await;
                    $crate::conformance::$family::$check(&mut place).await;
                })+
            })+
        }
    };
}
pub(crate) use conformance_suite;

/// Runs `count` tasks at once, one per number, alternating between two stores on one database,
/// and returns what they returned.
pub(crate) async fn race<T, F, Fut>(place: &mut impl Place, count: u32, task: F) -> Vec<T>
where
    F: Fn(Arc<dyn Store>, u32) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let stores = [place.another().await, place.another().await];
    let tasks: Vec<_> = (0..count)
        .map(|number| tokio::spawn(task(Arc::clone(&stores[number as usize % 2]), number)))
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
