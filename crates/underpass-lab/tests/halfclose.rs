//! How connections end: by halves, cleanly, by abort, or before they begin. Each by every carrier.
//!
//! Topology of each: services and publisher on `a` behind firewall A, client on `b` behind firewall B, the relay in
//! public between them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::traffic::{self, Pattern, Service};
use underpass_lab::{Entrance, Finished, Process, Scene, each_carrier_and_quic, exec, tests};

fn main() -> ExitCode {
    tests!(
        the_count_comes_after_the_client_has_shut_its_side,
        the_service_shuts_its_side_first,
        a_cut_falls_between_the_shutdown_and_the_answer,
        an_abort_is_an_error_on_the_other_side,
        an_abort_during_a_cut_is_an_error_too,
        the_death_of_an_agent_is_no_clean_end,
        nc_keeps_half_close_and_tells_of_an_abort,
        a_failed_dial_reaches_the_near_program,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(90);
const MEBIBYTE: u64 = 1 << 20;

fn dial(scene: &Scene, to: SocketAddr) -> Result<TcpStream> {
    traffic::connect(&scene.net.b, to, LIMIT)
}

fn the_count_comes_after_the_client_has_shut_its_side() -> Result<()> {
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        let service = Service::count(&scene.net.a, 0)?;
        let way = scene.way("count", service.address())?;
        for length in [0, 1, 3 * MEBIBYTE + 1] {
            let stream = dial(&scene, way.address())?;
            let counted = traffic::count_by_half_close(&stream, length, length)?;
            ensure!(
                counted == length,
                "{length} bytes were counted as {counted}"
            );
        }
        Ok(())
    })
}

fn the_service_shuts_its_side_first() -> Result<()> {
    const GREETING: u64 = 300_000;
    const REPLY: u64 = 2 * MEBIBYTE;
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        let (findings, found) = channel();
        let findings = Mutex::new(findings);
        let service = Service::start(&scene.net.a, 0, move |stream, _| {
            traffic::upload(stream, 1, GREETING)?;
            let got = traffic::download(stream, 2, None);
            // The test may have failed and gone.
            let _ = findings.lock().expect("nobody panics with it").send(got);
            Ok(())
        })?;
        let way = scene.way("greeter", service.address())?;
        let stream = dial(&scene, way.address())?;
        traffic::download(&stream, 1, None)?.exact(GREETING)?;
        // It has read the end, and only now begins to send.
        traffic::upload(&stream, 2, REPLY)?;
        found.recv_timeout(LIMIT)??.exact(REPLY)
    })
}

/// A service that reads to the end, says so, and answers with its count when it is told to.
struct Patient {
    service: Service,
    reached_end: Receiver<u64>,
    answer: Sender<()>,
    answered: Receiver<()>,
}

impl Patient {
    fn start(scene: &Scene) -> Result<Self> {
        let (end, reached_end) = channel();
        let (answer, may_answer) = channel();
        let (written, answered) = channel();
        let ends = Arc::new(Mutex::new((end, may_answer, written)));
        let service = Service::start(&scene.net.a, 0, move |mut stream, _| {
            let ends = ends.lock().expect("nobody panics with it");
            let count = std::io::copy(&mut stream, &mut std::io::sink())?;
            // Whoever waits for these may have failed and gone.
            let _ = ends.0.send(count);
            let _ = ends.1.recv();
            writeln!(stream, "{count}")?;
            let _ = ends.2.send(());
            Ok(())
        })?;
        Ok(Self {
            service,
            reached_end,
            answer,
            answered,
        })
    }
}

fn a_cut_falls_between_the_shutdown_and_the_answer() -> Result<()> {
    const LENGTH: u64 = MEBIBYTE;
    each_carrier_and_quic(5, |carrier| {
        let scene = Scene::by(carrier)?;
        let (fwa, fwb) = (&scene.net.firewall_a, &scene.net.firewall_b);
        let patient = Patient::start(&scene)?;
        let way = scene.way("patient", patient.service.address())?;
        let begin = || -> Result<TcpStream> {
            let mut stream = dial(&scene, way.address())?;
            send(&mut stream, LENGTH)?;
            Ok(stream)
        };
        let at_end = || -> Result<()> {
            let count = patient.reached_end.recv_timeout(LIMIT)?;
            ensure!(count == LENGTH, "the service got {count} bytes");
            Ok(())
        };
        let finish = |mut stream: TcpStream| -> Result<()> {
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            ensure!(text == format!("{LENGTH}\n"), "the answer was {text:?}");
            Ok(())
        };

        // All flows are gone after the service has seen the end and before it answers.
        for firewall in [fwa, fwb] {
            let stream = begin()?;
            stream.shutdown(Shutdown::Write)?;
            at_end()?;
            firewall.reset_flows()?;
            patient.answer.send(())?;
            finish(stream).with_context(|| format!("reset at {}", firewall.name()))?;
            patient.answered.recv_timeout(LIMIT)?;
        }

        // The answer is written while nothing passes.
        let stream = begin()?;
        stream.shutdown(Shutdown::Write)?;
        at_end()?;
        fwb.black_hole()?;
        patient.answer.send(())?;
        patient.answered.recv_timeout(LIMIT)?;
        // The flows do not survive the outage: only a new path brings the answer.
        fwb.forget_flows()?;
        fwb.open()?;
        finish(stream).context("black hole before the answer")?;

        // The shutdown itself falls into the outage.
        let stream = begin()?;
        fwa.black_hole()?;
        stream.shutdown(Shutdown::Write)?;
        let early = patient.reached_end.recv_timeout(Duration::from_millis(500));
        ensure!(
            early == Err(RecvTimeoutError::Timeout),
            "the end passed a black hole"
        );
        fwa.reset_flows()?;
        fwa.open()?;
        at_end()?;
        patient.answer.send(())?;
        finish(stream).context("black hole before the shutdown")?;
        patient.answered.recv_timeout(LIMIT)?;

        let status = scene.client.status_of(&way.entrance.process)?;
        let resumes = status["sessions"][0]["resumes"].as_u64();
        ensure!(resumes > Some(0), "nothing was resumed: {status}");
        Ok(())
    })
}

fn send(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut bytes = vec![0; length as usize];
    Pattern::new(length).fill(&mut bytes);
    Ok(stream.write_all(&bytes)?)
}

/// The next read tells of a reset. A clean end would be a lie.
fn is_reset(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("expected a reset, got {other:?}"),
    }
}

/// Closes with a reset (socket(7): a linger time of zero).
fn abort(stream: TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

fn an_abort_is_an_error_on_the_other_side() -> Result<()> {
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        for (name, length) in [("at-once", 0), ("few", 10), ("many", 2 * MEBIBYTE)] {
            let service = Service::abort(&scene.net.a, 0, 3, length)?;
            let way = scene.way(name, service.address())?;
            let mut stream = dial(&scene, way.address())?;
            let mut got = vec![0; length as usize];
            stream.read_exact(&mut got)?;
            let mut sent = vec![0; length as usize];
            Pattern::new(3).fill(&mut sent);
            ensure!(got == sent, "{name}: other bytes came before the abort");
            stream.write_all(b"!")?;
            is_reset(&mut stream).with_context(|| format!("after {length} bytes"))?;
        }

        // The other way round: the client aborts in the middle of an exchange.
        let echo = Service::echo(&scene.net.a, 0)?;
        let way = scene.way("echo", echo.address())?;
        let mut stream = dial(&scene, way.address())?;
        stream.write_all(b"before")?;
        stream.read_exact(&mut [0; 6])?;
        abort(stream)?;
        exec::wait_until("the service sees the abort", LIMIT, || {
            Ok((echo.open() == 0).then_some(()))
        })?;
        ensure!(echo.tally().errors() == 1, "the service saw a clean end");
        Ok(())
    })
}

fn an_abort_during_a_cut_is_an_error_too() -> Result<()> {
    each_carrier_and_quic(5, |carrier| {
        let scene = Scene::by(carrier)?;
        let (abort_now, told) = channel::<()>();
        let told = Mutex::new(told);
        let service = Service::start(&scene.net.a, 0, move |mut stream, _| {
            stream.write_all(b"beginning")?;
            let _ = told.lock().expect("nobody panics with it").recv();
            let linger = Some(Duration::ZERO);
            Ok(rustix::net::sockopt::set_socket_linger(stream, linger)?)
        })?;
        let way = scene.way("fragile", service.address())?;
        let mut stream = dial(&scene, way.address())?;
        stream.read_exact(&mut [0; 9])?;
        scene.net.firewall_b.black_hole()?;
        abort_now.send(())?;
        exec::wait_until("the service has aborted", LIMIT, || {
            Ok((service.open() == 0).then_some(()))
        })?;
        scene.net.firewall_b.reset_flows()?;
        scene.net.firewall_b.open()?;
        is_reset(&mut stream)
    })
}

/// How an agent comes to its end.
fn end(agent: &Process, orderly: bool) -> Result<()> {
    if orderly {
        let status = agent.terminate(LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", agent.label());
        return Ok(());
    }
    agent.kill()
}

fn sees_breaks(service: &Service, count: u64) -> Result<()> {
    let seen = exec::wait_until(&format!("the service sees break {count}"), LIMIT, || {
        Ok((service.tally().errors() == count).then_some(()))
    });
    let (errors, open) = (service.tally().errors(), service.open());
    seen.with_context(|| format!("{errors} breaks, {open} connections"))
}

fn the_death_of_an_agent_is_no_clean_end() -> Result<()> {
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        let echo = Service::echo(&scene.net.a, 0)?;
        let mut errors = 0;
        for orderly in [true, false] {
            let way = scene.way("echo", echo.address())?;
            let begin = || -> Result<TcpStream> {
                let mut stream = dial(&scene, way.address())?;
                stream.write_all(b"before")?;
                stream.read_exact(&mut [0; 6])?;
                Ok(stream)
            };
            // The publisher's end: its service sees a break at once, the client when nobody knows its session.
            let mut stream = begin()?;
            end(&way.published, orderly)?;
            errors += 1;
            sees_breaks(&echo, errors)?;
            way.published.restart()?;
            way.published.line(LIMIT)?;
            is_reset(&mut stream).with_context(|| format!("publisher, orderly: {orderly}"))?;

            // The client's end: its program sees a break at once, the service when it is told or gives up waiting.
            let mut stream = begin()?;
            end(&way.entrance.process, orderly)?;
            is_reset(&mut stream).with_context(|| format!("client, orderly: {orderly}"))?;
            if orderly {
                errors += 1;
                sees_breaks(&echo, errors)?;
            }
        }

        // ssh ends its ProxyCommand by a SIGHUP; sshd must not wait for minutes for it to come back.
        let _published = scene.publish(&[("echo", echo.address())])?;
        let mut command = scene.client.command(&["nc", "echo"])?;
        let mut nc = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (nc.stdin.take(), nc.stdout.take());
        let mut input = input.context("standard input is piped")?;
        input.write_all(b"before")?;
        output
            .context("standard output is piped")?
            .read_exact(&mut [0; 6])?;
        let open = echo.open();
        let id = rustix::process::Pid::from_child(&nc);
        rustix::process::kill_process(id, rustix::process::Signal::HUP)?;
        nc.wait()?;
        exec::wait_until("the service loses nc", LIMIT, || {
            Ok((echo.open() < open).then_some(()))
        })
    })
}

fn nc(scene: &Scene, service: &str, input: &[u8]) -> Result<Finished> {
    exec::output_with_input(&mut scene.client.command(&["nc", service])?, input, LIMIT)
}

fn nc_keeps_half_close_and_tells_of_an_abort() -> Result<()> {
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        let count = Service::count(&scene.net.a, 0)?;
        let fragile = Service::abort(&scene.net.a, 0, 4, 1000)?;
        let services = [("count", count.address()), ("fragile", fragile.address())];
        let _published = scene.publish(&services)?;
        let mut input = vec![0; 2_500_000];
        Pattern::new(9).fill(&mut input);
        let counted = nc(&scene, "count", &input)?.success()?.text();
        ensure!(counted == "2500000\n", "nc answered {counted:?}");

        let broken = nc(&scene, "fragile", b"!")?;
        ensure!(broken.status.code() == Some(1), "{:?}", broken.status);
        ensure!(
            broken.errors().contains("UP-ABORTED"),
            "{}",
            broken.errors()
        );
        let mut sent = vec![0; 1000];
        Pattern::new(4).fill(&mut sent);
        ensure!(sent.starts_with(&broken.stdout), "nc printed other bytes");
        Ok(())
    })
}

/// Services that cannot be dialled: one that nobody serves, one on a host without a route, one whose packets vanish.
const FAILING: [(&str, &str); 3] = [
    ("closed", "UP-REFUSED"),
    ("nowhere", "UP-UNREACHABLE"),
    ("silent", "UP-TIMEOUT"),
];

fn a_failed_dial_reaches_the_near_program() -> Result<()> {
    each_carrier_and_quic(3, |carrier| {
        let scene = Scene::by(carrier)?;
        let _published = publish_failing(&scene)?;
        for (name, code) in FAILING {
            let done = nc(&scene, name, b"")?;
            ensure!(done.status.code() == Some(5), "{name}: {:?}", done.status);
            let text = done.errors();
            ensure!(text.contains(code), "{name}: {text}");
            ensure!(text.contains("likely cause:"), "{name}: {text}");
            ensure!(done.stdout.is_empty(), "{name}: {}", done.text());
        }
        for (name, _) in FAILING {
            let entrance: Entrance = scene.client.connect(name)?;
            // It may be reset before connect(2) returns, as on a LAN, or at the first read.
            match dial(&scene, entrance.address) {
                Ok(mut stream) => is_reset(&mut stream).with_context(|| name)?,
                Err(error) => {
                    let kind = error.downcast_ref::<std::io::Error>().map(|e| e.kind());
                    let refused = [ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused];
                    ensure!(
                        kind.is_some_and(|kind| refused.contains(&kind)),
                        "{error:#}"
                    );
                }
            }
            // The log says why, and the entrance stays open for the next one.
            let code = FAILING.iter().find(|(n, _)| *n == name).map(|(_, c)| *c);
            entrance.process.logged(code.unwrap_or(name), LIMIT)?;
            ensure!(entrance.process.exited()?.is_none());
        }
        Ok(())
    })
}

fn publish_failing(scene: &Scene) -> Result<Process> {
    let a = &scene.net.a;
    // TEST-NET-1 (RFC 5737): the kernel of `a` has no route to it and says so at once.
    a.run("ip", ["route", "add", "unreachable", "192.0.2.0/24"], LIMIT)?
        .success()?;
    // The firewall drops what goes to this port.
    let silent = format!("{}:5432", scene.net.relay.address());
    let command = scene.publisher.command(&[
        "publish",
        "closed",
        "127.0.0.1:1",
        "nowhere",
        "192.0.2.1:80",
        "silent",
        &silent,
        "--dial-timeout",
        "2s",
    ])?;
    let published = a.spawn("publish", command)?;
    published.line(LIMIT)?;
    for (name, _) in FAILING {
        scene.publisher.allow(underpass_lab::CLIENT, name)?;
    }
    Ok(published)
}
