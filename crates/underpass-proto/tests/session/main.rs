//! Two sessions over a virtual network and a virtual clock.
//!
//! | module | what |
//! |---|---|
//! | `pair` | the harness: legs with delay, rate and faults, and the drivers of both ends |
//! | `apps` | the applications of both ends and the plain model that they are compared with |
//! | `handshake` | how sessions begin, and how they do not |
//! | `random` | worlds made of one number each, ten thousand of them |
//! | `regressions` | worlds that once failed, and why |
//! | `scenarios` | what the protocol promises, one by one |
//! | `several` | several legs at once |
//! | `traffic` | what it promises about speed and waiting |
//! | `hostile` | what a peer or a stranger may try |

#![allow(
    clippy::unwrap_used,
    reason = "what cannot fail in a test must not fail"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "which worlds to run comes from the environment"
)]

mod apps;
mod dice;
mod handshake;
mod hostile;
mod pair;
mod random;
mod regressions;
mod scenarios;
mod several;
mod traffic;
