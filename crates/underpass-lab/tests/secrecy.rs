//! What two programs say to each other is seen by nobody between the agents: on no cable, and not in the relay's memory.
//!
//! Topology of each: service and publisher on `a` behind firewall A, client on `b` behind firewall B, the relay in
//! public between them; tcpdump on all five cables.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Service};
use underpass_lab::{
    Agent, Capture, Link, Options, Recording, Scene, TwoFirewalls, each_carrier, exec, tests,
};

fn main() -> ExitCode {
    tests!(
        the_search_finds_what_is_not_hidden,
        plain_http_shows_no_canary,
        https_shows_no_canary
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes that one side sends in a turn: the canary and what is random around it.
const TURN: usize = 6000;
/// Turns before the relay's memory is looked at for the first time, and again between the looks.
const TURNS: u64 = 40;

/// The pause between turns: as fast as they can, the programs outrun five times tcpdump on a small machine.
const PAUSE: Duration = Duration::from_millis(5);

/// What is looked for: its name and its bytes.
type Needle = (String, Vec<u8>);

/// Random bytes and what they look like in the encodings that a carrier might use.
struct Canary {
    bytes: Vec<u8>,
}

impl Canary {
    fn new() -> Result<Self> {
        Ok(Self { bytes: random(48)? })
    }

    /// Each form with its name. Of base64 there are three, for the three places that the first byte can have in a group.
    fn forms(&self) -> Vec<Needle> {
        let hex: String = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut forms = vec![
            ("raw".to_owned(), self.bytes.clone()),
            ("hex".to_owned(), hex.to_uppercase().into_bytes()),
            ("hex".to_owned(), hex.into_bytes()),
        ];
        for skipped in 0..3 {
            // Whole groups only, so that neither neighbour has a part in it.
            let whole = (self.bytes.len() - skipped) / 3 * 3;
            let part = &self.bytes[skipped..skipped + whole];
            for alphabet in [b"+/", b"-_"] {
                forms.push((format!("base64 from {skipped}"), base64(part, *alphabet)));
            }
        }
        forms
    }
}

/// RFC 4648, sections 4 and 5, of whole groups.
fn base64(bytes: &[u8], last_two: [u8; 2]) -> Vec<u8> {
    let mut alphabet: Vec<u8> = (b'A'..=b'Z')
        .chain(b'a'..=b'z')
        .chain(b'0'..=b'9')
        .collect();
    alphabet.extend(last_two);
    let groups = bytes.chunks_exact(3);
    groups
        .flat_map(|group| {
            let bits = group
                .iter()
                .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| alphabet[bits >> shift & 63])
        })
        .collect()
}

fn random(length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The canary with fresh random bytes before and behind it, so that compression cannot hide it.
fn turn(canary: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = random(TURN)?;
    let at = usize::from(bytes[0]) * 16;
    bytes[at..at + canary.len()].copy_from_slice(canary);
    Ok(bytes)
}

fn start_captures<'a>(
    links: impl IntoIterator<Item = (&'a str, &'a Link)>,
    scene: &TwoFirewalls,
) -> Result<Vec<(String, Capture)>> {
    let start = |(name, link): (&str, &Link)| {
        let file = scene.lab.logs().join(format!("{name}.pcap"));
        Ok((name.to_owned(), link.capture(&file)?))
    };
    links.into_iter().map(start).collect()
}

/// Every cable of `net`, both private ones and the public ones.
fn cables(net: &TwoFirewalls) -> [(&'static str, &Link); 5] {
    [
        ("private-a", net.a.link()),
        ("private-b", net.b.link()),
        ("public-a", net.firewall_a.link()),
        ("public-b", net.firewall_b.link()),
        ("public-relay", net.relay.link()),
    ]
}

fn stop(captures: Vec<(String, Capture)>) -> Result<Vec<(String, Recording)>> {
    let stop = |(name, capture): (String, Capture)| Ok((name, capture.stop()?));
    captures.into_iter().map(stop).collect()
}

/// Without a tunnel the same search finds the same kind of bytes, on each cable on the way, in each form.
fn the_search_finds_what_is_not_hidden() -> Result<()> {
    let net = TwoFirewalls::new()?;
    let canary = Canary::new()?;
    let captures = start_captures(cables(&net), &net)?;
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
    let listener = net.relay.inside(listen)??;
    let to = (net.relay.address(), 80).into();
    let mut stream = traffic::connect(&net.b, to, LIMIT)?;
    let mut server = listener.accept()?.0;
    for (_, form) in canary.forms() {
        stream.write_all(&form)?;
        server.read_exact(&mut vec![0; form.len()])?;
    }
    for (name, recording) in stop(captures)? {
        let on_the_way = !name.ends_with("-a");
        let needles = canary.forms();
        for ((form, _), found) in needles.iter().zip(recording.holds_each(&bytes(&needles))?) {
            let right = (found > 0) == on_the_way;
            ensure!(right, "{form} found {found} times on {name}");
        }
    }
    // A carrier that encodes what passes through it is seen through as well.
    let padded = [b"ab", &canary.bytes[..], b"c"].concat();
    let encoded = base64(&padded, *b"+/");
    let seen = |(_, form): &Needle| encoded.windows(form.len()).any(|w| w == form);
    ensure!(canary.forms().iter().any(seen), "base64 hides it");
    Ok(())
}

fn plain_http_shows_no_canary() -> Result<()> {
    each_carrier(2, |carrier| exchange_in_secret(&Options::by(carrier)))
}

fn https_shows_no_canary() -> Result<()> {
    each_carrier(2, |carrier| {
        exchange_in_secret(&Options::by(carrier).with_tls())
    })
}

fn exchange_in_secret(options: &Options) -> Result<()> {
    let net = TwoFirewalls::new()?;
    let (asked, answered) = (Canary::new()?, Canary::new()?);
    let said = |who: &str, canary: &Canary| -> Vec<Needle> {
        let forms = canary.forms().into_iter();
        forms
            .map(|(form, bytes)| (format!("{who}, {form}"), bytes))
            .collect()
    };
    let mut secrets = [said("the question", &asked), said("the answer", &answered)].concat();
    let captures = start_captures(cables(&net), &net)?;
    let scene = Scene::start(net, options)?;
    // A login by password takes two stretchings, and is the same by each carrier.
    if options.carrier.as_deref() == Some("upgrade") {
        secrets.push(("the password".into(), log_in_by_password(&scene)?));
    }
    let answer = answered.bytes.clone();
    let service = Service::start(&scene.net.a, 0, move |mut stream, _| {
        let mut got = vec![0; TURN];
        loop {
            stream.read_exact(&mut got)?;
            let answer = turn(&answer).map_err(std::io::Error::other)?;
            stream.write_all(&answer)?;
        }
    })?;
    let name: String = random(12)?
        .iter()
        .map(|byte| char::from(b'a' + byte % 26))
        .collect();
    let way = scene.way(&name, service.address())?;
    let mut stream = traffic::connect(&scene.net.b, way.address(), LIMIT)?;

    let (turns, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| -> Result<()> {
        let talk = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                stream.write_all(&turn(&asked.bytes)?)?;
                let mut got = vec![0; TURN];
                stream.read_exact(&mut got)?;
                let found = got
                    .windows(answered.bytes.len())
                    .any(|w| w == answered.bytes);
                ensure!(found, "the answer has no canary");
                turns.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        let looked = look_while_they_talk(&scene, &turns, &secrets);
        done.store(true, Ordering::Relaxed);
        let talked = talk
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        looked.and(talked)
    })?;
    drop(stream);
    // All of it has passed when the service has seen the end.
    exec::wait_until("the service has no connection", LIMIT, || {
        Ok((service.open() == 0).then_some(()))
    })?;
    relay_knows_nothing(&scene, &secrets).context("afterwards")?;
    println!("    {} turns each way", turns.load(Ordering::Relaxed));

    // Not even the name of what is used is seen on the way.
    let mut needles = secrets;
    needles.push(("the service's name".into(), name.into_bytes()));
    let exchanged = turns.load(Ordering::Relaxed) * TURN as u64;
    for (place, recording) in stop(captures)? {
        let size = std::fs::metadata(&recording.file)?.len();
        ensure!(size > exchanged, "{place} has seen only {size} bytes");
        let found = recording.holds_each(&bytes(&needles))?;
        none_found(&needles, &found).context(place)?;
        std::fs::remove_file(&recording.file)?;
    }
    Ok(())
}

/// Sets a password for the client's user and logs a second machine in by it. The password.
fn log_in_by_password(scene: &Scene) -> Result<Vec<u8>> {
    let password: String = random(16)?.iter().map(|it| format!("{it:02x}")).collect();
    let file = scene.client.home().join("password");
    std::fs::write(&file, &password)?;
    let file = file.to_str().context("temporary folders are UTF-8")?;
    scene
        .client
        .run(&["users", "password", "--password-file", file])?;
    let second = Agent::unknown(&scene.net.b)?.by("upgrade");
    let (url, user) = (scene.relay.url(), underpass_lab::CLIENT);
    let login = ["login", url, "--user", user, "--machine", "second"];
    second.run(&[&login[..], &["--password-file", file]].concat())?;
    Ok(password.into_bytes())
}

fn bytes(needles: &[Needle]) -> Vec<&[u8]> {
    needles.iter().map(|(_, bytes)| &bytes[..]).collect()
}

fn none_found(needles: &[Needle], found: &[u64]) -> Result<()> {
    for ((name, _), count) in needles.iter().zip(found) {
        ensure!(*count == 0, "{name}: {count} times");
    }
    Ok(())
}

fn look_while_they_talk(scene: &Scene, turns: &AtomicU64, secrets: &[Needle]) -> Result<()> {
    for look in 1..=3 {
        exec::wait_until("turns are taken", LIMIT, || {
            Ok((turns.load(Ordering::Relaxed) >= look * TURNS).then_some(()))
        })?;
        relay_knows_nothing(scene, secrets).context("while they talk")?;
    }
    Ok(())
}

fn relay_knows_nothing(scene: &Scene, secrets: &[Needle]) -> Result<()> {
    let relay = scene.relay.process();
    // What every relay holds shows that its memory was looked at.
    let seen = relay.memory_holds(b"HTTP/1.1")?;
    ensure!(seen > 0, "the relay's memory is not seen");
    let found = relay.memory_holds_each(&bytes(secrets))?;
    none_found(secrets, &found).context("in the relay's memory")
}
