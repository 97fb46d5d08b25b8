//! The Underpass session protocol as a pure state machine.
//!
//! Nothing here does IO, reads a clock or draws random numbers: bytes, times and random
//! values come in as arguments, bytes and decisions go out.
//!
//! The wire formats, from the outside in:
//!
//! | module | what |
//! |---|---|
//! | [`packet`] | what a carrier moves: a length, a kind, a body |
//! | [`route`] | the sealed header by which a relay forwards packets between two agents |
//! | [`params`] | what the two ends of a session tell each other in the handshake |
//! | [`frame`] | what stands inside a sealed record |
//! | [`control`] | what an agent and its relay say to each other on a control channel |
//! | [`far_host`] | how a host of a network is named that is published as one service |
//! | [`grade`] | how much the relay can read of a session between two others |
//! | [`group`] | the signed list of the relays of a group |
//! | [`meeting`] | how the place is named where two meet who have wished for each other |
//! | [`steer`] | what a machine and a publisher say to each other to lead a service elsewhere |
//! | [`transfer`] | what the sender of files and their receiver say to each other |
//! | [`authority`] | what a relay and its ticket authority say to each other |
//! | [`code`] | the reasons that all of them give when something ends or is refused |
//!
//! `docs/protocol-wire.md` specifies them with byte-exact samples.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod authority;
pub mod code;
pub mod compress;
pub mod control;
pub mod event;
pub mod far_host;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod grade;
pub mod group;
pub mod handshake;
pub mod limit;
pub mod meeting;
pub mod names;
pub mod packet;
pub mod params;
mod role;
pub mod route;
pub mod session;
pub mod steer;
pub mod ticket;
mod time;
pub mod transfer;
pub mod varint;
pub mod wire;

#[cfg(test)]
mod specification;

pub use code::Code;
pub use grade::Grade;
pub use role::{Role, Speaker};
pub use time::Time;
pub use wire::DecodeError;
