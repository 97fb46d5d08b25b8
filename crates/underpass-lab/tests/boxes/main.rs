//! Each box does what it says to the requests of curl, so that what a tunnel makes of it means something.

mod origin;
mod stubborn;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use underpass_lab::boxes::{
    Asks, Buffering, Connects, Haproxy, NginxFront, Squid, SquidRules, Tinyproxy,
};
use underpass_lab::{Cable, Firewall, Host, Lab, Policy, exec, tests};

use origin::Origin;
use stubborn::{
    asks_for_ntlm as stubborn_asks_for_ntlm,
    cuts_what_is_idle_old_or_used as stubborn_cuts_what_is_idle_old_or_used,
    holds_answers_and_requests as stubborn_holds_answers_and_requests,
    holds_from_the_middle_on as stubborn_holds_from_the_middle_on,
    is_a_portal_and_a_store as stubborn_is_a_portal_and_a_store,
    passes_everything_when_polite as stubborn_passes_everything_when_polite,
    refuses_methods_bytes_and_tunnels as stubborn_refuses_methods_bytes_and_tunnels,
    repeats_posts as stubborn_repeats_posts, speaks_http10 as stubborn_speaks_http10,
    stands_where_nobody_sees_it as stubborn_stands_where_nobody_sees_it,
    strips_and_corrupts as stubborn_strips_and_corrupts,
};

fn main() -> ExitCode {
    tests!(
        nothing_gets_out_but_through_the_box,
        squid_passes_at_once_and_removes_upgrades,
        squid_asks_by_basic_and_digest,
        squid_limits_connect_and_bodies,
        squid_opens_tls_with_an_authority_of_its_own,
        tinyproxy_passes_at_once,
        nginx_gathers_unless_told_otherwise,
        haproxy_passes_upgrades,
        stubborn_passes_everything_when_polite,
        stubborn_holds_answers_and_requests,
        stubborn_holds_from_the_middle_on,
        stubborn_speaks_http10,
        stubborn_refuses_methods_bytes_and_tunnels,
        stubborn_repeats_posts,
        stubborn_cuts_what_is_idle_old_or_used,
        stubborn_strips_and_corrupts,
        stubborn_is_a_portal_and_a_store,
        stubborn_asks_for_ntlm,
        stubborn_stands_where_nobody_sees_it,
    )
}

/// What must happen does within this; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// A client whose firewall forwards nothing, the firewall as a host, and an origin outside.
struct Net {
    client: Host,
    gate: Host,
    firewall: Firewall,
    server: Host,
    origin: Origin,
    lab: Lab,
}

impl Net {
    fn new(policy: &Policy) -> Result<Self> {
        let mut lab = Lab::new()?;
        let server = lab.public_host("server", Cable::Plain)?;
        let firewall = lab.firewall("fw", policy, Cable::Plain)?;
        let client = lab.private_host("client", &firewall)?;
        Ok(Self {
            client,
            gate: lab.gateway(&firewall),
            firewall,
            origin: Origin::start(&server, 8080)?,
            server,
            lab,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.origin.address())
    }

    /// curl with these arguments through a proxy, to its end. Shows the head of the answer and the body.
    fn curl(&self, proxy: SocketAddr, arguments: &[&str]) -> Result<Answer> {
        let proxy = format!("http://{proxy}");
        let all = ["-sS", "-i", "--max-time", "20", "--proxy", &proxy];
        self.run(all.iter().chain(arguments).copied())
    }

    fn run<'a>(&self, arguments: impl Iterator<Item = &'a str>) -> Result<Answer> {
        let mut command = self.client.command("curl");
        let done = exec::output(command.args(arguments), LIMIT)?;
        let errors = done.errors();
        Ok(Answer {
            code: done.status.code().unwrap_or(-1),
            text: done.text() + &errors,
        })
    }
}

/// What curl made of it.
struct Answer {
    /// curl's exit code.
    code: i32,
    /// The heads of all answers, the last body, and what curl complained of.
    text: String,
}

impl Answer {
    fn has(&self, what: &str) -> Result<()> {
        ensure!(
            self.text.contains(what),
            "{what:?} is not in (exit code {})\n{}",
            self.code,
            self.text
        );
        Ok(())
    }

    fn lacks(&self, what: &str) -> Result<()> {
        ensure!(!self.text.contains(what), "{what:?} is in\n{}", self.text);
        Ok(())
    }
}

fn nothing_gets_out_but_through_the_box() -> Result<()> {
    let net = Net::new(&Policy::nothing())?;
    let direct = [
        "-sS",
        "--noproxy",
        "*",
        "--connect-timeout",
        "1",
        &net.url("/fields"),
    ];
    let answer = net.run(direct.into_iter())?;
    ensure!(answer.code == 28, "curl got out: {}", answer.text);
    let squid = Squid::start(&net.gate, 3128, &SquidRules::open())?;
    net.curl(squid.address(), &[&net.url("/fields")])?
        .has("GET /fields HTTP/1.1")?;
    // The faults of the firewall hit flows of the proxy too.
    net.firewall.refuse()?;
    let answer = net.curl(squid.address(), &[&net.url("/fields")])?;
    ensure!(answer.code != 0, "{}", answer.text);
    net.firewall.open()?;
    net.curl(squid.address(), &[&net.url("/fields")])?
        .has("GET /fields HTTP/1.1")
}

fn squid_passes_at_once_and_removes_upgrades() -> Result<()> {
    let net = Net::new(&Policy::nothing())?;
    let squid = Squid::start(&net.gate, 3128, &SquidRules::open())?;
    let proxy = squid.address();
    net.curl(proxy, &[&net.url("/fields")])?.has("Via: ")?;
    for framing in ["chunked", "close", "length"] {
        net.answer_passes(proxy, framing)?;
    }
    net.request_passes(proxy)?;
    net.curl(proxy, &["-p", &net.url("/fields")])?
        .has("GET /fields HTTP/1.1")?;
    ensure!(!net.upgrade(proxy)?, "squid passed an upgrade");
    ensure!(
        squid.requests()?.contains("/fields"),
        "{}",
        squid.requests()?
    );
    Ok(())
}

fn squid_asks_by_basic_and_digest() -> Result<()> {
    for (asks, scheme, option, other) in [
        (Asks::Basic, "Basic", "--proxy-basic", "--proxy-digest"),
        (Asks::Digest, "Digest", "--proxy-digest", "--proxy-basic"),
    ] {
        let net = Net::new(&Policy::nothing())?;
        let rules = SquidRules::asking(asks);
        let squid = Squid::start(&net.gate, 3128, &rules)?;
        let (proxy, url) = (squid.address(), net.url("/fields"));
        let right = format!("{}:{}", rules.user, rules.password);
        let with = |option: &str, login: &str, more: &[&str]| {
            let all = [&[option, "--proxy-user", login], more, &[&*url]].concat();
            net.curl(proxy, &all)
        };
        let asked = net.curl(proxy, &[&url])?;
        asked.has("407 Proxy Authentication Required")?;
        asked.has(&format!("Proxy-Authenticate: {scheme} "))?;
        with(option, &right, &[])?.has("GET /fields HTTP/1.1")?;
        with(option, &right, &["-p"])?.has("GET /fields HTTP/1.1")?;
        with(option, &format!("{}:wrong", rules.user), &[])?.lacks("GET /fields")?;
        with(other, &right, &[])?.lacks("GET /fields")?;
    }
    Ok(())
}

fn squid_limits_connect_and_bodies() -> Result<()> {
    let net = Net::new(&Policy::nothing())?;
    let tunnel = |connects: Connects, port: u16| -> Result<Answer> {
        let rules = SquidRules {
            connects,
            ..SquidRules::open()
        };
        let squid = Squid::start(&net.gate, port, &rules)?;
        net.curl(squid.address(), &["-p", &net.url("/fields")])
    };
    tunnel(Connects::Refused, 3128)?.has("403 Forbidden")?;
    tunnel(Connects::Port443, 3129)?.has("403 Forbidden")?;
    let on_443 = Origin::start(&net.server, 443)?;
    let limited = SquidRules {
        connects: Connects::Port443,
        body_limit: Some(64 << 10),
        ..SquidRules::open()
    };
    let squid = Squid::start(&net.gate, 3130, &limited)?;
    let url = format!("http://{}/fields", on_443.address());
    net.curl(squid.address(), &["-p", &url])?
        .has("GET /fields HTTP/1.1")?;
    let file = net.lab.logs().join("body");
    let post = |bytes: usize| -> Result<Answer> {
        std::fs::write(&file, vec![b'x'; bytes])?;
        let body = format!("@{}", file.display());
        net.curl(
            squid.address(),
            &["--data-binary", &body, &net.url("/post")],
        )
    };
    post(64 << 10)?.has("65536 bytes")?;
    post((64 << 10) + 1)?.has("413 ")
}

fn squid_opens_tls_with_an_authority_of_its_own() -> Result<()> {
    let net = Net::new(&Policy::nothing())?;
    let rules = SquidRules {
        intercepts: true,
        ..SquidRules::open()
    };
    let squid = Squid::start(&net.gate, 3128, &rules)?;
    let authority = squid.authority().expect("it intercepts");
    let mut openssl = origin::serve_tls(&net.server, 443, net.lab.logs())?;
    let url = format!("https://{}/", net.server.address());
    let ca = authority.certificate();
    let ca = ca.to_str().expect("temporary folders are UTF-8");
    let seen = net.curl(squid.address(), &["-v", "--cacert", ca, &url])?;
    seen.has(&format!("issuer: CN={}", authority.name()))?;
    seen.has("s_server")?;
    let refused = net.curl(squid.address(), &[&url])?;
    // CURLE_PEER_FAILED_VERIFICATION
    ensure!(refused.code == 60, "curl trusts the box: {}", refused.text);
    openssl.take();
    Ok(())
}

fn tinyproxy_passes_at_once() -> Result<()> {
    let net = Net::new(&Policy::nothing())?;
    let tinyproxy = Tinyproxy::start(&net.gate, 8888)?;
    let proxy = tinyproxy.address();
    net.curl(proxy, &[&net.url("/fields")])?.has("tinyproxy")?;
    net.answer_passes(proxy, "chunked")?;
    net.curl(proxy, &["-p", &net.url("/fields")])?
        .has("GET /fields HTTP/1.1")?;
    ensure!(!net.upgrade(proxy)?, "tinyproxy passed an upgrade");
    Ok(())
}

/// A client that may reach only the front, and one there.
fn fronted<F>(start: impl Fn(&Host, SocketAddr) -> Result<F>) -> Result<(Net, Host, F)> {
    let mut net = Net::new(&Policy::web())?;
    let host = net.lab.public_host("front", Cable::Plain)?;
    let front = start(&host, net.origin.address())?;
    Ok((net, host, front))
}

fn nginx_gathers_unless_told_otherwise() -> Result<()> {
    for buffering in [Buffering::Default, Buffering::Off] {
        let start = |host: &Host, onward| NginxFront::start(host, 8080, onward, buffering);
        let (net, _host, front) = fronted(start)?;
        let at = front.address();
        ensure!(!net.upgrade(at)?, "nginx passed an upgrade");
        let up = net.begin_upload(at, &format!("http://{at}/post"))?;
        match buffering {
            Buffering::Default => net.origin.gets_nothing()?,
            Buffering::Off => net.origin.gets_first_piece()?,
        }
        up.finish()?;
        let down = net.begin_download(at, &format!("http://{at}/drip?length"))?;
        match buffering {
            Buffering::Default => down.is_held()?,
            Buffering::Off => down.comes()?,
        }
        down.release_and_finish(&net.origin)?;
    }
    Ok(())
}

fn haproxy_passes_upgrades() -> Result<()> {
    let start = |host: &Host, onward| Haproxy::start(host, 8080, onward);
    let (net, _host, front) = fronted(start)?;
    let at = front.address();
    ensure!(net.upgrade(at)?, "haproxy did not pass an upgrade");
    let down = net.begin_download(at, &format!("http://{at}/drip?close"))?;
    down.comes()?;
    down.release_and_finish(&net.origin)
}
