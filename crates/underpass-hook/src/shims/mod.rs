//! The functions of the C library that the preloaded library stands before.
//!
//! Each has the contract of the function of its name, and of the manual page in section 2 or 3 that describes it; each
//! leaves alone what is not ours. They are C symbols in the preloaded library only.

#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each is that of the C function of its name"
)]

mod connect;
mod lookup;
mod queries;
mod reverse;
mod start;

pub use connect::{connect, getpeername, sendmmsg, sendmsg, sendto, syscall};
pub use lookup::{
    getaddrinfo, getaddrinfo_a, gethostbyname, gethostbyname_r, gethostbyname2, gethostbyname2_r,
};
pub use queries::{
    __res_nquery, __res_nquerydomain, __res_nsearch, __res_query, __res_querydomain, __res_search,
    res_nquery, res_nquerydomain, res_nsearch, res_query, res_querydomain, res_search,
};
pub use reverse::{gethostbyaddr, gethostbyaddr_r, getnameinfo};
pub use start::{execv, execve, execvp, execvpe, fexecve, posix_spawn, posix_spawnp};
