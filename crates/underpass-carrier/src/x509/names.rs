//! Who a certificate names, and until when it holds, from its DER form (RFC 5280 section 4.1). Pure.

use std::fmt;
use std::str::FromStr;

use super::CertificateFault;
use crate::certificate::{COMMON_NAME, OBJECT_IDENTIFIER, SEQUENCE, SET, VERSION, element, inside};

/// The subject alternative name (RFC 5280 section 4.2.1.6).
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `[3] EXPLICIT`, the extensions.
const EXTENSIONS: u8 = 0xa3;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
/// Strings whose bytes are the text: UTF8String, PrintableString, IA5String.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[1]` and `[6] IMPLICIT` of a general name.
const EMAIL: u8 = 0x81;
const URI: u8 = 0x86;

/// How a certificate names its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedBy {
    /// By the common name of its subject.
    CommonName,
    /// By what follows this text in a URI among its alternative names.
    Uri(String),
    /// By what precedes `@` and this domain in an e-mail address among its alternative names.
    Email(String),
}

/// A text that says no way in which certificates name users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificates name users by `cn`, `uri:PREFIX` or `email:DOMAIN`")]
pub struct NamedByError;

impl FromStr for NamedBy {
    type Err = NamedByError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cn" => Ok(Self::CommonName),
            Some(("uri", prefix)) if !prefix.is_empty() => Ok(Self::Uri(prefix.to_owned())),
            Some(("email", domain)) if !domain.is_empty() && !domain.contains('@') => {
                Ok(Self::Email(domain.to_owned()))
            }
            _ => Err(NamedByError),
        }
    }
}

impl fmt::Display for NamedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommonName => f.write_str("cn"),
            Self::Uri(prefix) => write!(f, "uri:{prefix}"),
            Self::Email(domain) => write!(f, "email:{domain}"),
        }
    }
}

/// The user that a certificate names.
pub(super) fn user(certificate: &[u8], by: &NamedBy) -> Result<String, CertificateFault> {
    let parts = parts(certificate).ok_or_else(CertificateFault::malformed)?;
    let (found, what) = match by {
        NamedBy::CommonName => (common_names(parts.subject), "common name".to_owned()),
        NamedBy::Uri(prefix) => {
            let user = |uri: &str| Some(uri.strip_prefix(prefix.as_str())?.to_owned());
            let found = alternatives(parts.alternatives, URI, user);
            (found, format!("URI that begins with {prefix}"))
        }
        NamedBy::Email(domain) => {
            let user = |address: &str| {
                let (user, at) = address.rsplit_once('@')?;
                at.eq_ignore_ascii_case(domain).then(|| user.to_owned())
            };
            let found = alternatives(parts.alternatives, EMAIL, user);
            (found, format!("e-mail address at {domain}"))
        }
    };
    let mut found = found.ok_or_else(CertificateFault::malformed)?;
    found.dedup();
    match found.pop() {
        Some(user) if found.is_empty() => Ok(user),
        Some(_) => Err(CertificateFault::Unnamed(format!(
            "it has more than one {what}"
        ))),
        None => Err(CertificateFault::Unnamed(format!("it has no {what}"))),
    }
}

/// Until when a certificate holds, in seconds since 1970.
pub(super) fn not_after(certificate: &[u8]) -> Option<u64> {
    parts(certificate).map(|parts| parts.not_after)
}

struct Parts<'a> {
    /// The names that the subject's is made of.
    subject: &'a [u8],
    /// In seconds since 1970.
    not_after: u64,
    /// General names; empty where there are none.
    alternatives: &'a [u8],
}

fn parts(certificate: &[u8]) -> Option<Parts<'_>> {
    let mut certificate = inside(&mut &*certificate, SEQUENCE)?;
    let mut signed = inside(&mut certificate, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        element(&mut signed)?;
    }
    // The serial number, the algorithm of the signature, the issuer.
    for _ in 0..3 {
        element(&mut signed)?;
    }
    let mut validity = inside(&mut signed, SEQUENCE)?;
    element(&mut validity)?;
    let (form, text) = element(&mut validity)?;
    let not_after = seconds(form, text)?;
    let subject = inside(&mut signed, SEQUENCE)?;
    let mut alternatives: &[u8] = &[];
    while !signed.is_empty() {
        let (tag, mut content) = element(&mut signed)?;
        if tag == EXTENSIONS {
            alternatives = alternative_names(inside(&mut content, SEQUENCE)?)?;
        }
    }
    Some(Parts {
        subject,
        not_after,
        alternatives,
    })
}

/// The general names among extensions.
fn alternative_names(mut extensions: &[u8]) -> Option<&[u8]> {
    while !extensions.is_empty() {
        let mut extension = inside(&mut extensions, SEQUENCE)?;
        let kind = inside(&mut extension, OBJECT_IDENTIFIER)?;
        if extension.first() == Some(&BOOLEAN) {
            element(&mut extension)?;
        }
        let mut value = inside(&mut extension, OCTET_STRING)?;
        if kind == SUBJECT_ALT_NAME {
            return inside(&mut value, SEQUENCE);
        }
    }
    Some(&[])
}

fn common_names(mut subject: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    while !subject.is_empty() {
        let mut set = inside(&mut subject, SET)?;
        while !set.is_empty() {
            let mut pair = inside(&mut set, SEQUENCE)?;
            let kind = inside(&mut pair, OBJECT_IDENTIFIER)?;
            let (form, value) = element(&mut pair)?;
            if kind == COMMON_NAME {
                let text = TEXTS.contains(&form).then_some(value)?;
                found.push(std::str::from_utf8(text).ok()?.to_owned());
            }
        }
    }
    Some(found)
}

/// The users in those general names of a kind that name one.
fn alternatives(
    mut names: &[u8],
    kind: u8,
    user: impl Fn(&str) -> Option<String>,
) -> Option<Vec<String>> {
    let mut found = Vec::new();
    while !names.is_empty() {
        let (tag, value) = element(&mut names)?;
        if tag == kind {
            found.extend(user(std::str::from_utf8(value).ok()?));
        }
    }
    Some(found)
}

/// A moment in seconds since 1970 (RFC 5280 section 4.1.2.5); 0 for one before.
fn seconds(form: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |text: &[u8]| {
        text.iter()
            .fold(0i64, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, rest) = match (form, digits.len()) {
        (UTC_TIME, 12) => {
            let short = number(&digits[..2]);
            (short + if short < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let (month, day, hour, minute, second) = (part(0), part(1), part(2), part(3), part(4));
    if !(1..=12).contains(&month) {
        return None;
    }
    let days = days_since_1970(year, month, day);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(u64::try_from(seconds).unwrap_or(0))
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From March on, months have 31, 30, 31, 30, 31 days, and again.
    let of_months = (153 * month + 2) / 5;
    365 * year + leaps + of_months + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (form, text, expected) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "000301000000Z", 951_868_800),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "20240229120001Z", 1_709_208_001),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
            (UTC_TIME, "500101000000Z", 0),
        ] {
            assert_eq!(seconds(form, text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "Z",
            "7001010000Z",
            "700101000000",
            "70010100000xZ",
            "701301000000Z",
        ] {
            assert_eq!(seconds(UTC_TIME, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn ways_are_read_as_they_are_shown() {
        for text in ["cn", "uri:spiffe://example.org/user/", "email:example.org"] {
            let by: NamedBy = text.parse().expect(text);
            assert_eq!(by.to_string(), text);
        }
        for text in [
            "",
            "CN",
            "cn:",
            "uri",
            "uri:",
            "email:",
            "email:a@b",
            "dns:x",
        ] {
            assert_eq!(text.parse::<NamedBy>(), Err(NamedByError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(year in 1970i64..3000, month in 1i64..=12, day in 1i64..28) {
            let at = |day| days_since_1970(year, month, day);
            prop_assert_eq!(at(day) + 1, at(day + 1));
            let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            let len = days_since_1970(next.0, next.1, 1) - at(1);
            prop_assert!((28..=31).contains(&len));
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = user(&bytes, &NamedBy::CommonName);
            let _ = not_after(&bytes);
        }
    }
}
