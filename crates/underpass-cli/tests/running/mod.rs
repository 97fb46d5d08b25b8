//! Running the real program: homes, relays, agents, and what they say.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

pub mod attached;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing takes longer, also on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One agent's home.
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program with arguments, in an environment that holds nothing else of ours.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("UNDERPASS_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .env("UNDERPASS_HOME", self.path())
            .env("USER", "alice")
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end, which must come in time.
    pub fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), arguments)
    }

    /// Runs to the end, which must be a good one; gives standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs to an end with this exit code; gives standard error.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts a command that keeps running, and waits for its first line.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), arguments)
    }
}

/// Runs a command to its end, which must come in time.
pub fn finish(mut command: Command, arguments: &[&str]) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let out = read(child.stdout.take().map(|it| Box::new(it) as _));
    let err = read(child.stderr.take().map(|it| Box::new(it) as _));
    let Some(status) = wait(&mut child) else {
        child.kill().unwrap();
        let (out, err) = (out.join().unwrap(), err.join().unwrap());
        let [out, err] = [out, err].map(|text| String::from_utf8_lossy(&text).into_owned());
        panic!("{arguments:?} did not end in time\n{out}\n{err}");
    };
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// A command that keeps running; killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Receiver<String>,
    first: String,
}

impl Running {
    /// Starts a command, and waits for its first line.
    pub fn start(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap(), "");
        let log = lines_of(child.stderr.take().unwrap(), arguments[0]);
        let mut running = Self {
            child,
            lines,
            log,
            first: String::new(),
        };
        match running.lines.recv_timeout(LIMIT) {
            Ok(line) => running.first = line,
            Err(_) => panic!("{arguments:?} was not ready: {}", running.logged()),
        }
        running
    }

    /// The line by which it said that it is ready.
    pub fn ready(&self) -> &str {
        &self.first
    }

    /// The next line of standard output.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    /// What it has logged since this was asked before.
    pub fn logged(&self) -> String {
        self.log.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// Waits for a line of the log that contains `part`.
    pub fn wait_log(&self, part: &str) -> String {
        let mut seen = Vec::new();
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("{part:?} was not logged:\n{}", seen.join("\n")),
            }
        }
    }

    /// The address at the end of the ready line.
    pub fn address(&self) -> SocketAddr {
        self.first.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Asks it to stop and gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait(&mut self.child).expect("it ends when asked").code()
    }

    /// Sends it a SIGHUP.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Kills it without a chance to say farewell.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end and gives the exit code.
    pub fn end(mut self) -> Option<i32> {
        wait(&mut self.child).expect("it ends by itself").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl std::io::Read + Send + 'static, shown_as: &str) -> Receiver<String> {
    let (sender, receiver) = channel();
    let shown_as = shown_as.to_owned();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if !shown_as.is_empty() {
                // Captured by the test harness and shown where a test fails.
                eprintln!("{shown_as}: {line}");
            }
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A relay and its home.
pub struct Relay {
    pub home: Home,
    pub process: Running,
    pub url: String,
    arguments: Vec<String>,
}

impl Relay {
    /// Plain HTTP on a free port.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further arguments; a `--tls-listen` among them takes the place of plain HTTP.
    pub fn with(arguments: &[&str]) -> Self {
        let home = Home::new();
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let setup = home.path().join("setup");
        let mut all = vec![
            "relay",
            "--listen",
            &listen,
            "--setup-file",
            setup.to_str().unwrap(),
        ];
        all.extend(arguments);
        let process = home.start(&all);
        let arguments = all.iter().map(|it| (*it).to_owned()).collect();
        let url = format!("http://{listen}");
        assert!(process.ready().contains(&url), "{}", process.ready());
        Self {
            process,
            home,
            url,
            arguments,
        }
    }

    /// The file with the setup code.
    pub fn setup_file(&self) -> PathBuf {
        self.home.path().join("setup")
    }

    /// A home whose user is the first administrator, `alice`.
    pub fn administrator(&self) -> Home {
        let home = Home::new();
        let file = self.setup_file();
        home.ok(&["login", &self.url, "--setup-file", file.to_str().unwrap()]);
        home
    }

    /// A home of a user whom `administrator` invites.
    pub fn invited(&self, administrator: &Home, user: &str) -> Home {
        self.further(administrator, user, "machine")
    }

    /// The same under a name for its machine: a user has no two of one name.
    pub fn further(&self, administrator: &Home, user: &str, machine: &str) -> Home {
        let home = Home::new();
        let code = administrator.ok(&["users", "invite", user]);
        let login = [
            "login",
            &self.url,
            "--invite",
            code.trim(),
            "--machine",
            machine,
        ];
        home.ok(&login);
        home
    }

    /// Kills the relay and starts it again on the same port with the same data.
    pub fn restart(self) -> Self {
        let Self {
            home,
            process,
            url,
            arguments,
        } = self;
        process.kill();
        let all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let process = home.start(&all);
        Self {
            home,
            process,
            url,
            arguments,
        }
    }
}

/// A port that nobody listens on. The system does not give it out again for a while.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Reads all of a connection, then answers how many bytes there were and their sum, and closes.
pub fn counting_service() -> SocketAddr {
    serve(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(count(&bytes).as_bytes()).unwrap();
    })
}

/// What the counting service answers.
pub fn count(bytes: &[u8]) -> String {
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    format!("{} bytes, sum {sum}\n", bytes.len())
}

/// Sends back what it gets.
pub fn echo_service() -> SocketAddr {
    serve(|mut stream| {
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    })
}

/// Says its name, then sends back what it gets.
pub fn named_service(name: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        if stream.write_all(name.as_bytes()).is_err() {
            // It was only looked whether somebody answers.
            return;
        }
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    })
}

/// Serves each connection on a thread, until the test ends.
pub fn serve(with: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let with = with.clone();
            std::thread::spawn(move || with(stream.unwrap()));
        }
    });
    address
}

/// Connects, with a limit on every read.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends all, ends that direction, and reads to the end of the other.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = dial(address);
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
