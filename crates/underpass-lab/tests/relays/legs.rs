//! A session that is carried by two relays at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Cable, Process, TwoFirewalls, wait_until};

use crate::group::Group;
use crate::load::STALL;

/// What the line of each relay carries, in bits per second: by far the limit here.
const LINE: u64 = 10_000_000;
/// Two legs must carry so many times as much as one.
const GAIN: f64 = 1.5;
/// Long enough that the beginning, in which each leg's rate is found, counts little.
const LENGTH: u64 = 16 << 20;
/// What is under way when a relay dies.
const LONG: u64 = 18 << 20;
/// Bytes that an interactive program sends at once, and how often until one looks where they went.
const KEYS: (usize, usize) = (500, 10);
const GAP: Duration = Duration::from_millis(10);

/// services - publisher - firewall a - two relays, each by a line that is the limit - firewall b - client. A download by
/// one leg, then by two; then a longer one beside what somebody types, in the middle of which one of the two relays is
/// killed.
pub(crate) fn two_legs_carry_more_than_one() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let hosts = [
        net.lab.public_host("one", Cable::Plain)?,
        net.lab.public_host("two", Cable::Plain)?,
    ];
    let group = Group::new(net, &hosts.clone().map(|host| (host, 80)))?;
    let services = Services::start(&group)?;
    for host in &hosts {
        host.link().limit_rate(LINE)?;
    }
    let one = services.download_by_legs(&group, 1)?;
    let two = services.download_by_legs(&group, 2)?;
    let gain = one.as_secs_f64() / two.as_secs_f64();
    println!("{LENGTH} bytes: {one:.2?} by one leg, {two:.2?} by two, {gain:.2} times as much");
    ensure!(
        gain >= GAIN,
        "two legs carry {gain:.2} times as much as one"
    );
    services.a_relay_dies(&group)
}

struct Services {
    long: Service,
    published: Process,
    _others: [Service; 2],
}

impl Services {
    fn start(group: &Group) -> Result<Self> {
        let a = &group.net.a;
        let bulk = Service::source(a, 0, 1, LENGTH)?;
        let long = Service::source(a, 0, 2, LONG)?;
        let keys = Service::echo(a, 0)?;
        let targets = [&bulk, &long, &keys].map(|service| service.address().to_string());
        let names = ["bulk", "long", "keys"];
        let offers = names.into_iter().zip(targets.iter().map(String::as_str));
        let offers: Vec<_> = offers.collect();
        let published = group.publisher.publish(&offers)?;
        for name in names {
            group.publisher.allow("client", name)?;
        }
        Ok(Self {
            long,
            published,
            _others: [bulk, keys],
        })
    }

    /// How long a download takes in a session that so many legs carry before it begins.
    fn download_by_legs(&self, group: &Group, legs: usize) -> Result<Duration> {
        let b = &group.net.b;
        let more = ["--legs", &legs.to_string()];
        let entrances = group.client.connect_all_with(&["bulk", "keys"], &more)?;
        let [bulk, keys] = entrances.addresses[..] else {
            return Err(anyhow!("two addresses"));
        };
        group.attached(&self.published, &entrances.process)?;
        let quiet = traffic::connect(b, keys, STALL)?;
        traffic::exchange(&quiet, 100, 1, GAP)?;
        carried_by(group, &entrances.process, legs)?;
        let begin = Instant::now();
        let stream = traffic::connect(b, bulk, STALL)?;
        traffic::download(&stream, 1, None)?.exact(LENGTH)?;
        Ok(begin.elapsed())
    }

    /// A download by both relays until one of them dies; what is typed meanwhile goes by one of them at a time.
    fn a_relay_dies(&self, group: &Group) -> Result<()> {
        let b = &group.net.b;
        let long = ["--legs", "2"];
        let long = group.client.connect_all_with(&["long"], &long)?;
        let more = ["--legs", "2", "--class", "interactive"];
        let keys = group.client.connect_all_with(&["keys"], &more)?;
        let typed = traffic::connect(b, keys.addresses[0], STALL)?;
        traffic::exchange(&typed, 100, 1, GAP)?;
        carried_by(group, &keys.process, 2)?;
        let type_some = |shares: &mut Shares| {
            let typing = || traffic::exchange(&typed, KEYS.0, KEYS.1, GAP).map(drop);
            shares.take_in(group, &keys.process, typing)
        };
        let mut shares = Shares::default();
        // Which leg leads may still change while the round trips of both are being learnt.
        wait_until("the same leg leads for some time", STALL, || {
            type_some(&mut shares)?;
            Ok(shares.enough().then_some(()))
        })?;
        let stream = traffic::connect(b, long.addresses[0], STALL)?;
        std::thread::scope(|scope| {
            let download = scope.spawn(move || traffic::download(&stream, 2, None)?.exact(LONG));
            while self.long.tally().sent() < LONG / 2 {
                type_some(&mut shares)?;
            }
            group.relays[0].process().kill()?;
            traffic::exchange(&typed, KEYS.0, KEYS.1, GAP)?;
            let downloaded = download.join().map_err(|_| anyhow!("it panicked"))?;
            downloaded.context("the download")?;
            println!("what was typed: {shares:?}");
            shares.check()
        })
    }
}

/// Waits until so many legs carry the session of an agent.
fn carried_by(group: &Group, connected: &Process, count: usize) -> Result<()> {
    wait_until(&format!("{count} legs"), STALL, || {
        let legs = legs(group, connected)?;
        Ok((legs.len() == count).then_some(()))
    })
}

/// Of each leg of an agent's session: what carries it, whether it leads, bytes sent.
fn legs(group: &Group, connected: &Process) -> Result<Vec<(String, bool, u64)>> {
    let report = group.client.status_of(connected)?;
    let legs = report["sessions"][0]["legs"].as_array();
    let leg = |leg: &Value| {
        Some((
            leg["carried_by"].as_str()?.to_owned(),
            leg["leads"].as_bool()?,
            leg["sent"].as_u64()?,
        ))
    };
    let legs = legs.map(|legs| legs.iter().map(leg).collect());
    legs.unwrap_or(Some(Vec::new()))
        .with_context(|| format!("legs in {report}"))
}

/// What went on the leg that led, and on the other one, while the same one led.
#[derive(Debug, Default)]
struct Shares {
    lead: u64,
    other: u64,
}

impl Shares {
    fn take_in(
        &mut self,
        group: &Group,
        connected: &Process,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = legs(group, connected)?;
        work()?;
        let after = legs(group, connected)?;
        let same = |(old, new): (&(String, bool, u64), &(String, bool, u64))| {
            (&old.0, old.1) == (&new.0, new.1) && old.2 <= new.2
        };
        if before.len() == after.len() && before.iter().zip(&after).all(same) {
            for ((_, leads, old), (_, _, new)) in before.iter().zip(&after) {
                match leads {
                    true => self.lead += new - old,
                    false => self.other += new - old,
                }
            }
        }
        Ok(())
    }

    /// More than is typed at once, though it is compressed.
    fn enough(&self) -> bool {
        self.lead >= (KEYS.0 * KEYS.1) as u64
    }

    /// Whoever spread what is typed over both would send about as much on one as on the other. What goes on the other
    /// leg are answers to the peer, who chooses a leg of its own.
    fn check(&self) -> Result<()> {
        ensure!(self.enough() && self.other * 2 <= self.lead, "{self:?}");
        Ok(())
    }
}
