//! The main job, set up: a relay, a publisher behind firewall A and a client behind firewall B, both enrolled.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use underpass_lab::traffic::{self, Service};
//! use underpass_lab::{Scene, each_carrier};
//! each_carrier(2, |carrier| {
//!     let scene = Scene::by(carrier)?;
//!     let service = Service::count(&scene.net.a, 0)?;
//!     let way = scene.way("count", service.address())?;
//!     let stream = traffic::connect(&scene.net.b, way.address(), Duration::from_secs(30))?;
//!     assert_eq!(traffic::count_by_half_close(&stream, 1, 1000)?, 1000);
//!     Ok(())
//! })
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::firewall::Policy;
use crate::harness::{self, Skip};
use crate::process::Process;
use crate::topology::{Cable, TwoFirewalls};
use crate::tunnel::{Agent, Entrance, Relay, RelayOptions, Told};

/// Every carrier over TCP, by the name that `--carrier` takes.
pub const CARRIERS: [&str; 8] = [
    "upgrade", "h2", "ws", "stream", "posts", "h2posts", "poll", "text",
];
/// The carrier over UDP, for which the firewalls have to let more out.
pub const QUIC: &str = "quic";

/// The user that the client's machine belongs to. The publisher's is the first administrator.
pub const CLIENT: &str = "client";

/// How a scene is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The one carrier that both agents use; all of them, in their own order, when it is not given.
    pub carrier: Option<String>,
    /// How the relay is started.
    pub relay: RelayOptions,
    /// What the client's agent is told of its network.
    pub client: Told,
}

impl Options {
    /// Both agents by one carrier, over plain HTTP; by [`QUIC`] where the relay listens for that on UDP port 443.
    pub fn by(carrier: &str) -> Self {
        let arguments = match carrier {
            QUIC => ["--quic-listen", "0.0.0.0:443"].map(str::to_owned).into(),
            _ => Vec::new(),
        };
        Self {
            carrier: Some(carrier.into()),
            relay: RelayOptions {
                arguments,
                ..RelayOptions::default()
            },
            ..Self::default()
        }
    }

    /// A network whose firewalls let out what the carrier needs: web traffic, and HTTP/3 only for [`QUIC`].
    ///
    /// # Errors
    /// As [`TwoFirewalls::new`].
    pub fn network(&self) -> Result<TwoFirewalls> {
        let policy = match self.carrier.as_deref() {
            Some(QUIC) => Policy::web_and_quic(),
            _ => Policy::web(),
        };
        TwoFirewalls::with(&policy, Cable::Plain, Cable::Plain)
    }

    /// The same over HTTPS, with a certificate that the relay signs itself.
    pub fn with_tls(mut self) -> Self {
        self.relay.tls = true;
        self
    }
}

/// A relay and two agents that have logged in to it: the publisher by the setup code, the client by an invitation.
/// Nothing is published yet.
pub struct Scene {
    /// On host `b`, as the user [`CLIENT`].
    pub client: Agent,
    /// On host `a`, as the first administrator.
    pub publisher: Agent,
    /// On the public host.
    pub relay: Relay,
    /// How long the client's login took, its first contact with the relay from this network.
    pub first_contact: Duration,
    /// Where all this is.
    pub net: TwoFirewalls,
}

/// A way from the client's host to one service: the running `underpass publish` and `underpass connect`.
pub struct Way {
    /// The client's side.
    pub entrance: Entrance,
    /// The publisher's side.
    pub published: Process,
}

impl Way {
    /// Where programs on the client's host reach the service.
    pub fn address(&self) -> SocketAddr {
        self.entrance.address
    }
}

impl Scene {
    /// Both agents by one carrier, on a network of their own that lets it through.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn by(carrier: &str) -> Result<Self> {
        let options = Options::by(carrier);
        Self::start(options.network()?, &options)
    }

    /// Starts the relay on `net` and logs both agents in.
    ///
    /// # Errors
    /// One of them failed; the message says which and shows its words.
    pub fn start(net: TwoFirewalls, options: &Options) -> Result<Self> {
        let relay = Relay::start_with(&net.relay, &options.relay)?;
        let mut publisher = Agent::unknown(&net.a)?;
        let mut client = Agent::unknown(&net.b)?.told(options.client.clone());
        if let Some(carrier) = &options.carrier {
            publisher = publisher.by(carrier);
            client = client.by(carrier);
        }
        publisher.log_in_first(&relay)?;
        let code = publisher.invite(CLIENT)?;
        let begin = Instant::now();
        client.log_in(&relay, &code)?;
        Ok(Self {
            client,
            publisher,
            relay,
            first_contact: begin.elapsed(),
            net,
        })
    }

    /// Publishes services, each a name and a target, and lets the client use them.
    ///
    /// # Errors
    /// One could not be published or allowed.
    pub fn publish(&self, services: &[(&str, SocketAddr)]) -> Result<Process> {
        let targets: Vec<String> = services.iter().map(|(_, to)| to.to_string()).collect();
        let pairs: Vec<(&str, &str)> = services
            .iter()
            .zip(&targets)
            .map(|((name, _), target)| (*name, target.as_str()))
            .collect();
        let published = self.publisher.publish(&pairs)?;
        for (name, _) in services {
            self.publisher.allow(CLIENT, name)?;
        }
        Ok(published)
    }

    /// Publishes one service, lets the client use it, and opens a port for it on the client's host.
    ///
    /// # Errors
    /// As [`Scene::publish`] and [`Agent::connect`].
    pub fn way(&self, name: &str, target: SocketAddr) -> Result<Way> {
        let published = self.publish(&[(name, target)])?;
        let entrance = self.client.connect(name)?;
        Ok(Way {
            entrance,
            published,
        })
    }

    /// The processes that carry `way`, for their memory and their logs: relay, publisher, client.
    pub fn processes<'a>(&'a self, way: &'a Way) -> [&'a Process; 3] {
        [self.relay.process(), &way.published, &way.entrance.process]
    }
}

/// Does `work` for every carrier over TCP, at most `at_once` of them side by side, each on a thread with a log folder of
/// its own. `UNDERPASS_CARRIERS` (names with commas between) restricts it to some while one looks for a fault.
///
/// # Errors
/// What went wrong, for each carrier where something did. Skipped when the work was.
pub fn each_carrier(
    at_once: usize,
    work: impl Fn(&'static str) -> Result<()> + Sync,
) -> Result<()> {
    side_by_side(&wanted(CARRIERS.into_iter()), at_once, work)
}

/// As [`each_carrier`], and for [`QUIC`] too.
///
/// # Errors
/// As [`each_carrier`].
pub fn each_carrier_and_quic(
    at_once: usize,
    work: impl Fn(&'static str) -> Result<()> + Sync,
) -> Result<()> {
    let all = wanted(CARRIERS.into_iter().chain([QUIC]));
    side_by_side(&all, at_once, work)
}

fn wanted(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let wanted = std::env::var("UNDERPASS_CARRIERS").ok();
    let wanted = |name: &&str| {
        wanted
            .as_ref()
            .is_none_or(|list| list.split(',').any(|word| word == *name))
    };
    names.filter(wanted).collect()
}

/// Does `work` for each of `names`, as [`each_carrier`] does for the carriers.
///
/// # Errors
/// As [`each_carrier`].
pub fn side_by_side(
    names: &[&'static str],
    at_once: usize,
    work: impl Fn(&'static str) -> Result<()> + Sync,
) -> Result<()> {
    // The folders of the parts lie in the folder of the test, which is emptied when first asked for.
    harness::log_folder()?;
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let run = || {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let part = format!("{test}/{name}");
            let result = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().name(part);
                let started = thread.spawn_scoped(scope, || work(name))?;
                let panicked = |_| Err(anyhow::anyhow!("panicked (see above)"));
                started.join().unwrap_or_else(panicked)
            });
            if let Err(error) = result {
                failed
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner())
                    .push((*name, error));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, names.len().max(1)) {
            scope.spawn(run);
        }
    });
    let failed = failed
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    summed_up(failed).with_context(|| format!("of {}", names.join(", ")))
}

/// One error for those of several parts; a skip only when nothing else went wrong.
fn summed_up(failed: Vec<(&str, anyhow::Error)>) -> Result<()> {
    let (skips, failures): (Vec<_>, Vec<_>) = failed
        .into_iter()
        .partition(|(_, error)| error.is::<Skip>());
    if !failures.is_empty() {
        let lines: Vec<String> = failures
            .iter()
            .map(|(name, error)| format!("{name}: {error:#}"))
            .collect();
        bail!("{}", lines.join("\n    "));
    }
    match skips.into_iter().next() {
        Some((_, skip)) => Err(skip),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_that_fails_is_named() {
        let work = |name: &'static str| -> Result<()> {
            if name == "good" {
                return Ok(());
            }
            bail!("broken")
        };
        let error = side_by_side(&["good", "bad", "worse"], 2, work).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("bad: broken") && text.contains("worse: broken"));
        assert!(!text.contains("good: "));
    }

    #[test]
    fn a_skip_stays_a_skip_only_when_nothing_failed() {
        let skip = |_: &'static str| -> Result<()> { Err(Skip::because("no root")) };
        let error = side_by_side(&["one", "two"], 2, skip).unwrap_err();
        assert!(error.downcast_ref::<Skip>().is_some());
        let mixed = |name: &'static str| -> Result<()> {
            match name {
                "one" => Err(Skip::because("no root")),
                _ => bail!("broken"),
            }
        };
        let error = side_by_side(&["one", "two"], 1, mixed).unwrap_err();
        assert!(error.downcast_ref::<Skip>().is_none());
    }
}
