//! The supervisor's life: from before the program begins until the last one that it started has ended.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource};
use rustix::process::{getrlimit, pidfd_getfd, pidfd_open, setrlimit};
use thiserror::Error;
use underpass_hook::message::Question;

use crate::exchange::ask;
use crate::kernel;
use crate::launch::Introduction;
use crate::lead::Leader;

/// How old the names may get that programs see.
const REFRESH: Duration = Duration::from_secs(10);
/// How long the redirector may take to say that it is there.
const STAY_LIMIT: Duration = Duration::from_secs(5);
/// Threads that wait for a call although another one does.
const SPARE: usize = 2;
/// The most calls that are answered at once; more wait in the kernel.
const MOST: usize = 512;

/// Why nothing is supervised.
#[derive(Debug, Error)]
pub enum SuperviseError {
    /// The arguments are not those that [`crate::launch()`] gives.
    #[error("this command is started by underpass run, and by nothing else")]
    Arguments,
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the supervisor is told when it is started.
#[derive(Debug)]
struct Task {
    place: PathBuf,
    /// What pseudo names end with.
    suffix: String,
    /// Empty where there are no names.
    hosts: PathBuf,
    process: i32,
}

/// Supervises the process that started this one, and all that it starts. Its socket is the standard input. The arguments
/// are those of this process, of which no other thread may have begun.
///
/// # Errors
/// The process is not there any more, or the system refuses. The program has been told then.
pub fn supervise() -> Result<(), SuperviseError> {
    let task = Task::read().ok_or(SuperviseError::Arguments)?;
    kernel::leave()?;
    // Each call that waits takes three open files.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);
    let stdin = rustix::stdio::stdin();
    let (introduction, listener) = introduced(stdin)?;
    let seen = look(task.process, &introduction);
    let errno = seen
        .as_ref()
        .err()
        .map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    send(stdin, &errno.to_ne_bytes(), SendFlags::NOSIGNAL).map_err(io::Error::from)?;
    seen?;
    // The program waits for nothing more of us.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?).map_err(io::Error::from)?;
    ask(&task.place, &Question::Stay, STAY_LIMIT, None);
    let pool = Arc::new(Pool {
        leader: Leader {
            listener,
            place: task.place.clone(),
            user: rustix::process::geteuid().as_raw(),
        },
        waiting: AtomicUsize::new(0),
        threads: AtomicUsize::new(0),
    });
    kernel::wake_together(pool.leader.listener.as_fd());
    pool.start()?;
    stay(pool.leader.listener.as_fd(), &task);
    if !task.hosts.as_os_str().is_empty() {
        let _ = std::fs::remove_file(&task.hosts);
    }
    Ok(())
}

impl Task {
    fn read() -> Option<Self> {
        let mut arguments = std::env::args_os().skip(1);
        Some(Self {
            place: arguments.next()?.into(),
            suffix: arguments.next()?.into_string().ok()?,
            hosts: arguments.next()?.into(),
            process: arguments.next()?.to_str()?.parse().ok()?,
        })
    }
}

/// Waits until nobody is supervised any more, and keeps the names fresh.
fn stay(listener: BorrowedFd<'_>, task: &Task) {
    let interval = Timespec::try_from(REFRESH).ok();
    loop {
        // What is told at any rate: that nobody has the filter any more.
        let mut ended = [PollFd::from_borrowed_fd(listener, PollFlags::empty())];
        match poll(&mut ended, interval.as_ref()) {
            Ok(0) if task.hosts.as_os_str().is_empty() => {}
            Ok(0) => {
                // Without a redirector the names stay, and lead nowhere.
                let _ = crate::hosts::refresh(&task.place, &task.suffix, &task.hosts);
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Takes the listener and what comes with it.
fn introduced(socket: BorrowedFd<'_>) -> io::Result<(Introduction, OwnedFd)> {
    let mut bytes = [0; Introduction::LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let listener = received.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((Introduction::read(&bytes), listener))
}

/// Does once what every call will need: takes a descriptor of the process, and reads its memory.
fn look(process: i32, introduction: &Introduction) -> io::Result<()> {
    let number = Pid::from_raw(process).ok_or(io::ErrorKind::InvalidInput)?;
    let handle = pidfd_open(number, PidfdFlags::empty())?;
    pidfd_getfd(&handle, introduction.socket, PidfdGetfdFlags::empty())?;
    let mut seen = [0; 8];
    let read = kernel::read_memory(process, introduction.place, &mut seen)?;
    match read == seen.len() && seen == introduction.place.to_ne_bytes() {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Threads of which one at least waits for the next call while others answer: a call that takes long keeps nobody.
struct Pool {
    leader: Leader,
    waiting: AtomicUsize,
    threads: AtomicUsize,
}

impl Pool {
    fn start(self: &Arc<Self>) -> io::Result<()> {
        let pool = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::Relaxed);
        let started = std::thread::Builder::new().spawn(move || pool.work());
        if started.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    fn work(self: &Arc<Self>) {
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let held = kernel::receive(self.leader.listener.as_fd());
            let others = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
            let held = match held {
                Ok(held) => held,
                // The caller is gone, or a signal came.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                    continue;
                }
                Err(_) => break,
            };
            if others == 0 && self.threads.load(Ordering::Relaxed) < MOST {
                // Where there is no room for another one, the next call waits for this one.
                let _ = self.start();
            }
            self.leader.serve(&held);
            if self.waiting.load(Ordering::Relaxed) >= SPARE {
                break;
            }
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }
}
