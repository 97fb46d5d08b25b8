//! How fast two sessions back to back in memory move the bytes of one channel, on one core: sealing,
//! opening, framing and acknowledging, without any network.
//!
//! `cargo run --profile bench -p underpass-proto --example session_throughput [MIB] [RECORD]`

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use underpass_proto::frame::{ChannelId, ChannelKind, Class, Encoding};
use underpass_proto::packet::{Packet, SessionId};
use underpass_proto::params::Params;
use underpass_proto::session::{Agreed, Config, LegId, ReadOutcome, Session};
use underpass_proto::ticket::Ticket;
use underpass_proto::{Role, Time};
use underpass_seal::{Cipher, Secrets};

const LEG: LegId = LegId(1);

fn end(role: Role) -> Session {
    let agreed = Agreed {
        role,
        id: SessionId([1; 16]),
        grade: underpass_proto::Grade::Blind,
        cipher: Cipher::preferred(),
        secrets: Secrets::dangerous_from_seed([1; 32]),
        peer: Params::default(),
        ticket: Ticket::new([1; 32]),
    };
    Session::new(agreed, Config::default(), LEG, 0, Time::ZERO)
}

/// Moves the packets that one side has ready; the number of them.
fn pass(from: &mut Session, to: &mut Session, now: Time, rng: &mut ChaCha8Rng) -> u64 {
    let mut packets = 0;
    while let Some(packet) = from.poll_transmit(now, LEG) {
        let packet = Packet::parse_unframed(packet).expect("what a session sends can be read");
        to.handle_packet(now, LEG, packet, rng)
            .expect("nothing was changed on the way");
        packets += 1;
    }
    packets
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let total: u64 = arguments.next().unwrap_or(1024) << 20;
    let piece: usize = arguments.next().unwrap_or(64 * 1024) as usize;
    let (mut near, mut far) = (end(Role::Initiator), end(Role::Responder));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let data = Bytes::from(vec![0x55; piece]);
    let started = Instant::now();
    let clock = || Time::from_micros(started.elapsed().as_micros() as u64);
    let (kind, class) = (ChannelKind::Stream, Class::Bulk);
    let id = near
        .open(Time::ZERO, kind, class, Encoding::Raw, "bulk")
        .expect("a new session takes a channel");
    let (mut written, mut read, mut there, mut back) = (0, 0, 0, 0);
    while read < total {
        while written < total && near.write_room(id).is_ok() {
            let mut piece = data.clone();
            written += near.write(id, &mut piece).unwrap_or(0) as u64;
        }
        let now = clock();
        there += pass(&mut near, &mut far, now, &mut rng);
        read += drain(&mut far, id);
        back += pass(&mut far, &mut near, clock(), &mut rng);
        for session in [&mut near, &mut far] {
            while session.poll_event().is_some() {}
            session.handle_timeout(clock());
        }
    }
    report(total, started.elapsed(), there, back);
    println!(
        "rate measured {} MB/s, round trip {:?}",
        near.delivery_rate() / 1_000_000,
        near.rtt()
    );
}

fn drain(session: &mut Session, id: ChannelId) -> u64 {
    let mut bytes = 0;
    while let ReadOutcome::Data(data) = session.read(id, usize::MAX) {
        bytes += data.len() as u64;
    }
    bytes
}

fn report(total: u64, took: Duration, there: u64, back: u64) {
    let rate = total as f64 / took.as_secs_f64() / 1e9;
    println!(
        "{} MiB in {took:.2?}: {rate:.2} GB/s, {there} packets there, {back} back",
        total >> 20
    );
}
