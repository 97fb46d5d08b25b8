//! The Underpass relay.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod hub;
pub mod queue;
mod refusal;

pub use refusal::Refusal;
