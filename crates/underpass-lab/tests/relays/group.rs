//! Relays of one group, and a publisher and a client that use all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use underpass_lab::{Agent, Host, Process, Relay, RelayOptions, Told, TwoFirewalls, wait_until};

/// How long an agent may take to learn that a relay is there again.
const LIMIT: Duration = Duration::from_secs(60);

/// Relays on one database; the publisher on `a` and the client on `b` were enrolled at the first one.
pub(crate) struct Group {
    pub(crate) net: TwoFirewalls,
    pub(crate) relays: Vec<Relay>,
    pub(crate) publisher: Agent,
    pub(crate) client: Agent,
    _folder: TempDir,
}

impl Group {
    /// A relay on each of these hosts, at a port that the firewalls let through.
    pub(crate) fn new(net: TwoFirewalls, places: &[(Host, u16)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = folder.path().join("group.db");
        let database = database.to_str().context("temporary folders are UTF-8")?;
        let (publisher, client) = (Agent::unknown(&net.a)?, Agent::unknown(&net.b)?);
        let mut relays: Vec<Relay> = Vec::new();
        for (host, port) in places {
            let options = RelayOptions {
                port: *port,
                arguments: vec!["--database".to_owned(), database.to_owned()],
                ..RelayOptions::default()
            };
            let relay = Relay::start_with(host, &options)?;
            if relays.is_empty() {
                publisher.log_in_first(&relay)?;
                client.log_in(&relay, &publisher.invite("client")?)?;
            } else {
                // Without any code: the group knows the machine. Its key is taken up for each relay on its own.
                publisher.run(&["login", relay.url()])?;
                client.run(&["login", relay.url()])?;
            }
            relays.push(relay);
        }
        let urls: Vec<&str> = relays.iter().map(Relay::url).collect();
        let told = Told {
            environment: vec![("UNDERPASS_RELAY".to_owned(), urls.join(","))],
            ..Told::default()
        };
        Ok(Self {
            net,
            relays,
            publisher: publisher.told(told.clone()),
            client: client.told(told),
            _folder: folder,
        })
    }

    /// Waits until two relays are reached by both: one that may die, one to go on through.
    pub(crate) fn attached(&self, published: &Process, connected: &Process) -> Result<()> {
        wait_until("two relays are reached by both", LIMIT, || {
            let published = self.reached(&self.publisher, published)?;
            let connected = self.reached(&self.client, connected)?;
            Ok((published.intersection(&connected).count() >= 2).then_some(()))
        })
    }

    fn reached(&self, agent: &Agent, process: &Process) -> Result<BTreeSet<String>> {
        let report = agent.status_of(process)?;
        let relays = report["relays"].as_array();
        let relays = relays.context("relays in the status")?;
        ensure!(relays.len() == self.relays.len(), "{report}");
        let reached = relays.iter().filter(|relay| relay["reached"] == true);
        let urls = reached.filter_map(|relay| relay["url"].as_str());
        Ok(urls.map(str::to_owned).collect())
    }

    /// The number of the relay that the client's session passes through.
    pub(crate) fn in_use(&self, connected: &Process) -> Result<usize> {
        let report = self.client.status_of(connected)?;
        self.used_by(&report)
            .with_context(|| format!("nothing carries it: {report}"))
    }

    fn used_by(&self, report: &Value) -> Option<usize> {
        self.number_of(report["sessions"][0]["path"]["carried_by"].as_str()?)
    }

    /// The number of the relay that these words name, as in "ws through http://192.0.2.1".
    pub(crate) fn number_of(&self, carried: &str) -> Option<usize> {
        let (_, url) = carried.split_once(" through ")?;
        // The port of a scheme is left out.
        let plain = |url: &str| url.trim_end_matches(":80").to_owned();
        self.relays
            .iter()
            .position(|relay| plain(relay.url()) == plain(url))
    }

    /// Waits until the client's session passes through another relay than the one of this number.
    pub(crate) fn leaves(&self, relay: usize, connected: &Process) -> Result<()> {
        wait_until(&format!("relay {relay} is left"), LIMIT, || {
            let report = self.client.status_of(connected)?;
            let used = self.used_by(&report);
            Ok(used.is_some_and(|used| used != relay).then_some(()))
        })
    }

    /// Waits until the client's session passes through the relay of this number.
    pub(crate) fn goes_over_to(&self, relay: usize, connected: &Process) -> Result<()> {
        wait_until(&format!("relay {relay} is in use"), LIMIT * 2, || {
            let report = self.client.status_of(connected)?;
            Ok((self.used_by(&report) == Some(relay)).then_some(()))
        })
    }
}
