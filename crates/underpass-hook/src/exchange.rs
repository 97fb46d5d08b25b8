//! One question to the redirector, and its answer.

use core::ptr;

use crate::address::Address;
use crate::c::{self, CStr, c_int, c_void};
use crate::message::{self, Answer, Mark, Question};
use crate::name::MAX_SUFFIX;
use crate::next::pass;
use crate::variables::{self, Search};

/// The longest value of a variable that is understood, in bytes.
const LONGEST_VALUE: usize = 4096;
/// The longest path of a unix socket with the zero at its end, in bytes (unix(7)).
const LONGEST_PATH: usize = 108;
/// How long a lookup waits for an answer, in seconds. The redirector has limits of its own below that.
const PATIENCE_S: i64 = 60;
/// How long a program that cannot wait is kept from its work at the most, in seconds. The redirector answers at once.
const IMPATIENCE_S: i64 = 5;

/// A variable of this process as `NAME=VALUE` with a zero after it: as it is now, or as it was when the process was
/// started. `None` where it never was, or is too long.
pub(crate) struct Variable {
    search: Search<'static, LONGEST_VALUE>,
}

impl Variable {
    /// Looks for it.
    pub(crate) fn find(name: &'static CStr) -> Option<Self> {
        let mut search = Search::new(name.to_bytes());
        // SAFETY: the name ends with a zero; the value is valid until the environment changes, and is copied at once.
        let found = unsafe {
            let value = c::getenv(name.as_ptr());
            !value.is_null() && {
                let taken = [name.to_bytes(), b"=", c::bytes(value), b"\0"];
                taken.into_iter().any(|part| search.take(part))
            }
        };
        (found || Self::find_at_start(&mut search)).then_some(Self { search })
    }

    /// Programs that empty their environment leave the memory alone in which it was handed to them.
    fn find_at_start(search: &mut Search<'static, LONGEST_VALUE>) -> bool {
        // SAFETY: the path ends with a zero.
        let fd = unsafe { c::open(c"/proc/self/environ".as_ptr(), c::O_CLOEXEC) };
        if fd < 0 {
            return false;
        }
        let mut piece = [0; 512];
        let found = loop {
            // SAFETY: the buffer is as long as said.
            let read = unsafe { c::read(fd, piece.as_mut_ptr().cast(), piece.len()) };
            match usize::try_from(read) {
                Ok(0) | Err(_) => break false,
                Ok(read) if search.take(&piece[..read]) => break true,
                Ok(_) => {}
            }
        };
        // SAFETY: it was opened above.
        unsafe { c::close(fd) };
        found
    }

    /// The entry with the zero after it.
    pub(crate) fn entry(&mut self) -> &[u8] {
        self.search.entry()
    }
}

/// `sockaddr_un`.
#[repr(C)]
struct SocketPath {
    family: u16,
    path: [u8; LONGEST_PATH],
}

/// The way to the redirector, where this process is hooked.
pub(crate) struct Redirector {
    place: SocketPath,
    /// What pseudo names end with, and its length.
    suffix: ([u8; MAX_SUFFIX], usize),
}

/// What came of a question.
pub(crate) enum Outcome {
    /// An answer; a name in it is in the buffer.
    Answered(Kept),
    /// A signal came first.
    Interrupted,
    /// No answer within the limit.
    Late,
    /// There is no redirector.
    Nobody,
}

/// An answer without a lifetime.
pub(crate) enum Kept {
    Address(Address),
    /// The length of the name, in bytes.
    Name(usize),
    Port(u16),
    Unknown,
    Errno(c_int),
}

/// A file descriptor that is closed when dropped.
struct Descriptor(c_int);

impl Drop for Descriptor {
    fn drop(&mut self) {
        let errno = c::errno();
        // SAFETY: it is ours, and nobody else's.
        unsafe { c::close(self.0) };
        c::set_errno(errno);
    }
}

impl Redirector {
    /// `None` where the variable leads nowhere: then nothing is ours.
    pub(crate) fn find() -> Option<Self> {
        let errno = c::errno();
        let found = Self::look();
        c::set_errno(errno);
        found
    }

    fn look() -> Option<Self> {
        const NAME: &CStr = c"UNDERPASS_HOOK";
        const { assert!(NAME.to_bytes().len() == crate::VARIABLE.len()) };
        let mut variable = Variable::find(NAME)?;
        let value = variables::value(variable.entry(), NAME.to_bytes())?;
        if !variables::leads(value) {
            return None;
        }
        let (place, text) = variables::parts(value.strip_suffix(b"\0").unwrap_or(value));
        let mut path = [0; LONGEST_PATH];
        // A zero is left at the end. What is too long was never a redirector's.
        let room = path.get_mut(..LONGEST_PATH - 1)?;
        room.get_mut(..place.len())?.copy_from_slice(place);
        let mut suffix = [0; MAX_SUFFIX];
        suffix.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self {
            place: SocketPath {
                family: c::AF_UNIX,
                path,
            },
            suffix: (suffix, text.len()),
        })
    }

    /// What pseudo names end with.
    pub(crate) fn suffix(&self) -> &[u8] {
        let (bytes, length) = &self.suffix;
        bytes.get(..*length).unwrap_or_default()
    }

    /// Asks a question to which the answer comes soon.
    pub(crate) fn ask(&self, question: &Question<'_>, buffer: &mut [u8; message::MAX]) -> Outcome {
        let seconds = PATIENCE_S;
        self.ask_within(
            question,
            c::TimeValue {
                seconds,
                microseconds: 0,
            },
            buffer,
        )
    }

    /// Asks to be let in; a program that waits does so for as long as its socket waits for a connection, if that is limited.
    pub(crate) fn ask_in(
        &self,
        question: &Question<'_>,
        limit: Option<c::TimeValue>,
        buffer: &mut [u8; message::MAX],
    ) -> Outcome {
        let seconds = IMPATIENCE_S;
        let limit = limit.unwrap_or(c::TimeValue {
            seconds,
            microseconds: 0,
        });
        self.ask_within(question, limit, buffer)
    }

    fn ask_within(
        &self,
        question: &Question<'_>,
        limit: c::TimeValue,
        buffer: &mut [u8; message::MAX],
    ) -> Outcome {
        let Some(socket) = self.connect(limit) else {
            return Outcome::Nobody;
        };
        let bytes = question.write(buffer);
        // SAFETY: `bytes` is as long as said.
        let sent = unsafe {
            c::send(
                socket.0,
                bytes.as_ptr().cast(),
                bytes.len(),
                c::MSG_NOSIGNAL,
            )
        };
        if sent < 0 {
            return failed();
        }
        // SAFETY: the buffer is as long as said.
        let got = unsafe { c::recv(socket.0, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(got) = usize::try_from(got) else {
            return failed();
        };
        let kept = match Answer::read(&buffer[..got]) {
            Some(Answer::Address(address)) => Kept::Address(address),
            Some(Answer::Port(port)) => Kept::Port(port),
            Some(Answer::Unknown) => Kept::Unknown,
            Some(Answer::Errno(errno)) => Kept::Errno(errno),
            Some(Answer::Name(name)) => {
                let length = name.len();
                buffer.copy_within(got - length..got, 0);
                Kept::Name(length)
            }
            // It went away, or is of another version.
            Some(Answer::Done | Answer::Entry(..)) | None => return Outcome::Nobody,
        };
        Outcome::Answered(kept)
    }

    fn connect(&self, limit: c::TimeValue) -> Option<Descriptor> {
        // SAFETY: no memory is handed over.
        let fd = unsafe { c::socket(c::AF_UNIX.into(), c::SOCK_SEQPACKET | c::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return None;
        }
        let socket = Descriptor(fd);
        for name in [c::SO_RCVTIMEO, c::SO_SNDTIMEO] {
            let (value, length) = (ptr::from_ref(&limit).cast(), size_of_val(&limit));
            // SAFETY: the value is as long as said. Without the limit the exchange works too.
            unsafe { c::setsockopt(fd, c::SOL_SOCKET, name, value, length as c::Length) };
        }
        let (place, length) = (ptr::from_ref(&self.place).cast(), size_of_val(&self.place));
        let connected = pass!(c"connect": (c_int, *const c::Sockaddr, c::Length) -> c_int,
            (fd, place, length as c::Length) else -1);
        (connected == 0).then_some(socket)
    }
}

/// Why a call on the redirector's socket failed.
fn failed() -> Outcome {
    match c::errno() {
        c::EINTR => Outcome::Interrupted,
        c::EAGAIN => Outcome::Late,
        _ => Outcome::Nobody,
    }
}

/// What can be learnt of a program's socket without changing it.
#[derive(Clone, Copy)]
pub(crate) struct Socket(pub(crate) c_int);

impl Socket {
    /// One of its options, where it has it. `T` is a number, or a structure of numbers.
    fn option<T: Default>(self, level: c_int, name: c_int) -> Option<T> {
        let mut value = T::default();
        let mut length = size_of::<T>() as c::Length;
        let place = ptr::from_mut(&mut value).cast::<c_void>();
        let errno = c::errno();
        // SAFETY: the place is as long as said.
        let got = unsafe { c::getsockopt(self.0, level, name, place, &raw mut length) };
        c::set_errno(errno);
        (got == 0).then_some(value)
    }

    /// Whether it is a TCP socket that is neither connected nor about to be.
    pub(crate) fn is_fresh_stream(self) -> bool {
        self.option::<c_int>(c::SOL_SOCKET, c::SO_TYPE) == Some(c::SOCK_STREAM)
            && self
                .option::<u8>(c::IPPROTO_TCP, c::TCP_INFO)
                .is_none_or(|state| state == c::TCP_CLOSE)
    }

    /// Whether its calls wait.
    pub(crate) fn waits(self) -> bool {
        // SAFETY: F_GETFL takes nothing more.
        let flags = unsafe { c::fcntl(self.0, c::F_GETFL) };
        flags & c::O_NONBLOCK == 0
    }

    /// For how long connect(2) waits on it; `None` where that has no limit of its own.
    pub(crate) fn patience(self) -> Option<c::TimeValue> {
        let limit: c::TimeValue = self.option(c::SOL_SOCKET, c::SO_SNDTIMEO)?;
        (limit.seconds != 0 || limit.microseconds != 0).then_some(limit)
    }

    /// By what the redirector will know it; `None` where that cannot be found out. A multipath socket is bound to a port
    /// for this, on the loopback address of the `family` that it connects in.
    pub(crate) fn mark(self, family: Option<u16>) -> Option<Mark> {
        if self.option::<c_int>(c::SOL_SOCKET, c::SO_PROTOCOL) != Some(c::IPPROTO_MPTCP) {
            return self.option(c::SOL_SOCKET, c::SO_COOKIE).map(Mark::Cookie);
        }
        if let Some(family) = family {
            let (loopback, length) = crate::address::loopback(family);
            // SAFETY: the address is as long as said. One that is bound already keeps its port.
            unsafe { c::bind(self.0, loopback.as_ptr(), length as c::Length) };
        }
        let mut name = [0; crate::address::LONGEST];
        let mut length = name.len() as c::Length;
        // SAFETY: the place is as long as said.
        let got = unsafe { c::getsockname(self.0, name.as_mut_ptr(), &raw mut length) };
        let port = u16::from_be_bytes([name[2], name[3]]);
        (got == 0 && port != 0).then_some(Mark::Source(port))
    }
}
