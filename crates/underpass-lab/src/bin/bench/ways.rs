//! The ways that are compared: none, ours by each carrier, and rathole's.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use underpass_lab::{Agent, Host, Process, Relay, exec, traffic};

use crate::load::{SERVICE, STALL};

/// One way to the service.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    /// What carries it, for as long as it is measured.
    pub(crate) processes: Vec<Process>,
    _agents: Vec<Agent>,
    _relay: Option<Relay>,
}

/// Which ways there are.
pub(crate) enum Kind {
    /// The service itself.
    Raw,
    /// Agent, relay, agent, by this carrier.
    Underpass(&'static str),
    /// The program, and whether its transport is Noise.
    Rathole(PathBuf, bool),
}

/// All ways: rathole's where it is there.
pub(crate) fn all() -> Vec<Kind> {
    let mut ways = vec![Kind::Raw];
    ways.extend(CARRIERS.map(Kind::Underpass));
    match std::env::var_os("RATHOLE_BIN").map(PathBuf::from) {
        Some(program) => {
            ways.push(Kind::Rathole(program.clone(), false));
            ways.push(Kind::Rathole(program, true));
        }
        None => eprintln!("RATHOLE_BIN is not set: no comparison with rathole"),
    }
    ways
}

const CARRIERS: [&str; 8] = [
    "upgrade", "h2", "ws", "stream", "posts", "h2posts", "poll", "text",
];

impl Kind {
    pub(crate) fn name(&self) -> String {
        match self {
            Kind::Raw => "raw loopback".into(),
            Kind::Underpass(carrier) => format!("underpass, {carrier}"),
            Kind::Rathole(_, false) => "rathole, plain".into(),
            Kind::Rathole(_, true) => "rathole, noise".into(),
        }
    }

    pub(crate) fn make(&self, host: &Host) -> Result<Way> {
        match self {
            Kind::Raw => Ok(raw()),
            Kind::Underpass(carrier) => underpass(host, carrier),
            Kind::Rathole(program, noise) => rathole(host, program, *noise),
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn raw() -> Way {
    Way {
        address: local(SERVICE),
        processes: Vec::new(),
        _agents: Vec::new(),
        _relay: None,
    }
}

fn underpass(host: &Host, carrier: &str) -> Result<Way> {
    let relay = Relay::start(host)?;
    let publisher = Agent::first(host, &relay)?;
    let client = Agent::invited(host, &relay, "client", &publisher)?;
    let (publisher, client) = (publisher.by(carrier), client.by(carrier));
    let published = publisher.publish(&[("bench", &local(SERVICE).to_string())])?;
    publisher.allow("client", "bench")?;
    let entrance = client.connect("bench")?;
    Ok(Way {
        address: entrance.address,
        processes: vec![relay.process().clone(), published, entrance.process],
        _agents: vec![publisher, client],
        _relay: Some(relay),
    })
}

fn rathole(host: &Host, program: &PathBuf, noise: bool) -> Result<Way> {
    let (port, entrance) = if noise { (2334, 7302) } else { (2333, 7301) };
    let [server, client] = rathole_transport(program, noise)?;
    let server = format!(
        "[server]\nbind_addr = \"127.0.0.1:{port}\"\ndefault_token = \"bench\"\n{server}\
         [server.services.bench]\nbind_addr = \"127.0.0.1:{entrance}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"127.0.0.1:{port}\"\ndefault_token = \"bench\"\n{client}\
         [client.services.bench]\nlocal_addr = \"127.0.0.1:{SERVICE}\"\n"
    );
    let mut processes = Vec::new();
    for (role, configuration) in [("server", server), ("client", client)] {
        let file = host.logs().join(format!("rathole-{role}-{port}.toml"));
        std::fs::write(&file, configuration)?;
        let mut command = host.command(program);
        command.arg(file);
        processes.push(host.spawn(&format!("rathole-{role}-{port}"), command)?);
    }
    let address = local(entrance);
    exec::wait_until("rathole answers", STALL, || {
        // It listens only once its client is there, and may drop what comes before that.
        let Ok(stream) = traffic::connect(host, address, STALL) else {
            return Ok(None);
        };
        let asked = (&stream)
            .write_all(b"E!")
            .and_then(|()| (&stream).read_exact(&mut [0]));
        Ok(asked.ok())
    })?;
    Ok(Way {
        address,
        processes,
        _agents: Vec::new(),
        _relay: None,
    })
}

/// The lines that make rathole's server and client use its Noise transport; none for plain TCP.
fn rathole_transport(program: &PathBuf, noise: bool) -> Result<[String; 2]> {
    if !noise {
        return Ok([String::new(), String::new()]);
    }
    let keys = exec::output(Command::new(program).arg("--genkey"), STALL)?
        .success()?
        .text();
    let key = |title: &str| {
        let after = keys
            .lines()
            .skip_while(|line| !line.starts_with(title))
            .nth(1);
        after.with_context(|| format!("rathole --genkey printed {keys:?}"))
    };
    let lines = |role: &str, setting: &str, key: &str| {
        format!(
            "[{role}.transport]\ntype = \"noise\"\n[{role}.transport.noise]\n{setting} = \"{key}\"\n"
        )
    };
    let server = lines("server", "local_private_key", key("Private Key")?);
    Ok([
        server,
        lines("client", "remote_public_key", key("Public Key")?),
    ])
}
