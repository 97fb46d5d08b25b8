//! The sockets of one connection: what they get goes to the conversation, and what that commands is done.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::body::{BodyReader, Framing};
use super::conversation::{Command, Conversation, Event};
use super::head::Answer;
use super::{Handle, Inner, dial};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Bytes that may wait for one socket before the other is no longer read.
const BACKLOG: usize = 256 * 1024;
/// How long the box waits for an answer that it will throw away.
const ABANDON: Duration = Duration::from_secs(1);
/// How long it reads on after its last word, so that the word is not lost to a reset.
const LINGER: Duration = Duration::from_secs(2);

/// One socket and what waits for it.
struct Line {
    stream: TcpStream,
    waiting: VecDeque<u8>,
    /// Whether its peer has ended.
    ended: bool,
}

impl Line {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            waiting: VecDeque::new(),
            ended: false,
        })
    }

    /// What to wait for; `reads` is whether bytes from it are wanted.
    fn interest(&self, reads: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reads && !self.ended);
        flags.set(PollFlags::OUT, !self.waiting.is_empty());
        flags
    }

    /// How many bytes came; `None` when nothing is there, 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(length) => Some(length),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                None
            }
            // A reset is an end too.
            Err(_) => Some(0),
        }
    }

    /// Sends what the socket takes.
    fn flush(&mut self) -> std::io::Result<()> {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match self.stream.write(front) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.waiting.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Connection<'a> {
    inner: &'a Inner,
    client: Line,
    server: Option<Line>,
    conversation: Conversation,
    finishing: bool,
}

/// Carries one client's connection to its end.
pub(super) fn carry(client: TcpStream, inner: &Inner, handle: &Handle) -> Result<()> {
    let conversation = Conversation::new(inner.now(), inner.onward.clone(), inner.challenge());
    let mut connection = Connection {
        inner,
        client: Line::new(client)?,
        server: None,
        conversation,
        finishing: false,
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        connection.wait(handle)?;
        if handle.cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !connection.turn(&mut buffer)? {
            return Ok(());
        }
    }
}

impl Connection<'_> {
    /// Waits until a socket is ready, something has changed, or the conversation wants to be asked.
    fn wait(&self, handle: &Handle) -> Result<()> {
        let backlog = |line: Option<&Line>| line.map_or(0, |line| line.waiting.len());
        let reads_client = self.conversation.wants_client()
            && backlog(self.server.as_ref()) < BACKLOG
            && !self.finishing;
        let reads_server = self.conversation.wants_server()
            && backlog(Some(&self.client)) < BACKLOG
            && !self.finishing;
        let mut watched = vec![PollFd::new(&handle.wake, PollFlags::IN)];
        let lines = [
            (Some(&self.client), reads_client),
            (self.server.as_ref(), reads_server),
        ];
        for (line, reads) in lines {
            // One that nothing is wanted from would tell of its end again and again.
            if let Some(line) = line
                && !line.interest(reads).is_empty()
            {
                watched.push(PollFd::new(&line.stream, line.interest(reads)));
            }
        }
        let due = self.conversation.wakes_at(&self.inner.shared().manners);
        let left = due.map(|due| due.saturating_sub(self.inner.now()));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Whether it was woken or not: asking costs little.
        let _ = rustix::io::read(&handle.wake, &mut [0u8; 8]);
        Ok(())
    }

    /// Takes in what is there and does what follows from it. False when the connection is over.
    fn turn(&mut self, buffer: &mut [u8]) -> Result<bool> {
        if !self.finishing {
            let backlog = self
                .server
                .as_ref()
                .map_or(0, |server| server.waiting.len());
            if self.conversation.wants_client() && backlog < BACKLOG && !self.client.ended {
                match self.client.read(buffer) {
                    Some(0) => {
                        self.client.ended = true;
                        if !self.take(&Event::ClientEnd)? {
                            return Ok(false);
                        }
                    }
                    Some(length) if !self.take(&Event::Client(&buffer[..length]))? => {
                        return Ok(false);
                    }
                    _ => {}
                }
            }
            if !self.finishing && !self.take_from_server(buffer)? {
                return Ok(false);
            }
            if !self.finishing && !self.take(&Event::Time)? {
                return Ok(false);
            }
        }
        if let Some(server) = &mut self.server
            && server.flush().is_err()
        {
            // What it still had to say may be there to be read; its end will be told by that.
            server.waiting.clear();
        }
        self.client.flush()?;
        if self.finishing && self.client.waiting.is_empty() {
            self.say_goodbye(buffer);
            return Ok(false);
        }
        Ok(true)
    }

    fn take_from_server(&mut self, buffer: &mut [u8]) -> Result<bool> {
        if !self.conversation.wants_server() || self.client.waiting.len() >= BACKLOG {
            return Ok(true);
        }
        let Some(server) = self.server.as_mut().filter(|server| !server.ended) else {
            return Ok(true);
        };
        match server.read(buffer) {
            None => Ok(true),
            Some(0) => {
                server.ended = true;
                self.take(&Event::ServerEnd)
            }
            Some(length) => self.take(&Event::Server(&buffer[..length])),
        }
    }

    /// Gives an event to the conversation and does what it commands. False when the connection is over.
    fn take(&mut self, event: &Event<'_>) -> Result<bool> {
        let step = |conversation: &mut Conversation, event: &Event<'_>, inner: &Inner| {
            conversation.step(inner.now(), event, &mut inner.shared())
        };
        let mut commands = VecDeque::from(step(&mut self.conversation, event, self.inner));
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Connect(to) => {
                    self.server = dial(&to).and_then(Line::new).ok();
                    if self.server.is_none() {
                        // What was meant for the server goes with it.
                        commands =
                            step(&mut self.conversation, &Event::Unreachable, self.inner).into();
                    }
                }
                Command::ToServer(bytes) => {
                    if let Some(server) = &mut self.server {
                        server.waiting.extend(bytes);
                        // As early as can be: what follows may wait.
                        let _ = server.flush();
                    }
                }
                Command::ToClient(bytes) => self.client.waiting.extend(bytes),
                Command::Deliver {
                    to,
                    request,
                    beside: true,
                } => {
                    super::start(move || deliver(&to, &request, Duration::from_secs(90)));
                }
                Command::Deliver {
                    to,
                    request,
                    beside: false,
                } => deliver(&to, &request, ABANDON),
                Command::Finish => self.finishing = true,
                Command::Cut => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Ends the client's connection in order: what it sends meanwhile is read, because a reset for it would take the
    /// last answer away from it.
    fn say_goodbye(&mut self, buffer: &mut [u8]) {
        self.server = None;
        let stream = &mut self.client.stream;
        if self.client.ended
            || stream.shutdown(Shutdown::Write).is_err()
            || stream.set_nonblocking(false).is_err()
        {
            return;
        }
        let end = Instant::now() + LINGER;
        while Instant::now() < end && stream.set_read_timeout(Some(LINGER)).is_ok() {
            if !matches!(stream.read(buffer), Ok(1..)) {
                return;
            }
        }
    }
}

/// Delivers a request and reads its answer to nobody, for at most `limit`. Best effort, as a proxy's first try is.
fn deliver(to: &str, request: &[u8], limit: Duration) {
    let Ok(mut stream) = dial(to) else {
        return;
    };
    let end = Instant::now() + limit;
    if stream.write_all(request).is_err() {
        return;
    }
    let (mut input, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    let mut body: Option<BodyReader> = None;
    loop {
        if body.is_none()
            && let Ok(Some((answer, length))) = Answer::parse(&input)
        {
            input.drain(..length);
            let framing = Framing::of_answer(&answer, "POST");
            body = framing
                .ok()
                .filter(|_| answer.status >= 200)
                .map(BodyReader::new);
        }
        if let Some(body) = &mut body
            && (body.take(&mut input, &mut Vec::new()).is_err() || body.is_complete())
        {
            return;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => input.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
}
