//! The Underpass relay.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod attachment;
mod clock;
pub mod code;
mod desk;
mod gate;
pub mod hub;
mod lane;
mod log;
mod policy;
pub mod queue;
mod reception;
mod refusal;
mod relay;
pub mod settings;
mod switch;
pub mod target;

pub use refusal::Refusal;
pub use relay::{Relay, RelayHandle, StartError};
