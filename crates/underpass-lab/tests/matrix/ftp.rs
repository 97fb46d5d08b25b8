//! FTP, whose data connections are others than the one that is forwarded.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use underpass_lab::{Process, exec};

use crate::Row;
use crate::place::{LIMIT, Place, open_to_all, random, run, text};

/// What is carried in each direction by each mode, in bytes.
const SIZE: usize = 100 << 20;

pub(crate) fn rows() -> Vec<Row> {
    vec![Row {
        client: "lftp, curl",
        server: "vsftpd",
        published: "ftp:HOST:21",
        shown: "listing and 100 MiB both ways, passive and active; EPSV; 40 files at four connections; TLS and foreign \
                addresses are refused in words",
        needs: &["lftp", "vsftpd", "curl"],
        work: ftp,
    }]
}

fn ftp(place: &Place) -> Result<()> {
    let folder = place.folder("ftp")?;
    let (root, here) = (folder.join("root"), folder.join("here"));
    let _server = start(place, &folder, &root)?;
    place.no_other_way("ftp")?;
    std::fs::create_dir(&here)?;
    let content = random(1, SIZE);
    std::fs::write(root.join("files/big"), &content)?;
    std::fs::write(here.join("big"), random(2, SIZE))?;
    for mode in ["passive", "active"] {
        carry(place, &root, &here, mode, &content).with_context(|| mode.to_owned())?;
    }
    many_at_once(place, &root, &here)?;
    by_curl(place, &root, &here)?;
    refusals(place)
}

fn start(place: &Place, folder: &Path, root: &Path) -> Result<Process> {
    use std::os::unix::fs::PermissionsExt as _;
    let (files, empty) = (root.join("files"), folder.join("empty"));
    std::fs::create_dir_all(&files)?;
    std::fs::create_dir_all(&empty)?;
    open_to_all(root)?;
    // Anonymous users of vsftpd may write, though not into their root.
    std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o777))?;
    let config = folder.join("vsftpd.conf");
    let (at, root, empty) = (place.target("ftp"), text(root), text(&empty));
    let (ip, port) = (at.ip(), at.port());
    std::fs::write(
        &config,
        format!(
            "listen=YES\nlisten_address={ip}\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n\
             no_anon_password=YES\nanon_root={root}\nanon_upload_enable=YES\nwrite_enable=YES\nanon_umask=022\n\
             anon_other_write_enable=YES\nsecure_chroot_dir={empty}\nxferlog_enable=NO\nseccomp_sandbox=NO\n\
             ftp_username=ftp\nconnect_from_port_20=NO\n"
        ),
    )?;
    let mut command = place.a().command("vsftpd");
    command.arg(&config);
    place.serve("ftp", command)
}

/// Runs commands of lftp's, without TLS.
fn lftp(place: &Place, commands: &str) -> Result<String> {
    let script = format!(
        "set cmd:fail-exit true; set net:max-retries 1; set net:timeout 60; set ftp:ssl-allow false; {commands}"
    );
    Ok(run(place.b().command("lftp").args(["-c", &script]))?.text())
}

fn open(place: &Place) -> String {
    format!("open ftp://{}", place.at("ftp"))
}

fn carry(place: &Place, root: &Path, here: &Path, mode: &str, content: &[u8]) -> Result<()> {
    let (open, passive) = (open(place), mode == "passive");
    let (back, here) = (here.join(format!("{mode}-back")), text(here));
    let listing = lftp(
        place,
        &format!(
            "set ftp:passive-mode {passive}; {open}; cls -l files/; get files/big -o {}; put {here}/big -o files/{mode}",
            text(&back)
        ),
    )?;
    ensure!(listing.contains("big"), "{listing}");
    ensure!(std::fs::read(&back)? == content, "another file came back");
    let sent = std::fs::read(root.join("files").join(mode))?;
    ensure!(
        sent == std::fs::read(Path::new(here).join("big"))?,
        "another file arrived"
    );
    std::fs::remove_file(&back)?;
    std::fs::remove_file(root.join("files").join(mode))?;
    Ok(())
}

/// Several control connections of one client, each with data connections of its own.
fn many_at_once(place: &Place, root: &Path, here: &Path) -> Result<()> {
    let many = root.join("files/many");
    std::fs::create_dir(&many)?;
    open_to_all(&many)?;
    for number in 0..40 {
        std::fs::write(many.join(number.to_string()), random(number, 10_000))?;
    }
    let copy = here.join("many");
    let mirror = format!(
        "{}; mirror --parallel=4 files/many {}",
        open(place),
        text(&copy)
    );
    for extended in ["false", "true"] {
        lftp(place, &format!("set ftp:prefer-epsv {extended}; {mirror}"))?;
        for number in 0..40 {
            let found = std::fs::read(copy.join(number.to_string()))?;
            ensure!(found == random(number, 10_000), "file {number} is another");
        }
        std::fs::remove_dir_all(&copy)?;
    }
    Ok(())
}

/// curl asks by EPSV and EPRT, and goes on by PASV and PORT where those are refused.
fn by_curl(place: &Place, root: &Path, here: &Path) -> Result<()> {
    let content = random(3, 5 << 20);
    std::fs::write(root.join("files/small"), &content)?;
    let url = format!("ftp://{}/files/small", place.at("ftp"));
    let back = here.join("curl-back");
    for mode in [
        &["--no-epsv"][..],
        &["--epsv"],
        &["--ftp-port", "127.0.0.1"],
    ] {
        let mut command = place.b().command("curl");
        command
            .args(["-fsS", "-o", text(&back)])
            .args(mode)
            .arg(&url);
        run(&mut command).with_context(|| mode.join(" "))?;
        ensure!(
            std::fs::read(&back)? == content,
            "{mode:?}: another file came"
        );
    }
    Ok(())
}

fn refusals(place: &Place) -> Result<()> {
    let mut command = place.b().command("curl");
    command.args(["-sSv", "--ssl-reqd"]);
    command.arg(format!("ftp://{}/", place.at("ftp")));
    let done = exec::output(&mut command, LIMIT)?;
    let said = done.errors();
    ensure!(
        !done.status.success() && said.contains("UP-FTP-TLS"),
        "{said}"
    );

    // The address of another machine, as somebody would name it who wants to have a server connect there.
    let mut command = place.b().command("curl");
    command.args(["-sSv", "--quote", "PORT 192,0,2,1,200,1"]);
    command.arg(format!("ftp://{}/files/", place.at("ftp")));
    let done = exec::output(&mut command, LIMIT)?;
    let said = done.errors();
    ensure!(
        !done.status.success() && said.contains("UP-FTP-ADDRESS"),
        "{said}"
    );

    // What carries one connection only says so.
    let mut command = place.scene.client.command(&["nc", "ftp"])?;
    let done = exec::output(&mut command, LIMIT)?;
    let said = done.errors();
    ensure!(!done.status.success() && said.contains("UP-FTP"), "{said}");
    Ok(())
}
