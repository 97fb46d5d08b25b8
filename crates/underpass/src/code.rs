//! The numbers by which a program learns what came of what it asked.

use std::fmt;

use underpass_proto::code as table;

/// What came of something: a positive number where it was done, a negative one where it failed.
///
/// The negative ones are the table of codes that the whole of Underpass shares, with their sign turned: what is `0x04` on
/// the wire and `UP-DENIED` for people is `-4` here. No number ever changes its meaning, and new ones will be added, so
/// whoever matches on them needs an arm for the rest. All of them stand in `docs/result-codes.md`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(i32);

/// One row of [`Code::DONE_ROWS`]: the code, its name, and what it says.
type DoneRow = (Code, &'static str, &'static str);

macro_rules! done {
    ($( $number:literal $constant:ident $what:literal; )*) => {
        impl Code {
            $(
                #[doc = concat!("`", $number, "`: ", $what, ".")]
                pub const $constant: Code = Code($number);
            )*

            /// The positive codes.
            const DONE_ROWS: &[DoneRow] = &[$( (Code::$constant, stringify!($constant), $what) ),*];
        }
    };
}

done! {
    1 DONE "it was done";
    2 DONE_CONNECTED "connected";
    3 DONE_WAITING "the other side is not there yet, and is waited for";
    4 DONE_NO_MORE "the other side has ended in order, and nothing more will come";
}

macro_rules! failed {
    // Nobody fails with the code that says that nothing did.
    ($none:literal NoError NO_ERROR $fine:literal; $( $number:literal $name:ident $constant:ident $what:literal; )*) => {
        impl Code {
            $(
                #[doc = concat!("`-", $number, "`: ", $what, ".")]
                pub const $constant: Code = Code(-$number);
            )*
        }
    };
}

underpass_proto::for_each_code!(failed);

impl Code {
    /// The number, for languages that know nothing else.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The code with this number; `None` where this version knows none.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let code = Self(number);
        let known = match number {
            1.. => code.done_row().is_some(),
            _ => code.failure().is_some(),
        };
        known.then_some(code)
    }

    /// Whether it says that something was done.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.0 > 0
    }

    /// Whether the same may succeed later although nobody does anything about it.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.failure().is_some_and(table::Code::retry_helps)
    }

    /// The name that scripts and people see: `UP-…` of a failure, a word of what was done.
    #[must_use]
    pub fn name(self) -> &'static str {
        let failure = self.failure().map(table::Code::up);
        failure.unwrap_or_else(|| self.done_row().map_or("UP-UNKNOWN", |row| row.1))
    }

    /// What it says about a result.
    #[must_use]
    pub fn of<T>(result: &Result<T, crate::Error>) -> Self {
        result
            .as_ref()
            .map_or_else(crate::Error::code, |_| Self::DONE)
    }

    /// What a program sees that knows only the errors of the operating system.
    pub(crate) fn io_kind(self) -> std::io::ErrorKind {
        let kind = self.failure().map(table::Code::io_kind);
        kind.unwrap_or(std::io::ErrorKind::Other)
    }

    fn done_row(self) -> Option<&'static DoneRow> {
        Self::DONE_ROWS.iter().find(|row| row.0 == self)
    }

    fn failure(self) -> Option<table::Code> {
        let number = self.0.checked_neg().filter(|number| *number > 0)?;
        table::Code::from_number(u64::try_from(number).ok()?)
    }
}

/// Only failures have codes of the table: an end in order that comes as one is nobody's word for success.
impl Code {
    pub(crate) fn of_failure(code: table::Code) -> Self {
        match code {
            table::Code::NoError => Self::ABORTED,
            code => i32::try_from(code.number()).map_or(Self::INTERNAL, |number| Self(-number)),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({} {})", self.0, self.name())
    }
}

impl fmt::Display for Code {
    /// What happened; of a failure also the likely cause, what to do next, and the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failure(), self.done_row()) {
            (Some(failure), _) => failure.fmt(f),
            (None, Some(row)) => f.write_str(row.2),
            (None, None) => write!(f, "code {}, which this version does not know", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    /// The answers of the founding design to whoever connects, and where they stand.
    const ANSWERS: &[(&str, Code)] = &[
        ("connected", Code::DONE_CONNECTED),
        (
            "the other side is not there yet, waiting",
            Code::DONE_WAITING,
        ),
        (
            "the other side is not there, and nobody waits",
            Code::SERVICE_AWAY,
        ),
        ("no such user", Code::NO_USER),
        ("wrong name or password", Code::WRONG_PASSWORD),
        ("incompatible version", Code::VERSION_UNSUPPORTED),
        ("the relay does not respond", Code::UNREACHABLE),
        ("a manager ended it", Code::ENDED),
    ];

    /// `docs/result-codes.md` as the table has it.
    fn document() -> String {
        let mut text = String::from(
            "# Result codes\n\n\
             What the [library](library.md) and its bindings answer by: a positive number says that something was done, a\n\
             negative one that it failed. The negative ones are the numbers of [errors.md](errors.md) with their sign turned;\n\
             there stands for each what happened, the likely cause and the next step. No number ever changes its meaning.\n\
             This page is made from the tables in `crates/underpass/src/code.rs` and `crates/underpass-proto/src/code.rs`; a\n\
             test compares them (`UNDERPASS_BLESS=1 cargo test -p underpass` writes it anew).\n\n\
             | number | constant | what it says |\n|---|---|---|\n",
        );
        for (code, constant, what) in Code::DONE_ROWS {
            writeln!(text, "| {} | `{constant}` | {what} |", code.number()).unwrap();
        }
        text += "\n| number | name | what it says | retry helps |\n|---|---|---|---|\n";
        for failure in table::Code::ALL.iter().skip(1) {
            let code = Code::of_failure(*failure);
            let (number, name, what) = (code.number(), code.name(), failure.explain().what);
            let retry = if code.is_retryable() { "yes" } else { "no" };
            let anchor = name.to_lowercase();
            writeln!(
                text,
                "| {number} | [`{name}`](errors.md#{anchor}) | {what} | {retry} |"
            )
            .unwrap();
        }
        text += "\nThe answers to whoever connects:\n\n| answer | number |\n|---|---|\n";
        for (answer, code) in ANSWERS {
            writeln!(text, "| {answer} | {} |", code.number()).unwrap();
        }
        text
    }

    #[test]
    fn the_page_of_result_codes_is_the_table() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/result-codes.md");
        if std::env::var_os("UNDERPASS_BLESS").is_some() {
            std::fs::write(&file, document()).unwrap();
        }
        let (found, wanted) = (
            std::fs::read_to_string(&file).unwrap_or_default(),
            document(),
        );
        let mut lines = found.lines().zip(wanted.lines());
        let differs = lines.find(|(is, should)| is != should);
        assert_eq!(differs, None, "run this test with UNDERPASS_BLESS=1");
        assert_eq!(found.len(), wanted.len());
    }

    #[test]
    fn what_failed_is_negative_and_what_was_done_positive() {
        assert_eq!(Code::DENIED.number(), -4);
        assert_eq!(Code::DENIED.name(), "UP-DENIED");
        assert!(!Code::DENIED.is_done() && !Code::DENIED.is_retryable());
        assert!(Code::NO_MESSAGE.is_retryable());
        assert!(Code::DONE_CONNECTED.is_done() && !Code::DONE_CONNECTED.is_retryable());
        for failure in table::Code::ALL {
            let code = Code::of_failure(*failure);
            assert!(code.number() < 0, "{code:?}");
            assert_eq!(Code::from_number(code.number()), Some(code));
            assert!(code.to_string().contains(code.name()));
        }
        for (code, name, _) in Code::DONE_ROWS {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert_eq!(code.name(), *name);
        }
        for unknown in [0, 5, i32::MIN, i32::MAX, -30_000] {
            assert_eq!(Code::from_number(unknown), None);
        }
    }

    #[test]
    fn a_result_has_a_code_either_way() {
        assert_eq!(Code::of(&Ok(())), Code::DONE);
        assert_eq!(
            Code::of::<()>(&Err(crate::Error::Disconnected)),
            Code::DISCONNECTED
        );
    }
}
