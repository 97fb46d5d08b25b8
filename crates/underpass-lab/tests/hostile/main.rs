//! What strangers, liars and broken boxes can do: be refused, and nothing else.
//!
//! In each test somebody uses a session all the time, and must not notice.

mod stage;
mod wire;

use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stage::{LIMIT, Stage, all_closed};
use underpass_lab::traffic::{self, Pattern, Service};
use underpass_lab::{
    Direction, Middlebox, Options, Relay, Scene, Story, TwoFirewalls, each_carrier, tests,
    wait_until,
};

fn main() -> ExitCode {
    tests!(
        what_is_no_http_is_refused,
        what_is_no_packet_is_refused,
        replays_and_strange_resumes_are_refused,
        the_silent_and_the_slow_are_cut,
        half_open_carriers_are_bounded,
        an_imposter_gets_nothing_and_the_session_goes_on_after_him,
        changed_bytes_are_found_and_the_session_goes_on,
    )
}

/// Noise, and HTTP that is none.
fn what_is_no_http_is_refused() -> Result<()> {
    let stage = Stage::set()?;
    for seed in 0..20 {
        let mut noise = vec![0; 4096];
        Pattern::new(seed).fill(&mut noise);
        stage.is_refused(&format!("noise of seed {seed}"), &noise, false)?;
    }
    let id = "00112233445566778899aabbccddeeff";
    let long = "x".repeat(100_000);
    let many = (0..500).map(|n| format!("H{n}: v\r\n")).collect::<String>();
    let requests = [
        (
            "a greeting of another protocol",
            "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        ),
        ("no version", "GET /\r\n\r\n".into()),
        (
            "a long line",
            format!("GET /{long} HTTP/1.1\r\nHost: r\r\n\r\n"),
        ),
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nHost: r\r\nX: {long}\r\n\r\n"),
        ),
        (
            "many headers",
            format!("GET / HTTP/1.1\r\nHost: r\r\n{many}\r\n"),
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
                .into(),
        ),
        (
            "a length below zero",
            "POST / HTTP/1.1\r\nHost: r\r\nContent-Length: -1\r\n\r\n".into(),
        ),
        (
            "no page",
            "GET /admin HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a carrier without an upgrade",
            "GET /upgrade HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".into(),
        ),
        (
            "a body for nobody's carrier",
            format!(
                "POST /posts/{id}/up/0 HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
            ),
        ),
        (
            "a body of a terabyte",
            format!(
                "POST /posts/{id}/up/0 HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 1099511627776\r\n\r\nhello"
            ),
        ),
        (
            "a poll of nobody's carrier",
            format!(
                "GET /poll/{id}/down/18446744073709551615 HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"
            ),
        ),
        (
            "an offset beyond all numbers",
            format!(
                "POST /poll/{id}/up/99999999999999999999 HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            ),
        ),
        (
            "chunks that are none",
            format!(
                "POST /stream/{id}/up HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\nhello\r\n"
            ),
        ),
    ];
    for (what, request) in requests {
        stage.is_refused(what, request.as_bytes(), false)?;
    }
    stage.close()
}

/// A carrier that is made as it should be, and then something that is no packet, or not the first one.
fn what_is_no_packet_is_refused() -> Result<()> {
    let stage = Stage::set()?;
    let session = [7; 16];
    let mut noise = vec![0; 900];
    Pattern::new(1).fill(&mut noise);
    let hello = wire::hello(1, 1, &session, &noise);
    let cut = |packet: &[u8]| packet[..packet.len() / 2].to_vec();
    let packets = [
        ("noise", noise.clone(), false),
        (
            "a version to come",
            wire::hello(77, 77, &session, &noise),
            false,
        ),
        (
            "versions upside down",
            wire::hello(1, 5, &session, &noise),
            false,
        ),
        ("a handshake that is none", hello.clone(), false),
        (
            "a handshake without a message",
            wire::hello(1, 1, &session, &[]),
            false,
        ),
        (
            "other letters than UPS1",
            wire::packet(wire::HELLO, b"HTTP/1.1 and so on"),
            false,
        ),
        ("half a HELLO and the end", cut(&hello), true),
        ("half a HELLO and silence", cut(&hello), false),
        ("an empty HELLO", wire::packet(wire::HELLO, &[]), false),
        ("a packet of no length", wire::varint(0), false),
        ("a packet too long by one", wire::varint(67_585), false),
        ("a packet of a gigabyte", wire::varint(1 << 30), false),
        (
            "a packet of the largest number",
            wire::varint((1 << 62) - 1),
            false,
        ),
        ("an unknown kind", wire::packet(0x55, b"hello"), false),
        (
            "a record before any session",
            wire::packet(wire::RELIABLE, &[0; 40]),
            false,
        ),
        (
            "a routed packet before any session",
            wire::packet(wire::ROUTED, &[0; 40]),
            false,
        ),
        ("a refusal", wire::packet(wire::REFUSED, &[4, 0]), false),
        (
            "a RESUME that is too short",
            wire::packet(wire::RESUME, &[1; 20]),
            false,
        ),
        (
            "padding without end",
            wire::packet(0, &[0; 60_000]).repeat(400),
            false,
        ),
    ];
    for (what, packet, end) in packets {
        let bytes = [
            wire::upgrade(),
            wire::span(&packet[..packet.len().min(0xff_ffff)]),
        ]
        .concat();
        stage.is_refused(what, &bytes, end)?;
    }
    let spans = [
        ("a span of no kind", [9, 0, 0, 1, 0]),
        ("filling without end", [2, 0xff, 0xff, 0xff, 0]),
        ("a poll's number in a stream", [3, 0, 0, 8, 0]),
    ];
    for (what, span) in spans {
        let bytes = [&wire::upgrade()[..], &span, &[0; 64]].concat();
        stage.is_refused(what, &bytes, false)?;
    }
    let refused = stage.say(
        &[
            wire::upgrade(),
            wire::span(&wire::hello(77, 77, &session, &noise)),
        ]
        .concat(),
        false,
    )?;
    let code = wire::refusal(&refused.said).map(|(code, _)| code);
    ensure!(code == Some(0x0c), "UP-VERSION is due, {code:?} came");
    stage.close()
}

/// What a client said is said again by somebody else; sessions are asked for by those whose they are not.
fn replays_and_strange_resumes_are_refused() -> Result<()> {
    let stage = Stage::set()?;
    // Another user of another machine, in whose path a box listens; the stage's own agents are not touched.
    let (listener, first, resumed) = recorded(&stage)?;
    for (what, said) in [
        ("a first connection", &first),
        ("a connection that resumes", &resumed),
    ] {
        // As it was, and cut behind its first packet.
        stage.is_refused(&format!("{what}, again"), said, false)?;
        let packets = wire::packets(&wire::stream(said));
        let (kind, body) = packets.first().context("a client says something")?;
        let alone = [wire::upgrade(), wire::span(&wire::packet(*kind, body))].concat();
        stage.is_refused(&format!("the first packet of {what}, again"), &alone, false)?;
    }
    let packets = wire::packets(&wire::stream(&resumed));
    let (kind, body) = packets.first().context("a client says something")?;
    ensure!(*kind == wire::RESUME, "a packet of kind {kind} came first");
    let session: [u8; 16] = body[..16].try_into()?;
    let say = |what: &str, packet: Vec<u8>| -> Result<u64> {
        let bytes = [wire::upgrade(), wire::span(&packet)].concat();
        stage.is_refused(what, &bytes, false)?;
        let (code, _) = wire::refusal(&stage.say(&bytes, false)?.said).context("no REFUSED")?;
        Ok(code)
    };
    for generation in [0, 1, 2, 3, (1 << 62) - 1] {
        let packet = wire::resume(&session, generation, &[0; 72]);
        let code = say(
            &format!("another's session, generation {generation}"),
            packet,
        )?;
        ensure!(code == 0x1c, "UP-STALE is due, {code:#x} came");
    }
    let code = say(
        "a session that is none",
        wire::resume(&[9; 16], 1, &[0; 72]),
    )?;
    ensure!(code == 0x0d, "UP-NO-SESSION is due, {code:#x} came");
    let mut spoilt = body.clone();
    let last = spoilt.len() - 1;
    spoilt[last] ^= 1;
    let code = say(
        "a spent request with another seal",
        wire::packet(wire::RESUME, &spoilt),
    )?;
    ensure!(code == 0x1c, "UP-STALE is due, {code:#x} came");
    let mut message = vec![0; 1000];
    Pattern::new(2).fill(&mut message);
    say(
        "a first packet with another's session",
        wire::hello(1, 1, &session, &message),
    )?;
    // The session that was recorded goes on as well.
    let progress = AtomicU64::new(0);
    traffic::echo(&listener.stream, 5, 1 << 20, &progress)?.exact(1 << 20)?;
    drop(listener);
    stage.close()
}

/// Somebody whose every word to the relay was heard.
struct Overheard {
    stream: TcpStream,
    _entrance: underpass_lab::Entrance,
    _agent: underpass_lab::Agent,
    _box: Middlebox,
}

/// What a client said on its first connection and on one with which it resumed.
fn recorded(stage: &Stage) -> Result<(Overheard, Vec<u8>, Vec<u8>)> {
    let net = &stage.scene.net;
    let mut agent = underpass_lab::Agent::unknown(&net.b)?;
    agent.log_in(&stage.scene.relay, &stage.scene.publisher.invite("carol")?)?;
    agent = agent.by("upgrade");
    stage.scene.publisher.allow("carol", "echo")?;
    // The client of the stage keeps its connection, which was there before the box.
    let between = Middlebox::before(&net.relay, 8080, &net.firewall_b, 1)?;
    let entrance = agent.connect("echo")?;
    let stream = traffic::connect(&net.b, entrance.address, LIMIT)?;
    traffic::exchange(&stream, 64, 1, Duration::ZERO)?;
    between.close_all();
    traffic::exchange(&stream, 64, 1, Duration::ZERO)?;
    let first_kind = |said: &Vec<u8>| {
        wire::packets(&wire::stream(said))
            .first()
            .map(|(kind, _)| *kind)
    };
    let seen = between.seen();
    let find = |kind: u8| {
        let found = seen
            .iter()
            .find(|said| first_kind(said) == Some(kind))
            .cloned();
        found.with_context(|| format!("no connection began with a packet of kind {kind}"))
    };
    let (first, resumed) = (find(wire::HELLO)?, find(wire::RESUME)?);
    let overheard = Overheard {
        stream,
        _entrance: entrance,
        _agent: agent,
        _box: between,
    };
    Ok((overheard, first, resumed))
}

/// Peers that stop in the middle, and peers that never do but say one byte in a while. All of them are cut in time.
fn the_silent_and_the_slow_are_cut() -> Result<()> {
    let stage = Stage::set()?;
    let hello = wire::span(&wire::hello(1, 1, &[3; 16], &[5; 900]));
    let beginnings: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("half a head", b"GET /upgrade HT".to_vec()),
        ("a carrier and nothing", wire::upgrade()),
        ("half a span", [&wire::upgrade()[..], &hello[..3]].concat()),
        (
            "half a HELLO",
            [&wire::upgrade()[..], &hello[..300]].concat(),
        ),
    ];
    let mut silent = Vec::new();
    for (what, beginning) in &beginnings {
        for _ in 0..100 {
            let mut stream = stage.call().context(*what)?;
            stream.write_all(beginning)?;
            silent.push(stream);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let request = [wire::upgrade(), hello.clone()].concat();
    let slow: Vec<_> = (0..20)
        .map(|_| drip(&stage, &request, &stop))
        .collect::<Result<_>>()?;
    stage.is_untouched()?;
    let took = all_closed(silent)?;
    println!("500 silent peers were cut within {took:.1?}");
    wait_until("the slow are cut", LIMIT, || {
        Ok(slow
            .iter()
            .all(std::thread::JoinHandle::is_finished)
            .then_some(()))
    })?;
    stop.store(true, Ordering::Relaxed);
    stage.close()
}

/// Says one byte of `request` in half a second, until the relay has had enough of it.
fn drip(
    stage: &Stage,
    request: &[u8],
    stop: &Arc<AtomicBool>,
) -> Result<std::thread::JoinHandle<()>> {
    let mut stream = stage.call()?;
    let (request, stop) = (request.to_vec(), Arc::clone(stop));
    Ok(std::thread::spawn(move || {
        for byte in request {
            let refused = stream.write_all(&[byte]).is_err();
            if refused || stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }))
}

/// 1500 carriers are begun on which nothing comes. Those above the bound are turned away at once, the others in time, and
/// a new user can log in afterwards.
fn half_open_carriers_are_bounded() -> Result<()> {
    let stage = Stage::set()?;
    let files = stage.scene.relay.process().open_files()?;
    let mut opened = Vec::new();
    for number in 0..1500 {
        let mut stream = stage
            .call()
            .with_context(|| format!("connection {number}"))?;
        stream.write_all(&wire::upgrade())?;
        opened.push(stream);
    }
    stage.is_untouched()?;
    let mut turned_away = 0;
    for stream in &mut opened {
        let mut head = [0; 12];
        std::io::Read::read_exact(stream, &mut head)?;
        match wire::status(&head) {
            Some(101) => {}
            Some(503) => turned_away += 1,
            other => anyhow::bail!("the status is {other:?}"),
        }
    }
    println!("{turned_away} of 1500 half-open carriers were turned away at once");
    ensure!(
        turned_away >= 400,
        "there is no bound on half-open carriers"
    );
    let took = all_closed(opened)?;
    println!("the others were cut within {took:.1?}");
    wait_until("the relay has closed its files", LIMIT, || {
        Ok((stage.scene.relay.process().open_files()? <= files + 10).then_some(()))
    })?;
    let agent = underpass_lab::Agent::unknown(&stage.scene.net.b)?;
    agent.log_in(&stage.scene.relay, &stage.scene.publisher.invite("dave")?)?;
    stage.close()
}

/// For a while all that the client says goes to another relay, with another key. The client tells it nothing, and when
/// the imposter is gone the session goes on where it was.
fn an_imposter_gets_nothing_and_the_session_goes_on_after_him() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let host = net
        .lab
        .public_host("imposter", underpass_lab::Cable::Plain)?;
    let scene = Scene::start(net, &Options::by("upgrade"))?;
    let imposter = Relay::start(&host)?;
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    let stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;
    traffic::exchange(&stream, 64, 1, Duration::ZERO)?;

    let redirect = scene
        .net
        .firewall_b
        .redirect((scene.net.relay.address(), 8080), (host.address(), 8080))?;
    scene.net.firewall_b.reset_flows()?;
    // The client has met him and seen that he is another.
    way.entrance.process.logged(&key_of(&imposter)?, LIMIT)?;
    // Neither does a new agent fall for him: the key is in the address that it was given.
    let (code, url) = (scene.publisher.invite("erin")?, scene.relay.url());
    let agent = underpass_lab::Agent::unknown(&scene.net.b)?;
    let pinned = format!("{url}#{}", key_of(&scene.relay)?);
    let refused = agent.run(&["login", &pinned, "--invite", &code]);
    let refused = format!("{:#}", refused.err().context("an imposter was believed")?);
    ensure!(refused.contains("UP-KEY"), "{refused}");
    drop(redirect);
    scene.net.firewall_b.reset_flows()?;
    traffic::exchange(&stream, 64, 100, Duration::ZERO)?;
    ensure!(service.tally().connections() == 1);
    agent.run(&["login", &pinned, "--invite", &code])?;
    Ok(())
}

/// The fingerprint that a relay prints when it starts.
fn key_of(relay: &Relay) -> Result<String> {
    let log = std::fs::read_to_string(relay.process().log())?;
    let words = log.split(|c: char| c.is_whitespace() || c == '#' || c == '"');
    let key = words
        .map(|word| word.trim_matches(['.', ',', ';']))
        .find(|word| {
            word.len() >= 32
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ':')
        });
    Ok(key
        .with_context(|| format!("no fingerprint in {log}"))?
        .to_owned())
}

/// A box in each agent's path changes one bit in a while, both ways, while a stream is echoed.
fn changed_bytes_are_found_and_the_session_goes_on() -> Result<()> {
    each_carrier(5, |carrier| {
        const LENGTH: u64 = 64 << 20;
        const FLIPS: u64 = 40;
        let scene = Scene::start(TwoFirewalls::new()?, &Options::by(carrier))?;
        let service = Service::echo(&scene.net.a, 0)?;
        let way = scene.way("echo", service.address())?;
        let net = &scene.net;
        let put = |firewall| Middlebox::before(&net.relay, 8080, firewall, 7);
        let boxes = [put(&net.firewall_a)?, put(&net.firewall_b)?];
        net.firewall_a.reset_flows()?;
        net.firewall_b.reset_flows()?;
        let progress = AtomicU64::new(0);
        let stream = traffic::connect(&net.b, way.address(), 3 * LIMIT)?;
        let echoed = std::thread::scope(|scope| {
            let echo = scope.spawn(|| traffic::echo(&stream, 2, LENGTH, &progress));
            for number in 0..FLIPS {
                let due = (number + 1) * LENGTH / (FLIPS + 1);
                wait_until("the echo goes on", 3 * LIMIT, || {
                    let over = echo.is_finished();
                    Ok((over || progress.load(Ordering::Relaxed) >= due).then_some(()))
                })?;
                let direction = [Direction::Up, Direction::Down][number as usize / 2 % 2];
                boxes[number as usize % 2].flip(direction);
            }
            echo.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        echoed.exact(LENGTH)?;
        let flipped: u64 = boxes.iter().map(Middlebox::flipped).sum();
        let (client, publisher) = (Story::of(&scene.client)?, Story::of(&scene.publisher)?);
        println!("{carrier}: {flipped} bits changed; client {client:?}, publisher {publisher:?}");
        ensure!(flipped >= FLIPS - 2, "only {flipped} bits were changed");
        ensure!(client.drops + client.resumes > 0, "{client:?}");
        Ok(())
    })
}
