//! A real relay and real agents over real carriers on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod authority;
mod between;
mod calls;
mod certificates;
mod connections;
mod enrolment;
mod events;
mod far_end;
mod group;
mod hostile;
mod limits;
mod manipulated;
mod meetings;
mod passwords;
#[path = "../../../underpass-store/tests/process/mod.rs"]
#[allow(dead_code, reason = "nothing is told to the processes here")]
mod process;
mod raw;
mod routes;
mod rules;
mod services;
mod several;
mod shutdown;
mod stage;
mod tickets;
mod trouble;
