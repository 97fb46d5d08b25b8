//! `underpass run`

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use underpass_agent::redirector::{fix, place, stay};
use underpass_proto::far_host::readings;
use underpass_proto::names::Suffix;

use underpass_supervisor::kind::Program;
use underpass_supervisor::{Launcher, hosts, is_supervised, is_supervised_at_all};

use super::Context;
use super::redirector::{self, own_command};
use super::via::{self, Via, Way, cannot_start};
use crate::failure::{Failure, HOOK, REDIRECTOR};
use crate::settings::{Flags, OnSession};

/// How long the redirector that is started here stays after the last program that needed it.
const LINGER: &str = "1m";
/// What the library is called that lies beside the binary.
const LIBRARY: &str = "libunderpass_hook.so";
/// The dynamic loader's list of libraries (ld.so(8)).
const PRELOAD: &str = "LD_PRELOAD";

/// Run an unmodified program that reaches services by name
///
/// For example: underpass run -- psql -h db.underpass.internal. In the program, and in all that it starts, the names
/// SERVICE.underpass.internal and SERVICE.OWNER.underpass.internal mean published services, at whatever port, and
/// HOST.SERVICE.underpass.internal hosts of a network that is published; everything else is as without. Flags for the way to the relay count where no redirector runs yet. The program takes the place of
/// this command: signals, terminal and exit code are its own. If it cannot be started the exit code is 127 where there is
/// none, else 126.
#[derive(Debug, Args)]
pub struct Run {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["PROGRAM", "ARGUMENT"])]
    program: Vec<OsString>,
    /// How the program is led to services: by a preloaded library (preload), by a supervisor (seccomp), or as it needs (auto, the default)
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Via::Auto)]
    via: Via,
    /// The library to preload; if not given, libunderpass_hook.so beside the underpass binary, else the one inside it
    #[arg(
        long,
        value_name = "FILE",
        env = "UNDERPASS_HOOK_LIBRARY",
        hide_env = true
    )]
    hook_library: Option<PathBuf>,
    /// Give a service an address of 127.64.0.0/10, for programs that take no names; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = mapping)]
    map: Vec<(String, Ipv4Addr)>,
    #[command(flatten)]
    pub flags: Flags<OnSession>,
    /// The settings file, which the redirector needs too.
    #[arg(skip)]
    config: Option<PathBuf>,
}

impl Run {
    /// The same with the settings file that was given.
    pub fn with_config(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// Becomes the program. Returns only when that fails.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let known = context.known_relay()?;
        let suffix = &context.settings.suffix;
        let place = place(&context.home, &known.key, suffix)?;
        if is_supervised_at_all() && !is_supervised(&place) {
            return Err(via::nested());
        }
        if stay(&place).is_err() {
            self.start_redirector(&place)?;
            stay(&place).map_err(|error| {
                Failure::local(
                    &REDIRECTOR,
                    format!(
                        "the redirector at {} ended at once: {error}",
                        place.display()
                    ),
                )
            })?;
        }
        self.fix_addresses(&place, suffix)?;
        let [program, arguments @ ..] = &self.program[..] else {
            return Err(Failure::usage("no program was named"));
        };
        let mut command = self.command(&context, &place, program, arguments)?;
        Err(cannot_start(program, &command.exec()))
    }

    /// What this process turns into.
    fn command(
        &self,
        context: &Context,
        place: &Path,
        program: &OsStr,
        arguments: &[OsString],
    ) -> Result<Command, Failure> {
        let mut plain = Command::new(program);
        plain.args(arguments);
        if is_supervised(place) {
            return Ok(plain);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = Program::find(program, &path);
        let preloaded = std::env::var_os(PRELOAD);
        match via::choose(self.via, found.as_ref())? {
            Way::Preload => {
                let library = self.library(context)?;
                let list = via::preload(preloaded.as_deref(), Some(&library));
                plain.env(PRELOAD, list).env(
                    underpass_hook::VARIABLE,
                    hook(place, &context.settings.suffix),
                );
                Ok(plain)
            }
            Way::Seccomp => {
                let suffix = context.settings.suffix.as_str();
                let hosts = hosts::make(place, suffix, std::process::id()).map_err(|error| {
                    Failure::local(&REDIRECTOR, format!("cannot write the names: {error}"))
                })?;
                let launcher = Launcher {
                    place: place.to_owned(),
                    suffix: suffix.to_owned(),
                    hosts: Some(hosts),
                    program: program.to_owned(),
                    arguments: arguments.to_vec(),
                };
                let own = own_command()?;
                let mut command = launcher.command(Path::new(own.get_program()));
                // Both at once would each announce what the other one connects.
                match via::preload(preloaded.as_deref(), None) {
                    list if list.is_empty() => command.env_remove(PRELOAD),
                    list => command.env(PRELOAD, list),
                };
                command
                    .env(underpass_hook::VARIABLE, "off")
                    .env(underpass_supervisor::VARIABLE, place);
                Ok(command)
            }
        }
    }

    fn fix_addresses(&self, place: &Path, suffix: &Suffix) -> Result<(), Failure> {
        for (named, address) in &self.map {
            let name = suffix.without(named);
            let what = format!("cannot give {name} the address {address}");
            match fix(place, &suffix.after(&name), *address) {
                Ok(true) => {}
                Ok(false) => {
                    let failure = Failure::local(&REDIRECTOR, what);
                    return Err(failure
                        .with_cause("the address is not of 127.64.0.0/10, or one of the two has another one already")
                        .with_next("choose another address, or end the redirector, which underpass status shows"));
                }
                Err(error) => return Err(Failure::local(&REDIRECTOR, format!("{what}: {error}"))),
            }
        }
        Ok(())
    }

    /// The library as a path that the dynamic loader can read.
    fn library(&self, context: &Context) -> Result<PathBuf, Failure> {
        let beside = || {
            let file = std::env::current_exe().ok()?.with_file_name(LIBRARY);
            file.is_file().then_some(file)
        };
        let library = match self.hook_library.clone().or_else(beside) {
            Some(file) => std::path::absolute(&file).unwrap_or(file),
            None => context.home.hook_library(underpass_hook::LIBRARY)?,
        };
        let shown = library.display();
        if !library.is_file() {
            return Err(Failure::local(
                &HOOK,
                format!("there is no library {shown}"),
            ));
        }
        // The dynamic loader takes a list, and knows no way to write such a character in it.
        if library
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|byte| b" :\t\n".contains(byte))
        {
            return Err(Failure::local(
                &HOOK,
                format!("the library's path {shown:?} has a space or a colon in it"),
            ));
        }
        Ok(library)
    }

    /// Starts a redirector that outlives this process, and waits until it is ready.
    fn start_redirector(&self, place: &Path) -> Result<(), Failure> {
        let mut command = own_command()?;
        command.args(["redirector", "--background", "--linger", LINGER]);
        command.args(redirector::flags(self.config.as_deref(), &self.flags));
        let done = command.stdin(Stdio::null()).output().map_err(|error| {
            Failure::local(&REDIRECTOR, format!("cannot start the redirector: {error}"))
        })?;
        // Another may have started one at the same time: then that one serves both.
        if done.status.success() || stay(place).is_ok() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(Failure::local(
            &REDIRECTOR,
            format!(
                "the redirector ended with {}; it said:\n{}",
                done.status,
                said.trim_end()
            ),
        ))
    }
}

/// What leads the preloaded library: the redirector's socket, and after a colon the suffix where it is not the usual.
fn hook(place: &Path, suffix: &Suffix) -> OsString {
    let mut value = place.as_os_str().to_owned();
    if *suffix != Suffix::default() {
        value.push(format!(":{suffix}"));
    }
    value
}

/// Reads `NAME=ADDRESS`, with or without the suffix of pseudo names.
fn mapping(text: &str) -> Result<(String, Ipv4Addr), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    readings(&name).map_err(|error| error.to_string())?;
    let address = address
        .parse()
        .map_err(|_| format!("{address} is no IPv4 address"))?;
    Ok((name, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_mapped_by_either_form_of_their_names() {
        let read = |text: &str| mapping(text).map(|(name, address)| format!("{name} {address}"));
        assert_eq!(read("db=127.64.1.1").unwrap(), "db 127.64.1.1");
        assert_eq!(
            read("db.al.underpass.internal=127.64.1.1").unwrap(),
            "db.al.underpass.internal 127.64.1.1"
        );
        assert_eq!(
            read("10-0-0-7.Net=127.64.1.1").unwrap(),
            "10-0-0-7.net 127.64.1.1"
        );
        for bad in [
            "db",
            "db=",
            "db=here",
            "=127.64.1.1",
            "d_b=127.64.1.1",
            "1.2.3=127.64.1.1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_library_learns_of_another_suffix() {
        let place = Path::new("/run/r.sock");
        assert_eq!(hook(place, &Suffix::default()), "/run/r.sock");
        let value = hook(place, &"my.corp".parse().unwrap());
        let parts = underpass_hook::variables::parts(value.as_encoded_bytes());
        assert_eq!(parts, (&b"/run/r.sock"[..], &b"my.corp"[..]));
    }
}
