//! Agents that were told of one relay learn of the others by the list that its group has signed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use underpass_lab::traffic::{self, Service};
use underpass_lab::{Agent, Process, Relay, RelayOptions, TwoFirewalls, wait_until};

use crate::PORTS;
use crate::load::{STALL, come_further};

/// echo service - publisher - firewall a - three relays on one database - firewall b - client. Both agents are told of the
/// first relay alone, which announces itself. Then the list names all three: the agents go there, the first relay dies for
/// good, the session goes on, and an agent that is started then finds its way by the list that is kept. A list of another
/// key changes nothing. Last, the relay in use is taken off the list: it is left, and nothing breaks.
pub(crate) fn a_group_announces_its_relays() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (a, b) = (net.a.clone(), net.b.clone());
    let group = Announced::new(&net)?;
    group.sign(&group.key, &[0])?;
    group.begin()?;
    let (publisher, client) = (Agent::unknown(&a)?, Agent::unknown(&b)?);
    publisher.log_in_first(&group.relays[0])?;
    client.log_in(&group.relays[0], &publisher.invite("client")?)?;
    let service = Service::echo(&a, 0)?;
    let published = publisher.publish(&[("echo", &service.address().to_string())])?;
    publisher.allow("client", "echo")?;
    let entrance = client.connect("echo")?;
    group.uses(&client, &entrance.process, &[0])?;

    let stream = traffic::connect(&b, entrance.address, STALL)?;
    let (over, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| traffic::echo_until(&stream, 7, &over, &progress));
        let done = (|| {
            come_further(&progress)?;
            group.announce(&[0, 1, 2])?;
            group.uses(&publisher, &published, &[0, 1, 2])?;
            group.uses(&client, &entrance.process, &[0, 1, 2])?;
            group.reached(&publisher, &published, 3)?;
            // One that is used, and one that takes over.
            group.reached(&client, &entrance.process, 2)?;
            come_further(&progress)?;

            group.relays[0].process().kill()?;
            come_further(&progress)?;
            let again = client.connect("echo")?;
            let late = traffic::connect(&b, again.address, STALL)?;
            traffic::echo(&late, 8, 100_000, &AtomicU64::new(0))?;
            let by = group.known_from(&client, &again.process)?;
            let first = plain(group.relays[0].url());
            ensure!(by[&first] == Value::Null, "{by:?}");
            let others = by.iter().filter(|(url, _)| **url != first);
            ensure!(
                by.len() == 3 && others.clone().all(|(_, by)| *by == first.as_str()),
                "{by:?}"
            );
            drop(again);

            group.nothing_else_is_believed(&client, &entrance.process)?;
            let used = wait_until("something carries the session", STALL, || {
                group.in_use(&client, &entrance.process)
            })?;
            ensure!(used != 0, "the first relay is dead");
            let stays = 3 - used;
            group.announce(&[stays])?;
            group.uses(&client, &entrance.process, &[stays])?;
            group.uses(&publisher, &published, &[stays])?;
            come_further(&progress)?;
            ensure!(group.in_use(&client, &entrance.process)? == Some(stays));
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let echoed = echo
            .join()
            .map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        done?;
        echoed.context("the echo").map(drop)
    })?;
    let connections = service.tally().connections();
    ensure!(connections == 2, "{connections} connections");
    Ok(())
}

/// An address as stories and reports write it.
fn plain(url: &str) -> String {
    url.trim_end_matches(":80").to_owned()
}

/// Three relays that announce what a file says.
struct Announced {
    relays: Vec<Relay>,
    /// Runs the commands of whoever runs the group.
    operator: Agent,
    folder: TempDir,
    key: PathBuf,
    list: PathBuf,
}

impl Announced {
    fn new(net: &TwoFirewalls) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = text_of(&folder.path().join("group.db"))?.to_owned();
        let mut relays = Vec::new();
        for port in PORTS {
            let options = RelayOptions {
                port,
                arguments: vec!["--database".to_owned(), database.clone()],
                configuration: Some(String::new()),
                ..RelayOptions::default()
            };
            relays.push(Relay::start_with(&net.relay, &options)?);
        }
        let operator = Agent::unknown(&net.relay)?;
        let key = folder.path().join("group.key");
        operator.run(&["relay", "group", "init", text_of(&key)?])?;
        let list = folder.path().join("relays.list");
        Ok(Self {
            relays,
            operator,
            folder,
            key,
            list,
        })
    }

    /// The relays begin to announce the list; the first one last, whose setup code is the one that counts.
    fn begin(&self) -> Result<()> {
        for relay in self.relays.iter().rev() {
            let data = relay.data();
            let settings = data.parent().context("a folder")?.join("relay.toml");
            fs::write(settings, format!("announce = {:?}\n", text_of(&self.list)?))?;
            relay.process().restart()?;
            relay.wait_ready()?;
        }
        Ok(())
    }

    /// Writes a list of these relays, and signs it with a key, as the next one after what the file held before.
    fn sign(&self, key: &Path, relays: &[usize]) -> Result<()> {
        let before = fs::read_to_string(&self.list).unwrap_or_default();
        let serial = before.lines().filter(|line| line.starts_with("serial"));
        let mut text = serial.fold("# ours\n".to_owned(), |text, line| text + line + "\n");
        for relay in relays {
            let relay = &self.relays[*relay];
            let line = relay.process().logged("relay at ", STALL)?;
            let (_, print) = line.rsplit_once('#').context("a fingerprint")?;
            text += &format!("relay {}#{print}\n", relay.url());
        }
        let list = self.folder.path().join("next.list");
        fs::write(&list, text)?;
        let (key, next) = (text_of(key)?, text_of(&list)?);
        self.operator
            .run(&["relay", "group", "sign", "--key", key, next])?;
        fs::rename(&list, &self.list)?;
        Ok(())
    }

    /// The list names these relays now, and all hear of it.
    fn announce(&self, relays: &[usize]) -> Result<()> {
        self.sign(&self.key, relays)?;
        self.read_again()
    }

    fn read_again(&self) -> Result<()> {
        for relay in &self.relays {
            relay.process().signal(Signal::HUP)?;
        }
        Ok(())
    }

    /// A list of another key is refused by the relays, and by an agent that hears of it all the same.
    fn nothing_else_is_believed(&self, agent: &Agent, process: &Process) -> Result<()> {
        let sound = fs::read_to_string(&self.list)?;
        let foreign = self.folder.path().join("foreign.key");
        self.operator
            .run(&["relay", "group", "init", text_of(&foreign)?])?;
        self.sign(&foreign, &[1])?;
        self.read_again()?;
        for relay in &self.relays[1..] {
            relay.process().logged("UP-GROUP-KEY", STALL)?;
        }
        // A relay that is started with it does not know better.
        self.relays[1].process().restart()?;
        self.relays[1].wait_ready()?;
        process.logged("UP-GROUP-KEY", STALL)?;
        self.uses(agent, process, &[0, 1, 2])?;
        fs::write(&self.list, sound)?;
        self.relays[1].process().restart()?;
        self.relays[1].wait_ready()?;
        self.reached(agent, process, 2)
    }

    /// Waits until an agent uses these relays and no others.
    fn uses(&self, agent: &Agent, process: &Process, relays: &[usize]) -> Result<()> {
        let wanted = relays.iter().map(|relay| plain(self.relays[*relay].url()));
        let mut wanted: Vec<String> = wanted.collect();
        wanted.sort();
        wait_until(&format!("relays {relays:?} are used"), STALL, || {
            let known = self.known_from(agent, process)?;
            Ok(known.keys().eq(wanted.iter()).then_some(()))
        })
    }

    fn reached(&self, agent: &Agent, process: &Process, count: usize) -> Result<()> {
        wait_until(&format!("{count} relays are reached"), STALL, || {
            let report = agent.status_of(process)?;
            let relays = report["relays"].as_array().context("relays")?;
            let reached = relays.iter().filter(|relay| relay["reached"] == true);
            Ok((reached.count() >= count).then_some(()))
        })
    }

    /// An agent's relays, each with the one that announced it.
    fn known_from(&self, agent: &Agent, process: &Process) -> Result<BTreeMap<String, Value>> {
        let report = agent.status_of(process)?;
        let relays = report["relays"].as_array().context("relays")?;
        let known = relays.iter().filter_map(|relay| {
            Some((plain(relay["url"].as_str()?), relay["announced_by"].clone()))
        });
        Ok(known.collect())
    }

    /// The relay that the session passes through.
    fn in_use(&self, agent: &Agent, process: &Process) -> Result<Option<usize>> {
        let report = agent.status_of(process)?;
        let Some(carried) = report["sessions"][0]["path"]["carried_by"].as_str() else {
            return Ok(None);
        };
        let (_, url) = carried.split_once(" through ").context("through a relay")?;
        let mut relays = self.relays.iter();
        Ok(relays.position(|relay| plain(relay.url()) == plain(url)))
    }
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders are UTF-8")
}
