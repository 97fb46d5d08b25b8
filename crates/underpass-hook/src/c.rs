//! The C library, as far as it is needed: what glibc and musl have in common on 64-bit Linux.
//!
//! Declared here and not taken from a crate, because the preloaded library is compiled on its own (see `build.rs`). A test
//! compares all of it with the crate `libc`.

pub(crate) use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};

/// `struct sockaddr` is only ever a pointer to so many bytes here.
pub(crate) type Sockaddr = u8;
/// `socklen_t`.
pub(crate) type Length = u32;

/// `struct addrinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "as in getaddrinfo(3)")]
pub struct AddrInfo {
    pub flags: c_int,
    pub family: c_int,
    pub socktype: c_int,
    pub protocol: c_int,
    pub addrlen: Length,
    pub addr: *mut Sockaddr,
    pub canonname: *mut c_char,
    pub next: *mut AddrInfo,
}

/// `struct hostent`.
#[repr(C)]
#[allow(missing_docs, reason = "as in gethostbyname(3)")]
pub struct HostEntry {
    pub name: *mut c_char,
    pub aliases: *mut *mut c_char,
    pub addrtype: c_int,
    pub length: c_int,
    pub addr_list: *mut *mut c_char,
}

/// `struct msghdr`, as far as it matters, and its size: the two libraries divide the middle in different ways.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "as in recvmsg(2)")]
pub struct MessageHeader {
    pub name: *mut Sockaddr,
    pub namelen: Length,
    pub rest: [u64; 5],
}

/// `struct mmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "as in sendmmsg(2)")]
pub struct MessageHeaders {
    pub header: MessageHeader,
    pub length: c_uint,
}

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct TimeValue {
    pub(crate) seconds: i64,
    pub(crate) microseconds: i64,
}

/// Says which number stands for what; the test goes through all of them.
macro_rules! numbers {
    ($($name:ident $libc:ident: $type:ty = $value:expr;)*) => {
        $( pub(crate) const $name: $type = $value; )*

        #[cfg(test)]
        pub(crate) const NUMBERS: &[(&str, i64, i64)] = &[$(
            (stringify!($libc), $value as i64, libc::$libc as i64),
        )*];
    };
}

numbers! {
    AF_UNIX AF_UNIX: u16 = 1;
    AF_INET AF_INET: c_int = 2;
    SOCK_STREAM SOCK_STREAM: c_int = 1;
    SOCK_SEQPACKET SOCK_SEQPACKET: c_int = 5;
    SOCK_CLOEXEC SOCK_CLOEXEC: c_int = 0o2_000_000;
    SOL_SOCKET SOL_SOCKET: c_int = 1;
    SO_TYPE SO_TYPE: c_int = 3;
    SO_RCVTIMEO SO_RCVTIMEO: c_int = 20;
    SO_SNDTIMEO SO_SNDTIMEO: c_int = 21;
    SO_PROTOCOL SO_PROTOCOL: c_int = 38;
    SO_COOKIE SO_COOKIE: c_int = 57;
    IPPROTO_TCP IPPROTO_TCP: c_int = 6;
    IPPROTO_MPTCP IPPROTO_MPTCP: c_int = 262;
    TCP_INFO TCP_INFO: c_int = 11;
    MSG_NOSIGNAL MSG_NOSIGNAL: c_int = 0x4000;
    MSG_FASTOPEN MSG_FASTOPEN: c_int = 0x2000_0000;
    F_GETFL F_GETFL: c_int = 3;
    O_NONBLOCK O_NONBLOCK: c_int = 0o4000;
    O_CLOEXEC O_CLOEXEC: c_int = 0o2_000_000;
    ENOENT ENOENT: c_int = 2;
    EINTR EINTR: c_int = 4;
    EAGAIN EAGAIN: c_int = 11;
    ERANGE ERANGE: c_int = 34;
    ENOSYS ENOSYS: c_int = 38;
    ECONNREFUSED ECONNREFUSED: c_int = 111;
    EINPROGRESS EINPROGRESS: c_int = 115;
    AI_NUMERICHOST AI_NUMERICHOST: c_int = 4;
    AI_ADDRCONFIG AI_ADDRCONFIG: c_int = 0x20;
    EAI_NONAME EAI_NONAME: c_int = -2;
    EAI_AGAIN EAI_AGAIN: c_int = -3;
    EAI_SYSTEM EAI_SYSTEM: c_int = -11;
    EAI_OVERFLOW EAI_OVERFLOW: c_int = -12;
    NI_NUMERICHOST NI_NUMERICHOST: c_int = 1;
    NI_NAMEREQD NI_NAMEREQD: c_int = 8;
    SYS_CONNECT SYS_connect: c_long = if cfg!(target_arch = "x86_64") { 42 } else { 203 };
    SYS_SENDTO SYS_sendto: c_long = if cfg!(target_arch = "x86_64") { 44 } else { 206 };
    SYS_SENDMSG SYS_sendmsg: c_long = if cfg!(target_arch = "x86_64") { 46 } else { 211 };
}

/// `HOST_NOT_FOUND` of gethostbyname(3).
pub(crate) const HOST_NOT_FOUND: c_int = 1;
/// `TRY_AGAIN` of the same.
pub(crate) const TRY_AGAIN: c_int = 2;
/// `NO_DATA` of the same.
pub(crate) const NO_DATA: c_int = 4;
/// `TCP_CLOSE` of tcp(7)'s states: neither connected nor about to be.
pub(crate) const TCP_CLOSE: u8 = 7;

/// `RTLD_NEXT` of dlsym(3).
pub(crate) const RTLD_NEXT: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);

// None of these is one that this crate stands before, but `getpeername`: that is found by `dlsym` like all the others.
unsafe extern "C" {
    pub(crate) fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    pub(crate) fn getenv(name: *const c_char) -> *const c_char;
    pub(crate) fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub(crate) fn read(fd: c_int, buffer: *mut c_void, length: usize) -> isize;
    pub(crate) fn close(fd: c_int) -> c_int;
    pub(crate) fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    pub(crate) fn bind(fd: c_int, address: *const Sockaddr, length: Length) -> c_int;
    pub(crate) fn send(fd: c_int, buffer: *const c_void, length: usize, flags: c_int) -> isize;
    pub(crate) fn recv(fd: c_int, buffer: *mut c_void, length: usize, flags: c_int) -> isize;
    pub(crate) fn getsockname(fd: c_int, address: *mut Sockaddr, length: *mut Length) -> c_int;
    pub(crate) fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        length: *mut Length,
    ) -> c_int;
    pub(crate) fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        length: Length,
    ) -> c_int;
    #[link_name = "__errno_location"]
    fn errno_location() -> *mut c_int;
    #[link_name = "__h_errno_location"]
    fn h_errno_location() -> *mut c_int;
    /// The environment of this process, as environ(7) has it.
    pub(crate) static environ: *const *const c_char;
    #[cfg(preload)]
    pub(crate) fn abort() -> !;
}

/// `errno` of this thread.
pub(crate) fn errno() -> c_int {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *errno_location() }
}

/// Sets it.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *errno_location() = errno }
}

/// Sets `h_errno` of this thread.
pub(crate) fn set_h_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *h_errno_location() = errno }
}

/// The bytes of a text, without the zero at its end.
///
/// # Safety
/// `text` ends with a zero and stays as it is for `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller promises it.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}
