//! What stands on the way in real networks: proxies and web servers from Debian's packages, and a proxy with every bad
//! habit ([`Stubborn`]).

mod stubborn;

pub use stubborn::{COMMON, Connects, Login, Manners, Stubborn, Tally, Unusual};
