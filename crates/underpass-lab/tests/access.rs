//! Who gets in, and what those who do not are told.
//!
//! Topology of each: publisher on `a` behind firewall A, client on `b` behind firewall B, the relay in public between
//! them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Finished, Options, Relay, Scene, TwoFirewalls, Way, exec, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        a_fresh_relay_serves_nobody,
        the_setup_code_works_once,
        invitations_work_once,
        services_are_for_those_who_were_allowed,
        names_and_relays_that_are_not_there,
        a_revoked_machine_is_out,
        a_publisher_comes_back,
        status_tells_of_carrier_and_drops,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs `underpass` with `arguments` to its end, whatever that is.
fn attempt(agent: &Agent, arguments: &[&str]) -> Result<Finished> {
    exec::output_with_input(&mut agent.command(arguments)?, b"ping", LIMIT)
}

/// It failed with this exit code, told this stable code, the likely cause and the next step, and printed no result.
fn failed(done: &Finished, exit: i32, code: &str) -> Result<()> {
    let text = done.errors();
    ensure!(
        done.status.code() == Some(exit),
        "exit {exit} expected, {:?} came: {text}",
        done.status
    );
    ensure!(text.contains(code), "{code} expected: {text}");
    ensure!(
        text.contains("likely cause:") && text.contains("next:"),
        "{text}"
    );
    ensure!(done.stdout.is_empty(), "a result: {}", done.text());
    Ok(())
}

fn a_fresh_relay_serves_nobody() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let relay = Relay::start(&net.relay)?;
    let stranger = Agent::unknown(&net.b)?;
    // Without a code there is no login, and without a login nothing else.
    failed(
        &attempt(&stranger, &["login", relay.url()])?,
        3,
        "UP-NOT-ENROLLED",
    )?;
    for command in [
        &["publish", "db", "127.0.0.1:5432"][..],
        &["connect", "db"],
        &["nc", "db"],
        &["services"],
        &["services", "allow", "*", "db"],
        &["users"],
        &["users", "invite", "me"],
        &["machines"],
    ] {
        let done = attempt(&stranger, command)?;
        let refused = [Some(3), Some(4)].contains(&done.status.code());
        ensure!(refused && done.stdout.is_empty(), "{command:?}: {done:?}");
    }
    for code in ["", "AAAA-AAAA", "7K3Q-9FJ2-7K3Q-9FJ2-7K3Q-9FJ2-7K"] {
        for kind in ["--setup", "--invite"] {
            let done = attempt(&stranger, &["login", relay.url(), kind, code])?;
            let refused = [Some(2), Some(3)].contains(&done.status.code());
            ensure!(
                refused,
                "{kind} {code:?}: {:?} {}",
                done.status,
                done.errors()
            );
        }
    }
    // Who holds the code is let in all the same.
    stranger.log_in_first(&relay)
}

fn the_setup_code_works_once() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let relay = Relay::start(&net.relay)?;
    let code = std::fs::read_to_string(relay.setup_file())?;
    let code = code.trim();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&relay.setup_file().metadata()?.permissions());
    ensure!(mode & 0o777 == 0o600, "the setup file's mode is {mode:o}");
    let first = Agent::unknown(&net.a)?;
    first.run(&["login", relay.url(), "--setup", code])?;
    let second = Agent::unknown(&net.b)?;
    let again = ["login", relay.url(), "--setup", code];
    failed(&attempt(&second, &again)?, 3, "UP-CODE")?;
    // Nor does it after a restart, which knows its administrator and offers no other code.
    let _ = std::fs::remove_file(relay.setup_file());
    relay.process().restart()?;
    relay.wait_ready()?;
    failed(&attempt(&second, &again)?, 3, "UP-CODE")?;
    ensure!(!relay.setup_file().exists(), "a second setup code was made");
    first.run(&["users"])?;
    Ok(())
}

fn invitations_work_once() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let relay = Relay::start(&net.relay)?;
    let administrator = Agent::first(&net.a, &relay)?;
    let code = administrator.invite("alice")?;
    let alice = Agent::unknown(&net.b)?;
    alice.log_in(&relay, &code)?;
    let other = Agent::unknown(&net.b)?;
    let again = ["login", relay.url(), "--invite", &code];
    failed(&attempt(&other, &again)?, 3, "UP-CODE")?;
    // Two at once with one code: one is in, the other is not.
    let code = administrator.invite("bob")?;
    let (one, two) = (Agent::unknown(&net.a)?, Agent::unknown(&net.b)?);
    let login = ["login", relay.url(), "--invite", code.as_str()];
    let codes = std::thread::scope(|scope| -> Result<Vec<Option<i32>>> {
        let tries = [&one, &two].map(|agent| scope.spawn(|| attempt(agent, &login)));
        let codes = tries.map(|thread| Ok(thread.join().expect("no panic in it")?.status.code()));
        codes.into_iter().collect()
    })?;
    let count = |code| codes.iter().filter(|got| **got == Some(code)).count();
    ensure!(count(0) == 1 && count(3) == 1, "{codes:?}");
    // Only a manager invites.
    failed(
        &attempt(&alice, &["users", "invite", "carol"])?,
        3,
        "UP-DENIED",
    )
}

fn services_are_for_those_who_were_allowed() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let target = echo.address().to_string();
    let _published = scene.publisher.publish(&[("echo", &target)])?;
    let nc = || attempt(&scene.client, &["nc", "echo"]);
    // Published is not shared.
    failed(&nc()?, 3, "UP-DENIED")?;
    scene.publisher.allow("client", "echo")?;
    ensure!(nc()?.success()?.text() == "ping");
    // Another user gains nothing by that, nor may it allow itself.
    let other = Agent::invited(&scene.net.b, &scene.relay, "other", &scene.publisher)?;
    failed(&attempt(&other, &["nc", "echo"])?, 3, "UP-DENIED")?;
    for name in ["echo", "echo.admin", "echo.admin.underpass.internal"] {
        let done = attempt(&other, &["services", "allow", "other", name])?;
        // Of a service that is not its own it learns no more than that.
        let refused = [Some(3), Some(4)].contains(&done.status.code());
        ensure!(refused, "allow {name}: {:?} {}", done.status, done.errors());
    }
    let connect = attempt(&other, &["connect", "echo", "127.0.0.1:0"])?;
    failed(&connect, 3, "UP-DENIED")?;
    // What was given can be taken back.
    scene
        .publisher
        .run(&["services", "deny", "client", "echo"])?;
    failed(&nc()?, 3, "UP-DENIED")?;
    ensure!(echo.tally().connections() == 1, "a refused one got through");
    scene.publisher.allow("*", "echo")?;
    ensure!(attempt(&other, &["nc", "echo"])?.success()?.text() == "ping");
    Ok(())
}

fn names_and_relays_that_are_not_there() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    failed(
        &attempt(&scene.client, &["nc", "nothing"])?,
        4,
        "UP-NO-SERVICE",
    )?;
    let connect = ["connect", "nothing", "127.0.0.1:0"];
    failed(&attempt(&scene.client, &connect)?, 4, "UP-NO-SERVICE")?;
    // Nothing listens on the relay's port 80; nothing at all has the other address.
    let stranger = Agent::unknown(&scene.net.a)?;
    let address = scene.net.relay.address();
    for url in [format!("http://{address}"), "http://203.0.113.250".into()] {
        let login = ["login", &url, "--invite", "AAAA", "--patience", "2s"];
        failed(&attempt(&stranger, &login)?, 5, "UP-")?;
    }
    // The relay goes away for good.
    let status = scene.relay.process().terminate(LIMIT)?;
    ensure!(status.success(), "the relay ended with {status}");
    for command in [
        &["nc", "nothing"][..],
        &["services"],
        &["publish", "db", "127.0.0.1:5432"],
    ] {
        let patient = [command, &["--patience", "2s"]].concat();
        failed(&attempt(&scene.client, &patient)?, 5, "UP-")
            .with_context(|| format!("{command:?}"))?;
    }
    Ok(())
}

fn a_revoked_machine_is_out() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", echo.address())?;
    let mut stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;
    ping(&mut stream)?;
    let rows = scene.publisher.run(&["machines", "--json"])?;
    let rows: serde_json::Value = serde_json::from_str(&rows)?;
    let rows = rows.as_array().context("machines are a list")?;
    let row = rows.iter().find(|row| row["user"] == "client");
    let name = row.and_then(|row| row["name"].as_str());
    let name = name.with_context(|| format!("no machine of the client in {rows:?}"))?;
    scene
        .publisher
        .run(&["machines", "revoke", &format!("{name}.client")])?;
    // Its living connection ends too, as a break.
    let read = stream.read(&mut [0; 16]);
    ensure!(read.is_err(), "the connection goes on: {read:?}");
    failed(&attempt(&scene.client, &["nc", "echo"])?, 3, "UP-")?;
    Ok(())
}

fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping")?;
    let mut got = [0; 4];
    stream.read_exact(&mut got)?;
    ensure!(&got == b"ping");
    Ok(())
}

fn a_publisher_comes_back() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", echo.address())?;
    let reach =
        || -> Result<()> { ping(&mut traffic::connect(&scene.net.b, way.address(), LIMIT)?) };
    reach()?;
    for graceful in [true, false] {
        if graceful {
            let status = way.published.terminate(LIMIT)?;
            ensure!(status.success(), "the publisher ended with {status}");
        } else {
            way.published.kill()?;
        }
        failed(&attempt(&scene.client, &["nc", "echo"])?, 5, "UP-AWAY")
            .with_context(|| format!("graceful: {graceful}"))?;
        way.published.restart()?;
        way.published.line(LIMIT)?;
        // The entrance that was open all the time leads there again.
        reach().with_context(|| format!("graceful: {graceful}"))?;
        ensure!(attempt(&scene.client, &["nc", "echo"])?.success()?.text() == "ping");
    }
    Ok(())
}

fn status_tells_of_carrier_and_drops() -> Result<()> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::by("ws"))?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", echo.address())?;
    let mut stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;
    ping(&mut stream)?;
    let status = || scene.client.status_of(&way.entrance.process);
    let before = status()?;
    let (path, session) = (&before["relay"], &before["sessions"][0]);
    ensure!(path["carrier"] == "ws" && path["drops"] == 0, "{before}");
    ensure!(path["last_resume_s"].is_null(), "{before}");
    ensure!(path["url"] == scene.relay.url(), "{before}");
    ensure!(
        session["resumes"] == 0 && session["channels"] == 1,
        "{before}"
    );
    ensure!(
        before["entries"][0]["address"] == way.address().to_string(),
        "{before}"
    );

    for cut in 1..=3u64 {
        scene.net.firewall_b.reset_flows()?;
        ping(&mut stream)?;
        let after = status()?;
        ensure!(after["relay"]["drops"] == cut, "after {cut} cuts: {after}");
        ensure!(after["relay"]["carrier"] == "ws", "{after}");
        ensure!(
            after["relay"]["last_resume_s"].as_f64() > Some(0.0),
            "{after}"
        );
        ensure!(
            after["sessions"][0]["resumes"].as_u64() >= Some(cut),
            "{after}"
        );
    }
    // The publisher's side shows the same session, and whose it is.
    let there = scene.publisher.status_of(&way.published)?;
    ensure!(there["sessions"][0]["user"] == "client", "{there}");
    ensure!(there["relay"]["drops"] == 0, "{there}");
    // For people there are words.
    let words = scene.client.run(&["status"])?;
    ensure!(words.contains("ws") && words.contains("echo"), "{words}");
    ensure!(
        words.matches("carried by ws for ").count() == 2
            && words.matches(", 3 drops survived, resumed ").count() == 2,
        "the relay's and the session's story: {words}"
    );
    // The log has the same words.
    let told =
        "session with echo.admin.underpass.internal: carried by ws for 0.0 s, 3 drops survived";
    way.entrance.process.logged(told, LIMIT)?;
    tells_what_it_waits_for(&scene, &way)
}

/// With the publisher gone it is the far end, with the relay gone the relay.
fn tells_what_it_waits_for(scene: &Scene, way: &Way) -> Result<()> {
    let story_of = |path: fn(&serde_json::Value) -> &serde_json::Value| {
        let status = scene.client.status_of(&way.entrance.process)?;
        Ok::<_, anyhow::Error>(path(&status)["path"].clone())
    };
    way.published.kill()?;
    wait_until("the session waits for the far end", LIMIT, || {
        let story = story_of(|status| &status["sessions"][0])?;
        Ok((story["waiting"]["for"] == "the far end").then_some(()))
    })?;
    scene.relay.process().kill()?;
    let story = wait_until("the agent waits for the relay", LIMIT, || {
        let story = story_of(|status| &status["relay"])?;
        let waits = story["waiting"]["for"] == "the relay";
        Ok((waits && story["waiting"]["next_try_s"].is_f64()).then_some(story))
    })?;
    let words = story["words"].as_str().unwrap_or_default();
    ensure!(
        words.starts_with("no path for ") && words.contains(", waiting for the relay ("),
        "{story}"
    );
    Ok(())
}
