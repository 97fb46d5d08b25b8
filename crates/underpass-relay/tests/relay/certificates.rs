//! Machines that come in by X.509 certificates, on a real relay, with real authorities.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;
use underpass_carrier::x509::OwnCertificate;
use underpass_proto::Code;
use underpass_proto::control::{
    Certify, ChangeUser, Control, Identity, MachineRow, Machines, Revoke, UserChange,
};
use underpass_relay::CertificateUsers;
use underpass_relay::settings::Settings;
use underpass_seal::{StaticKey, certificate_proof};
use underpass_store::{MachineKey, Name, NewCertificate, NewMachine, Store as _, UnixMillis};

use crate::stage::{Agent, Stage, in_time};

const DAY: Duration = Duration::from_secs(86_400);
/// What the issue of living sessions that are shut out allows.
const AT_ONCE: Duration = Duration::from_secs(1);

/// An authority, with the files that a relay reads.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new(parameters, key);
        let authority = Self { dir, issuer };
        std::fs::write(authority.path("authority.pem"), certificate.pem()).unwrap();
        authority.revoke(&[]);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate of `user` with a serial number, after a change.
    fn issue(
        &self,
        user: &str,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> OwnCertificate {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        let name = &mut parameters.distinguished_name;
        name.push(DnType::CommonName, user);
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.not_before = (SystemTime::now() - DAY).into();
        parameters.not_after = (SystemTime::now() + DAY).into();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (self.path("cert.pem"), self.path("key.pem"));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        OwnCertificate::from_pem_files(&cert_file, &key_file).unwrap()
    }

    fn good(&self, user: &str, serial: u64) -> OwnCertificate {
        self.issue(user, serial, |_| ())
    }

    /// Writes the list of what is revoked anew: as a whole, and beside the one before.
    fn revoke(&self, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (SystemTime::now() - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (SystemTime::now() - DAY).into(),
            next_update: (SystemTime::now() + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        std::fs::write(self.path("new.pem"), list).unwrap();
        std::fs::rename(self.path("new.pem"), self.path("revoked.pem")).unwrap();
    }

    fn trust(&self, settings: &mut Settings) {
        settings.certificate_authorities = Some(self.path("authority.pem"));
        settings.certificate_revocations = Some(self.path("revoked.pem"));
    }

    /// A relay that trusts this authority, and its administrator.
    async fn stage(&self) -> (Stage, Agent) {
        let stage = Stage::with(|settings| self.trust(settings)).await;
        let admin = stage.administrator().await;
        (stage, admin)
    }
}

impl Agent {
    async fn certify(&self, own: &OwnCertificate, machine: &str) -> Result<Identity, Code> {
        let hash = self.attachment.session().handshake_hash();
        let signed = own.sign(&certificate_proof(&hash, &self.key.public()));
        self.show(own, signed.unwrap(), machine).await
    }

    /// Shows a certificate with whatever signature.
    async fn show(
        &self,
        own: &OwnCertificate,
        (scheme, signature): (u16, Vec<u8>),
        machine: &str,
    ) -> Result<Identity, Code> {
        let machine = machine.to_owned();
        let certify = |request| {
            Certify {
                request,
                machine,
                chain: own.chain().to_der().into(),
                scheme,
                signature: signature.into(),
            }
            .into()
        };
        match &self.ask(certify).await?[..] {
            [Control::Identity(identity)] => Ok(identity.clone()),
            other => panic!("{other:?}"),
        }
    }

    async fn own_machines(&self) -> Vec<MachineRow> {
        let asked = self.ask(|request| Machines { request }.into()).await;
        match &asked.unwrap()[..] {
            [Control::MachineRows(it)] => it.rows.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The same machine, attached once more.
    async fn again(&self, stage: &Stage) -> Self {
        let key = StaticKey::from_bytes(*self.key.to_bytes());
        Self::attach(stage.address(), key).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lets_a_machine_in_and_is_renewed() {
    let authority = Authority::new();
    let (stage, admin) = authority.stage().await;
    let bob = stage.invited(&admin, "bob").await;
    let robot = stage.stranger().await;
    let identity = robot.certify(&authority.good("bob", 1), "robot").await;
    let identity = identity.unwrap();
    assert_eq!((&*identity.user, &*identity.machine), ("bob", "robot"));
    robot.serve_echo();
    robot.publish("db").await.unwrap();
    let rows = bob.own_machines().await;
    let row = |rows: &[MachineRow]| rows.iter().find(|row| row.name == "robot").unwrap().clone();
    let now = UnixMillis::from(SystemTime::now()).0 / 1000;
    assert!(row(&rows).expires_s.abs_diff(now as u64 + DAY.as_secs()) < 600);

    // The same key, and no certificate, after a restart and at another relay; a session that lives stays.
    let stage = stage.restart().await;
    let again = robot.again(&stage).await;
    assert_eq!(again.who_am_i().await.unwrap().user, "bob");
    let other = stage.another_relay().await;
    let key = || StaticKey::from_bytes(*robot.key.to_bytes());
    let there = Agent::attach(other.addresses()[0].1, key()).await;
    assert_eq!(there.who_am_i().await.unwrap().machine, "robot");

    // Renewed, the name stays; by another user's certificate it is not.
    let long = authority.issue("bob", 2, |it| {
        it.not_after = (SystemTime::now() + 5 * DAY).into();
    });
    assert_eq!(
        again.certify(&long, "other").await.unwrap().machine,
        "robot"
    );
    let rows = again.own_machines().await;
    assert!(row(&rows).expires_s > now as u64 + 4 * DAY.as_secs());
    let wrong = again.certify(&authority.good("admin", 3), "robot").await;
    assert_eq!(wrong, Err(Code::Exists));
    assert_eq!(again.who_am_i().await.unwrap().user, "bob");
    let taken = stage.stranger().await;
    let taken = taken.certify(&authority.good("bob", 4), "robot").await;
    assert_eq!(taken, Err(Code::Exists));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_certificate_is_told_apart() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (stage, admin) = authority.stage().await;
    stage.invited(&admin, "bob").await;
    authority.revoke(&[9]);
    stage.relay.reload().unwrap();
    let days = |n: u32| SystemTime::now() + n * DAY;
    let other = |it: &mut CertificateParams| it.not_after = days(2).into();
    for (own, code) in [
        (stranger.issue("bob", 1, other), Code::CertificateUntrusted),
        (
            authority.issue("bob", 1, |it| {
                it.not_before = (SystemTime::now() - 3 * DAY).into();
                it.not_after = (SystemTime::now() - DAY).into();
            }),
            Code::CertificateExpired,
        ),
        (
            authority.issue("bob", 1, |it| it.not_before = days(1).into()),
            Code::CertificateEarly,
        ),
        (authority.good("bob", 9), Code::CertificateRevoked),
        (
            authority.issue("bob", 1, |it| {
                it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            Code::CertificatePurpose,
        ),
        (authority.good("nobody", 1), Code::NoUser),
        (authority.good("Bob Smith", 1), Code::CertificateUser),
        (authority.good("relay", 1), Code::CertificateUser),
        (
            authority.issue("bob", 1, |it| {
                it.distinguished_name = DistinguishedName::new()
            }),
            Code::CertificateUser,
        ),
    ] {
        let machine = stage.stranger().await;
        assert_eq!(machine.certify(&own, "robot").await, Err(code));
        assert_eq!(machine.who_am_i().await, Err(Code::NotEnrolled));
    }
    // Who goes on trying is sent away.
    let machine = stage.stranger().await;
    let session = machine.attachment.session();
    let own = authority.good("nobody", 1);
    for _ in 0..5 {
        let _ = machine.certify(&own, "robot").await;
    }
    in_time("the end", session.closed()).await;
    // What somebody has asked for is not made by being asked for.
    let none = admin.certify(&authority.good("nobody", 1), "x").await;
    assert_eq!(none, Err(Code::NoUser));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_holds_in_one_session_of_one_machine() {
    let authority = Authority::new();
    let (stage, admin) = authority.stage().await;
    stage.invited(&admin, "bob").await;
    let own = authority.good("bob", 1);
    let (near, far) = (stage.stranger().await, stage.stranger().await);
    let [near_hash, far_hash] =
        [&near, &far].map(|agent| agent.attachment.session().handshake_hash());
    let signed = |hash, key: &StaticKey| own.sign(&certificate_proof(hash, &key.public())).unwrap();
    let proof = Err(Code::CertificateProof);
    // Somebody who stands in between has a session of his own with the relay, and a key of his own.
    for wrong in [
        signed(&near_hash, &near.key),
        signed(&near_hash, &far.key),
        signed(&far_hash, &near.key),
        own.sign(&far_hash).unwrap(),
    ] {
        assert_eq!(far.show(&own, wrong, "robot").await, proof);
    }
    // A certificate is no secret, and nothing without its key.
    let eve = authority.good("eve", 2);
    let hers = eve.sign(&certificate_proof(&near_hash, &near.key.public()));
    assert_eq!(near.show(&own, hers.unwrap(), "robot").await, proof);
    assert_eq!(far.who_am_i().await, Err(Code::NotEnrolled));
    near.certify(&own, "robot").await.unwrap();
    // The same machine in its next session, by what it signed in this one.
    let again = near.again(&stage).await;
    let replayed = signed(&near_hash, &near.key);
    assert_eq!(again.show(&own, replayed, "robot").await, proof);
    again.certify(&own, "robot").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_out_within_a_second_and_may_come_back_by_another() {
    let authority = Authority::new();
    let (stage, admin) = authority.stage().await;
    let alice = stage.invited(&admin, "alice").await;
    let robots = [stage.stranger().await, stage.stranger().await];
    for (robot, serial) in robots.iter().zip([1, 2]) {
        let name = format!("robot-{serial}");
        let own = authority.good("alice", serial);
        robot.certify(&own, &name).await.unwrap();
        robot.serve_echo();
    }
    robots[0].publish("db").await.unwrap();
    let used = alice.connect("db", &robots[0].key).await.unwrap();

    // The list is written anew, and nobody says so.
    authority.revoke(&[1]);
    let begun = Instant::now();
    let ended = in_time("the end", robots[0].attachment.ended()).await;
    assert_eq!(ended.code(), Code::CertificateRevoked);
    while used.status().detached_for.is_none() && !used.is_closed() {
        assert!(begun.elapsed() < AT_ONCE, "the session goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    robots[1].who_am_i().await.unwrap();

    // What is asked for is refused with the reason, by whatever way; nothing is resumed.
    let out = robots[0].again(&stage).await;
    assert_eq!(out.hello().await.unwrap().user, "alice");
    assert_eq!(out.who_am_i().await, Err(Code::CertificateRevoked));
    assert_eq!(out.publish("db").await, Err(Code::CertificateRevoked));
    let same = out.certify(&authority.good("alice", 1), "robot-1").await;
    assert_eq!(same, Err(Code::CertificateRevoked));
    let renewed = out.certify(&authority.good("alice", 3), "robot-1").await;
    assert_eq!(renewed.unwrap().machine, "robot-1");
    out.publish("db").await.unwrap();

    // On SIGHUP the program calls this; half a list changes nothing.
    authority.revoke(&[1, 2]);
    stage.relay.reload().unwrap();
    let ended = in_time("the end", robots[1].attachment.ended()).await;
    assert_eq!(ended.code(), Code::CertificateRevoked);
    std::fs::write(authority.path("revoked.pem"), "-----BEGIN X509 CRL-----\n").unwrap();
    assert!(stage.relay.reload().is_err());
    out.who_am_i().await.unwrap();
    // What is revoked for good by a manager no certificate brings back.
    let machine = "robot-1".to_owned();
    alice
        .ask(|request| Revoke { request, machine }.into())
        .await
        .unwrap();
    let gone = out.again(&stage).await;
    authority.revoke(&[]);
    stage.relay.reload().unwrap();
    let gone = gone.certify(&authority.good("alice", 5), "robot-1").await;
    assert_eq!(gone, Err(Code::Exists));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_ends_what_lives_by_it() {
    let authority = Authority::new();
    let (stage, admin) = authority.stage().await;
    stage.invited(&admin, "bob").await;
    let robot = stage.stranger().await;
    let own = authority.good("bob", 1);
    robot.certify(&own, "robot").await.unwrap();
    // As if it had been issued for so long: at another relay of the group, which knows no more of it.
    let store = stage.store().await;
    let machine = NewMachine {
        name: Name::new("robot").unwrap(),
        key: MachineKey(robot.key.public().0),
    };
    let now = UnixMillis::from(SystemTime::now());
    let certificate = NewCertificate {
        chain: own.chain().to_der(),
        expires: now.saturating_add(Duration::from_secs(2)),
    };
    let bob = Name::new("bob").unwrap();
    let certified = store.certify_machine(&bob, false, &machine, &certificate, now);
    certified.await.unwrap();
    let ended = in_time("the end", robot.attachment.ended()).await;
    assert_eq!(ended.code(), Code::CertificateExpired);
    let again = robot.again(&stage).await;
    assert_eq!(again.who_am_i().await, Err(Code::CertificateExpired));
    let renewed = again.certify(&authority.good("bob", 2), "robot").await;
    assert_eq!(renewed.unwrap().user, "bob");
    again.publish("db").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_made_and_named_as_the_settings_say() {
    let authority = Authority::new();
    let stage = Stage::with(|settings| {
        authority.trust(settings);
        settings.certificate_name = "uri:spiffe://example.org/user/".parse().unwrap();
        settings.certificate_users = CertificateUsers::Make;
    })
    .await;
    let admin = stage.administrator().await;
    let named = |user: &str, serial| {
        let uri = format!("spiffe://example.org/user/{user}");
        authority.issue("somebody else", serial, |it| {
            it.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        })
    };
    let robot = stage.stranger().await;
    let identity = robot.certify(&named("eve", 1), "robot").await.unwrap();
    assert_eq!(identity.user, "eve");
    let nameless = stage.stranger().await;
    let nameless = nameless.certify(&authority.good("bob", 2), "x").await;
    assert_eq!(nameless, Err(Code::CertificateUser));
    // A certificate makes nobody more than a user, and lets nobody in who is shut out.
    let disable = |request| {
        ChangeUser {
            request,
            user: "eve".to_owned(),
            change: UserChange::Disable,
        }
        .into()
    };
    admin.ask(disable).await.unwrap();
    let ended = in_time("the end", robot.attachment.ended()).await;
    assert_eq!(ended.code(), Code::Ended);
    let second = stage.stranger().await;
    let second = second.certify(&named("eve", 3), "second").await;
    assert_eq!(second, Err(Code::Denied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_authorities_lets_nobody_in_by_a_certificate() {
    let authority = Authority::new();
    let (mut stage, admin) = authority.stage().await;
    stage.invited(&admin, "bob").await;
    let robot = stage.stranger().await;
    let own = authority.good("bob", 1);
    robot.certify(&own, "robot").await.unwrap();
    // Closed by default: who came by one is not let in where nobody vouches for it any more.
    stage.settings.certificate_authorities = None;
    stage.settings.certificate_revocations = None;
    let stage = stage.restart().await;
    let again = robot.again(&stage).await;
    assert_eq!(again.who_am_i().await, Err(Code::CertificateUntrusted));
    assert_eq!(again.certify(&own, "robot").await, Err(Code::Denied));
    // What is named must be there at the start.
    let missing = Settings {
        certificate_authorities: Some(authority.path("none.pem")),
        ..stage.settings.clone()
    };
    assert!(underpass_relay::Relay::start(missing).await.is_err());
}
