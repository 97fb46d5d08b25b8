//! The authorities whose certificates let machines in, and what they have revoked.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::{CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
    anchor_from_trusted_cert,
};

use super::{CertificateFault, Chain, names};
use crate::tls::{IdentityError, all_in, certificates_in, provider};

/// Authorities and their revocation lists, as they stood in files.
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// None where nothing is asked about revocation.
    lists: Option<Vec<CertRevocationList<'static>>>,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anchors, lists } = self;
        let lists = lists.as_ref().map(Vec::len);
        write!(
            f,
            "Authorities({} certificates, lists: {lists:?})",
            anchors.len()
        )
    }
}

impl Authorities {
    /// All certificates of one file, and all revocation lists of another, both in PEM form. Without lists nothing
    /// counts as revoked.
    ///
    /// # Errors
    /// A file cannot be read, or has none.
    pub fn from_pem_files(
        authorities: &Path,
        revocations: Option<&Path>,
    ) -> Result<Self, IdentityError> {
        let unusable = |path: &Path, error: Error| {
            let reason = match error {
                // What openssl(1) writes where it is not told to number its lists.
                Error::UnsupportedCrlVersion => {
                    "a revocation list of version 1, and not 2 (RFC 5280; openssl: crlnumber)"
                        .into()
                }
                error => error.to_string(),
            };
            let path = path.to_owned();
            IdentityError::Pem { path, reason }
        };
        let anchors = certificates_in(authorities)?;
        let anchors = anchors.iter().map(|certificate| {
            let anchor = anchor_from_trusted_cert(certificate);
            let anchor = anchor.map_err(|error| unusable(authorities, error))?;
            Ok(anchor.to_owned())
        });
        let anchors = anchors.collect::<Result<_, IdentityError>>()?;
        let lists = |path: &Path| {
            let lists: Vec<CertificateRevocationListDer<'static>> =
                all_in(path, "no revocation list in it")?;
            let lists = lists.iter().map(|list| {
                let list = OwnedCertRevocationList::from_der(list);
                let list = list.map_err(|error| unusable(path, error))?;
                Ok(CertRevocationList::from(list))
            });
            lists.collect::<Result<_, IdentityError>>()
        };
        Ok(Self {
            anchors,
            lists: revocations.map(lists).transpose()?,
        })
    }

    /// Checks that an authority vouches for a machine's certificate at `at`, in seconds since 1970, that it is for
    /// clients, and that neither it nor one that it stands on was revoked. Until when that holds, in seconds since
    /// 1970, if nothing is revoked before.
    ///
    /// # Errors
    /// What is in the way.
    pub fn check(&self, chain: &Chain, at: u64) -> Result<u64, CertificateFault> {
        let own = chain.own()?;
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().flatten().collect();
        let revocation = match &self.lists {
            None => None,
            Some(_) => Some(revocation(&lists)?),
        };
        let path = own.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &self.anchors,
            &chain.0[1..],
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            KeyUsage::client_auth(),
            revocation,
            None,
        );
        let path = path.map_err(fault)?;
        let between = path.intermediate_certificates().map(webpki::Cert::der);
        let all = std::iter::once(own.der()).chain(between);
        let ends = all.map(|certificate| names::not_after(&certificate));
        let ends: Option<Vec<u64>> = ends.collect();
        ends.and_then(|ends| ends.into_iter().min())
            .ok_or_else(CertificateFault::malformed)
    }
}

/// Closed by default: what no list speaks of, and what only a list speaks of that is too old, counts as not checked.
fn revocation<'a>(
    lists: &'a [&'a CertRevocationList<'a>],
) -> Result<RevocationOptions<'a>, CertificateFault> {
    let none = |_| CertificateFault::Unchecked("there is no revocation list".to_owned());
    Ok(RevocationOptionsBuilder::new(lists)
        .map_err(none)?
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build())
}

fn fault(error: Error) -> CertificateFault {
    let unchecked = |what: &str| CertificateFault::Unchecked(what.to_owned());
    let untrusted = |what: &str| CertificateFault::Untrusted(what.to_owned());
    match error {
        Error::CertExpired { .. } => CertificateFault::Expired,
        Error::CertNotValidYet { .. } => CertificateFault::Early,
        Error::CertRevoked => CertificateFault::Revoked,
        Error::RequiredEkuNotFoundContext(_) => CertificateFault::Purpose,
        Error::UnknownRevocationStatus => unchecked("no revocation list is of its authority"),
        Error::CrlExpired { .. } => unchecked("the revocation list of its authority is too old"),
        Error::IssuerNotCrlSigner | Error::InvalidCrlSignatureForPublicKey => {
            unchecked("the revocation list is not signed by its authority")
        }
        Error::UnknownIssuer => untrusted("none has signed it, nor what it comes with"),
        Error::InvalidSignatureForPublicKey => untrusted("it was changed after it was signed"),
        other => CertificateFault::Untrusted(other.to_string()),
    }
}
