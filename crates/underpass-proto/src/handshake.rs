//! How a session comes about: three packets, each step consumed by the next.
//!
//! ```text
//! initiator                                     responder
//!    HELLO   versions, session id, message 1 ->
//!         <- ANSWER  message 2 (its parameters and the first ticket)
//!    FINISH  message 3 (its parameters)      ->
//! ```
//!
//! The keys are `underpass-seal`'s business. The prologue binds protocol version, roles, session id,
//! what the session is for and its grade of secrecy, and the relay it goes through or to (design: "Prologue").

use bytes::Bytes;
use rand_core::CryptoRng;
use underpass_seal::{Cipher, HandshakeError, PublicKey, StaticKey};

use crate::code;
use crate::grade::Grade;
use crate::packet::{Answer, Finish, Hello, HelloTarget, Packet, PacketKind, SessionId, VERSION};
use crate::params::Params;
use crate::role::Role;
use crate::session::{Agreed, Config, LegId, Session};
use crate::ticket::Ticket;
use crate::time::Time;
use crate::wire::DecodeError;

/// Why no session came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The two sides speak no common version.
    #[error(
        "the other side speaks protocol version {theirs}, this program {VERSION}: update the older of the two"
    )]
    Version {
        /// The highest version that the other side speaks.
        theirs: u16,
    },
    /// The other side refused, with its code and words.
    #[error("the other side refused: {text} ({})", code::name(*.code))]
    Refused {
        /// From the table of codes.
        code: u64,
        /// What the other side says about it.
        text: String,
    },
    /// A message that does not belong here or cannot be read.
    #[error("a message of the handshake could not be read: {0}")]
    Malformed(#[from] DecodeError),
    /// Another packet than the expected one.
    #[error("a {0} packet came in the middle of the handshake")]
    Unexpected(String),
    /// The cryptographic handshake failed: changed on its way, or not meant for this session.
    #[error("the key agreement failed: {0}")]
    Keys(#[from] HandshakeError),
    /// The responder sent no ticket.
    #[error("the other side gave no ticket to resume with")]
    NoTicket,
}

impl ConnectError {
    /// The code to refuse the other side with.
    #[must_use]
    pub fn code(&self) -> u64 {
        match self {
            ConnectError::Version { .. } => code::VERSION_UNSUPPORTED,
            ConnectError::Refused { code, .. } => *code,
            _ => code::PROTOCOL_VIOLATION,
        }
    }
}

/// What both sides must agree on beforehand.
///
/// `relay` is the fingerprint of the relay's key for a session that passes through one; empty where
/// the responder is reached directly (its own key is what the handshake shows).
fn prologue(version: u16, session: SessionId, target: HelloTarget, relay: &[u8]) -> Vec<u8> {
    let target = match target {
        HelloTarget::Relay => b"agent to relay",
        HelloTarget::Endpoint => b"end to end    ",
        HelloTarget::EndpointGradeRelay => b"grade relay   ",
        HelloTarget::EndpointGradeNone => b"grade none    ",
    };
    let mut prologue = b"underpass session, initiator to responder, ".to_vec();
    prologue.extend_from_slice(target);
    prologue.extend_from_slice(&version.to_be_bytes());
    prologue.extend_from_slice(&session.0);
    prologue.extend_from_slice(relay);
    prologue
}

fn own_params(config: &Config) -> Params {
    let mut params = config.params.clone();
    params.ciphers = match Cipher::preferred() {
        Cipher::Aes256Gcm => 1 << Cipher::Aes256Gcm.code() | 1 << Cipher::ChaCha20Poly1305.code(),
        _ => 1 << Cipher::ChaCha20Poly1305.code(),
    };
    params
}

/// AES where both machines have instructions for it, else ChaCha20, which every version has.
fn choose_cipher(a: &Params, b: &Params) -> Cipher {
    let both = a.ciphers & b.ciphers;
    if both & 1 << Cipher::Aes256Gcm.code() != 0 {
        Cipher::Aes256Gcm
    } else {
        Cipher::ChaCha20Poly1305
    }
}

/// The initiator after HELLO.
pub struct Connecting {
    config: Config,
    grade: Grade,
    params: Params,
    session: SessionId,
    noise: underpass_seal::Initiator,
}

impl Connecting {
    /// Begins: the packet is to be sent first on a new leg.
    ///
    /// # Errors
    /// The key agreement could not begin.
    pub fn start(
        config: Config,
        identity: &StaticKey,
        target: HelloTarget,
        relay: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Packet), ConnectError> {
        let mut session = SessionId([0; 16]);
        rng.fill_bytes(&mut session.0);
        let prologue = prologue(VERSION, session, target, relay);
        let (noise, message) = underpass_seal::Initiator::start(identity, &prologue)?;
        let hello = Hello {
            version: VERSION,
            min_version: VERSION,
            session,
            target,
            message: message.into(),
        };
        let params = own_params(&config);
        Ok((
            Connecting {
                config,
                grade: Grade::of(target),
                params,
                session,
                noise,
            },
            hello.to_packet(),
        ))
    }

    /// The session's name.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Takes the answer. Whose it is stands in [`Answered::peer`]: the caller decides whether that
    /// is the one it wants before it goes on.
    ///
    /// # Errors
    /// The other side refused, or what came is no answer.
    pub fn handle_answer(self, packet: Packet) -> Result<Answered, ConnectError> {
        let answer = match packet.kind {
            PacketKind::Answer => Answer::decode(packet.body)?,
            PacketKind::Refused => {
                let refused = crate::packet::Refused::decode(packet.body)?;
                return Err(ConnectError::Refused {
                    code: refused.code,
                    text: refused.text,
                });
            }
            kind => return Err(ConnectError::Unexpected(format!("{kind:?}"))),
        };
        let noise = self.noise.read_answer(&answer.message)?;
        let peer_params = Params::decode(Bytes::copy_from_slice(&noise.payload))?;
        let ticket = peer_params
            .ticket
            .map(Ticket::new)
            .ok_or(ConnectError::NoTicket)?;
        Ok(Answered {
            peer: noise.peer,
            noise,
            peer_params,
            ticket,
            config: self.config,
            grade: self.grade,
            params: self.params,
            session: self.session,
        })
    }
}

/// The initiator after ANSWER: the peer's key is known and proven.
pub struct Answered {
    /// The peer's key.
    pub peer: PublicKey,
    noise: underpass_seal::Answered,
    peer_params: Params,
    ticket: Ticket,
    config: Config,
    grade: Grade,
    params: Params,
    session: SessionId,
}

impl Answered {
    /// The SHA-256 of the certificate that the peer says it shows in TLS below the session, where it
    /// says so.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<[u8; 32]> {
        self.peer_params.certificate
    }

    /// Finishes: the packet goes out next on `leg`, which carries the session from then on.
    ///
    /// # Errors
    /// The key agreement failed.
    pub fn finish(self, leg: LegId, now: Time) -> Result<(Session, Packet), ConnectError> {
        let mut payload = Vec::new();
        self.params.encode(&mut payload);
        let (message, secrets) = self.noise.finish(&payload)?;
        let agreed = Agreed {
            role: Role::Initiator,
            id: self.session,
            grade: self.grade,
            cipher: self
                .grade
                .cipher(choose_cipher(&self.params, &self.peer_params)),
            secrets,
            peer: self.peer_params,
            ticket: self.ticket,
        };
        let finish = Finish {
            message: message.into(),
        };
        // HELLO and FINISH went before.
        Ok((
            Session::new(agreed, self.config, leg, 2, now),
            finish.to_packet(),
        ))
    }
}

/// The responder after HELLO.
pub struct Accepting {
    config: Config,
    grade: Grade,
    params: Params,
    session: SessionId,
    noise: underpass_seal::AwaitingFinish,
    ticket: Ticket,
}

impl Accepting {
    /// Takes a HELLO; the packet answers it. What is no HELLO for `target`, and so of its grade, is refused.
    ///
    /// # Errors
    /// No common version, or not a good message; [`ConnectError::code`] is what to refuse with.
    pub fn start(
        config: Config,
        identity: &StaticKey,
        target: HelloTarget,
        relay: &[u8],
        hello: Bytes,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Packet), ConnectError> {
        let hello = Hello::decode(hello)?;
        if hello.min_version > VERSION || hello.version < VERSION {
            return Err(ConnectError::Version {
                theirs: hello.version,
            });
        }
        if hello.target != target {
            return Err(ConnectError::Malformed(DecodeError::InvalidValue {
                what: "Hello.target",
            }));
        }
        let prologue = prologue(VERSION, hello.session, target, relay);
        let noise = underpass_seal::Responder::read_hello(identity, &prologue, &hello.message)?;
        let mut ticket = [0; 32];
        rng.fill_bytes(&mut ticket);
        let mut params = own_params(&config);
        params.ticket = Some(ticket);
        let mut payload = Vec::new();
        params.encode(&mut payload);
        let (message, noise) = noise.answer(&payload)?;
        let answer = Answer {
            message: message.into(),
        };
        let accepting = Accepting {
            config,
            grade: Grade::of(target),
            params,
            session: hello.session,
            noise,
            ticket: Ticket::new(ticket),
        };
        Ok((accepting, answer.to_packet()))
    }

    /// The session's name, as the initiator chose it.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Takes FINISH: the session stands on `leg`, with the peer of this key.
    ///
    /// # Errors
    /// Not a good message.
    pub fn handle_finish(
        self,
        packet: Packet,
        leg: LegId,
        now: Time,
    ) -> Result<(Session, PublicKey), ConnectError> {
        if packet.kind != PacketKind::Finish {
            return Err(ConnectError::Unexpected(format!("{:?}", packet.kind)));
        }
        let finish = Finish::decode(packet.body)?;
        let finished = self.noise.read_finish(&finish.message)?;
        let peer_params = Params::decode(Bytes::from(finished.payload))?;
        let agreed = Agreed {
            role: Role::Responder,
            id: self.session,
            grade: self.grade,
            cipher: self.grade.cipher(choose_cipher(&self.params, &peer_params)),
            secrets: finished.secrets,
            peer: peer_params,
            ticket: self.ticket,
        };
        Ok((
            Session::new(agreed, self.config, leg, 1, now),
            finished.peer,
        ))
    }
}
