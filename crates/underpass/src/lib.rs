//! Underpass as a library: publish and use services past firewalls and proxies that only let web
//! traffic out.
//!
//! A [`Client`] is attached to a relay and stays so: it finds another way whenever one breaks, and
//! the [`Stream`]s that it gives out go on as if nothing had happened. What they carry is sealed from
//! end to end; the relay cannot read it.
//!
//! Using a service:
//!
//! ```no_run
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use underpass::{Client, MachineKey, Options};
//!
//! # async fn example(stored: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::new("http://relay.example:8080", MachineKey::from_bytes(stored))?;
//! let client = Client::attach(options).await?;
//! let mut stream = client.connect("db").await?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?; // the service reads its end and may still answer
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Being one, after enrolling this machine once:
//!
//! ```no_run
//! use underpass::{Client, MachineKey, Options};
//!
//! # async fn example(code: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let key = MachineKey::generate();
//! // Keep `key.to_bytes()` where only this program can read it.
//! let options = Options::new("https://relay.example", key)?.machine_name("printer");
//! let client = Client::attach(options).await?;
//! client.enrol(code).await?;
//! let mut listener = client.listen("print").await?;
//! while let Some((mut stream, user)) = listener.accept().await {
//!     println!("{user} prints");
//!     tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod client;
mod error;
mod listener;
mod options;
mod stream;
mod trust;

pub use client::{Client, Status};
pub use error::{Code, Error};
pub use listener::Listener;
pub use options::{MachineKey, Options};
pub use stream::Stream;
pub use underpass_seal::{Fingerprint, ParseFingerprintError};
