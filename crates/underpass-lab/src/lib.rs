//! Networks, firewalls and faults for end-to-end tests of the Underpass binaries.
//!
//! A test states its networks in a few lines ([`Lab`], [`TwoFirewalls`]), starts real programs in them
//! ([`Host::spawn`], [`Process`]), breaks the way between them ([`Link`], [`Firewall`], [`ImpairBox`]) and looks at what
//! arrived. Everything is made from network namespaces and goes away with the values that stand for it. Nothing here
//! depends on another crate of the workspace: what is tested is the binaries.
//!
//! Where namespaces cannot be made, a test that runs under [`tests!`] counts as skipped.

mod answers;
mod authority;
pub mod boxes;
pub mod built;
mod capture;
mod cutter;
pub mod exec;
mod firewall;
pub mod growth;
pub mod harness;
mod host;
mod impair;
mod link;
mod middlebox;
mod namespace;
pub mod page;
mod process;
mod scene;
pub mod search;
pub mod server;
mod story;
mod topology;
pub mod traffic;
mod tunnel;
mod wall_clock;

pub use authority::Authority;
pub use capture::{Capture, Recording};
pub use cutter::{Cut, Cutter, Done, Pace, Plan};
pub use exec::{Finished, wait_until};
pub use firewall::{Firewall, Policy, Redirect};
pub use harness::{Skip, soak};
pub use host::Host;
pub use impair::{Counters, ImpairBox, Impairment};
pub use link::Link;
pub use middlebox::{Direction, Middlebox, Temper};
pub use namespace::{Namespace, available, left_behind};
pub use process::{Memory, Process, Signal};
pub use scene::{
    CARRIERS, CLIENT, Options, QUIC, Scene, Way, each_carrier, each_carrier_and_quic, side_by_side,
};
pub use story::Story;
pub use topology::{Cable, Lab, TwoFirewalls};
pub use tunnel::{Agent, Entrance, Entrances, Relay, RelayOptions, Told};
pub use wall_clock::WallClock;
