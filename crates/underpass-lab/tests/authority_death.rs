//! The ticket authority, a process of its own that two relays share, dies again and again.
//!
//! `UNDERPASS_SOAK=1` makes 300 cuts instead of 30.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Authority, CLIENT, Cable, Cut, Cutter, Entrance, Host, Options, Pace, Plan, Process,
    Relay, RelayOptions, Scene, Story, Told, TwoFirewalls, Way, soak, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        the_authority_dies_and_no_connection_breaks,
        a_relay_and_the_authority_die_together,
    )
}

/// No byte for so long, and an echo has failed.
const STALL: Duration = Duration::from_secs(60);
/// What comes back before an echo counts as going on.
const STEP: u64 = 1 << 20;
const IDLE: usize = 20;
/// What the authority's death is called in the table of codes (`UP-AUTHORITY`).
const REASON: &str = "the relay cannot reach its ticket authority";

/// echo service - publisher - firewall a - relay - firewall b - client, with an echo that goes on and connections that are
/// idle; and two neighbours of a second relay, with an echo of their own. The relays share a database and an authority, a
/// machine of its own.
///
/// The authority is killed (SIGKILL), then the client's path is cut: the client is refused with that reason, goes on
/// trying, and goes on where it was when the authority is back. Then the authority is killed and started again amid cuts
/// of both paths. No connection breaks, no byte is lost; the neighbours, whose paths are not cut, notice nothing.
fn the_authority_dies_and_no_connection_breaks() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let machine = net.lab.public_host("authority", Cable::Plain)?;
    let authority = Authority::start(&machine, &[])?;
    let scene = Scene::start(net, &options(&authority, &[]))?;
    authority.allow(&[&scene.relay])?;
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    let beside = Neighbours::of(&scene, &authority)?;

    let idle = traffic::open_many(&scene.net.b, way.address(), IDLE, STALL)?;
    let streams = [
        traffic::connect(&scene.net.b, way.address(), STALL)?,
        traffic::connect(&scene.net.relay, beside.entrance.address, STALL)?,
    ];
    let over = AtomicBool::new(false);
    let progress = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    std::thread::scope(|scope| -> Result<()> {
        let echoes: Vec<_> = (streams.iter().zip(&progress).zip(7..))
            .map(|((stream, progress), seed)| {
                let over = &over;
                scope.spawn(move || traffic::echo_until(stream, seed, over, progress))
            })
            .collect();
        let survived = come_further(&progress)
            .and_then(|()| a_cut_while_it_is_dead(&scene, &way, &authority, &progress))
            .and_then(|()| deaths_amid_cuts(&scene, &authority, &progress));
        over.store(true, Ordering::Relaxed);
        for echo in echoes {
            let echoed = echo.join();
            let echoed = echoed.map_err(|_| anyhow::anyhow!("an echo panicked"))?;
            echoed.context("an echo")?;
        }
        survived
    })?;
    idle.echo_all(10_000)?;

    let connections = service.tally().connections();
    ensure!(connections == IDLE as u64 + 1, "{connections} connections");
    let (cut, spared) = (Story::of(&scene.client)?, Story::of(&beside.client)?);
    println!("whose path was cut: {cut:?}; the neighbour: {spared:?}");
    ensure!(cut.sessions == 1 && cut.resumes > 0, "{cut:?}");
    ensure!(
        spared.sessions == 1 && spared.drops == 0 && spared.resumes == 0,
        "{spared:?}"
    );
    Ok(())
}

/// One carrier that reaches the relay at once, and a relay that uses the authority.
fn options(authority: &Authority, more: &[&str]) -> Options {
    let mut options = Options::by("upgrade");
    let arguments = ["--authority", authority.address()];
    options.relay.arguments = (arguments.iter().chain(more))
        .map(|it| (*it).to_owned())
        .collect();
    options
}

/// A second relay of the group, and a publisher and a client on its machine.
struct Neighbours {
    entrance: Entrance,
    client: Agent,
    _published: Process,
    _publisher: Agent,
    _service: Service,
    _relay: Relay,
}

impl Neighbours {
    fn of(scene: &Scene, authority: &Authority) -> Result<Self> {
        let host = &scene.net.relay;
        let relay = second_relay(host, 8081, &scene.relay, authority)?;
        let invited = |name| Agent::invited(host, &relay, name, &scene.publisher);
        let (publisher, client) = (invited("owner")?, invited("neighbour")?);
        let service = Service::echo(host, 0)?;
        let published = publisher.publish(&[("near", &service.address().to_string())])?;
        publisher.allow("neighbour", "near")?;
        Ok(Self {
            entrance: client.connect("near")?,
            client,
            _published: published,
            _publisher: publisher,
            _service: service,
            _relay: relay,
        })
    }
}

/// One of the same group as the first, known to the authority as that is.
fn second_relay(host: &Host, port: u16, first: &Relay, authority: &Authority) -> Result<Relay> {
    let database = first.data().join("underpass.db");
    let database = database.to_str().context("temporary folders are UTF-8")?;
    let options = RelayOptions {
        port,
        ..options(authority, &["--database", database]).relay
    };
    let second = Relay::start_with(host, &options)?;
    authority.allow(&[first, &second])?;
    Ok(second)
}

fn a_cut_while_it_is_dead(
    scene: &Scene,
    way: &Way,
    authority: &Authority,
    progress: &[Arc<AtomicU64>; 2],
) -> Result<()> {
    authority.process().kill()?;
    come_further(progress).context("with the authority dead")?;
    scene.net.firewall_b.reset_flows()?;
    let refused = || refusals(&scene.relay);
    for more in 1..=2 {
        let before = refused()?;
        wait_until("the client is refused", STALL, || {
            Ok((refused()? > before).then_some(()))
        })?;
        let told = wait_until("the client says why", STALL, || {
            let status = scene.client.status_of(&way.entrance.process)?;
            let waiting = &status["sessions"][0]["path"]["waiting"];
            Ok(waiting["reason"]
                .as_str()
                .map(str::to_owned)
                .filter(|it| it.contains(REASON)))
        })?;
        println!("refusal {more}: {told}");
    }
    come_further(&progress[1..]).context("the neighbours, with the authority dead")?;
    authority.process().restart()?;
    authority.wait_ready()?;
    come_further(progress).context("after the authority came back")
}

/// How often the relay has refused a route because the authority was away.
fn refusals(relay: &Relay) -> Result<usize> {
    let log = std::fs::read_to_string(relay.process().log())?;
    Ok(log
        .matches("a route was refused: the ticket authority")
        .count())
}

fn deaths_amid_cuts(
    scene: &Scene,
    authority: &Authority,
    progress: &[Arc<AtomicU64>; 2],
) -> Result<()> {
    let count = if soak() { 300 } else { 30 };
    let firewalls = [&scene.net.firewall_a, &scene.net.firewall_b];
    let mut cuts: Vec<Cut> = firewalls.map(|it| Cut::Reset(it.clone())).into();
    cuts.push(Cut::Restart(authority.process().clone()));
    let cutter = Cutter::start(Plan {
        seed: 5,
        cuts,
        pace: Pace::Progress(Arc::clone(&progress[0]), 1..STEP),
        outage: Duration::ZERO..Duration::from_millis(1),
        count,
    });
    wait_until("all cuts", STALL * 5, || {
        Ok((cutter.done().len() == count).then_some(()))
    })?;
    let done = cutter.stop()?;
    let deaths = done.iter().filter(|it| it.what.contains("killed")).count();
    println!(
        "{deaths} deaths of the authority amid {} cuts",
        count - deaths
    );
    ensure!(deaths > 0 && deaths < count);
    come_further(progress)
}

/// As above, with one pair that uses both relays. The relay in use dies while the authority is dead: the client finds the
/// other one, which can check its ticket only when the authority is back. So it is again with the next relay.
fn a_relay_and_the_authority_die_together() -> Result<()> {
    let mut net = TwoFirewalls::new()?;
    let machine = net.lab.public_host("authority", Cable::Plain)?;
    let authority = Authority::start(&machine, &[])?;
    let first = Relay::start_with(&net.relay, &options(&authority, &[]).relay)?;
    let [publisher, client] = [Agent::unknown(&net.a)?, Agent::unknown(&net.b)?];
    publisher.log_in_first(&first)?;
    client.log_in(&first, &publisher.invite(CLIENT)?)?;
    let second = second_relay(&net.relay, 80, &first, &authority)?;
    let relays = [first, second];
    for agent in [&publisher, &client] {
        agent.run(&["login", relays[1].url()])?;
    }
    let told = Told {
        environment: vec![(
            "UNDERPASS_RELAY".into(),
            relays.each_ref().map(Relay::url).join(","),
        )],
        ..Told::default()
    };
    let [publisher, client] = [publisher, client].map(|agent| agent.told(told.clone()));
    let service = Service::echo(&net.a, 0)?;
    let published = publisher.publish(&[("echo", &service.address().to_string())])?;
    publisher.allow(CLIENT, "echo")?;
    let entrance = client.connect("echo")?;
    let ends = [(&publisher, &published), (&client, &entrance.process)];

    let stream = traffic::connect(&net.b, entrance.address, STALL)?;
    let (over, progress) = (AtomicBool::new(false), [Arc::new(AtomicU64::new(0))]);
    std::thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| traffic::echo_until(&stream, 3, &over, &progress[0]));
        let survived = (0..2).try_for_each(|_| -> Result<()> {
            wait_until("both reach both relays", STALL, || reach_all(&ends))?;
            come_further(&progress)?;
            let used = in_use(&client, &entrance.process, &relays)?;
            let [dying, left] = [&relays[used], &relays[1 - used]];
            let before = refusals(left)?;
            authority.process().kill()?;
            dying.process().kill()?;
            wait_until("the relay that is left refuses", STALL, || {
                Ok((refusals(left)? > before).then_some(()))
            })?;
            authority.process().restart()?;
            authority.wait_ready()?;
            come_further(&progress).context("after the authority came back")?;
            dying.process().restart()?;
            dying.wait_ready()
        });
        over.store(true, Ordering::Relaxed);
        let echoed = echo.join();
        let echoed = echoed.map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        survived?;
        echoed.map(drop).context("the echo")
    })?;
    let connections = service.tally().connections();
    ensure!(connections == 1, "{connections} connections");
    let story = Story::of(&client)?;
    println!("through both relays: {story:?}");
    ensure!(story.sessions == 1 && story.resumes >= 2, "{story:?}");
    Ok(())
}

/// Whether each of these agents reaches all its relays.
fn reach_all(ends: &[(&Agent, &Process); 2]) -> Result<Option<()>> {
    for (agent, process) in ends {
        let status = agent.status_of(process)?;
        let relays = status["relays"]
            .as_array()
            .context("relays in the status")?;
        if relays.len() != 2 || relays.iter().any(|relay| relay["reached"] != true) {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

/// Which relay the client's session passes through.
fn in_use(client: &Agent, process: &Process, relays: &[Relay; 2]) -> Result<usize> {
    let status = client.status_of(process)?;
    let carried = status["sessions"][0]["path"]["carried_by"].as_str();
    let carried = carried.with_context(|| format!("nothing carries it: {status}"))?;
    let (_, url) = carried.split_once(" through ").context("through a relay")?;
    // The other one's port is that of the scheme, which is left out.
    Ok(usize::from(url != relays[0].url()))
}

/// Waits until these echoes have come further.
fn come_further(progress: &[Arc<AtomicU64>]) -> Result<()> {
    for progress in progress {
        let due = progress.load(Ordering::Relaxed) + STEP;
        wait_until("the echo goes on", STALL, || {
            Ok((progress.load(Ordering::Relaxed) >= due).then_some(()))
        })?;
    }
    Ok(())
}
