//! Services for clients that have nothing but curl.
//!
//! Topology of each: curl on `b`, behind a firewall that lets out only what goes to a proxy in public; the proxy, a real squid,
//! forbids CONNECT; the relay in public; a publisher on `a` behind firewall A.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::boxes::{Connects, Squid, SquidRules};
use underpass_lab::server::Redis;
use underpass_lab::traffic::{Pattern, Service};
use underpass_lab::{
    Agent, Cable, Finished, Host, Lab, Policy, Process, Relay, RelayOptions, exec, tests,
};

fn main() -> ExitCode {
    tests!(
        the_examples_work_as_printed,
        bytes_are_exact_both_ways,
        many_clients_have_sessions_of_their_own,
        the_end_of_one_direction_is_not_that_of_the_other,
        repeated_requests_do_no_harm,
        an_abort_is_told_from_an_end,
        refusals_are_told_apart,
        a_token_is_good_for_what_it_says,
        what_a_session_takes_is_bounded
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);
const MEBIBYTE: usize = 1 << 20;
const PROXY_PORT: u16 = 3128;

/// The page's fenced block in `language`.
fn printed(language: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let page = fs::read_to_string(root.context("crates/NAME")?.join("docs/plain-http.md"))?;
    let block = page.split(&format!("\n```{language}\n")).nth(1);
    let block = block.and_then(|rest| rest.split("\n```\n").next());
    Ok(block.context("no such block")?.to_owned() + "\n")
}

/// A network in which curl reaches the relay through squid only.
struct Place {
    publisher: Agent,
    token: String,
    relay: Relay,
    /// `own-echo`, `own-count` and `own-lazy`, which the relay reaches itself: an echo, a count at the end, and one that
    /// reads next to nothing.
    echo: Service,
    count: Service,
    _lazy: Service,
    _squid: Squid,
    /// What is on a host ends with the host.
    _public: Host,
    proxy: Host,
    a: Host,
    b: Host,
    _lab: Lab,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Result<Self> {
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
        let no_tunnels = SquidRules {
            connects: Connects::Refused,
            ..SquidRules::open()
        };
        let squid = Squid::start(&proxy, PROXY_PORT, &no_tunnels)?;
        let (echo, count) = (Service::echo(&host, 0)?, Service::count(&host, 0)?);
        let lazy = Service::slow_reader(&host, 0, 1)?;
        let own = [("echo", &echo), ("count", &count), ("lazy", &lazy)];
        let services = own.map(|(name, it)| of_relay(name, it.port()));
        let options = RelayOptions {
            configuration: Some(services.concat() + &of_relay("closed", 1)),
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
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
    fn publish(&self, name: &str, target: &str, arguments: &[&str]) -> Result<Process> {
        let mut all = vec!["publish", name, target];
        all.extend(arguments);
        let process = self.a.spawn("publish", self.publisher.command(&all)?)?;
        process.line(LIMIT)?;
        Ok(process)
    }

    fn environment(&self, command: &mut Command) {
        let proxy = format!("http://{}:{PROXY_PORT}", self.proxy.address());
        command.env("http_proxy", proxy).env_remove("no_proxy");
        command.env("RELAY", self.relay.url());
        command.env("TOKEN", &self.token);
        command.current_dir(self.folder.path());
    }

    /// Runs a script of the page with `input`.
    fn bash(&self, script: &str, arguments: &[&str], input: &[u8]) -> Result<Finished> {
        let mut command = self.b.command("bash");
        command.args(["-c", script, "script"]).args(arguments);
        self.environment(&mut command);
        exec::output_with_input(&mut command, input, LIMIT)
    }

    /// One request by curl, with the administrator's token.
    fn ask(&self, path: &str, body: Option<&[u8]>) -> Result<Answer> {
        self.ask_with(&self.token, path, body, &[])
    }

    fn ask_with(
        &self,
        token: &str,
        path: &str,
        body: Option<&[u8]>,
        more: &[&str],
    ) -> Result<Answer> {
        let mut command = self.b.command("curl");
        command.args(["-sS", "-i", "-H", &format!("Authorization: Bearer {token}")]);
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

    fn open(&self, service: &str) -> Result<String> {
        let answer = self.ask(&format!("/plain/open?service={service}"), Some(b""))?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(answer.text().trim().to_owned())
    }
}

/// What curl showed.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(300).collect();
        write!(f, "{}\n{text}", self.headers)
    }
}

impl Answer {
    fn read(shown: &[u8]) -> Result<Self> {
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

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .headers
            .lines()
            .filter_map(|line| line.split_once(": "));
        let found = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    /// Fails unless this is the refusal that was expected, said in each of the ways.
    fn refused(&self, status: u16, code: &str) -> Result<()> {
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
fn of_relay(name: &str, port: u16) -> String {
    format!("[[service]]\nname = \"own-{name}\"\ntarget = \"127.0.0.1:{port}\"\nallow = [\"*\"]\n")
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(seed).fill(&mut bytes);
    bytes
}

fn the_examples_work_as_printed() -> Result<()> {
    let place = Place::new()?;
    let redis = Redis::start(&place.a, [127, 0, 0, 1], 6379)?;
    let _published = place.publish("redis", &redis.address().to_string(), &["--plain-http"])?;
    let listed = place.publisher.run(&["services"])?;
    ensure!(listed.contains("readable"), "{listed}");

    // Nothing gets through but single requests.
    let mut tunnel = place.b.command("curl");
    tunnel.args(["-sS", "-p", &format!("{}/", place.relay.url())]);
    place.environment(&mut tunnel);
    let tunnel = exec::output(&mut tunnel, LIMIT)?;
    ensure!(tunnel.errors().contains("403"), "{}", tunnel.errors());

    let steps = place.bash(&printed("sh")?, &[], b"")?.success()?;
    ensure!(
        steps.text() == "6\n+PONG\r\n12\n+OK\r\nclosed\n",
        "{:?}",
        steps.text()
    );
    let commands = b"SET key value\r\nGET key\r\nQUIT\r\n";
    let done = place.bash(&printed("bash")?, &["redis"], commands)?;
    let done = done.success()?;
    ensure!(
        done.text() == "+OK\r\n$5\r\nvalue\r\n+OK\r\n",
        "{:?}",
        done.text()
    );
    Ok(())
}

fn bytes_are_exact_both_ways() -> Result<()> {
    let place = Place::new()?;
    let echo = Service::echo(&place.a, 0)?;
    let _published = place.publish("echo", &echo.address().to_string(), &["--plain-http"])?;
    let script = printed("bash")?;
    for (name, service, length) in [
        ("echo", &echo, 6 * MEBIBYTE + 7),
        ("own-echo", &place.echo, 9 * MEBIBYTE + 5),
    ] {
        let sent = pattern(1, length);
        let begun = std::time::Instant::now();
        let done = place.bash(&script, &[name], &sent)?.success()?;
        ensure!(
            done.stdout == sent,
            "{name}: {} bytes came back: {}",
            done.stdout.len(),
            done.errors()
        );
        println!(
            "    {name}: {length} bytes there and back in {:.1?}",
            begun.elapsed()
        );
        // One connection for all requests, and it has ended well.
        let tally = service.tally();
        ensure!(tally.connections() == 1, "{tally:?}");
        let ended = || Ok((service.open() == 0).then_some(()));
        exec::wait_until("the connection ends", LIMIT, ended)?;
        ensure!(tally.errors() == 0, "{tally:?}");
    }
    Ok(())
}

fn many_clients_have_sessions_of_their_own() -> Result<()> {
    const CLIENTS: u64 = 6;
    let place = Place::new()?;
    let script = printed("bash")?;
    std::thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|seed| {
            let (place, script) = (&place, &script);
            scope.spawn(move || {
                let sent = pattern(seed, MEBIBYTE + 1);
                let done = place.bash(script, &["own-echo"], &sent)?.success()?;
                ensure!(done.stdout == sent, "{seed}: {}", done.errors());
                Ok(())
            })
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| bail!("panicked")))
    })?;
    let tally = place.echo.tally();
    ensure!(
        tally.connections() == CLIENTS && tally.errors() == 0,
        "{tally:?}"
    );
    Ok(())
}

fn the_end_of_one_direction_is_not_that_of_the_other() -> Result<()> {
    let place = Place::new()?;
    let count = Service::count(&place.a, 0)?;
    let _published = place.publish("count", &count.address().to_string(), &["--plain-http"])?;
    let sent = pattern(2, 3 * MEBIBYTE);
    for name in ["count", "own-count"] {
        // The count comes only after the service has read the end, and the client reads on after it has said it.
        let done = place.bash(&printed("bash")?, &[name], &sent)?.success()?;
        ensure!(
            done.text() == format!("{}\n", sent.len()),
            "{name}: {}",
            done.text()
        );
    }
    // A service that is the first to end: what the client says afterwards still arrives.
    let first = Service::start(&place.a, 0, |mut stream, tally| {
        use std::io::{Read as _, Write as _};
        stream.write_all(b"over")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        if rest != b"and out" {
            return Err(std::io::Error::other("something else came"));
        }
        let _ = tally;
        Ok(())
    })?;
    let _also = place.publish("first", &first.address().to_string(), &["--plain-http"])?;
    let session = place.open("first")?;
    let down = format!("/plain/{session}/down?offset=");
    let mut read = Vec::new();
    let end = loop {
        let answer = place.ask(&format!("{down}{}", read.len()), None)?;
        ensure!(answer.status == 200, "{answer:?}");
        read.extend_from_slice(&answer.body);
        if let Some(end) = answer.header("Underpass-End") {
            break end.to_owned();
        }
    };
    ensure!(read == b"over" && end == "4", "{read:?} {end}");
    let up = format!("/plain/{session}/up?offset=0&end=1");
    ensure!(place.ask(&up, Some(b"and out"))?.status == 200);
    // Both have said all: closing at once cuts nothing off.
    ensure!(
        place
            .ask(&format!("/plain/{session}/close"), Some(b""))?
            .status
            == 200
    );
    let ended = || Ok((first.tally().connections() == 1 && first.open() == 0).then_some(()));
    exec::wait_until("the service has ended", LIMIT, ended)?;
    ensure!(first.tally().errors() == 0, "{:?}", first.tally());
    Ok(())
}

fn repeated_requests_do_no_harm() -> Result<()> {
    let place = Place::new()?;
    let first = place.ask("/plain/open?service=own-echo&once=a1", Some(b""))?;
    let again = place.ask("/plain/open?service=own-echo&once=a1", Some(b""))?;
    ensure!(first.status == 201 && again.status == 201);
    ensure!(first.body == again.body, "{first:?} {again:?}");
    let other = place.ask("/plain/open?service=own-echo&once=a2", Some(b""))?;
    ensure!(first.body != other.body);
    // The relay has connected before the service's own thread takes notice.
    let connected = || Ok((place.echo.tally().connections() >= 2).then_some(()));
    exec::wait_until("the service has two connections", LIMIT, connected)?;

    // From here on by the cookie, in the way of a client that does not care what is in it.
    let cookie = first.header("Set-Cookie").context("no cookie")?;
    let cookie = cookie.split(';').next().context("no cookie")?;
    let ask = |path: &str, body: Option<&[u8]>| {
        place.ask_with(
            &place.token,
            path,
            body,
            &["-H", &format!("Cookie: {cookie}")],
        )
    };
    let text = pattern(3, 700_000);
    for _ in 0..3 {
        let answer = ask("/plain/up?offset=0", Some(&text[..400_000]))?;
        ensure!(
            answer.status == 200 && answer.text() == "400000\n",
            "{answer:?}"
        );
    }
    // With more behind what was sent before; then an older one, late.
    let answer = ask("/plain/up?offset=100000&end=1", Some(&text[100_000..]))?;
    ensure!(
        answer.header("Underpass-Next") == Some("700000"),
        "{answer:?}"
    );
    ensure!(ask("/plain/up?offset=0", Some(&text[..400_000]))?.status == 200);
    ensure!(ask("/plain/up?offset=700000&end=1", Some(b""))?.status == 200);

    let mut read = Vec::new();
    loop {
        let path = format!("/plain/down?offset={}", read.len());
        let (one, two) = (ask(&path, None)?, ask(&path, None)?);
        ensure!(one.status == 200 && two.status == 200);
        ensure!(
            two.body.starts_with(&one.body),
            "other bytes the second time"
        );
        let next = (read.len() + two.body.len()).to_string();
        ensure!(two.header("Underpass-Next") == Some(&next), "{two:?}");
        ensure!(two.header("Content-Type") == Some("binary/tcp"));
        read.extend_from_slice(&two.body);
        if two.header("Underpass-End") == Some(&next) {
            break;
        }
    }
    ensure!(read == text, "{} bytes", read.len());
    // Acknowledged is forgotten, and the end can be asked for again.
    let end = ask("/plain/down?offset=700000", None)?;
    ensure!(end.header("Underpass-End") == Some("700000"), "{end:?}");
    ensure!(
        place.echo.tally().connections() == 2,
        "{:?}",
        place.echo.tally()
    );
    let old = ask("/plain/down?offset=0", None)?;
    old.refused(409, "UP-OFFSET")?;
    ensure!(old.header("Underpass-Next") == Some("700000"), "{old:?}");
    Ok(())
}

fn an_abort_is_told_from_an_end() -> Result<()> {
    let place = Place::new()?;
    let abort = Service::abort(&place.a, 0, 1, 1000)?;
    let _published = place.publish("abort", &abort.address().to_string(), &["--plain-http"])?;
    let session = place.open("abort")?;
    let down = |offset: usize| place.ask(&format!("/plain/{session}/down?offset={offset}"), None);
    let mut read = 0;
    while read < 1000 {
        let answer = down(read)?;
        ensure!(answer.status == 200 && answer.header("Underpass-End").is_none());
        read += answer.body.len();
    }
    ensure!(
        place
            .ask(&format!("/plain/{session}/up?offset=0"), Some(b"!"))?
            .status
            == 200
    );
    down(1000)?.refused(410, "UP-ABORTED")?;
    down(1000)?.refused(410, "UP-ABORTED")?;
    place
        .ask(&format!("/plain/{session}/up?offset=1"), Some(b"!"))?
        .refused(410, "UP-ABORTED")?;
    // The script of the page says so too.
    let done = place.bash(&printed("bash")?, &["abort"], b"!")?;
    ensure!(done.status.code() == Some(1), "{:?}", done.status);
    ensure!(done.errors().contains("UP-ABORTED"), "{}", done.errors());

    // And the other way round: a client that closes early resets the service's connection.
    let session = place.open("own-echo")?;
    let connected = || Ok((place.echo.open() == 1).then_some(()));
    exec::wait_until("the service is connected", LIMIT, connected)?;
    ensure!(
        place
            .ask(&format!("/plain/{session}/close"), Some(b""))?
            .status
            == 200
    );
    let ended = || Ok((place.echo.tally().errors() == 1).then_some(()));
    exec::wait_until("the service sees a reset", LIMIT, ended)?;
    // A publisher that is stopped takes the session with it.
    let echo = Service::echo(&place.a, 0)?;
    let published = place.publish("echo", &echo.address().to_string(), &["--plain-http"])?;
    let session = place.open("echo")?;
    published.terminate(LIMIT)?;
    let answer = place.ask(&format!("/plain/{session}/down?offset=0&wait=60"), None)?;
    ensure!(answer.status == 410, "{answer:?}");
    Ok(())
}

fn refusals_are_told_apart() -> Result<()> {
    let place = Place::new()?;
    let echo = Service::echo(&place.a, 0)?;
    let published = place.publish("private", &echo.address().to_string(), &[])?;
    let good = place.token.as_str();
    let wrong = format!("upt_{}", "0".repeat(64));
    let open = "/plain/open?service=own-echo";
    for token in [wrong.as_str(), "upt_", "x", &good[..good.len() - 1]] {
        let answer = place.ask_with(token, open, Some(b""), &[])?;
        answer.refused(401, "UP-TOKEN")?;
        ensure!(
            answer.header("WWW-Authenticate") == Some("Bearer"),
            "{answer:?}"
        );
        ensure!(!answer.text().contains(token) || token == "x", "{answer:?}");
    }
    let session = place.open("own-echo")?;
    let up = format!("/plain/{session}/up?offset=");
    let unknown = "f".repeat(32);
    let large = vec![0; 1_000_001];
    for (status, code, path, body) in [
        (
            404,
            "UP-NO-SERVICE",
            "/plain/open?service=nothing".to_owned(),
            Some(&b""[..]),
        ),
        (
            403,
            "UP-DENIED",
            "/plain/open?service=private".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-NAME",
            "/plain/open?service=a..b".to_owned(),
            Some(b""),
        ),
        (
            502,
            "UP-REFUSED",
            "/plain/open?service=own-closed".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-PROTOCOL",
            "/plain/open?name=own-echo".to_owned(),
            Some(b""),
        ),
        (
            400,
            "UP-PROTOCOL",
            "/plain/up?offset=0".to_owned(),
            Some(b"x"),
        ),
        (405, "UP-PROTOCOL", open.to_owned(), None),
        (
            404,
            "UP-NO-SESSION",
            format!("/plain/{unknown}/down?offset=0"),
            None,
        ),
        (
            404,
            "UP-PROTOCOL",
            format!("/plain/{session}/sideways"),
            None,
        ),
        (409, "UP-OFFSET", format!("{up}1"), Some(b"x")),
        (
            409,
            "UP-OFFSET",
            format!("/plain/{session}/down?offset=1"),
            None,
        ),
        (413, "UP-TOO-LARGE", format!("{up}0"), Some(&large)),
    ] {
        let answer = place.ask(&path, body)?;
        answer.refused(status, code).context(path)?;
    }
    // What lies elsewhere is no business of this interface.
    let elsewhere = place.ask("/other", None)?;
    ensure!(elsewhere.status == 404 && elsewhere.header("Underpass-Code").is_none());
    // None of all this has harmed the session; and HTTP/1.0 does.
    let old = ["--http1.0"];
    let answer = place.ask_with(good, &format!("{up}0"), Some(&large[..1_000_000]), &old)?;
    ensure!(answer.status == 200, "{answer:?}");
    let answer = place.ask_with(good, &format!("/plain/{session}/down?offset=0"), None, &old)?;
    ensure!(
        answer.status == 200 && !answer.body.is_empty(),
        "{}",
        answer.headers
    );
    let length = answer.body.len().to_string();
    ensure!(
        answer.header("Content-Length") == Some(&length),
        "{}",
        answer.headers
    );

    // What the owner permits, the owner can take back: at once, also for who is in.
    drop(published);
    let target = echo.address().to_string();
    let published = place.publish("private", &target, &["--plain-http"])?;
    let session = place.open("private")?;
    published.kill()?;
    let _published = place.publish("private", &target, &[])?;
    let down = format!("/plain/{session}/down?offset=0");
    let ended = || Ok(Some(place.ask(&down, None)?).filter(|answer| answer.status != 200));
    let answer = exec::wait_until("the session ends", LIMIT, ended)?;
    ensure!(answer.status == 410, "{answer:?}");
    place
        .ask("/plain/open?service=private", Some(b""))?
        .refused(403, "UP-DENIED")
}

fn a_token_is_good_for_what_it_says() -> Result<()> {
    let place = Place::new()?;
    let publisher = &place.publisher;
    let echo = Service::echo(&place.a, 0)?;
    let target = echo.address().to_string();
    let _published = place.publish("hers", &target, &["--plain-http"])?;
    let bob = Agent::invited(&place.a, &place.relay, "bob", publisher)?;
    let make = |agent: &Agent, arguments: &[&str]| -> Result<String> {
        let mut all = vec!["users", "token"];
        all.extend(arguments);
        Ok(agent.run(&all)?.trim().to_owned())
    };
    let token = make(&bob, &["meter"])?;
    let open = |token: &str, service: &str| {
        let path = format!("/plain/open?service={service}");
        place.ask_with(token, &path, Some(b""), &[])
    };
    // It may do what its user may, from one request to the next.
    open(&token, "hers")?.refused(403, "UP-DENIED")?;
    publisher.allow("bob", "hers")?;
    let opened = open(&token, "hers")?;
    ensure!(opened.status == 201, "{opened:?}");
    let session = opened.text().trim().to_owned();
    let down = format!("/plain/{session}/down?offset=0&wait=0");
    ensure!(place.ask_with(&token, &down, None, &[])?.status == 200);
    // A session is its own token's, whoever knows its name.
    place.ask(&down, None)?.refused(404, "UP-NO-SESSION")?;
    let second = make(&bob, &["second", "--expires", "1h"])?;
    place
        .ask_with(&second, &down, None, &[])?
        .refused(404, "UP-NO-SESSION")?;

    let listed = bob.run(&["users", "token", "--list"])?;
    ensure!(
        listed.contains("meter") && listed.contains("second"),
        "{listed}"
    );
    ensure!(
        !listed.contains("upt_") && !listed.contains("curl"),
        "{listed}"
    );
    let machines: serde_json::Value = serde_json::from_str(&bob.run(&["machines", "--json"])?)?;
    ensure!(
        machines.to_string().contains("\"kind\":\"token\""),
        "{machines}"
    );
    // Somebody else's tokens are made and revoked by those above them only.
    for refused in [
        &["users", "token", "x", "--user", "admin"][..],
        &["users", "token", "--revoke", "curl"],
    ] {
        ensure!(bob.run(refused).is_err(), "{refused:?}");
    }
    make(publisher, &["of-bob", "--user", "bob"])?;
    ensure!(bob.run(&["users", "token", "--list"])?.contains("of-bob"));

    // Nothing of a token is found in the relay's data.
    let mut data = Vec::new();
    for entry in fs::read_dir(place.relay.data())?.flatten() {
        if entry.path().is_file() {
            data.extend(fs::read(entry.path())?);
        }
    }
    ensure!(data.windows(5).any(|five| five == b"meter"));
    let secret = token.trim_start_matches("upt_").as_bytes();
    ensure!(!data.windows(secret.len()).any(|text| text == secret));

    // Revoked: the session breaks while a request is held, and no other is answered.
    let held = place.b.clone();
    let waiting = {
        let mut command = held.command("curl");
        command.args(["-sS", "-i", "-H", &format!("Authorization: Bearer {token}")]);
        let path = format!("/plain/{session}/down?offset=0&wait=60");
        command.arg(format!("{}{path}", place.relay.url()));
        place.environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?
    };
    bob.run(&["users", "token", "--revoke", "meter"])?;
    let answer = Answer::read(&waiting.wait_with_output()?.stdout)?;
    ensure!(answer.status == 410 || answer.status == 401, "{answer:?}");
    place
        .ask_with(&token, &down, None, &[])?
        .refused(401, "UP-TOKEN")?;
    open(&token, "hers")?.refused(401, "UP-TOKEN")?;
    ensure!(open(&second, "hers")?.status == 201);

    // Expired.
    let short = make(&bob, &["short", "--expires", "1s"])?;
    let expired = || Ok((open(&short, "hers")?.status == 401).then_some(()));
    exec::wait_until("the token expires", LIMIT, expired)
}

fn what_a_session_takes_is_bounded() -> Result<()> {
    let place = Place::with(&[
        "--plain-sessions-per-user",
        "2",
        "--plain-hold",
        "300ms",
        "--plain-idle",
        "15s",
    ])?;
    let session = place.open("own-lazy")?;
    // What the relay and the systems on the way take up is some MiB, and then no more.
    let chunk = vec![7; 1_000_000];
    let mut offset = 0;
    let full = loop {
        ensure!(offset < 64 * MEBIBYTE, "it takes whatever comes");
        let answer = place.ask(
            &format!("/plain/{session}/up?offset={offset}"),
            Some(&chunk),
        )?;
        if answer.status != 200 {
            break answer;
        }
        offset += chunk.len();
    };
    full.refused(503, "UP-BUSY")?;
    ensure!(full.header("Retry-After").is_some(), "{full:?}");
    ensure!(
        full.header("Underpass-Next") == Some(&offset.to_string()),
        "{full:?}"
    );
    println!("    {offset} bytes were taken for a service that reads none");

    let other = place.open("own-echo")?;
    let third = place.ask("/plain/open?service=own-echo", Some(b""))?;
    third.refused(503, "UP-BUSY")?;
    let idle = || Ok((place.echo.tally().errors() == 1 && place.echo.open() == 0).then_some(()));
    exec::wait_until("an idle session is given up", LIMIT, idle)?;
    // It is told so for as long as the relay takes to clear up, then its name means nothing.
    let down = format!("/plain/{other}/down?offset=0");
    let gone = || {
        let answer = place.ask(&down, None)?;
        match answer.status {
            410 => answer.refused(410, "UP-EXPIRED").map(|()| None),
            _ => answer.refused(404, "UP-NO-SESSION").map(Some),
        }
    };
    exec::wait_until("the session is forgotten", LIMIT, gone)?;
    place.open("own-count")?;
    let connected = || Ok((place.count.tally().connections() == 1).then_some(()));
    exec::wait_until("the service is connected", LIMIT, connected)
}
