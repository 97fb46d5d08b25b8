//! What hooked programs are told.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::UnixStream;
use underpass_hook::address::{Address, Target};
use underpass_hook::message::{self, Answer, Mark, Question};
use underpass_proto::Code;
use underpass_proto::far_host::readings;
use underpass_proto::names::Suffix;

use super::Shared;
use super::names::{Names, pseudo_names};
use crate::connect::{Opened, with_code};

/// A program asks as soon as it is connected.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How long a lookup may take; a program waits a little longer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(30);
/// How long the relay may take to list names; those who asked wait a little longer.
const LIST_LIMIT: Duration = Duration::from_secs(15);
/// For how long a list is not asked for again.
const LISTED_FOR: Duration = Duration::from_secs(3);

impl Shared {
    /// One question and its answer. Whoever says what cannot be understood is left without one.
    pub(super) async fn converse(self: Arc<Self>, stream: UnixStream) {
        let _used = self.usage.begin();
        match self.hear(&stream).await {
            Ok(()) => {}
            Err(error) => tracing::debug!("a program's question: {error}"),
        }
    }

    async fn hear(self: &Arc<Self>, stream: &UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        // The socket's mode keeps others out but root, who has a redirector of its own.
        if peer.uid() != self.user {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let mut bytes = [0; message::MAX + 1];
        let read = tokio::time::timeout(ASK_LIMIT, receive(stream, &mut bytes)).await;
        let read = read.map_err(|_| ErrorKind::TimedOut)??;
        let question = Question::read(&bytes[..read]).ok_or(ErrorKind::InvalidData)?;
        if let Some(process) = peer.pid() {
            self.present.watch(process);
        }
        let mut name = String::new();
        let answer = self.answer(&question, stream, &mut name).await;
        let mut buffer = [0; message::MAX];
        let answer = answer.write(&mut buffer);
        stream
            .async_io(Interest::WRITABLE, || stream.try_write(answer))
            .await?;
        Ok(())
    }

    async fn answer<'a>(
        self: &Arc<Self>,
        question: &Question<'_>,
        stream: &UnixStream,
        kept: &'a mut String,
    ) -> Answer<'a> {
        match *question {
            Question::Address(name) => self.address_of(name).await,
            Question::Name(address) => match self.names().name(address) {
                Some(name) => {
                    name.clone_into(kept);
                    Answer::Name(kept.as_bytes())
                }
                None => Answer::Unknown,
            },
            Question::Port(mark) => match self.doors.port(mark) {
                Some(port) => Answer::Port(port),
                None => Answer::Unknown,
            },
            Question::Connect { mark, target, wait } => {
                let gone = async {
                    // It says nothing more, so this is its end.
                    let _ = receive(stream, &mut [0]).await;
                };
                tokio::select! {
                    answer = self.let_in(mark, target, wait) => answer,
                    () = gone => Answer::Errno(Errno::CONNABORTED.raw_os_error()),
                }
            }
            Question::Stay => Answer::Done,
            Question::Fix(address, name) => {
                let name = meant(name, &self.suffix).map(|meant| self.suffix.after(meant));
                match name.is_some_and(|name| self.names().fix(&name, address)) {
                    true => Answer::Done,
                    false => Answer::Unknown,
                }
            }
            Question::List => self.list().await,
            Question::After(name) => {
                let name = String::from_utf8_lossy(name);
                match self.names().after(&name) {
                    Some((name, address)) => {
                        name.clone_into(kept);
                        Answer::Entry(address, kept.as_bytes())
                    }
                    None => Answer::Unknown,
                }
            }
        }
    }

    /// Gives all names addresses that mean a service. Many may ask at once, and the relay is asked once for all.
    async fn list(&self) -> Answer<'static> {
        let mut listed = self.listed.lock().await;
        if listed.is_some_and(|at| at.elapsed() < LISTED_FOR) {
            return Answer::Done;
        }
        let services = tokio::time::timeout(LIST_LIMIT, self.connector.services()).await;
        match services {
            Ok(Ok(services)) => {
                for (name, _) in pseudo_names(&services, &self.suffix) {
                    self.names().give(&name);
                }
                *listed = Some(Instant::now());
                Answer::Done
            }
            Ok(Err(error)) => {
                tracing::info!("cannot list names: {}", with_code(&error, error.code()));
                Answer::Errno(errno(error.code()))
            }
            Err(_) => Answer::Errno(Errno::TIMEDOUT.raw_os_error()),
        }
    }

    /// A name that is known keeps its address; of a new one the relay must know the service.
    async fn address_of(&self, name: &[u8]) -> Answer<'static> {
        let Some(meant) = meant(name, &self.suffix) else {
            return Answer::Unknown;
        };
        let name = self.suffix.after(&meant);
        let known = self.names().address(&name);
        if let Some(address) = known {
            return Answer::Address(address);
        }
        let resolving = tokio::time::timeout(LOOKUP_LIMIT, self.connector.resolve(&meant));
        match resolving.await {
            Ok(Err(error)) if matches!(error.code(), Code::NoService | Code::NameInvalid) => {
                return Answer::Unknown;
            }
            // There is such a service; why it cannot be used is for connect(2) to say.
            Ok(Err(error)) if error.code() == Code::Denied => {}
            Ok(Err(error)) => {
                tracing::info!("{name}: {}", with_code(&error, error.code()));
                return Answer::Errno(errno(error.code()));
            }
            Err(_) => return Answer::Errno(Errno::TIMEDOUT.raw_os_error()),
            Ok(Ok(_)) => {}
        }
        match self.names().give(&name) {
            Some(address) => Answer::Address(address),
            None => Answer::Unknown,
        }
    }

    /// Awaits a connection. Of a program that waits, not before the service has answered.
    async fn let_in(self: &Arc<Self>, mark: Mark, target: Target, wait: bool) -> Answer<'static> {
        let refused = Answer::Errno(Errno::CONNREFUSED.raw_os_error());
        let Some(service) = self.service_at(target.address) else {
            return refused;
        };
        // A service is reached by any port, but for one on which its FTP awaits data.
        let at = SocketAddr::from((target.address, target.port));
        if self.connector.expected().contains(at) {
            return Answer::Port(target.port);
        }
        let port = match self.doors.open(self, target.address) {
            Ok(port) => port,
            Err(error) => {
                tracing::warn!("cannot listen on {:?}: {error}", target.address);
                return refused;
            }
        };
        let opened = match wait {
            false => None,
            true => match self.dial(&service, target.port).await {
                Ok(opened) => Some(opened),
                Err(code) => return Answer::Errno(errno(code)),
            },
        };
        match self.doors.announce(mark, target, opened) {
            true => Answer::Port(port),
            false => refused,
        }
    }

    /// The service, or host of one, whose name has this address, without the suffix.
    pub(super) fn service_at(&self, address: Address) -> Option<String> {
        let name = self.names().name(address)?.to_owned();
        meant(name.as_bytes(), &self.suffix)
    }

    /// Opens a channel to a service, or to this port of a host of one.
    pub(super) async fn dial(&self, service: &str, port: u16) -> Result<Opened, Code> {
        let to = format!("{service}:{port}");
        self.connector.open_helped(&to).await.map_err(|error| {
            tracing::info!("{service}: {}", with_code(&error, error.code()));
            error.code()
        })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one packet; 0 bytes are the end.
async fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    stream
        .async_io(Interest::READABLE, || stream.try_read(bytes))
        .await
}

/// What stands before the suffix of a pseudo name that can mean something.
fn meant(name: &[u8], suffix: &Suffix) -> Option<String> {
    let below = suffix.below(std::str::from_utf8(name).ok()?).ok()?;
    readings(&below).is_ok().then_some(below)
}

/// What connect(2) fails with on a network where this is what went wrong.
fn errno(code: Code) -> i32 {
    let errno = match code.explain().io {
        ErrorKind::TimedOut => Errno::TIMEDOUT,
        ErrorKind::HostUnreachable | ErrorKind::NotFound => Errno::HOSTUNREACH,
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Errno::NETUNREACH,
        // As a packet filter of the own machine has it.
        ErrorKind::PermissionDenied => Errno::ACCESS,
        _ => Errno::CONNREFUSED,
    };
    errno.raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_what_a_network_would_have_told_them() {
        for (code, expected) in [
            (Code::Refused, Errno::CONNREFUSED),
            (Code::Unreachable, Errno::HOSTUNREACH),
            (Code::TimedOut, Errno::TIMEDOUT),
            (Code::ServiceAway, Errno::HOSTUNREACH),
            (Code::Denied, Errno::ACCESS),
            (Code::Internal, Errno::CONNREFUSED),
        ] {
            assert_eq!(errno(code), expected.raw_os_error(), "{code:?}");
        }
    }

    #[test]
    fn the_suffix_is_the_same_on_both_sides() {
        let ours = underpass_proto::names::DEFAULT_SUFFIX;
        assert_eq!(underpass_hook::name::SUFFIX, ours);
        assert_eq!(
            underpass_hook::name::MAX_SUFFIX,
            underpass_proto::names::MAX_SUFFIX
        );
    }

    #[test]
    fn names_mean_services() {
        let usual = Suffix::default();
        let name = |text: &str| meant(text.as_bytes(), &usual);
        assert_eq!(name("DB.underpass.internal").as_deref(), Some("db"));
        assert_eq!(name("db.al.underpass.internal").as_deref(), Some("db.al"));
        assert_eq!(
            name("10-0-0-7.net.underpass.internal").as_deref(),
            Some("10-0-0-7.net")
        );
        for other in [
            "underpass.internal",
            "1.2.3.underpass.internal",
            "db",
            "\u{e4}.underpass.internal",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(meant(&[0xff], &usual), None);
    }
}
