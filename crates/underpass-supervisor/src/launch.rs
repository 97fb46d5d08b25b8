//! Before the program begins: its namespaces, the filter, and the supervisor.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::thread::UnshareFlags;
use thiserror::Error;

use crate::{LAUNCH, SUPERVISE, filter, hosts, kernel};

/// Why a program was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The arguments are not those of a [`Launcher`].
    #[error("this command is started by underpass run, and by nothing else")]
    Arguments,
    /// A filter that holds calls is there already.
    #[error("this process is supervised already, by another supervisor than would be needed")]
    Nested,
    /// The kernel has no such filters, or forbids them.
    #[error("the system does not let calls be held (seccomp): {0}")]
    Filter(io::Error),
    /// Processes of one user may not look at each other.
    #[error("the system lets no process look at another one of the same user: {0}")]
    Hidden(io::Error),
    /// The supervisor did not start.
    #[error("the supervisor did not start: {0}")]
    Supervisor(io::Error),
    /// A user namespace was made and cannot be used.
    #[error("the user cannot be had in a namespace of its own: {0}")]
    Namespace(io::Error),
    /// There is no such program, or it cannot be started.
    #[error("cannot run {}: {source}", program.to_string_lossy())]
    Program {
        /// Its name.
        program: OsString,
        /// The system's answer.
        source: io::Error,
    },
}

/// How a program is to be started.
#[derive(Debug)]
pub struct Launcher {
    /// The redirector's socket.
    pub place: PathBuf,
    /// What pseudo names end with.
    pub suffix: String,
    /// The file of names ([`hosts::make`]); without one, names do not resolve.
    pub hosts: Option<PathBuf>,
    /// The program, as execvp(3) finds it.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Launcher {
    /// The command that does it: the binary `own`, which calls [`launch`] where its name is [`LAUNCH`]. A process that has
    /// several threads cannot do it itself, since none of them may be left out of a namespace.
    #[must_use]
    pub fn command(&self, own: &Path) -> Command {
        let Self {
            place,
            suffix,
            hosts,
            program,
            arguments,
        } = self;
        let mut command = Command::new(own);
        command.arg0(LAUNCH).arg(place).arg(suffix);
        command.arg(hosts.as_deref().unwrap_or(Path::new("")));
        command.arg(program).args(arguments);
        command
    }

    /// From the arguments of this process.
    fn read() -> Option<Self> {
        let mut arguments = std::env::args_os().skip(1);
        Some(Self {
            place: arguments.next()?.into(),
            suffix: arguments.next()?.into_string().ok()?,
            hosts: Some(arguments.next()?.into())
                .filter(|path: &PathBuf| !path.as_os_str().is_empty()),
            program: arguments.next()?,
            arguments: arguments.collect(),
        })
    }
}

/// Becomes the program that the arguments of this process name, supervised. Must be called before this process has another
/// thread. `nameless` is called where the system allows no file of names.
///
/// # Errors
/// The program was not started. This process is good for nothing more than to say so.
pub fn launch(nameless: impl FnOnce(&io::Error)) -> Result<Infallible, LaunchError> {
    let launcher = Launcher::read().ok_or(LaunchError::Arguments)?;
    let program =
        filter::program().ok_or_else(|| LaunchError::Filter(io::ErrorKind::Unsupported.into()))?;
    let socket = start_supervisor(&launcher).map_err(LaunchError::Supervisor)?;
    if let Some(names) = &launcher.hosts
        && let Err(error) = enter_names(names)?
    {
        nameless(&error);
    }
    let listener = hold(&program)?;
    introduce(&socket, listener)?;
    let error = Command::new(&launcher.program)
        .args(&launcher.arguments)
        .exec();
    Err(LaunchError::Program {
        program: launcher.program,
        source: error,
    })
}

/// Starts the supervisor before there is a filter, which it must not have itself.
fn start_supervisor(launcher: &Launcher) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let status = Command::new(std::env::current_exe()?)
        .arg0(SUPERVISE)
        .arg(&launcher.place)
        .arg(&launcher.suffix)
        .arg(launcher.hosts.as_deref().unwrap_or(Path::new("")))
        .arg(std::process::id().to_string())
        .env_remove("LD_PRELOAD")
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    // It leaves another process behind, so that the program has no child that it does not know.
    match status.success() {
        true => Ok(ours),
        false => Err(io::Error::other(status.to_string())),
    }
}

/// Puts the names where programs look for them. The inner error says why that is not allowed here.
fn enter_names(names: &Path) -> Result<io::Result<()>, LaunchError> {
    let mounted = match kernel::unshare(UnshareFlags::NEWNS) {
        Ok(()) => mount(names),
        Err(_) => {
            let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
            let both = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
            if let Err(error) = kernel::unshare(both) {
                return Ok(Err(error));
            }
            stay_who_we_are(user.as_raw(), group.as_raw()).map_err(LaunchError::Namespace)?;
            mount(names)
        }
    };
    Ok(mounted)
}

fn mount(names: &Path) -> io::Result<()> {
    // What is mounted elsewhere from now on is seen here too, and not the other way round.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(mount_bind(names, hosts::PLACE)?)
}

/// In a new user namespace: the same user and group as outside (user_namespaces(7)).
fn stay_who_we_are(user: u32, group: u32) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1\n"))
}

/// Sets the filter. Who may not simply do that first gives up to gain rights, as by `sudo`.
fn hold(program: &[libc::sock_filter]) -> Result<OwnedFd, LaunchError> {
    let set = kernel::install(program).or_else(|error| match error.raw_os_error() {
        Some(libc::EACCES) => {
            rustix::thread::set_no_new_privs(true)?;
            kernel::install(program)
        }
        _ => Err(error),
    });
    set.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => LaunchError::Nested,
        _ => LaunchError::Filter(error),
    })
}

/// What the supervisor is to find in the process that will be the program.
pub(crate) struct Introduction {
    /// A place in its memory where this very number stands.
    pub(crate) place: u64,
    /// One of its descriptors.
    pub(crate) socket: i32,
}

impl Introduction {
    /// In bytes.
    pub(crate) const LENGTH: usize = 12;

    pub(crate) fn read(bytes: &[u8; Self::LENGTH]) -> Self {
        let [p0, p1, p2, p3, p4, p5, p6, p7, s0, s1, s2, s3] = *bytes;
        Self {
            place: u64::from_ne_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            socket: i32::from_ne_bytes([s0, s1, s2, s3]),
        }
    }

    fn write(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.place.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.socket.to_ne_bytes());
        bytes
    }
}

/// Hands the listener over, and hears whether the supervisor can do its work.
fn introduce(socket: &OwnedFd, listener: OwnedFd) -> Result<(), LaunchError> {
    // It knows its own place; the box keeps it there.
    let mut place = Box::new(0u64);
    *place = std::ptr::from_ref(&*place).addr() as u64;
    let introduction = Introduction {
        place: *place,
        socket: socket.as_raw_fd(),
    };
    let mut heard = [0; 4];
    let told = tell(socket, &introduction, &listener, &mut heard);
    drop(std::hint::black_box(place));
    told.map_err(LaunchError::Supervisor)?;
    match i32::from_ne_bytes(heard) {
        0 => Ok(()),
        errno => Err(LaunchError::Hidden(io::Error::from_raw_os_error(errno))),
    }
}

fn tell(
    socket: &OwnedFd,
    introduction: &Introduction,
    listener: &OwnedFd,
    heard: &mut [u8; 4],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let bytes = introduction.write();
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    let (read, _) = recv(socket, &mut heard[..], RecvFlags::empty())?;
    match read == heard.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_is_read_as_it_was_written() {
        let one = Introduction {
            place: 0x7fff_1234_5678,
            socket: 9,
        };
        let two = Introduction::read(&one.write());
        assert_eq!((two.place, two.socket), (one.place, one.socket));
    }
}
