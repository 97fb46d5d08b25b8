//! An agent that obeys no rule: the hop's handshake is real, what follows is the test's choice.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use underpass_carrier::{Carrier, ClientSettings, kind_by_name};
use underpass_proto::control::{CONTROL_SERVICE, Control, ControlDecoder};
use underpass_proto::frame::{ChannelKind, Class, Encoding};
use underpass_proto::handshake::Connecting;
use underpass_proto::packet::{HelloTarget, Packet, PacketDecoder, PacketKind};
use underpass_proto::route::{self, RouteHeader};
use underpass_proto::session::{Config, LegId, ReadOutcome, Session};
use underpass_proto::{Speaker, Time};
use underpass_seal::{OpeningKey, SealingKey, Space, StaticKey, TAG_LEN};

use crate::stage::in_time;

const LEG: LegId = LegId(0);

/// One hop, packet by packet. Time stands still for it: it never acts by itself.
pub(crate) struct RawHop {
    carrier: Carrier,
    decoder: PacketDecoder,
    session: Session,
    seal: SealingKey,
    sealed: u64,
    open: OpeningKey,
    opened: u64,
}

async fn carrier(relay: SocketAddr) -> Carrier {
    let url = format!("http://{relay}").parse().unwrap();
    let kind = kind_by_name("upgrade").unwrap();
    let settings = ClientSettings::default();
    let carrier = underpass_carrier::connect(&url, kind, &settings);
    carrier.await.unwrap()
}

/// A carrier on which no handshake begins, and what the relay says to the padding on it: the same, or why it is refused.
pub(crate) async fn lingering(relay: SocketAddr) -> (Carrier, Packet) {
    let mut carrier = carrier(relay).await;
    let kind = PacketKind::Padding;
    let body = Bytes::from_static(b"x");
    send(&mut carrier, framed(&Packet { kind, body })).await;
    let mut decoder = PacketDecoder::new();
    let said = receive_any(&mut carrier, &mut decoder).await;
    (carrier, said.expect("the relay says something"))
}

impl RawHop {
    /// Attaches with `key`.
    pub(crate) async fn attach(relay: SocketAddr, key: &StaticKey) -> Self {
        let mut carrier = carrier(relay).await;
        let mut decoder = PacketDecoder::new();
        let (connecting, hello) = Connecting::start(
            Config::default(),
            key,
            HelloTarget::Relay,
            &[],
            &mut rand::rng(),
        )
        .unwrap();
        send(&mut carrier, framed(&hello)).await;
        let answer = receive(&mut carrier, &mut decoder).await.unwrap();
        let answered = connecting.handle_answer(answer).unwrap();
        let (session, finish) = answered.finish(LEG, Time::ZERO).unwrap();
        send(&mut carrier, framed(&finish)).await;
        let (seal, open) = session.route_keys();
        Self {
            carrier,
            decoder,
            session,
            seal,
            sealed: 0,
            open,
            opened: 0,
        }
    }

    /// Asks one thing on a control channel of its own.
    pub(crate) async fn ask(&mut self, request: Control) -> Control {
        let kind = ChannelKind::Stream;
        let opened = self.session.open(
            Time::ZERO,
            kind,
            Class::Normal,
            Encoding::Raw,
            CONTROL_SERVICE,
        );
        let channel = opened.unwrap();
        let mut bytes = BytesMut::new();
        request.put_framed(&mut bytes).unwrap();
        let mut bytes = bytes.freeze();
        self.session.write(channel, &mut bytes).unwrap();
        let mut decoder = ControlDecoder::new(Speaker::Relay);
        loop {
            self.flush().await;
            if let Some(answer) = decoder.next().unwrap() {
                return answer;
            }
            let packet = self.receive().await.expect("the relay answers");
            self.session
                .handle_packet(Time::ZERO, LEG, packet, &mut rand::rng())
                .unwrap();
            if let ReadOutcome::Data(data) = self.session.read(channel, 65_536) {
                decoder.push(&data);
            }
        }
    }

    async fn flush(&mut self) {
        while self.session.poll_event().is_some() {}
        while let Some(packet) = self.session.poll_transmit(Time::ZERO, LEG) {
            let mut bytes = BytesMut::new();
            underpass_proto::varint::put(&mut bytes, packet.len() as u64);
            bytes.extend_from_slice(&packet);
            send(&mut self.carrier, bytes.freeze()).await;
        }
    }

    /// Sends a routed packet as it should be.
    pub(crate) async fn send_routed(&mut self, header: impl Into<RouteHeader>, payload: &[u8]) {
        let mut plain = Vec::new();
        header.into().encode(&mut plain);
        let length = (payload.len() as u64).to_be_bytes();
        let tag = self
            .seal
            .seal_in_place(Space::Reliable, self.sealed, &length, &mut plain);
        self.sealed += 1;
        plain.extend_from_slice(&tag);
        self.send_sealed(&plain, payload).await;
    }

    /// Sends a routed packet with any bytes for a sealed header.
    pub(crate) async fn send_sealed(&mut self, sealed: &[u8], payload: &[u8]) {
        let mut bytes = BytesMut::new();
        route::put_routed(&mut bytes, sealed, payload.len());
        bytes.extend_from_slice(payload);
        send(&mut self.carrier, bytes.freeze()).await;
    }

    /// The next packet; `None` once the relay has closed the link.
    pub(crate) async fn receive(&mut self) -> Option<Packet> {
        receive(&mut self.carrier, &mut self.decoder).await
    }

    /// The next routed packet; packets of the session are skipped.
    pub(crate) async fn next_routed(&mut self) -> Option<(RouteHeader, Bytes)> {
        loop {
            let packet = self.receive().await?;
            if packet.kind != PacketKind::Routed {
                continue;
            }
            let (sealed, payload) = route::split_routed(packet.body).unwrap();
            let mut plain = vec![0; sealed.len() - TAG_LEN];
            let length = (payload.len() as u64).to_be_bytes();
            self.open
                .open_into(Space::Reliable, self.opened, &length, &sealed, &mut plain)
                .expect("each header is sealed anew for this hop");
            self.opened += 1;
            let header = RouteHeader::decode_whole(Speaker::Relay, plain.into()).unwrap();
            return Some((header, payload));
        }
    }

    /// Reads until the relay has closed the link.
    pub(crate) async fn is_closed(&mut self) {
        while self.receive().await.is_some() {}
    }
}

fn framed(packet: &Packet) -> Bytes {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    bytes.into()
}

async fn send(carrier: &mut Carrier, bytes: Bytes) {
    let mut queue = VecDeque::from([bytes]);
    let sending = async {
        while !queue.is_empty() {
            // A link that the relay has closed takes no more, which the test sees when it reads.
            if poll_fn(|cx| carrier.sink.poll_send(cx, &mut queue))
                .await
                .is_err()
            {
                return;
            }
        }
        let _ = poll_fn(|cx| carrier.sink.poll_flush(cx)).await;
    };
    in_time("sending", sending).await;
}

async fn receive(carrier: &mut Carrier, decoder: &mut PacketDecoder) -> Option<Packet> {
    loop {
        let packet = receive_any(carrier, decoder).await?;
        if packet.kind != PacketKind::Padding {
            return Some(packet);
        }
    }
}

async fn receive_any(carrier: &mut Carrier, decoder: &mut PacketDecoder) -> Option<Packet> {
    let receiving = async {
        loop {
            if let Some(packet) = decoder.next().unwrap() {
                return Some(packet);
            }
            match poll_fn(|cx| carrier.source.poll_recv(cx)).await {
                Some(Ok(chunk)) => decoder.push(chunk),
                Some(Err(_)) | None => return None,
            }
        }
    };
    in_time("a packet", receiving).await
}
