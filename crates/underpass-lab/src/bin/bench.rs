//! The figures of `docs/benchmarks.md`: Underpass beside a raw connection and beside rathole, in one run.
//!
//! Everything runs in one network namespace over its loopback interface. `RATHOLE_BIN` names the rathole to compare
//! with, `BENCH_MIB` the size of a transfer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::traffic::{self, Latencies, Pattern, Service};
use underpass_lab::{Agent, Cable, Host, Lab, Process, Relay, exec};

const STALL: Duration = Duration::from_secs(60);
const MEBIBYTE: usize = 1 << 20;
/// Bytes written at once, and read at once.
const PIECE: usize = 64 * 1024;
/// Where the service listens that all ways lead to.
const SERVICE: u16 = 7000;
/// Connections of the memory measurement, and of the connection measurement.
const IDLE: usize = 1000;
const CONNECTIONS: usize = 2000;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One way to the service.
struct Way {
    name: String,
    address: SocketAddr,
    /// What carries it, for as long as it is measured.
    processes: Vec<Process>,
    _agents: Vec<Agent>,
    _relay: Option<Relay>,
}

/// What one way achieved.
struct Figures {
    /// MiB in a second: one stream and eight, down and up.
    down: [f64; 2],
    up: [f64; 2],
    latencies: Latencies,
    connections_per_second: f64,
    /// Resident memory of all processes together for each idle connection, in bytes.
    idle_memory: Option<u64>,
}

fn run() -> Result<()> {
    let mut lab = Lab::new()?;
    let host = lab.public_host("bench", Cable::Plain)?;
    let service = serve(&host)?;
    let mut rows = Vec::new();
    for make in ways() {
        let way = make(&host)?;
        eprintln!("measuring {}", way.name);
        let figures = measure(&host, &way, &service).with_context(|| way.name.clone())?;
        rows.push((way.name.clone(), figures));
    }
    print(&rows)
}

type MakeWay = Box<dyn Fn(&Host) -> Result<Way>>;

fn ways() -> Vec<MakeWay> {
    let mut ways: Vec<MakeWay> = vec![Box::new(raw)];
    for carrier in [
        "ws", "upgrade", "h2", "stream", "posts", "h2posts", "poll", "text",
    ] {
        ways.push(Box::new(move |host| underpass(host, carrier)));
    }
    if let Some(rathole) = std::env::var_os("RATHOLE_BIN").map(PathBuf::from) {
        for noise in [false, true] {
            let rathole = rathole.clone();
            ways.push(Box::new(move |host| self::rathole(host, &rathole, noise)));
        }
    } else {
        eprintln!("RATHOLE_BIN is not set: no comparison with rathole");
    }
    ways
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn raw(_: &Host) -> Result<Way> {
    Ok(Way {
        name: "raw loopback".into(),
        address: local(SERVICE),
        processes: Vec::new(),
        _agents: Vec::new(),
        _relay: None,
    })
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
        name: format!("underpass, {carrier}"),
        address: entrance.address,
        processes: vec![relay.process().clone(), published, entrance.process],
        _agents: vec![publisher, client],
        _relay: Some(relay),
    })
}

fn rathole(host: &Host, program: &PathBuf, noise: bool) -> Result<Way> {
    let name = if noise {
        "rathole, noise"
    } else {
        "rathole, plain"
    };
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
        name: name.into(),
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

/// The service: the first byte of a connection says what it is for.
fn serve(host: &Host) -> Result<Service> {
    let noise = Arc::new(noise());
    Service::start(host, SERVICE, move |mut stream, _| {
        let mut wish = [0];
        stream.read_exact(&mut wish)?;
        match &wish {
            b"D" => {
                let mut length = [0; 8];
                stream.read_exact(&mut length)?;
                send(stream, &noise, u64::from_be_bytes(length))?;
                stream.shutdown(Shutdown::Write)
            }
            b"U" => {
                drain(stream)?;
                stream.write_all(b"!")
            }
            _ => {
                stream.set_nodelay(true)?;
                let mut buffer = [0; 1024];
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return Ok(()),
                        length => stream.write_all(&buffer[..length])?,
                    }
                }
            }
        }
    })
}

/// Enough random bytes that no compression finds them again.
fn noise() -> Vec<u8> {
    let mut noise = vec![0; 64 * MEBIBYTE];
    Pattern::new(1).fill(&mut noise);
    noise
}

fn send(mut stream: &TcpStream, noise: &[u8], length: u64) -> std::io::Result<()> {
    let mut left = length;
    for piece in noise.chunks(PIECE).cycle() {
        let piece = &piece[..piece.len().min(left as usize)];
        stream.write_all(piece)?;
        left -= piece.len() as u64;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

fn drain(mut stream: &TcpStream) -> std::io::Result<u64> {
    let (mut buffer, mut total) = (vec![0; PIECE], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}

fn measure(host: &Host, way: &Way, service: &Service) -> Result<Figures> {
    let total = std::env::var("BENCH_MIB")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1024);
    let total = total * MEBIBYTE as u64;
    let noise = noise();
    let rate = |streams, up| throughput(host, way, streams, up, total, &noise);
    let (down, up) = (
        [rate(1, false)?, rate(8, false)?],
        [rate(1, true)?, rate(8, true)?],
    );
    let echo = traffic::connect(host, way.address, STALL)?;
    (&echo).write_all(b"E")?;
    let latencies = traffic::exchange(&echo, 16, 3000, Duration::ZERO)?;
    let connections_per_second = connections(host, way)?;
    let idle_memory = idle_memory(host, way, service)?;
    Ok(Figures {
        down,
        up,
        latencies,
        connections_per_second,
        idle_memory,
    })
}

/// MiB in a second over `streams` connections that share `total` bytes.
fn throughput(
    host: &Host,
    way: &Way,
    streams: u64,
    up: bool,
    total: u64,
    noise: &[u8],
) -> Result<f64> {
    let length = total / streams;
    let start = Barrier::new(streams as usize + 1);
    let one = || -> Result<()> {
        let stream = traffic::connect(host, way.address, STALL);
        start.wait();
        let stream = stream?;
        if up {
            (&stream).write_all(b"U")?;
            send(&stream, noise, length)?;
            stream.shutdown(Shutdown::Write)?;
            (&stream).read_exact(&mut [0])?;
        } else {
            (&stream).write_all(b"D")?;
            (&stream).write_all(&length.to_be_bytes())?;
            let got = drain(&stream)?;
            ensure!(got == length, "{got} bytes of {length}");
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..streams).map(|_| scope.spawn(one)).collect();
        start.wait();
        let begin = Instant::now();
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(total as f64 / MEBIBYTE as f64 / begin.elapsed().as_secs_f64())
    })
}

/// Connections in a second, each with one exchange, made by eight callers.
fn connections(host: &Host, way: &Way) -> Result<f64> {
    let caller = || -> Result<()> {
        for _ in 0..CONNECTIONS / 8 {
            let stream = TcpStream::connect_timeout(&way.address, STALL)?;
            stream.set_read_timeout(Some(STALL))?;
            (&stream).write_all(b"E!")?;
            (&stream).read_exact(&mut [0])?;
        }
        Ok(())
    };
    host.inside(|| {
        std::thread::scope(|scope| {
            let begin = Instant::now();
            let callers: Vec<_> = (0..8).map(|_| scope.spawn(caller)).collect();
            for caller in callers {
                caller
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(CONNECTIONS as f64 / begin.elapsed().as_secs_f64())
        })
    })?
}

/// How much the processes grow for each connection that is open and idle.
fn idle_memory(host: &Host, way: &Way, service: &Service) -> Result<Option<u64>> {
    if way.processes.is_empty() {
        return Ok(None);
    }
    let resident = || -> Result<u64> {
        way.processes
            .iter()
            .map(|process| Ok(process.memory()?.resident))
            .sum()
    };
    exec::wait_until("earlier connections are gone", STALL, || {
        Ok((service.open() <= 1).then_some(()))
    })?;
    let (before, earlier) = (resident()?, service.open());
    let opened = traffic::open_many(host, way.address, IDLE, STALL)?;
    exec::wait_until("all idle connections are open", STALL, || {
        Ok((service.open() >= earlier + IDLE).then_some(()))
    })?;
    let grown = resident()?.saturating_sub(before);
    drop(opened);
    Ok(Some(grown / IDLE as u64))
}

fn print(rows: &[(String, Figures)]) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    println!(
        "{} cores of {}.\n",
        cores,
        model.unwrap_or("an unknown processor")
    );
    println!(
        "| way | down, 1 stream | 8 streams | up, 1 stream | 8 streams | round trip, median | p99 | connections | idle connection |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, figures) in rows {
        let Figures {
            down,
            up,
            latencies,
            connections_per_second,
            idle_memory,
        } = figures;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let memory = idle_memory.map_or("–".into(), |bytes| {
            format!("{:.1} KiB", bytes as f64 / 1024.0)
        });
        println!(
            "| {name} | {:.0} MiB/s | {:.0} MiB/s | {:.0} MiB/s | {:.0} MiB/s | {:.0} µs | {:.0} µs | {connections_per_second:.0}/s | {memory} |",
            down[0],
            down[1],
            up[0],
            up[1],
            micros(latencies.median()),
            micros(latencies.percentile(99.0)),
        );
    }
    Ok(())
}
