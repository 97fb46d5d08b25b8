//! What carries files: SMB, git and rsync.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use underpass_lab::server::{Nginx, SshServer};

use crate::Row;
use crate::place::{Place, open_to_all, random, run, text};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row {
            client: "smbclient",
            server: "samba",
            published: "HOST:445",
            shown: "listing, 20 MiB both ways, by SMB 3",
            needs: &["smbclient", "smbd"],
            work: smb,
        },
        Row {
            client: "git",
            server: "sshd, nginx",
            published: "HOST:22, HOST:80",
            shown: "clone by SSH and by HTTP, push by SSH",
            needs: &["git", "sshd", "nginx"],
            work: git,
        },
        Row {
            client: "rsync",
            server: "rsync daemon, sshd",
            published: "HOST:873, HOST:22",
            shown: "200 files there and back, and again with one changed",
            needs: &["rsync", "sshd"],
            work: rsync,
        },
    ]
}

fn smb(place: &Place) -> Result<()> {
    let folder = place.folder("smb")?;
    let (share, own) = (folder.join("share"), folder.join("own"));
    std::fs::create_dir(&share)?;
    std::fs::create_dir(&own)?;
    let content = random(3, 20 << 20);
    std::fs::write(share.join("one"), &content)?;
    let (config, at) = (folder.join("smb.conf"), place.target("share"));
    let (share_path, own) = (text(&share), text(&own));
    std::fs::write(
        &config,
        format!(
            "[global]\ninterfaces = {}\nbind interfaces only = yes\nsmb ports = {}\ndisable netbios = yes\n\
             server role = standalone server\nmap to guest = bad user\nguest account = root\nprivate dir = {own}\n\
             lock directory = {own}\nstate directory = {own}\ncache directory = {own}\npid directory = {own}\n\
             ncalrpc dir = {own}/ncalrpc\nlog file = {own}/log\nload printers = no\nprinting = bsd\n\
             printcap name = /dev/null\ndisable spoolss = yes\n\
             [share]\npath = {share_path}\nguest ok = yes\nread only = no\nforce user = root\n",
            at.ip(),
            at.port()
        ),
    )?;
    let mut command = place.a().command("smbd");
    command.args(["--foreground", "--no-process-group"]);
    command.arg(format!("--configfile={}", text(&config)));
    let _server = place.serve("share", command)?;
    let at = place.at("share");
    let back = folder.join("back");
    let mut command = place.b().command("smbclient");
    command.arg(format!("//{}/share", at.ip()));
    command.args(["-p", &at.port().to_string(), "-N", "-m", "SMB3", "-c"]);
    command.arg(format!("get one {0}; put {0} two; ls", text(&back)));
    let listing = run(&mut command)?.text();
    ensure!(listing.contains("two"), "{listing}");
    ensure!(std::fs::read(&back)? == content, "another file came");
    ensure!(
        std::fs::read(share.join("two"))? == content,
        "another file arrived"
    );
    Ok(())
}

/// What `ssh` is told, without whom it is to reach.
pub(crate) fn ssh_words(place: &Place, server: &SshServer) -> Result<String> {
    let at = place.at("shell");
    let command = server.ssh(place.b(), at)?;
    let words: Vec<String> = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        // The namespace is entered by the program that runs ssh.
        .skip_while(|word| !word.ends_with("/ssh"))
        .filter(|word| !word.starts_with("root@"))
        .collect();
    Ok(words.join(" "))
}

fn git(place: &Place) -> Result<()> {
    let folder = place.folder("git")?;
    let sshd = SshServer::start(place.a(), place.a().address(), 22)?;
    let nginx = Nginx::start(place.a(), place.a().address(), 80)?;
    let ssh = ssh_words(place, &sshd)?;
    let repository = nginx.files().join("repository");
    std::fs::create_dir(&repository)?;
    let here = |words: &str, at: &Path| -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", words]).current_dir(at);
        Ok(run(&mut command)?.text())
    };
    let work = folder.join("work");
    std::fs::create_dir(&work)?;
    std::fs::write(work.join("large"), random(4, 5 << 20))?;
    let who = "-c user.name=lab -c user.email=lab@lab -c safe.directory=*";
    here(
        &format!(
            "git init -q -b main . && git {who} add . && git {who} commit -q -m one && \
             git init -q --bare -b main {0} && git {who} push -q {0} main && cd {0} && git update-server-info && chmod -R a+rX .",
            text(&repository)
        ),
        &work,
    )?;
    let head = here(&format!("git {who} rev-parse HEAD"), &work)?;
    let on_b = |words: &[&str], at: &Path| -> Result<String> {
        let mut command = place.b().command("git");
        command.env("GIT_SSH_COMMAND", &ssh).current_dir(at);
        command.args(who.split(' ')).args(words);
        Ok(run(&mut command).with_context(|| words.join(" "))?.text())
    };
    let (by_ssh, by_http) = (folder.join("by-ssh"), folder.join("by-http"));
    let url = format!("ssh://root@{}{}", place.at("shell"), text(&repository));
    on_b(&["clone", "-q", &url, text(&by_ssh)], &folder)?;
    let url = format!("http://{}/repository", place.at("web"));
    on_b(&["clone", "-q", &url, text(&by_http)], &folder)?;
    for clone in [&by_ssh, &by_http] {
        ensure!(on_b(&["rev-parse", "HEAD"], clone)? == head);
        on_b(&["fsck", "--strict"], clone)?;
    }
    std::fs::write(by_ssh.join("more"), random(5, 100_000))?;
    on_b(&["add", "."], &by_ssh)?;
    on_b(&["commit", "-q", "-m", "two"], &by_ssh)?;
    on_b(&["push", "-q"], &by_ssh)?;
    let pushed = here(&format!("git {who} rev-parse main"), &repository)?;
    ensure!(pushed == on_b(&["rev-parse", "HEAD"], &by_ssh)?);
    Ok(())
}

fn rsync(place: &Place) -> Result<()> {
    let folder = place.folder("rsync")?;
    let (there, tree) = (folder.join("there"), folder.join("tree"));
    for path in [&there, &tree] {
        std::fs::create_dir(path)?;
        open_to_all(path)?;
    }
    for number in 0..200 {
        std::fs::write(tree.join(number.to_string()), random(number, 50_000))?;
    }
    let (config, at) = (folder.join("rsyncd.conf"), place.target("mirror"));
    std::fs::write(
        &config,
        format!(
            "use chroot = no\nport = {}\naddress = {}\npid file = {}\nuid = root\ngid = root\n\
             [tree]\npath = {}\nread only = no\n",
            at.port(),
            at.ip(),
            text(&folder.join("pid")),
            text(&there)
        ),
    )?;
    let mut command = place.a().command("rsync");
    command.args(["--daemon", "--no-detach", "--config", text(&config)]);
    let _server = place.serve("mirror", command)?;
    let sshd = SshServer::start(place.a(), place.a().address(), 22)?;
    let ssh = ssh_words(place, &sshd)?;
    let daemon = format!("rsync://{}/tree/", place.at("mirror"));
    let shell = format!("root@{}:{}/", place.at("shell").ip(), text(&there));
    // With a remote shell named, rsync reaches its daemon through that.
    let ways: [(&str, &[&str]); 2] = [(&daemon, &[]), (&shell, &["-e", &ssh])];
    for (number, (far, how)) in ways.into_iter().enumerate() {
        let back = folder.join(format!("back{number}/"));
        let near = format!("{}/", text(&tree));
        for round in 0..2 {
            std::fs::write(tree.join("7"), random(1000 + round, 60_000))?;
            for (from, to) in [(&near[..], far), (far, text(&back))] {
                let mut command = place.b().command("rsync");
                command.args(["-a", "--checksum", "--delete"]).args(how);
                command.args([from, to]);
                run(&mut command).with_context(|| format!("{from} to {to}"))?;
            }
            let mut diff = Command::new("diff");
            run(diff.args(["-r", text(&tree), text(&back)]))?;
        }
    }
    Ok(())
}
