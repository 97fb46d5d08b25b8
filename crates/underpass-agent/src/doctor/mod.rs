//! What lies between this machine and a relay, step by step: what `underpass doctor` tells.
//!
//! [`examine`] tries everything, bounded by a [`Deadline`], and decides nothing. [`Report::new`] makes
//! rows and a conclusion of what was found; it is pure.

mod carriers;
mod conclusion;
mod deadline;
mod examine;
mod findings;
mod measured;
mod row;
#[cfg(test)]
mod tests;
mod way;

pub use conclusion::{Report, Trouble};
pub use deadline::{Deadline, Step};
pub use examine::{LONGEST_SILENCE, Subject, examine};
pub use findings::{CarrierFinding, Findings, HostFinding, LoginFinding};
pub use row::{Check, Row, Verdict};
