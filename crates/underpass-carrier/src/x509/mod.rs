//! X.509 certificates of machines: who they name, who vouches for them, and what their keys have signed.
//!
//! A machine shows its certificate inside its session and not in TLS, which a proxy on the way may open. It is checked here
//! all the same, by the library that TLS is checked with: a second one would be a second set of mistakes.

mod authorities;
mod names;
mod own;
#[cfg(test)]
mod tests;

use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use underpass_proto::Code;
use webpki::EndEntityCert;

pub use authorities::Authorities;
pub use names::{NamedBy, NamedByError};
pub use own::OwnCertificate;

use crate::certificate::{SEQUENCE, element};
use crate::tls::provider;

/// The most certificates between a machine and an authority, its own included.
const MOST_CERTIFICATES: usize = 8;

/// How a machine may sign (RFC 8446 section 4.2.3), the first choice first.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Why a machine is not let in by its certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It is no certificate, or none that can be used.
    #[error("the machine's certificate cannot be used: {0}")]
    Unusable(String),
    /// Nobody vouches for it.
    #[error("no authority of the relay vouches for the machine's certificate: {0}")]
    Untrusted(String),
    /// It is over.
    #[error("the machine's certificate has expired")]
    Expired,
    /// It has not begun.
    #[error("the machine's certificate is not valid yet")]
    Early,
    /// Its authority has revoked it, or one that it stands on.
    #[error("the machine's certificate was revoked")]
    Revoked,
    /// It is not for clients.
    #[error("the machine's certificate is not for clients (extended key usage clientAuth)")]
    Purpose,
    /// Whether it was revoked cannot be found out.
    #[error("whether the machine's certificate was revoked cannot be found out: {0}")]
    Unchecked(String),
    /// It names nobody.
    #[error("the machine's certificate names no user: {0}")]
    Unnamed(String),
    /// What was signed was not signed by its key.
    #[error("the machine did not prove that it holds its certificate's key")]
    Proof,
}

impl CertificateFault {
    /// The reason from the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unusable(_) | Self::Untrusted(_) => Code::CertificateUntrusted,
            Self::Expired => Code::CertificateExpired,
            Self::Early => Code::CertificateEarly,
            Self::Revoked => Code::CertificateRevoked,
            Self::Purpose => Code::CertificatePurpose,
            Self::Unchecked(_) => Code::CertificateUnchecked,
            Self::Unnamed(_) => Code::CertificateUser,
            Self::Proof => Code::CertificateProof,
        }
    }

    fn malformed() -> Self {
        Self::Unusable("it is none".to_owned())
    }
}

/// A machine's certificate, and those that may lie between it and an authority. Nothing about them has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// Certificates in DER form, one after the other, the machine's first.
    ///
    /// # Errors
    /// They are none, or more than 8.
    pub fn from_der(mut bytes: &[u8]) -> Result<Self, CertificateFault> {
        let mut chain = Vec::new();
        while !bytes.is_empty() {
            let whole = bytes;
            let (tag, _) = element(&mut bytes).ok_or_else(CertificateFault::malformed)?;
            let one = &whole[..whole.len() - bytes.len()];
            if tag != SEQUENCE {
                return Err(CertificateFault::malformed());
            }
            chain.push(CertificateDer::from(one.to_vec()));
        }
        Self::of(chain)
    }

    fn of(chain: Vec<CertificateDer<'static>>) -> Result<Self, CertificateFault> {
        match chain.len() {
            0 => Err(CertificateFault::malformed()),
            1..=MOST_CERTIFICATES => Ok(Self(chain)),
            count => Err(CertificateFault::Unusable(format!(
                "there are {count} certificates with it, and {MOST_CERTIFICATES} at most are read"
            ))),
        }
    }

    /// As [`Chain::from_der`] reads it.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let all: Vec<&[u8]> = self.0.iter().map(AsRef::as_ref).collect();
        all.concat()
    }

    /// The user that the certificate names, in its own words.
    ///
    /// # Errors
    /// It names nobody in that way, or several.
    pub fn user(&self, by: &NamedBy) -> Result<String, CertificateFault> {
        names::user(&self.0[0], by)
    }

    /// Checks that the certificate's key has signed `message` in the way of this SignatureScheme.
    ///
    /// # Errors
    /// It has not, or the way is not one of those that are taken.
    pub fn has_signed(
        &self,
        scheme: u16,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateFault> {
        let scheme = SignatureScheme::from(scheme);
        if !SCHEMES.contains(&scheme) {
            return Err(CertificateFault::Proof);
        }
        let certificate = self.own()?;
        let known = provider().signature_verification_algorithms.mapping;
        let mut ways = known
            .iter()
            .filter(|(known, _)| *known == scheme)
            .flat_map(|(_, ways)| ways.iter());
        // One scheme may stand for several kinds of keys, of which the certificate's is one.
        match ways.any(|way| {
            let checked = certificate.verify_signature(*way, message, signature);
            checked.is_ok()
        }) {
            true => Ok(()),
            false => Err(CertificateFault::Proof),
        }
    }

    fn own(&self) -> Result<EndEntityCert<'_>, CertificateFault> {
        let unusable = |error: webpki::Error| CertificateFault::Unusable(error.to_string());
        EndEntityCert::try_from(&self.0[0]).map_err(unusable)
    }
}
