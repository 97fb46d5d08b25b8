//! What a proxy asks for: the `Proxy-Authenticate` headers (RFC 9110 section 11.6.1). Pure.

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme, in lower case.
    pub scheme: String,
    /// Bytes in base64 that stand for themselves, as NTLM and Negotiate send them.
    pub token: Option<String>,
    /// Name (in lower case) and value.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    #[must_use]
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads one header, which may hold several challenges. What cannot be understood is left out.
#[must_use]
pub(crate) fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    for element in elements(header) {
        if let Some((name, value)) = parameter(element) {
            if let Some(challenge) = all.last_mut() {
                challenge.parameters.push((name, value));
            }
            continue;
        }
        let (scheme, rest) = match element.split_once([' ', '\t']) {
            Some((scheme, rest)) => (scheme, rest.trim()),
            None => (element, ""),
        };
        if !is_token(scheme) {
            continue;
        }
        let mut challenge = Challenge {
            scheme: scheme.to_ascii_lowercase(),
            token: None,
            parameters: Vec::new(),
        };
        match parameter(rest) {
            Some(pair) => challenge.parameters.push(pair),
            None if rest.is_empty() => {}
            None => challenge.token = Some(rest.to_owned()),
        }
        all.push(challenge);
    }
    all
}

/// Splits at commas that do not stand in quotes.
fn elements(header: &str) -> Vec<&str> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let mut all = Vec::new();
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                all.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(&header[start..]);
    let trimmed = all.into_iter().map(str::trim);
    trimmed.filter(|element| !element.is_empty()).collect()
}

/// `name = value`, where the value is a token or quoted. The `=` at the end of base64 is none.
fn parameter(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim_start());
    if !is_token(name) || value.is_empty() || value.starts_with('=') {
        return None;
    }
    let value = match value.strip_prefix('"') {
        Some(quoted) => unquote(quoted),
        None => value.to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

/// The inside of a quoted string (RFC 9110 section 5.6.4).
fn unquote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn challenge(scheme: &str, token: Option<&str>, parameters: &[(&str, &str)]) -> Challenge {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Challenge {
            scheme: scheme.to_owned(),
            token: token.map(str::to_owned),
            parameters: parameters.iter().map(own).collect(),
        }
    }

    #[test]
    fn headers_and_what_they_ask_for() {
        for (header, wanted) in [
            ("", vec![]),
            ("NTLM", vec![challenge("ntlm", None, &[])]),
            (
                "NTLM TlRMTVNTUAAC==",
                vec![challenge("ntlm", Some("TlRMTVNTUAAC=="), &[])],
            ),
            (
                "Negotiate abc=",
                vec![challenge("negotiate", Some("abc="), &[])],
            ),
            (
                "Basic realm=\"a, b \\\"c\\\"\"",
                vec![challenge("basic", None, &[("realm", "a, b \"c\"")])],
            ),
            (
                "Digest Realm = \"r\" , nonce=n=1, stale=TRUE,, Basic realm=x, Negotiate",
                vec![
                    challenge(
                        "digest",
                        None,
                        &[("realm", "r"), ("nonce", "n=1"), ("stale", "TRUE")],
                    ),
                    challenge("basic", None, &[("realm", "x")]),
                    challenge("negotiate", None, &[]),
                ],
            ),
            ("realm=lost, (odd) x", vec![]),
        ] {
            assert_eq!(parse_challenges(header), wanted, "{header}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(header in ".{0,80}") {
            let _ = parse_challenges(&header);
        }
    }
}
