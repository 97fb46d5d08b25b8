//! Who signed a certificate, in words; and the parts that its DER form is made of. Pure.
//!
//! Whether a certificate can be trusted is the TLS library's business, and not asked here.

/// Object identifiers of the parts of a name (RFC 5280 appendix A.1): common name, organization.
pub(crate) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF16: u8 = 0x1e;
/// `[0] EXPLICIT`, the version.
pub(crate) const VERSION: u8 = 0xa0;

/// The longest name that is shown, in characters.
const LONGEST: usize = 100;

/// The name of a certificate's issuer, from its DER form: the common name, else the organization.
pub(crate) fn issuer(certificate: &[u8]) -> Option<String> {
    let mut certificate = inside(&mut &*certificate, SEQUENCE)?;
    let mut signed = inside(&mut certificate, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        element(&mut signed)?;
    }
    // The serial number, and the algorithm of the signature.
    element(&mut signed)?;
    element(&mut signed)?;
    let mut name = inside(&mut signed, SEQUENCE)?;
    let mut organization = None;
    while !name.is_empty() {
        let mut set = inside(&mut name, SET)?;
        let mut pair = inside(&mut set, SEQUENCE)?;
        let kind = inside(&mut pair, OBJECT_IDENTIFIER)?;
        let (form, value) = element(&mut pair)?;
        match kind {
            COMMON_NAME => return Some(text(form, value)),
            ORGANIZATION => organization = Some(text(form, value)),
            _ => {}
        }
    }
    organization
}

/// Tag and content of the next element (X.690 section 8.1), which is taken off.
pub(crate) fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, after) = rest.split_first()?;
    let (&first, mut after) = after.split_first()?;
    let mut len = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, behind) = after.split_at_checked(count)?;
        len = digits
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        after = behind;
    }
    let (content, behind) = after.split_at_checked(len)?;
    *rest = behind;
    Some((tag, content))
}

/// The content of the next element, which must have this tag.
pub(crate) fn inside<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (tag, content) = element(rest)?;
    (tag == wanted).then_some(content)
}

/// What can be shown of a string.
fn text(form: u8, value: &[u8]) -> String {
    let text = match form {
        UTF16 => {
            let units = value
                .chunks_exact(2)
                .map(|it| u16::from_be_bytes([it[0], it[1]]));
            char::decode_utf16(units)
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        _ => String::from_utf8_lossy(value).into_owned(),
    };
    let sound = text.chars().filter(|c| !c.is_control());
    sound.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signed_by(kind: rcgen::DnType, name: &str) -> Vec<u8> {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["relay".to_owned()]).expect("valid");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(kind, name);
        let key = rcgen::KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn the_common_name_else_the_organization() {
        let certificate = signed_by(rcgen::DnType::CommonName, "Box of Ácme");
        assert_eq!(issuer(&certificate).as_deref(), Some("Box of Ácme"));
        let certificate = signed_by(rcgen::DnType::OrganizationName, "Acme");
        assert_eq!(issuer(&certificate).as_deref(), Some("Acme"));
        let certificate = signed_by(rcgen::DnType::CountryName, "DE");
        assert_eq!(issuer(&certificate), None);
        let certificate = signed_by(rcgen::DnType::CommonName, "a\u{1b}[2Jb");
        assert_eq!(issuer(&certificate).as_deref(), Some("a[2Jb"));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, at in 0usize..400, byte: u8) {
            let _ = issuer(&bytes);
            let mut certificate = signed_by(rcgen::DnType::CommonName, "x");
            let at = at % certificate.len();
            certificate[at] = byte;
            let _ = issuer(&certificate);
            let _ = issuer(&certificate[..at]);
        }
    }
}
