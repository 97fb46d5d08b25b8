//! Services that need a manager's approval, and permissions that are taken back while sessions live.

use underpass_proto::Code;
use underpass_proto::control::{
    Control, DecideService, MayUse, Publish, Published, ServiceDecision, ServiceState, Services,
    Withdraw,
};

use crate::stage::{Agent, Stage, exchange, in_time, until};

async fn decide(who: &Agent, service: &str, decision: ServiceDecision) -> Result<(), Code> {
    let service = service.to_owned();
    let make = |request| {
        DecideService {
            request,
            service,
            decision,
        }
        .into()
    };
    who.ask(make).await.map(drop)
}

async fn publish(who: &Agent, name: &str) -> Result<Published, Code> {
    let (name, description) = (name.to_owned(), String::new());
    let make = |request| {
        Publish {
            request,
            name,
            description,
            compression: true,
            plain_http: false,
        }
        .into()
    };
    match &who.ask(make).await?[..] {
        [Control::Published(it)] => Ok(it.clone()),
        other => panic!("{other:?}"),
    }
}

async fn withdraw(who: &Agent, name: &str) -> Result<(), Code> {
    let name = name.to_owned();
    let make = |request| Withdraw { request, name }.into();
    who.ask(make).await.map(drop)
}

/// What the relay says about somebody's use of a service of the publisher's.
async fn may_use(publisher: &Agent, service: &str, who: &Agent) -> Result<(), Code> {
    let (service, machine) = (service.to_owned(), who.key.public().0);
    let make = |request| {
        MayUse {
            request,
            service,
            machine,
        }
        .into()
    };
    publisher.ask(make).await.map(drop)
}

/// The state of a service as somebody sees it, if they do.
async fn seen(who: &Agent, name: &str) -> Option<ServiceState> {
    let answer = who.ask(|request| Services { request }.into()).await;
    let rows = answer
        .unwrap()
        .into_iter()
        .flat_map(|message| match message {
            Control::ServiceRows(it) => it.rows,
            other => panic!("{other:?}"),
        });
    let mut named = rows.filter(|row| row.name == name);
    named.next().map(|row| row.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_used_by_nobody_until_a_manager_approves_it() {
    let stage = Stage::with(|settings| settings.approve_services = true).await;
    let admin = stage.administrator().await;
    let bob = stage.invited(&admin, "bob").await;
    let alice = stage.invited(&admin, "alice").await;
    bob.serve_echo();
    assert!(publish(&bob, "db").await.unwrap().waiting);
    bob.allow("*", "db").await.unwrap();
    let mut told = bob.control.rights();
    told.mark_unchanged();
    assert_eq!(bob.resolve("db").await, Err(Code::ServiceWaiting));
    assert_eq!(may_use(&bob, "db", &bob).await, Err(Code::ServiceWaiting));
    let refused = alice.connect("db.bob", &bob.key).await.unwrap_err();
    assert_eq!(refused, Code::Denied, "others are not told what waits");
    for (who, expected) in [(&admin, true), (&bob, true), (&alice, false)] {
        let state = expected.then_some(ServiceState::Waiting);
        assert_eq!(seen(who, "db").await, state);
    }

    decide(&admin, "db.bob", ServiceDecision::Approve)
        .await
        .unwrap();
    in_time("the publisher to be told", told.changed())
        .await
        .unwrap();
    assert_eq!(may_use(&bob, "db", &bob).await, Ok(()));
    assert_eq!(seen(&alice, "db").await, Some(ServiceState::Active));
    let session = alice.connect("db.bob", &bob.key).await.unwrap();
    assert_eq!(exchange(&session, "db", b"hello".to_vec()).await, b"hello");
    // To publish it again, after a crash for example, needs no further approval.
    assert!(!publish(&bob, "db").await.unwrap().waiting);

    decide(&admin, "db.bob", ServiceDecision::Refuse)
        .await
        .unwrap();
    let closed = in_time("the session to end", session.closed()).await;
    assert_eq!(closed.code, Code::Denied.number(), "{closed:?}");
    assert_eq!(may_use(&bob, "db", &bob).await, Err(Code::ServiceRefused));
    assert_eq!(publish(&bob, "db").await, Err(Code::ServiceRefused));
    let again = decide(&admin, "db.bob", ServiceDecision::Approve).await;
    assert_eq!(again, Err(Code::Decided));
    withdraw(&bob, "db").await.unwrap();
    assert!(publish(&bob, "db").await.unwrap().waiting);
    // Whoever approves does not wait for themselves.
    assert!(!publish(&admin, "own").await.unwrap().waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_for_machines_and_roles_hold_and_their_publisher_is_told() {
    let stage = Stage::new().await;
    let bob = stage.administrator().await;
    let alice = stage.invited(&bob, "alice").await;
    let carol = stage.invited(&bob, "carol").await;
    bob.serve_echo();
    publish(&bob, "db").await.unwrap();
    let key = alice.key.public().fingerprint().to_string();
    let mut told = bob.control.rights();
    // Each entry, and who may then: the machine decides over the user, the user over the role.
    for (access, who, of_alice, of_carol) in [
        (true, "@user", true, true),
        (false, "alice", false, true),
        (true, key.as_str(), true, true),
        (false, "@user", true, false),
        (true, "*", true, false),
        (false, key.as_str(), false, false),
    ] {
        told.mark_unchanged();
        match access {
            true => bob.allow(who, "db").await.unwrap(),
            false => bob.deny(who, "db").await.unwrap(),
        }
        in_time("the publisher to be told", told.changed())
            .await
            .unwrap();
        for (caller, may) in [(&alice, of_alice), (&carol, of_carol)] {
            let expected = match may {
                true => Ok(()),
                false => Err(Code::Denied),
            };
            assert_eq!(may_use(&bob, "db", caller).await, expected, "{who}");
            let resolved = caller.resolve("db.admin").await.map(drop);
            assert_eq!(resolved, expected, "{who}");
        }
    }
    let stranger = stage.stranger().await;
    let asked = may_use(&bob, "db", &stranger).await;
    assert_eq!(asked, Err(Code::NotEnrolled));
    assert_eq!(may_use(&bob, "none", &alice).await, Err(Code::NoService));
    let unknown = stranger.key.public().fingerprint().to_string();
    assert_eq!(bob.allow(&unknown, "db").await, Err(Code::NoMachine));
}

/// Whoever connects in the moment in which a service is withdrawn is either refused, or has a session that ends for that
/// reason: never one that goes on, and never none of both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_connect_while_a_service_is_withdrawn_has_one_outcome() {
    let stage = Stage::new().await;
    let bob = stage.administrator().await;
    let alice = stage.invited(&bob, "alice").await;
    bob.serve_echo();
    let (mut refused, mut ended) = (0, 0);
    for round in 0..20 {
        publish(&bob, "db").await.unwrap();
        bob.allow("*", "db").await.unwrap();
        let withdrawing = async {
            // From well before the route is there to well after.
            tokio::time::sleep(std::time::Duration::from_micros(round * 600)).await;
            withdraw(&bob, "db").await.unwrap();
        };
        let connecting = alice.connect("db.admin", &bob.key);
        let (outcome, ()) = tokio::join!(connecting, withdrawing);
        match outcome {
            Err(code) => {
                assert_eq!(code, Code::NoService, "round {round}");
                refused += 1;
            }
            Ok(session) => {
                let closed = in_time("the session to end", session.closed()).await;
                let code = Code::NoService.number();
                assert_eq!(closed.code, code, "round {round}: {closed:?}");
                ended += 1;
            }
        }
        assert_eq!(alice.resolve("db.admin").await, Err(Code::NoService));
    }
    assert_eq!(refused + ended, 20);
    until("routes to go", || stage.relay.load().0.routes == 0).await;
}
