//! The Underpass agent: the program in a private network that publishes services and opens local
//! listeners for the services of others, or serves unmodified programs by name.
//!
//! A [`Standing`] is an attachment to a relay that introduces itself, [`Standings`] are those to all relays
//! that are used at once, to which [`Following`] adds what relays announce; over them go requests, a [`Publisher`] that serves, and a [`Connector`] that opens; a
//! [`Rendezvous`] meets others by user and application. [`home`] keeps keys and
//! what is known of others, [`status`] tells other processes what this one does, [`doctor`] what is in
//! the way to a relay.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod certificates;
pub mod connect;
pub mod doctor;
mod following;
mod ftp;
pub mod home;
pub mod meet;
mod passwords;
pub mod proxy;
pub mod publish;
pub mod redirector;
mod requests;
mod standing;
mod standings;
pub mod status;

pub use certificates::CertificateLoginError;
pub use connect::Connector;
pub use following::Following;
pub use home::Home;
pub use meet::Rendezvous;
pub use passwords::PasswordLoginError;
pub use publish::Publisher;
pub use redirector::Redirector;
pub use standing::{Reach, RequestError, Standing, StandingError};
pub use standings::{Seen, Standings};
