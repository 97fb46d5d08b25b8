//! Drives Underpass sessions over legs.
//!
//! `underpass-proto` decides, this crate moves: it puts the pure session behind a lock, turns its
//! events into wake-ups, pumps packets through carriers ([`link`]), and makes new legs when old ones
//! die. Agents use [`Attachment`], relays use [`Acceptor`]; both get [`Session`]s and [`Channel`]s.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod acceptor;
mod ascent;
mod attachment;
mod attempt;
mod channel;
pub mod choice;
mod clock;
mod connect;
mod control;
pub mod dial;
mod fleet;
pub mod flow;
mod forgotten;
mod kept;
pub mod link;
mod network;
mod outgoing;
mod packets;
mod pauses;
mod plan;
mod recall;
mod routes;
mod session;
mod sessions;
pub mod splice;
pub mod story;
mod trial;
mod ways;

pub use acceptor::{AcceptError, Accepted, Acceptor};
pub use ascent::AscentSettings;
pub use attachment::{AttachError, AttachSettings, AttachStatus, Attachment};
pub use channel::{Channel, ChannelError, ChannelReader, ChannelWriter};
pub use connect::{ConnectError, MAX_LEGS, PeerTrust};
pub use control::{Control, ControlError};
pub use fleet::{Fleet, FleetSettings, MemberStatus};
pub use link::{Link, LinkEnd, RouteSource, Router, SourceId};
pub use outgoing::Outgoing;
pub use routes::PeerInfo;
pub use session::{Incoming, LegStatus, OpenOptions, Redial, Session, SessionStatus};
pub use sessions::Sessions;
pub use trial::{Trial, TrialError, try_carrier};
