//! The relay's side of attaching: takes carriers, makes and resumes hop sessions.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use underpass_carrier::{Carrier, CarrierError};
use underpass_proto::code::Code;
use underpass_proto::handshake::{Accepting, ConnectError};
use underpass_proto::packet::{HelloTarget, Packet, PacketKind, Resume, SessionId};
use underpass_proto::session::{Config, LegError, LegId};
use underpass_seal::{PublicKey, StaticKey};

use crate::clock;
use crate::forgotten::Forgotten;
use crate::link::{HopPort, Link, LinkEnd, Router};
use crate::packets::PacketCarrier;
use crate::session::Session;

/// A carrier that says nothing, or does not finish its handshake, is dropped after so long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// What a carrier may send back and forth before its session begins, in bytes: four times what an
/// agent needs to be sure of it.
const PROBATION_BYTES: usize = 256 * 1024;
/// For how long.
const PROBATION_LIMIT: Duration = Duration::from_secs(60);
/// Carriers whose handshake waits or is under way, some kilobytes each. Beyond that they are told to come
/// again later.
const MAX_HANDSHAKES: usize = 4096;
/// Who waits for longer than this is told so: it begins no further attempts meanwhile.
const TELL_FIRST: Duration = Duration::from_millis(50);
/// And again this often.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// The longest wait for a turn.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// Why a carrier did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// What came in was no beginning, or nothing came in.
    #[error("{0}")]
    Link(#[from] LinkEnd),
    /// The key agreement failed.
    #[error("{0}")]
    Handshake(#[from] ConnectError),
    /// The session is not here any more, or the request to resume it is not good.
    #[error("no session to resume ({0})")]
    Resume(Code),
}

impl From<CarrierError> for AcceptError {
    fn from(error: CarrierError) -> Self {
        AcceptError::Link(error.into())
    }
}

/// What became of a carrier.
pub enum Accepted {
    /// A new hop session with the machine of this key.
    New {
        /// The link.
        link: Arc<Link>,
        /// The new session.
        session: Session,
        /// Whose it is, proven.
        peer: PublicKey,
    },
    /// A session that was here goes on over a further link, once its peer has proven itself.
    Resumed {
        /// The link.
        link: Arc<Link>,
        /// The session.
        session: Session,
    },
}

/// Takes carriers in and knows the hop sessions that can be resumed.
pub struct Acceptor {
    identity: Arc<StaticKey>,
    config: Config,
    router: Arc<dyn Router>,
    sessions: Arc<Mutex<HashMap<SessionId, Session>>>,
    /// Handshakes that wait or are under way.
    handshakes: Semaphore,
    /// Who has one of these computes. There is one for each processor: what costs little is done in between
    /// and does not wait for all of them.
    turns: Semaphore,
    /// When those come whose session is not known any more.
    forgotten: Mutex<Forgotten>,
}

impl Acceptor {
    /// An acceptor with the relay's own key. `config` is used for every hop session.
    #[must_use]
    pub fn new(identity: Arc<StaticKey>, config: Config, router: Arc<dyn Router>) -> Acceptor {
        Acceptor {
            identity,
            config,
            router,
            sessions: Arc::default(),
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            turns: Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            forgotten: Mutex::default(),
        }
    }

    /// How many hop sessions there are, attached or detached.
    #[must_use]
    pub fn session_count(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// Runs the handshake, or resumes, on a carrier that has just come in. Limited in time; the other
    /// side is told why it was refused.
    ///
    /// # Errors
    /// See [`AcceptError`]; the carrier is gone.
    pub async fn accept(&self, carrier: Carrier) -> Result<Accepted, AcceptError> {
        let mut packets = PacketCarrier::new(carrier);
        let first = tokio::time::timeout(PROBATION_LIMIT, first_packet(&mut packets))
            .await
            .unwrap_or(Err(LinkEnd::Closed))?;
        match first.kind {
            PacketKind::Hello => self.handshake(packets, first).await,
            PacketKind::Resume => self.resume(packets, first).await,
            kind => {
                packets.refuse(Code::ProtocolViolation.number()).await;
                Err(LinkEnd::Leg(LegError::Unexpected(format!("{kind:?}"))).into())
            }
        }
    }

    /// Tells a carrier that has just come in that there is no room for it now.
    pub async fn turn_away(carrier: Carrier) {
        PacketCarrier::new(carrier)
            .refuse(Code::Busy.number())
            .await;
    }

    async fn handshake(
        &self,
        mut packets: PacketCarrier,
        hello: Packet,
    ) -> Result<Accepted, AcceptError> {
        let Ok(_place) = self.handshakes.try_acquire() else {
            return busy(packets).await;
        };
        let turn = wait(&mut packets, self.turns.acquire()).await?;
        let Some(Ok(turn)) = turn else {
            return busy(packets).await;
        };
        let begun = Accepting::start(
            self.config.clone(),
            &self.identity,
            HelloTarget::Relay,
            &[],
            hello.body,
            &mut rand::rng(),
        );
        drop(turn);
        let (accepting, answer) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                packets.refuse(error.code()).await;
                return Err(error.into());
            }
        };
        packets.send(&answer).await?;
        let finish = packets.receive(HANDSHAKE_LIMIT).await?;
        let leg = LegId(0);
        let (core, peer) = match accepting.handle_finish(finish, leg, clock::now()) {
            Ok(finished) => finished,
            Err(error) => {
                packets.refuse(error.code()).await;
                return Err(error.into());
            }
        };
        let id = core.id();
        let port = HopPort::new();
        let session = Session::new(core, leg, port.clone());
        if lock(&self.sessions).contains_key(&id) {
            // Names are the initiator's choice: nobody takes the place of another's session.
            session.close(Code::Exists, "a session with this name exists");
        } else {
            self.keep(id, session.clone());
        }
        let link = self.start_link(packets, &session, leg, &port);
        Ok(Accepted::New {
            link,
            session,
            peer,
        })
    }

    /// Keeps the session resumable until it ends.
    fn keep(&self, id: SessionId, session: Session) {
        lock(&self.sessions).insert(id, session.clone());
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            session.closed().await;
            lock(&sessions).remove(&id);
        });
    }

    async fn resume(
        &self,
        mut packets: PacketCarrier,
        first: Packet,
    ) -> Result<Accepted, AcceptError> {
        let name = match Resume::decode(first.body.clone()) {
            Ok(resume) => resume.session,
            Err(error) => {
                packets.refuse(Code::ProtocolViolation.number()).await;
                return Err(LinkEnd::from(error).into());
            }
        };
        let known = lock(&self.sessions).get(&name).cloned();
        let Some(session) = known else {
            // They begin anew as soon as they know, so they learn it one after the other.
            let pause = lock(&self.forgotten).next(clock::now());
            wait(&mut packets, tokio::time::sleep(pause)).await?;
            packets.refuse(Code::UnknownSession.number()).await;
            return Err(AcceptError::Resume(Code::UnknownSession));
        };
        let leg = session.new_leg_id();
        let port = HopPort::new();
        session.add_leg(leg, port.clone());
        if let Err(error) = session.handle_packet(leg, first) {
            session.leg_lost(leg);
            let code = match error {
                LegError::Refused(code) => code,
                _ => Code::ProtocolViolation.number(),
            };
            packets.refuse(code).await;
            return Err(AcceptError::Resume(
                Code::from_number(code).unwrap_or(Code::Internal),
            ));
        }
        let link = self.start_link(packets, &session, leg, &port);
        tokio::spawn(drop_unproven(session.clone(), link.clone()));
        Ok(Accepted::Resumed { link, session })
    }

    fn start_link(
        &self,
        packets: PacketCarrier,
        session: &Session,
        leg: LegId,
        port: &Arc<HopPort>,
    ) -> Arc<Link> {
        let router = self.router.clone();
        Link::start(
            packets.carrier,
            packets.decoder,
            session.clone(),
            leg,
            port,
            router,
        )
    }
}

/// Waits until a turn has come, and tells the other side that it does. Nothing where that takes too long.
async fn wait<T>(
    packets: &mut PacketCarrier,
    turn: impl Future<Output = T>,
) -> Result<Option<T>, AcceptError> {
    let mut turn = std::pin::pin!(turn);
    let end = tokio::time::Instant::now() + WAIT_LIMIT;
    let mut tell = TELL_FIRST;
    while tokio::time::Instant::now() < end {
        tokio::select! {
            biased;
            turn = &mut turn => return Ok(Some(turn)),
            // Whoever waits says nothing; it has given up, or is not what it claims to be.
            said = packets.receive(WAIT_LIMIT) => {
                let kind = said?.kind;
                return Err(LinkEnd::Leg(LegError::Unexpected(format!("{kind:?}"))).into());
            }
            () = tokio::time::sleep(tell) => {}
        }
        let kind = PacketKind::Padding;
        let body = Bytes::new();
        packets.send(&Packet { kind, body }).await?;
        tell = TELL_AGAIN;
    }
    Ok(None)
}

/// Refuses what there is no room or time for.
async fn busy(packets: PacketCarrier) -> Result<Accepted, AcceptError> {
    packets.refuse(Code::Busy.number()).await;
    Err(AcceptError::Resume(Code::Busy))
}

/// The first packet of a session. Padding before it comes back as it was: agents put carriers on
/// probation with it. It costs as much to ask as to answer, and has its bounds.
async fn first_packet(packets: &mut PacketCarrier) -> Result<Packet, LinkEnd> {
    let mut left = PROBATION_BYTES;
    loop {
        let packet = packets.receive_any(HANDSHAKE_LIMIT).await?;
        if packet.kind != PacketKind::Padding {
            return Ok(packet);
        }
        if packet.body.is_empty() {
            continue;
        }
        left = left.checked_sub(packet.body.len()).ok_or(LinkEnd::Unread)?;
        tokio::time::timeout(HANDSHAKE_LIMIT, packets.send(&packet))
            .await
            .map_err(|_| LinkEnd::Unread)??;
    }
}

/// Whoever asked to resume must prove in time that it got the answer.
async fn drop_unproven(session: Session, link: Arc<Link>) {
    let proven = tokio::time::timeout(HANDSHAKE_LIMIT, session.leg_active(link.id())).await;
    if proven != Ok(true) {
        link.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
