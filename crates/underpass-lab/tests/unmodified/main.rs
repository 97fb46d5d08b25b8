//! Programs that know nothing of Underpass reach services by name, and what is not for them stays as it was.
//!
//! Topology of each: servers and publisher on `a` behind firewall A, programs on `b` behind firewall B, the relay in public
//! between them. On `b` the same names also stand in `/etc/hosts`, for decoys on `b` itself.

mod cost;
mod fetch;
mod matrix;
mod rows;

use std::net::Ipv4Addr;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cost::what_it_costs_to_connect;
use matrix::programs_reach_services_by_name_by_every_way;
use underpass_lab::server::Nginx;
use underpass_lab::traffic::Service;
use underpass_lab::{Finished, Options, Scene, TwoFirewalls, exec, tests, wait_until};

fn main() -> ExitCode {
    if let Some(fetched) = fetch::asked() {
        return match fetched {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    tests!(
        programs_reach_services_by_name_by_every_way,
        every_call_is_led_there_by_either_c_library,
        errors_and_ends_are_those_of_a_network,
        what_was_not_announced_is_reset,
        an_ordinary_user_is_served_too,
        what_it_costs_to_connect,
        many_at_once_and_nobody_else_once_it_is_gone
    )
}

/// How long one program may run on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(120);

/// What the names on `b` lead to when nobody stands before the C library.
const NAMES: [&str; 5] = ["files", "db", "cache", "shell", "echo"];

/// How long a compiler may take that has to compile its library first.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

fn scene() -> Result<Scene> {
    let scene = Scene::start(TwoFirewalls::new()?, &Options::default())?;
    let names = NAMES.map(|name| format!("{name}.underpass.internal"));
    let decoys = names
        .each_ref()
        .map(|name| (name.as_str(), Ipv4Addr::LOCALHOST));
    scene.net.b.knows(&decoys)?;
    Ok(scene)
}

/// How a program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Preload,
    Seccomp,
    /// With the hook told to let everything pass.
    Through,
}

/// `underpass run -- WORDS...` on `b`.
fn run<S: AsRef<str>>(scene: &Scene, way: Way, words: &[S]) -> Result<Finished> {
    let mut arguments = match way {
        Way::Preload => vec!["run", "--"],
        Way::Seccomp => vec!["run", "--via", "seccomp", "--"],
        Way::Through => vec!["run", "--", "env", "UNDERPASS_HOOK=off"],
    };
    arguments.extend(words.iter().map(AsRef::as_ref));
    exec::output(&mut scene.client.command(&arguments)?, LIMIT)
}

fn python(scene: &Scene, way: Way, script: &str, arguments: &[&str]) -> Result<Finished> {
    let words = [&["python3", "-c", script], arguments].concat();
    run(scene, way, &words)
}

/// The lines that `calls.c` prints where every call is led to the service: those about names first.
const BY_NAME: &str = "\
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
";
/// Then, where only the preloaded library stands, those about DNS; the supervisor has names in a file and leaves DNS alone.
const BY_DNS: &str = "\
res_query -1 HOST_NOT_FOUND
res_search -1 HOST_NOT_FOUND
getaddrinfo_a EAI_AGAIN
";
/// Then those about connections, of which the first names the port that the program sees.
const CONNECTIONS: &str = "\
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
    for (compiler, option) in [
        ("gcc", "-O1"),
        ("musl-gcc", "-O1"),
        ("gcc", "-static"),
        ("musl-gcc", "-static"),
    ] {
        if !rows::installed(compiler) {
            println!("{compiler} is not installed");
            continue;
        }
        let program = calls(&scene, compiler, option)?;
        let words = [&program, "echo.underpass.internal", "no queries"];
        let led = |way, words: &[&str], expected: &str| {
            let before = echo.tally().connections();
            let done = run(&scene, way, words)?;
            let said = done.text();
            ensure!(
                as_named(&said) == format!("{expected}{UNTOUCHED}"),
                "{compiler} {option} {way:?}: {said}{}",
                done.errors()
            );
            let arrived = echo.tally().connections() - before;
            ensure!(
                arrived >= 7,
                "{compiler} {option} {way:?}: {arrived} connections arrived"
            );
            Ok(())
        };
        let supervised = format!("{BY_NAME}connect ANY ok\n{CONNECTIONS}");
        led(Way::Seccomp, &words, &supervised)?;
        if option == "-static" {
            continue;
        }
        let preloaded = format!("{BY_NAME}{BY_DNS}connect 7 ok\n{CONNECTIONS}");
        led(Way::Preload, &words[..2], &preloaded)?;
        // The same calls, let through: to nobody, since nothing listens at the near address.
        let before = echo.tally().connections();
        let passing = run(&scene, Way::Through, &words[..2])?.text();
        ensure!(
            passing.ends_with(UNTOUCHED) && !passing.contains("ok\ne"),
            "{compiler}: {passing}"
        );
        ensure!(
            echo.tally().connections() == before,
            "{compiler}: it arrived all the same"
        );
    }
    Ok(())
}

/// Builds `calls.c`.
fn calls(scene: &Scene, compiler: &str, option: &str) -> Result<String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unmodified/calls.c");
    let program = scene.net.b.logs().join(format!("calls-{compiler}{option}"));
    let program = program.to_str().context("temporary folders are UTF-8")?;
    let mut build = Command::new(compiler);
    build.args([option, "-w", "-o", program, source]);
    exec::output(&mut build, LIMIT)?
        .success()
        .context(compiler.to_owned())?;
    Ok(program.to_owned())
}

/// What was printed, with the port that the program named where it is told the redirector's: the supervisor does not stand
/// before getpeername(2).
fn as_named(said: &str) -> String {
    let lines = said.lines().map(|line| {
        let port = line
            .strip_prefix("connect ")
            .and_then(|rest| rest.strip_suffix(" ok"));
        match port.is_some_and(|port| port != "7" && port.parse::<u16>().is_ok()) {
            true => "connect ANY ok\n".to_owned(),
            false => format!("{line}\n"),
        }
    });
    lines.collect()
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
    let done = python(
        &scene,
        Way::Preload,
        ERRORS,
        &["closed", "private", "nothing", "a.b.c"],
    )?;
    let expected = "closed ECONNREFUSED True ECONNRESET\nprivate EACCES True ECONNRESET\n\
                    nothing EAI True\na.b.c EAI True\n";
    ensure!(done.text() == expected, "{}{}", done.text(), done.errors());
    // Names that a user may not use are not in the file of names.
    let done = python(&scene, Way::Seccomp, ERRORS, &["closed"])?;
    let expected = expected.lines().next().map(|line| line.to_owned() + "\n");
    ensure!(
        Some(done.text()) == expected,
        "{}{}",
        done.text(),
        done.errors()
    );
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
    for way in [Way::Preload, Way::Seccomp] {
        let code = |words: &[&str]| Ok::<_, anyhow::Error>(run(&scene, way, words)?.status.code());
        ensure!(code(&["sh", "-c", "exit 7"])? == Some(7));
        ensure!(code(&["no-such-program"])? == Some(127));
        ensure!(code(&["/etc/passwd"])? == Some(126));
        let killed = run(&scene, way, &["sh", "-c", "kill -TERM $$"])?.status;
        ensure!(
            std::os::unix::process::ExitStatusExt::signal(&killed) == Some(15),
            "{killed}"
        );
        let limits = run(&scene, way, &["sh", "-c", "ulimit -Sn"])?.text();
        ensure!(
            limits.trim() == "1024",
            "the program may open {limits} files"
        );
        // It has no child that it does not know, and is in the session that it was started in.
        let about =
            "ps -o args= --ppid $$ | grep '[s]upervise'; ps -o sid= -p $$; ps -o sid= -p $PPID";
        let sessions = run(&scene, way, &["bash", "-c", about])?.text();
        let sessions: Vec<&str> = sessions.split_whitespace().collect();
        ensure!(
            sessions.len() == 2 && sessions[0] == sessions[1],
            "{way:?}: {sessions:?}"
        );
        let via = if way == Way::Seccomp {
            "seccomp"
        } else {
            "preload"
        };
        let mut cat = scene.client.command(&["run", "--via", via, "--", "cat"])?;
        ensure!(exec::output_with_input(&mut cat, b"input", LIMIT)?.text() == "input");
    }
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

/// Connects a socket that another user made, and says how far it came.
const FOREIGN: &str = r#"
import errno, os, select, socket
ours, theirs = socket.socketpair()
if os.fork() == 0:
    os.setuid(65534)
    made = socket.socket()
    socket.send_fds(theirs, [b"x"], [made.fileno()])
    os._exit(0)
s = socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])
s.setblocking(False)
begun = s.connect_ex(("echo.underpass.internal", 7))
if begun not in (0, errno.EINPROGRESS):
    print(errno.errorcode[begun])
else:
    poll = select.poll()
    poll.register(s, select.POLLIN)
    poll.poll(60000)
    try:
        print(s.recv(1))
    except OSError as error:
        print(errno.errorcode[error.errno])
"#;

fn what_was_not_announced_is_reset() -> Result<()> {
    let scene = scene()?;
    let echo = Service::echo(&scene.net.a, 0)?;
    let _published = scene.publish(&[("echo", echo.address())])?;
    let found = python(&scene, Way::Preload, PEER, &[])?.success()?.text();
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
    // What was announced, but is another user's.
    for (way, expected) in [
        (Way::Preload, "ECONNRESET\n"),
        (Way::Seccomp, "ECONNREFUSED\n"),
    ] {
        let done = python(&scene, way, FOREIGN, &[])?;
        ensure!(
            done.text() == expected,
            "{way:?}: {}{}",
            done.text(),
            done.errors()
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

/// What user and group the program has, and whether `/etc/hosts` is that of the supervisor.
const WHO: &str = "id -u; id -g; grep -c 'echo.underpass.internal$' /etc/hosts";

fn an_ordinary_user_is_served_too() -> Result<()> {
    let scene = scene()?;
    let (a, b) = (&scene.net.a, &scene.net.b);
    let files = Nginx::start(a, a.address(), 80)?;
    files.put("who", rows::FAR.as_bytes())?;
    let echo = Service::echo(a, 0)?;
    let _published = scene.publish(&[("files", files.address()), ("echo", echo.address())])?;
    let folder = tempfile::tempdir()?;
    let home = folder
        .path()
        .to_str()
        .context("temporary folders are UTF-8")?;
    let program = rows::static_program(folder.path())?;
    let script = "cp -r \"$0\"/. \"$1\" && rm -rf \"$1\"/run && chown -R 65533:65533 \"$1\"";
    let from = scene
        .client
        .home()
        .to_str()
        .context("temporary folders are UTF-8")?;
    b.run("sh", ["-c", script, from, home], LIMIT)?.success()?;
    let own = underpass_lab::built::underpass()?;
    let own = own.to_str().context("the target folder is UTF-8")?;
    let as_user = |words: &[&str]| -> Result<Finished> {
        let variable = format!("UNDERPASS_HOME={home}");
        let before = [
            "--reuid",
            "65533",
            "--regid",
            "65533",
            "--clear-groups",
            "env",
        ];
        let before = [&before[..], &[&variable, own, "run"]].concat();
        b.run("setpriv", [&before[..], words].concat(), LIMIT)
    };
    for way in ["preload", "seccomp", "auto"] {
        let done = as_user(&[
            "--via",
            way,
            "--",
            "curl",
            "-fsS",
            "http://files.underpass.internal/who",
        ])?;
        ensure!(
            done.text() == rows::FAR,
            "{way}: {}{}",
            done.text(),
            done.errors()
        );
    }
    let who = as_user(&["--via", "seccomp", "--", "sh", "-c", WHO])?;
    ensure!(
        who.text() == "65533\n65533\n1\n",
        "{}{}",
        who.text(),
        who.errors()
    );
    if let Some(program) = program {
        let program = program.to_str().context("temporary folders are UTF-8")?;
        let done = as_user(&["--", program, "files.underpass.internal", "/who"])?;
        ensure!(
            done.text().contains(rows::FAR),
            "{}{}",
            done.text(),
            done.errors()
        );
    }
    // What gets more rights than its user is told so, and not started.
    let mount = as_user(&["--", "su", "-c", "true"])?;
    ensure!(
        mount.status.code() == Some(1) && mount.errors().contains("underpass connect"),
        "{}",
        mount.errors()
    );
    // Nor can one program have two supervisors.
    let other = format!("UNDERPASS_HOME={from}");
    let words = [
        "run", "--via", "seccomp", "--", "env", &other, own, "run", "--", "true",
    ];
    let done = exec::output(&mut scene.client.command(&words)?, LIMIT)?.success()?;
    ensure!(done.text().is_empty());
    let variable = format!("UNDERPASS_HOME={home}");
    let words = [
        "run", "--via", "seccomp", "--", "env", &variable, own, "run", "--", "true",
    ];
    let done = exec::output(&mut scene.client.command(&words)?, LIMIT)?;
    ensure!(
        done.errors().contains("supervised already"),
        "{}",
        done.errors()
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
for name in [known] + sys.argv[2:]:
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
    let names = ["echo.underpass.internal", "other.underpass.internal"];
    // What the supervisor does not know goes to DNS, which is not there.
    for (way, names) in [(Way::Preload, &names[..]), (Way::Seccomp, &names[..1])] {
        let before = echo.tally().connections();
        run(&scene, way, &["true"])?.success()?;
        let process = redirector(&scene)?.context("no redirector is there")?;
        let process = process.to_string();
        let arguments = [&[process.as_str()], names].concat();
        let done = python(&scene, way, MANY, &arguments)?;
        let expected = format!(
            "400 True []\n{}",
            "ECONNREFUSED\n".repeat(2 + 2 * names.len())
        );
        ensure!(
            done.text() == expected,
            "{way:?}: {}{}",
            done.text(),
            done.errors()
        );
        let arrived = echo.tally().connections() - before;
        ensure!(
            arrived == 400 && decoy.tally().connections() == 0,
            "{way:?}: {arrived}"
        );
    }

    // The next program finds another redirector, which goes when nobody has needed it for a while.
    let background = ["redirector", "--background", "--linger", "3s"];
    scene.client.run(&background)?;
    python(&scene, Way::Preload, PEER, &[])?.success()?;
    wait_until("the redirector goes", LIMIT, || {
        Ok(redirector(&scene)?.is_none().then_some(()))
    })
}
