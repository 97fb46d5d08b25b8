//! `underpass completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

/// Print a script that completes this command in a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    /// Prints it.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "underpass", &mut script);
        std::io::Write::write_all(&mut std::io::stdout().lock(), &script)
            .map_err(|error| Failure::file(format!("cannot write to standard output: {error}")))
    }
}
