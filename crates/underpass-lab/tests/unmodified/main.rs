//! Programs that know nothing of Underpass reach services by name, and what is not for them stays as it was.
//!
//! Topology of each: servers and publisher on `a` behind firewall A, programs on `b` behind firewall B, the relay in public
//! between them. On `b` the same names also stand in `/etc/hosts`, for decoys on `b` itself.

mod rows;

use std::net::Ipv4Addr;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Nginx, Postgres, SshServer};
use underpass_lab::traffic::Service;
use underpass_lab::{Finished, Options, Scene, TwoFirewalls, exec, tests, wait_until};

fn main() -> ExitCode {
    tests!(
        programs_reach_services_by_name,
        every_call_is_led_there_by_either_c_library,
        errors_and_ends_are_those_of_a_network,
        what_was_not_announced_is_reset,
        many_at_once_and_nobody_else_once_it_is_gone
    )
}

/// How long one program may run on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);

/// What the names on `b` lead to when nobody stands before the C library.
const NAMES: [&str; 4] = ["files", "db", "shell", "echo"];

fn scene() -> Result<Scene> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    let names = NAMES.map(|name| format!("{name}.underpass.internal"));
    let decoys = names
        .each_ref()
        .map(|name| (name.as_str(), Ipv4Addr::LOCALHOST));
    scene.net.b.knows(&decoys)?;
    Ok(scene)
}

/// `underpass run -- WORDS...` on `b`; or the same with the hook told to let everything pass.
fn run<S: AsRef<str>>(scene: &Scene, hooked: bool, words: &[S]) -> Result<Finished> {
    let mut arguments = vec!["run", "--"];
    if !hooked {
        arguments.extend(["env", "UNDERPASS_HOOK=off"]);
    }
    arguments.extend(words.iter().map(AsRef::as_ref));
    exec::output(&mut scene.client.command(&arguments)?, LIMIT)
}

fn python(scene: &Scene, script: &str, arguments: &[&str]) -> Result<Finished> {
    let words = [&["python3", "-c", script], arguments].concat();
    run(scene, true, &words)
}

fn programs_reach_services_by_name() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let files = Nginx::start(a, a.address(), 80)?;
    files.put("who", b"the far one\n")?;
    let decoy = Nginx::start(b, Ipv4Addr::LOCALHOST, 80)?;
    decoy.put("who", b"the near one\n")?;
    let postgres = Postgres::start(a, a.address(), 5432)?;
    let sshd = SshServer::start(a, a.address(), 22)?;
    let _published = scene.publish(&[
        ("files", files.address()),
        ("db", postgres.address()),
        ("shell", sshd.address()),
    ])?;
    let ssh = sshd.ssh(b, (Ipv4Addr::LOCALHOST, 22).into())?;
    let rows = rows::all(b.logs(), &ssh)?;
    let mut wrong = Vec::new();
    println!("| program | hooked | passing |");
    println!("|---|---|---|");
    for row in &rows {
        if !row.installed() {
            println!("| {} | not installed | |", row.name);
            continue;
        }
        let mut seen = Vec::new();
        for (hooked, expected) in [(true, row.hooked), (false, row.passing)] {
            let done = run(&scene, hooked, &row.words)?;
            let said = done.text() + &done.errors();
            let as_expected = said.contains(expected);
            seen.push(if as_expected { expected } else { "WRONG" });
            if !as_expected {
                wrong.push(format!(
                    "{} (hooked: {hooked}): {:?} {said}",
                    row.name, done.status
                ));
            }
        }
        println!("| {} | {} | {} |", row.name, seen[0], seen[1]);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The lines that `calls.c` prints where every call is led to the service.
const CALLS: &str = "\
gethostbyname echo.underpass.internal
gethostbyname2 echo.underpass.internal
gethostbyname_r echo.underpass.internal
gethostbyname_r-short ERANGE
gethostbyname2_r echo.underpass.internal
gethostbyaddr_r echo.underpass.internal
gethostbyaddr echo.underpass.internal
getnameinfo echo.underpass.internal 7
getnameinfo-numeric 127
connect-mapped ok
res_query -1 HOST_NOT_FOUND
res_search -1 HOST_NOT_FOUND
getaddrinfo_a EAI_AGAIN
connect 7 ok
syscall ok
sendto ok
sendmsg ok
sendmmsg ok
multipath ok
epoll ok
";
/// Those that it prints in any case.
const UNTOUCHED: &str = "\
untouched-refused Connection refused
untouched 0
untouched-peer ok
";

fn every_call_is_led_there_by_either_c_library() -> Result<()> {
    let scene = scene()?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", echo.address())])?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unmodified/calls.c");
    for compiler in ["gcc", "musl-gcc"] {
        if !rows::installed(compiler) {
            println!("{compiler} is not installed");
            continue;
        }
        let program = scene.net.b.logs().join(format!("calls-{compiler}"));
        let program = program.to_str().context("temporary folders are UTF-8")?;
        let mut build = Command::new(compiler);
        build.args(["-O1", "-w", "-o", program, source]);
        exec::output(&mut build, LIMIT)?
            .success()
            .context(compiler)?;
        let words = [program, "echo.underpass.internal"];
        let before = echo.tally().connections();
        let done = run(&scene, true, &words)?;
        let expected = format!("{CALLS}{UNTOUCHED}");
        ensure!(
            done.text() == expected,
            "{compiler}: {}{}",
            done.text(),
            done.errors()
        );
        let arrived = echo.tally().connections() - before;
        ensure!(arrived >= 7, "{compiler}: {arrived} connections arrived");
        // The same calls, let through: to nobody, since nothing listens at the near address.
        let passing = run(&scene, false, &words)?.text();
        ensure!(
            passing.ends_with(UNTOUCHED) && !passing.contains("ok\ne"),
            "{compiler}: {passing}"
        );
        ensure!(
            echo.tally().connections() - before == arrived,
            "{compiler}: it arrived all the same"
        );
    }
    Ok(())
}

/// Prints what each name gives, and what a connection to it gives: by a socket that waits, and by one that does not.
const ERRORS: &str = r#"
import errno, select, socket, sys
for name in sys.argv[1:]:
    try:
        address = socket.gethostbyname(name + ".underpass.internal")
    except socket.gaierror as error:
        print(name, "EAI", error.errno == socket.EAI_NONAME)
        continue
    try:
        socket.create_connection((address, 7)).close()
        waits = "connected"
    except OSError as error:
        waits = errno.errorcode[error.errno]
    quick = socket.socket()
    quick.setblocking(False)
    begun = quick.connect_ex((address, 7))
    poll = select.poll()
    poll.register(quick, select.POLLIN)
    poll.poll(60000)
    try:
        came = quick.recv(1)
    except OSError as error:
        came = errno.errorcode[error.errno]
    print(name, waits, begun in (0, errno.EINPROGRESS), came)
"#;

/// Goes to an address that it was told.
const MAPPED: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], 7))
s.sendall(b"hello")
print(socket.gethostbyaddr(sys.argv[1])[0], s.recv(5))
"#;

fn errors_and_ends_are_those_of_a_network() -> Result<()> {
    let scene = scene()?;
    let nobody = std::net::SocketAddr::from((scene.net.a.address(), 9));
    let echo = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("closed", nobody), ("private", echo.address())])?;
    scene
        .publisher
        .run(&["services", "deny", "client", "private"])?;
    let done = python(&scene, ERRORS, &["closed", "private", "nothing", "a.b.c"])?;
    let expected = "closed ECONNREFUSED True ECONNRESET\nprivate EACCES True ECONNRESET\n\
                    nothing EAI True\na.b.c EAI True\n";
    ensure!(done.text() == expected, "{}{}", done.text(), done.errors());
    ensure!(
        echo.tally().connections() == 0,
        "one that is not allowed got through"
    );

    scene.publisher.allow("client", "private")?;
    let mapped = |address: &str| -> Result<Finished> {
        let map = format!("private={address}");
        let arguments = ["run", "--map", &map, "--", "python3", "-c", MAPPED, address];
        exec::output(&mut scene.client.command(&arguments)?, LIMIT)
    };
    // It has another address since it was looked up above; a redirector that has just begun knows none.
    ensure!(mapped("127.64.1.1")?.errors().contains("UP-REDIRECTOR"));
    end_redirector(&scene)?;
    let done = mapped("127.64.1.1")?.success()?.text();
    ensure!(done == "private.underpass.internal b'hello'\n", "{done}");
    ensure!(mapped("127.0.0.1")?.errors().contains("UP-REDIRECTOR"));

    // The program takes the command's place: its exit code, its death, its input, and its limits.
    let code = |words: &[&str]| Ok::<_, anyhow::Error>(run(&scene, true, words)?.status.code());
    ensure!(code(&["sh", "-c", "exit 7"])? == Some(7));
    ensure!(code(&["no-such-program"])? == Some(127));
    ensure!(code(&["/etc/passwd"])? == Some(126));
    let killed = run(&scene, true, &["sh", "-c", "kill -TERM $$"])?.status;
    ensure!(
        std::os::unix::process::ExitStatusExt::signal(&killed) == Some(15),
        "{killed}"
    );
    let limits = run(&scene, true, &["sh", "-c", "ulimit -Sn"])?.text();
    ensure!(
        limits.trim() == "1024",
        "the program may open {limits} files"
    );
    let mut cat = scene.client.command(&["run", "--", "cat"])?;
    ensure!(exec::output_with_input(&mut cat, b"input", LIMIT)?.text() == "input");
    Ok(())
}

/// The process of the redirector that serves the client's programs.
fn redirector(scene: &Scene) -> Result<Option<u64>> {
    let status = scene.client.run(&["status", "--offline", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let agents = status["agents"].as_array().cloned().unwrap_or_default();
    let found = agents.iter().find(|agent| agent["command"] == "redirector");
    Ok(found.and_then(|agent| agent["pid"].as_u64()))
}

/// Ends it as a manager would, and waits until it is gone.
fn end_redirector(scene: &Scene) -> Result<()> {
    let process = redirector(scene)?.context("no redirector is there")?;
    let words = ["-TERM", &process.to_string()];
    scene.net.b.run("kill", words, LIMIT)?.success()?;
    wait_until("the redirector ends", LIMIT, || {
        Ok(redirector(scene)?.is_none().then_some(()))
    })
}

/// Connects through the hook, prints the address and port of the listener that it got to, and waits for the end.
const PEER: &str = r#"
import socket
s = socket.create_connection(("echo.underpass.internal", 7))
address = s.getpeername()[0]
for line in open("/proc/net/tcp"):
    words = line.split()
    here = "%02X%02X%02X%02X" % tuple(int(part) for part in reversed(address.split(".")))
    if words[1].startswith(here) and words[3] == "0A":
        print(address, int(words[1].split(":")[1], 16))
"#;

fn what_was_not_announced_is_reset() -> Result<()> {
    let scene = scene()?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", echo.address())])?;
    let found = python(&scene, PEER, &[])?.success()?.text();
    let (address, port) = found
        .trim()
        .split_once(' ')
        .with_context(|| format!("no listener: {found:?}"))?;
    ensure!(echo.tally().connections() == 1);
    let knock = format!("exec 3<>/dev/tcp/{address}/{port} && cat <&3");
    for user in ["0", "65534"] {
        let words = ["--reuid", user, "--clear-groups", "bash", "-c", &knock];
        let done = scene.net.b.run("setpriv", words, LIMIT)?;
        ensure!(
            done.errors().contains("reset by peer"),
            "user {user}: {done:?}"
        );
    }
    // Nor is another user heard at the socket where programs announce.
    let socket = r#"
import glob, os, socket, sys
path = glob.glob(sys.argv[1] + "/run/redirector-*.sock")[0]
print(oct(os.stat(path).st_mode & 0o777))
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chmod(path, 0o666); [os.chmod(folder, 0o755) for folder in sys.argv[1:2] + [sys.argv[1] + "/run"]]
os.setuid(65534)
s.connect(path)
try:
    s.send(b"\x01\x01echo.underpass.internal")
    print(s.recv(100))
except OSError:
    print(b"")
"#;
    let home = scene
        .client
        .home()
        .to_str()
        .context("temporary folders are UTF-8")?;
    let done = scene
        .net
        .b
        .run("python3", ["-c", socket, home], LIMIT)?
        .success()?
        .text();
    ensure!(done == "0o600\nb''\n", "{done}");
    ensure!(
        echo.tally().connections() == 1,
        "something was dialled for a stranger"
    );
    Ok(())
}

/// Looks up and connects from many threads at once; then ends the redirector and tries again.
const MANY: &str = r#"
import errno, os, socket, sys, threading
good, bad = [], []
def work():
    for _ in range(8):
        try:
            s = socket.create_connection(("echo.underpass.internal", 80))
            s.sendall(b"hello")
            good.append(s.recv(5) == b"hello")
            s.close()
        except OSError as error:
            bad.append(error)
threads = [threading.Thread(target=work) for _ in range(50)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(good), all(good), bad)
known = socket.gethostbyname("echo.underpass.internal")
os.kill(int(sys.argv[1]), 9)
for name in (known, "echo.underpass.internal", "other.underpass.internal"):
    for _ in range(2):
        try:
            socket.create_connection((name, 80))
            print("connected")
        except OSError as error:
            print(errno.errorcode[error.errno])
"#;

fn many_at_once_and_nobody_else_once_it_is_gone() -> Result<()> {
    let scene = scene()?;
    let echo = Service::echo(&scene.net.a, 0)?;
    // It listens on all addresses of `b`, those of 127.64.0.0/10 too.
    let decoy = Service::echo(&scene.net.b, 80)?;
    let _published = scene.publish(&[("echo", echo.address())])?;
    run(&scene, true, &["true"])?.success()?;
    let process = redirector(&scene)?.context("no redirector is there")?;
    let done = python(&scene, MANY, &[&process.to_string()])?;
    let expected = format!("400 True []\n{}", "ECONNREFUSED\n".repeat(6));
    ensure!(done.text() == expected, "{}{}", done.text(), done.errors());
    ensure!(echo.tally().connections() == 400 && decoy.tally().connections() == 0);

    // The next program finds another redirector, which goes when nobody has needed it for a while.
    let background = ["redirector", "--background", "--linger", "3s"];
    scene.client.run(&background)?;
    python(&scene, PEER, &[])?.success()?;
    wait_until("the redirector goes", LIMIT, || {
        Ok(redirector(&scene)?.is_none().then_some(()))
    })
}
