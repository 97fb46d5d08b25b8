//! Every request by every kind of agent, on a real store.

mod passwords;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;
use underpass_proto::control::{
    Allow, Attach, CodeKind, Deny, Enrol, Invite, Machines, MakeToken, Publish, Resolve, Revoke,
    Services, Users, WhoAmI, Withdraw,
};
use underpass_seal::StaticKey;
use underpass_store::{Role, SqliteStore, UserState};

use super::*;
use crate::code::OneTimeCode;
use crate::hub::{Hub, Limits, Load};
use crate::limits::{UserLimits, Usual};
use crate::queue::Marks;
use crate::settings::Settings;

const NOW: UnixMillis = UnixMillis(1_000_000);

/// A desk with a store of its own and some users.
struct Office {
    desk: Desk,
    store: Arc<dyn Store>,
    draws: AtomicU8,
    /// Keys whose attachments the hub knows.
    attached: Mutex<HashSet<u8>>,
    _folder: TempDir,
}

impl Office {
    /// Enrolled are: admin, the administrator; mia, a manager; bob and alice, users. Each publishes a
    /// service of their own name. The attachment of each has the number of its key's first byte.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("db")).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let (log, _) = Log::new(16);
        let switch = Switch::new(Limits::default(), Marks::default(), 1 << 20, log.clone());
        let rules = Rules {
            limits: UserLimits::new(Usual::of(&Settings::default())),
            relay_key: StaticKey::from_bytes([9; 32]).public(),
            suffix: names::DEFAULT_SUFFIX.to_owned(),
            invitation: Duration::from_secs(3600),
            approval: false,
            services: vec![],
            certificates: Arc::new(Certificates::read(&Settings::default()).unwrap()),
        };
        let passwords = Passwords::begin(store.as_ref(), Some(1000)).await.unwrap();
        let announced = Announced::read(None, rules.relay_key.fingerprint()).unwrap();
        let announced = Arc::new(announced);
        let desk = Desk::new(
            Arc::clone(&store),
            switch,
            log,
            Seen::default(),
            rules,
            passwords,
            announced,
        );
        let office = Self {
            desk,
            store,
            draws: AtomicU8::new(1),
            attached: Mutex::default(),
            _folder: folder,
        };
        office.fill().await;
        office
    }

    async fn fill(&self) {
        let setup = OneTimeCode::new([1; 16]);
        self.store
            .set_setup_code(setup.digest(), NOW)
            .await
            .unwrap();
        self.enrol(1, CodeKind::Setup, setup.to_string(), "admin")
            .await
            .unwrap();
        for (key, user) in [(2, "mia"), (3, "bob"), (4, "alice")] {
            let code = self.invite(1, user).await.unwrap();
            self.enrol(key, CodeKind::Invite, code, "").await.unwrap();
        }
        let mia = Name::new("mia").unwrap();
        let mia = self.store.user_by_name(&mia).await.unwrap().unwrap();
        self.store
            .set_user_role(mia.id, Role::Manager)
            .await
            .unwrap();
        for (key, name) in [
            (1, "of-admin"),
            (2, "of-mia"),
            (3, "of-bob"),
            (4, "of-alice"),
        ] {
            self.ask(key, publish(name)).await.unwrap();
        }
    }

    /// What the agent with this key gets for a request.
    async fn ask(&self, key: u8, request: Control) -> Result<Vec<Control>, Code> {
        let caller = Caller {
            attachment: AttachmentId(u64::from(key)),
            key: [key; 32],
            origin: Origin::Agent,
            handshake_hash: [key; 32],
            address: None,
        };
        if self.attached.lock().unwrap().insert(key) {
            let attachment = caller.attachment;
            let attach = |hub: &mut Hub, now| hub.attach(attachment, None, None, now);
            self.desk.switch.with_hub(attach).unwrap();
        }
        let number = request.request();
        let random = [self.draws.fetch_add(1, Ordering::Relaxed); 16];
        let draw: Box<Draw> = Box::new(move || random);
        let answers = self.desk.answer(&caller, request, NOW, &draw).await;
        assert!(
            answers.iter().all(|answer| answer.request() == number),
            "each answer says to what"
        );
        match &answers[..] {
            [Control::Failed(failed)] => {
                assert!(!failed.text.is_empty());
                Err(Code::from_number(failed.code).unwrap())
            }
            _ => Ok(answers),
        }
    }

    async fn invite(&self, key: u8, user: &str) -> Result<String, Code> {
        match &self.ask(key, invite(user)).await?[..] {
            [Control::Invited(invited)] => Ok(invited.code.clone()),
            other => panic!("{other:?}"),
        }
    }

    async fn enrol(&self, key: u8, kind: CodeKind, code: String, user: &str) -> Result<(), Code> {
        let enrol = Enrol {
            request: 1,
            kind,
            code,
            user: user.to_owned(),
            machine: format!("machine-{key}"),
        };
        self.ask(key, enrol.into()).await.map(drop)
    }
}

fn publish(name: &str) -> Control {
    Publish {
        request: 2,
        name: name.to_owned(),
        description: String::new(),
        compression: false,
        plain_http: false,
    }
    .into()
}

fn invite(user: &str) -> Control {
    Invite {
        request: 3,
        user: user.to_owned(),
        lifetime_s: 60,
    }
    .into()
}

fn withdraw(name: &str) -> Control {
    let name = name.to_owned();
    Withdraw { request: 4, name }.into()
}

fn allow(who: &str, service: &str) -> Control {
    let (who, service) = (who.to_owned(), service.to_owned());
    Allow {
        request: 5,
        who,
        service,
    }
    .into()
}

fn deny(who: &str, service: &str) -> Control {
    let (who, service) = (who.to_owned(), service.to_owned());
    Deny {
        request: 6,
        who,
        service,
    }
    .into()
}

fn resolve(service: &str) -> Control {
    let service = service.to_owned();
    Resolve {
        request: 7,
        service,
    }
    .into()
}

fn revoke(machine: &str) -> Control {
    let machine = machine.to_owned();
    Revoke {
        request: 8,
        machine,
    }
    .into()
}

fn attach(version: u16) -> Control {
    Attach {
        request: 9,
        version,
        agent: "test".into(),
        machine_name: "here".into(),
    }
    .into()
}

/// What is asked, and what comes of it for each kind of agent.
type Row = (&'static str, Control, [Result<(), Code>; 4]);

#[tokio::test]
async fn who_may_ask_for_what() {
    use Code::{Denied, NoService, NotEnrolled};
    let out = Err(NotEnrolled);
    let no = Err(Denied);
    let yes = Ok(());
    // The columns: a stranger, alice who is a user, mia who is a manager, the administrator.
    let table: &[Row] = &[
        ("attach", attach(1), [yes, yes, yes, yes]),
        (
            "who am I",
            WhoAmI { request: 1 }.into(),
            [out, yes, yes, yes],
        ),
        (
            "services",
            Services { request: 1 }.into(),
            [out, yes, yes, yes],
        ),
        ("users", Users { request: 1 }.into(), [out, yes, yes, yes]),
        (
            "machines",
            Machines { request: 1 }.into(),
            [out, yes, yes, yes],
        ),
        ("publish", publish("new"), [out, yes, yes, yes]),
        ("invite somebody new", invite("carol"), [out, no, yes, yes]),
        ("invite for a user", invite("bob"), [out, no, yes, yes]),
        ("invite for a manager", invite("mia"), [out, no, yes, yes]),
        (
            "invite for the administrator",
            invite("admin"),
            [out, no, no, yes],
        ),
        (
            "allow on one's own",
            allow("bob", "of-alice"),
            [out, yes, Err(NoService), yes],
        ),
        (
            "allow on another's",
            allow("alice", "of-bob.bob"),
            [out, no, no, yes],
        ),
        (
            "deny on another's",
            deny("alice", "of-bob.bob"),
            [out, no, no, yes],
        ),
        ("use another's", resolve("of-bob.bob"), [out, no, no, no]),
        (
            "use nobody's",
            resolve("nothing"),
            [out, Err(NoService), Err(NoService), Err(NoService)],
        ),
        (
            "withdraw another's",
            withdraw("of-bob.bob"),
            [out, no, no, yes],
        ),
        (
            "revoke of a user",
            revoke("machine-3.bob"),
            [out, no, yes, yes],
        ),
        (
            "revoke of the administrator",
            revoke("machine-1.admin"),
            [out, no, no, no],
        ),
        (
            "revoke of a manager",
            revoke("machine-2.mia"),
            [out, no, no, yes],
        ),
        (
            "revoke of oneself",
            revoke("machine-4.alice"),
            [out, no, yes, yes],
        ),
    ];
    for (what, request, expected) in table {
        for (key, expected) in [50, 4, 2, 1].into_iter().zip(expected) {
            let office = Office::new().await;
            let answer = office.ask(key, request.clone()).await.map(drop);
            assert_eq!(answer, *expected, "{what}, asked by key {key}");
        }
    }
}

#[tokio::test]
async fn what_is_listed_is_what_concerns_the_asker() {
    let office = Office::new().await;
    office.ask(3, allow("alice", "of-bob")).await.unwrap();
    let rows = async |key, request| office.ask(key, request).await.unwrap();
    for (key, users, machines, services) in [(4, 1, 1, 2), (2, 4, 4, 4), (1, 4, 4, 4)] {
        let [Control::UserRows(it)] = &rows(key, Users { request: 1 }.into()).await[..] else {
            panic!("users");
        };
        assert_eq!(it.rows.len(), users, "{key}");
        let [Control::MachineRows(it)] = &rows(key, Machines { request: 1 }.into()).await[..]
        else {
            panic!("machines");
        };
        assert_eq!(it.rows.len(), machines, "{key}");
        let [Control::ServiceRows(it)] = &rows(key, Services { request: 1 }.into()).await[..]
        else {
            panic!("services");
        };
        assert_eq!(it.rows.len(), services, "{key}");
        let of_bob = it.rows.iter().find(|row| row.name == "of-bob").unwrap();
        assert_eq!(
            of_bob.allowed.is_empty(),
            key == 4,
            "who else may is not everybody's business"
        );
    }
}

#[tokio::test]
async fn an_agent_of_another_version_is_refused() {
    let office = Office::new().await;
    for version in [0, 2, u16::MAX] {
        assert_eq!(
            office.ask(1, attach(version)).await,
            Err(Code::VersionUnsupported)
        );
    }
}

#[tokio::test]
async fn a_disabled_user_is_nobody_from_the_next_request_on() {
    let office = Office::new().await;
    let bob = office
        .store
        .user_by_name(&Name::new("bob").unwrap())
        .await
        .unwrap()
        .unwrap();
    office
        .store
        .set_user_state(bob.id, UserState::Disabled)
        .await
        .unwrap();
    assert_eq!(office.ask(3, resolve("of-bob")).await, Err(Code::Ended));
    let attached = office
        .desk
        .switch
        .with_hub(|hub, _| hub.member(AttachmentId(3)).is_some());
    assert!(!attached, "and its attachment is ended");
}

#[tokio::test]
async fn a_store_that_fails_lets_nobody_in() {
    let office = Office::new().await;
    office.store.close().await;
    for request in [
        attach(1),
        WhoAmI { request: 1 }.into(),
        resolve("of-admin"),
        invite("eve"),
    ] {
        assert_eq!(office.ask(1, request).await, Err(Code::StoreUnavailable));
    }
    let check = crate::hub::Check {
        check: crate::hub::CheckId(1),
        user: underpass_store::UserId(1),
        machine: underpass_store::MachineId(1),
        service: crate::hub::Asked::Name("of-admin".into()),
    };
    let refused = office.desk.examine(&check, NOW).await.unwrap_err();
    assert_eq!(refused.code, Code::StoreUnavailable);
    assert!(
        !refused.text.contains("db"),
        "files of the relay are not told to others"
    );
}

#[tokio::test]
async fn one_code_lets_one_of_many_in() {
    let office = Office::new().await;
    let code = office.invite(1, "carol").await.unwrap();
    let tries = (20..30).map(|key| office.enrol(key, CodeKind::Invite, code.clone(), ""));
    let outcomes = futures_util::future::join_all(tries).await;
    let let_in = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(let_in, 1);
    assert!(
        outcomes
            .iter()
            .all(|it| matches!(it, Ok(()) | Err(Code::InvalidCode)))
    );
}

#[tokio::test]
async fn a_service_that_another_machine_publishes_is_not_taken_over() {
    let office = Office::new().await;
    let code = office.invite(1, "bob").await.unwrap();
    office.enrol(7, CodeKind::Invite, code, "").await.unwrap();
    assert_eq!(office.ask(7, publish("of-bob")).await, Err(Code::Exists));
    office.ask(3, withdraw("of-bob")).await.unwrap();
    office.ask(7, publish("of-bob")).await.unwrap();
}

#[tokio::test]
async fn short_names_that_mean_several_services_are_asked_back() {
    let office = Office::new().await;
    for key in [3, 4] {
        office.ask(key, publish("db")).await.unwrap();
        office.ask(key, allow("*", "db")).await.unwrap();
    }
    assert_eq!(office.ask(1, resolve("db")).await, Err(Code::NameAmbiguous));
    assert_eq!(
        office.ask(1, withdraw("db")).await,
        Err(Code::NameAmbiguous)
    );
    office.ask(1, resolve("db.bob")).await.unwrap();
    office.ask(3, resolve("db")).await.unwrap();
    for wrong in ["", "a.b.c", "DB", "db..bob", "x' or 1=1"] {
        assert_eq!(
            office.ask(1, resolve(wrong)).await,
            Err(Code::NameInvalid),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn the_office_is_as_it_says() {
    let office = Office::new().await;
    let (load, _) = office.desk.switch.load();
    let expected = Load {
        attachments: 4,
        services: 4,
        ..Load::default()
    };
    assert_eq!(load, expected);
}

fn make_token(user: &str, name: &str, key: u8, lifetime_s: u64) -> Control {
    MakeToken {
        request: 14,
        user: user.to_owned(),
        name: name.to_owned(),
        key: [key; 32],
        lifetime_s,
    }
    .into()
}

#[tokio::test]
async fn tokens_are_made_for_oneself_and_for_those_below() {
    let office = Office::new().await;
    // Keys 1 to 4: admin, mia the manager, bob, alice.
    for (number, (by, user, expected)) in [
        (3, "", Ok(())),
        (3, "bob", Ok(())),
        (3, "alice", Err(Code::Denied)),
        (3, "nobody", Err(Code::Denied)),
        (2, "alice", Ok(())),
        (2, "admin", Err(Code::Denied)),
        (1, "mia", Ok(())),
        (1, "nobody", Err(Code::NoUser)),
        (99, "", Err(Code::NotEnrolled)),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, key) = (format!("t-{number}"), 100 + number as u8);
        let made = office.ask(by, make_token(user, &name, key, 0)).await;
        assert_eq!(made.map(drop), expected, "{by} for {user:?}");
    }
    let again = office.ask(3, make_token("", "t-0", 100, 0)).await;
    assert!(again.is_ok(), "the first answer may have been lost");
    let taken = office.ask(3, make_token("", "machine-3", 120, 0)).await;
    assert_eq!(taken, Err(Code::Exists));
    let wrong = office.ask(3, make_token("", "No Name", 120, 0)).await;
    assert_eq!(wrong, Err(Code::NameInvalid));
}

#[tokio::test]
async fn a_token_opens_plain_http_and_nothing_else() {
    let office = Office::new().await;
    office
        .ask(3, make_token("", "meter", 50, 60))
        .await
        .unwrap();
    let standing = async |key: u8, origin, seconds: u64| {
        let at = NOW.saturating_add(Duration::from_secs(seconds));
        office.desk.standing([key; 32], origin, at).await.unwrap()
    };
    let is_member = |standing: Standing| matches!(standing, Standing::Member(_));
    assert!(is_member(standing(50, Origin::PlainHttp, 59).await));
    assert!(
        !is_member(standing(50, Origin::PlainHttp, 60).await),
        "expired"
    );
    assert!(!is_member(standing(50, Origin::Agent, 0).await));
    assert!(!is_member(standing(3, Origin::PlainHttp, 0).await));
    assert!(is_member(standing(3, Origin::Agent, 1_000_000).await));
    // Whoever attaches an agent with a token's key is nobody.
    let who = office.ask(50, WhoAmI { request: 1 }.into()).await;
    assert_eq!(who, Err(Code::NotEnrolled));
    let revoke = Revoke {
        request: 1,
        machine: "meter".into(),
    };
    office.ask(3, revoke.into()).await.unwrap();
    assert!(!is_member(standing(50, Origin::PlainHttp, 0).await));
}

#[tokio::test]
async fn the_relay_reads_only_what_its_owner_lets_it() {
    let office = Office::new().await;
    office
        .ask(3, make_token("", "meter", 50, 60))
        .await
        .unwrap();
    let key = MachineKey([50; 32]);
    let token = office.store.machine_by_key(&key).await.unwrap().unwrap();
    let caller = Caller {
        attachment: AttachmentId(50),
        key: [50; 32],
        origin: Origin::PlainHttp,
        handshake_hash: [50; 32],
        address: None,
    };
    let check = crate::hub::Check {
        check: crate::hub::CheckId(1),
        user: token.user.id,
        machine: token.machine.id,
        service: crate::hub::Asked::Name("of-bob".into()),
    };
    for plain_http in [false, true, false] {
        let publish = Publish {
            request: 2,
            name: "of-bob".into(),
            description: String::new(),
            compression: false,
            plain_http,
        };
        office.ask(3, publish.into()).await.unwrap();
        let examined = office.desk.examine(&check, NOW).await;
        let examined = examined.map(drop).map_err(|why| why.code);
        let expected = if plain_http {
            Ok(())
        } else {
            Err(Code::Denied)
        };
        assert_eq!(examined, expected, "{plain_http}");
        let draw: Box<Draw> = Box::new(|| [0; 16]);
        let answer = office.desk.answer(&caller, resolve("of-bob"), NOW, &draw);
        let resolved = matches!(answer.await[..], [Control::Resolved(_)]);
        assert_eq!(resolved, plain_http);
        // His machine may use it in any case.
        office.ask(3, resolve("of-bob")).await.unwrap();
    }
    let later = NOW.saturating_add(Duration::from_secs(60));
    let expired = office.desk.examine(&check, later).await.unwrap_err();
    assert_eq!(expired.code, Code::NotEnrolled);
}
