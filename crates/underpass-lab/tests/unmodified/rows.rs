//! The programs of the matrix.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// What a page says that is fetched through the tunnel.
const FAR: &str = "the far one";
/// What the decoy on the same machine says.
const NEAR: &str = "the near one";
/// What there is where no decoy listens.
const REFUSED: &str = "refused";

/// One program, and what it shows.
pub(crate) struct Row {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// The program that must be installed.
    pub(crate) needs: &'static str,
    /// The command.
    pub(crate) words: Vec<String>,
    /// What it says when it is led to the service.
    pub(crate) hooked: &'static str,
    /// What it says when it is let through.
    pub(crate) passing: &'static str,
}

impl Row {
    /// Whether this machine has it.
    pub(crate) fn installed(&self) -> bool {
        installed(self.needs)
    }
}

/// Whether this machine has a program.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn row(name: &'static str, needs: &'static str, words: &[&str]) -> Row {
    Row {
        name,
        needs,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        hooked: FAR,
        passing: NEAR,
    }
}

const URL: &str = "http://files.underpass.internal/who";
const REQUEST: &str = r"printf 'GET /who HTTP/1.0\r\n\r\n'";

/// All of them. `ssh` is a command that reaches the server of the test at 127.0.0.1.
pub(crate) fn all(folder: &Path, ssh: &Command) -> Result<Vec<Row>> {
    let own = underpass_lab::built::underpass()?;
    let own = own.to_str().context("the target folder is UTF-8")?;
    let mut rows = web();
    rows.extend(languages(folder)?);
    // To say so once more is to mean it.
    rows.push(Row {
        passing: FAR,
        ..row(
            "nested run",
            "curl",
            &[own, "run", "--", own, "run", "--", "curl", "-fsS", URL],
        )
    });
    rows.push(Row {
        hooked: "42",
        passing: REFUSED,
        ..row(
            "psql",
            "psql",
            &[
                "psql",
                "-h",
                "db.underpass.internal",
                "-U",
                "postgres",
                "-XAtqc",
                "select 6 * 7",
                "postgres",
            ],
        )
    });
    rows.push(Row {
        words: to_name(ssh, "shell.underpass.internal"),
        hooked: "far shell",
        passing: REFUSED,
        ..row("ssh", "ssh", &[])
    });
    Ok(rows)
}

fn web() -> Vec<Row> {
    let by_bash = format!("exec 3<>/dev/tcp/files.underpass.internal/80; {REQUEST} >&3; cat <&3");
    let by_nc = format!("{REQUEST} | nc -N files.underpass.internal 80");
    vec![
        row("curl", "curl", &["curl", "-fsS", URL]),
        row("curl, IPv4 only", "curl", &["curl", "-4fsS", URL]),
        row("wget", "wget", &["wget", "-qO-", "--tries=1", URL]),
        row("bash /dev/tcp", "bash", &["bash", "-c", &by_bash]),
        row("nc", "nc", &["bash", "-c", &by_nc]),
        row(
            "curl by a shell, in another session",
            "setsid",
            &["sh", "-c", &format!("setsid -w curl -fsS {URL}")],
        ),
        row(
            "curl by env -i",
            "curl",
            &["env", "-i", "/usr/bin/curl", "-fsS", URL],
        ),
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
    let subprocess = format!(
        "import subprocess; print(subprocess.run(['curl', '-fsS', '{URL}'], capture_output=True, env={{}}).stdout)"
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
    Ok(vec![
        row("python urllib", "python3", &["python3", "-c", &urllib]),
        row("python asyncio", "python3", &["python3", "-c", asyncio]),
        row(
            "python subprocess, emptied environment",
            "python3",
            &["python3", "-c", &subprocess],
        ),
        row("node fetch", "node", &["node", "-e", &node]),
        row("java HttpClient", "java", &["java", java]),
    ])
}

/// The words of a command of the lab for the program alone, with `name` where it calls 127.0.0.1.
fn to_name(command: &Command, name: &str) -> Vec<String> {
    let words = command.get_args().map(|word| word.to_string_lossy());
    // What comes first enters the namespace: `netns exec NAME`.
    let words = words.skip(3).map(|word| word.replace("127.0.0.1", name));
    words.chain(["echo far shell".to_owned()]).collect()
}
