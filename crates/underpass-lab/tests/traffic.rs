//! The traffic tools measure right, also while the path breaks; processes are controlled and looked into.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Cable, Cut, Cutter, Host, Lab, Pace, Plan, Policy, TwoFirewalls, tests};

fn main() -> ExitCode {
    tests!(
        an_echo_is_exact_while_the_path_is_cut,
        a_reset_fails_an_echo,
        a_count_comes_back_after_half_close,
        an_aborted_service_is_an_error,
        a_slow_reader_holds_the_sender_back,
        many_connections_at_once,
        round_trips_are_measured,
        a_capture_shows_what_passes,
        a_process_is_controlled_and_looked_into,
        a_cutter_restarts_and_freezes_a_process,
    )
}

const STALL: Duration = Duration::from_secs(30);

fn echo_pair() -> Result<(TwoFirewalls, Service)> {
    let net = TwoFirewalls::with(&Policy::web(), Cable::Boxed(3), Cable::Plain)?;
    let service = Service::echo(&net.relay, 8080)?;
    Ok((net, service))
}

fn an_echo_is_exact_while_the_path_is_cut() -> Result<()> {
    let (net, service) = echo_pair()?;
    let stream = traffic::connect(&net.a, service.address(), STALL)?;
    let progress = Arc::new(AtomicU64::new(0));
    let length = 24 << 20;
    // TCP itself heals these.
    let firewall = net.firewall_a.clone();
    let link = firewall.link().clone();
    let cuts = vec![
        Cut::BlackHole(firewall),
        Cut::Unplug(link.clone()),
        Cut::Hold(link),
    ];
    let cutter = Cutter::start(Plan {
        seed: 11,
        cuts,
        pace: Pace::Progress(Arc::clone(&progress), 256 << 10..1 << 20),
        outage: Duration::from_millis(5)..Duration::from_millis(60),
        count: 12,
    });
    traffic::echo(&stream, 1, length, &progress)?.exact(length)?;
    let done = cutter.stop()?;
    ensure!(done.len() == 12, "{done:?}");
    ensure!(service.tally().received() == length && service.tally().errors() == 0);
    Ok(())
}

fn a_reset_fails_an_echo() -> Result<()> {
    let (net, service) = echo_pair()?;
    for cut in [
        Cut::Reset(net.firewall_a.clone()),
        Cut::Inject(net.firewall_a.link().clone()),
    ] {
        let stream = traffic::connect(&net.a, service.address(), STALL)?;
        let progress = Arc::new(AtomicU64::new(0));
        let cutter = Cutter::start(Plan {
            seed: 1,
            cuts: vec![cut],
            pace: Pace::Progress(Arc::clone(&progress), 1 << 20..2 << 20),
            outage: Duration::ZERO..Duration::ZERO,
            count: 1,
        });
        let result = traffic::echo(&stream, 1, 1 << 30, &progress);
        let error = result.err().context("an echo went on after a reset")?;
        ensure!(
            format!("{error:#}").contains(" 0 lost, 0 doubled, 0 changed"),
            "{error:#}"
        );
        ensure!(cutter.stop()?.len() == 1);
    }
    Ok(())
}

fn a_count_comes_back_after_half_close() -> Result<()> {
    let (net, _) = echo_pair()?;
    let service = Service::count(&net.relay, 80)?;
    for length in [0, 1, 3_000_000] {
        let stream = traffic::connect(&net.b, service.address(), STALL)?;
        let count = traffic::count_by_half_close(&stream, 9, length)?;
        ensure!(count == length, "{count} of {length}");
    }
    Ok(())
}

fn an_aborted_service_is_an_error() -> Result<()> {
    let (net, _) = echo_pair()?;
    let whole = Service::source(&net.relay, 80, 4, 500_000)?;
    let stream = traffic::connect(&net.b, whole.address(), STALL)?;
    traffic::download(&stream, 4, None)?.exact(500_000)?;

    let torn = Service::abort(&net.relay, 443, 4, 500_000)?;
    let stream = traffic::connect(&net.b, torn.address(), STALL)?;
    std::io::Write::write_all(&mut &stream, b"!")?;
    let error = traffic::download(&stream, 4, None)
        .err()
        .context("a torn download passed")?;
    ensure!(format!("{error:#}").contains("reset"), "{error:#}");
    Ok(())
}

fn a_slow_reader_holds_the_sender_back() -> Result<()> {
    let (net, _) = echo_pair()?;
    let service = Service::slow_reader(&net.relay, 80, 10_000)?;
    let stream = traffic::connect(&net.b, service.address(), Duration::from_secs(1))?;
    // Far more than all buffers between them take: the write must stall.
    let error = traffic::upload(&stream, 4, 1 << 30)
        .err()
        .context("a gigabyte was taken")?;
    ensure!(error.kind() == std::io::ErrorKind::WouldBlock, "{error}");
    ensure!(service.tally().received() > 0);
    Ok(())
}

fn many_connections_at_once() -> Result<()> {
    let (net, service) = echo_pair()?;
    let opened = traffic::open_many(&net.b, service.address(), 300, STALL)?;
    underpass_lab::wait_until("all are accepted", STALL, || {
        Ok((service.open() == 300).then_some(()))
    })?;
    opened.echo_all(50_000)?;
    ensure!(service.tally().received() == 300 * 50_000);
    Ok(())
}

fn round_trips_are_measured() -> Result<()> {
    let (net, service) = echo_pair()?;
    let impair = net
        .firewall_a
        .link()
        .impair()
        .context("the cable has a box")?;
    impair.both(|line| line.delay = Duration::from_millis(10));
    let stream = traffic::connect(&net.a, service.address(), STALL)?;
    let latencies = traffic::exchange(&stream, 16, 20, Duration::from_millis(1))?;
    ensure!(latencies.count() == 20 && latencies.percentile(0.0) >= Duration::from_millis(20));
    Ok(())
}

fn a_capture_shows_what_passes() -> Result<()> {
    let (net, service) = echo_pair()?;
    let capture = net
        .relay
        .link()
        .capture(&net.lab.logs().join("relay.pcap"))?;
    let elsewhere = net
        .firewall_b
        .link()
        .capture(&net.lab.logs().join("fwb.pcap"))?;
    let stream = traffic::connect(&net.a, service.address(), STALL)?;
    let canary = b"a canary that nothing else on the network says";
    std::io::Write::write_all(&mut &stream, canary)?;
    std::io::Read::read_exact(&mut &stream, &mut [0; 46])?;
    let recording = capture.stop()?;
    // Once to the service and once back.
    ensure!(
        recording.holds(canary)? >= 2 && recording.packets >= 5,
        "{recording:?}"
    );
    ensure!(elsewhere.stop()?.holds(canary)? == 0);
    Ok(())
}

fn one_host() -> Result<(Lab, Host)> {
    let mut lab = Lab::new()?;
    let host = lab.public_host("host", Cable::Plain)?;
    Ok((lab, host))
}

fn a_process_is_controlled_and_looked_into() -> Result<()> {
    let (_lab, host) = one_host()?;
    let mut command = host.command("sh");
    command.args([
        "-c",
        "word=canary; echo ready; echo warned >&2; while read -r line; do :; done < /dev/zero",
    ]);
    let process = host.spawn("shell", command)?;
    ensure!(process.line(STALL)? == "ready");
    process.logged("warned", STALL)?;
    let memory = process.memory()?;
    ensure!(
        memory.resident > 100_000 && memory.peak >= memory.resident,
        "{memory:?}"
    );
    ensure!(process.open_files()? >= 3);
    ensure!(process.memory_holds(b"word=canary; echo ready")? > 0);
    ensure!(process.memory_holds(b"no program ever says this: 8f1a")? == 0);
    process.freeze()?;
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.id()));
    underpass_lab::wait_until("it is frozen", STALL, || {
        Ok(state()?.contains(") T ").then_some(()))
    })?;
    process.thaw()?;
    underpass_lab::wait_until("it goes on", STALL, || {
        Ok((!state()?.contains(") T ")).then_some(()))
    })?;
    let first = process.id();
    process.restart()?;
    ensure!(process.line(STALL)? == "ready" && process.id() != first);
    process.terminate(STALL)?;
    ensure!(process.line(STALL).is_err(), "a line after the end");
    Ok(())
}

fn a_cutter_restarts_and_freezes_a_process() -> Result<()> {
    let (_lab, host) = one_host()?;
    let mut command = host.command("sleep");
    command.arg("1000");
    let process = host.spawn("sleep", command)?;
    let first = process.id();
    let plan = Plan {
        seed: 2,
        cuts: vec![Cut::Restart(process.clone()), Cut::Freeze(process.clone())],
        pace: Pace::Time(Duration::from_millis(1)..Duration::from_millis(5)),
        outage: Duration::from_millis(1)..Duration::from_millis(5),
        count: 8,
    };
    let made = |plan: Plan| -> Result<Vec<String>> {
        let cutter = Cutter::start(plan);
        underpass_lab::wait_until("eight cuts", STALL, || {
            Ok((cutter.done().len() == 8).then_some(()))
        })?;
        Ok(cutter.stop()?.into_iter().map(|done| done.what).collect())
    };
    let names = made(plan.clone())?;
    ensure!(
        names.contains(&"host-sleep is frozen".to_owned()),
        "{names:?}"
    );
    ensure!(process.id() != first && process.exited()?.is_none());
    ensure!(names == made(plan)?, "the same seed chose otherwise");
    Ok(())
}
