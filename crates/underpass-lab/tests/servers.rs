//! The real servers start, serve across a network and go away.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use underpass_lab::server::{Nginx, Postgres, Redis, SshServer};
use underpass_lab::{Cable, Finished, Host, Lab, exec, tests};

fn main() -> ExitCode {
    tests!(postgres, ssh, nginx, redis)
}

const LIMIT: Duration = Duration::from_secs(60);

fn run(command: &mut Command) -> Result<Finished> {
    exec::output(command, LIMIT)?.success()
}

fn two_hosts() -> Result<(Lab, Host, Host)> {
    let mut lab = Lab::new()?;
    let server = lab.public_host("server", Cable::Plain)?;
    let client = lab.public_host("client", Cable::Plain)?;
    Ok((lab, server, client))
}

fn postgres() -> Result<()> {
    let (_lab, server, client) = two_hosts()?;
    let postgres = Postgres::start(&server, server.address(), 5432)?;
    let at = postgres.address();
    run(&mut Postgres::pgbench(
        &client,
        at,
        &["-i", "-q", "-s", "1"],
    )?)?;
    let run_of_it = ["-c", "4", "-j", "1", "-t", "50"];
    let done = run(&mut Postgres::pgbench(&client, at, &run_of_it)?)?.text();
    ensure!(done.contains("processed: 200/200"), "{done}");
    let count = run(&mut Postgres::psql(
        &client,
        at,
        "select count(*) from pgbench_history",
    )?)?;
    ensure!(count.text().trim() == "200", "{}", count.text());
    let wrong = exec::output(&mut Postgres::psql(&client, at, "select nothing")?, LIMIT)?;
    ensure!(!wrong.status.success(), "a wrong statement passed");
    let id = postgres.process().id();
    drop(postgres);
    ensure!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    Ok(())
}

fn ssh() -> Result<()> {
    let (lab, server, client) = two_hosts()?;
    let sshd = SshServer::start(&server, server.address(), 22)?;
    let at = sshd.address();
    let done = run(sshd.ssh(&client, at)?.args(["echo", "$SSH_CONNECTION"]))?.text();
    ensure!(done.starts_with(&client.address().to_string()), "{done}");
    let (there, back) = (lab.logs().join("there"), lab.logs().join("back"));
    let content: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&there, &content)?;
    run(sshd
        .scp(&client, at)?
        .arg(format!("lab:{}", there.display()))
        .arg(&back))?;
    ensure!(std::fs::read(&back)? == content, "scp gave another file");
    Ok(())
}

fn nginx() -> Result<()> {
    let (_lab, server, client) = two_hosts()?;
    let nginx = Nginx::start(&server, server.address(), 80)?;
    nginx.put("hello", b"hello, lab\n")?;
    let url = |name: &str| format!("http://{}/{name}", nginx.address());
    let got = client
        .run("curl", ["-fsS", &url("hello")], LIMIT)?
        .success()?;
    ensure!(got.text() == "hello, lab\n", "{}", got.text());
    ensure!(
        !client
            .run("curl", ["-fsS", &url("none")], LIMIT)?
            .status
            .success()
    );
    Ok(())
}

fn redis() -> Result<()> {
    let (_lab, server, client) = two_hosts()?;
    let redis = Redis::start(&server, server.address(), 6379)?;
    let at = redis.address();
    run(Redis::cli(&client, at)?.args(["set", "key", "value"]))?;
    let got = run(Redis::cli(&client, at)?.args(["get", "key"]))?;
    ensure!(got.text().trim() == "value", "{}", got.text());
    run(Redis::benchmark(&client, at)?.args(["-q", "-n", "2000", "-c", "10", "-t", "set,get"]))?;
    Ok(())
}
