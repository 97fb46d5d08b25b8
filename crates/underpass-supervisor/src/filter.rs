//! Which system calls are held, as a program for the kernel (seccomp(2), bpf(2)). Pure.

use libc::{c_long, sock_filter};

/// What the kernel calls the machine's own system calls (`linux/audit.h`); `None` where this crate does not know it.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(target_arch = "riscv64")]
pub(crate) const ARCHITECTURE: Option<u32> = Some(0xc000_00f3);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
pub(crate) const ARCHITECTURE: Option<u32> = None;

/// `BPF_LD | BPF_W | BPF_ABS`: takes a word of the call.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JSET | BPF_K`
const IF_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// Places in `struct seccomp_data`, in bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS: u32 = 16;

const ALLOW: sock_filter = step(RETURN, libc::SECCOMP_RET_ALLOW);
const HOLD: sock_filter = step(RETURN, libc::SECCOMP_RET_USER_NOTIF);
const REFUSE: sock_filter = step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

const fn step(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes on with the next step, or skips `skip` of them where it is not so.
const fn unless(code: u16, k: u32, skip: u8) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: skip,
        k,
    }
}

/// The lower half of an argument: the machines above have the lower byte first.
const fn argument(place: u32) -> sock_filter {
    step(LOAD, ARGUMENTS + 8 * place)
}

/// The filter; `None` on a machine whose calls are not known.
///
/// Calls of another machine's, of a 32-bit program, pass. There is no io_uring: a program that would connect by it
/// connects as it does on a kernel without.
pub(crate) fn program() -> Option<Vec<sock_filter>> {
    let number = |number: c_long| u32::try_from(number).unwrap_or(u32::MAX);
    let mut steps = vec![
        step(LOAD, ARCHITECTURE_AT),
        sock_filter {
            code: IF_EQUAL,
            jt: 1,
            jf: 0,
            k: ARCHITECTURE?,
        },
        ALLOW,
        step(LOAD, NUMBER),
        unless(IF_EQUAL, number(libc::SYS_connect), 1),
        HOLD,
        unless(IF_EQUAL, number(libc::SYS_io_uring_setup), 1),
        REFUSE,
    ];
    // Each with the place of its flags.
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        steps.extend([
            unless(IF_EQUAL, number(call), 4),
            argument(flags),
            unless(IF_SET, libc::MSG_FASTOPEN as u32, 1),
            HOLD,
            ALLOW,
        ]);
    }
    steps.push(ALLOW);
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do.
    fn decide(architecture: u32, number: c_long, arguments: [u64; 6]) -> u32 {
        let program = program().unwrap();
        let mut call = [0; 64];
        call[..4].copy_from_slice(&(number as u32).to_ne_bytes());
        call[4..8].copy_from_slice(&architecture.to_ne_bytes());
        for (place, argument) in arguments.iter().enumerate() {
            call[16 + 8 * place..][..8].copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |so: bool| usize::from(if so { jt } else { jf });
            match code {
                LOAD => word = u32::from_ne_bytes(*call[k as usize..].first_chunk().unwrap()),
                IF_EQUAL => at += jump(word == k),
                IF_SET => at += jump(word & k != 0),
                RETURN => return k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_may_connect_is_held_and_all_else_passes() {
        let own = ARCHITECTURE.unwrap();
        let fast = libc::MSG_FASTOPEN as u64;
        let with = |place: usize, flags: u64| {
            let mut arguments = [u64::MAX; 6];
            arguments[place] = flags;
            arguments
        };
        let hold = libc::SECCOMP_RET_USER_NOTIF;
        let allow = libc::SECCOMP_RET_ALLOW;
        for (number, arguments, expected) in [
            (libc::SYS_connect, [0; 6], hold),
            (libc::SYS_sendto, with(3, fast | 1), hold),
            (libc::SYS_sendmsg, with(2, fast), hold),
            (libc::SYS_sendmmsg, with(3, fast), hold),
            (libc::SYS_sendto, with(3, !fast), allow),
            (libc::SYS_sendmsg, with(2, !fast), allow),
            (libc::SYS_sendmmsg, with(3, 0), allow),
            (libc::SYS_bind, [u64::MAX; 6], allow),
            (libc::SYS_getpeername, [0; 6], allow),
            (
                libc::SYS_io_uring_setup,
                [0; 6],
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            ),
        ] {
            assert_eq!(decide(own, number, arguments), expected, "{number}");
            assert_eq!(decide(0x4000_0003, number, arguments), allow, "{number}");
        }
    }
}
