//! The data path allocates by the slab, never by the record.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

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

/// Two sessions back to back, with one channel from near to far.
struct Ends {
    near: Session,
    far: Session,
    channel: ChannelId,
    now: Time,
    rng: ChaCha8Rng,
}

impl Ends {
    fn new() -> Self {
        let end = |role| {
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
        };
        let mut near = end(Role::Initiator);
        let (kind, class) = (ChannelKind::Stream, Class::Bulk);
        let channel = near.open(Time::ZERO, kind, class, Encoding::Raw, "bulk");
        Self {
            near,
            far: end(Role::Responder),
            channel: channel.unwrap(),
            now: Time::ZERO,
            rng: ChaCha8Rng::seed_from_u64(1),
        }
    }

    /// Moves `total` bytes in pieces like `data`; the number of records it took.
    fn transfer(&mut self, data: &Bytes, total: u64) -> u64 {
        let (mut written, mut read, mut records) = (0, 0, 0);
        while read < total {
            while written < total && self.near.write_room(self.channel).is_ok() {
                let mut piece = data.clone();
                written += self.near.write(self.channel, &mut piece).unwrap() as u64;
            }
            self.now = self.now + Duration::from_micros(200);
            records += pass(&mut self.near, &mut self.far, self.now, &mut self.rng);
            while let ReadOutcome::Data(data) = self.far.read(self.channel, usize::MAX) {
                read += data.len() as u64;
            }
            self.now = self.now + Duration::from_micros(200);
            pass(&mut self.far, &mut self.near, self.now, &mut self.rng);
            for session in [&mut self.near, &mut self.far] {
                while session.poll_event().is_some() {}
                session.handle_timeout(self.now);
            }
        }
        records
    }
}

fn pass(from: &mut Session, to: &mut Session, now: Time, rng: &mut ChaCha8Rng) -> u64 {
    let mut packets = 0;
    while let Some(packet) = from.poll_transmit(now, LEG) {
        let packet = Packet::parse_unframed(packet).unwrap();
        to.handle_packet(now, LEG, packet, rng).unwrap();
        packets += 1;
    }
    packets
}

#[test]
fn a_record_costs_no_allocation_of_its_own() {
    let mut ends = Ends::new();
    let data = Bytes::from(vec![0x55; 64 * 1024]);
    ends.transfer(&data, 64 << 20); // windows and tables have grown
    let (total, mut records) = (256 << 20, 0);
    let counted = allocation_counter::measure(|| records = ends.transfer(&data, total));
    println!(
        "{} allocations, {} bytes of memory, for {records} records of {total} bytes in all",
        counted.count_total, counted.bytes_total
    );
    assert!(records >= total / (64 * 1024));
    // Slabs for what is sealed and for what is opened, each for many records.
    assert!(counted.count_total < records, "{counted:?}");
    // Sealed once, opened once: what goes through is in memory twice, and little else is.
    assert!(counted.bytes_total <= total * 2 * 5 / 4, "{counted:?}");
}
