//! Leads unmodified programs to Underpass.
//!
//! The library that this crate builds beside itself ([`LIBRARY`]) is preloaded into programs (`LD_PRELOAD`, ld.so(8)).
//! There it stands before the functions of the C library that look names up and connect. A pseudo name gets a pseudo
//! address from the redirector, a process of the same user that owns the way to the relay; a connection to such an address
//! is announced to the redirector and then made to its listener. Every other call goes on to the C library as it came.
//!
//! What is decided stands in [`name`], [`address`], [`message`] and [`variables`], without a system call; the redirector
//! uses [`message`] too. As a library of Rust this crate exports no C symbol, so nobody who links it is hooked.
//!
//! The preloaded library lives in somebody else's process: it allocates nothing, keeps no lock, thread, thread-local or
//! open file, runs nothing at the start, and needs nothing but the C library that the program has, be it glibc or musl.

#![cfg_attr(not(test), no_std)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod address;
#[allow(unsafe_code, reason = "declarations of the C library")]
mod c;
#[allow(unsafe_code, reason = "speaks with the redirector by system calls")]
mod exchange;
pub mod message;
pub mod name;
#[allow(unsafe_code, reason = "finds functions by dlsym")]
mod next;
#[allow(unsafe_code, reason = "called from C, calls C")]
pub mod shims;
pub mod variables;

/// The variable that leads hooked programs to the redirector's socket: an absolute path. Anything else, such as `off`,
/// and the library lets everything pass.
pub const VARIABLE: &str = "UNDERPASS_HOOK";

/// The preloaded library, an ELF shared object.
#[cfg(not(preload))]
pub static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libunderpass_hook.so"));

#[cfg(test)]
mod tests;

#[cfg(preload)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: abort takes nothing and does not return.
    unsafe { c::abort() }
}
