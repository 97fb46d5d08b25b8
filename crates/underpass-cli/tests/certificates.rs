//! Machines that log in by X.509 certificates: with real processes, and certificates made by openssl(1).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use running::{Home, Relay, count, counting_service, exchange};
use tempfile::TempDir;

/// What openssl needs to sign, and to write down what it has revoked.
const CONFIG: &str = "\
[ca]
default_ca = own
[own]
dir = .
database = index.txt
unique_subject = no
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
new_certs_dir = .
rand_serial = yes
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
[any]
commonName = supplied
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
[req]
distinguished_name = name
[name]
";

/// An authority, in a folder of its own.
struct Authority {
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("openssl.cnf"), CONFIG).unwrap();
        fs::write(dir.path().join("index.txt"), "").unwrap();
        // Without numbers openssl writes lists of version 1, which RFC 5280 does not have.
        fs::write(dir.path().join("crlnumber"), "01\n").unwrap();
        let authority = Self { dir };
        authority.key("ca.key", &["EC", "ec_paramgen_curve:P-384"]);
        authority.openssl(
            "req -x509 -config openssl.cnf -new -key ca.key -subj /CN=Machines -days 3 -out ca.pem \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign",
        );
        authority.list();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    }

    /// A private key: the algorithm, and an option of it.
    fn key(&self, file: &str, kind: &[&str]) {
        let option = kind
            .get(1)
            .map_or(String::new(), |it| format!("-pkeyopt {it}"));
        let algorithm = kind[0];
        self.openssl(&format!(
            "genpkey -algorithm {algorithm} {option} -out {file}"
        ));
    }

    /// A key and a certificate of `user`, `NAME.key` and `NAME.pem`, with further arguments for the authority.
    fn issue(&self, name: &str, user: &str, kind: &[&str], more: &str) {
        self.key(&format!("{name}.key"), kind);
        self.openssl(&format!(
            "req -config openssl.cnf -new -key {name}.key -subj /CN={user} -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -batch -config openssl.cnf -extensions client -notext -in {name}.csr -out {name}.pem {more}"
        ));
    }

    fn revoke(&self, name: &str) {
        self.openssl(&format!("ca -config openssl.cnf -revoke {name}.pem"));
        self.list();
    }

    /// Writes the list of what is revoked, which appears whole.
    fn list(&self) {
        self.openssl("ca -config openssl.cnf -gencrl -out new.pem");
        fs::rename(self.path("new.pem"), self.path("revoked.pem")).unwrap();
    }

    fn relay(&self) -> Relay {
        let [authorities, lists] = ["ca.pem", "revoked.pem"].map(|file| self.text(file));
        Relay::with(&[
            "--certificate-authorities",
            &authorities,
            "--certificate-revocations",
            &lists,
        ])
    }

    /// The arguments of a login by the certificate of this name.
    fn login(&self, relay: &Relay, name: &str, machine: &str) -> Vec<String> {
        let [certificate, key] = ["pem", "key"].map(|end| self.text(&format!("{name}.{end}")));
        let all = [
            "login",
            &relay.url,
            "--certificate",
            &certificate,
            "--key",
            &key,
        ];
        let all = all.into_iter().chain(["--machine", machine]);
        all.map(str::to_owned).collect()
    }
}

fn refs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_machine_logs_in_by_a_certificate_is_revoked_and_renewed() {
    let authority = Authority::new();
    let relay = authority.relay();
    let alice = relay.administrator();
    relay.invited(&alice, "bob");
    let ec = ["EC", "ec_paramgen_curve:P-256"];
    let robots: Vec<Home> = [
        ("p256", &ec[..]),
        ("ed", &["ED25519"]),
        ("rsa", &["RSA", "rsa_keygen_bits:2048"]),
    ]
    .into_iter()
    .map(|(name, kind)| {
        let home = Home::new();
        authority.issue(name, "bob", kind, "");
        let told = home.ok(&refs(&authority.login(&relay, name, name)));
        assert!(
            told.contains(&format!("as bob (user), this machine being {name}")),
            "{told}"
        );
        home
    })
    .collect();
    let service = counting_service().to_string();
    let publisher = robots[0].start(&["publish", "count", &service]);
    let connected = robots[1].start(&["connect", "count", "127.0.0.1:0"]);
    assert_eq!(exchange(connected.address(), b"one"), count(b"one"));
    assert!(
        alice
            .ok(&["events", "list", "--kind", "login"])
            .contains("certificate")
    );

    // The list is written anew; what lives by the certificate ends, and says why.
    authority.revoke("p256");
    assert_eq!(publisher.end(), Some(3));
    let told = robots[0].fails(3, &["services"]);
    assert!(
        told.contains("UP-CERT-REVOKED") && told.contains("underpass login"),
        "{told}"
    );
    robots[2].ok(&["services"]);
    let told = robots[0].fails(3, &refs(&authority.login(&relay, "p256", "p256")));
    assert!(told.contains("UP-CERT-REVOKED"), "{told}");
    authority.issue("new", "bob", &ec, "");
    let told = robots[0].ok(&refs(&authority.login(&relay, "new", "other")));
    assert!(told.contains("this machine being p256"), "{told}");
    let _publisher = robots[0].start(&["publish", "count", &service]);
    assert_eq!(exchange(connected.address(), b"two"), count(b"two"));

    // Half a list is no list, and the log says so; the same at SIGHUP.
    fs::write(authority.path("revoked.pem"), "-----BEGIN X509 CRL-----\n").unwrap();
    relay
        .process
        .wait_log("which certificates let machines in stays as it was");
    relay.process.hang_up();
    relay
        .process
        .wait_log("which certificates let machines in stays as it was");
    robots[2].ok(&["services"]);
}

#[test]
fn what_is_wrong_with_certificate_or_key_is_told() {
    let authority = Authority::new();
    let relay = authority.relay();
    let alice = relay.administrator();
    relay.invited(&alice, "bob");
    let ec = ["EC", "ec_paramgen_curve:P-256"];
    let refused = |exit: i32, arguments: &[String], said: &str| {
        let told = Home::new().fails(exit, &refs(arguments));
        assert!(told.contains(said), "{told}");
    };
    authority.issue("good", "bob", &ec, "");
    authority.issue("nobody", "nobody", &ec, "");
    refused(
        4,
        &authority.login(&relay, "nobody", "x"),
        "underpass users invite nobody",
    );
    authority.issue(
        "old",
        "bob",
        &ec,
        "-startdate 20200101000000Z -enddate 20210101000000Z",
    );
    refused(3, &authority.login(&relay, "old", "x"), "UP-CERT-EXPIRED");
    let other = Authority::new();
    other.issue("strange", "bob", &ec, "");
    refused(3, &other.login(&relay, "strange", "x"), "UP-CERT-UNTRUSTED");

    // The key of another certificate, one that wants a passphrase, and none.
    let mut mixed = authority.login(&relay, "good", "x");
    let key = mixed.iter().position(|it| it == "--key").unwrap() + 1;
    mixed[key] = authority.text("nobody.key");
    refused(1, &mixed, "certificate and key cannot be used");
    authority.openssl("pkcs8 -topk8 -in good.key -passout pass:secret -out locked.key");
    mixed[key] = authority.text("locked.key");
    refused(1, &mixed, "openssl pkey -in");
    mixed[key] = authority.text("none.key");
    refused(1, &mixed, "cannot use");
    mixed.truncate(key - 1);
    refused(2, &mixed, "--key");

    // Nothing of a key is left behind, in the home or in the log.
    let home = Home::new();
    home.ok(&refs(&authority.login(&relay, "good", "x")));
    let relays = fs::read_to_string(home.path().join("relays.toml")).unwrap();
    assert!(
        !relays.contains("PRIVATE") && relays.contains("bob"),
        "{relays}"
    );
    // A relay that lets nobody in by certificates says so.
    let plain = Relay::start();
    plain.administrator();
    refused(
        3,
        &authority.login(&plain, "good", "x"),
        "certificate_authorities",
    );
    let home = Home::new();
    let told = home.fails(2, &["relay", "--certificate-revocations", "x"]);
    assert!(told.contains("certificate_authorities"), "{told}");
    let told = home.fails(
        1,
        &["relay", "--certificate-authorities", "/nowhere/ca.pem"],
    );
    assert!(told.contains("/nowhere/ca.pem"), "{told}");
}
