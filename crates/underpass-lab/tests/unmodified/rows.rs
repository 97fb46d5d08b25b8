//! The programs of the matrix.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fetch::{BY_CALLS, BY_STD};

/// Where a program came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// At the service.
    Service,
    /// At the decoy of the same name on its own machine.
    Decoy,
    /// Nowhere.
    Nobody,
    /// It was not started, and the command says why and what to use instead.
    Told,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Service => "the service",
            Self::Decoy => "the decoy",
            Self::Nobody => "nobody",
            Self::Told => "says why not",
        })
    }
}

/// What a page says that is fetched through the tunnel.
pub(crate) const FAR: &str = "the far one";
/// What the decoy on the same machine says.
pub(crate) const NEAR: &str = "the near one";
/// What programs say who find nobody.
const NOBODY: [&str; 4] = ["refused", "curl: (7)", "ECONNREFUSED", "ConnectException"];

/// One program, and where it comes out.
pub(crate) struct Row {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// The program that must be installed.
    pub(crate) needs: &'static str,
    /// The command.
    pub(crate) words: Vec<String>,
    /// What it says at the service.
    far: &'static str,
    /// What it says at the decoy.
    near: &'static str,
    /// By `--via preload`, `--via seccomp`, `--via auto`, and when it is let through.
    pub(crate) expected: [Seen; 4],
}

impl Row {
    /// Where it came out, by what it said.
    pub(crate) fn seen(&self, said: &str) -> Option<Seen> {
        let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let signs: [(&[&str], Seen); 4] = [
            (&[self.far], Seen::Service),
            (&[self.near], Seen::Decoy),
            (&["UP-HOOK"], Seen::Told),
            (&NOBODY, Seen::Nobody),
        ];
        signs
            .iter()
            .find(|(words, _)| any(words))
            .map(|(_, seen)| *seen)
    }

    fn seeing(mut self, expected: [Seen; 4]) -> Self {
        self.expected = expected;
        self
    }

    fn saying(mut self, far: &'static str, near: &'static str) -> Self {
        (self.far, self.near) = (far, near);
        self
    }

    /// Where there is no decoy.
    fn or_nobody(mut self) -> Self {
        self.expected[3] = Seen::Nobody;
        self
    }
}

/// Whether this machine has a program.
pub(crate) fn installed(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

const ALL: [Seen; 4] = [Seen::Service, Seen::Service, Seen::Service, Seen::Decoy];
/// Of programs that take no library.
const BY_SUPERVISOR: [Seen; 4] = [Seen::Told, Seen::Service, Seen::Service, Seen::Decoy];

fn row<S: AsRef<str>>(name: &'static str, needs: &'static str, words: &[S]) -> Row {
    Row {
        name,
        needs,
        words: words.iter().map(|word| word.as_ref().to_owned()).collect(),
        far: FAR,
        near: NEAR,
        expected: ALL,
    }
}

const HOST: &str = "files.underpass.internal";
const PAGE: &str = "/who";
const URL: &str = "http://files.underpass.internal/who";
const REQUEST: &str = r"printf 'GET /who HTTP/1.0\r\n\r\n'";

/// All of them. `ssh` is a command that reaches the server of the test at 127.0.0.1; files go to `folder`.
pub(crate) fn all(folder: &Path, ssh: &Command) -> Result<Vec<Row>> {
    let mut rows = web();
    rows.extend(services(ssh));
    rows.extend(languages(folder)?);
    rows.extend(compiled(folder)?);
    rows.extend(families()?);
    Ok(rows)
}

fn web() -> Vec<Row> {
    let by_bash = format!("exec 3<>/dev/tcp/{HOST}/80; {REQUEST} >&3; cat <&3");
    let by_nc = format!("{REQUEST} | nc -N {HOST} 80");
    let repository = format!("http://{HOST}/repository");
    vec![
        row("curl", "curl", &["curl", "-fsS", URL]),
        row("curl, IPv4 only", "curl", &["curl", "-4fsS", URL]),
        row(
            "curl, TCP fast open",
            "curl",
            &["curl", "--tcp-fastopen", "-fsS", URL],
        ),
        row("wget", "wget", &["wget", "-qO-", "--tries=1", URL]),
        row(
            "busybox wget, static",
            "busybox",
            &["busybox", "wget", "-qO-", URL],
        )
        .seeing(BY_SUPERVISOR),
        row("git over HTTP", "git", &["git", "ls-remote", &repository])
            .saying("refs/heads/far", "refs/heads/near"),
        row("bash /dev/tcp", "bash", &["bash", "-c", &by_bash]),
        row("nc", "nc", &["bash", "-c", &by_nc]),
    ]
}

fn services(ssh: &Command) -> Vec<Row> {
    let psql = "psql -h db.underpass.internal -U postgres -XAtqc";
    let words: Vec<&str> = psql
        .split(' ')
        .chain(["select 6 * 7", "postgres"])
        .collect();
    let cache = ["redis-cli", "-h", "cache.underpass.internal", "ping"];
    vec![
        row("psql", "psql", &words).saying("42", NEAR).or_nobody(),
        row("redis-cli", "redis-cli", &cache)
            .saying("PONG", NEAR)
            .or_nobody(),
        row("ssh", "ssh", &to_name(ssh, "shell.underpass.internal"))
            .saying("far shell", NEAR)
            .or_nobody(),
    ]
}

fn languages(folder: &Path) -> Result<Vec<Row>> {
    let urllib = format!("import urllib.request as r; print(r.urlopen('{URL}').read())");
    let asyncio = "import asyncio\n\
        async def main():\n\
        \x20   r, w = await asyncio.open_connection('files.underpass.internal', 80)\n\
        \x20   w.write(b'GET /who HTTP/1.0\\r\\n\\r\\n')\n\
        \x20   print(await r.read())\n\
        asyncio.run(main())\n";
    let threads = format!(
        "import threading, urllib.request as r\n\
         said = []\n\
         threads = [threading.Thread(target=lambda: said.append(r.urlopen('{URL}').read())) for _ in range(8)]\n\
         [t.start() for t in threads]; [t.join() for t in threads]\n\
         print(said[0] if len(set(said)) == 1 and len(said) == 8 else said)\n"
    );
    let fork = format!(
        "import os, urllib.request as r\n\
         child = os.fork()\n\
         if child: os.waitpid(child, 0)\n\
         else: print(r.urlopen('{URL}').read(), flush=True); os._exit(0)\n"
    );
    let subprocess = format!(
        "import subprocess; print(subprocess.run(['curl', '-fsS', '{URL}'], capture_output=True, env={{}}))"
    );
    let node = format!("fetch('{URL}').then(r => r.text()).then(console.log)");
    let java = folder.join("Fetch.java");
    std::fs::write(
        &java,
        format!(
            "import java.net.*; import java.net.http.*;\n\
             public class Fetch {{ public static void main(String[] a) throws Exception {{\n\
             System.out.println(HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(\"{URL}\")).build(),\n\
             HttpResponse.BodyHandlers.ofString()).body()); }} }}\n"
        ),
    )?;
    let java = java.to_str().context("temporary folders are UTF-8")?;
    let python = |name, script: &str| row(name, "python3", &["python3", "-c", script]);
    Ok(vec![
        python("python urllib", &urllib),
        python("python asyncio", asyncio),
        python("python, 8 threads", &threads),
        python("python, forked", &fork),
        python("python subprocess, emptied environment", &subprocess),
        row("node fetch", "node", &["node", "-e", &node]),
        row("java HttpClient", "java", &["java", java]),
    ])
}

/// Programs that are built here, each where there is a compiler for it.
fn compiled(folder: &Path) -> Result<Vec<Row>> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the target folder is UTF-8")?;
    let fetch = |name, needs, program: &Path| {
        let program = program.to_string_lossy();
        row(name, needs, &[&program, HOST, PAGE])
    };
    let c = |name: &str, compiler: &str, options: &[&str]| {
        let source = source("fetch.c");
        build(
            folder,
            name,
            Command::new(compiler).args(options).arg("-w"),
            &source,
        )
    };
    let go = |name: &str, cgo: &str, tag: &str| {
        let mut command = Command::new("go");
        command.args(["build", "-tags", tag]);
        command.env("CGO_ENABLED", cgo).env("GO111MODULE", "off");
        command.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        build(folder, name, &mut command, &source("fetch.go"))
    };
    let musl_static = c("musl-static", "musl-gcc", &["-static"])?;
    let by_shell = format!("{} {HOST} {PAGE}; :", musl_static.display());
    Ok(vec![
        row("Rust, standard library", "sh", &[own, BY_STD, HOST, PAGE]),
        row(
            "Rust, system calls of its own",
            "sh",
            &[own, BY_CALLS, HOST, PAGE],
        )
        .seeing([Seen::Nobody, Seen::Service, Seen::Nobody, Seen::Decoy]),
        fetch("C, musl", "musl-gcc", &c("musl", "musl-gcc", &[])?),
        fetch("C, musl, static", "musl-gcc", &musl_static).seeing(BY_SUPERVISOR),
        fetch(
            "C, glibc, static",
            "gcc",
            &c("static", "gcc", &["-static"])?,
        )
        .seeing(BY_SUPERVISOR),
        row(
            "a static program by a shell",
            "musl-gcc",
            &["sh", "-c", &by_shell],
        )
        .seeing([Seen::Decoy, Seen::Service, Seen::Decoy, Seen::Decoy]),
        fetch("Go, static", "go", &go("go-static", "0", "x")?).seeing(BY_SUPERVISOR),
        fetch("Go, cgo", "go", &go("go-cgo", "1", "netcgo")?).seeing(BY_SUPERVISOR),
        fetch(
            "Go, cgo, its own resolver",
            "go",
            &go("go-netgo", "1", "netgo")?,
        )
        .seeing(BY_SUPERVISOR),
    ])
}

fn families() -> Result<Vec<Row>> {
    let own = underpass_lab::built::underpass()?;
    let own = own.to_str().context("the target folder is UTF-8")?;
    let daemon = format!("setsid sh -c 'sleep 0.2; curl -fsS {URL}' & exit 0");
    let other = "setpriv --reuid 65534 --regid 65534 --clear-groups curl -fsS";
    let words: Vec<&str> = other.split(' ').chain([URL]).collect();
    Ok(vec![
        row(
            "curl by env -i",
            "curl",
            &["env", "-i", "/usr/bin/curl", "-fsS", URL],
        ),
        row(
            "curl in a session of its own, its parent gone",
            "setsid",
            &["sh", "-c", &daemon],
        ),
        row(
            "curl by sudo, by root",
            "sudo",
            &["sudo", "-n", "curl", "-fsS", URL],
        ),
        row("curl as another user", "setpriv", &words)
            // The library lies in the home, where another user cannot read it.
            .seeing([Seen::Decoy, Seen::Nobody, Seen::Decoy, Seen::Decoy]),
        // To say so once more is to mean it.
        row(
            "nested run",
            "curl",
            &[own, "run", "--", own, "run", "--", "curl", "-fsS", URL],
        )
        .seeing([Seen::Service; 4]),
    ])
}

/// A program that is linked statically, where there is a compiler for it.
pub(crate) fn static_program(folder: &Path) -> Result<Option<PathBuf>> {
    let mut compiler = Command::new("musl-gcc");
    compiler.args(["-static", "-w"]);
    let program = build(folder, "static", &mut compiler, &source("fetch.c"))?;
    Ok(Some(program).filter(|program| program.is_file()))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/unmodified")
        .join(name)
}

/// Builds a program of one file, where the compiler is installed.
fn build(folder: &Path, name: &str, compiler: &mut Command, source: &Path) -> Result<PathBuf> {
    let program = folder.join(format!("fetch-{name}"));
    if installed(&compiler.get_program().to_string_lossy()) {
        compiler.arg("-o").arg(&program).arg(source);
        underpass_lab::exec::output(compiler, crate::BUILD_LIMIT)?
            .success()
            .with_context(|| format!("build {name}"))?;
    }
    Ok(program)
}

/// The words of a command of the lab for the program alone, with `name` where it calls 127.0.0.1.
fn to_name(command: &Command, name: &str) -> Vec<String> {
    let words = command.get_args().map(|word| word.to_string_lossy());
    // What comes first enters the namespace: `netns exec NAME`.
    let words = words.skip(3).map(|word| word.replace("127.0.0.1", name));
    words.chain(["echo far shell".to_owned()]).collect()
}
