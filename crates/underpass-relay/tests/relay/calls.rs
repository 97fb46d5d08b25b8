//! Every call of the control protocol by everybody, on a real relay: one table.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use underpass_endpoint::Session;
use underpass_proto::control::{
    Allow, Attach, Certify, ChangeUser, CodeKind, Connections, Control, ControlType, DecideService,
    Deny, Enrol, Events, Group, GroupRelay, Invite, Kick, LimitRule, Limits, Machines, MakeToken,
    MayUse, Meet, Part, Prove, Publish, Publishing, Register, Resolve, Revoke, ServiceDecision,
    Services, SetLimit, SetPassword, SetPublishing, SetRole, SignIn, Usage, UsageBy, UserChange,
    UserRole, Users, WhoAmI, Withdraw,
};
use underpass_proto::group::RelayList;
use underpass_proto::limit::LimitKind;
use underpass_proto::{Code, Speaker};
use underpass_seal::SigningKey;
use underpass_seal::password::{Login, Registration};
use underpass_store::{
    Day, MachineKey, Name, NewMachine, NewService, NewUsage, PasswordFile, Role, ServiceKey,
    Store as _, UnixMillis, Used,
};

use crate::events::everything;
use crate::stage::{Agent, Stage};

/// Who asks, in the order of the columns: nobody, one who waits for approval, bob, whose things the calls are about,
/// another user, a manager, an administrator.
const CALLERS: usize = 6;

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is carried out.
    Done,
    /// A list in which what is bob's stands.
    Sees,
    /// A list without anything of bob's.
    Blind,
    /// It is refused.
    No(Code),
}

use Outcome::{Blind, Done, No, Sees};

const OUT: Outcome = No(Code::NotEnrolled);
const WAITS: Outcome = No(Code::Waiting);
const DENIED: Outcome = No(Code::Denied);
const BAD_CODE: Outcome = No(Code::InvalidCode);
const NONE: Outcome = No(Code::NoService);
const NO_USER: Outcome = No(Code::NoUser);
const PROTOCOL: Outcome = No(Code::ProtocolViolation);
const LOST: Outcome = No(Code::NoConnection);

/// A call: what it is about, the request with a request number and the number of its cell, what comes of it. For each
/// cell there are, made before: `w-N`, who waits; `u-N`, a user, and `g-N`, a manager, each with a service `x-N` that
/// waits for approval; a machine `m-N` of bob, of mia and of admin; bob's service `s-N`.
struct Call {
    about: &'static str,
    make: fn(u64, usize) -> Control,
    expected: [Outcome; CALLERS],
}

fn change(request: u64, user: String, change: UserChange) -> Control {
    ChangeUser {
        request,
        user,
        change,
    }
    .into()
}

fn role(request: u64, user: String, role: UserRole) -> Control {
    SetRole {
        request,
        user,
        role,
    }
    .into()
}

fn decide(request: u64, service: String, decision: ServiceDecision) -> Control {
    DecideService {
        request,
        service,
        decision,
    }
    .into()
}

fn publishing(request: u64, user: String) -> Control {
    let publishing = Publishing::Free;
    SetPublishing {
        request,
        user,
        publishing,
    }
    .into()
}

fn usage(request: u64, user: &str) -> Control {
    Usage {
        request,
        since_day: 0,
        user: user.to_owned(),
        by: UsageBy::User,
    }
    .into()
}

fn limit(request: u64, user: String) -> Control {
    SetLimit {
        request,
        user,
        limit: LimitKind::Channels,
        rule: LimitRule::Value,
        value: 900,
    }
    .into()
}

fn revoke(request: u64, machine: String) -> Control {
    Revoke { request, machine }.into()
}

fn token(request: u64, user: &str, n: usize) -> Control {
    let (user, name) = (user.to_owned(), format!("t-{n}-{user}"));
    MakeToken {
        request,
        user,
        name,
        key: digest(&format!("token {n} {request}")),
        lifetime_s: 60,
    }
    .into()
}

/// Distinct bytes for each text.
fn digest(text: &str) -> [u8; 32] {
    underpass_seal::sha256(&[text.as_bytes()])
}

fn invite(request: u64, user: String) -> Control {
    Invite {
        request,
        user,
        lifetime_s: 0,
    }
    .into()
}

/// Of a program, and for an application, of this cell.
fn wish(request: u64, peer: &str, n: usize) -> Meet {
    Meet {
        request,
        application: format!("chat-{n}"),
        peer: peer.to_owned(),
        holder: [1; 16],
        only: [0; 32],
    }
}

fn meet(request: u64, peer: &str, n: usize) -> Control {
    wish(request, peer, n).into()
}

fn register(request: u64, user: String) -> Control {
    let (_, message) = Registration::start(b"correct horse").unwrap();
    Register {
        request,
        user,
        message,
    }
    .into()
}

/// The table, with what anybody may call first.
fn calls() -> Vec<Call> {
    macro_rules! calls {
        ($( $about:literal, $make:expr, $expected:expr; )*) => {
            vec![$( Call { about: $about, make: $make, expected: $expected } ),*]
        };
    }
    calls! {
        "attaching", |request, _| Attach {
            request, version: 1, agent: "test".into(), machine_name: "machine".into(),
        }.into(), [Done; 6];
        "a code that is not good", |request, _| Enrol {
            request, kind: CodeKind::Invite, code: "none".into(), user: String::new(), machine: "x".into(),
        }.into(), [BAD_CODE; 6];
        "a login as bob", |request, _| SignIn {
            request, user: "bob".into(), message: Login::start(b"guess").unwrap().1,
        }.into(), [Done; 6];
        "a proof without a login", |request, _| Prove {
            request, machine: "none-such.".into(), message: [7; 64],
        }.into(), [No(Code::NameInvalid); 6];
        "registering somebody new", |request, n| register(request, format!("new-{n}")),
            [Done, Done, DENIED, DENIED, DENIED, DENIED];
        "registering bob", |request, _| register(request, "bob".into()),
            [Done, Done, Done, DENIED, DENIED, DENIED];
        "a password file that is none", |request, _| SetPassword {
            request, user: "bob".into(), machine: "x".into(), file: [0xff; 192],
        }.into(), [PROTOCOL, PROTOCOL, PROTOCOL, DENIED, DENIED, DENIED];
        "a certificate that is none", |request, _| Certify {
            request, machine: "x".into(), chain: vec![7; 9].into(), scheme: 0x0403, signature: vec![7; 9].into(),
        }.into(), [PROTOCOL; 6];
        "oneself", |request, _| WhoAmI { request }.into(), [OUT, WAITS, Done, Done, Done, Done];
        "somebody new", |request, n| invite(request, format!("guest-{n}")),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a manager", |request, n| invite(request, format!("g-{n}")),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "one's own service", |request, n| Publish {
            request, name: format!("own-{n}"), description: String::new(), compression: true, plain_http: false,
        }.into(), [OUT, WAITS, Done, Done, Done, Done];
        "services", |request, _| Services { request }.into(), [OUT, WAITS, Sees, Blind, Sees, Sees];
        "bob's service", |request, n| Withdraw { request, name: format!("s-{n}.bob") }.into(),
            [OUT, WAITS, Done, DENIED, DENIED, Done];
        "bob's service", |request, n| Allow {
            request, who: "alice".into(), service: format!("s-{n}.bob"),
        }.into(), [OUT, WAITS, Done, DENIED, DENIED, Done];
        "bob's service", |request, n| Deny {
            request, who: "alice".into(), service: format!("s-{n}.bob"),
        }.into(), [OUT, WAITS, Done, DENIED, DENIED, Done];
        "bob's service", |request, n| Resolve { request, service: format!("s-{n}.bob") }.into(),
            [OUT, WAITS, Done, DENIED, DENIED, DENIED];
        "users", |request, _| Users { request }.into(), [OUT, WAITS, Sees, Blind, Sees, Sees];
        "machines", |request, _| Machines { request }.into(), [OUT, WAITS, Sees, Blind, Sees, Sees];
        "bob's machine", |request, n| revoke(request, format!("m-{n}.bob")),
            [OUT, WAITS, Done, DENIED, Done, Done];
        "the manager's machine", |request, n| revoke(request, format!("m-{n}.mia")),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "the administrator's machine", |request, n| revoke(request, format!("m-{n}.admin")),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "bob's token", |request, n| token(request, "bob", n), [OUT, WAITS, Done, DENIED, Done, Done];
        "another manager's token", |request, n| token(request, &format!("g-{n}"), n),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "one who waits", |request, n| change(request, format!("w-{n}"), UserChange::Approve),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "one who waits", |request, n| change(request, format!("w-{n}"), UserChange::Deny),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a user", |request, n| change(request, format!("u-{n}"), UserChange::Disable),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a user", |request, n| change(request, format!("u-{n}"), UserChange::Enable),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a user", |request, n| change(request, format!("u-{n}"), UserChange::Approve),
            [OUT, WAITS, DENIED, DENIED, No(Code::Decided), No(Code::Decided)];
        "a manager", |request, n| change(request, format!("g-{n}"), UserChange::Disable),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "the administrator", |request, _| change(request, "admin".into(), UserChange::Disable),
            [OUT, WAITS, DENIED, DENIED, DENIED, No(Code::LastAdministrator)];
        "nobody there", |request, _| change(request, "none".into(), UserChange::Disable),
            [OUT, WAITS, DENIED, DENIED, No(Code::NoUser), No(Code::NoUser)];
        "a user", |request, n| role(request, format!("u-{n}"), UserRole::Manager),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "a manager", |request, n| role(request, format!("g-{n}"), UserRole::User),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "the administrator", |request, _| role(request, "admin".into(), UserRole::Manager),
            [OUT, WAITS, DENIED, DENIED, DENIED, No(Code::LastAdministrator)];
        "one who waits", |request, n| role(request, format!("w-{n}"), UserRole::Manager),
            [OUT, WAITS, DENIED, DENIED, DENIED, No(Code::Waiting)];
        "the relays of the group", |request, _| Group { request }.into(), [OUT, WAITS, Done, Done, Done, Done];
        "events", |request, _| everything(request).into(), [OUT, WAITS, Sees, Blind, Sees, Sees];
        "bob's events", |request, _| Events { user: "bob".into(), ..everything(request) }.into(),
            [OUT, WAITS, Sees, DENIED, Sees, Sees];
        "bob's service for bob's machine", |request, n| MayUse {
            request, service: format!("s-{n}"), machine: digest(&format!("m {n} bob")),
        }.into(), [OUT, WAITS, Done, NONE, NONE, NONE];
        "bob's service for the administrator's machine", |request, n| MayUse {
            request, service: format!("s-{n}"), machine: digest(&format!("m {n} admin")),
        }.into(), [OUT, WAITS, DENIED, NONE, NONE, NONE];
        "bob", |request, n| meet(request, "bob", n), [OUT, WAITS, Done, Done, Done, Done];
        "bob's service", |request, n| Meet {
            application: format!("s-{n}"), ..wish(request, "bob", n)
        }.into(), [OUT, WAITS, No(Code::Oneself), DENIED, DENIED, DENIED];
        "the administrator", |request, n| meet(request, "admin", n), [OUT, WAITS, Done, Done, Done, Done];
        "anybody", |request, n| meet(request, "*", n), [OUT, WAITS, Done, Done, Done, Done];
        "nobody there", |request, n| meet(request, "none", n), [OUT, WAITS, NO_USER, NO_USER, NO_USER, NO_USER];
        "one who waits", |request, n| meet(request, &format!("w-{n}"), n),
            [OUT, WAITS, NO_USER, NO_USER, NO_USER, NO_USER];
        "bob", |request, n| Part {
            request, application: "chat".into(), peer: "bob".into(), holder: [n as u8; 16],
        }.into(), [OUT, WAITS, Done, Done, Done, Done];
        "a user's service that waits",
            |request, n| decide(request, format!("x-{n}.u-{n}"), ServiceDecision::Approve),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a user's service that waits",
            |request, n| decide(request, format!("x-{n}.u-{n}"), ServiceDecision::Refuse),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a manager's service that waits",
            |request, n| decide(request, format!("x-{n}.g-{n}"), ServiceDecision::Approve),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "bob's service", |request, n| decide(request, format!("s-{n}.bob"), ServiceDecision::Refuse),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "bob's service, which does not wait",
            |request, n| decide(request, format!("s-{n}.bob"), ServiceDecision::Approve),
            [OUT, WAITS, DENIED, DENIED, No(Code::Decided), No(Code::Decided)];
        "no service", |request, n| decide(request, format!("none-{n}.bob"), ServiceDecision::Approve),
            [OUT, WAITS, DENIED, DENIED, NONE, NONE];
        "a user", |request, n| publishing(request, format!("u-{n}")),
            [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a manager", |request, n| publishing(request, format!("g-{n}")),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
        "connections", |request, _| Connections { request }.into(),
            [OUT, WAITS, Sees, Blind, Sees, Sees];
        "a connection that is none", |request, _| Kick {
            request, id: "none".into(), reason: String::new(),
        }.into(), [OUT, WAITS, LOST, LOST, LOST, LOST];
        "usage", |request, _| usage(request, ""), [OUT, WAITS, Sees, Blind, Sees, Sees];
        "bob's usage", |request, _| usage(request, "bob"), [OUT, WAITS, Sees, DENIED, Sees, Sees];
        "one's own limits", |request, _| Limits { request, user: String::new() }.into(),
            [OUT, WAITS, Done, Done, Done, Done];
        "bob's limits", |request, _| Limits { request, user: "bob".into() }.into(),
            [OUT, WAITS, Done, DENIED, Done, Done];
        "bob", |request, _| limit(request, "bob".into()), [OUT, WAITS, DENIED, DENIED, Done, Done];
        "a manager", |request, n| limit(request, format!("g-{n}")),
            [OUT, WAITS, DENIED, DENIED, DENIED, Done];
    }
}

/// A file with a list of relays, beside the data folder.
fn announced(data: &Path) -> PathBuf {
    let relay = GroupRelay {
        url: "http://relay.example".into(),
        key: [1; 32],
        certificate: vec![],
    };
    let list = RelayList::sign(&SigningKey::generate(), 1, vec![relay]).unwrap();
    let path = data.with_file_name("relays.list");
    std::fs::write(&path, list.to_string()).unwrap();
    path
}

/// A file with an authority, beside the data folder.
fn authorities(data: &Path) -> PathBuf {
    let path = data.with_file_name("authorities.pem");
    let made = rcgen::generate_simple_self_signed(vec!["authority".to_owned()]).unwrap();
    std::fs::write(&path, made.cert.pem()).unwrap();
    path
}

const AT: UnixMillis = UnixMillis(1_700_000_000_000);

/// The stage, the callers, and the store beneath.
struct Ground {
    _stage: Stage,
    callers: Vec<Agent>,
    store: underpass_store::SqliteStore,
    /// One of bob's with a service of his own.
    _session: Session,
}

impl Ground {
    async fn new() -> Self {
        let stage = Stage::with(|settings| {
            settings.services_per_attachment = 1000;
            settings.announce = Some(announced(&settings.data));
            settings.certificate_authorities = Some(authorities(&settings.data));
        })
        .await;
        let store = stage.store().await;
        let admin = stage.administrator().await;
        let bob = stage.invited(&admin, "bob").await;
        let alice = stage.invited(&admin, "alice").await;
        let mia = stage.invited(&admin, "mia").await;
        let role = |request| role(request, "mia".into(), UserRole::Manager);
        admin.ask(role).await.unwrap();
        bob.serve_echo();
        bob.publish("living").await.unwrap();
        let session = bob.connect("living", &bob.key).await.unwrap();
        let known = store.machine_by_key(&MachineKey(bob.key.public().0)).await;
        let used = NewUsage {
            day: Day(20_000),
            user: known.unwrap().unwrap().user.id,
            service: "living.bob".into(),
            used: Used::default(),
        };
        store.add_usage(&[used]).await.unwrap();
        let nobody = stage.stranger().await;
        let waiting = stage.stranger().await;
        let ground = Self {
            _stage: stage,
            callers: vec![nobody, waiting, bob, alice, mia, admin],
            store,
            _session: session,
        };
        let key = ground.callers[1].key.public().0;
        ground.waits("will", "laptop", key).await;
        ground
    }

    async fn waits(&self, user: &str, machine: &str, key: [u8; 32]) {
        let machine = machine_named(machine, key);
        let file = PasswordFile([1; 192]);
        let user = Name::new(user).unwrap();
        let registered = self.store.register(&user, &file, &machine, 10_000, AT);
        registered.await.unwrap();
    }

    /// Makes what a cell is about.
    async fn prepare(&self, n: usize) {
        self.waits(&format!("w-{n}"), "laptop", digest(&format!("w {n}")))
            .await;
        for (kind, role) in [("u", Role::User), ("g", Role::Manager)] {
            let name = format!("{kind}-{n}");
            self.waits(&name, "laptop", digest(&name)).await;
            let name = Name::new(&name).unwrap();
            let user = self.store.user_by_name(&name).await.unwrap().unwrap();
            self.store.approve(user.id).await.unwrap();
            self.store.set_user_role(user.id, role).await.unwrap();
            self.wants_to_publish(&name, n).await;
        }
        for owner in ["bob", "mia", "admin"] {
            let name = Name::new(owner).unwrap();
            let user = self.store.user_by_name(&name).await.unwrap().unwrap();
            let key = digest(&format!("m {n} {owner}"));
            let machine = machine_named(&format!("m-{n}"), key);
            self.store
                .enrol_machine(user.id, &machine, AT)
                .await
                .unwrap();
        }
        self.callers[2].publish(&format!("s-{n}")).await.unwrap();
    }
}

impl Ground {
    /// A service of that user that waits for approval.
    async fn wants_to_publish(&self, user: &Name, n: usize) {
        let key = MachineKey(digest(user.as_str()));
        let known = self.store.machine_by_key(&key).await.unwrap().unwrap();
        let approval = underpass_store::Publishing::Approval;
        let set = self.store.set_publishing(known.user.id, approval);
        set.await.unwrap();
        let service = NewService {
            name: Name::new(&format!("x-{n}")).unwrap(),
            owner: known.user.id,
            machine: known.machine.id,
            key: ServiceKey::new(&digest(&format!("x {user}"))).unwrap(),
            compression: true,
            plain_http: false,
            approval: true,
            at: AT,
        };
        self.store.publish_service(&service).await.unwrap();
    }
}

fn machine_named(name: &str, key: [u8; 32]) -> NewMachine {
    NewMachine {
        name: Name::new(name).unwrap(),
        key: MachineKey(key),
    }
}

/// What an answer comes to: of a list, whether anything of bob's stands in it.
fn outcome(answer: &Result<Vec<Control>, Code>) -> Outcome {
    let messages = match answer {
        Ok(messages) => messages,
        Err(code) => return No(*code),
    };
    let mut sees = None;
    for message in messages {
        let found = match message {
            Control::ServiceRows(it) => it.rows.iter().any(|row| row.owner == "bob"),
            Control::UserRows(it) => it.rows.iter().any(|row| row.name == "bob"),
            Control::MachineRows(it) => it.rows.iter().any(|row| row.user == "bob"),
            Control::ConnectionRows(it) => it.rows.iter().any(|row| row.client.user == "bob"),
            Control::UsageRows(it) => it.rows.iter().any(|row| row.key == "bob"),
            // What bob did to alice is alice's to know.
            Control::EventRows(it) => it
                .rows
                .iter()
                .any(|row| row.actor == "bob" && row.peer.is_empty()),
            _ => continue,
        };
        sees = Some(sees.unwrap_or(false) || found);
    }
    match sees {
        None => Done,
        Some(true) => Sees,
        Some(false) => Blind,
    }
}

#[test]
fn the_table_has_every_call() {
    let in_table: HashSet<ControlType> = calls()
        .iter()
        .map(|call| (call.make)(1, 1).kind())
        .collect();
    for kind in ControlType::ALL {
        assert_eq!(
            in_table.contains(kind),
            kind.allowed_in(Speaker::Agent),
            "{}",
            kind.name()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_by_everybody_does_what_the_table_says() {
    let ground = Ground::new().await;
    let mut wrong = Vec::new();
    for (row, call) in calls().iter().enumerate() {
        for (column, caller) in ground.callers.iter().enumerate() {
            let n = row * CALLERS + column;
            ground.prepare(n).await;
            let answer = caller.ask(|request| (call.make)(request, n)).await;
            let (found, expected) = (outcome(&answer), call.expected[column]);
            if found != expected {
                let who = ["nobody", "will, who waits", "bob", "alice", "mia", "admin"][column];
                let kind = (call.make)(1, n).kind().name();
                wrong.push(format!(
                    "{kind} about {} by {who}: {found:?}, not {expected:?}",
                    call.about
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Nobody has become anything by it.
    let strangers = [&ground.callers[0], &ground.callers[1]];
    for (who, code) in strangers
        .into_iter()
        .zip([Code::NotEnrolled, Code::Waiting])
    {
        assert_eq!(who.who_am_i().await, Err(code));
    }
}
