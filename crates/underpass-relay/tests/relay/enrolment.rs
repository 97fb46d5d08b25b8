//! Who is let in, and how.

use std::os::unix::fs::PermissionsExt as _;

use underpass_proto::Code;
use underpass_proto::control::{CodeKind, Control, Revoke, Services, UserRole, Users};
use underpass_relay::code::OneTimeCode;
use underpass_seal::StaticKey;

use crate::stage::{Agent, Stage, in_time, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_relay_serves_nobody() {
    let stage = Stage::new().await;
    let stranger = stage.stranger().await;
    let identity = stranger.hello().await.unwrap();
    assert!(identity.user.is_empty() && identity.machine.is_empty());
    assert!(identity.relay_version.starts_with("underpass "));
    assert_eq!(stranger.who_am_i().await, Err(Code::NotEnrolled));
    assert_eq!(stranger.publish("db").await, Err(Code::NotEnrolled));
    assert_eq!(stranger.invite("eve").await, Err(Code::NotEnrolled));
    assert_eq!(stranger.resolve("db").await, Err(Code::NotEnrolled));
    let key = StaticKey::generate();
    assert_eq!(
        stranger.connect("db", &key).await.unwrap_err(),
        Code::NotEnrolled
    );
    let channel = stranger
        .attachment
        .session()
        .open("web", Default::default())
        .await;
    let mut channel = channel.unwrap();
    let refused = in_time("a refusal", channel.accepted()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotEnrolled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setup_code_makes_one_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("code");
    let stage = Stage::with(|settings| settings.setup_file = Some(file.clone())).await;
    let code = stage.relay.setup_code().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), code);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let agent = stage.stranger().await;
    let wrong = OneTimeCode::new([7; 16]).to_string();
    for bad in [wrong.as_str(), "abcd", ""] {
        let refused = agent.enrol(CodeKind::Setup, bad, "admin", "desk").await;
        assert_eq!(refused, Err(Code::InvalidCode));
    }
    for (user, machine) in [("Admin", "desk"), ("relay", "desk"), ("admin", "my desk")] {
        let refused = agent.enrol(CodeKind::Setup, &code, user, machine).await;
        assert_eq!(refused, Err(Code::NameInvalid), "{user} {machine}");
    }
    let identity = agent
        .enrol(CodeKind::Setup, &code, "admin", "desk")
        .await
        .unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.machine.as_str()),
        ("admin", "desk")
    );
    assert_eq!(identity.role, UserRole::Administrator);
    assert_eq!(
        agent.who_am_i().await.unwrap().role,
        UserRole::Administrator
    );

    let again = agent
        .enrol(CodeKind::Setup, &code, "admin", "desk")
        .await
        .unwrap();
    assert_eq!(again.user, "admin", "a lost answer locks nobody out");
    let other = stage.stranger().await;
    let refused = other.enrol(CodeKind::Setup, &code, "eve", "desk").await;
    assert_eq!(refused, Err(Code::InvalidCode));

    let stage = stage.restart().await;
    assert_eq!(stage.relay.setup_code(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_nobody_has_set_up_makes_a_new_code_at_each_start() {
    let stage = Stage::new().await;
    let (first, fingerprint) = (stage.relay.setup_code(), stage.relay.fingerprint());
    let stage = stage.restart().await;
    assert_ne!(stage.relay.setup_code(), first);
    assert_eq!(stage.relay.fingerprint(), fingerprint, "the key stays");
    let agent = stage.stranger().await;
    let refused = agent
        .enrol(CodeKind::Setup, &first.unwrap(), "admin", "desk")
        .await;
    assert_eq!(refused, Err(Code::InvalidCode));
    assert_eq!(agent.attachment.relay_key().fingerprint(), fingerprint);
    let url = &stage.relay.urls()[0];
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with(&fingerprint.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_let_one_machine_in() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let code = admin.invite("alice").await.unwrap();
    let alice = stage.stranger().await;
    let identity = alice
        .enrol(CodeKind::Invite, &code, "", "laptop")
        .await
        .unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.role),
        ("alice", UserRole::User)
    );
    let eve = stage.stranger().await;
    let refused = eve.enrol(CodeKind::Invite, &code, "", "laptop").await;
    assert_eq!(refused, Err(Code::InvalidCode));
    assert_eq!(alice.invite("bob").await, Err(Code::Denied));

    let code = admin.invite("alice").await.unwrap();
    let taken = eve.enrol(CodeKind::Invite, &code, "", "laptop").await;
    assert_eq!(taken, Err(Code::Exists), "alice has a machine of this name");
    eve.enrol(CodeKind::Invite, &code, "", "phone")
        .await
        .unwrap();
    let users = admin.ask(|request| Users { request }.into()).await.unwrap();
    let [Control::UserRows(rows)] = &users[..] else {
        panic!("{users:?}");
    };
    let seen: Vec<_> = rows
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.machines))
        .collect();
    assert_eq!(seen, [("admin", 1), ("alice", 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tries_codes_is_sent_away() {
    let stage = Stage::new().await;
    let eve = stage.stranger().await;
    let mut tries = 0;
    while let Err(Code::InvalidCode) = eve.enrol(CodeKind::Setup, "no", "eve", "desk").await {
        tries += 1;
        assert!(tries < 20, "codes can be tried without end");
    }
    let admin = stage.administrator().await;
    assert_eq!(
        admin.who_am_i().await.unwrap().user,
        "admin",
        "others are not concerned"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_machine_is_out_at_once_and_for_good() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let alice = stage.invited(&admin, "alice").await;
    let machine = "laptop.alice".to_owned();
    admin
        .ask(|request| Revoke { request, machine }.into())
        .await
        .unwrap();
    let ended = in_time("the end", alice.attachment.ended()).await;
    assert_eq!(ended.code(), Code::Ended);
    let again = Agent::attach(
        stage.address(),
        StaticKey::from_bytes(*alice.key.to_bytes()),
    )
    .await;
    assert_eq!(again.who_am_i().await, Err(Code::NotEnrolled));
    let own = "desk".to_owned();
    let refused = admin
        .ask(|request| {
            Revoke {
                request,
                machine: own,
            }
            .into()
        })
        .await;
    assert_eq!(refused, Err(Code::Denied), "the last way in stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_machine_is_known_after_a_restart() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    admin.publish("db").await.unwrap();
    let stage = stage.restart().await;
    until("attaching again", || stage.relay.load().0.attachments > 0).await;
    // The control channel of the old session is gone; the next request opens another.
    let mut identity = admin.who_am_i().await;
    while identity == Err(Code::GoingAway) {
        identity = admin.who_am_i().await;
    }
    assert_eq!(identity.unwrap().user, "admin");
    let services = admin
        .ask(|request| Services { request }.into())
        .await
        .unwrap();
    let [Control::ServiceRows(rows)] = &services[..] else {
        panic!("{services:?}");
    };
    assert_eq!(rows.rows[0].name, "db");
    assert!(!rows.rows[0].present, "until it is published again");
}
