//! Services and clients whose traffic shows every byte that is lost, doubled or changed.
//!
//! They are threads of the test on a host of the lab, so that a test gets their findings as values.

mod client;
mod datagrams;
mod latency;
mod pattern;
mod service;

pub use client::{
    Opened, connect, count_by_half_close, download, drip, echo, echo_until, exchange,
    exchange_beside, open_many, upload, upload_exactly,
};
pub use datagrams::DatagramEcho;
pub use latency::Latencies;
pub use pattern::{Checker, Findings, Pattern};
pub use service::{Service, Tally};

/// Bytes read or written at once.
pub(crate) const CHUNK: usize = 64 * 1024;
