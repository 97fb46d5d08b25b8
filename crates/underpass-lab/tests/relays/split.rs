//! A session whose two directions pass through different relays.

use anyhow::{Context, Result, anyhow, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Cable, Host, Process, TwoFirewalls, wait_until};

use crate::group::Group;
use crate::load::STALL;

/// What the line of each relay carries, in bits per second, so that a relay can die in the middle of something.
const LINE: u64 = 10_000_000;
/// What goes each way.
const LENGTH: u64 = 4 << 20;
/// Acknowledgements and all else that is said beside it are at the most this part of it.
const ASIDE: u64 = LENGTH / 8;

/// services - publisher - firewall a - two relays - firewall b - client. An upload and then a download, in a session of
/// which only the client asks that its directions go apart; then both at once in one of which only the publisher does, in
/// the middle of which first the one relay is killed, then the other.
pub(crate) fn each_direction_goes_through_a_relay_of_its_own() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let hosts = [
        net.lab.public_host("one", Cable::Plain)?,
        net.lab.public_host("two", Cable::Plain)?,
    ];
    let group = Group::new(net, &hosts.clone().map(|host| (host, 80)))?;
    for host in &hosts {
        host.link().limit_rate(LINE)?;
    }
    let targets = Targets::start(&group)?;
    let silent = targets.offer(&group, ["up", "down"], &[])?;
    let asking = targets.offer(&group, ["there", "back"], &["--split-ways"])?;
    targets.client_asks(&group, &hosts, &silent)?;
    targets.publisher_asks_and_relays_die(&group, &asking)
}

/// Where uploads end and downloads come from.
struct Targets {
    judge: Service,
    source: Service,
}

impl Targets {
    fn start(group: &Group) -> Result<Self> {
        let a = &group.net.a;
        Ok(Self {
            judge: Service::judge(a, 0, 1)?,
            source: Service::source(a, 0, 2, LENGTH)?,
        })
    }

    /// Publishes both under these names.
    fn offer(&self, group: &Group, names: [&str; 2], more: &[&str]) -> Result<Process> {
        let targets = [&self.judge, &self.source].map(|it| it.address().to_string());
        let offers: Vec<_> = names
            .into_iter()
            .zip(targets.iter().map(String::as_str))
            .collect();
        let published = group.publisher.publish_with(&offers, more)?;
        for name in names {
            group.publisher.allow("client", name)?;
        }
        Ok(published)
    }

    fn client_asks(&self, group: &Group, hosts: &[Host; 2], published: &Process) -> Result<()> {
        let b = &group.net.b;
        let entrances = group
            .client
            .connect_all_with(&["up", "down"], &["--split-ways"])?;
        let [up, down] = entrances.addresses[..] else {
            return Err(anyhow!("two addresses"));
        };
        group.attached(published, &entrances.process)?;
        let open = traffic::connect(b, down, STALL)?;
        traffic::download(&open, 2, None)?.exact(LENGTH)?;
        let [out, back] = goes_apart(group, &entrances.process)?;
        let before = passed(hosts)?;
        traffic::upload_exactly(&traffic::connect(b, up, STALL)?, 1, LENGTH)?;
        let between = passed(hosts)?;
        let stream = traffic::connect(b, down, STALL)?;
        traffic::download(&stream, 2, None)?.exact(LENGTH)?;
        let after = passed(hosts)?;
        let uploaded = [out, back].map(|relay| between[relay] - before[relay]);
        let downloaded = [back, out].map(|relay| after[relay] - between[relay]);
        println!(
            "bytes through the relay of that direction, and the other: {uploaded:?} up, {downloaded:?} down"
        );
        for [own, other] in [uploaded, downloaded] {
            ensure!(own >= LENGTH && other <= ASIDE, "{own} and {other} bytes");
        }
        Ok(())
    }

    fn publisher_asks_and_relays_die(&self, group: &Group, published: &Process) -> Result<()> {
        let b = &group.net.b;
        let entrances = group.client.connect_all_with(&["there", "back"], &[])?;
        let [there, back] = entrances.addresses[..] else {
            return Err(anyhow!("two addresses"));
        };
        for relay in &group.relays {
            group.attached(published, &entrances.process)?;
            let stream = traffic::connect(b, back, STALL)?;
            let sent = self.source.tally().sent();
            std::thread::scope(|scope| -> Result<()> {
                let upload = scope.spawn(|| {
                    let stream = traffic::connect(b, there, STALL)?;
                    traffic::upload_exactly(&stream, 1, LENGTH)
                });
                let download = scope.spawn(|| traffic::download(&stream, 2, None)?.exact(LENGTH));
                goes_apart(group, &entrances.process)?;
                wait_until("half of it is under way", STALL, || {
                    Ok((self.source.tally().sent() - sent >= LENGTH / 2).then_some(()))
                })?;
                relay.process().kill()?;
                let ended = |_| anyhow!("it panicked");
                upload.join().map_err(ended)?.context("the upload")?;
                download.join().map_err(ended)?.context("the download")
            })?;
            relay.process().restart()?;
            relay.wait_ready()?;
        }
        Ok(())
    }
}

/// Bytes that each relay has received so far.
fn passed(hosts: &[Host; 2]) -> Result<[u64; 2]> {
    let [one, two] = hosts.each_ref().map(|host| host.link().counters());
    Ok([one?.0, two?.0])
}

/// Waits until the client sends through one relay and takes from another one, and gives their numbers.
fn goes_apart(group: &Group, connected: &Process) -> Result<[usize; 2]> {
    wait_until("the directions go apart", STALL, || {
        let report = group.client.status_of(connected)?;
        let legs = report["sessions"][0]["legs"].as_array();
        let only = |does: &str, not: &str| {
            let mut legs = legs.into_iter().flatten();
            let leg = legs.find(|leg| leg[does] == true && leg[not] == false)?;
            group.number_of(leg["carried_by"].as_str()?)
        };
        Ok(only("sends", "takes")
            .zip(only("takes", "sends"))
            .map(|(out, back)| [out, back]))
    })
}
