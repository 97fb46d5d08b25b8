//! Underpass as a library: programs that reach each other, each behind its own firewall that only lets web traffic out.
//!
//! A [`Client`] is attached to a relay and stays so: it finds another way whenever one breaks, and the [`Channel`]s,
//! [`Messages`] and [`Datagrams`] that it gives out go on as if nothing had happened. What they carry is sealed from end to
//! end; the relay cannot read it.
//!
//! A program that others connect to, after enrolling its machine once:
//!
//! ```no_run
//! use underpass::{Client, MachineKey};
//!
//! # async fn example(code: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .relay("https://relay.example")
//!     .key(MachineKey::load_or_create("machine.key")?)
//!     .machine_name("printer")
//!     .attach()
//!     .await?;
//! if client.identity().await?.is_none() {
//!     client.enrol(code).await?;
//! }
//! let mut listener = client.listen("print").await?;
//! client.allow("alice", "print").await?;
//! while let Some((mut channel, peer)) = listener.accept().await {
//!     println!("{} prints", peer.user);
//!     tokio::spawn(async move { tokio::io::copy(&mut channel, &mut tokio::io::sink()).await });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! And one that connects to it, by the name of its user and of the application:
//!
//! ```no_run
//! use std::time::Duration;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use underpass::{Client, Code, ConnectOptions, MachineKey};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let key = MachineKey::load_or_create("machine.key")?;
//! let client = Client::builder().relay("http://relay.example:8080").key(key).attach().await?;
//! let options = ConnectOptions::new().wait(Duration::from_secs(30));
//! let mut channel = match client.connect_with("bob", "print", &options).await {
//!     Err(error) if error.code() == Code::DENIED => return Err("ask bob to allow it".into()),
//!     channel => channel?,
//! };
//! channel.write_all(b"hello").await?;
//! channel.shutdown().await?; // the other side reads the end, and may still answer
//! let mut answer = Vec::new();
//! channel.read_to_end(&mut answer).await?;
//! client.disconnect().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What came of it
//!
//! Whatever fails gives an [`Error`], and [`Error::code`] its place in one table of numbers ([`Code`]): negative where
//! something failed, positive where it was done. Errors of IO hold the same inside ([`Error::of_io`]).
//!
//! # What may be dropped
//!
//! Each method says whether it is cancel safe: whether its future may be dropped before it is done, as `tokio::select!`
//! does, without anything being lost or done by half. In short: accepting, connecting, reading a chunk, sending and getting
//! messages and datagrams are; requests to the relay go on where nobody waits for the answer any more; writing bytes is as
//! `AsyncWrite` is everywhere: `write` is, `write_all` is not.
//!
//! # What it runs on
//!
//! A tokio runtime with time and IO enabled. Everything is `Send`, and nothing blocks it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod access;
mod builder;
mod channel;
mod client;
mod code;
mod connect;
mod datagrams;
mod error;
mod key;
mod listener;
mod messages;
mod password;
mod standing;
mod trust;

pub use builder::ClientBuilder;
pub use channel::{Channel, ChannelReader, ChannelWriter, Priority};
pub use client::{Client, Status};
pub use code::Code;
pub use connect::ConnectOptions;
pub use datagrams::Datagrams;
pub use error::{Error, Reason, Result};
pub use key::MachineKey;
pub use listener::{DatagramListener, Listener, Peer};
pub use messages::Messages;
pub use standing::Identity;
pub use underpass_seal::{Fingerprint, ParseFingerprintError};
