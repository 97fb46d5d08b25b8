//! Carriers through boxes on the way: a real nginx as it comes, and a path that cuts connections.

mod rig;

use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rig::{Rig, SCHEMES, Stream, check_stream, recv_exactly, send, send_stream, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use underpass_carrier::{KINDS, Kind, RelayUrl, ServerSettings, connect, kind_by_name};

/// How long a path may take to show that it streams. A box that holds a body does so for ever, so
/// the length decides nothing but how long the test takes.
const PROVING: Duration = Duration::from_millis(1500);

/// A running nginx in front of a server.
struct Nginx {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One process only (`master_process off`).
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nginx"))
        .find(|file| file.exists())
}

impl Nginx {
    /// Passes everything on to `upstream`, with `extra` in the location and all else at its default.
    async fn start(nginx: &Path, upstream: u16, extra: &str) -> Self {
        let location = format!("proxy_pass http://127.0.0.1:{upstream}; {extra}");
        Self::start_with(nginx, "", &location).await
    }

    /// What is said to `listen`, and of the only location.
    async fn start_with(nginx: &Path, listen: &str, location: &str) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let free = StdListener::bind("127.0.0.1:0").expect("bound");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {name};\n"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid nginx.pid;\n\
             events {{}}\n\
             http {{ access_log off; {temporary}\n\
             server {{ listen 127.0.0.1:{port}{listen};\n\
             location / {{ {location} }} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).expect("written");
        let process = Command::new(nginx)
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        within(async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        Self {
            process,
            port,
            _folder: folder,
        }
    }

    fn url(&self) -> RelayUrl {
        let text = format!("http://127.0.0.1:{}", self.port);
        text.parse().expect("valid")
    }
}

/// What becomes of each kind behind `extra`: true for those that must carry, false for those that
/// must fail in good time and with a reason that names it.
async fn through_nginx(extra: &str, expected: &[(&str, bool)]) {
    let Some(nginx) = find_nginx() else {
        eprintln!("skipped: nginx missing");
        return;
    };
    let mut rig = Rig::new().await;
    rig.client.proving_timeout = PROVING;
    let nginx = Nginx::start(&nginx, rig.port(SCHEMES[0]), extra).await;
    let url = nginx.url();
    let over_http = KINDS.iter().filter(|kind| !kind.abilities.needs_udp);
    assert_eq!(expected.len(), over_http.count());
    for (name, carries) in expected {
        let kind = kind_by_name(name).expect("known");
        if !carries {
            let error = connect(&url, kind, &rig.client).await.expect_err(name);
            let codes = match kind.abilities.needs_http2 {
                // This nginx speaks HTTP/1.1 only.
                true => ["broken", "protocol"],
                false => ["refused", "timed-out"],
            };
            assert!(codes.contains(&error.code()), "{name}: {error}");
            continue;
        }
        must_carry(&mut rig, kind, &url).await;
    }
}

/// A carrier over this path passes small things at once, and megabytes both ways.
async fn must_carry(rig: &mut Rig, kind: &'static Kind, url: &RelayUrl) {
    let name = kind.name;
    let (mut client, mut server) = rig.pair_to(kind, url).await;
    for _ in 0..20 {
        send(&mut server, b"now").await.expect("alive");
        assert_eq!(recv_exactly(&mut client, 3).await, b"now", "{name}");
    }
    let (up, down, (), ()) = tokio::join!(
        send_stream(&mut *client.sink, Stream::new(1, 3_000_000)),
        send_stream(&mut *server.sink, Stream::new(2, 3_000_000)),
        check_stream(&mut *server.source, Stream::new(1, 3_000_000)),
        check_stream(&mut *client.source, Stream::new(2, 3_000_000)),
    );
    up.unwrap_or_else(|error| panic!("{name} up: {error}"));
    down.unwrap_or_else(|error| panic!("{name} down: {error}"));
}

#[tokio::test]
async fn nginx_as_it_comes() {
    let expected = [
        ("upgrade", false),
        ("h2", false),
        ("ws", false),
        ("stream", false),
        ("posts", true),
        ("h2posts", false),
        ("poll", true),
        ("text", true),
    ];
    through_nginx("", &expected).await;
}

#[tokio::test]
async fn nginx_that_holds_every_response() {
    let expected = [
        ("upgrade", false),
        ("h2", false),
        ("ws", false),
        ("stream", false),
        ("posts", false),
        ("h2posts", false),
        ("poll", true),
        ("text", true),
    ];
    through_nginx("proxy_ignore_headers X-Accel-Buffering;", &expected).await;
}

#[tokio::test]
async fn nginx_with_small_bodies_only() {
    let expected = [
        ("upgrade", false),
        ("h2", false),
        ("ws", false),
        ("stream", false),
        ("posts", true),
        ("h2posts", false),
        ("poll", true),
        ("text", true),
    ];
    through_nginx("client_max_body_size 20k;", &expected).await;
}

#[tokio::test]
async fn nginx_that_passes_websocket_and_bodies_on() {
    let expected = [
        ("upgrade", true),
        ("h2", false),
        ("ws", true),
        ("stream", true),
        ("posts", true),
        ("h2posts", false),
        ("poll", true),
        ("text", true),
    ];
    let extra = "proxy_http_version 1.1; proxy_request_buffering off; client_max_body_size 0;\n\
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;";
    through_nginx(extra, &expected).await;
}

#[tokio::test]
async fn nginx_that_passes_grpc_on_passes_http2_on() {
    let Some(nginx) = find_nginx() else {
        eprintln!("skipped: nginx missing");
        return;
    };
    let mut rig = Rig::new().await;
    rig.client.media_type = http::HeaderValue::from_static("application/grpc");
    let upstream = rig.port(SCHEMES[0]);
    let location = format!("grpc_pass grpc://127.0.0.1:{upstream}; client_max_body_size 0;");
    let nginx = Nginx::start_with(&nginx, " http2", &location).await;
    let url = nginx.url();
    for kind in KINDS.iter().filter(|kind| kind.abilities.needs_http2) {
        must_carry(&mut rig, kind, &url).await;
    }
}

/// A path that cuts every connection after a number of bytes that nobody can foresee.
async fn cutting_path(upstream: u16) -> u16 {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let limit = move || 2_000 + u64::from(random.next_u32() % 400_000);
    path_that_cuts(upstream, limit).await
}

/// A path that cuts every connection after the next of these numbers of bytes.
async fn path_that_cuts(upstream: u16, mut next: impl FnMut() -> u64 + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let limit = next();
            tokio::spawn(async move {
                let far = TcpStream::connect(("127.0.0.1", upstream)).await;
                let (mut near_read, mut near_write) = near.into_split();
                let (mut far_read, mut far_write) = far.expect("connected").into_split();
                let mut left = limit;
                let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
                loop {
                    let count = tokio::select! {
                        count = near_read.read(&mut up) => {
                            let count = count.unwrap_or(0).min(left as usize);
                            if far_write.write_all(&up[..count]).await.is_err() { return }
                            count
                        }
                        count = far_read.read(&mut down) => {
                            let count = count.unwrap_or(0).min(left as usize);
                            if near_write.write_all(&down[..count]).await.is_err() { return }
                            count
                        }
                    };
                    left -= count as u64;
                    if count == 0 || left == 0 {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A box that cuts what is too large for it, and says nothing.
#[tokio::test]
async fn bodies_that_are_cut_for_their_size_become_smaller() {
    let cut_alone = |kind: &&Kind| {
        let abilities = &kind.abilities;
        abilities.survives_cut_connections && !abilities.needs_http2
    };
    for kind in KINDS.iter().filter(cut_alone) {
        let mut settings = ServerSettings::default();
        settings.largest_answer = 32 * 1024;
        let mut rig = Rig::with(settings).await;
        let port = path_that_cuts(rig.port(SCHEMES[0]), || 50_000).await;
        let url: RelayUrl = format!("http://127.0.0.1:{port}").parse().expect("valid");
        let (mut client, mut server) = rig.pair_to(kind, &url).await;
        let (up, ()) = tokio::join!(
            send_stream(&mut *client.sink, Stream::new(1, 8_000_000)),
            check_stream(&mut *server.source, Stream::new(1, 8_000_000)),
        );
        up.unwrap_or_else(|error| panic!("{} up: {error}", kind.name));
        let learnt = rig.client.path.bounds().largest_body;
        let most = learnt.unwrap_or_else(|| panic!("{}: nothing learnt", kind.name));
        assert!((16_000..50_000).contains(&most), "{}: {most}", kind.name);
    }
}

#[tokio::test]
async fn numbered_requests_survive_a_path_that_cuts_connections() {
    for kind in KINDS
        .iter()
        .filter(|kind| kind.abilities.survives_cut_connections)
    {
        // Where all requests share a connection, each of them meets every cut.
        let body = match kind.abilities.needs_http2 {
            true => 4 * 1024,
            false => 32 * 1024,
        };
        let mut settings = ServerSettings::default();
        settings.largest_answer = body;
        let mut rig = Rig::with(settings).await;
        rig.client.largest_body = body;
        let port = cutting_path(rig.port(SCHEMES[0])).await;
        let url: RelayUrl = format!("http://127.0.0.1:{port}").parse().expect("valid");
        let (mut client, mut server) = rig.pair_to(kind, &url).await;
        let (up, down, (), ()) = tokio::join!(
            send_stream(&mut *client.sink, Stream::new(1, 4_000_000)),
            send_stream(&mut *server.sink, Stream::new(2, 4_000_000)),
            check_stream(&mut *server.source, Stream::new(1, 4_000_000)),
            check_stream(&mut *client.source, Stream::new(2, 4_000_000)),
        );
        up.unwrap_or_else(|error| panic!("{} up: {error}", kind.name));
        down.unwrap_or_else(|error| panic!("{} down: {error}", kind.name));
    }
}
