//! Tables in the documentation that a test writes, and compares.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What stands after such a table; before it stands a line that names the test.
const END: &str = "<!-- until here -->\n";

/// Compares `table` with the one in the page `docs/NAME` that `test` has written, or writes it there where
/// `UNDERPASS_BLESS` is set.
///
/// # Errors
/// They differ, or the page has no place for it.
pub fn compare(name: &str, test: &str, table: &str) -> Result<()> {
    let begin = format!("<!-- written by the test {test} -->\n");
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    let text = std::fs::read_to_string(&page)?;
    let (before, rest) = text
        .split_once(&begin)
        .context("the page has a place for it")?;
    let (known, after) = rest.split_once(END).context("the table ends")?;
    if std::env::var_os("UNDERPASS_BLESS").is_some() {
        std::fs::write(&page, format!("{before}{begin}{table}{END}{after}"))?;
    } else {
        ensure!(
            known == table,
            "docs/{name} has another table; UNDERPASS_BLESS=1 writes it anew"
        );
    }
    Ok(())
}
