//! Finding what Cargo has built.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Cargo's target folder, found from where this executable lies.
pub fn target_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    // Cargo marks its target folder for backup programs.
    let found = own
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists());
    found.map_or_else(|| std::env::temp_dir().join("underpass-lab"), PathBuf::from)
}

/// The `underpass` binary: `UNDERPASS_BIN`, or the one built beside this executable.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn underpass() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UNDERPASS_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this executable")?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("underpass"));
    let found = beside.into_iter().find(|file| file.is_file());
    found.context("no underpass binary beside this one: run cargo build -p underpass-cli first")
}

/// A program from the `examples` of one of the crates.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn example(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this executable")?;
    let mut folders = own.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| {
        let file = folder.join("examples").join(name);
        file.is_file().then_some(file)
    });
    found.with_context(|| {
        format!("no example {name} beside this one: run cargo build --workspace --examples first")
    })
}
