//! A box that turns hostile in the middle of a transfer costs no byte and at most 5 s; when it is friendly again, the
//! session improves by itself.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::boxes::{Connects, Enclosed, Installed, Manners, Place, Stubborn};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Host, Options, Policy, RelayOptions, Way, tests, wait_until};

fn main() -> ExitCode {
    tests!(
        a_proxy_that_begins_to_hold_is_survived,
        a_proxy_that_blocks_tunnels_is_survived,
        a_proxy_that_becomes_old_fashioned_is_survived,
        a_firewall_that_drops_udp_is_survived,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(180);
/// The longest time without a byte that a turn may cost.
const LONGEST_STALL: Duration = Duration::from_secs(5);
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// How often it is looked whether bytes have come.
const TICK: Duration = Duration::from_millis(10);
const SEED: u64 = 3;
/// Carriers that failed are tried again sooner than users would want it.
const SETTINGS: &str = "carrier_retry = \"2s\"\n";

/// A client behind a box, and an echo that goes on and on.
struct Stage {
    way: Way,
    _service: Service,
    enclosed: Enclosed,
}

impl Stage {
    fn new(place: &Place, options: Options) -> Result<Self> {
        let enclosed = Enclosed::start(place, ROUND_TRIP, options)?;
        let scene = &enclosed.scene;
        std::fs::write(scene.client.home().join("config.toml"), SETTINGS)?;
        let service = Service::echo(&scene.net.a, 0)?;
        let way = scene.way("echo", service.address())?;
        Ok(Self {
            way,
            _service: service,
            enclosed,
        })
    }

    /// Waits until the client uses a carrier that `wanted` likes.
    fn uses(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let client = &self.enclosed.scene.client;
        let mut last = String::new();
        let used = wait_until(what, LIMIT, || {
            let told = client.status_of(&self.way.entrance.process)?;
            last = format!("{:#}", told["relay"]);
            let used = told["relay"]["carrier"].as_str();
            Ok(used.filter(|used| wanted(used)).map(str::to_owned))
        });
        used.context(last)
    }

    /// Does `turns` while an echo goes on. Fails when a byte is lost or the echo stood still for too long.
    fn endures(&self, turns: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let stall = self.stall(&turns)?;
        ensure!(stall <= LONGEST_STALL, "a stall of {stall:.2?}");
        Ok(())
    }

    /// The longest time without a byte while `turns` is done. Fails when a byte is lost.
    fn stall(&self, turns: &impl Fn(&Self) -> Result<()>) -> Result<Duration> {
        let stream = traffic::connect(&self.enclosed.scene.net.b, self.way.address(), LIMIT)?;
        let (over, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| traffic::echo_until(&stream, SEED, &over, &progress));
            let watch = scope.spawn(|| longest_stall(&over, &progress));
            let turned = turns(self);
            over.store(true, Ordering::Relaxed);
            let stall = watch
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let echoed = echo
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            turned?;
            let bytes = echoed.context("the echo")?;
            println!("{bytes} bytes exact, the longest stall took {stall:.2?}");
            Ok(stall)
        })
    }
}

/// The longest time in which no byte came back, in ticks of this thread: when the machine is too busy to run it, time
/// stands still for both.
fn longest_stall(over: &AtomicBool, progress: &AtomicU64) -> Duration {
    let (mut last, mut ticks, mut longest) = (0, 0u32, 0u32);
    let begin = Instant::now();
    let mut all = 0u32;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        all += 1;
        let now = progress.load(Ordering::Relaxed);
        ticks = if now == last { ticks + 1 } else { 0 };
        last = now;
        longest = longest.max(ticks);
    }
    let busy = begin.elapsed().as_secs_f64() / (TICK * all.max(1)).as_secs_f64();
    if busy > 1.5 {
        println!("the machine was busy: time ran {busy:.1} times slower");
    }
    TICK * longest
}

fn polite(gate: &Host) -> Result<Installed> {
    let proxy = Stubborn::start(gate, 3128, Manners::polite(), 1)?;
    Ok(Installed::stubborn(proxy, None))
}

/// Behind a proxy that is friendly, turns hostile as `hostile` says, and is friendly again.
fn turn(hostile: impl Fn(&mut Manners), cuts: bool, survivor: impl Fn(&str) -> bool) -> Result<()> {
    let stage = Stage::new(&Place::Gateway(polite), Options::default())?;
    let proxy = stage
        .enclosed
        .stubborn
        .clone()
        .context("the box is stubborn")?;
    let best = stage.uses("the first choice", |it| it == "upgrade")?;
    stage.endures(|stage| {
        proxy.change(&hostile);
        if cuts {
            proxy.close_all();
        }
        let worse = stage.uses("what survives", &survivor)?;
        proxy.change(|manners| *manners = Manners::polite());
        let again = stage.uses("the first choice again", |it| it == best)?;
        println!("{best}, then {worse}, then {again}");
        Ok(())
    })
}

fn a_proxy_that_begins_to_hold_is_survived() -> Result<()> {
    let hold = |manners: &mut Manners| {
        manners.holds_answers = true;
        manners.holds_requests = true;
    };
    turn(hold, false, |it| {
        !["upgrade", "ws", "stream", "posts", "h2"].contains(&it)
    })
}

fn a_proxy_that_blocks_tunnels_is_survived() -> Result<()> {
    let block = |manners: &mut Manners| {
        manners.upgrades = false;
        manners.connects = Connects::Refused;
    };
    turn(block, true, |it| !["upgrade", "ws"].contains(&it))
}

fn a_proxy_that_becomes_old_fashioned_is_survived() -> Result<()> {
    let age = |manners: &mut Manners| {
        *manners = Manners::without_tunnels();
        manners.only_http10 = true;
    };
    turn(age, true, |it| !["upgrade", "ws", "stream"].contains(&it))
}

/// No box: the firewall lets UDP out, then no longer, then again.
fn a_firewall_that_drops_udp_is_survived() -> Result<()> {
    let place = Place::Nowhere(Policy::web_and_quic());
    let options = Options {
        relay: RelayOptions {
            arguments: ["--quic-listen", "0.0.0.0:443"].map(str::to_owned).into(),
            ..RelayOptions::default()
        },
        ..Options::default()
    };
    let stage = Stage::new(&place, options)?;
    let firewall = stage.enclosed.scene.net.firewall_b.clone();
    stage.uses("QUIC", |it| it == "quic")?;
    stage.endures(|stage| {
        firewall.swallow_udp(true)?;
        let worse = stage.uses("what survives", |it| it != "quic")?;
        firewall.swallow_udp(false)?;
        let again = stage.uses("QUIC again", |it| it == "quic")?;
        println!("quic, then {worse}, then {again}");
        Ok(())
    })
}
