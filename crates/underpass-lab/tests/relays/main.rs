//! Several relays: one dies, is restarted, hangs or becomes slow, and the sessions go on through another.
//!
//! `UNDERPASS_SOAK=1` makes 50 kills instead of 10, beside an scp of 1 GiB.

mod announced;
mod group;
mod legs;
mod load;
mod split;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Result, ensure};
use underpass_lab::traffic::{self, Latencies, Service};
use underpass_lab::{Cable, Impairment, Story, TwoFirewalls, soak, tests};

use announced::a_group_announces_its_relays;
use group::Group;
use legs::two_legs_carry_more_than_one;
use load::{STALL, Work, come_further, longest_silence};
use split::each_direction_goes_through_a_relay_of_its_own;

fn main() -> ExitCode {
    tests!(
        the_relay_in_use_dies_again_and_again,
        the_better_relay_is_taken_and_left_when_it_becomes_worse,
        two_legs_carry_more_than_one,
        a_group_announces_its_relays,
        each_direction_goes_through_a_relay_of_its_own
    )
}

/// After the death of a relay data flows again within this: what is asked of the program.
const FLOWS_AGAIN: Duration = Duration::from_secs(3);
/// What the firewalls let out.
const PORTS: [u16; 3] = [8080, 80, 443];

/// servers - publisher - firewall a - three relays on one database - firewall b - client, with an echo, 500 connections
/// that say something now and then, pgbench, scp, and an ssh in which nothing happens. The relay that carries them is
/// killed (SIGKILL) again and again and started anew once data flows through another one; then all are restarted
/// (SIGTERM) one after the other; then the one in use hangs (SIGSTOP). No connection breaks, no byte is lost.
fn the_relay_in_use_dies_again_and_again() -> Result<()> {
    let kills = if soak() { 50 } else { 10 };
    let net = TwoFirewalls::new()?;
    let places = PORTS.map(|port| (net.relay.clone(), port));
    let group = Group::new(net, &places)?;
    let work = Work::start(&group)?;
    group.attached(&work.published, &work.connected)?;
    let (killed, restarted, hung) = work.while_busy(&group, |progress| {
        let killed = (0..kills).map(|_| kill_the_one_in_use(&group, &work, progress));
        let killed = killed.collect::<Result<Vec<_>>>()?;
        let restarted = (0..PORTS.len()).map(|relay| restart(&group, &work, relay, progress));
        let restarted = restarted.collect::<Result<Vec<_>>>()?;
        let hung = hang_the_one_in_use(&group, &work, progress)?;
        Ok((killed, restarted, hung))
    })?;
    let story = Story::of(&group.client)?;
    ensure!(story.sessions == 1 && story.resumes >= kills, "{story:?}");
    let (killed, restarted) = (Latencies::new(killed), Latencies::new(restarted));
    println!(
        "longest silence of the echo around each event: {kills} kills: median {:.2?}, worst {:.2?}; three restarts: \
         worst {:.2?}; one that hangs: {hung:.2?}; no connection broke",
        killed.median(),
        killed.max(),
        restarted.max(),
    );
    ensure!(killed.max() <= FLOWS_AGAIN, "too long after a kill");
    ensure!(restarted.max() <= FLOWS_AGAIN, "too long after a restart");
    Ok(())
}

fn kill_the_one_in_use(group: &Group, work: &Work, progress: &AtomicU64) -> Result<Duration> {
    come_further(progress)?;
    let used = group.in_use(&work.connected)?;
    let process = group.relays[used].process();
    let silence = longest_silence(progress, || {
        process.kill()?;
        group.leaves(used, &work.connected)
    })?;
    begin_anew(group, work, used)?;
    Ok(silence)
}

fn restart(group: &Group, work: &Work, relay: usize, progress: &AtomicU64) -> Result<Duration> {
    come_further(progress)?;
    let process = group.relays[relay].process();
    let silence = longest_silence(progress, || {
        process.terminate(STALL)?;
        group.leaves(relay, &work.connected)
    })?;
    begin_anew(group, work, relay)?;
    Ok(silence)
}

fn begin_anew(group: &Group, work: &Work, relay: usize) -> Result<()> {
    let relay = &group.relays[relay];
    relay.process().restart()?;
    relay.wait_ready()?;
    group.attached(&work.published, &work.connected)
}

fn hang_the_one_in_use(group: &Group, work: &Work, progress: &AtomicU64) -> Result<Duration> {
    come_further(progress)?;
    let used = group.in_use(&work.connected)?;
    let process = group.relays[used].process();
    let silence = longest_silence(progress, || {
        process.freeze()?;
        group.leaves(used, &work.connected)
    });
    process.thaw()?;
    silence
}

/// echo service - publisher - firewall a - two relays, each by a line of its own - firewall b - client. The line of one
/// is the longer one, and then that of the other. Each move is the only one until then.
fn the_better_relay_is_taken_and_left_when_it_becomes_worse() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let hosts = [
        net.lab.public_host("near", Cable::Boxed(1))?,
        net.lab.public_host("far", Cable::Boxed(2))?,
    ];
    let later = |relay: usize, delay: u64| {
        let change = |line: &mut Impairment| line.delay = Duration::from_millis(delay);
        if let Some(cable) = hosts[relay].link().impair() {
            cable.both(change);
        }
    };
    later(0, 20);
    let group = Group::new(net, &hosts.clone().map(|host| (host, PORTS[0])))?;
    let service = Service::echo(&group.net.a, 0)?;
    let published = group
        .publisher
        .publish(&[("echo", &service.address().to_string())])?;
    group.publisher.allow("client", "echo")?;
    let entrance = group.client.connect("echo")?;
    let opened = traffic::open_many(&group.net.b, entrance.address, 10, STALL)?;
    group.goes_over_to(1, &entrance.process)?;
    later(1, 100);
    group.goes_over_to(0, &entrance.process)?;
    opened.echo_all(100_000)?;
    let story = Story::of(&group.client)?;
    ensure!((1..=2).contains(&story.resumes), "{story:?}");
    drop(published);
    Ok(())
}
