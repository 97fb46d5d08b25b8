//! Single packets over a carrier, for the handshake that comes before a link runs by itself.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use underpass_carrier::{Carrier, CarrierError};
use underpass_proto::packet::{Packet, PacketDecoder, PacketKind, Refused};

use crate::link::LinkEnd;

/// A carrier on which packets are still sent and awaited one by one.
pub(crate) struct PacketCarrier {
    pub(crate) carrier: Carrier,
    pub(crate) decoder: PacketDecoder,
}

impl PacketCarrier {
    pub(crate) fn new(carrier: Carrier) -> Self {
        PacketCarrier {
            carrier,
            decoder: PacketDecoder::new(),
        }
    }

    /// Sends a packet and waits until the carrier has it.
    pub(crate) async fn send(&mut self, packet: &Packet) -> Result<(), CarrierError> {
        let mut bytes = Vec::with_capacity(packet.encoded_len());
        packet.encode(&mut bytes);
        let mut queue = VecDeque::from([Bytes::from(bytes)]);
        while !queue.is_empty() {
            poll_fn(|cx| self.carrier.sink.poll_send(cx, &mut queue)).await?;
        }
        poll_fn(|cx| self.carrier.sink.poll_flush(cx)).await
    }

    /// The next packet that is not padding.
    pub(crate) async fn receive(&mut self, limit: Duration) -> Result<Packet, LinkEnd> {
        loop {
            let packet = self.receive_any(limit).await?;
            if packet.kind != PacketKind::Padding {
                return Ok(packet);
            }
        }
    }

    /// The next packet, be it padding.
    pub(crate) async fn receive_any(&mut self, limit: Duration) -> Result<Packet, LinkEnd> {
        let next = async {
            loop {
                if let Some(packet) = self.decoder.next()? {
                    return Ok(packet);
                }
                match poll_fn(|cx| self.carrier.source.poll_recv(cx)).await {
                    Some(chunk) => self.decoder.push(chunk?),
                    None => return Err(LinkEnd::Closed),
                }
            }
        };
        let what = "an answer in the handshake";
        tokio::time::timeout(limit, next)
            .await
            .unwrap_or(Err(LinkEnd::Carrier(CarrierError::TimedOut {
                what,
                after: limit,
            })))
    }

    /// Says no, and why, then ends the carrier.
    pub(crate) async fn refuse(mut self, code: u64) {
        let packet = Refused {
            code,
            text: underpass_proto::code::describe(code),
        }
        .to_packet();
        let closing = async {
            self.send(&packet).await?;
            poll_fn(|cx| self.carrier.sink.poll_close(cx)).await
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), closing).await;
    }
}
