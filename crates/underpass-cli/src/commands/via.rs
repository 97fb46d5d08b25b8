//! By which way `underpass run` leads a program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use underpass_supervisor::kind::{Kind, Program};
use underpass_supervisor::{LAUNCH, LaunchError, SUPERVISE, launch, supervise};

use crate::failure::{Failure, HOOK, PROGRAM};

/// The ways that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// What the program needs: seccomp where it is linked statically or of Go, else preload
    Auto,
    /// A library that the dynamic loader puts before the C library
    Preload,
    /// A supervisor that makes the connections of the program, and of all that it starts
    Seccomp,
}

/// The ways that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// See [`Via::Preload`].
    Preload,
    /// See [`Via::Seccomp`].
    Seccomp,
}

/// What always works.
const INSTEAD: &str =
    "underpass connect NAME 127.0.0.1:PORT, or underpass proxy, and lead the program there";

/// The way for a program, as far as it was found.
pub fn choose(via: Via, program: Option<&Program>) -> Result<Way, Failure> {
    let Some(program) = program else {
        // Whoever starts it learns why not.
        return Ok(match via {
            Via::Seccomp => Way::Seccomp,
            Via::Auto | Via::Preload => Way::Preload,
        });
    };
    let path = program.path.display();
    let refuse = |what: &str, cause: &str, next: &str| {
        let failure = Failure::local(&HOOK, format!("{path} {what}"));
        Err(failure.with_cause(cause).with_next(next))
    };
    if program.privileged {
        return refuse(
            "gets rights that you have not, and no program that does can be led",
            "it is setuid or setgid, or has capabilities, as sudo and su",
            INSTEAD,
        );
    }
    match (via, program.kind) {
        (_, Kind::Foreign) => refuse(
            "is for another machine, or one of 32 bits, and cannot be led",
            "the library and the supervisor are for programs of this machine's own kind",
            INSTEAD,
        ),
        (Via::Preload, Kind::Static) => refuse(
            "takes no preloaded library",
            "it is linked statically",
            "underpass run --via seccomp",
        ),
        (Via::Preload, Kind::Go) => refuse(
            "connects past every preloaded library",
            "programs of Go call the kernel without the C library",
            "underpass run --via seccomp",
        ),
        (Via::Seccomp, _) | (Via::Auto, Kind::Static | Kind::Go) => Ok(Way::Seccomp),
        (Via::Auto | Via::Preload, Kind::Dynamic) => Ok(Way::Preload),
    }
}

/// A program that is supervised for another redirector.
pub fn nested() -> Failure {
    of_launch(&LaunchError::Nested)
}

/// Does what this binary does under other names, where it was started under one: becomes a supervised program, or
/// supervises.
pub fn serve_under_another_name() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = Path::new(&name).file_name()?;
    let failure = if name == LAUNCH {
        let Err(error) = launch(warn_nameless);
        of_launch(&error)
    } else if name == SUPERVISE {
        match supervise() {
            Ok(()) => return Some(ExitCode::SUCCESS),
            Err(error) => Failure::local(&HOOK, error.to_string()),
        }
    } else {
        return None;
    };
    eprintln!("{failure}");
    Some(ExitCode::from(failure.exit))
}

fn warn_nameless(error: &io::Error) {
    eprintln!(
        "underpass: this system lets a program have no file of names of its own ({error}); names do not resolve in this \
         program, addresses do: --map NAME=ADDRESS"
    );
}

fn of_launch(error: &LaunchError) -> Failure {
    let failure = Failure::local(&HOOK, error.to_string());
    match error {
        LaunchError::Program { program, source } => cannot_start(program, source),
        LaunchError::Nested => failure
            .with_cause("a program that was started with underpass run started this one, with another home or relay")
            .with_next(format!("start it from outside; or {INSTEAD}")),
        LaunchError::Hidden(_) => failure
            .with_cause("user namespaces are not allowed here, and kernel.yama.ptrace_scope is not 0")
            .with_next(INSTEAD),
        LaunchError::Filter(_) => failure
            .with_cause("the kernel is older than 5.9, or a sandbox such as a container forbids it")
            .with_next(INSTEAD),
        _ => failure
            .with_cause("a sandbox such as a container forbids it, or there are too many processes")
            .with_next(INSTEAD),
    }
}

/// As env(1) and the shells have it.
pub fn cannot_start(program: &OsStr, error: &io::Error) -> Failure {
    let mut failure = Failure::local(
        &PROGRAM,
        format!("cannot run {}: {error}", program.to_string_lossy()),
    );
    if error.kind() != io::ErrorKind::NotFound {
        failure.exit = 126;
    }
    failure
}

/// The list of preloaded libraries with ours, if it is to be there, at its front, and no other of that name: a program that
/// is hooked already may start another one.
pub fn preload(existing: Option<&OsStr>, library: Option<&Path>) -> OsString {
    let existing = existing.map(OsStr::to_string_lossy).unwrap_or_default();
    let ours = |path: &&str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.starts_with("libunderpass_hook")
    };
    let others = existing
        .split([' ', ':'])
        .filter(|path| !path.is_empty() && !ours(path));
    let own = library.map(Path::as_os_str);
    let all: Vec<&OsStr> = own.into_iter().chain(others.map(OsStr::new)).collect();
    all.join(OsStr::new(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(kind: Kind, privileged: bool) -> Program {
        Program {
            path: "/bin/x".into(),
            kind,
            privileged,
        }
    }

    #[test]
    fn each_kind_has_its_way() {
        let way = |via, kind| choose(via, Some(&program(kind, false))).map_err(|it| it.next);
        for (kind, auto, preload) in [
            (Kind::Dynamic, Way::Preload, true),
            (Kind::Static, Way::Seccomp, false),
            (Kind::Go, Way::Seccomp, false),
        ] {
            assert_eq!(way(Via::Auto, kind), Ok(auto));
            assert_eq!(way(Via::Seccomp, kind), Ok(Way::Seccomp));
            let expected = match preload {
                true => Ok(Way::Preload),
                false => Err("underpass run --via seccomp".to_owned()),
            };
            assert_eq!(way(Via::Preload, kind), expected);
        }
        assert_eq!(choose(Via::Auto, None), Ok(Way::Preload));
        assert_eq!(choose(Via::Seccomp, None), Ok(Way::Seccomp));
    }

    #[test]
    fn what_cannot_be_led_is_told_what_to_use_instead() {
        for via in [Via::Auto, Via::Preload, Via::Seccomp] {
            for program in [program(Kind::Dynamic, true), program(Kind::Foreign, false)] {
                let failure = choose(via, Some(&program)).unwrap_err();
                assert!(failure.what.starts_with("/bin/x "), "{failure}");
                assert!(failure.next.contains("underpass connect"), "{failure}");
            }
        }
        assert!(nested().next.contains("underpass connect"));
    }

    #[test]
    fn the_library_is_preloaded_once_and_first() {
        let library = Path::new("/new/libunderpass_hook.so");
        let list = |existing: Option<&str>, library| {
            let list = preload(existing.map(OsStr::new), library);
            list.into_string().unwrap()
        };
        assert_eq!(list(None, Some(library)), "/new/libunderpass_hook.so");
        assert_eq!(list(Some(""), Some(library)), "/new/libunderpass_hook.so");
        let two = "/old/libunderpass_hook-12.so /x/libfake.so::/new/libunderpass_hook.so";
        assert_eq!(
            list(Some(two), Some(library)),
            "/new/libunderpass_hook.so:/x/libfake.so"
        );
        assert_eq!(list(Some(two), None), "/x/libfake.so");
        assert_eq!(list(Some("/new/libunderpass_hook.so"), None), "");
    }

    #[test]
    fn the_exit_code_tells_whether_there_is_a_program() {
        let exit = |kind: io::ErrorKind| cannot_start(OsStr::new("x"), &kind.into()).exit;
        assert_eq!(exit(io::ErrorKind::NotFound), 127);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), 126);
    }
}
