//! Where curl is, and what it shows.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::boxes::{Connects, Squid, SquidRules};
use underpass_lab::traffic::{Pattern, Service};
use underpass_lab::{
    Agent, Cable, Finished, Host, Lab, Policy, Process, Relay, RelayOptions, exec,
};

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
pub(crate) const MEBIBYTE: usize = 1 << 20;
const PROXY_PORT: u16 = 3128;

/// The page's fenced block in `language`.
pub(crate) fn printed(language: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let page = fs::read_to_string(root.context("crates/NAME")?.join("docs/plain-http.md"))?;
    let block = page.split(&format!("\n```{language}\n")).nth(1);
    let block = block.and_then(|rest| rest.split("\n```\n").next());
    Ok(block.context("no such block")?.to_owned() + "\n")
}

/// A network in which curl reaches the relay through squid only.
pub(crate) struct Place {
    pub(crate) publisher: Agent,
    pub(crate) token: String,
    pub(crate) relay: Relay,
    /// `own-echo`, `own-count` and `own-lazy`, which the relay reaches itself: an echo, a count at the end, and one that
    /// reads next to nothing.
    pub(crate) echo: Service,
    pub(crate) count: Service,
    _lazy: Service,
    _squid: Squid,
    /// What is on a host ends with the host.
    _public: Host,
    proxy: Host,
    pub(crate) a: Host,
    pub(crate) b: Host,
    _lab: Lab,
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        Self::with(&[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Result<Self> {
        Self::start(arguments, false)
    }

    /// The relay by `https://`, and so through tunnels.
    pub(crate) fn by_https() -> Result<Self> {
        Self::start(&[], true)
    }

    fn start(arguments: &[&str], tls: bool) -> Result<Self> {
        let mut lab = Lab::new()?;
        let host = lab.public_host("relay", Cable::Plain)?;
        let proxy = lab.public_host("proxy", Cable::Plain)?;
        let only_proxy = Policy {
            tcp: vec![PROXY_PORT],
            ..Policy::default()
        };
        let firewall_a = lab.firewall("fwa", &Policy::web(), Cable::Plain)?;
        let firewall_b = lab.firewall("fwb", &only_proxy, Cable::Plain)?;
        let a = lab.private_host("a", &firewall_a)?;
        let b = lab.private_host("b", &firewall_b)?;
        let folder = tempfile::tempdir()?;
        let rules = SquidRules {
            connects: if tls {
                Connects::Port443
            } else {
                Connects::Refused
            },
            ..SquidRules::open()
        };
        let squid = Squid::start(&proxy, PROXY_PORT, &rules)?;
        let (echo, count) = (Service::echo(&host, 0)?, Service::count(&host, 0)?);
        let lazy = Service::slow_reader(&host, 0, 1)?;
        let own = [("echo", &echo), ("count", &count), ("lazy", &lazy)];
        let services = own.map(|(name, it)| of_relay(name, it.port()));
        let options = RelayOptions {
            configuration: Some(services.concat() + &of_relay("closed", 1)),
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
            tls,
            ..RelayOptions::default()
        };
        let relay = Relay::start_with(&host, &options)?;
        let publisher = Agent::first(&a, &relay)?;
        let token = publisher.run(&["users", "token", "curl"])?;
        Ok(Self {
            publisher,
            token: token.trim().to_owned(),
            relay,
            echo,
            count,
            _lazy: lazy,
            _squid: squid,
            _public: host,
            proxy,
            a,
            b,
            _lab: lab,
            folder,
        })
    }

    /// A service that agents cannot see the inside of, published with `arguments` more.
    pub(crate) fn publish(&self, name: &str, target: &str, arguments: &[&str]) -> Result<Process> {
        let mut all = vec!["publish", name, target];
        all.extend(arguments);
        let process = self.a.spawn("publish", self.publisher.command(&all)?)?;
        process.line(LIMIT)?;
        Ok(process)
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        let proxy = format!("http://{}:{PROXY_PORT}", self.proxy.address());
        command.env("http_proxy", &proxy).env("https_proxy", proxy);
        command.env_remove("no_proxy");
        // The relay has signed its certificate itself.
        let certificate = self.relay.data().join("tls-cert.pem");
        if certificate.exists() {
            command.env("CURL_CA_BUNDLE", certificate);
        }
        command.env("RELAY", self.relay.url());
        command.env("TOKEN", &self.token);
        command.current_dir(self.folder.path());
    }

    /// Runs a script of the page with `input`.
    pub(crate) fn bash(&self, script: &str, arguments: &[&str], input: &[u8]) -> Result<Finished> {
        let mut command = self.b.command("bash");
        command.args(["-c", script, "script"]).args(arguments);
        self.environment(&mut command);
        exec::output_with_input(&mut command, input, LIMIT)
    }

    /// One request by curl, with the administrator's token.
    pub(crate) fn ask(&self, path: &str, body: Option<&[u8]>) -> Result<Answer> {
        self.ask_with(&self.token, path, body, &[])
    }

    pub(crate) fn ask_with(
        &self,
        token: &str,
        path: &str,
        body: Option<&[u8]>,
        more: &[&str],
    ) -> Result<Answer> {
        let mut command = self.b.command("curl");
        command.args(["-sS", "-i", "-H", &format!("Authorization: Bearer {token}")]);
        // What a proxy says of a tunnel is no answer.
        command.arg("--suppress-connect-headers");
        if body.is_some() {
            command.args(["-H", "Expect:", "--data-binary", "@-"]);
        }
        command
            .args(more)
            .arg(format!("{}{path}", self.relay.url()));
        self.environment(&mut command);
        let done = exec::output_with_input(&mut command, body.unwrap_or_default(), LIMIT)?;
        Answer::read(&done.success()?.stdout)
    }

    pub(crate) fn open(&self, service: &str) -> Result<String> {
        let answer = self.ask(&format!("/plain/open?service={service}"), Some(b""))?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(answer.text().trim().to_owned())
    }
}

/// What curl showed.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(300).collect();
        write!(f, "{}\n{text}", self.headers)
    }
}

impl Answer {
    pub(crate) fn read(shown: &[u8]) -> Result<Self> {
        let end = shown.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.context("no end of the headers")?;
        let headers = String::from_utf8(shown[..end].to_vec())?;
        let status = headers.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Self {
            status,
            headers,
            body: shown[end + 4..].to_vec(),
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .headers
            .lines()
            .filter_map(|line| line.split_once(": "));
        let found = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// Fails unless this is the refusal that was expected, said in each of the ways.
    pub(crate) fn refused(&self, status: u16, code: &str) -> Result<()> {
        ensure!(
            self.status == status
                && self.header("Underpass-Code") == Some(code)
                && self.text().starts_with(&format!("{code} ")),
            "{status} {code} expected: {self:?}"
        );
        Ok(())
    }
}

/// A `[[service]]` table for everybody.
pub(crate) fn of_relay(name: &str, port: u16) -> String {
    format!("[[service]]\nname = \"own-{name}\"\ntarget = \"127.0.0.1:{port}\"\nallow = [\"*\"]\n")
}

pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(seed).fill(&mut bytes);
    bytes
}
