//! A Kerberos realm on the loopback interface.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::boxes::{Running, closed_port, find, folder, write};

/// A running key distribution centre, a ticket for `anna`, and the key of the service `HTTP/localhost`.
pub(crate) struct Realm {
    running: Running,
}

impl Realm {
    /// None where MIT's packages are not installed.
    pub(crate) async fn start() -> Option<Self> {
        let (kdc, _, _) = (find("krb5kdc")?, find("kadmin.local")?, find("kinit")?);
        let (folder, port) = (folder(), closed_port());
        let at = folder.path().display();
        write(
            &folder.path().join("krb5.conf"),
            &format!(
                "[libdefaults]\n default_realm = LAB.TEST\n dns_lookup_kdc = false\n\
                 dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n\
                 [realms]\n LAB.TEST = {{\n  kdc = 127.0.0.1:{port}\n }}\n\
                 [domain_realm]\n localhost = LAB.TEST\n"
            ),
        );
        write(
            &folder.path().join("kdc.conf"),
            &format!(
                "[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n\
                 [realms]\n LAB.TEST = {{\n  database_name = {at}/principal\n\
                 key_stash_file = {at}/stash\n  acl_file = {at}/acl\n }}\n"
            ),
        );
        let keytab = folder.path().join("http.keytab");
        run(
            folder.path(),
            "kdb5_util",
            &["create", "-s", "-r", "LAB.TEST", "-P", "master"],
            "",
        );
        for query in [
            "addprinc -pw ticket anna".to_owned(),
            "addprinc -randkey HTTP/localhost".to_owned(),
            format!("ktadd -k {} HTTP/localhost", keytab.display()),
        ] {
            run(
                folder.path(),
                "kadmin.local",
                &["-r", "LAB.TEST", "-q", &query],
                "",
            );
        }
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&keytab, readable).expect("set");
        let mut command = Command::new(kdc);
        command.args(["-n", "-r", "LAB.TEST"]);
        command.envs(environment(folder.path()));
        let running = Running::start(command, folder, port).await;
        run(running.path(), "kinit", &["anna@LAB.TEST"], "ticket\n");
        Some(Self { running })
    }

    /// What makes a program use this realm and the ticket.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        environment(self.running.path())
    }

    /// Settings for a squid that takes tickets of this realm.
    pub(crate) fn squid_settings(&self) -> String {
        format!(
            "auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k {}/http.keytab \
             -s HTTP/localhost\n\
             auth_param negotiate children 5\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all",
            self.running.path().display()
        )
    }
}

fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        ("KRB5_CONFIG", file("krb5.conf")),
        ("KRB5_KDC_PROFILE", file("kdc.conf")),
        ("KRB5CCNAME", file("ccache")),
    ]
}

fn run(folder: &Path, program: &str, arguments: &[&str], input: &str) {
    let program = find(program).expect("installed with the others");
    let mut child = Command::new(&program)
        .args(arguments)
        .envs(environment(folder))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{} {arguments:?}", program.display());
}
