//! System calls for TAP devices: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl, opcode};

/// Attaches the descriptor to a device (linux/if_tun.h: `_IOW('T', 202, int)`, though it reads an `ifreq`).
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
/// Ethernet frames rather than IP packets (linux/if_tun.h).
const IFF_TAP: i16 = 0x0002;
/// No header before each frame (linux/if_tun.h).
const IFF_NO_PI: i16 = 0x1000;
/// Longest name of an interface with its closing zero (linux/if.h).
const IFNAMSIZ: usize = 16;

/// `struct ifreq` of linux/if.h on 64-bit machines, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

/// Makes a TAP device in the calling thread's network namespace. It lives as long as the file, which gives and takes
/// one Ethernet frame at each read and write and never blocks.
///
/// Such a device offers the kernel no offloads, so frames come whole, with checksums, and no longer than the MTU.
pub(super) fn open(interface: &str) -> Result<File> {
    ensure!(
        interface.len() < IFNAMSIZ,
        "the interface name {interface} is too long"
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")
        .context("open /dev/net/tun")?;
    let mut name = [0; IFNAMSIZ];
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    let request = InterfaceRequest {
        name,
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` at the pointer, and `InterfaceRequest` has its layout and
    // its size (40 bytes); the setter keeps it alive and writable during the call.
    unsafe {
        ioctl(
            file.as_fd(),
            Setter::<TUNSETIFF, InterfaceRequest>::new(request),
        )
    }
    .with_context(|| format!("make the TAP device {interface}"))?;
    Ok(file)
}
