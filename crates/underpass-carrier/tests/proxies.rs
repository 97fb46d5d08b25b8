//! Carriers through proxies: real ones as Debian ships them, and what stands in the relay's place.

mod proxies {
    pub(crate) mod boxes;
    pub(crate) mod kerberos;
    pub(crate) mod log;
}
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proxies::boxes::{Page, Squid, Tinyproxy, closed_port};
use proxies::kerberos::Realm;
use proxies::log::Log;
use rig::{Rig, SCHEMES, recv_exactly, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use underpass_carrier::proxy::{
    Credentials, CredentialsFile, PacPlace, Proxies, ProxyChoice, ProxyError, ProxySettings,
    ProxyUrl,
};
use underpass_carrier::{
    CarrierError, KINDS, Kind, Listen, NotFound, RelayUrl, Scheme, Server, ServerSettings,
    TlsRoots, TlsTrust, connect, kind_by_name,
};
use underpass_proto::code::Code;

/// What the proxies of these tests know: a password that is found again wherever it leaks.
const USER: &str = "anna";
const SECRET: &str = "open-sesame-4711";
const WRONG: &str = "shut-sesame-4712";

fn through(proxy: &str) -> ProxySettings {
    let mut settings = ProxySettings::default();
    settings.choice = ProxyChoice::Fixed(proxy.parse().expect("valid"));
    settings
}

fn with_password(port: u16, password: &str) -> ProxySettings {
    through(&format!("http://{USER}:{password}@127.0.0.1:{port}"))
}

async fn rig(settings: ProxySettings) -> Rig {
    let mut rig = Rig::new().await;
    rig.client.proxies = Proxies::new(settings);
    rig
}

/// What a proxy for HTTP can pass on at all.
fn by_http() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| !kind.abilities.needs_udp)
}

/// A few bytes both ways by every kind that can be made, and by what way they went.
async fn every_kind_carries(rig: &mut Rig, tunnel: impl Fn(&Kind, Scheme) -> bool) {
    for kind in by_http() {
        for scheme in SCHEMES {
            let url = rig.url(scheme);
            let (mut client, mut server) = rig.pair_to(kind, &url).await;
            for round in 0u8..10 {
                send(&mut client, &[round; 300]).await.expect("alive");
                assert_eq!(recv_exactly(&mut server, 300).await, [round; 300]);
                send(&mut server, &[!round; 300]).await.expect("alive");
                assert_eq!(recv_exactly(&mut client, 300).await, [!round; 300]);
            }
            let way = client.info.proxy.as_ref().expect("through a proxy");
            assert_eq!(way.tunnel, tunnel(kind, scheme), "{} {scheme:?}", kind.name);
            assert!(!way.proxy.contains(USER), "{}", way.proxy);
        }
    }
}

/// The rule: `https` and whatever needs more than requests and answers goes through a tunnel.
fn by_the_rule(kind: &Kind, scheme: Scheme) -> bool {
    scheme == Scheme::Https || kind.abilities.wants_tunnel()
}

async fn fails(rig: &Rig, kind: &str, scheme: Scheme) -> CarrierError {
    let kind = kind_by_name(kind).expect("known");
    let made = connect(&rig.url(scheme), kind, &rig.client).await;
    made.expect_err("must fail")
}

#[tokio::test]
async fn an_open_squid() {
    let Some(squid) = Squid::start("http_access allow all").await else {
        return;
    };
    let mut rig = rig(through(&squid.url())).await;
    every_kind_carries(&mut rig, by_the_rule).await;
}

#[tokio::test]
async fn squid_with_basic() {
    let Some(squid) = Squid::with_auth("basic").await else {
        return;
    };
    let mut rig = rig(with_password(squid.port, SECRET)).await;
    every_kind_carries(&mut rig, by_the_rule).await;
}

#[tokio::test]
async fn squid_with_digest() {
    let Some(squid) = Squid::with_auth("digest").await else {
        return;
    };
    let mut rig = rig(with_password(squid.port, SECRET)).await;
    every_kind_carries(&mut rig, by_the_rule).await;
}

/// Squid's helper speaks all of NTLM's messages but believes every proof; that the proof is right
/// shows the example of the specification.
#[tokio::test]
async fn squid_with_ntlm() {
    let Some(squid) = Squid::with_auth("ntlm").await else {
        return;
    };
    let mut rig = rig(with_password(squid.port, SECRET)).await;
    every_kind_carries(&mut rig, by_the_rule).await;
}

/// Set for the process that has a ticket: the library reads its settings from the environment, which
/// a test cannot change for itself alone.
const WITH_TICKET: &str = "UNDERPASS_TEST_PROXY_WITH_TICKET";

#[tokio::test]
async fn squid_with_negotiate() {
    if let Ok(proxy) = std::env::var(WITH_TICKET) {
        let log = Log::start();
        let mut rig = rig(through(&proxy)).await;
        every_kind_carries(&mut rig, by_the_rule).await;
        let said = log.text();
        assert!(said.contains("TRACE"), "nothing was logged");
        // What shows a ticket (RFC 4178 section 4.2) begins so in base64, and is long.
        let mut words = said.split(|c: char| !c.is_ascii_alphanumeric() && !"+/".contains(c));
        let ticket = words.find(|word| word.starts_with("YII") && word.len() > 50);
        assert_eq!(ticket, None, "a ticket was logged");
        return;
    }
    let Some(realm) = Realm::start().await else {
        return;
    };
    let settings = realm.squid_settings();
    let Some(squid) = Squid::start_with(&settings, realm.environment()).await else {
        return;
    };
    // The ticket is for the name that the proxy is called by.
    let proxy = squid.url().replace("127.0.0.1", "localhost");
    let mut itself = tokio::process::Command::new(std::env::current_exe().expect("known"));
    itself.args(["--exact", "squid_with_negotiate"]);
    itself.envs(realm.environment()).env(WITH_TICKET, &proxy);
    let outcome = rig::within(itself.output()).await.expect("it starts");
    let said = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    // Nobody but this process has no ticket.
    let without = rig(through(&proxy)).await;
    let error = fails(&without, "poll", Scheme::Http).await;
    let CarrierError::Proxy(ProxyError::NoScheme {
        offered, reason, ..
    }) = &error
    else {
        panic!("{error}");
    };
    assert_eq!(offered, "Negotiate");
    assert!(reason.contains("Negotiate: "), "{reason}");
    assert_eq!(error.reason(), Some(Code::ProxyNeedsCredentials));
}

/// Each nonce may be used three times only, so that the proxy calls it stale all the time.
#[tokio::test]
async fn squid_with_digest_that_wears_out() {
    let more = "auth_param digest nonce_max_count 3";
    let Some(squid) = Squid::with_auth_and("digest", more).await else {
        return;
    };
    let mut rig = rig(with_password(squid.port, SECRET)).await;
    let url = rig.url(Scheme::Http);
    let kind = kind_by_name("poll").expect("known");
    let (mut client, mut server) = rig.pair_to(kind, &url).await;
    for round in 0u8..20 {
        send(&mut client, &[round; 30]).await.expect("alive");
        assert_eq!(recv_exactly(&mut server, 30).await, [round; 30]);
    }
}

#[tokio::test]
async fn tinyproxy_with_basic() {
    let config = format!("BasicAuth {USER} {SECRET}");
    let Some(tinyproxy) = Tinyproxy::start(&config).await else {
        return;
    };
    let mut right = rig(with_password(tinyproxy.port, SECRET)).await;
    every_kind_carries(&mut right, by_the_rule).await;
    // It answers a wrong password with the status that is a server's.
    for (kind, scheme) in [("poll", Scheme::Http), ("upgrade", Scheme::Https)] {
        let wrong = rig(with_password(tinyproxy.port, WRONG)).await;
        let error = fails(&wrong, kind, scheme).await;
        assert_eq!(error.reason(), Some(Code::ProxyWrongCredentials), "{error}");
    }
}

/// A proxy that asks, and closes the connection when the answer comes, as one does that has not said
/// that it would close. Whoever shows the password at once is told that the relay is not there.
async fn asks_and_closes() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut asked = false;
            while let Some(head) = read_head(&mut client).await {
                let answer = match head.to_lowercase().contains("proxy-authorization: basic ") {
                    true if asked => break,
                    true => "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
                    false => {
                        "HTTP/1.1 407 Who?\r\nproxy-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n"
                    }
                };
                asked = answer.contains(" 407 ");
                client.write_all(answer.as_bytes()).await.expect("taken");
            }
        }
    });
    port
}

async fn read_head(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// A password that was never heard was not refused.
#[tokio::test]
async fn a_proxy_that_closes_while_it_is_answered_is_answered_again() {
    let first = rig(with_password(asks_and_closes().await, SECRET)).await;
    let error = fails(&first, "poll", Scheme::Http).await;
    let is_beyond = matches!(error, CarrierError::Refused { status: 502, .. });
    assert!(is_beyond, "{error}");
    // By CONNECT too, and with nothing learned before.
    let fresh = rig(with_password(asks_and_closes().await, SECRET)).await;
    let error = fails(&fresh, "upgrade", Scheme::Https).await;
    assert_eq!(error.reason(), Some(Code::ProxyCannotReach), "{error}");
}

#[tokio::test]
async fn credentials_that_are_wrong_or_missing() {
    for scheme in ["basic", "digest"] {
        let Some(squid) = Squid::with_auth(scheme).await else {
            return;
        };
        let wrong = rig(with_password(squid.port, WRONG)).await;
        for (kind, scheme) in [("poll", Scheme::Http), ("upgrade", Scheme::Https)] {
            let error = fails(&wrong, kind, scheme).await;
            let is_wrong = matches!(
                error,
                CarrierError::Proxy(ProxyError::WrongCredentials { .. })
            );
            assert!(is_wrong, "{error}");
            assert_eq!(error.reason(), Some(Code::ProxyWrongCredentials));
            assert!(error.is_about_the_host());
        }
        let missing = rig(through(&squid.url())).await;
        for (kind, url) in [("poll", Scheme::Http), ("upgrade", Scheme::Https)] {
            let error = fails(&missing, kind, url).await;
            let CarrierError::Proxy(ProxyError::NeedsCredentials { offered, .. }) = &error else {
                panic!("{error}");
            };
            assert_eq!(offered.to_lowercase(), scheme);
            assert_eq!(error.reason(), Some(Code::ProxyNeedsCredentials));
        }
        // The wrong password was shown once: to be asked, to answer; later attempts end before the proxy. Without
        // one, each attempt asks.
        let seen = squid.requests_with(" TCP_DENIED/407 ", 4).await;
        assert_eq!(seen, 4, "{scheme}");
    }
}

#[tokio::test]
async fn credentials_from_a_file_and_from_a_prompt() {
    let Some(squid) = Squid::with_auth("digest").await else {
        return;
    };
    let mut settings = through(&squid.url());
    let line = format!("machine 127.0.0.1 login {USER} password {SECRET}");
    settings.credentials = CredentialsFile::parse(&line).expect("valid");
    let mut from_file = rig(settings).await;
    every_kind_carries(&mut from_file, by_the_rule).await;

    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let mut settings = through(&squid.url());
    settings.prompt = Some(Arc::new(move |proxy| {
        assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}");
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Credentials::new(USER, SECRET))
    }));
    let mut prompted = rig(settings).await;
    every_kind_carries(&mut prompted, by_the_rule).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "asked once for all");

    let mut settings = through(&squid.url());
    settings.prompt = Some(Arc::new(|_| None));
    let declined = rig(settings).await;
    let error = fails(&declined, "poll", Scheme::Http).await;
    assert_eq!(error.reason(), Some(Code::ProxyNeedsCredentials));
}

#[tokio::test]
async fn a_proxy_that_refuses_connect() {
    let config = "acl CONNECT method CONNECT\nhttp_access deny CONNECT\nhttp_access allow all";
    let Some(squid) = Squid::start(config).await else {
        return;
    };
    let mut rig = rig(through(&squid.url())).await;
    // It removes upgrades, and passes everything else on.
    for kind in by_http().filter(|kind| {
        let it = &kind.abilities;
        !(it.needs_upgrade || it.two_way_streaming || it.needs_http2)
    }) {
        let url = rig.url(Scheme::Http);
        let (client, _server) = rig.pair_to(kind, &url).await;
        assert!(!client.info.proxy.expect("there").tunnel, "{}", kind.name);
    }
    let error = fails(&rig, "upgrade", Scheme::Http).await;
    assert_eq!(error.code(), "refused", "{error}");
    let error = fails(&rig, "poll", Scheme::Https).await;
    assert_eq!(error.reason(), Some(Code::ProxyRefused), "{error}");
    assert!(error.to_string().contains("403"), "{error}");
}

#[tokio::test]
async fn a_relay_that_the_proxy_cannot_reach() {
    let Some(squid) = Squid::start("http_access allow all").await else {
        return;
    };
    let rig = rig(through(&squid.url())).await;
    let url: RelayUrl = format!("https://127.0.0.1:{}", closed_port())
        .parse()
        .expect("valid");
    let kind = kind_by_name("poll").expect("known");
    let error = connect(&url, kind, &rig.client)
        .await
        .expect_err("nobody there");
    assert_eq!(error.reason(), Some(Code::ProxyCannotReach), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there() {
    let rig = rig(with_password(closed_port(), SECRET)).await;
    for (kind, scheme) in [("poll", Scheme::Http), ("upgrade", Scheme::Https)] {
        let error = fails(&rig, kind, scheme).await;
        assert_eq!(error.reason(), Some(Code::ProxyUnreachable), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn a_pac_file_names_proxies_in_their_order() {
    let Some(squid) = Squid::start("http_access allow all").await else {
        return;
    };
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("proxy.pac");
    let script = format!(
        "function FindProxyForURL(url, host) {{\n\
         if (url.substring(0, 5) == 'https') return 'DIRECT';\n\
         return 'PROXY 127.0.0.1:{}; PROXY 127.0.0.1:{}; DIRECT'; }}",
        closed_port(),
        squid.port
    );
    std::fs::write(&path, &script).expect("written");
    let web = Page::serve(
        "application/x-ns-proxy-autoconfig",
        script.as_bytes().to_vec(),
    )
    .await;
    let places = [
        PacPlace::File(path),
        PacPlace::Web(format!("{}/proxy.pac", web.url())),
    ];
    for place in places {
        let mut settings = ProxySettings::default();
        settings.choice = ProxyChoice::Pac(place);
        let mut rig = rig(settings).await;
        let kind = kind_by_name("poll").expect("known");
        let url = rig.url(Scheme::Http);
        let (client, _server) = rig.pair_to(kind, &url).await;
        assert_eq!(client.info.proxy.expect("there").proxy, squid.url());
        let url = rig.url(Scheme::Https);
        let (client, _server) = rig.pair_to(kind, &url).await;
        assert_eq!(client.info.proxy, None);
    }
}

#[tokio::test]
async fn a_page_in_the_relays_place() {
    let page = Page::serve("text/html", b"<html>please log in</html>".to_vec()).await;
    let direct = Rig::new().await;
    let behind = rig(through(&page.url())).await;
    // What an HTTP/1.1 server says to HTTP/2 by prior knowledge is no page.
    for kind in by_http().filter(|kind| !kind.abilities.needs_http2) {
        let url: RelayUrl = page.url().parse().expect("valid");
        let error = connect(&url, kind, &direct.client)
            .await
            .expect_err("no relay");
        assert_eq!(error.reason(), Some(Code::Portal), "{}: {error}", kind.name);
    }
    // One that answers for every host, as a proxy would.
    let error = fails(&behind, "poll", Scheme::Http).await;
    assert_eq!(error.reason(), Some(Code::Portal), "{error}");
}

/// A box that opens TLS shows a certificate of its own making.
#[tokio::test]
async fn a_certificate_that_somebody_else_has_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (root, identity) = proxies::boxes::signed_by("Box of Acme", folder.path());
    let mut rig = Rig::new().await;
    let address = "127.0.0.1:0".parse().expect("address");
    let tls = Some(identity.clone());
    let listen = [Listen {
        address,
        tls,
        socket: None,
    }];
    let server = Server::bind(&listen, ServerSettings::default(), Arc::new(NotFound));
    let server = server.await.expect("listening");
    let (_, opened) = server.addresses()[0];
    let url: RelayUrl = format!("https://localhost:{}", opened.port())
        .parse()
        .expect("valid");
    let pinned = rig.identity.fingerprint();
    let kind = kind_by_name("poll").expect("known");

    for trust in [TlsTrust::PinnedCertificate(pinned), TlsTrust::System] {
        rig.client.tls = trust.clone();
        rig.client.roots = TlsRoots::default();
        let error = connect(&url, kind, &rig.client)
            .await
            .expect_err("not trusted");
        assert_eq!(error.reason(), Some(Code::Certificate), "{error}");
        let text = error.to_string();
        let shown = underpass_carrier::show_fingerprint(&identity.fingerprint());
        assert!(
            text.contains("Box of Acme") && text.contains(&shown),
            "{text}"
        );
        let both = text.contains(&underpass_carrier::show_fingerprint(&pinned));
        assert_eq!(both, trust != TlsTrust::System, "{text}");

        rig.client.roots = TlsRoots::from_pem_file(&root).expect("a root");
        let carrier = connect(&url, kind, &rig.client).await.expect("trusted");
        let tls = carrier.info.tls.expect("over TLS");
        assert_eq!(tls.certificate_sha256, Some(identity.fingerprint()));
        assert_eq!(tls.issuer.as_deref(), Some("Box of Acme"));
    }
}

/// Everything that is logged at any level while each scheme succeeds and fails.
#[tokio::test]
async fn no_credential_is_logged() {
    let log = Log::start();
    for scheme in ["basic", "digest", "ntlm"] {
        let Some(squid) = Squid::with_auth(scheme).await else {
            return;
        };
        for password in [SECRET, WRONG] {
            let mut rig = rig(with_password(squid.port, password)).await;
            rig.client.connect_timeout = Duration::from_secs(20);
            for (kind, relay) in [("poll", Scheme::Http), ("upgrade", Scheme::Https)] {
                let kind = kind_by_name(kind).expect("known");
                let made = connect(&rig.url(relay), kind, &rig.client).await;
                if let Err(error) = made {
                    log.note(&format!("{error} {error:?}"));
                }
            }
            log.note(&format!("{:?}", rig.client));
        }
    }
    let bad: Result<ProxyUrl, _> = format!("http://{USER}:{SECRET}@h:x").parse();
    log.note(&format!("{bad:?}"));
    let text = log.text();
    assert!(
        text.contains("underpass_carrier"),
        "something was logged: {text}"
    );
    for (name, form) in proxies::log::forms(USER, &[SECRET, WRONG]) {
        assert!(
            !text.contains(&form),
            "{name} of a password is in the log:\n{text}"
        );
    }
}
