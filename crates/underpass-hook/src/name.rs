//! Which names are ours.

/// What pseudo names end with unless a setting says otherwise.
pub const SUFFIX: &str = "underpass.internal";

/// The longest suffix, in bytes: with two labels of 63 before it a name keeps within [`MAX`].
pub const MAX_SUFFIX: usize = MAX - 2 * 64;

/// The longest name of DNS, in bytes, without a dot at the end (RFC 1035 §2.3.4, less what only the wire has).
pub const MAX: usize = 253;

/// A pseudo name without a dot at the end, when `name` is one: `suffix` or something below it, in any case (RFC 4343).
/// Such a name never goes to DNS, whether or not it means anything.
#[must_use]
pub fn pseudo<'a>(name: &'a [u8], suffix: &[u8]) -> Option<&'a [u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let start = name.len().checked_sub(suffix.len())?;
    let (below, end) = name.split_at_checked(start)?;
    let ours = end.eq_ignore_ascii_case(suffix) && !suffix.is_empty();
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
            let found = pseudo(name.as_bytes(), SUFFIX.as_bytes());
            assert_eq!(found, Some(stripped.as_bytes()), "{name}");
        }
        assert_eq!(pseudo(b"db.Corp", b"corp"), Some(&b"db.Corp"[..]));
        assert_eq!(pseudo(b"db.underpass.internal", b"corp"), None);
        assert_eq!(pseudo(b"db", b""), None);
        for name in [
            "",
            ".",
            "db",
            "internal",
            "dbunderpass.internal",
            "db.underpass.internal.example",
            "db.underpass.internal..",
        ] {
            assert_eq!(pseudo(name.as_bytes(), SUFFIX.as_bytes()), None, "{name}");
        }
        let long = "x".repeat(MAX) + "." + SUFFIX;
        assert_eq!(pseudo(long.as_bytes(), SUFFIX.as_bytes()), None);
    }
}
