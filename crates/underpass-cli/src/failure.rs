//! What a command says and returns when it cannot do what it was asked.

use std::fmt;

use underpass_proto::Code;

/// Reasons that lie with this command or this machine, in the manner of [`Code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalCode {
    /// The stable string.
    pub up: &'static str,
    /// The exit code.
    pub exit: u8,
    /// What happened, in general.
    pub what: &'static str,
    /// The likely cause.
    pub cause: &'static str,
    /// What to do next.
    pub next: &'static str,
}

/// The command was not understood.
pub static USAGE: LocalCode = LocalCode {
    up: "UP-USAGE",
    exit: 2,
    what: "the command, or a setting, was not understood",
    cause: "something is misspelt, or missing",
    next: "underpass --help, or underpass COMMAND --help",
};
/// A file cannot be used.
pub static FILE: LocalCode = LocalCode {
    up: "UP-FILE",
    exit: 1,
    what: "a file on this machine cannot be used",
    cause: "it belongs to somebody else, is damaged, or the disk is full",
    next: "look at the file that the message names",
};
/// No login.
pub static NO_RELAY: LocalCode = LocalCode {
    up: "UP-NO-RELAY",
    exit: 4,
    what: "this machine does not know the relay",
    cause: "it has not logged in to it with this home (UNDERPASS_HOME)",
    next: "underpass login RELAY",
};
/// The relay does not answer.
pub static NO_PATH: LocalCode = LocalCode {
    up: "UP-NO-PATH",
    exit: 5,
    what: "the relay cannot be reached",
    cause: "it does not run, its address is wrong, or a firewall or proxy lets nothing through",
    next: "underpass doctor RELAY says what is in the way; or try its address in a web browser on this machine",
};
/// A local address is taken.
pub static LISTEN: LocalCode = LocalCode {
    up: "UP-LISTEN",
    exit: 1,
    what: "a local address cannot be listened on",
    cause: "another program listens there, or the port is one below 1024 and needs privileges",
    next: "choose another port, or 0 to get a free one",
};
/// No agent here publishes a service.
pub static NOT_HERE: LocalCode = LocalCode {
    up: "UP-NOT-HERE",
    exit: 4,
    what: "no running agent of this home publishes the service",
    cause: "this machine published it, and its agent does not run any more, or runs with another home",
    next: "start it again where it is published, with the new host; underpass status shows what is published",
};

/// Programs cannot be served.
pub static REDIRECTOR: LocalCode = LocalCode {
    up: "UP-REDIRECTOR",
    exit: 1,
    what: "programs cannot be led to services by name",
    cause: "the process that serves them (the redirector) is there already, or cannot start",
    next: "underpass status shows whether one runs; underpass redirector starts one and says more",
};
/// The library to preload cannot be used.
pub static HOOK: LocalCode = LocalCode {
    up: "UP-HOOK",
    exit: 1,
    what: "the library that leads programs to services cannot be preloaded",
    cause: "it was moved, or its path has a space or a colon in it",
    next: "underpass run --hook-library FILE, with a path that the dynamic loader can read (ld.so(8))",
};
/// The program cannot be started.
pub static PROGRAM: LocalCode = LocalCode {
    up: "UP-PROGRAM",
    exit: 127,
    what: "the program cannot be started (exit code 126 where there is one)",
    cause: "its name is misspelt, it is not installed, or it is not executable",
    next: "try to start it without underpass run --",
};

/// Not all files are with all receivers.
pub static INCOMPLETE: LocalCode = LocalCode {
    up: "UP-INCOMPLETE",
    exit: 1,
    what: "not everything has arrived with everybody",
    cause: "for several reasons, of which each stands with its file or receiver",
    next: "put right what is said there, and send the same again: what has arrived is not sent twice",
};

/// All of them, for the manual.
#[cfg(test)]
pub static LOCAL_CODES: [&LocalCode; 10] = [
    &USAGE,
    &FILE,
    &NO_RELAY,
    &NO_PATH,
    &LISTEN,
    &NOT_HERE,
    &REDIRECTOR,
    &HOOK,
    &PROGRAM,
    &INCOMPLETE,
];

/// Why a command failed: what happened, the likely cause, the next step, a stable code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `UP-…`.
    pub up: &'static str,
    /// The exit code.
    pub exit: u8,
    /// What happened.
    pub what: String,
    /// The likely cause.
    pub cause: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// For one of the reasons above.
    pub fn local(code: &LocalCode, what: impl Into<String>) -> Self {
        Self {
            up: code.up,
            exit: code.exit,
            what: what.into(),
            cause: code.cause.to_owned(),
            next: code.next.to_owned(),
        }
    }

    /// The command was not understood.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::local(&USAGE, what)
    }

    /// A file cannot be used.
    pub fn file(what: impl Into<String>) -> Self {
        Self::local(&FILE, what)
    }

    /// For a reason from the table that both sides share; `trying` stands before it.
    pub fn of_code(code: Code, trying: &str) -> Self {
        let explanation = code.explain();
        Self {
            up: explanation.up,
            // A failure never exits as a success does.
            exit: explanation.exit.max(1),
            what: format!("{trying}: {}", explanation.what),
            cause: explanation.cause.to_owned(),
            next: explanation.next.to_owned(),
        }
    }

    /// The same with words of its own about what happened.
    #[must_use]
    pub fn with_what(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// The same with another cause.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// The same with another next step.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// As an object for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let Self {
            up,
            exit,
            what,
            cause,
            next,
        } = self;
        serde_json::json!({
            "error": { "code": up, "exit": exit, "what": what, "cause": cause, "next": next }
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            up,
            exit: _,
            what,
            cause,
            next,
        } = self;
        write!(
            f,
            "underpass: {what} [{up}]\n  likely cause: {cause}\n  next: {next}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_shown_in_both_forms() {
        let failure = Failure::of_code(Code::NoService, "cannot connect to db");
        assert_eq!(failure.exit, 4);
        assert_eq!(
            failure.to_string(),
            "underpass: cannot connect to db: there is no such service [UP-NO-SERVICE]\n  \
             likely cause: the name is misspelt, or the service is not published, or not to you\n  \
             next: list what you may use with: underpass services"
        );
        let json = failure.to_json();
        assert_eq!(json["error"]["code"], "UP-NO-SERVICE");
        assert_eq!(json["error"]["exit"], 4);
    }

    #[test]
    fn codes_are_unique_and_exit_as_the_manual_says() {
        let shared = Code::ALL.iter().map(|code| code.up());
        let mut all: Vec<&str> = LOCAL_CODES
            .iter()
            .map(|code| code.up)
            .chain(shared)
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for code in Code::ALL {
            assert!(
                (1..=7).contains(&Failure::of_code(*code, "x").exit),
                "{code:?}"
            );
        }
    }
}
