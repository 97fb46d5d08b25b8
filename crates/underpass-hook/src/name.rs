//! Which names are ours.

/// What pseudo names end with.
pub const SUFFIX: &str = "underpass.internal";

/// The longest name of DNS, in bytes, without a dot at the end (RFC 1035 §2.3.4, less what only the wire has).
pub const MAX: usize = 253;

/// A pseudo name without a dot at the end, when `name` is one: [`SUFFIX`] or something below it, in any case (RFC 4343).
/// Such a name never goes to DNS, whether or not it means anything.
#[must_use]
pub fn pseudo(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let start = name.len().checked_sub(SUFFIX.len())?;
    let (below, end) = name.split_at(start);
    let ours = end.eq_ignore_ascii_case(SUFFIX.as_bytes());
    (ours && name.len() <= MAX && (below.is_empty() || below.ends_with(b"."))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_with_the_suffix_as_a_label_is_ours() {
        for (name, stripped) in [
            ("db.underpass.internal", "db.underpass.internal"),
            (
                "db.alice.underpass.internal.",
                "db.alice.underpass.internal",
            ),
            ("DB.Underpass.INTERNAL", "DB.Underpass.INTERNAL"),
            ("underpass.internal", "underpass.internal"),
            (".underpass.internal", ".underpass.internal"),
        ] {
            assert_eq!(pseudo(name.as_bytes()), Some(stripped.as_bytes()), "{name}");
        }
        for name in [
            "",
            ".",
            "db",
            "internal",
            "dbunderpass.internal",
            "db.underpass.internal.example",
            "db.underpass.internal..",
        ] {
            assert_eq!(pseudo(name.as_bytes()), None, "{name}");
        }
        let long = "x".repeat(MAX) + "." + SUFFIX;
        assert_eq!(pseudo(long.as_bytes()), None);
    }
}
