//! The table in `docs/proxies.md`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::measure::Figures;

const BEGIN: &str = "<!-- The table is written by the test: UNDERPASS_BLESS=1 cargo test -p underpass-lab --test proxy_matrix -->\n";
const END: &str = "<!-- end of the table -->";
const HEAD: &str = "| between client and relay | first byte | carrier | round trip | down | up | lost over 20 cuts |\n\
                    |---|---|---|---|---|---|---|\n";

/// A row as it stands in the page.
pub(crate) fn line(name: &str, figures: &Figures) -> String {
    let Figures {
        first_byte,
        carrier,
        round_trip,
        down,
        up,
        lost,
    } = figures;
    let rate = |rate: &f64| match rate / 1e6 {
        slow if slow < 10.0 => format!("{slow:.1} MB/s"),
        fast => format!("{fast:.0} MB/s"),
    };
    format!(
        "| {name} | {:.1} s | `{carrier}` | {} ms | {} | {} | {lost} B |",
        first_byte.as_secs_f64(),
        round_trip.as_millis(),
        rate(down),
        rate(up),
    )
}

/// Compares rows and carriers with the page, or writes the page.
pub(crate) fn check(measured: &[&(&'static str, Figures)]) -> Result<()> {
    let path = page();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the page has no place for the table")?;
    let (old, after) = rest.split_once(END).context("the table has no end")?;
    if std::env::var_os("UNDERPASS_BLESS").is_some() {
        let lines: Vec<String> = measured.iter().map(|(name, it)| line(name, it)).collect();
        let table = format!("{HEAD}{}\n", lines.join("\n"));
        return Ok(fs::write(
            &path,
            format!("{before}{BEGIN}{table}{END}{after}"),
        )?);
    }
    let documented: Vec<(String, String)> =
        old.lines().skip(2).filter_map(row_and_carrier).collect();
    let now: Vec<(String, String)> = measured
        .iter()
        .filter_map(|(name, it)| row_and_carrier(&line(name, it)))
        .collect();
    ensure!(
        documented == now,
        "docs/proxies.md says {documented:#?}\nnow it is {now:#?}"
    );
    Ok(())
}

fn row_and_carrier(line: &str) -> Option<(String, String)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    Some(((*cells.get(1)?).to_owned(), (*cells.get(3)?).to_owned()))
}

fn page() -> PathBuf {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crates.join("../../docs/proxies.md")
}
