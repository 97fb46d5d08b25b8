//! What `underpass doctor` says about networks of which it is known what is in the way.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use underpass_lab::boxes::{Buffering, NginxFront, Tinyproxy};
use underpass_lab::{Agent, Finished, Relay, RelayOptions, TwoFirewalls, exec, tests};

fn main() -> ExitCode {
    tests!(
        an_open_network_passes,
        a_firewall_that_lets_nothing_out_is_told,
        a_box_that_removes_upgrades_is_told,
        a_proxy_that_asks_who_it_is_is_told,
        a_captive_portal_is_told,
        a_host_that_never_answers_does_not_take_longer,
        no_credential_is_shown,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(90);
/// What the command promises.
const PROMISED: Duration = Duration::from_secs(30);
/// Starting and ending a process on a busy machine.
const MARGIN: Duration = Duration::from_secs(10);

/// What it said.
struct Told {
    json: Value,
    exit: Option<i32>,
    done: Finished,
}

impl Told {
    /// Runs it, within the promised time.
    fn by(agent: &Agent, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let arguments = [&["doctor", "--json"], arguments].concat();
        let mut command = agent.command(&arguments)?;
        for (name, value) in variables {
            command.env(name, value);
        }
        let begin = Instant::now();
        let done = exec::output(&mut command, LIMIT)?;
        let took = begin.elapsed();
        ensure!(took < PROMISED + MARGIN, "it took {took:?}");
        let json = serde_json::from_str(&done.text());
        let json: Value = json.with_context(|| format!("{}\n{}", done.text(), done.errors()))?;
        let own = json["took_s"].as_f64().context("took_s")?;
        ensure!(own < PROMISED.as_secs_f64(), "it says that it took {own} s");
        let exit = done.status.code();
        ensure!(json["exit"] == exit.unwrap_or(-1), "{json}");
        ensure!(json["possible"] == (exit == Some(0)), "{json}");
        Ok(Self { json, exit, done })
    }

    fn rows(&self) -> Result<&[Value]> {
        let rows = self.json["rows"].as_array();
        Ok(rows.context("rows")?)
    }

    /// The rows of one check.
    fn of(&self, check: &str) -> Result<Vec<&Value>> {
        let rows: Vec<_> = self
            .rows()?
            .iter()
            .filter(|row| row["check"] == check)
            .collect();
        ensure!(!rows.is_empty(), "no row about {check} in {}", self.json);
        Ok(rows)
    }

    /// The only row of one check, which must have this verdict.
    fn one(&self, check: &str, verdict: &str) -> Result<&Value> {
        let rows = self.of(check)?;
        ensure!(rows.len() == 1 && rows[0]["verdict"] == verdict, "{rows:?}");
        Ok(rows[0])
    }

    /// The row of one carrier.
    fn carrier(&self, name: &str) -> Result<&Value> {
        let rows = self.of("carrier")?;
        let found = rows.into_iter().find(|row| row["subject"] == name);
        found.with_context(|| format!("no row about {name} in {}", self.json))
    }
}

/// Works, whether fast or not: how fast is up to the machine that the test runs on.
fn works(row: &Value) -> bool {
    row["verdict"] == "PASS" || row["verdict"] == "SLOW"
}

/// agent - firewall that lets web traffic out, and no UDP - relay. Before the login, and after it.
fn an_open_network_passes() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let relay = Relay::start(&net.relay)?;
    let agent = Agent::unknown(&net.a)?;
    let stranger = Told::by(&agent, &[relay.url()], &[])?;
    ensure!(!agent.home().join("relays.toml").exists());
    agent.log_in_first(&relay)?;
    let known = Told::by(&agent, &[], &[])?;
    for told in [&stranger, &known] {
        ensure!(told.exit == Some(0), "{}", told.json);
        for check in [
            "settings",
            "names",
            "tcp",
            "clock",
            "key",
            "largest-body",
            "bytes-intact",
            "idle-limit",
        ] {
            told.one(check, "PASS")?;
        }
        for check in ["proxy", "proxy-login", "tls"] {
            told.one(check, "SKIPPED")?;
        }
        for check in ["http", "streaming", "hold-time", "buffer"] {
            ensure!(told.of(check)?.into_iter().all(works), "{}", told.json);
        }
        for row in told.of("carrier")? {
            // The firewall lets no UDP out.
            let blocked = row["subject"] == "quic";
            let as_expected = if blocked {
                row["verdict"] == "BLOCKED"
            } else {
                works(row)
            };
            ensure!(as_expected && row["reason"] != "", "{row}");
        }
        ensure!(told.json["carrier"] == "upgrade", "{}", told.json);
        ensure!(
            told.json["round_trip_ms"].as_f64() > Some(0.0),
            "{}",
            told.json
        );
        ensure!(told.json["bytes_per_s"].as_u64() > Some(0), "{}", told.json);
        let summary = told.json["summary"].as_str().unwrap_or_default();
        ensure!(
            summary.starts_with("upgrade will be used, straight: round trip "),
            "{summary}"
        );
    }
    stranger.one("login", "SKIPPED")?;
    known.one("login", "PASS")?;
    another_key_is_refused(&agent, &relay)?;
    lines_have_stable_columns(&agent)
}

/// By the fingerprint in its address: here that of another key.
fn another_key_is_refused(agent: &Agent, relay: &Relay) -> Result<()> {
    let status: Value = serde_json::from_str(&agent.run(&["status", "--offline", "--json"])?)?;
    let other = format!("{}#{}", relay.url(), text(&status, "machine"));
    let told = Told::by(agent, &[&other], &[])?;
    ensure!(told.exit == Some(3), "{}", told.json);
    ensure!(told.json["code"] == "UP-KEY", "{}", told.json);
    told.one("key", "BLOCKED")?;
    Ok(())
}

/// In a pipe: eight cells in each line, the last one the result.
fn lines_have_stable_columns(agent: &Agent) -> Result<()> {
    let text = agent.run(&["doctor"])?;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    ensure!(lines.iter().all(|cells| cells.len() == 8), "{text}");
    let last = lines.last().context("no lines")?;
    ensure!(last[..3] == ["PASS", "result", "upgrade"], "{text}");
    ensure!(last[5].starts_with("upgrade will be used"), "{text}");
    Ok(())
}

/// agent - firewall that drops everything - relay.
fn a_firewall_that_lets_nothing_out_is_told() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let relay = Relay::start(&net.relay)?;
    let agent = Agent::first(&net.a, &relay)?;
    net.firewall_a.black_hole()?;
    let told = Told::by(&agent, &[], &[])?;
    ensure!(told.exit == Some(5), "{}", told.json);
    ensure!(told.json["code"] == "UP-NO-PATH", "{}", told.json);
    let tcp = told.one("tcp", "BLOCKED")?;
    ensure!(text(tcp, "reason").contains("firewall"), "{tcp}");
    ensure!(text(tcp, "next").contains("--proxy"), "{tcp}");
    ensure!(told.json["next"] == tcp["next"], "{}", told.json);
    for row in told.of("carrier")? {
        ensure!(row["verdict"] == "BLOCKED", "{row}");
    }
    for check in [
        "http",
        "clock",
        "key",
        "login",
        "bytes-intact",
        "idle-limit",
    ] {
        told.one(check, "SKIPPED")?;
    }
    let summary = text(&told.json, "summary");
    ensure!(
        summary.starts_with("no attachment is possible: "),
        "{summary}"
    );
    // A relay that is switched off is another matter.
    net.firewall_a.open()?;
    drop(relay);
    let told = Told::by(&agent, &[], &[])?;
    ensure!(told.exit == Some(5), "{}", told.json);
    let tcp = told.one("tcp", "BLOCKED")?;
    ensure!(text(tcp, "reason").starts_with("refused"), "{tcp}");
    Ok(())
}

/// agent - firewall - nginx as it is by default - relay on the same host.
fn a_box_that_removes_upgrades_is_told() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let options = RelayOptions {
        port: 80,
        ..RelayOptions::default()
    };
    let _relay = Relay::start_with(&net.relay, &options)?;
    let onward = SocketAddr::from((net.relay.address(), options.port));
    let nginx = NginxFront::start(&net.relay, 8080, onward, Buffering::Default)?;
    let agent = Agent::unknown(&net.a)?;
    let url = format!("http://{}", nginx.address());
    let told = Told::by(&agent, &[&url], &[])?;
    ensure!(told.exit == Some(0), "{}", told.json);
    for name in ["upgrade", "ws"] {
        let row = told.carrier(name)?;
        ensure!(row["verdict"] == "BLOCKED", "{row}");
        ensure!(text(row, "reason").contains("upgrades"), "{row}");
    }
    // It holds requests until they are complete, and answers as well unless it is told otherwise.
    ensure!(
        told.carrier("stream")?["verdict"] == "BLOCKED",
        "{}",
        told.json
    );
    ensure!(works(told.carrier("posts")?), "{}", told.json);
    ensure!(told.json["carrier"] == "posts", "{}", told.json);
    let streaming = told.of("streaming")?;
    let up = streaming.iter().find(|row| row["subject"] == "up");
    ensure!(up.context("up")?["verdict"] == "SLOW", "{streaming:?}");
    Ok(())
}

/// agent - firewall - tinyproxy, which wants a password - relay on the same host.
fn a_proxy_that_asks_who_it_is_is_told() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let options = RelayOptions {
        port: 80,
        ..RelayOptions::default()
    };
    let relay = Relay::start_with(&net.relay, &options)?;
    let host = net.relay.address();
    let _proxy = Tinyproxy::asking(&net.relay, 8080, ("lab", "canary-of-doctor"))?;
    let agent = Agent::unknown(&net.a)?;
    for (user, exit, code, verdict) in [
        ("", Some(3), Some("UP-PROXY-AUTH"), "BLOCKED"),
        ("lab:wrong@", Some(3), Some("UP-PROXY-DENIED"), "BLOCKED"),
        ("lab:canary-of-doctor@", Some(0), None, "PASS"),
    ] {
        let proxy = format!("http://{user}{host}:8080");
        let told = Told::by(&agent, &[relay.url()], &[("HTTP_PROXY", &proxy)])?;
        ensure!(told.exit == exit, "{}", told.json);
        ensure!(told.json["code"].as_str() == code, "{}", told.json);
        let login = told.one("proxy-login", verdict)?;
        ensure!(text(login, "reason").contains("asic"), "{login}");
        ensure!(login["code"].as_str() == code, "{login}");
        told.one("tcp", "PASS")?;
        if exit == Some(0) {
            told.one("proxy", "PASS")?;
            ensure!(
                text(&told.json, "summary").contains(", through http://"),
                "{}",
                told.json
            );
        }
        let shown = format!("{}{}", told.done.text(), told.done.errors());
        ensure!(
            !shown.contains("canary-of-doctor") && !shown.contains("wrong@"),
            "{shown}"
        );
    }
    Ok(())
}

/// agent - firewall - a web server that answers everything with one page.
fn a_captive_portal_is_told() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let nginx = NginxFront::portal(&net.relay, 8080, "<html>Welcome</html>")?;
    let agent = Agent::unknown(&net.a)?;
    let url = format!("http://{}", nginx.address());
    let told = Told::by(&agent, &[&url], &[])?;
    ensure!(told.exit == Some(5), "{}", told.json);
    ensure!(told.json["code"] == "UP-PORTAL", "{}", told.json);
    let http = told.one("http", "BLOCKED")?;
    ensure!(http["code"] == "UP-PORTAL", "{http}");
    ensure!(text(http, "next").contains("log in"), "{http}");
    told.one("tcp", "PASS")?;
    Ok(())
}

/// agent - firewall - a host whose kernel takes connections for a program that never looks at them.
fn a_host_that_never_answers_does_not_take_longer() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
    let _listener = net.relay.inside(bind)??;
    let agent = Agent::unknown(&net.a)?;
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{}:80", net.relay.address());
        let told = Told::by(&agent, &[&url], &[])?;
        ensure!(told.exit == Some(5), "{}", told.json);
        told.one("tcp", "PASS")?;
        told.one("key", "SKIPPED")?;
        let blocked = told
            .rows()?
            .iter()
            .filter(|row| row["verdict"] == "BLOCKED");
        ensure!(blocked.count() > 0, "{}", told.json);
    }
    Ok(())
}

/// agent - firewall - a proxy that is not there. Its address, with a password, stands in the environment.
fn no_credential_is_shown() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let agent = Agent::unknown(&net.a)?;
    let host = net.relay.address();
    let proxy = format!("http://somebody:canary-of-doctor@{host}:8080");
    let variables = [("http_proxy", proxy.as_str())];
    let url = "http://relay.invalid";
    let told = Told::by(&agent, &[url, "--log", "trace"], &variables)?;
    ensure!(told.exit == Some(5), "{}", told.json);
    ensure!(told.json["code"] == "UP-PROXY", "{}", told.json);
    let settings = told.one("settings", "PASS")?;
    ensure!(
        text(settings, "reason").contains("http_proxy"),
        "{settings}"
    );
    let tcp = told.one("tcp", "BLOCKED")?;
    ensure!(text(tcp, "next").contains("the proxy"), "{tcp}");
    let shown = format!("{}{}", told.done.text(), told.done.errors());
    ensure!(!shown.contains("canary-of-doctor"), "{shown}");
    Ok(())
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}
