//! The service at the end of each way, and what is done with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use underpass_lab::traffic::{self, Latencies, Pattern, Service};
use underpass_lab::{Host, exec};

use crate::ways::Way;

pub(crate) const STALL: Duration = Duration::from_secs(60);
const MEBIBYTE: usize = 1 << 20;
/// Where the service listens that all ways lead to.
pub(crate) const SERVICE: u16 = 7000;
/// Bytes written at once, and read at once.
const PIECE: usize = 64 * 1024;
/// Connections of the memory measurement, and of the connection measurement.
const IDLE: usize = 1000;
const CONNECTIONS: usize = 2000;

/// The service: the first byte of a connection says what it is for.
pub(crate) fn serve(host: &Host) -> Result<Service> {
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
pub(crate) fn noise() -> Vec<u8> {
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

/// MiB in a second over `streams` connections that share so many.
pub(crate) fn throughput(
    host: &Host,
    way: &Way,
    streams: u64,
    up: bool,
    mebibytes: u64,
    noise: &[u8],
) -> Result<f64> {
    let length = mebibytes * MEBIBYTE as u64 / streams;
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
        Ok(mebibytes as f64 / begin.elapsed().as_secs_f64())
    })
}

/// 3000 exchanges of 16 bytes, one after the other.
pub(crate) fn round_trips(host: &Host, way: &Way) -> Result<Latencies> {
    let echo = traffic::connect(host, way.address, STALL)?;
    (&echo).write_all(b"E")?;
    traffic::exchange(&echo, 16, 3000, Duration::ZERO)
}

/// Connections in a second, each with one exchange, made by eight callers.
pub(crate) fn connections(host: &Host, way: &Way) -> Result<f64> {
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
pub(crate) fn idle_memory(host: &Host, way: &Way, service: &Service) -> Result<Option<u64>> {
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
        Ok((service.open() == 0).then_some(()))
    })?;
    let before = resident()?;
    let opened = traffic::open_many(host, way.address, IDLE, STALL)?;
    exec::wait_until("all idle connections are open", STALL, || {
        Ok((service.open() >= IDLE).then_some(()))
    })?;
    let grown = resident()?.saturating_sub(before);
    drop(opened);
    Ok(Some(grown / IDLE as u64))
}
