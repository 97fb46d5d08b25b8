//! The lab keeps its word: firewalls, faults and boxes do what they say to real connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::{
    Cable, Direction, Host, Lab, Middlebox, Policy, TwoFirewalls, left_behind, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        only_web_ports_get_out,
        nothing_gets_in_and_masquerading_hides,
        udp_gets_out_only_where_allowed,
        a_cut_cable_carries_nothing_and_heals,
        a_black_hole_swallows_and_heals,
        a_reset_ends_flows_on_both_sides_and_lets_new_ones_pass,
        forgotten_flows_die_silently,
        a_refusing_firewall_resets_new_connections,
        the_box_delays_each_direction,
        the_box_loses_and_a_stream_survives,
        the_box_holds_and_lets_go,
        the_box_resets_flows,
        the_box_limits_the_rate,
        the_kernel_limits_the_rate,
        a_box_between_spoils_swallows_and_closes,
        nothing_is_left_behind,
    )
}

/// Long enough for what must happen; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to look for what must not happen.
const LOOK: Duration = Duration::from_millis(400);

/// A listener on `host`; connections are accepted by whoever holds it.
fn listen(host: &Host, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let at = SocketAddr::from((host.address(), port));
    Ok((
        host.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??,
        at,
    ))
}

fn connect(host: &Host, to: SocketAddr, limit: Duration) -> Result<std::io::Result<TcpStream>> {
    host.inside(|| TcpStream::connect_timeout(&to, limit))
}

/// An established connection from `from` to port 8080 of `to`, with its limits set: the near end, then the far end.
fn pair(from: &Host, to: &Host) -> Result<(TcpStream, TcpStream)> {
    let (listener, at) = listen(to, 8080)?;
    let near = connect(from, at, LIMIT)??;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
    }
    Ok((near, far))
}

fn carries(near: &mut TcpStream, far: &mut TcpStream, word: &[u8]) -> Result<()> {
    let one_way = |from: &mut TcpStream, to: &mut TcpStream| {
        from.write_all(word)?;
        let mut got = vec![0; word.len()];
        to.read_exact(&mut got)?;
        ensure!(got == word, "{got:?} came for {word:?}");
        Ok(())
    };
    one_way(near, far)?;
    one_way(far, near)
}

/// Nothing comes at `stream` for a while.
fn silent(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let read = stream.read(&mut [0; 16]);
    stream.set_read_timeout(Some(LIMIT))?;
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => bail!("expected silence, got {other:?}"),
    }
}

/// The next read tells of a reset.
fn is_reset(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("expected a reset, got {other:?}"),
    }
}

fn only_web_ports_get_out() -> Result<()> {
    let net = TwoFirewalls::new()?;
    for (port, passes) in [
        (80, true),
        (443, true),
        (8080, true),
        (5432, false),
        (22, false),
    ] {
        let (_listener, at) = listen(&net.relay, port)?;
        let limit = if passes { LIMIT } else { LOOK };
        let result = connect(&net.a, at, limit)?;
        ensure!(result.is_ok() == passes, "port {port}: {result:?}");
        if let Err(error) = result {
            ensure!(error.kind() == ErrorKind::TimedOut, "port {port}: {error}");
        }
    }
    Ok(())
}

fn nothing_gets_in_and_masquerading_hides() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (inside, hidden) = listen(&net.a, 8080)?;
    // The relay even knows the way to the private network.
    let private = format!("{}/24", net.firewall_a.private_network());
    let via = net.firewall_a.address().to_string();
    net.relay
        .run("ip", ["route", "add", &private, "via", &via], LIMIT)?
        .success()?;
    for target in [hidden, SocketAddr::from((net.firewall_a.address(), 8080))] {
        let result = connect(&net.relay, target, LOOK)?;
        ensure!(result.is_err(), "{target} was reached from outside");
    }
    inside.set_nonblocking(true)?;
    ensure!(inside.accept().is_err());
    // Nor do the two private networks reach each other, and what goes out has the firewall's address.
    ensure!(connect(&net.b, hidden, LOOK)?.is_err());
    let (listener, at) = listen(&net.relay, 80)?;
    let _near = connect(&net.a, at, LIMIT)??;
    let (_far, peer) = listener.accept()?;
    ensure!(
        peer.ip() == net.firewall_a.address(),
        "{peer} is not the firewall"
    );
    Ok(())
}

fn udp_gets_out_only_where_allowed() -> Result<()> {
    for (policy, passes) in [(Policy::web(), false), (Policy::web_and_quic(), true)] {
        let net = TwoFirewalls::with(&policy, Cable::Plain, Cable::Plain)?;
        let bind = || std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 443));
        let server = net.relay.inside(bind)??;
        server.set_read_timeout(Some(if passes { LIMIT } else { LOOK }))?;
        let client = net.a.inside(bind)??;
        client.send_to(b"ask", (net.relay.address(), 443))?;
        let got = server.recv_from(&mut [0; 16]);
        ensure!(got.is_ok() == passes, "{policy:?}: {got:?}");
        if let Ok((_, from)) = got {
            client.set_read_timeout(Some(LIMIT))?;
            server.send_to(b"answer", from)?;
            ensure!(client.recv(&mut [0; 16])? == 6);
        }
    }
    Ok(())
}

fn a_cut_cable_carries_nothing_and_heals() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (mut near, mut far) = pair(&net.b, &net.relay)?;
    carries(&mut near, &mut far, b"before")?;
    for link in [net.firewall_b.link(), net.relay.link(), net.b.link()] {
        link.cut()?;
        near.write_all(b"during")?;
        silent(&mut far)?;
        link.restore()?;
        let mut got = [0; 6];
        far.read_exact(&mut got)
            .context("after the cable was plugged in again")?;
        carries(&mut near, &mut far, b"after")?;
    }
    Ok(())
}

fn a_black_hole_swallows_and_heals() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (mut near, mut far) = pair(&net.a, &net.relay)?;
    let (_listener, at) = listen(&net.relay, 80)?;
    net.firewall_a.black_hole()?;
    far.write_all(b"during")?;
    silent(&mut near)?;
    ensure!(
        connect(&net.a, at, LOOK)?.is_err(),
        "a new connection got through"
    );
    ensure!(
        connect(&net.b, at, LIMIT)?.is_ok(),
        "the other firewall was hit too"
    );
    net.firewall_a.open()?;
    let mut got = [0; 6];
    near.read_exact(&mut got)?;
    carries(&mut near, &mut far, b"after")
}

fn a_reset_ends_flows_on_both_sides_and_lets_new_ones_pass() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (mut near, mut far) = pair(&net.a, &net.relay)?;
    carries(&mut near, &mut far, b"before")?;
    net.firewall_a.reset_flows()?;
    near.write_all(b"x")?;
    is_reset(&mut near)?;
    silent(&mut far)?;
    far.write_all(b"x")?;
    is_reset(&mut far)?;
    let (mut near, mut far) = pair(&net.a, &net.relay)?;
    carries(&mut near, &mut far, b"anew")?;
    // And again: what was new is now old.
    net.firewall_a.reset_flows()?;
    far.write_all(b"x")?;
    is_reset(&mut far)
}

fn forgotten_flows_die_silently() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (mut near, mut far) = pair(&net.a, &net.relay)?;
    net.firewall_a.forget_flows()?;
    near.write_all(b"x")?;
    far.write_all(b"x")?;
    silent(&mut far)?;
    silent(&mut near)?;
    let (mut near, mut far) = pair(&net.a, &net.relay)?;
    carries(&mut near, &mut far, b"anew")
}

fn a_refusing_firewall_resets_new_connections() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (_listener, at) = listen(&net.relay, 80)?;
    net.firewall_a.refuse()?;
    let error = connect(&net.a, at, LIMIT)?
        .err()
        .context("a connection got through")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    net.firewall_a.open()?;
    connect(&net.a, at, LIMIT)??;
    Ok(())
}

/// A client behind a box and a server, both on the public network.
fn boxed() -> Result<(Lab, Host, Host)> {
    let mut lab = Lab::new()?;
    let client = lab.public_host("client", Cable::Boxed(42))?;
    let server = lab.public_host("server", Cable::Plain)?;
    Ok((lab, client, server))
}

fn the_box_delays_each_direction() -> Result<()> {
    let (_lab, client, server) = boxed()?;
    let (mut near, mut far) = pair(&client, &server)?;
    let impair = client.link().impair().context("the cable has a box")?;
    let mut trip = || -> Result<Duration> {
        let begin = Instant::now();
        carries(&mut near, &mut far, b"ping")?;
        Ok(begin.elapsed())
    };
    impair.outbound(|line| line.delay = Duration::from_millis(60));
    ensure!(trip()? >= Duration::from_millis(60));
    impair.inbound(|line| line.delay = Duration::from_millis(90));
    ensure!(trip()? >= Duration::from_millis(150));
    impair.both(|line| line.delay = Duration::ZERO);
    // Without delay some trip is much faster; that all are would depend on how busy the machine is.
    let fastest = (0..50)
        .map(|_| trip())
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .min();
    ensure!(fastest < Some(Duration::from_millis(60)), "{fastest:?}");
    Ok(())
}

/// Sends `length` bytes of a pattern from `near` to `far` and compares.
fn intact(mut near: TcpStream, mut far: TcpStream, length: usize) -> Result<()> {
    let sent: Vec<u8> = (0..length)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        near.write_all(&copy)?;
        near.shutdown(std::net::Shutdown::Write)
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got)?;
    writer.join().expect("the writer does not panic")?;
    ensure!(
        got == sent,
        "{} bytes came of {length}, or others than were sent",
        got.len()
    );
    Ok(())
}

fn the_box_loses_and_a_stream_survives() -> Result<()> {
    let (_lab, client, server) = boxed()?;
    let (near, far) = pair(&client, &server)?;
    let impair = client.link().impair().context("the cable has a box")?;
    impair.both(|line| line.loss = 0.02);
    intact(near, far, 4 << 20)?;
    let (out, back) = impair.counters();
    ensure!(
        out.lost > 0 && out.passed > out.lost * 10,
        "{out:?} {back:?}"
    );
    ensure!(out.overflowed == 0, "{out:?}");
    Ok(())
}

fn the_box_holds_and_lets_go() -> Result<()> {
    let (_lab, client, server) = boxed()?;
    let (mut near, mut far) = pair(&client, &server)?;
    let impair = client.link().impair().context("the cable has a box")?;
    carries(&mut near, &mut far, b"before")?;
    impair.outbound(|line| line.hold = true);
    near.write_all(b"held")?;
    silent(&mut far)?;
    impair.outbound(|line| line.hold = false);
    let mut got = [0; 4];
    far.read_exact(&mut got)?;
    ensure!(&got == b"held");
    intact(near, far, 16 << 20)
}

fn the_box_resets_flows() -> Result<()> {
    let (_lab, client, server) = boxed()?;
    let (mut near, mut far) = pair(&client, &server)?;
    carries(&mut near, &mut far, b"before")?;
    client
        .link()
        .impair()
        .context("the cable has a box")?
        .reset_flows();
    // Neither side has to send anything to learn of it.
    is_reset(&mut near)?;
    is_reset(&mut far)?;
    let (mut near, mut far) = pair(&client, &server)?;
    carries(&mut near, &mut far, b"anew")
}

/// Moves bytes and gives the rate in bits in a second.
fn measured_rate(near: TcpStream, far: TcpStream, length: usize) -> Result<f64> {
    let begin = Instant::now();
    intact(near, far, length)?;
    Ok(length as f64 * 8.0 / begin.elapsed().as_secs_f64())
}

fn the_box_limits_the_rate() -> Result<()> {
    let (_lab, client, server) = boxed()?;
    let (near, far) = pair(&client, &server)?;
    let impair = client.link().impair().context("the cable has a box")?;
    impair.both(|line| line.rate = Some(40_000_000));
    let rate = measured_rate(near, far, 4 << 20)?;
    // Never faster, headers aside; a busy machine may make it slower.
    ensure!(
        rate < 40e6 * 1.02 && rate > 40e6 / 4.0,
        "{rate} bits in a second"
    );
    impair.both(|line| line.rate = None);
    let (near, far) = pair(&client, &server)?;
    ensure!(
        measured_rate(near, far, 32 << 20)? > 60e6,
        "no faster without a limit"
    );
    Ok(())
}

fn the_kernel_limits_the_rate() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let link = net.firewall_a.link();
    link.limit_rate(20_000_000)?;
    let (near, far) = pair(&net.a, &net.relay)?;
    let up = measured_rate(near, far, 4 << 20)?;
    let (near, far) = pair(&net.a, &net.relay)?;
    let down = measured_rate(far, near, 4 << 20)?;
    for rate in [up, down] {
        ensure!(
            rate < 20e6 * 1.1 && rate > 20e6 / 4.0,
            "{rate} bits in a second"
        );
    }
    link.unlimit_rate()?;
    let (near, far) = pair(&net.a, &net.relay)?;
    ensure!(
        measured_rate(near, far, 32 << 20)? > 40e6,
        "no faster without a limit"
    );
    Ok(())
}

fn a_box_between_spoils_swallows_and_closes() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (listener, at) = listen(&net.relay, 8080)?;
    let between = Middlebox::before(&net.relay, 8080, &net.firewall_a, 5)?;
    // More than the kernel's own buffers hold.
    let much = 64 << 20;
    between.swallow(much);
    let mut near = connect(&net.a, at, LIMIT)??;
    let (mut far, from) = listener.accept()?;
    ensure!(
        from.ip() == net.relay.address(),
        "{from} came without the box"
    );
    near.set_read_timeout(Some(LIMIT))?;
    near.set_write_timeout(Some(LIMIT))?;
    far.set_read_timeout(Some(LIMIT))?;
    carries(&mut near, &mut far, b"plain")?;
    between.flip(Direction::Up);
    near.write_all(b"spoil")?;
    let mut got = [0; 5];
    far.read_exact(&mut got)?;
    let changed: u32 = got
        .iter()
        .zip(b"spoil")
        .map(|(a, b)| (a ^ b).count_ones())
        .sum();
    ensure!(changed == 1 && between.flipped() == 1, "{got:?}");
    // Nobody reads at the far end, and yet all of it is taken.
    near.write_all(&vec![7; much])?;
    ensure!(between.seen()[0].starts_with(b"plainspoil"));
    ensure!(between.close_all() == 1);
    wait_until("the box has closed", LIMIT, || {
        Ok((between.open() == 0).then_some(()))
    })?;
    // In order, as TCP sees it.
    ensure!(near.read(&mut got)? == 0);
    // Without the box the way is direct again; the other firewall's never had one.
    drop(between);
    for (host, address) in [
        (&net.a, net.firewall_a.address()),
        (&net.b, net.firewall_b.address()),
    ] {
        let mut near = connect(host, at, LIMIT)??;
        let (mut far, from) = listener.accept()?;
        ensure!(from.ip() == address);
        carries(&mut near, &mut far, b"direct")?;
    }
    Ok(())
}

fn nothing_is_left_behind() -> Result<()> {
    let before = left_behind().len();
    let mut net = TwoFirewalls::with(&Policy::web(), Cable::Boxed(1), Cable::Plain)?;
    let more = net.lab.private_host("more", &net.firewall_a)?;
    ensure!(left_behind().len() > before);
    let mut command = more.command("sleep");
    command.arg("1000");
    let process = more.spawn("sleep", command)?;
    let id = process.id();
    drop((net, more, process));
    ensure!(left_behind().len() == before, "{:?}", left_behind());
    ensure!(
        !std::path::Path::new(&format!("/proc/{id}")).exists(),
        "the process lives on"
    );
    // After a panic as well.
    let result = std::panic::catch_unwind(|| {
        let _net = TwoFirewalls::new().expect("it worked before");
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    ensure!(
        result.is_err() && left_behind().len() == before,
        "{:?}",
        left_behind()
    );
    Ok(())
}
