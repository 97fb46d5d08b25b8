//! Bytes, ends and aborts, in both directions.

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::exec;
use underpass_lab::server::Redis;
use underpass_lab::traffic::Service;

use crate::place::{LIMIT, MEBIBYTE, Place, pattern, printed};

pub(crate) fn the_examples_work_as_printed() -> Result<()> {
    let place = Place::new()?;
    let redis = Redis::start(&place.a, [127, 0, 0, 1], 6379)?;
    let _published = place.publish("redis", &redis.address().to_string(), &["--plain-http"])?;
    let listed = place.publisher.run(&["services"])?;
    ensure!(listed.contains("readable"), "{listed}");

    // Nothing gets through but single requests.
    let mut tunnel = place.b.command("curl");
    tunnel.args(["-sS", "-p", &format!("{}/", place.relay.url())]);
    place.environment(&mut tunnel);
    let tunnel = exec::output(&mut tunnel, LIMIT)?;
    ensure!(tunnel.errors().contains("403"), "{}", tunnel.errors());

    the_examples_work(&place)
}

/// The two scripts of the page, with the service `redis`.
fn the_examples_work(place: &Place) -> Result<()> {
    let steps = place.bash(&printed("sh")?, &[], b"")?.success()?;
    ensure!(
        steps.text() == "6\n+PONG\r\n12\n+OK\r\nclosed\n",
        "{:?}",
        steps.text()
    );
    let commands = b"SET key value\r\nGET key\r\nQUIT\r\n";
    let done = place.bash(&printed("bash")?, &["redis"], commands)?;
    let done = done.success()?;
    ensure!(
        done.text() == "+OK\r\n$5\r\nvalue\r\n+OK\r\n",
        "{:?}",
        done.text()
    );
    Ok(())
}

pub(crate) fn the_same_over_https() -> Result<()> {
    let place = Place::by_https()?;
    let redis = Redis::start(&place.a, [127, 0, 0, 1], 6379)?;
    let _published = place.publish("redis", &redis.address().to_string(), &["--plain-http"])?;
    the_examples_work(&place)?;

    let opened = place.ask("/plain/open?service=own-echo", Some(b""))?;
    let cookie = opened.header("Set-Cookie").context("no cookie")?;
    ensure!(cookie.ends_with("; Secure"), "{cookie}");
    let sent = pattern(4, 3 * MEBIBYTE + 3);
    let done = place
        .bash(&printed("bash")?, &["own-echo"], &sent)?
        .success()?;
    ensure!(done.stdout == sent, "{}", done.errors());
    // Whoever does not trust the relay's certificate gives no token away.
    let mut doubting = place.b.command("curl");
    doubting.args(["-sS", &format!("{}/plain/open", place.relay.url())]);
    place.environment(&mut doubting);
    doubting.env_remove("CURL_CA_BUNDLE");
    let doubting = exec::output(&mut doubting, LIMIT)?;
    ensure!(
        doubting.errors().contains("certificate"),
        "{}",
        doubting.errors()
    );
    Ok(())
}

pub(crate) fn bytes_are_exact_both_ways() -> Result<()> {
    let place = Place::new()?;
    let echo = Service::echo(&place.a, 0)?;
    let _published = place.publish("echo", &echo.address().to_string(), &["--plain-http"])?;
    let script = printed("bash")?;
    for (name, service, length) in [
        ("echo", &echo, 6 * MEBIBYTE + 7),
        ("own-echo", &place.echo, 9 * MEBIBYTE + 5),
    ] {
        let sent = pattern(1, length);
        let begun = std::time::Instant::now();
        let done = place.bash(&script, &[name], &sent)?.success()?;
        ensure!(
            done.stdout == sent,
            "{name}: {} bytes came back: {}",
            done.stdout.len(),
            done.errors()
        );
        println!(
            "    {name}: {length} bytes there and back in {:.1?}",
            begun.elapsed()
        );
        // One connection for all requests, and it has ended well.
        let tally = service.tally();
        ensure!(tally.connections() == 1, "{tally:?}");
        let ended = || Ok((service.open() == 0).then_some(()));
        exec::wait_until("the connection ends", LIMIT, ended)?;
        ensure!(tally.errors() == 0, "{tally:?}");
    }
    Ok(())
}

pub(crate) fn many_clients_have_sessions_of_their_own() -> Result<()> {
    const CLIENTS: u64 = 6;
    let place = Place::new()?;
    let script = printed("bash")?;
    std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|seed| {
            let (place, script) = (&place, &script);
            scope.spawn(move || {
                let sent = pattern(seed, MEBIBYTE + 1);
                let done = place.bash(script, &["own-echo"], &sent)?.success()?;
                ensure!(done.stdout == sent, "{seed}: {}", done.errors());
                Ok(())
            })
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| bail!("panicked")))
    })?;
    let tally = place.echo.tally();
    ensure!(
        tally.connections() == CLIENTS && tally.errors() == 0,
        "{tally:?}"
    );
    Ok(())
}

pub(crate) fn the_end_of_one_direction_is_not_that_of_the_other() -> Result<()> {
    let place = Place::new()?;
    let count = Service::count(&place.a, 0)?;
    let _published = place.publish("count", &count.address().to_string(), &["--plain-http"])?;
    let sent = pattern(2, 3 * MEBIBYTE);
    for name in ["count", "own-count"] {
        // The count comes only after the service has read the end, and the client reads on after it has said it.
        let done = place.bash(&printed("bash")?, &[name], &sent)?.success()?;
        ensure!(
            done.text() == format!("{}\n", sent.len()),
            "{name}: {}",
            done.text()
        );
    }
    // A service that is the first to end: what the client says afterwards still arrives.
    let first = Service::start(&place.a, 0, |mut stream, tally| {
        use std::io::{Read as _, Write as _};
        stream.write_all(b"over")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        if rest != b"and out" {
            return Err(std::io::Error::other("something else came"));
        }
        let _ = tally;
        Ok(())
    })?;
    let _also = place.publish("first", &first.address().to_string(), &["--plain-http"])?;
    let session = place.open("first")?;
    let down = format!("/plain/{session}/down?offset=");
    let mut read = Vec::new();
    let end = loop {
        let answer = place.ask(&format!("{down}{}", read.len()), None)?;
        ensure!(answer.status == 200, "{answer:?}");
        read.extend_from_slice(&answer.body);
        if let Some(end) = answer.header("Underpass-End") {
            break end.to_owned();
        }
    };
    ensure!(read == b"over" && end == "4", "{read:?} {end}");
    let up = format!("/plain/{session}/up?offset=0&end=1");
    ensure!(place.ask(&up, Some(b"and out"))?.status == 200);
    // Both have said all: closing at once cuts nothing off.
    ensure!(
        place
            .ask(&format!("/plain/{session}/close"), Some(b""))?
            .status
            == 200
    );
    let ended = || Ok((first.tally().connections() == 1 && first.open() == 0).then_some(()));
    exec::wait_until("the service has ended", LIMIT, ended)?;
    ensure!(first.tally().errors() == 0, "{:?}", first.tally());
    Ok(())
}

pub(crate) fn repeated_requests_do_no_harm() -> Result<()> {
    let place = Place::new()?;
    let first = place.ask("/plain/open?service=own-echo&once=a1", Some(b""))?;
    let again = place.ask("/plain/open?service=own-echo&once=a1", Some(b""))?;
    ensure!(first.status == 201 && again.status == 201);
    ensure!(first.body == again.body, "{first:?} {again:?}");
    let other = place.ask("/plain/open?service=own-echo&once=a2", Some(b""))?;
    ensure!(first.body != other.body);
    // The relay has connected before the service's own thread takes notice.
    let connected = || Ok((place.echo.tally().connections() >= 2).then_some(()));
    exec::wait_until("the service has two connections", LIMIT, connected)?;

    // From here on by the cookie, in the way of a client that does not care what is in it.
    let cookie = first.header("Set-Cookie").context("no cookie")?;
    let cookie = cookie.split(';').next().context("no cookie")?;
    let ask = |path: &str, body: Option<&[u8]>| {
        place.ask_with(
            &place.token,
            path,
            body,
            &["-H", &format!("Cookie: {cookie}")],
        )
    };
    let text = pattern(3, 700_000);
    for _ in 0..3 {
        let answer = ask("/plain/up?offset=0", Some(&text[..400_000]))?;
        ensure!(
            answer.status == 200 && answer.text() == "400000\n",
            "{answer:?}"
        );
    }
    // With more behind what was sent before; then an older one, late.
    let answer = ask("/plain/up?offset=100000&end=1", Some(&text[100_000..]))?;
    ensure!(
        answer.header("Underpass-Next") == Some("700000"),
        "{answer:?}"
    );
    ensure!(ask("/plain/up?offset=0", Some(&text[..400_000]))?.status == 200);
    ensure!(ask("/plain/up?offset=700000&end=1", Some(b""))?.status == 200);

    let mut read = Vec::new();
    loop {
        let path = format!("/plain/down?offset={}", read.len());
        let (one, two) = (ask(&path, None)?, ask(&path, None)?);
        ensure!(one.status == 200 && two.status == 200);
        ensure!(
            two.body.starts_with(&one.body),
            "other bytes the second time"
        );
        let next = (read.len() + two.body.len()).to_string();
        ensure!(two.header("Underpass-Next") == Some(&next), "{two:?}");
        ensure!(two.header("Content-Type") == Some("binary/tcp"));
        read.extend_from_slice(&two.body);
        if two.header("Underpass-End") == Some(&next) {
            break;
        }
    }
    ensure!(read == text, "{} bytes", read.len());
    // Acknowledged is forgotten, and the end can be asked for again.
    let end = ask("/plain/down?offset=700000", None)?;
    ensure!(end.header("Underpass-End") == Some("700000"), "{end:?}");
    ensure!(
        place.echo.tally().connections() == 2,
        "{:?}",
        place.echo.tally()
    );
    let old = ask("/plain/down?offset=0", None)?;
    old.refused(409, "UP-OFFSET")?;
    ensure!(old.header("Underpass-Next") == Some("700000"), "{old:?}");
    Ok(())
}

pub(crate) fn an_abort_is_told_from_an_end() -> Result<()> {
    let place = Place::new()?;
    let abort = Service::abort(&place.a, 0, 1, 1000)?;
    let _published = place.publish("abort", &abort.address().to_string(), &["--plain-http"])?;
    let session = place.open("abort")?;
    let down = |offset: usize| place.ask(&format!("/plain/{session}/down?offset={offset}"), None);
    let mut read = 0;
    while read < 1000 {
        let answer = down(read)?;
        ensure!(answer.status == 200 && answer.header("Underpass-End").is_none());
        read += answer.body.len();
    }
    ensure!(
        place
            .ask(&format!("/plain/{session}/up?offset=0"), Some(b"!"))?
            .status
            == 200
    );
    down(1000)?.refused(410, "UP-ABORTED")?;
    down(1000)?.refused(410, "UP-ABORTED")?;
    place
        .ask(&format!("/plain/{session}/up?offset=1"), Some(b"!"))?
        .refused(410, "UP-ABORTED")?;
    // The script of the page says so too.
    let done = place.bash(&printed("bash")?, &["abort"], b"!")?;
    ensure!(done.status.code() == Some(1), "{:?}", done.status);
    ensure!(done.errors().contains("UP-ABORTED"), "{}", done.errors());

    // And the other way round: a client that closes early resets the service's connection.
    let session = place.open("own-echo")?;
    let connected = || Ok((place.echo.open() == 1).then_some(()));
    exec::wait_until("the service is connected", LIMIT, connected)?;
    ensure!(
        place
            .ask(&format!("/plain/{session}/close"), Some(b""))?
            .status
            == 200
    );
    let ended = || Ok((place.echo.tally().errors() == 1).then_some(()));
    exec::wait_until("the service sees a reset", LIMIT, ended)?;
    // A publisher that is stopped takes the session with it.
    let echo = Service::echo(&place.a, 0)?;
    let published = place.publish("echo", &echo.address().to_string(), &["--plain-http"])?;
    let session = place.open("echo")?;
    published.terminate(LIMIT)?;
    let answer = place.ask(&format!("/plain/{session}/down?offset=0&wait=60"), None)?;
    ensure!(answer.status == 410, "{answer:?}");
    Ok(())
}
