//! The session: a sealed, resumable, multiplexed conversation between two endpoints, as a pure
//! state machine.
//!
//! # The driving contract
//!
//! A [`Session`] does nothing by itself. Its driver
//!
//! 1. hands in what happens: [`Session::handle_packet`] for a packet that came in on a leg,
//!    [`Session::handle_timeout`] when the time of [`Session::poll_timeout`] has come,
//!    [`Session::start_resume`] and [`Session::leg_lost`] as legs come and go,
//!    [`Session::handle_dropped`] when a relay says what it dropped, and the application's wishes
//!    ([`Session::open`], [`Session::write`], ...);
//! 2. then drains [`Session::poll_event`] until it is empty;
//! 3. and calls [`Session::poll_transmit`] for a leg whenever that leg can take a packet, until it
//!    returns `None`; after the next input there may be more. Packets of one leg must go out in the
//!    order they were handed out, and come in in the order they arrived; a leg that cannot keep
//!    that is lost. [`Event::LegFull`] says that legs which had nothing may have packets now.
//! 4. [`Session::poll_timeout`] is asked last, since everything above may change it.
//!
//! Every call that depends on time takes it as an argument; a later call never gets an earlier time.
//! Random bytes come from the generator that the call is given. A leg is only told apart by its
//! [`LegId`]; what carries it is the driver's business.
//!
//! Only reliable records are kept, acknowledged and sent again, always as the same ciphertext.
//! Acknowledgements, pings and datagrams travel in unreliable records, which have their own numbers
//! and are never repeated.

mod budget;
mod channel;
mod choice;
mod commands;
mod config;
mod epochs;
mod event;
mod incoming;
mod leg;
mod legs;
mod lifecycle;
mod path;
mod ranges;
mod receive;
mod received;
mod recv_half;
mod replay;
mod resume;
mod schedule;
mod send_half;
mod split;
mod transmit;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use underpass_seal::{Cipher, OpeningKey, SealingKey};

pub use budget::Budget;
pub use choice::LegInfo;
pub use commands::{OpenError, ReadOutcome, WriteError};
pub use config::{Agreed, Config, Flow};
pub use event::{Closed, ClosedBy, Event};
pub use leg::LegId;
pub use receive::LegError;

use crate::frame::{ChannelId, Frame, MAX_LEGS};
use crate::packet::SessionId;
use crate::params::Params;
use crate::role::Role;
use crate::time::Time;
use channel::Channel;
use epochs::{ReceiveEpochs, SendEpochs};
use leg::Leg;
use received::{OnceWindow, Received};
use recv_half::RecvHalf;
use replay::Replay;
use resume::{Far, Near, Standing};
use schedule::Schedule;
use split::Split;
use window::Window;

/// How many legs both ends let carry their session at once.
fn legs_at_once(own: &Params, peer: &Params) -> usize {
    let most = own.max_legs.min(peer.max_legs);
    usize::try_from(most).unwrap_or(MAX_LEGS).clamp(1, MAX_LEGS)
}

/// How long a session that was closed waits for its CLOSE to be acknowledged.
/// Long enough to find a leg silent and to resume on another.
const LINGER: Duration = Duration::from_secs(5);

/// The initiator asks to resume, the responder answers.
enum Resumption {
    Near(Near),
    Far(Far),
}

impl Resumption {
    /// The legs that carry the session.
    fn standing(&self) -> &Standing {
        match self {
            Resumption::Near(near) => near.standing(),
            Resumption::Far(far) => far.standing(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// CLOSE is queued or under way; nothing else matters any more.
    Closing {
        until: Time,
    },
    Closed,
}

/// How many bytes and channels each side may still use.
struct Credit {
    /// Sum of the highest offsets sent, and the peer's limit for it.
    sent: u64,
    send_limit: u64,
    /// Sum of the highest offsets received, of what was read or will never be, and our limit.
    received: u64,
    consumed: u64,
    granted: u64,
    window: Window,
    /// Channels that this side opened, and the peer's limit.
    opened: u64,
    open_limit: u64,
    /// Channels that the peer opened or skipped, those that are done, and our limit.
    peer_opened: u64,
    peer_done: u64,
    peer_open_limit: u64,
}

/// One end of a session. The module's documentation states how it is driven.
pub struct Session {
    role: Role,
    id: SessionId,
    cipher: Cipher,
    handshake_hash: [u8; 32],
    config: Config,
    peer: Params,
    state: State,
    established: bool,
    /// CLOSE has arrived: the session ends with its acknowledgement.
    peer_closed: bool,
    /// The record that carries this side's CLOSE.
    close_number: Option<u64>,
    send_epochs: SendEpochs,
    receive_epochs: ReceiveEpochs,
    resumption: Resumption,
    legs: BTreeMap<LegId, Leg>,
    /// More than one leg is active.
    several: bool,
    /// Where it is, the one that goes first, and since when it does.
    lead: Option<(LegId, Time)>,
    /// Where the two directions are to take different legs.
    split: Option<Split>,
    detached_since: Option<Time>,
    /// How many legs became suspect since the peer last acknowledged anything.
    patience: u32,
    resumes: u64,
    replay: Replay,
    received: Received,
    unreliable_next: u64,
    unreliable_seen: OnceWindow,
    channels: BTreeMap<ChannelId, Channel>,
    /// What the peer had ended, and had all arrived, before it ended the session: it may still be read.
    left: BTreeMap<ChannelId, RecvHalf>,
    schedule: Schedule,
    credit: Credit,
    /// Frames that go into the next reliable record.
    control: VecDeque<Frame>,
    /// Channels whose window may be worth renewing.
    renewable: Vec<ChannelId>,
    /// Records that carry REDIAL, in order.
    redials_under_way: Vec<(u64, ChannelId)>,
    /// Pieces of channels that arrived out of order.
    fragments: usize,
    /// Bytes of datagrams that wait to be read.
    datagram_bytes: usize,
    /// Channels with datagrams to send.
    datagrams: VecDeque<ChannelId>,
    datagram_turn: bool,
    events: VecDeque<Event>,
    /// Room that records are built in; its parts live on as packets.
    outgoing: BytesMut,
    /// Room that records are opened into; its parts live on as channel data.
    incoming: BytesMut,
}

impl Session {
    /// A session whose handshake took place on `leg`, which carries it from now on. `packets` is how
    /// many packets this side has sent on that leg so far.
    #[must_use]
    pub fn new(agreed: Agreed, config: Config, leg: LegId, packets: u64, now: Time) -> Self {
        let Agreed {
            role,
            id,
            cipher,
            secrets,
            peer,
            ticket,
        } = agreed;
        let (send, receive) = match role {
            Role::Initiator => (secrets.initiator_records, secrets.responder_records),
            Role::Responder => (secrets.responder_records, secrets.initiator_records),
        };
        let max_legs = legs_at_once(&config.params, &peer);
        let resumption = match role {
            Role::Initiator => Resumption::Near(Near::new(leg, secrets.resume, ticket)),
            Role::Responder => Resumption::Far(Far::new(leg, secrets.resume, &ticket, max_legs)),
        };
        let mut session = Session {
            role,
            id,
            cipher,
            handshake_hash: secrets.handshake_hash,
            state: State::Open,
            established: role == Role::Responder,
            peer_closed: false,
            close_number: None,
            send_epochs: SendEpochs::new(send, cipher, config.records_per_epoch),
            receive_epochs: ReceiveEpochs::new(receive, cipher),
            resumption,
            legs: BTreeMap::new(),
            several: false,
            lead: None,
            split: Split::new(role, &config.params, &peer),
            detached_since: None,
            patience: 0,
            resumes: 0,
            replay: Replay::new(config.budget.clone()),
            received: Received::default(),
            unreliable_next: 0,
            unreliable_seen: OnceWindow::new(max_legs > 1),
            channels: BTreeMap::new(),
            left: BTreeMap::new(),
            schedule: Schedule::default(),
            credit: Credit {
                sent: 0,
                send_limit: peer.max_data,
                received: 0,
                consumed: 0,
                granted: config.params.max_data,
                window: Window::new(config.params.max_data, config.max_session_window, now),
                opened: 0,
                open_limit: peer.max_channels,
                peer_opened: 0,
                peer_done: 0,
                peer_open_limit: config.params.max_channels,
            },
            control: VecDeque::new(),
            renewable: Vec::new(),
            redials_under_way: Vec::new(),
            fragments: 0,
            datagram_bytes: 0,
            datagrams: VecDeque::new(),
            datagram_turn: false,
            events: VecDeque::new(),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            peer,
            config,
        };
        session.add_active_leg(leg, packets, now);
        session
    }

    /// The session's name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// This side's role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Hash of the handshake that made the session: not secret, and the same at its two ends only.
    #[must_use]
    pub fn handshake_hash(&self) -> [u8; 32] {
        self.handshake_hash
    }

    /// What the peer announced in its handshake.
    #[must_use]
    pub fn peer_params(&self) -> &Params {
        &self.peer
    }

    /// Whether the session came to its end; nothing will be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether [`Session::close`] was called or the session came to its end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.state != State::Open
    }

    /// When the last leg was lost, if none is left.
    #[must_use]
    pub fn detached_since(&self) -> Option<Time> {
        self.detached_since
    }

    /// How many times the session was resumed on another leg.
    #[must_use]
    pub fn resumes(&self) -> u64 {
        self.resumes
    }

    /// The generation in use, counted up by each resume.
    #[must_use]
    pub fn generation(&self) -> u64 {
        match &self.resumption {
            Resumption::Near(near) => near.generation(),
            Resumption::Far(far) => far.generation(),
        }
    }

    /// The epoch of the keys that this side seals with.
    #[must_use]
    pub fn send_epoch(&self) -> u64 {
        self.send_epochs.epoch()
    }

    /// How many legs may carry the session at once, as both ends have it.
    #[must_use]
    pub fn max_legs(&self) -> usize {
        legs_at_once(&self.config.params, &self.peer)
    }

    /// The smoothed round trip of the leg that leads, once measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.active_leg()
            .and_then(|(_, leg)| leg.path.measured_rtt())
    }

    /// How many round trips were measured of the leg that leads, and the last one.
    #[must_use]
    pub fn last_rtt(&self) -> Option<(u64, Duration)> {
        self.active_leg().and_then(|(_, leg)| leg.path.last_rtt())
    }

    /// Bytes per second that the active legs were seen to deliver together; zero before that was
    /// measured.
    #[must_use]
    pub fn delivery_rate(&self) -> u64 {
        let active = self.legs.values().filter(|leg| leg.is_active());
        active.map(|leg| leg.path.rate()).sum()
    }

    /// Bytes in the replay queue: sent and not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.replay.unacknowledged()
    }

    /// Whether all that was written has reached the peer, as far as channels go that this side has ended.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        let mut halves = self.channels.values().map(|channel| &channel.send);
        self.unacknowledged() == 0 && halves.all(|half| half.is_open() || half.is_done())
    }

    /// Bytes that arrived and were not read by the application.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.credit.received - self.credit.consumed
    }

    /// How much of the session's credit is used.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow {
            sent: self.credit.sent,
            send_limit: self.credit.send_limit,
            received: self.credit.received,
            read: self.credit.consumed,
            granted: self.credit.granted,
        }
    }

    /// Channels that are open in either direction.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Every record of the peer with a lower number has arrived.
    #[must_use]
    pub fn received_floor(&self) -> u64 {
        self.received.floor()
    }

    /// How many separate gaps there are in what arrived of the peer's records.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.received.gaps()
    }

    /// Keys for the routing headers on legs of the current generation: to seal, and to open.
    #[must_use]
    pub fn route_keys(&self) -> (SealingKey, OpeningKey) {
        let secret = match &self.resumption {
            Resumption::Near(near) => near.secret(),
            Resumption::Far(far) => far.secret(),
        };
        let cipher = self.cipher;
        let (near, far) = secret.route_secrets();
        match self.role {
            Role::Initiator => (near.sealing_key(cipher), far.opening_key(cipher)),
            Role::Responder => (far.sealing_key(cipher), near.opening_key(cipher)),
        }
    }

    /// The next thing that the driver should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
