//! Services that the relay itself dials: one agent is enough.
//!
//! Topology of each: the client on `b` behind firewall B, the relay in public, the service on the relay's machine. The
//! host `a` has no agent here.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Cut, Cutter, Entrance, Pace, Plan, Relay, RelayOptions, TwoFirewalls, each_carrier,
    exec, side_by_side, tests,
};

fn main() -> ExitCode {
    tests!(
        one_agent_reaches_what_the_relay_dials,
        twenty_cuts_of_a_direct_session,
        only_those_who_may_reach_it
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(90);
const MEBIBYTE: u64 = 1 << 20;
const CUTS: usize = 20;

/// A relay with services of its own, each a name, a port of its machine and who may use it.
fn relay_with(net: &TwoFirewalls, services: &[(&str, u16, &str)]) -> Result<Relay> {
    let entry = |(name, port, who): &(&str, u16, &str)| {
        format!(
            "[[service]]\nname = \"{name}\"\ntarget = \"127.0.0.1:{port}\"\nallow = [\"{who}\"]\n"
        )
    };
    let options = RelayOptions {
        configuration: Some(services.iter().map(entry).collect()),
        ..RelayOptions::default()
    };
    Relay::start_with(&net.relay, &options)
}

fn client(net: &TwoFirewalls, relay: &Relay, carrier: &str) -> Result<Agent> {
    let client = Agent::unknown(&net.b)?.by(carrier);
    client.log_in_first(relay)?;
    Ok(client)
}

fn one_agent_reaches_what_the_relay_dials() -> Result<()> {
    each_carrier(3, |carrier| {
        let net = TwoFirewalls::new()?;
        let echo = Service::echo(&net.relay, 0)?;
        let count = Service::count(&net.relay, 0)?;
        let services = [
            ("echo", echo.port(), "*"),
            ("count", count.port(), "*"),
            ("closed", 1, "*"),
        ];
        let relay = relay_with(&net, &services)?;
        let client = client(&net, &relay, carrier)?;
        let listed = client.run(&["services", "--json"])?;
        for (name, _, _) in services {
            ensure!(listed.contains(name), "{name} is not in {listed}");
        }

        let entrance = client.connect("echo")?;
        let stream = traffic::connect(&net.b, entrance.address, LIMIT)?;
        traffic::echo(&stream, 1, 2 * MEBIBYTE, &AtomicU64::new(0))?.exact(2 * MEBIBYTE)?;
        let many = traffic::open_many(&net.b, entrance.address, 30, LIMIT)?;
        many.echo_all(20_000)?;

        let entrance = client.connect("count")?;
        let stream = traffic::connect(&net.b, entrance.address, LIMIT)?;
        ensure!(traffic::count_by_half_close(&stream, 2, MEBIBYTE)? == MEBIBYTE);

        let refused = exec::output(&mut client.command(&["nc", "closed"])?, LIMIT)?;
        ensure!(refused.status.code() == Some(5), "{:?}", refused.status);
        ensure!(
            refused.errors().contains("UP-REFUSED"),
            "{}",
            refused.errors()
        );
        Ok(())
    })
}

fn twenty_cuts_of_a_direct_session() -> Result<()> {
    const LENGTH: u64 = 160 * MEBIBYTE;
    side_by_side(&["upgrade", "posts", "poll"], 3, |carrier| {
        let net = TwoFirewalls::new()?;
        let echo = Service::echo(&net.relay, 0)?;
        let relay = relay_with(&net, &[("echo", echo.port(), "*")])?;
        let client = client(&net, &relay, carrier)?;
        let entrance = client.connect("echo")?;
        let stream = traffic::connect(&net.b, entrance.address, LIMIT)?;

        let progress = Arc::new(AtomicU64::new(0));
        let cutter = Cutter::start(Plan {
            seed: 20,
            cuts: vec![
                Cut::Reset(net.firewall_b.clone()),
                Cut::Forget(net.firewall_b.clone()),
                Cut::BlackHole(net.firewall_b.clone()),
                Cut::Unplug(net.firewall_b.link().clone()),
                Cut::Freeze(relay.process().clone()),
            ],
            // Twenty of the longest fit into the stream, with what passes while a cut is being made.
            pace: Pace::Progress(Arc::clone(&progress), MEBIBYTE..4 * MEBIBYTE),
            outage: Duration::from_millis(200)..Duration::from_millis(1000),
            count: CUTS,
        });
        let findings = traffic::echo(&stream, 20, LENGTH, &progress);
        let cuts = cutter.stop()?;
        findings
            .with_context(|| format!("{cuts:?}"))?
            .exact(LENGTH)?;
        ensure!(cuts.len() == CUTS, "only {} cuts fell into it", cuts.len());

        let way = way_of(&client, &entrance)?;
        let drops = way["drops"].as_u64().unwrap_or(0);
        ensure!(drops > 0, "no drop was counted: {way}");
        ensure!(way["carrier"] == carrier, "{way}");
        ensure!(way["last_resume_s"].is_f64(), "{way}");
        println!("    {carrier}: {} cuts, {drops} drops", cuts.len());
        // Each was survived by the one connection: the relay dialled once.
        ensure!(echo.tally().connections() == 1);
        Ok(())
    })
}

/// What the agent behind `entrance` tells about its way to the relay.
fn way_of(client: &Agent, entrance: &Entrance) -> Result<serde_json::Value> {
    let status = client.status_of(&entrance.process)?;
    Ok(status["relay"].clone())
}

fn only_those_who_may_reach_it() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let echo = Service::echo(&net.relay, 0)?;
    let services = [("open", echo.port(), "*"), ("hers", echo.port(), "alice")];
    let relay = relay_with(&net, &services)?;
    let administrator = client(&net, &relay, "ws")?;
    let nc = |agent: &Agent, service: &str| {
        exec::output_with_input(&mut agent.command(&["nc", service])?, b"ping", LIMIT)
    };
    for name in ["alice", "bob"] {
        let agent = Agent::invited(&net.a, &relay, name, &administrator)?;
        ensure!(nc(&agent, "open")?.success()?.text() == "ping");
        let hers = nc(&agent, "hers")?;
        let wanted = if name == "alice" { 0 } else { 3 };
        ensure!(
            hers.status.code() == Some(wanted),
            "{name}: {:?} {}",
            hers.status,
            hers.errors()
        );
    }
    Ok(())
}
