//! Wherever a proxy is named it is found, also where it is to be left out; and a box that opens TLS is named and gets
//! nothing.
//!
//! Topology of each: service - publisher - firewall a - relay - firewall b with the box - client.

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_lab::boxes::{Enclosed, Installed, Place, Squid, SquidRules};
use underpass_lab::server::Nginx;
use underpass_lab::traffic::{self, Pattern, Service};
use underpass_lab::{Agent, Finished, Host, Options, Policy, Told, exec, tests};

fn main() -> ExitCode {
    tests!(
        a_box_that_opens_tls_is_named_and_gets_nothing,
        the_proxy_is_found_wherever_it_is_named,
        a_relay_is_reached_past_the_proxy_where_no_proxy_says_so,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(90);
const PORT: u16 = 3128;
/// Where nobody listens.
const DEAD: &str = "http://127.0.0.1:1";

fn opens_tls(gate: &Host) -> Result<Installed> {
    let rules = SquidRules {
        intercepts: true,
        ..SquidRules::open()
    };
    let squid = Squid::start(gate, PORT, &rules)?;
    let authority = squid.authority().context("it signs")?.certificate();
    let installed = Installed::proxy(squid.address(), None, squid);
    let installed = installed.with("UNDERPASS_PATIENCE", "5s");
    Ok(installed.with("UNDERPASS_CA", &authority.to_string_lossy()))
}

fn a_box_that_opens_tls_is_named_and_gets_nothing() -> Result<()> {
    const BOX: &str = "Underpass Lab Inspection";
    let options = Options::default().with_tls();
    let enclosed = Enclosed::start(&Place::Gateway(opens_tls), Duration::ZERO, options)?;
    let scene = &enclosed.scene;
    let service = Service::echo(&scene.net.a, 0)?;
    let way = scene.way("echo", service.address())?;
    let stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;
    traffic::exchange(&stream, 10_000, 3, Duration::ZERO)?;

    // Its root is trusted, and status tells of it: to programs, and to people at a terminal.
    let status = scene.client.status_of(&way.entrance.process)?;
    ensure!(status["relay"]["tls_opened_by"] == BOX, "{status}");
    let status = scene.publisher.status_of(&way.published)?;
    ensure!(status["relay"]["tls_opened_by"].is_null(), "{status}");
    let shown = at_a_terminal(&scene.client, "status")?.text();
    let line = format!("outer TLS is opened on the way by {BOX}; what is inside stays sealed");
    ensure!(shown.contains(&line), "{shown}");
    // The keys inside are those that the publisher sees without a box between.
    let keys = |agent: &Agent| -> Result<(String, Value)> {
        let told: Value = serde_json::from_str(&agent.run(&["status", "--offline", "--json"])?)?;
        let key = told["relays"][0]["key"]
            .as_str()
            .context("a key")?
            .to_owned();
        Ok((key, told))
    };
    let (of_publisher, of_client) = (keys(&scene.publisher)?, keys(&scene.client)?);
    ensure!(of_publisher.0 == of_client.0, "the relay has two keys");
    let peer = &of_client.1["agents"][0]["sessions"][0]["peer"];
    ensure!(*peer == of_publisher.1["machine"], "{}", of_client.1);

    // Who does not trust its root is told so, and what may be done.
    let mut without = scene.client.command(&["services"])?;
    let done = exec::output(without.env_remove("UNDERPASS_CA"), LIMIT)?;
    refused_by_certificate(&done)?;
    let stranger = Agent::unknown(&scene.net.b)?.told(enclosed.told.clone());
    let invitation = scene.publisher.invite("stranger")?;
    let login = ["login", scene.relay.url(), "--invite", &invitation];
    let mut strict = stranger.command(&[&login[..], &["--tls", "system"]].concat())?;
    let done = exec::output(strict.env_remove("UNDERPASS_CA"), LIMIT)?;
    refused_by_certificate(&done)?;
    // Without a word about it, the certificate is taken for the relay's, and the box is named all the same.
    let mut lenient = stranger.command(&login)?;
    let done = exec::output(lenient.env_remove("UNDERPASS_CA"), LIMIT)?.success()?;
    let said = done.errors();
    ensure!(
        said.contains("something on the way opens TLS") && said.contains(BOX),
        "{said}"
    );
    Ok(())
}

fn refused_by_certificate(done: &Finished) -> Result<()> {
    let said = done.errors();
    ensure!(
        !done.status.success() && said.contains("[UP-CERTIFICATE]") && said.contains("--ca FILE"),
        "{said}"
    );
    Ok(())
}

/// What a command shows to somebody who sits at a terminal.
fn at_a_terminal(agent: &Agent, command: &str) -> Result<Finished> {
    let command = agent.command(&[command])?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Option<Vec<&str>> = words.map(|word| word.to_str()).collect();
    let mut shown = agent.host().command("script");
    for (name, value) in command.get_envs() {
        shown.env(name, value.unwrap_or_default());
    }
    let line = words.context("plain words")?.join(" ");
    shown
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null());
    exec::output(&mut shown, LIMIT)?.success()
}

fn open(gate: &Host) -> Result<Installed> {
    let squid = Squid::start(gate, PORT, &SquidRules::open())?;
    let installed = Installed::proxy(squid.address(), None, squid);
    Ok(installed.with("UNDERPASS_PATIENCE", "5s"))
}

/// A client that is told of no proxy but in one way, and a service that gives back what it gets.
struct Newcomer<'a> {
    enclosed: &'a Enclosed,
    agent: Agent,
    environment: &'a [(&'a str, &'a str)],
    flags: &'a [&'a str],
}

impl<'a> Newcomer<'a> {
    fn new(
        enclosed: &'a Enclosed,
        environment: &'a [(&'a str, &'a str)],
        flags: &'a [&'a str],
    ) -> Result<Self> {
        let told = Told {
            environment: vec![("UNDERPASS_PATIENCE".into(), "5s".into())],
            relay: None,
        };
        Ok(Self {
            enclosed,
            agent: Agent::unknown(&enclosed.scene.net.b)?.told(told),
            environment,
            flags,
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.agent.command(&[arguments, self.flags].concat())?;
        command.envs(self.environment.iter().copied());
        Ok(command)
    }

    /// Logs in, and has a megabyte sent back.
    fn goes(&self, name: &str) -> Result<()> {
        let scene = &self.enclosed.scene;
        let code = scene.publisher.invite(name)?;
        let url = scene.relay.url();
        exec::output(
            &mut self.command(&["login", url, "--invite", &code])?,
            LIMIT,
        )?
        .success()?;
        scene.publisher.allow(name, "echo")?;
        let mut sent = vec![0; 1 << 20];
        Pattern::new(7).fill(&mut sent);
        let mut nc = self.command(&["nc", "echo"])?;
        let done = exec::output_with_input(&mut nc, &sent, LIMIT)?.success()?;
        ensure!(done.stdout == sent, "{} bytes came back", done.stdout.len());
        Ok(())
    }
}

/// The firewall lets out nothing: only the proxy leads to the relay.
fn the_proxy_is_found_wherever_it_is_named() -> Result<()> {
    let enclosed = Enclosed::start(&Place::Gateway(open), Duration::ZERO, Options::default())?;
    let scene = &enclosed.scene;
    let service = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", service.address())])?;
    let gate = scene.net.lab.gateway(&scene.net.firewall_b);
    let proxy = format!("http://{}:{PORT}", gate.address());
    // The first way that it names is a dead end.
    let script = format!(
        "function FindProxyForURL(url, host) {{\n\
         if (!isInNet(host, '203.0.113.0', '255.255.255.0')) return 'DIRECT';\n\
         return 'PROXY {0}:1; PROXY {0}:{PORT}';\n}}\n",
        gate.address()
    );
    let web = Nginx::start(&gate, gate.address(), 8081)?;
    web.put("proxy.pac", script.as_bytes())?;
    let file = web.files().join("proxy.pac").to_string_lossy().into_owned();
    let page = format!("http://{}/proxy.pac", web.address());
    let dead = ("http_proxy", DEAD);
    let bare = proxy.trim_start_matches("http://");
    type Way<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<&'a str>);
    let ways: Vec<Way> = vec![
        ("flag", vec![dead], vec!["--proxy", bare]),
        ("pac-file", vec![], vec!["--pac", &file]),
        ("pac-page", vec![dead], vec!["--pac", &page]),
        ("upper", vec![("HTTP_PROXY", &proxy)], vec![]),
        (
            "all",
            vec![("ALL_PROXY", &proxy), ("NO_PROXY", "10.0.0.0/8")],
            vec![],
        ),
    ];
    for (name, environment, flags) in &ways {
        let newcomer = Newcomer::new(&enclosed, environment, flags)?;
        newcomer.goes(name).with_context(|| (*name).to_owned())?;
    }
    let environment = [dead];
    let by_file = Newcomer::new(&enclosed, &environment, &[])?;
    let settings = by_file.agent.home().join("config.toml");
    fs::write(settings, format!("proxy = \"{proxy}\"\n"))?;
    by_file.goes("by-file").context("config.toml")?;
    // Left out, it is not used, though nothing else leads there.
    let environment = [
        ("http_proxy", proxy.as_str()),
        ("no_proxy", "203.0.113.0/24"),
    ];
    let past = Newcomer::new(&enclosed, &environment, &[])?;
    let error = past
        .goes("past")
        .err()
        .context("it went through the proxy")?;
    ensure!(format!("{error:#}").contains("UP-NO-PATH"), "{error:#}");
    Ok(())
}

/// The firewall lets web traffic out, and the proxy that is named is none.
fn a_relay_is_reached_past_the_proxy_where_no_proxy_says_so() -> Result<()> {
    let place = Place::Nowhere(Policy::web());
    let enclosed = Enclosed::start(&place, Duration::ZERO, Options::default())?;
    let scene = &enclosed.scene;
    let service = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", service.address())])?;
    let here = scene.net.relay.address().to_string();
    let with_port = format!("elsewhere.example, {here}:8080");
    for (name, variable, rules) in [
        ("by-net", "NO_PROXY", "10.0.0.0/8,203.0.113.0/24"),
        ("by-port", "no_proxy", with_port.as_str()),
    ] {
        let environment = [("HTTP_PROXY", DEAD), (variable, rules)];
        let newcomer = Newcomer::new(&enclosed, &environment, &[])?;
        newcomer.goes(name).with_context(|| rules.to_owned())?;
    }
    let environment = [("HTTP_PROXY", DEAD), ("NO_PROXY", "198.51.100.0/24")];
    let other = Newcomer::new(&enclosed, &environment, &[])?;
    let error = other
        .goes("other")
        .err()
        .context("it went past the proxy")?;
    ensure!(format!("{error:#}").contains("[UP-PROXY]"), "{error:#}");
    Ok(())
}
