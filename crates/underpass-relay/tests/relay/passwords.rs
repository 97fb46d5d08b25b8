//! Registering and logging in by name and password, and deciding about users, on a real relay.

use std::time::{Duration, Instant};

use underpass_proto::Code;
use underpass_proto::control::{
    ChangeUser, Control, Identity, Prove, Register, SetPassword, SetRole, SignIn, UserChange,
    UserRole, Users,
};
use underpass_seal::StaticKey;
use underpass_seal::password::{Login, PasswordError, Registration};

use crate::stage::{Agent, Stage, in_time};

/// What the issue of living sessions that are shut out allows.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Agent {
    /// Hands in a password file for `user`.
    async fn register(&self, user: &str, password: &str, machine: &str) -> Result<(), Code> {
        let (registration, message) = Registration::start(password.as_bytes()).unwrap();
        let (name, machine) = (user.to_owned(), machine.to_owned());
        let answer = self
            .ask(|request| {
                Register {
                    request,
                    user: name.clone(),
                    message,
                }
                .into()
            })
            .await?;
        let [Control::Evaluated(evaluated)] = &answer[..] else {
            panic!("{answer:?}");
        };
        let file = registration.finish(user, &evaluated.message).unwrap();
        let set = |request| {
            SetPassword {
                request,
                user: name,
                machine,
                file,
            }
            .into()
        };
        self.ask(set).await.map(drop)
    }

    async fn challenge(&self, user: &str, message: [u8; 96]) -> Result<[u8; 320], Code> {
        let user = user.to_owned();
        let sign_in = |request| {
            SignIn {
                request,
                user,
                message,
            }
            .into()
        };
        match &self.ask(sign_in).await?[..] {
            [Control::Challenge(challenge)] => Ok(challenge.message),
            other => panic!("{other:?}"),
        }
    }

    async fn prove(&self, machine: &str, message: [u8; 64]) -> Result<Identity, Code> {
        let machine = machine.to_owned();
        let prove = |request| {
            Prove {
                request,
                machine,
                message,
            }
            .into()
        };
        match &self.ask(prove).await?[..] {
            [Control::Identity(identity)] => Ok(identity.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A whole login, as an honest agent does it.
    async fn sign_in(&self, user: &str, password: &str, machine: &str) -> Result<Identity, Code> {
        let (login, message) = Login::start(password.as_bytes()).unwrap();
        let challenge = self.challenge(user, message).await?;
        let hash = self.attachment.session().handshake_hash();
        match login.finish(user, &hash, &challenge) {
            Ok(proof) => self.prove(machine, proof).await,
            Err(PasswordError::Wrong) => Err(Code::WrongPassword),
            Err(other) => panic!("{other}"),
        }
    }

    async fn decide(&self, user: &str, change: UserChange) -> Result<(), Code> {
        let user = user.to_owned();
        let decide = |request| {
            ChangeUser {
                request,
                user,
                change,
            }
            .into()
        };
        self.ask(decide).await.map(drop)
    }

    async fn set_role(&self, user: &str, role: UserRole) -> Result<(), Code> {
        let user = user.to_owned();
        let set = |request| {
            SetRole {
                request,
                user,
                role,
            }
            .into()
        };
        self.ask(set).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_registers_waits_until_a_manager_approves() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let bob = stage.stranger().await;
    let waits = Err(Code::Waiting);
    assert_eq!(bob.register("bob", "correct horse", "laptop").await, waits);
    // Known, and not let in; on a second machine neither.
    assert_eq!(bob.hello().await.unwrap().user, "bob");
    assert_eq!(bob.publish("db").await, Err(Code::Waiting));
    assert_eq!(bob.who_am_i().await, Err(Code::Waiting));
    let second = stage.stranger().await;
    let signed_in = second.sign_in("bob", "correct horse", "phone").await;
    assert_eq!(signed_in, Err(Code::Waiting));
    // The name is taken by who was first.
    let eve = stage.stranger().await;
    let taken = eve.register("bob", "another one", "laptop").await;
    assert_eq!(taken, Err(Code::Exists));
    let refused = eve.decide("bob", UserChange::Approve).await;
    assert_eq!(refused, Err(Code::NotEnrolled));

    admin.decide("bob", UserChange::Approve).await.unwrap();
    // The same attachment is let in, from the next request on.
    assert_eq!(bob.who_am_i().await.unwrap().user, "bob");
    bob.publish("db").await.unwrap();
    let wrong = second.sign_in("bob", "correct horsf", "phone").await;
    assert_eq!(wrong, Err(Code::WrongPassword));
    let identity = second.sign_in("bob", "correct horse", "phone").await;
    let identity = identity.unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.machine.as_str()),
        ("bob", "phone")
    );
    second.publish("web").await.unwrap();
    assert_eq!(
        eve.sign_in("bob", "another one", "x").await,
        Err(Code::WrongPassword)
    );
    // It goes on so after a restart: the relay's secret lies in the store.
    let stage = stage.restart().await;
    let third = stage.stranger().await;
    third
        .sign_in("bob", "correct horse", "third")
        .await
        .unwrap();
    // And at another relay of the group.
    let other = stage.another_relay().await;
    let fourth = Agent::attach(other.addresses()[0].1, StaticKey::generate()).await;
    fourth
        .sign_in("bob", "correct horse", "fourth")
        .await
        .unwrap();
    // Of a password that was changed the old one is worth nothing.
    fourth.register("bob", "battery staple", "").await.unwrap();
    let fifth = stage.stranger().await;
    let old = fifth.sign_in("bob", "correct horse", "fifth").await;
    assert_eq!(old, Err(Code::WrongPassword));
    fifth
        .sign_in("bob", "battery staple", "fifth")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_denied_is_a_stranger_again() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let bob = stage.stranger().await;
    let waits = Err(Code::Waiting);
    assert_eq!(bob.register("bob", "correct horse", "laptop").await, waits);
    admin.decide("bob", UserChange::Deny).await.unwrap();
    assert_eq!(bob.who_am_i().await, Err(Code::NotEnrolled));
    let signed_in = bob.sign_in("bob", "correct horse", "laptop").await;
    assert_eq!(signed_in, Err(Code::WrongPassword));
    let again = admin.decide("bob", UserChange::Approve).await;
    assert_eq!(again, Err(Code::NoUser));
    // The name is free, for whoever comes next.
    let other = stage.stranger().await;
    assert_eq!(
        other.register("bob", "battery staple", "laptop").await,
        waits
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_may_take_in_no_strangers() {
    let stage = Stage::with(|settings| settings.registration = false).await;
    let admin = stage.administrator().await;
    let bob = stage.stranger().await;
    for user in ["bob", "admin"] {
        let refused = bob.register(user, "correct horse", "laptop").await;
        assert_eq!(
            refused,
            Err(Code::Denied),
            "whether there is such a user or not"
        );
    }
    // Who is in may have a password all the same.
    admin.register("admin", "correct horse", "").await.unwrap();
    let signed_in = bob.sign_in("admin", "correct horse", "laptop").await;
    assert_eq!(signed_in.unwrap().role, UserRole::Administrator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_holds_in_one_session_once() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    admin.register("admin", "correct horse", "").await.unwrap();
    let (near, far) = (stage.stranger().await, stage.stranger().await);
    let [near_hash, far_hash] =
        [&near, &far].map(|agent| agent.attachment.session().handshake_hash());
    assert_ne!(near_hash, far_hash);

    // Somebody in the middle has one session with the agent and another with the relay, and passes on.
    let (login, message) = Login::start(b"correct horse").unwrap();
    let challenge = far.challenge("admin", message).await.unwrap();
    let passed_on = login.finish("admin", &near_hash, &challenge);
    assert_eq!(passed_on, Err(PasswordError::Wrong), "the agent notices");

    // A proof for one session is worth nothing in another, nor twice.
    let (login, message) = Login::start(b"correct horse").unwrap();
    let challenge = near.challenge("admin", message).await.unwrap();
    let proof = login.finish("admin", &near_hash, &challenge).unwrap();
    assert_eq!(far.prove("x", proof).await, Err(Code::WrongPassword));
    assert_eq!(far.prove("x", proof).await, Err(Code::ProtocolViolation));
    near.prove("near", proof).await.unwrap();
    assert_eq!(
        near.prove("near", proof).await,
        Err(Code::ProtocolViolation)
    );
    assert_eq!(far.who_am_i().await, Err(Code::NotEnrolled));
}

/// Guesses on one attachment after the other until the relay has the address wait. How many were answered.
async fn guess_until_told_to_wait(
    stage: &Stage,
    guess: impl AsyncFn(&Agent) -> Result<(), Code>,
) -> usize {
    let mut guesses = 0;
    loop {
        let eve = stage.stranger().await;
        for of_one in 1.. {
            match guess(&eve).await {
                Ok(()) => guesses += 1,
                Err(Code::TooManyAttempts) => return guesses,
                Err(_) => break,
            }
            assert!(of_one < 20, "one attachment guesses without end");
        }
        assert!(guesses < 50, "one address guesses without end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_by_registering_is_sent_away_and_waits() {
    let stage = Stage::new().await;
    let guesses = guess_until_told_to_wait(&stage, async |eve: &Agent| {
        let (_, message) = Registration::start(b"guess").unwrap();
        let user = "admin".to_owned();
        let register = |request| {
            Register {
                request,
                user,
                message,
            }
            .into()
        };
        eve.ask(register).await.map(drop)
    })
    .await;
    assert!((8..=20).contains(&guesses), "{guesses}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_is_sent_away_and_waits() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    admin.register("admin", "correct horse", "").await.unwrap();
    let guesses = guess_until_told_to_wait(&stage, async |eve: &Agent| {
        // No proof is ever sent: the challenge alone tells whether a guess is right.
        let (_, message) = Login::start(b"guess").unwrap();
        eve.challenge("admin", message).await.map(drop)
    })
    .await;
    assert!((8..=20).contains(&guesses), "{guesses}");
    // Who is enrolled does not log in by password, and goes on.
    admin.who_am_i().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_is_out_at_once_and_may_come_back() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let bob = stage.invited(&admin, "bob").await;
    let alice = stage.invited(&admin, "alice").await;
    bob.serve_echo();
    bob.publish("db").await.unwrap();
    bob.allow("alice", "db").await.unwrap();
    alice.serve_echo();
    alice.publish("web").await.unwrap();
    alice.allow("bob", "web").await.unwrap();
    // Both directions: bob uses alice's service, and she his.
    let used = alice.connect("db", &bob.key).await.unwrap();
    let using = bob.connect("web", &alice.key).await.unwrap();
    let begun = Instant::now();
    admin.decide("bob", UserChange::Disable).await.unwrap();
    let ended = in_time("the end", bob.attachment.ended()).await;
    assert_eq!(ended.code(), Code::Ended);
    let resumes = [used.status().resumes, using.status().resumes];
    while [&used, &using]
        .iter()
        .any(|session| session.status().detached_for.is_none() && !session.is_closed())
    {
        assert!(
            begun.elapsed() < AT_ONCE,
            "sessions of a disabled user go on"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // Nothing is resumed, and nothing new is let in, by key or by name.
    let again = Agent::attach(stage.address(), StaticKey::from_bytes(*bob.key.to_bytes())).await;
    assert_eq!(again.who_am_i().await, Err(Code::NotEnrolled));
    assert_eq!(alice.resolve("db").await.map(drop), Err(Code::Denied));
    assert_eq!([used.status().resumes, using.status().resumes], resumes);
    admin.decide("bob", UserChange::Enable).await.unwrap();
    assert_eq!(again.who_am_i().await.unwrap().user, "bob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_administrator_stays() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let last = Err(Code::LastAdministrator);
    assert_eq!(admin.set_role("admin", UserRole::Manager).await, last);
    assert_eq!(admin.decide("admin", UserChange::Disable).await, last);
    assert_eq!(
        admin.decide("admin", UserChange::Deny).await,
        Err(Code::Decided)
    );
    let bob = stage.invited(&admin, "bob").await;
    admin
        .set_role("bob", UserRole::Administrator)
        .await
        .unwrap();
    bob.decide("admin", UserChange::Disable).await.unwrap();
    assert_eq!(bob.set_role("bob", UserRole::User).await, last);
    assert_eq!(bob.who_am_i().await.unwrap().role, UserRole::Administrator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_changes_of_roles_at_once_have_one_outcome() {
    const ROLES: [UserRole; 3] = [UserRole::User, UserRole::Manager, UserRole::Administrator];
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let other = stage.another_relay().await;
    let at_other = stage
        .invited_at(other.addresses()[0].1, &admin, "olga")
        .await;
    admin
        .set_role("olga", UserRole::Administrator)
        .await
        .unwrap();
    let users = ["a", "b", "c", "d", "e"];
    for user in users {
        stage.invited(&admin, user).await;
    }
    let changes = (0..50).map(|n| {
        // Half of them at each of two relays.
        let by = [&admin, &at_other][n % 2];
        let (user, role) = (users[n % 5], ROLES[n / 5 % 3]);
        async move { (user, role, by.set_role(user, role).await) }
    });
    let done = in_time("the changes", futures_util::future::join_all(changes)).await;
    assert!(done.iter().all(|(_, _, result)| result.is_ok()), "{done:?}");
    // Both relays tell the same, and what they tell is one of the changes.
    let mut told = Vec::new();
    for asked in [&admin, &at_other] {
        let rows = asked.ask(|request| Users { request }.into()).await.unwrap();
        let [Control::UserRows(rows)] = &rows[..] else {
            panic!("{rows:?}");
        };
        told.push(
            rows.rows
                .iter()
                .map(|row| (row.name.clone(), row.role))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(told[0], told[1]);
    for (name, role) in &told[0] {
        let said = |(user, said, _): &(&str, UserRole, _)| user == name && said == role;
        assert!(
            !users.contains(&name.as_str()) || done.iter().any(said),
            "{name} {role:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_approve_and_deny_at_once_one_happens() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let other = stage.another_relay().await;
    let olga = stage
        .invited_at(other.addresses()[0].1, &admin, "olga")
        .await;
    admin.set_role("olga", UserRole::Manager).await.unwrap();
    let bob = stage.stranger().await;
    let waits = Err(Code::Waiting);
    assert_eq!(bob.register("bob", "correct horse", "laptop").await, waits);
    let (approved, denied) = tokio::join!(
        admin.decide("bob", UserChange::Approve),
        olga.decide("bob", UserChange::Deny)
    );
    match (approved, denied) {
        (Ok(()), Err(Code::Decided)) => assert_eq!(bob.who_am_i().await.unwrap().user, "bob"),
        (Err(Code::NoUser), Ok(())) => {
            assert_eq!(bob.who_am_i().await, Err(Code::NotEnrolled));
        }
        other => panic!("{other:?}"),
    }
}
