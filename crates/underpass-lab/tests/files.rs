//! Files from user to user, while the path breaks and processes die.
//!
//! Topology of each: the sender on `a` behind firewall A, the receivers on `b` behind firewall B, the relay in public between
//! them.
//!
//! `UNDERPASS_SOAK=1` sends 5 GiB in a sparse file and 10,000 small files, with 50 cuts, instead of 128 MiB and 300 files
//! with 6.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use underpass_lab::{
    Agent, Cut, Cutter, Finished, Pace, Plan, Process, Scene, exec, soak, tests, wait_until,
};

fn main() -> ExitCode {
    tests!(
        everybody_gets_what_is_sent_and_nobody_anything_else,
        a_transfer_goes_on_after_either_end_was_killed,
        a_full_disk_is_told,
        two_users_chat,
    )
}

/// How long anything may take on a busy machine. Decides nothing but when a hanging test ends.
const LIMIT: Duration = Duration::from_secs(300);
const MEBIBYTE: u64 = 1 << 20;

/// How much is sent.
struct Size {
    files: usize,
    /// Of the sparse file, with its holes.
    length: u64,
    /// Of which so many bytes at the beginning of each step are no hole.
    data: u64,
    step: u64,
    cuts: usize,
    /// Bytes that arrive between the end of a cut and the next one.
    pace: std::ops::Range<u64>,
}

fn size() -> Size {
    if soak() {
        return Size {
            files: 10_000,
            length: 5 << 30,
            data: 2 * MEBIBYTE,
            step: 20 * MEBIBYTE,
            cuts: 50,
            pace: 2 * MEBIBYTE..9 * MEBIBYTE,
        };
    }
    Size {
        files: 300,
        length: 128 * MEBIBYTE,
        data: 2 * MEBIBYTE,
        step: 4 * MEBIBYTE,
        cuts: 6,
        pace: 2 * MEBIBYTE..6 * MEBIBYTE,
    }
}

/// The sender's machine, and the receiver's that everything goes to.
struct Post {
    alice: Agent,
    scene: Scene,
    home: tempfile::TempDir,
}

impl Post {
    fn open() -> Result<Self> {
        let scene = Scene::by("upgrade")?;
        let alice = Agent::invited(&scene.net.a, &scene.relay, "alice", &scene.publisher)?;
        let alice = alice.by("upgrade");
        let home = tempfile::tempdir()?;
        Ok(Self { alice, scene, home })
    }

    fn another(&self, name: &str) -> Result<Agent> {
        let Self { scene, .. } = self;
        let agent = Agent::invited(&scene.net.b, &scene.relay, name, &scene.publisher)?;
        Ok(agent.by("upgrade"))
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let place = self.home.path().join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    fn send(&self, arguments: &[&str]) -> Result<Finished> {
        let arguments = [&["send"], arguments].concat();
        exec::output(&mut self.alice.command(&arguments)?, LIMIT * 10)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders are UTF-8")
}

/// Ready when it returns.
fn receive(agent: &Agent, label: &str, folder: &Path, from: &str) -> Result<Process> {
    let command = agent.command(&["receive", "--dir", text(folder)?, "--from", from])?;
    let process = agent.host().spawn(label, command)?;
    let line = process.line(LIMIT)?;
    ensure!(line.starts_with("ready\tunderpass-files."), "{line}");
    Ok(process)
}

/// Bytes that do not repeat.
fn noise(length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open("/dev/urandom")?
        .take(length)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn make(folder: &Path, size: &Size) -> Result<()> {
    fs::create_dir_all(folder.join("small"))?;
    let bytes = noise(4096)?;
    for number in 0..size.files {
        let length = number * 37 % 4096;
        fs::write(folder.join(format!("small/{number:05}")), &bytes[..length])?;
    }
    let file = File::create(folder.join("sparse"))?;
    file.set_len(size.length)?;
    let mut at = 0;
    while at < size.length {
        file.write_all_at(&noise(size.data)?, at)?;
        at += size.step;
    }
    Ok(())
}

/// What diff(1) says of two folders, which is nothing where they are the same.
fn same(one: &Path, other: &Path) -> Result<()> {
    let mut diff = std::process::Command::new("diff");
    diff.args(["-r", "--no-dereference"]).arg(one).arg(other);
    exec::output(&mut diff, LIMIT)?.success().map(drop)
}

/// Bytes that a folder takes on the disk.
fn taken(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Counts on while files arrive.
fn watch<T>(folder: &Path, work: impl FnOnce(&Arc<AtomicU64>) -> Result<T>) -> Result<T> {
    let (counter, over) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                counter.store(taken(folder), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let done = work(&counter);
        over.store(true, Ordering::Relaxed);
        done
    })
}

/// The last field of the line of a receiver, in what `send` printed.
fn outcome<'a>(printed: &'a str, user: &str) -> Result<Vec<&'a str>> {
    let mut lines = printed
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let found = lines.find(|line| line[..2.min(line.len())] == ["user", user]);
    found.with_context(|| format!("nothing about {user} in {printed}"))
}

/// A folder of small files and a sparse one, to one who is there, one who was and is away, and one who lets nobody in,
/// through cuts at both firewalls. And a line on standard input.
fn everybody_gets_what_is_sent_and_nobody_anything_else() -> Result<()> {
    let (post, size) = (Post::open()?, size());
    let from = post.place("from")?.join("things");
    make(&from, &size)?;
    let into = post.place("client")?;
    let receiver = receive(&post.scene.client, "client", &into, "alice")?;
    let (carol, dave) = (post.another("carol")?, post.another("dave")?);
    // Carol is there once, and goes.
    receive(&carol, "carol", &post.place("carol")?, "alice")?.terminate(LIMIT)?;
    let _dave = receive(&dave, "dave", &post.place("dave")?, "carol")?;
    let cuts = |firewall: &underpass_lab::Firewall| {
        [
            Cut::Reset(firewall.clone()),
            Cut::BlackHole(firewall.clone()),
            Cut::Unplug(firewall.link().clone()),
        ]
    };
    let net = &post.scene.net;
    let begin = Instant::now();
    let (done, cut) = watch(&into, |counter| {
        let cutter = Cutter::start(Plan {
            seed: 5,
            cuts: [cuts(&net.firewall_a), cuts(&net.firewall_b)].concat(),
            pace: Pace::Progress(Arc::clone(counter), size.pace.clone()),
            outage: Duration::from_millis(20)..Duration::from_millis(1500),
            count: size.cuts,
        });
        let done = post.send(&[text(&from)?, "client", "carol", "dave"])?;
        Ok((done, cutter.stop()?))
    })?;
    let took = begin.elapsed();
    let printed = done.text();
    ensure!(
        done.status.code() == Some(1),
        "{:?}: {}",
        done.status,
        done.errors()
    );
    ensure!(done.errors().contains("UP-INCOMPLETE"), "{}", done.errors());
    let files = (size.files + 1).to_string();
    let client = outcome(&printed, "client")?;
    ensure!(client[2..4] == ["UP-OK", &files], "{client:?}");
    ensure!(
        outcome(&printed, "carol")?[2] == "UP-RECEIVER-AWAY",
        "{printed}"
    );
    ensure!(outcome(&printed, "dave")?[2] == "UP-SENDER", "{printed}");
    same(&from, &into.join("things"))?;
    // Both ends show the same, and it is what others compute.
    let shown = receiver.logged(&format!("user\talice\tUP-OK\t{files}\t"), LIMIT)?;
    ensure!(shown.ends_with(client[4]), "{shown}");
    let sum = exec::output(
        std::process::Command::new("sha256sum").arg(into.join("things/sparse")),
        LIMIT,
    )?;
    let sum = sum.text();
    let sum = sum.split(' ').next().unwrap_or_default();
    ensure!(
        printed.contains(&format!(
            "file\tthings/sparse\tUP-OK\t{}\t{sum}\n",
            size.length
        )),
        "{sum} is not in what was printed"
    );
    let (here, there) = (taken(&from), taken(&into));
    ensure!(there <= here + MEBIBYTE, "{here} bytes have become {there}");
    ensure!(cut.len() == size.cuts, "only {} cuts", cut.len());
    println!(
        "{} small files and {} MiB ({} MiB of them no holes) in {:.1} s through {} cuts",
        size.files,
        size.length / MEBIBYTE,
        taken(&from.join("..")) / MEBIBYTE,
        took.as_secs_f32(),
        cut.len()
    );
    let command = post
        .alice
        .command(&["send", "-", "client", "--name", "note"])?;
    let mut command = command;
    exec::output_with_input(&mut command, b"from a pipe", LIMIT)?.success()?;
    ensure!(fs::read(into.join("note"))? == b"from a pipe");
    // Another one of that name does not take its place.
    let mut command = post
        .alice
        .command(&["send", "-", "client", "--name", "note"])?;
    let again = exec::output_with_input(&mut command, b"another", LIMIT)?;
    ensure!(
        again.errors().contains("UP-FILE-EXISTS"),
        "{}",
        again.errors()
    );
    ensure!(fs::read(into.join("note"))? == b"from a pipe");
    Ok(())
}

/// The sender is killed (SIGKILL) in the middle, and the same command goes on; then the receiver, which is started again
/// while the sender goes on by itself.
fn a_transfer_goes_on_after_either_end_was_killed() -> Result<()> {
    let post = Post::open()?;
    let from = post.place("from")?;
    let bytes = noise(160 * MEBIBYTE)?;
    for name in ["one", "two"] {
        fs::write(from.join(name), &bytes)?;
    }
    let into = post.place("client")?;
    let receiver = receive(&post.scene.client, "client", &into, "alice")?;
    let part = |name: &str| into.join(format!(".{name}.underpass-part"));
    let arrived = |name: &str| {
        let part = part(name);
        wait_until("a part arrives", LIMIT, move || {
            let length = fs::metadata(&part).map_or(0, |it| it.len());
            Ok((length > 4 * MEBIBYTE).then_some(length))
        })
    };
    let path = from.join("one");
    let sender = post.alice.command(&["send", text(&path)?, "client"])?;
    let sender = post.scene.net.a.spawn("send", sender)?;
    arrived("one")?;
    sender.kill()?;
    ensure!(
        !into.join("one").exists(),
        "it was over before the sender died"
    );
    let done = post.send(&[text(&path)?, "client"])?.success()?;
    ensure!(outcome(&done.text(), "client")?[2] == "UP-OK");
    let on = receiver.logged("one goes on after ", LIMIT)?;
    ensure!(fs::read(into.join("one"))? == bytes);
    println!("after the sender's death: {on}");
    let path = from.join("two");
    let sender = post.alice.command(&["send", text(&path)?, "client"])?;
    let sender = post.scene.net.a.spawn("send-on", sender)?;
    arrived("two")?;
    receiver.restart()?;
    ensure!(sender.wait(LIMIT)?.success(), "{:?}", sender.exited());
    let on = receiver.logged("two goes on after ", LIMIT)?;
    println!("after the receiver's death: {on}");
    ensure!(fs::read(into.join("two"))? == bytes);
    ensure!(!part("one").exists() && !part("two").exists());
    Ok(())
}

/// The receiver's folder is a file system of 8 MiB.
fn a_full_disk_is_told() -> Result<()> {
    let post = Post::open()?;
    let (from, into) = (post.place("from")?, post.place("full")?);
    fs::write(from.join("large"), noise(16 * MEBIBYTE)?)?;
    fs::write(from.join("little"), "little")?;
    let program =
        post.scene
            .client
            .command(&["receive", "--from", "alice", "--dir", text(&into)?])?;
    let mut command = post.scene.net.b.command("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=8m none \"$0\" && exec \"$@\"",
    ]);
    command.arg(&into);
    command.arg(underpass_lab::built::underpass()?);
    let told: Vec<_> = program
        .get_args()
        .skip_while(|it| *it != "receive")
        .collect();
    command.args(told);
    command.env("UNDERPASS_HOME", post.scene.client.home());
    let receiver = post.scene.net.b.spawn("full", command)?;
    receiver.line(LIMIT)?;
    let done = post.send(&[text(&from)?, "client"])?;
    ensure!(done.errors().contains("UP-DISK-FULL"), "{}", done.errors());
    ensure!(done.status.code() == Some(1));
    receiver.logged("UP-DISK-FULL", LIMIT)?;
    // It goes on receiving what there is room for.
    ensure!(receiver.exited()?.is_none());
    Ok(())
}

/// Both type a line, and end.
fn two_users_chat() -> Result<()> {
    let post = Post::open()?;
    let talk = |agent: &Agent,
                with: &str,
                line: &str|
     -> Result<std::thread::JoinHandle<Result<Finished>>> {
        let mut command = agent.command(&["chat", with])?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("standard input is piped")?;
        writeln!(input, "{line}")?;
        drop(input);
        Ok(std::thread::spawn(move || {
            let done = child.wait_with_output()?;
            Ok(Finished {
                status: done.status,
                stdout: done.stdout,
                stderr: done.stderr,
            })
        }))
    };
    // Whoever comes first waits; which of them listens is settled by their names.
    let client = talk(&post.scene.client, "alice", "hello, alice")?;
    let alice = talk(&post.alice, "client", "\u{1b}[2Jhello, client")?;
    let join = |thread: std::thread::JoinHandle<Result<Finished>>| {
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    let (client, alice) = (join(client)?.success()?, join(alice)?.success()?);
    ensure!(
        client.text() == "alice: \u{fffd}[2Jhello, client\n",
        "{}",
        client.text()
    );
    ensure!(alice.text() == "client: hello, alice\n", "{}", alice.text());
    for (done, with) in [(&client, "alice"), (&alice, "client")] {
        let told = format!("talking with {with} (machine ");
        ensure!(done.errors().contains(&told), "{}", done.errors());
    }
    Ok(())
}
