//! The proxy that was written for the tests, through real sockets. What it decides is tested beside its source.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::boxes::{Connects, Login, Manners, Stubborn, Unusual};
use underpass_lab::{Policy, wait_until};

use crate::{LIMIT, Net};

fn stubborn(manners: Manners) -> Result<(Net, Stubborn)> {
    let net = Net::new(&Policy::nothing())?;
    let proxy = Stubborn::start(&net.gate, 3128, manners, 1)?;
    Ok((net, proxy))
}

fn with(change: impl FnOnce(&mut Manners)) -> Result<(Net, Stubborn)> {
    let mut manners = Manners::polite();
    change(&mut manners);
    stubborn(manners)
}

pub(crate) fn passes_everything_when_polite() -> Result<()> {
    let (net, proxy) = stubborn(Manners::polite())?;
    let at = proxy.address();
    for framing in ["chunked", "close", "length"] {
        net.answer_passes(at, framing)?;
    }
    net.request_passes(at)?;
    ensure!(net.upgrade(at)?, "no upgrade");
    net.curl(at, &["-p", &net.url("/fields")])?
        .has("GET /fields HTTP/1.1")?;
    // Two requests on one connection, on both sides of the box.
    let (before, url) = (net.origin.connections(), net.url("/fields"));
    net.curl(at, &["-v", &url, &url])?
        .has("Re-using existing connection")?;
    ensure!(net.origin.connections() == before + 1);
    // A megabyte each way.
    let file = net.lab.logs().join("megabyte");
    std::fs::write(&file, vec![b'x'; 1 << 20])?;
    let body = format!("@{}", file.display());
    net.curl(
        at,
        &["-H", "Expect:", "--data-binary", &body, &net.url("/post")],
    )?
    .has("1048576 bytes")
}

pub(crate) fn holds_answers_and_requests() -> Result<()> {
    let (net, proxy) = with(|m| m.holds_answers = true)?;
    let at = proxy.address();
    for framing in ["chunked", "close", "length"] {
        let down = net.begin_download(at, &net.url(&format!("/drip?{framing}")))?;
        down.is_held().with_context(|| framing.to_owned())?;
        down.release_and_finish(&net.origin)?;
    }
    net.request_passes(at)?;
    ensure!(
        net.upgrade_granted_then_silent(at)?,
        "an upgrade was refused"
    );
    proxy.change(|m| m.holds_requests = true);
    let up = net.begin_upload(at, &net.url("/post"))?;
    net.origin.gets_nothing()?;
    up.finish()
}

pub(crate) fn holds_from_the_middle_on() -> Result<()> {
    let (net, proxy) = stubborn(Manners::polite())?;
    let down = net.begin_download(proxy.address(), &net.url("/drip?chunked"))?;
    down.comes()?;
    proxy.change(|m| m.holds_answers = true);
    let other = net.begin_download(proxy.address(), &net.url("/drip?chunked"))?;
    other.is_held()?;
    // It lets go without the server's doing.
    proxy.change(|m| m.holds_answers = false);
    other.comes()?;
    net.origin.release();
    net.origin.release();
    down.finish_with("last")?;
    other.finish_with("last")
}

pub(crate) fn speaks_http10() -> Result<()> {
    let (net, proxy) = with(|m| m.only_http10 = true)?;
    let (at, url) = (proxy.address(), net.url("/fields"));
    let answer = net.curl(at, &["-v", &url, &url])?;
    answer.has("HTTP/1.0 200 OK")?;
    answer.has("GET /fields HTTP/1.0")?;
    answer.lacks("Re-using existing connection")?;
    net.answer_passes(at, "close")?;
    net.curl(at, &["-d", "short", &net.url("/post")])?
        .has("5 bytes")?;
    let chunked = ["-H", "Transfer-Encoding: chunked", "-d", "short"];
    let post = net.url("/post");
    net.curl(at, &[&chunked[..], &[&post]].concat())?
        .has("HTTP/1.0 411 ")
}

pub(crate) fn refuses_methods_bytes_and_tunnels() -> Result<()> {
    let (net, proxy) = with(|m| m.only_get_and_post = true)?;
    let (at, post, fields) = (proxy.address(), net.url("/post"), net.url("/fields"));
    net.curl(at, &["-X", "PUT", "-d", "x", &post])?
        .has("405 ")?;
    net.curl(at, &["-X", "DELETE", &fields])?.has("405 ")?;
    net.curl(at, &["-p", &fields])?.has("405 ")?;
    net.curl(at, &["-d", "x", &post])?.has("1 bytes")?;
    proxy.change(|m| {
        *m = Manners::without_tunnels();
        m.only_text = true;
    });
    net.curl(at, &["-p", &fields])?.has("403 ")?;
    proxy.change(|m| m.connects = Connects::Port443);
    net.curl(at, &["-p", &fields])?.has("403 ")?;
    ensure!(!net.upgrade(at)?, "an upgrade passed");
    net.curl(at, &["-d", "text", &post])?.has("4 bytes")?;
    let binary = ["-H", "Content-Type: application/octet-stream", "-d", "text"];
    net.curl(at, &[&binary[..], &[&post]].concat())?
        .has("415 ")?;
    let file = net.lab.logs().join("binary");
    std::fs::write(&file, b"te\0xt")?;
    let body = format!("@{}", file.display());
    net.curl(at, &["--data-binary", &body, &post])?.has("403 ")
}

pub(crate) fn repeats_posts() -> Result<()> {
    let (net, proxy) = with(|m| m.repeats_posts = true)?;
    let (at, post) = (proxy.address(), net.url("/post"));
    for number in 1..=4u64 {
        net.curl(at, &["-d", "again", &post])?.has("5 bytes")?;
        wait_until("both have come", LIMIT, || {
            Ok((net.origin.posts() == number * 2).then_some(()))
        })?;
    }
    ensure!(proxy.tally().repeated == 4);
    Ok(())
}

pub(crate) fn cuts_what_is_idle_old_or_used() -> Result<()> {
    let short = Duration::from_millis(300);
    let (net, proxy) = with(|m| m.idle_limit = Some(short))?;
    let at = proxy.address();
    // CURLE_PARTIAL_FILE: the body was cut.
    let down = net.begin_download(at, &net.url("/drip?chunked"))?;
    down.comes()?;
    down.fails_with(18)?;
    proxy.change(|m| {
        *m = Manners::polite();
        m.lifetime = Some(short);
    });
    let begin = Instant::now();
    let down = net.begin_download(at, &net.url("/drip?chunked"))?;
    down.fails_with(18)?;
    ensure!(begin.elapsed() >= short, "cut after {:?}", begin.elapsed());
    ensure!(proxy.tally().cut == 2);
    proxy.change(|m| {
        *m = Manners::polite();
        m.requests = Some(2);
    });
    let (before, url) = (proxy.tally().connections, net.url("/fields"));
    net.curl(at, &[&*url; 4])?.has("GET /fields")?;
    ensure!(
        proxy.tally().connections == before + 2,
        "{:?}",
        proxy.tally()
    );
    // From outside, in the middle.
    proxy.change(|m| *m = Manners::polite());
    let down = net.begin_download(at, &net.url("/drip?chunked"))?;
    down.comes()?;
    ensure!(proxy.close_all() > 0);
    down.fails_with(18)
}

pub(crate) fn strips_and_corrupts() -> Result<()> {
    let (net, proxy) = with(|m| m.unusual = Unusual::Stripped)?;
    let (at, url) = (proxy.address(), net.url("/fields"));
    let odd = ["-H", "X-Mine: secret-1", "-H", "Cookie: sid=1", &url];
    let answer = net.curl(at, &odd)?;
    answer.has("Cookie: sid=1")?;
    answer.lacks("X-Mine")?;
    answer.lacks("X-Odd")?;
    proxy.change(|m| m.unusual = Unusual::Corrupted);
    let answer = net.curl(at, &odd)?;
    answer.has("X-Mine: xxxxxx-x")?;
    answer.has("X-Odd: xxxxx-x")?;
    answer.has("Cookie: sid=1")
}

pub(crate) fn is_a_portal_and_a_store() -> Result<()> {
    let (net, proxy) = with(|m| m.caches = true)?;
    let (at, url) = (proxy.address(), net.url("/fields"));
    net.curl(at, &[&url])?.lacks("Age: ")?;
    let before = net.origin.connections();
    net.curl(at, &[&url])?.has("Age: 1")?;
    ensure!(net.origin.connections() == before);
    proxy.change(|m| m.portal = true);
    let answer = net.curl(at, &[&url])?;
    answer.has("200 OK")?;
    answer.has("<html>")?;
    answer.lacks("GET /fields")
}

pub(crate) fn asks_for_ntlm() -> Result<()> {
    let login = Login {
        domain: "LAB".into(),
        user: "clerk".into(),
        password: "Tr0ub4dor & 3".into(),
    };
    let (net, proxy) = with(|m| m.ntlm = Some(login))?;
    let (at, url, post) = (proxy.address(), net.url("/fields"), net.url("/post"));
    let asked = net.curl(at, &[&url])?;
    asked.has("407 ")?;
    asked.has("Proxy-Authenticate: NTLM")?;
    let right = ["--proxy-ntlm", "--proxy-user", "LAB\\clerk:Tr0ub4dor & 3"];
    let run = |login: &[&str], more: &[&str]| net.curl(at, &[login, more].concat());
    run(&right, &[&url])?.has("GET /fields HTTP/1.1")?;
    run(&right, &["-p", &url])?.has("GET /fields HTTP/1.1")?;
    run(&right, &["-d", "body", &post])?.has("4 bytes")?;
    // Once for each connection, however many requests follow.
    let before = proxy.tally();
    run(&right, &[&url, &url, &url])?.has("GET /fields HTTP/1.1")?;
    let after = proxy.tally();
    ensure!(after.connections == before.connections + 1, "{after:?}");
    ensure!(
        after.refused - before.refused <= 2,
        "{before:?}, then {after:?}"
    );
    let wrong = ["--proxy-ntlm", "--proxy-user", "LAB\\clerk:wrong"];
    let answer = run(&wrong, &[&url])?;
    answer.has("407 ")?;
    answer.lacks("GET /fields")?;
    run(&["--proxy-basic", right[1], right[2]], &[&url])?.lacks("GET /fields")
}

pub(crate) fn stands_where_nobody_sees_it() -> Result<()> {
    let net = Net::new(&Policy::web())?;
    let manners = Manners {
        holds_answers: true,
        ..Manners::polite()
    };
    let hidden = Stubborn::before(&net.server, 8080, &net.firewall, manners, 1)?;
    let direct = ["-sS", "-i", &net.url("/fields")];
    net.run(direct.into_iter())?.has("Via: 1.1 stubborn")?;
    ensure!(hidden.tally().requests == 1);
    drop(hidden);
    net.run(direct.into_iter())?.lacks("stubborn")
}
