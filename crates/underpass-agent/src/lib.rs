//! The Underpass agent: the program in a private network that publishes services and opens local
//! listeners for the services of others.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod home;
