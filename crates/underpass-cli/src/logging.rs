//! The log, on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Rules for commands that keep running: the story of their sessions.
pub const LONG: &str = "info";
/// Rules for commands that end by themselves.
pub const SHORT: &str = "warn";

/// Starts the log: `rules` where given, else `RUST_LOG`, else `usual`; only errors where `quiet`.
pub fn start(rules: &str, quiet: bool, usual: &str) -> Result<(), Failure> {
    let from_environment = std::env::var("RUST_LOG")
        .ok()
        .filter(|rules| !rules.is_empty());
    let rules = match (rules, from_environment) {
        ("", Some(rules)) => rules,
        ("", None) if quiet => "error".to_owned(),
        ("", None) => usual.to_owned(),
        (rules, _) => rules.to_owned(),
    };
    // It calls each refused certificate an error, where ours say which one it was and what to do.
    let all = format!("rustls_platform_verifier=off,{rules}");
    let filter = EnvFilter::try_new(&all)
        .map_err(|error| Failure::usage(format!("cannot log by {rules:?}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .init();
    Ok(())
}
