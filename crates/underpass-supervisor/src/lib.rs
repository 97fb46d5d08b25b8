//! Leads programs to services that take no preloaded library: those that are linked statically, those of Go, and those that
//! call the kernel themselves.
//!
//! A filter (seccomp(2)) holds such a program, and all that it starts, when it connects. The supervisor, a process of the
//! same user, looks at where it wants to go. A connection to a pseudo address is announced to the redirector and then made
//! by the supervisor, on the program's own socket; every other call goes on as it came. Names are in a file that stands in
//! the place of `/etc/hosts`, for these programs only.
//!
//! `underpass run` becomes [`launch()`], which starts the supervisor, sets the filter, and becomes the program: so the
//! program's process, terminal and exit code are those of the command.
//!
//! | file | subject |
//! |---|---|
//! | `kind.rs` | which programs take a preloaded library |
//! | `filter.rs` | which calls are held (pure) |
//! | `calls.rs` | what a held call asks for (pure) |
//! | `hosts.rs` | the names as a file |
//! | `launch.rs` | before the program begins |
//! | `serve.rs` | the supervisor's life |
//! | `lead.rs` | what becomes of one call |
//! | `exchange.rs` | asking the redirector |
//! | `kernel.rs` | system calls that no safe library has |

#![deny(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod calls;
mod exchange;
mod filter;
pub mod hosts;
#[allow(unsafe_code, reason = "system calls that no safe library has")]
mod kernel;
pub mod kind;
mod launch;
mod lead;
mod serve;

pub use launch::{LaunchError, Launcher, launch};
pub use serve::{SuperviseError, supervise};

/// The variable that tells programs that they are supervised, and leads to the redirector's socket.
pub const VARIABLE: &str = "UNDERPASS_SUPERVISED";

/// As what the binary is called that becomes a program ([`launch()`]).
pub const LAUNCH: &str = "underpass-launch";

/// As what the binary is called that supervises ([`supervise`]).
pub const SUPERVISE: &str = "underpass-supervise";

/// Whether this process is supervised for the redirector at `place`.
#[must_use]
pub fn is_supervised(place: &std::path::Path) -> bool {
    is_supervised_at_all() && std::env::var_os(VARIABLE).is_some_and(|at| at == place)
}

/// Whether this process is supervised, for whatever redirector. There can be one supervisor for a program.
#[must_use]
pub fn is_supervised_at_all() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    std::env::var_os(VARIABLE).is_some() && status.lines().any(|line| line == "Seccomp:\t2")
}
