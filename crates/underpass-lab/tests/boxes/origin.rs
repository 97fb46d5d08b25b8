//! A web server whose every answer the test decides, and transfers that it watches.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use underpass_lab::traffic::Service;
use underpass_lab::{Host, Process, wait_until};

use super::{LIMIT, Net};

/// How long to look for what must not happen.
const LOOK: Duration = Duration::from_millis(500);

/// What the test and the server tell each other.
#[derive(Default)]
struct Shared {
    /// Answers that may be finished.
    releases: Mutex<u64>,
    released: Condvar,
    /// Pieces of bodies as they came.
    pieces: Mutex<VecDeque<String>>,
    posts: AtomicU64,
}

/// `/fields` shows the request; `/drip?FRAMING` sends "first", and "last" when it is released; `/post` counts what it
/// gets; `/upgrade` switches to an echo.
pub(crate) struct Origin {
    service: Service,
    shared: Arc<Shared>,
}

impl Origin {
    pub(crate) fn start(host: &Host, port: u16) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let service = Service::start(host, port, move |stream, _| serve(stream, &serving))?;
        Ok(Self { service, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// POSTs that have come whole.
    pub(crate) fn posts(&self) -> u64 {
        self.shared.posts.load(Ordering::Relaxed)
    }

    /// Connections that have come.
    pub(crate) fn connections(&self) -> u64 {
        self.service.tally().connections()
    }

    /// Lets one `/drip` finish.
    pub(crate) fn release(&self) {
        *self
            .shared
            .releases
            .lock()
            .expect("no thread panics with it") += 1;
        self.shared.released.notify_all();
    }

    /// The first piece of an upload is here.
    pub(crate) fn gets_first_piece(&self) -> Result<()> {
        wait_until("the first piece", LIMIT, || Ok(self.next_piece())).map(drop)
    }

    /// No piece of an upload has come for long enough.
    pub(crate) fn gets_nothing(&self) -> Result<()> {
        std::thread::sleep(LOOK);
        let piece = self.next_piece();
        ensure!(piece.is_none(), "{piece:?} came");
        Ok(())
    }

    fn next_piece(&self) -> Option<String> {
        self.shared
            .pieces
            .lock()
            .expect("no thread panics with it")
            .pop_front()
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/upgrade" && head.to_ascii_lowercase().contains("\nupgrade: ") {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            say(stream, switch)?;
            return io::copy(&mut reader, &mut &*stream).map(drop);
        }
        let received = read_body(&mut reader, &head, shared)?;
        match path.split_once('?') {
            Some(("/drip", framing)) => {
                if !drip(stream, framing, shared)? {
                    return stream.shutdown(Shutdown::Write);
                }
            }
            _ if path == "/post" => {
                shared.posts.fetch_add(1, Ordering::Relaxed);
                answer(stream, &format!("{received} bytes\n"))?;
            }
            _ => answer(stream, &head)?,
        }
    }
    Ok(())
}

fn say(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())
}

fn answer(stream: &TcpStream, body: &str) -> io::Result<()> {
    let length = body.len();
    say(
        stream,
        &format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n\
             X-Odd: value-1\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// Reads the body and notes its pieces; its length.
fn read_body(reader: &mut impl BufRead, head: &str, shared: &Shared) -> io::Result<u64> {
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    if field("expect").is_some() {
        return Err(io::Error::other("the test sends no Expect"));
    }
    let note = |piece: &[u8]| {
        let text = String::from_utf8_lossy(piece).into_owned();
        shared
            .pieces
            .lock()
            .expect("no thread panics with it")
            .push_back(text);
    };
    if field("transfer-encoding").is_some() {
        let mut total = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size as usize + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(total);
            }
            note(&chunk[..size as usize]);
            total += size;
        }
    }
    let length: u64 = field("content-length")
        .map_or(Ok(0), |length| length.parse())
        .map_err(io::Error::other)?;
    let mut left = length;
    while left > 0 {
        let mut piece = vec![0; left.min(64 << 10) as usize];
        let got = reader.read(&mut piece)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        note(&piece[..got]);
        left -= got as u64;
    }
    Ok(length)
}

/// Whether the connection can be used for more.
fn drip(stream: &TcpStream, framing: &str, shared: &Shared) -> io::Result<bool> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
    let (field, first, last) = match framing {
        "chunked" => (
            "Transfer-Encoding: chunked\r\n",
            "6\r\nfirst\n\r\n",
            "5\r\nlast\n\r\n0\r\n\r\n",
        ),
        "length" => ("Content-Length: 11\r\n", "first\n", "last\n"),
        _ => ("Connection: close\r\n", "first\n", "last\n"),
    };
    say(stream, &format!("{head}{field}\r\n{first}"))?;
    let waiting = shared.releases.lock().expect("no thread panics with it");
    let (mut left, timeout) = shared
        .released
        .wait_timeout_while(waiting, LIMIT * 3, |left| *left == 0)
        .expect("no thread panics with it");
    if timeout.timed_out() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    *left -= 1;
    drop(left);
    say(stream, last)?;
    Ok(framing != "close")
}

/// `openssl s_server` with a certificate that it signed itself; it shows a page about each connection.
pub(crate) fn serve_tls(host: &Host, port: u16, folder: &Path) -> Result<Option<Process>> {
    let (key, certificate) = (folder.join("server.key"), folder.join("server.pem"));
    let mut make = host.command("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    make.args([
        "-days",
        "30",
        "-subj",
        "/CN=relay.example.invalid",
        "-addext",
        &format!("subjectAltName=IP:{}", host.address()),
        "-keyout",
    ]);
    make.arg(&key).arg("-out").arg(&certificate);
    underpass_lab::exec::output(&mut make, LIMIT)?.success()?;
    let mut serve = host.command("openssl");
    serve.args(["s_server", "-www", "-accept", &port.to_string(), "-key"]);
    serve.arg(&key).arg("-cert").arg(&certificate);
    let process = host.spawn("s_server", serve)?;
    process.logged("ACCEPT", LIMIT)?;
    Ok(Some(process))
}

/// A curl that runs, and what it shows.
pub(crate) struct Transfer {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Transfer {
    fn next(&self, limit: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("curl ended"),
        }
    }

    /// Nothing has come for long enough.
    pub(crate) fn is_held(&self) -> Result<()> {
        let line = self.next(LOOK)?;
        ensure!(line.is_none(), "{line:?} came");
        Ok(())
    }

    /// Waits for "first".
    pub(crate) fn comes(&self) -> Result<()> {
        let line = self.next(LIMIT)?;
        ensure!(
            line.as_deref() == Some("first"),
            "{line:?} came for the first line"
        );
        Ok(())
    }

    /// Lets the answer end and waits for its end.
    pub(crate) fn release_and_finish(self, origin: &Origin) -> Result<()> {
        origin.release();
        self.finish_with("last")
    }

    /// Waits for a line and the end.
    pub(crate) fn finish_with(mut self, last: &str) -> Result<()> {
        let mut before = String::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => before = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(error) => return Err(error).context("wait for curl's end"),
            }
        }
        let status = self.child.wait()?;
        ensure!(
            status.success() && before == last,
            "{status}, the last line was {before:?}"
        );
        Ok(())
    }

    /// Whether curl fails, with this exit code.
    pub(crate) fn fails_with(mut self, code: i32) -> Result<()> {
        let status = wait_until("curl ends", LIMIT, || Ok(self.child.try_wait()?))?;
        ensure!(status.code() == Some(code), "{status}");
        Ok(())
    }

    /// Sends a piece of an upload.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("an upload that goes on")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Ends an upload and waits for its answer.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.send("last\n")?;
        self.input = None;
        self.finish_with("11 bytes")
    }
}

impl Net {
    /// A download through `proxy`; directly when the URL is at `proxy` itself.
    pub(crate) fn begin_download(&self, proxy: SocketAddr, url: &str) -> Result<Transfer> {
        self.transfer(proxy, url, &[])
    }

    /// An upload of which "first" is sent.
    pub(crate) fn begin_upload(&self, proxy: SocketAddr, url: &str) -> Result<Transfer> {
        while self.origin.next_piece().is_some() {}
        let chunked = ["-T", ".", "-X", "POST", "-H", "Expect:"];
        let mut transfer = self.transfer(proxy, url, &chunked)?;
        transfer.send("first\n")?;
        Ok(transfer)
    }

    fn transfer(&self, proxy: SocketAddr, url: &str, more: &[&str]) -> Result<Transfer> {
        let mut command = self.client.command("curl");
        command.args(["-sS", "-N", "--max-time", "90"]).args(more);
        if !url.contains(&proxy.to_string()) {
            command.args(["--proxy", &format!("http://{proxy}")]);
        }
        command
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let shown: ChildStdout = child.stdout.take().context("standard output is piped")?;
        let (sender, lines): (Sender<String>, _) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(shown).lines();
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Ok(Transfer {
            input: child.stdin.take(),
            child,
            lines,
        })
    }

    /// The first byte of an answer comes before its last.
    pub(crate) fn answer_passes(&self, proxy: SocketAddr, framing: &str) -> Result<()> {
        let url = self.url(&format!("/drip?{framing}"));
        let transfer = self.begin_download(proxy, &url)?;
        transfer.comes().context(framing.to_owned())?;
        transfer.release_and_finish(&self.origin)
    }

    /// The first byte of a request comes before its last.
    pub(crate) fn request_passes(&self, proxy: SocketAddr) -> Result<()> {
        let transfer = self.begin_upload(proxy, &self.url("/post"))?;
        self.origin.gets_first_piece()?;
        transfer.finish()
    }

    /// Whether an upgrade passes the box and bytes after it do both ways.
    pub(crate) fn upgrade(&self, at: SocketAddr) -> Result<bool> {
        let Some(stream) = self.ask_for_upgrade(at)? else {
            return Ok(false);
        };
        (&stream).write_all(b"there\n")?;
        let mut back = String::new();
        BufReader::new(&stream).read_line(&mut back)?;
        ensure!(back == "there\n", "{back:?}");
        Ok(true)
    }

    /// Whether an upgrade passes, and no byte after it.
    pub(crate) fn upgrade_granted_then_silent(&self, at: SocketAddr) -> Result<bool> {
        let Some(stream) = self.ask_for_upgrade(at)? else {
            return Ok(false);
        };
        (&stream).write_all(b"there\n")?;
        stream.set_read_timeout(Some(LOOK))?;
        Ok((&stream).read(&mut [0; 1]).is_err())
    }

    /// The connection after a 101; nothing has come after that.
    fn ask_for_upgrade(&self, at: SocketAddr) -> Result<Option<TcpStream>> {
        let mut stream = self
            .client
            .inside(|| TcpStream::connect_timeout(&at, LIMIT))??;
        stream.set_read_timeout(Some(LIMIT))?;
        let target = if at.port() == self.origin.address().port() {
            "/upgrade".to_owned()
        } else {
            self.url("/upgrade")
        };
        let host = self.origin.address();
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )?;
        let head = read_head(&mut BufReader::new(&stream))?.context("no answer")?;
        Ok(head.starts_with("HTTP/1.1 101 ").then_some(stream))
    }
}
