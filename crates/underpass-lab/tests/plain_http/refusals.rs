//! Who is refused what, and in which words.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::Service;
use underpass_lab::{Agent, exec};

use crate::place::{Answer, LIMIT, MEBIBYTE, Place};

pub(crate) fn refusals_are_told_apart() -> Result<()> {
    let place = Place::new()?;
    let echo = Service::echo(&place.a, 0)?;
    let published = place.publish("private", &echo.address().to_string(), &[])?;
    let good = place.token.as_str();
    let wrong = format!("upt_{}", "0".repeat(64));
    let open = "/plain/open?service=own-echo";
    for token in [wrong.as_str(), "upt_", "x", &good[..good.len() - 1]] {
        let answer = place.ask_with(token, open, Some(b""), &[])?;
        answer.refused(401, "UP-TOKEN")?;
        ensure!(
            answer.header("WWW-Authenticate") == Some("Bearer"),
            "{answer:?}"
        );
        ensure!(!answer.text().contains(token) || token == "x", "{answer:?}");
    }
    let session = place.open("own-echo")?;
    let up = format!("/plain/{session}/up?offset=");
    let unknown = "f".repeat(32);
    let large = vec![0; 1_000_001];
    for (status, code, path, body) in [
        (
            404,
            "UP-NO-SERVICE",
            "/plain/open?service=nothing".to_owned(),
            Some(&b""[..]),
        ),
        (
            403,
            "UP-DENIED",
            "/plain/open?service=private".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-NAME",
            "/plain/open?service=a..b".to_owned(),
            Some(b""),
        ),
        (
            502,
            "UP-REFUSED",
            "/plain/open?service=own-closed".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-PROTOCOL",
            "/plain/open?name=own-echo".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-PROTOCOL",
            "/plain/up?offset=0".to_owned(),
            Some(b"x"),
        ),
        (405, "UP-PROTOCOL", open.to_owned(), None),
        (
            404,
            "UP-NO-SESSION",
            format!("/plain/{unknown}/down?offset=0"),
            None,
        ),
        (
            404,
            "UP-PROTOCOL",
            format!("/plain/{session}/sideways"),
            None,
        ),
        (409, "UP-OFFSET", format!("{up}1"), Some(b"x")),
        (
            409,
            "UP-OFFSET",
            format!("/plain/{session}/down?offset=1"),
            None,
        ),
        (413, "UP-TOO-LARGE", format!("{up}0"), Some(&large)),
    ] {
        let answer = place.ask(&path, body)?;
        answer.refused(status, code).context(path)?;
    }
    // What lies elsewhere is no business of this interface.
    let elsewhere = place.ask("/other", None)?;
    ensure!(elsewhere.status == 404 && elsewhere.header("Underpass-Code").is_none());
    // None of all this has harmed the session; and HTTP/1.0 does.
    let old = ["--http1.0"];
    let answer = place.ask_with(good, &format!("{up}0"), Some(&large[..1_000_000]), &old)?;
    ensure!(answer.status == 200, "{answer:?}");
    let answer = place.ask_with(good, &format!("/plain/{session}/down?offset=0"), None, &old)?;
    ensure!(
        answer.status == 200 && !answer.body.is_empty(),
        "{}",
        answer.headers
    );
    let length = answer.body.len().to_string();
    ensure!(
        answer.header("Content-Length") == Some(&length),
        "{}",
        answer.headers
    );

    // What the owner permits, the owner can take back: at once, also for who is in.
    drop(published);
    let target = echo.address().to_string();
    let published = place.publish("private", &target, &["--plain-http"])?;
    let session = place.open("private")?;
    published.kill()?;
    let _published = place.publish("private", &target, &[])?;
    let down = format!("/plain/{session}/down?offset=0");
    let ended = || Ok(Some(place.ask(&down, None)?).filter(|answer| answer.status != 200));
    let answer = exec::wait_until("the session ends", LIMIT, ended)?;
    ensure!(answer.status == 410, "{answer:?}");
    place
        .ask("/plain/open?service=private", Some(b""))?
        .refused(403, "UP-DENIED")
}

/// From the proxy's address, at which the relay sees all of them.
pub(crate) fn who_shows_wrong_tokens_waits() -> Result<()> {
    let place = Place::new()?;
    let open = "/plain/open?service=own-echo";
    let wrong = |number: usize| format!("upt_{number:064x}");
    let show = |token: &str| place.ask_with(token, open, Some(b""), &[]);
    ensure!(place.ask(open, Some(b""))?.status == 201);
    let fresh = place.publisher.run(&["users", "token", "fresh"])?;
    let fresh = fresh.trim();
    let shown = (0..).find_map(|number| match show(&wrong(number)) {
        Ok(answer) if answer.status == 401 && number < 100 => None,
        answer => Some(answer.map(|answer| (number, answer))),
    });
    let (shown, answer) = shown.context("there are many numbers")??;
    answer.refused(429, "UP-ATTEMPTS")?;
    ensure!(shown >= 11, "after {shown} wrong tokens");
    let wait = answer.header("Retry-After").context("no Retry-After")?;
    ensure!((1..=60).contains(&wait.parse::<u64>()?), "{wait}");
    // The address has to wait, and nobody at it who was right before.
    ensure!(place.ask(open, Some(b""))?.status == 201);
    // Until then a good token is not looked at either; afterwards it is.
    let opened = || {
        let answer = show(fresh)?;
        match answer.status {
            201 => Ok(Some(())),
            _ => answer.refused(429, "UP-ATTEMPTS").map(|()| None),
        }
    };
    exec::wait_until("the wait is over", LIMIT, opened)
}

pub(crate) fn a_token_is_good_for_what_it_says() -> Result<()> {
    let place = Place::new()?;
    let publisher = &place.publisher;
    let echo = Service::echo(&place.a, 0)?;
    let target = echo.address().to_string();
    let _published = place.publish("hers", &target, &["--plain-http"])?;
    let bob = Agent::invited(&place.a, &place.relay, "bob", publisher)?;
    let make = |agent: &Agent, arguments: &[&str]| -> Result<String> {
        let mut all = vec!["users", "token"];
        all.extend(arguments);
        Ok(agent.run(&all)?.trim().to_owned())
    };
    let token = make(&bob, &["meter"])?;
    let open = |token: &str, service: &str| {
        let path = format!("/plain/open?service={service}");
        place.ask_with(token, &path, Some(b""), &[])
    };
    // It may do what its user may, from one request to the next.
    open(&token, "hers")?.refused(403, "UP-DENIED")?;
    publisher.allow("bob", "hers")?;
    let opened = open(&token, "hers")?;
    ensure!(opened.status == 201, "{opened:?}");
    let session = opened.text().trim().to_owned();
    let down = format!("/plain/{session}/down?offset=0&wait=0");
    ensure!(place.ask_with(&token, &down, None, &[])?.status == 200);
    // A session is its own token's, whoever knows its name.
    place.ask(&down, None)?.refused(404, "UP-NO-SESSION")?;
    let second = make(&bob, &["second", "--expires", "1h"])?;
    place
        .ask_with(&second, &down, None, &[])?
        .refused(404, "UP-NO-SESSION")?;

    let listed = bob.run(&["users", "token", "--list"])?;
    ensure!(
        listed.contains("meter") && listed.contains("second"),
        "{listed}"
    );
    ensure!(
        !listed.contains("upt_") && !listed.contains("curl"),
        "{listed}"
    );
    let machines: serde_json::Value = serde_json::from_str(&bob.run(&["machines", "--json"])?)?;
    ensure!(
        machines.to_string().contains("\"kind\":\"token\""),
        "{machines}"
    );
    // Somebody else's tokens are made and revoked by those above them only.
    for refused in [
        &["users", "token", "x", "--user", "admin"][..],
        &["users", "token", "--revoke", "curl"],
    ] {
        ensure!(bob.run(refused).is_err(), "{refused:?}");
    }
    make(publisher, &["of-bob", "--user", "bob"])?;
    ensure!(bob.run(&["users", "token", "--list"])?.contains("of-bob"));

    // Nothing of a token is found in the relay's data.
    let mut data = Vec::new();
    for entry in fs::read_dir(place.relay.data())?.flatten() {
        if entry.path().is_file() {
            data.extend(fs::read(entry.path())?);
        }
    }
    ensure!(data.windows(5).any(|five| five == b"meter"));
    let secret = token.trim_start_matches("upt_").as_bytes();
    ensure!(!data.windows(secret.len()).any(|text| text == secret));

    // Revoked: the session breaks while a request is held, and no other is answered.
    let held = place.b.clone();
    let waiting = {
        let mut command = held.command("curl");
        command.args(["-sS", "-i", "-H", &format!("Authorization: Bearer {token}")]);
        let path = format!("/plain/{session}/down?offset=0&wait=60");
        command.arg(format!("{}{path}", place.relay.url()));
        place.environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?
    };
    bob.run(&["users", "token", "--revoke", "meter"])?;
    let answer = Answer::read(&waiting.wait_with_output()?.stdout)?;
    ensure!(answer.status == 410 || answer.status == 401, "{answer:?}");
    place
        .ask_with(&token, &down, None, &[])?
        .refused(401, "UP-TOKEN")?;
    open(&token, "hers")?.refused(401, "UP-TOKEN")?;
    ensure!(open(&second, "hers")?.status == 201);

    // Expired.
    let short = make(&bob, &["short", "--expires", "1s"])?;
    let expired = || Ok((open(&short, "hers")?.status == 401).then_some(()));
    exec::wait_until("the token expires", LIMIT, expired)
}

pub(crate) fn what_a_session_takes_is_bounded() -> Result<()> {
    let place = Place::with(&[
        "--plain-sessions-per-user",
        "2",
        "--plain-hold",
        "300ms",
        "--plain-idle",
        "15s",
    ])?;
    let session = place.open("own-lazy")?;
    // What the relay and the systems on the way take up is some MiB, and then no more.
    let chunk = vec![7; 1_000_000];
    let mut offset = 0;
    let full = loop {
        ensure!(offset < 64 * MEBIBYTE, "it takes whatever comes");
        let answer = place.ask(
            &format!("/plain/{session}/up?offset={offset}"),
            Some(&chunk),
        )?;
        if answer.status != 200 {
            break answer;
        }
        offset += chunk.len();
    };
    full.refused(503, "UP-BUSY")?;
    ensure!(full.header("Retry-After").is_some(), "{full:?}");
    ensure!(
        full.header("Underpass-Next") == Some(&offset.to_string()),
        "{full:?}"
    );
    println!("    {offset} bytes were taken for a service that reads none");

    let other = place.open("own-echo")?;
    let third = place.ask("/plain/open?service=own-echo", Some(b""))?;
    third.refused(503, "UP-BUSY")?;
    let idle = || Ok((place.echo.tally().errors() == 1 && place.echo.open() == 0).then_some(()));
    exec::wait_until("an idle session is given up", LIMIT, idle)?;
    // It is told so for as long as the relay takes to clear up, then its name means nothing.
    let down = format!("/plain/{other}/down?offset=0");
    let gone = || {
        let answer = place.ask(&down, None)?;
        match answer.status {
            410 => answer.refused(410, "UP-EXPIRED").map(|()| None),
            _ => answer.refused(404, "UP-NO-SESSION").map(Some),
        }
    };
    exec::wait_until("the session is forgotten", LIMIT, gone)?;
    place.open("own-count")?;
    let connected = || Ok((place.count.tally().connections() == 1).then_some(()));
    exec::wait_until("the service is connected", LIMIT, connected)
}
