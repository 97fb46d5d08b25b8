//! Clocks that are set while sessions live.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Authority, CLIENT, Cable, Process, Relay, RelayOptions, Signal, Story, Told,
    TwoFirewalls, WallClock, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(a_clock_that_jumps_by_a_day_drops_no_session)
}

/// No byte for so long, and the echo has failed.
const STALL: Duration = Duration::from_secs(60);
/// What comes back before the echo counts as going on.
const STEP: u64 = 1 << 20;

/// echo service - publisher - firewall a - relay - firewall b - client, by HTTPS with a certificate of the relay's own, and
/// a ticket authority on a machine of its own. One after the other has its clock set a day ahead, then two days back, then
/// right. The echo goes on; and each time both paths are cut, and the session resumes by tickets that were issued on
/// another day.
fn a_clock_that_jumps_by_a_day_drops_no_session() -> Result<()> {
    let stage = Stage::new()?;
    let stream = traffic::connect(&stage.net.b, stage.entrance, STALL)?;
    let (over, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| traffic::echo_until(&stream, 11, &over, &progress));
        let survived = (stage.machines.iter())
            .try_for_each(|machine| machine.jumps(&stage, &progress).context(machine.name));
        over.store(true, Ordering::Relaxed);
        let echoed = echo.join();
        let echoed = echoed.map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        survived?;
        println!("{} bytes exact", echoed.context("the echo")?);
        Ok(())
    })?;
    let (client, publisher) = (Story::of(&stage.client)?, Story::of(&stage.publisher)?);
    ensure!(
        client.sessions == 1 && publisher.sessions == 1,
        "{client:?} {publisher:?}"
    );
    let connections = stage.service.tally().connections();
    ensure!(connections == 1, "{connections} connections");
    println!("{client:?}");
    Ok(())
}

/// A process that has a clock of its own.
struct Machine {
    name: &'static str,
    clock: WallClock,
    process: Process,
}

struct Stage {
    machines: [Machine; 4],
    entrance: std::net::SocketAddr,
    client: Agent,
    publisher: Agent,
    service: Service,
    _relay: Relay,
    _authority: Authority,
    net: TwoFirewalls,
}

impl Stage {
    fn new() -> Result<Self> {
        let clocks = [
            WallClock::new()?,
            WallClock::new()?,
            WallClock::new()?,
            WallClock::new()?,
        ];
        let mut net = TwoFirewalls::new()?;
        let machine = net.lab.public_host("authority", Cable::Plain)?;
        let [of_authority, of_relay, of_publisher, of_client] = clocks.each_ref().map(environment);
        let authority = Authority::start(&machine, &of_authority)?;
        let options = RelayOptions {
            tls: true,
            arguments: ["--authority", authority.address()]
                .map(str::to_owned)
                .into(),
            environment: of_relay,
            ..RelayOptions::default()
        };
        let relay = Relay::start_with(&net.relay, &options)?;
        authority.allow(&[&relay])?;
        let agent = |host, environment| -> Result<Agent> {
            let told = Told {
                environment,
                ..Told::default()
            };
            Ok(Agent::unknown(host)?.told(told).by("upgrade"))
        };
        let (publisher, client) = (agent(&net.a, of_publisher)?, agent(&net.b, of_client)?);
        publisher.log_in_first(&relay)?;
        client.log_in(&relay, &publisher.invite(CLIENT)?)?;
        let service = Service::echo(&net.a, 0)?;
        let published = publisher.publish(&[("echo", &service.address().to_string())])?;
        publisher.allow(CLIENT, "echo")?;
        let entrance = client.connect("echo")?;
        let processes = [
            authority.process().clone(),
            relay.process().clone(),
            published,
            entrance.process,
        ];
        let mut named = ["authority", "relay", "publisher", "client"]
            .into_iter()
            .zip(clocks)
            .zip(processes);
        let machines = std::array::from_fn(|_| {
            let ((name, clock), process) = named.next().expect("there are four of each");
            Machine {
                name,
                clock,
                process,
            }
        });
        Ok(Self {
            machines,
            entrance: entrance.address,
            client,
            publisher,
            service,
            _relay: relay,
            _authority: authority,
            net,
        })
    }
}

/// With a log that says something of every cut.
fn environment(clock: &WallClock) -> Vec<(String, String)> {
    let mut environment = clock.environment();
    environment.push((
        "RUST_LOG".to_owned(),
        "info,underpass_relay=debug".to_owned(),
    ));
    environment
}

impl Machine {
    fn jumps(&self, stage: &Stage, progress: &AtomicU64) -> Result<()> {
        for days in [1, -1, 0] {
            self.clock.set_off_by_days(days)?;
            come_further(progress).context("before the cut")?;
            let before = Story::of(&stage.client)?.resumes;
            stage.net.firewall_a.reset_flows()?;
            stage.net.firewall_b.reset_flows()?;
            wait_until("the session resumes", STALL, || {
                Ok((Story::of(&stage.client)?.resumes > before).then_some(()))
            })?;
            come_further(progress).context("after the cut")?;
            self.has_jumped()
                .with_context(|| format!("{days} days off"))?;
        }
        Ok(())
    }

    /// Waits until its log tells the time of its clock.
    fn has_jumped(&self) -> Result<()> {
        // Of those four, only the authority knows nothing of cuts.
        if self.name == "authority" {
            self.process.signal(Signal::HUP)?;
        }
        wait_until("a line of the log with the clock's date", STALL, || {
            let today = self.clock.today()?;
            let log = std::fs::read_to_string(self.process.log())?;
            Ok(log
                .lines()
                .any(|line| line.starts_with(&today))
                .then_some(()))
        })
    }
}

/// Waits until the echo has come further.
fn come_further(progress: &AtomicU64) -> Result<()> {
    let due = progress.load(Ordering::Relaxed) + STEP;
    wait_until("the echo goes on", STALL, || {
        Ok((progress.load(Ordering::Relaxed) >= due).then_some(()))
    })
}
