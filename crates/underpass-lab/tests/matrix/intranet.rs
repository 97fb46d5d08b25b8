//! A web server that goes by its own name.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use underpass_lab::server::Nginx;
use underpass_lab::{exec, traffic};

use crate::Row;
use crate::place::{LIMIT, Place, random, run};

pub(crate) fn rows() -> Vec<Row> {
    vec![Row {
        client: "curl",
        server: "nginx",
        published: "http:HOST:8000",
        shown: "redirects lead back through the tunnel, on one connection; 20 MiB; what is no HTTP is refused in words",
        needs: &["curl", "nginx"],
        work: intranet,
    }]
}

fn intranet(place: &Place) -> Result<()> {
    let nginx = Nginx::start(place.a(), place.a().address(), 8000)?;
    let content = random(6, 20 << 20);
    nginx.put("big", &content)?;
    let folder = nginx.files().join("folder");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("page"), b"a page\n")?;
    let at = place.at("intranet");
    let curl = |words: &[&str]| {
        let mut command = place.b().command("curl");
        command.args(["-sS"]).args(words);
        command
    };
    // nginx sends whoever leaves the slash out to the address that it was called by.
    let url = format!("http://{at}/folder");
    let sent = run(&mut curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{redirect_url}",
        &url,
    ]))?
    .text();
    ensure!(sent == format!("http://{at}/folder/"), "{sent}");
    // One connection for all.
    let (page, big) = (
        format!("http://{at}/folder/page"),
        format!("http://{at}/big"),
    );
    let words = ["-L", "-w", "%{num_connects} %{http_code} "];
    let done = run(&mut curl(&[&words[..], &[&page, &page, &page]].concat()))?.text();
    ensure!(
        done.matches("1 200 ").count() == 1 && done.matches("0 200 ").count() == 2,
        "{done}"
    );
    ensure!(
        run(&mut curl(&[&big]))?.stdout == content,
        "another file came"
    );
    // A body of unknown length, which nginx does not want.
    let mut upload = curl(&["-T", "-", "-o", "/dev/null", "-w", "%{http_code}", &page]);
    let done = exec::output_with_input(&mut upload, &content, LIMIT)?;
    ensure!(done.text() == "405", "{} {}", done.text(), done.errors());
    let mut other = curl(&["--http2-prior-knowledge", &page]);
    let done = exec::output(&mut other, LIMIT)?;
    ensure!(!done.status.success(), "HTTP/2 passed");
    // Two names for the server, of which others might take the other one.
    let mut stream = traffic::connect(place.b(), at, LIMIT)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    ensure!(
        said.starts_with("HTTP/1.1 400 ") && said.contains("UP-SPEECH"),
        "{said}"
    );
    Ok(())
}
