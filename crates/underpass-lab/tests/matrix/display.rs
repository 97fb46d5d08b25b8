//! Programs here that draw on a display there.

use anyhow::{Context, Result, ensure};
use underpass_lab::{exec, wait_until};

use crate::Row;
use crate::desktop::{Screen, free_display};
use crate::picture::Picture;
use crate::place::{LIMIT, Place, run, text};

pub(crate) fn rows() -> Vec<Row> {
    vec![Row {
        client: "xclock, xdpyinfo, xwud",
        server: "Xvfb",
        published: "x11::DISPLAY",
        shown: "they draw on the far display, by socket, TCP and name; each side has a cookie of its own, and without it nobody \
                draws",
        needs: &[
            "Xvfb", "xauth", "xclock", "xdpyinfo", "xwininfo", "xwd", "xwud",
        ],
        work: display,
    }]
}

fn display(place: &Place) -> Result<()> {
    let folder = place.folder("display")?;
    let screen = Screen::published(place)?;
    let number = free_display();
    let local = format!("x11:{number}");
    let command = place
        .scene
        .client
        .command(&["connect", "display", &local])?;
    let entrance = place.b().spawn("connect-display", command)?;
    let line = entrance.line(LIMIT)?;
    let cookies = line
        .split_once("XAUTHORITY=")
        .context("the line names a file")?
        .1;
    ensure!(line.contains(&format!("DISPLAY=:{number} ")), "{line}");

    let on_b = |program: &str, display: &str, cookies: &str| {
        let mut command = place.b().command(program);
        command.env("DISPLAY", display).env("XAUTHORITY", cookies);
        command
    };
    let own = format!(":{number}");
    for display in [&own, &format!("127.0.0.1:{number}")] {
        let said = run(&mut on_b("xdpyinfo", display, cookies)).with_context(|| display.clone())?;
        ensure!(said.text().contains("800x600 pixels"), "{}", said.text());
    }
    // The publisher's own cookie is none here.
    let foreign = text(&place.cookies);
    for cookies in ["/dev/null", foreign] {
        let done = exec::output(&mut on_b("xdpyinfo", &own, cookies), LIMIT)?;
        let said = done.errors();
        ensure!(
            !done.status.success() && said.contains("UP-DISPLAY"),
            "{said}"
        );
    }
    let words = [
        "run",
        "--",
        "env",
        "DISPLAY=display.underpass.internal:0",
        "xdpyinfo",
    ];
    let said = run(&mut place.scene.client.command(&words)?)?.text();
    ensure!(said.contains("800x600 pixels"), "{said}");

    let file = folder.join("picture.xwd");
    std::fs::write(&file, Picture::new(7).dump())?;
    let mut draw = on_b("xwud", &own, cookies);
    draw.args(["-in", text(&file)]);
    let drawing = place.b().spawn("xwud", draw)?;
    screen.sees(7, &drawing)?;
    drop(drawing);

    let _clock = place.b().spawn("xclock", on_b("xclock", &own, cookies))?;
    wait_until("the clock is there", LIMIT, || {
        let tree = run(screen.asks("xwininfo").args(["-root", "-tree"]))?.text();
        Ok(tree.contains("xclock").then_some(()))
    })
}
