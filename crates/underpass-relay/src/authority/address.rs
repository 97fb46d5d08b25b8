//! Where a ticket authority is, and the certificate that it must show.

use std::fmt;
use std::str::FromStr;

use underpass_seal::{Fingerprint, ParseFingerprintError};

use crate::target::{HostPort, HostPortError};

/// `HOST:PORT#FINGERPRINT`, as an authority shows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityAddress {
    /// Where it listens.
    pub place: HostPort,
    /// The SHA-256 of its certificate.
    pub certificate: Fingerprint,
}

/// A text that is no address of an authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityAddressError {
    /// Without a fingerprint, anybody could be the authority.
    #[error(
        "the fingerprint is missing: an authority is named as HOST:PORT#FINGERPRINT, as it shows at its start"
    )]
    NoFingerprint,
    /// What stands before the fingerprint.
    #[error(transparent)]
    Place(#[from] HostPortError),
    /// The fingerprint.
    #[error(transparent)]
    Fingerprint(#[from] ParseFingerprintError),
}

impl FromStr for AuthorityAddress {
    type Err = AuthorityAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, print) = text
            .trim()
            .split_once('#')
            .ok_or(AuthorityAddressError::NoFingerprint)?;
        Ok(Self {
            place: place.parse()?,
            certificate: print.parse()?,
        })
    }
}

impl fmt::Display for AuthorityAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, certificate } = self;
        write!(f, "{place}#{certificate}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        let certificate = Fingerprint::from_bytes([7; 32]);
        for place in ["authority.example:8484", "127.0.0.1:1", "[::1]:65535"] {
            let text = format!("{place}#{certificate}");
            let address: AuthorityAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.certificate, certificate);
        }
    }

    #[test]
    fn nothing_is_trusted_without_a_fingerprint() {
        use AuthorityAddressError as E;
        let print = Fingerprint::from_bytes([7; 32]).to_string();
        let parse = |text: &str| text.parse::<AuthorityAddress>().unwrap_err();
        assert_eq!(parse("authority:8484"), E::NoFingerprint);
        assert!(matches!(parse("authority:8484#"), E::Fingerprint(_)));
        let cut = format!("authority:8484#{}", &print[..20]);
        assert!(matches!(parse(&cut), E::Fingerprint(_)));
        assert!(matches!(parse(&format!("authority#{print}")), E::Place(_)));
    }
}
