//! The Underpass relay: where agents behind firewalls meet.
//!
//! A relay forwards what it cannot read. Sessions end at their endpoints; the relay knows who is
//! attached, who may use which service, and a bounded queue for each direction of each route.
//!
//! | module | what |
//! |---|---|
//! | [`hub`] | the decisions, pure: attachments, presence, routes |
//! | [`rendezvous`] | who wishes to meet whom, pure, beside the hub |
//! | [`queue`] | one direction of one route, pure: marks, drops, what the sender is told |
//! | `policy` | who may ask for what, pure: one table |
//! | `desk` | answers to control requests, on the store |
//! | `switch`, `lane`, `gate` | drive the hub, move packets between links |
//! | `group` | what other relays have changed in a store that several share |
//! | `certificates` | the authorities whose certificates let machines in, as files that change |
//! | `seen` | when machines were last seen, written in few commits |
//! | `living`, `direct` | which sessions live, and those that the relay itself is an end of |
//! | `meter`, [`rate`], `usage` | what users pass: counted, slowed down, written to the table of usage |
//! | `limits` | what each user may take up |
//! | `reception`, `attachment` | from a carrier to a served attachment |
//! | [`authority`] | the ticket authority: who gives out and checks first tickets |
//! | [`plain`] | TCP for clients that are nothing but an HTTP library |
//! | [`target`] | services that the relay dials itself |
//! | [`handed`], `turn` | sockets from a service manager, and which process uses them |
//! | [`settings`] | one table of settings |
//! | [`Relay`] | start and stop |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod announced;
mod attachment;
mod attempts;
pub mod authority;
mod certificates;
mod clock;
pub mod code;
mod desk;
mod direct;
mod gate;
mod group;
pub mod handed;
pub mod hub;
mod lane;
mod limits;
mod living;
mod log;
mod meter;
pub mod plain;
mod policy;
pub mod queue;
pub mod rate;
mod reception;
mod refusal;
mod relay;
pub mod rendezvous;
mod seen;
pub mod settings;
mod switch;
pub mod target;
mod turn;
mod usage;

pub use announced::AnnounceError;
pub use certificates::CertificateUsers;
pub use refusal::Refusal;
pub use relay::{Relay, RelayHandle, ReloadError, StartError};
