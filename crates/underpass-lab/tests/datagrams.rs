//! Services of UDP through both firewalls, which let out TCP alone.
//!
//! Topology of each: server and publisher on `a` behind firewall A, client programs on `b` behind firewall B, the relay
//! in public between them.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::server::Dnsmasq;
use underpass_lab::traffic::{self, DatagramEcho};
use underpass_lab::{
    CLIENT, Entrances, Host, Options, Process, Scene, TwoFirewalls, exec, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        names_are_resolved_by_a_server_far_away,
        iperf_both_ways,
        every_size_and_a_bounded_number_of_clients,
        a_cut_costs_what_was_under_way
    )
}

/// How long one step may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);

fn scene() -> Result<Scene> {
    Scene::start(TwoFirewalls::new()?, &Options::default())
}

/// Publishes services by their targets, and opens an address for each on `b`.
fn way(
    scene: &Scene,
    services: &[(&str, String, &str)],
    more: &[&str],
) -> Result<(Process, Entrances)> {
    let pairs: Vec<_> = services
        .iter()
        .map(|(name, to, _)| (*name, &to[..]))
        .collect();
    let published = scene.publisher.publish_with(&pairs, more)?;
    for (name, _, _) in services {
        scene.publisher.allow(CLIENT, name)?;
    }
    let locals: Vec<_> = services.iter().map(|(name, _, at)| (*name, *at)).collect();
    Ok((published, scene.client.connect_at(&locals, more)?))
}

fn names_are_resolved_by_a_server_far_away() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let names = [("db.corp.test", Ipv4Addr::new(10, 9, 8, 7))];
    let server = Dnsmasq::start(a, Ipv4Addr::LOCALHOST, &names, ("much.corp.test", 3000))?;
    let target = server.address();
    let services = [
        ("dns", format!("udp:{target}"), "udp:0"),
        ("dns-tcp", target.to_string(), "0"),
        // Used as what they are not.
        ("crossed", target.to_string(), "udp:0"),
        ("crossed-too", format!("udp:{target}"), "0"),
    ];
    let (_published, entrances) = way(&scene, &services, &[])?;
    let [udp, tcp, crossed, crossed_too] = entrances.addresses[..] else {
        anyhow::bail!("{:?}", entrances.addresses);
    };
    let ask = |at: SocketAddr, question: &[&str]| -> Result<String> {
        let mut dig = Dnsmasq::dig(b, at)?;
        let done = exec::output(dig.arg("+time=60").args(question), LIMIT)?.success()?;
        Ok(done.text().trim().to_owned())
    };
    ensure!(ask(udp, &["db.corp.test"])? == "10.9.8.7");
    ensure!(ask(tcp, &["+tcp", "db.corp.test"])? == "10.9.8.7");
    let much = ask(udp, &["much.corp.test", "TXT"])?;
    ensure!(much.matches('x').count() == 3000, "{much}");
    // Each question comes from another port, and has a flow of its own.
    let file = b.logs().join("questions");
    std::fs::write(&file, "db.corp.test\n".repeat(200))?;
    let file = file.to_str().context("temporary folders are UTF-8")?;
    let answers = ask(udp, &["-f", file])?;
    ensure!(
        answers.lines().filter(|line| *line == "10.9.8.7").count() == 200,
        "{answers}"
    );

    // Nobody is there: a program of UDP sees nothing of that, but whoever looks at the log does.
    server.process().terminate(LIMIT)?;
    let mut dig = Dnsmasq::dig(b, udp)?;
    let unanswered = exec::output(dig.args(["+time=2", "db.corp.test"]), LIMIT)?;
    ensure!(!unanswered.status.success(), "{}", unanswered.text());
    let connect = &entrances.process;
    connect.logged("UP-REFUSED", LIMIT)?;
    server.process().restart()?;
    server.ready(a)?;
    ensure!(ask(udp, &["db.corp.test"])? == "10.9.8.7");

    let mut dig = Dnsmasq::dig(b, crossed)?;
    let crossing = exec::output(dig.args(["+time=1", "db.corp.test"]), LIMIT)?;
    ensure!(!crossing.status.success(), "{}", crossing.text());
    connect.logged("UP-TRANSPORT", LIMIT)?;
    let stream = traffic::connect(b, crossed_too, LIMIT)?;
    let read = io::Read::read(&mut &stream, &mut [0]);
    ensure!(
        read.as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset),
        "{read:?}"
    );
    Ok(())
}

/// iperf3 agrees on a measurement by TCP, and sends by UDP to the same port.
fn iperf_both_ways() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    if !exec::output(a.command("which").arg("iperf3"), LIMIT)?
        .status
        .success()
    {
        return Err(underpass_lab::Skip::because("iperf3 is not installed"));
    }
    let mut server = a.command("iperf3");
    server.args(["--server", "--bind", "127.0.0.1", "--forceflush"]);
    let server = a.spawn("iperf3", server)?;
    server.line(LIMIT)?;
    let services = [
        ("iperf", "127.0.0.1:5201".to_owned(), "5201"),
        ("iperf-udp", "udp:127.0.0.1:5201".to_owned(), "udp:5201"),
    ];
    let (_published, _entrances) = way(&scene, &services, &[])?;
    for (way, more) in [("up", &[][..]), ("down", &["--reverse"])] {
        let mut client = b.command("iperf3");
        client.args(["--client", "127.0.0.1", "--udp", "--json", "--time", "2"]);
        client
            .args(["--bitrate", "4M", "--length", "1200"])
            .args(more);
        let done = exec::output(&mut client, LIMIT)?.success()?;
        let told: serde_json::Value = serde_json::from_str(&done.text())?;
        let sum = &told["end"]["sum"];
        let (packets, lost) = (sum["packets"].as_u64(), sum["lost_packets"].as_i64());
        let (packets, lost) = packets.zip(lost).with_context(|| told.to_string())?;
        println!("{way}: {packets} datagrams of 1200 bytes, {lost} lost");
        ensure!(packets > 100 && lost * 5 < packets as i64, "{sum}");
    }
    Ok(())
}

/// A socket on `host` that waits for a moment when it reads.
fn socket(host: &Host) -> Result<UdpSocket> {
    let socket = host.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Whether `data` comes back. As a program of UDP does it, this asks again where nothing came.
fn comes_back(socket: &UdpSocket, to: SocketAddr, data: &[u8], tries: usize) -> Result<bool> {
    let mut room = vec![0; 65_536];
    for _ in 0..tries {
        socket.send_to(data, to)?;
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            match socket.recv_from(&mut room) {
                Ok((length, _)) if room[..length] == *data => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(false)
}

fn every_size_and_a_bounded_number_of_clients() -> Result<()> {
    const MOST: usize = 4;
    let scene = scene()?;
    let echo = DatagramEcho::start(&scene.net.a)?;
    let services = [("echo", format!("udp:{}", echo.address()), "udp:0")];
    let limits = ["--udp-flows", "4", "--udp-idle", "4s"];
    let (_published, entrances) = way(&scene, &services, &limits)?;
    let (to, connect) = (entrances.addresses[0], &entrances.process);
    let clients = (0..=MOST)
        .map(|_| socket(&scene.net.b))
        .collect::<Result<Vec<_>>>()?;
    let (last, first) = clients.split_last().context("there are some")?;
    for (client, size) in first
        .iter()
        .cycle()
        .zip([0, 1, 500, 1473, 9001, 40_000, 65_507])
    {
        let data: Vec<u8> = (0..size).map(|at: usize| ((at * 31) >> 3) as u8).collect();
        ensure!(
            comes_back(client, to, &data, 60)?,
            "{size} bytes do not come back"
        );
    }
    // All places are taken, for as long as somebody uses them.
    for client in first {
        ensure!(comes_back(client, to, b"still here", 60)?);
    }
    last.send_to(b"one too many", to)?;
    connect.logged("too many clients", LIMIT)?;
    // Nobody says anything any more, and nothing is held for anybody at either side.
    wait_until("all flows end", LIMIT, || {
        let status = scene.client.status_of(connect)?;
        Ok((status["sessions"][0]["channels"] == 0).then_some(()))
    })?;
    ensure!(comes_back(last, to, b"now", 60)?);
    Ok(())
}

/// Numbered datagrams, while both firewalls reset what passes. What waits at the cut goes on after it, since it may be
/// as late as it likes here; what was under way is lost, and nothing else.
fn a_cut_costs_what_was_under_way() -> Result<()> {
    const COUNT: u32 = 300;
    let scene = scene()?;
    let echo = DatagramEcho::start(&scene.net.a)?;
    let services = [("echo", format!("udp:{}", echo.address()), "udp:0")];
    let (_published, entrances) = way(&scene, &services, &["--udp-late", "60s"])?;
    let to = entrances.addresses[0];
    let client = socket(&scene.net.b)?;
    ensure!(comes_back(&client, to, b"first", 60)?);
    client.set_read_timeout(Some(Duration::from_millis(10)))?;
    let mut seen = BTreeSet::new();
    let mut take = |limit: Duration, all: &dyn Fn(&BTreeSet<u32>) -> bool| -> Result<()> {
        let (until, mut room) = (Instant::now() + limit, [0; 64]);
        while Instant::now() < until && !all(&seen) {
            match client.recv_from(&mut room) {
                Ok((length, _)) => {
                    let number = room[..length].try_into().map(u32::from_be_bytes);
                    ensure!(seen.insert(number?), "one came twice");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    };
    for number in 0..COUNT {
        match number {
            100 => scene.net.firewall_b.reset_flows()?,
            200 => scene.net.firewall_a.reset_flows()?,
            _ => {}
        }
        client.send_to(&number.to_be_bytes(), to)?;
        take(Duration::from_millis(20), &|_| false)?;
    }
    // The last one was sent long after the last cut.
    take(LIMIT, &|seen| seen.contains(&(COUNT - 1)))?;
    let resumes = scene.client.status_of(&entrances.process)?["sessions"][0]["resumes"].clone();
    let missing: Vec<u32> = (0..COUNT).filter(|number| !seen.contains(number)).collect();
    let gaps = 1 + missing
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1)
        .count();
    println!("{resumes} resumes, lost: {missing:?}");
    ensure!(resumes.as_u64() >= Some(2), "{resumes} resumes");
    // One for each cut and direction at the most.
    ensure!(
        gaps <= 4 && missing.len() < COUNT as usize / 5,
        "{missing:?}"
    );
    Ok(())
}
