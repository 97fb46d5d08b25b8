//! Screens of other machines: VNC and RDP. A picture that is shown there must be seen here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use underpass_lab::{Host, Process, exec, wait_until};

use crate::Row;
use crate::picture::Picture;
use crate::place::{LIMIT, Place, run, text};

/// Between looks at a screen.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row {
            client: "vncviewer (TigerVNC)",
            server: "Xvnc (TigerVNC)",
            published: "HOST:5900",
            shown: "two pictures shown there are seen here",
            needs: &["vncviewer", "Xtigervnc", "Xvfb", "xwd", "xwud", "xdpyinfo"],
            work: vnc,
        },
        Row {
            client: "xfreerdp",
            server: "xrdp",
            published: "HOST:3389",
            shown: "two pictures shown there are seen here",
            needs: &[
                "xfreerdp",
                "xrdp",
                "Xtigervnc",
                "Xvfb",
                "xwd",
                "xwud",
                "xdpyinfo",
            ],
            work: rdp,
        },
    ]
}

/// A running X server.
pub(crate) struct Screen {
    host: Host,
    process: Process,
    pub(crate) display: String,
}

/// A display that nobody else uses. Sockets of displays are files, which all hosts of the lab share.
pub(crate) fn free_display() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    100 + std::process::id() % 500 * 16 + next
}

impl Screen {
    /// A screen without a machine's own, on which programs draw.
    pub(crate) fn start(host: &Host, more: &[&str]) -> Result<Self> {
        Self::of(
            host,
            "Xvfb",
            &[&["-screen", "0", "800x600x24", "-nolisten", "tcp"], more].concat(),
        )
    }

    /// One that VNC shows to others.
    fn shared(place: &Place) -> Result<Self> {
        let port = place.target("screen").port().to_string();
        let words = [
            "-geometry",
            "640x480",
            "-depth",
            "24",
            "-SecurityTypes",
            "None",
        ];
        let listen = ["-localhost=0", "-nolisten", "tcp", "-rfbport", &port];
        Self::of(place.a(), "Xtigervnc", &[&words[..], &listen].concat())
    }

    fn of(host: &Host, program: &str, words: &[&str]) -> Result<Self> {
        let display = format!(":{}", free_display());
        let mut command = host.command(program);
        command.arg(&display).args(words);
        let process = host.spawn(&format!("screen{}", display.replace(':', "-")), command)?;
        let number = display.trim_start_matches(':');
        let socket = PathBuf::from(format!("/tmp/.X11-unix/X{number}"));
        wait_until("the screen is there", LIMIT, || {
            if let Some(status) = process.exited()? {
                bail!("{program} ended with {status}\n{}", process.log_tail());
            }
            Ok(std::os::unix::net::UnixStream::connect(&socket)
                .ok()
                .map(drop))
        })?;
        Ok(Self {
            host: host.clone(),
            process,
            display,
        })
    }

    /// Starts a program that draws here.
    pub(crate) fn draw(&self, label: &str, folder: &Path, words: &[&str]) -> Result<Process> {
        let (program, words) = words.split_first().context("a program has a name")?;
        let mut command = self.host.command(program);
        command.args(words);
        command.env("DISPLAY", &self.display).env("HOME", folder);
        self.host.spawn(label, command)
    }

    /// Shows a picture for as long as the process is kept.
    pub(crate) fn show(&self, folder: &Path, seed: u32) -> Result<Process> {
        let file = folder.join(format!("{seed}.xwd"));
        std::fs::write(&file, Picture::new(seed).dump())?;
        self.draw("xwud", folder, &["xwud", "-in", text(&file)])
    }

    /// Waits until a picture is to be seen.
    pub(crate) fn sees(&self, seed: u32, by: &Process) -> Result<()> {
        let picture = Picture::new(seed);
        wait_until("the picture is seen", LIMIT, || {
            if let Some(status) = by.exited()? {
                bail!("{} ended with {status}\n{}", by.label(), by.log_tail());
            }
            if let Some(status) = self.process.exited()? {
                bail!("the screen ended with {status}");
            }
            let mut command = self.host.command("xwd");
            command.args(["-root", "-silent", "-display", &self.display]);
            let dump = run(&mut command)?.stdout;
            if picture.is_in(&dump) {
                return Ok(Some(()));
            }
            std::thread::sleep(LOOK);
            Ok(None)
        })
        .with_context(|| by.log_tail())
    }
}

fn vnc(place: &Place) -> Result<()> {
    let folder = place.folder("vnc")?;
    let (far, near) = (Screen::shared(place)?, Screen::start(place.b(), &[])?);
    let at = place.at("screen");
    let address = format!("{}::{}", at.ip(), at.port());
    // Pixels as they are.
    let words = [
        "-PreferredEncoding=Raw",
        "-AutoSelect=0",
        "-NoJPEG=1",
        "-FullColor=1",
        "-RemoteResize=0",
    ];
    let words = [&["vncviewer"], &words[..], &[&address]].concat();
    let viewer = near.draw("vncviewer", &folder, &words)?;
    both_pictures(&far, &near, &folder, &viewer)
}

/// The one picture while it is shown, then the other.
fn both_pictures(far: &Screen, near: &Screen, folder: &Path, by: &Process) -> Result<()> {
    for seed in [1, 2] {
        let _shown = far.show(folder, seed)?;
        near.sees(seed, by)?;
    }
    Ok(())
}

/// A screen on `a`, shown by VNC there, and by RDP to others.
pub(crate) struct Rdp {
    pub(crate) far: Screen,
    _server: Process,
}

impl Rdp {
    pub(crate) fn start(place: &Place, folder: &Path) -> Result<Self> {
        let far = Screen::shared(place)?;
        let (config, pem, key) = (
            folder.join("xrdp.ini"),
            folder.join("pem"),
            folder.join("key"),
        );
        let mut command = std::process::Command::new("openssl");
        command.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rdp", "-days", "2",
        ]);
        command.args(["-keyout", text(&key), "-out", text(&pem)]);
        exec::output(&mut command, LIMIT)?.success()?;
        let (at, screen) = (place.target("desktop"), place.target("screen"));
        std::fs::write(
            &config,
            format!(
                "[Globals]\nini_version=1\nfork=false\nport=tcp://{at}\nsecurity_layer=tls\ncrypt_level=high\n\
                 certificate={}\nkey_file={}\nssl_protocols=TLSv1.2, TLSv1.3\nautorun=far\nallow_channels=true\n\
                 max_bpp=32\nbitmap_cache=true\nbitmap_compression=true\nbulk_compression=true\nnew_cursors=false\n\
                 [Logging]\nLogFile={}\nLogLevel=INFO\nEnableSyslog=false\n[Channels]\n\
                 [far]\nname=far\nlib=libvnc.so\nusername=na\npassword=na\nip={}\nport={}\n",
                text(&pem),
                text(&key),
                text(&folder.join("xrdp.log")),
                screen.ip(),
                screen.port()
            ),
        )?;
        let mut command = place.a().command("xrdp");
        command.args(["--nodaemon", "--config", text(&config)]);
        let server = place.serve("desktop", command)?;
        Ok(Self {
            far,
            _server: server,
        })
    }

    /// Shows it on a screen of the client's.
    pub(crate) fn view(&self, place: &Place, near: &Screen, folder: &Path) -> Result<Process> {
        let address = format!("/v:{}", place.at("desktop"));
        let words = [
            "xfreerdp",
            &address,
            "/u:na",
            "/p:na",
            "/cert:ignore",
            "/size:640x480",
            "/bpp:24",
        ];
        near.draw("xfreerdp", folder, &words)
    }
}

fn rdp(place: &Place) -> Result<()> {
    let folder = place.folder("rdp")?;
    let (rdp, near) = (Rdp::start(place, &folder)?, Screen::start(place.b(), &[])?);
    let viewer = rdp.view(place, &near, &folder)?;
    both_pictures(&rdp.far, &near, &folder, &viewer)
}
