//! A machine's own certificate and key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::sign::{CertifiedKey, SigningKey};

use super::{Chain, SCHEMES};
use crate::tls::{IdentityError, provider, read_pem};

/// What stands in a key's PEM form where it is encrypted: PKCS #8 (RFC 7468 section 11), or the older form (RFC 1421).
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];

/// A certificate with what comes with it, and its key.
pub struct OwnCertificate {
    chain: Chain,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate").finish_non_exhaustive()
    }
}

impl OwnCertificate {
    /// From a chain of certificates, the own one first, and a private key, both in PEM form. The key is of ECDSA on
    /// P-256 or P-384, Ed25519, or RSA.
    ///
    /// # Errors
    /// A file is missing or holds something else, the key is encrypted, or the two do not fit together.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, IdentityError> {
        refuse_encrypted(key)?;
        let (certificates, private) = read_pem(certificates, key)?;
        let private = provider().key_provider.load_private_key(private)?;
        let pair = CertifiedKey::new(certificates.clone(), private);
        pair.keys_match()?;
        let unusable = |reason: String| IdentityError::Unusable(rustls::Error::General(reason));
        if pair.key.choose_scheme(&SCHEMES).is_none() {
            let reason = "the key is of a kind that is not taken: ECDSA on P-256 or P-384, Ed25519 and RSA are";
            return Err(unusable(reason.to_owned()));
        }
        let chain = Chain::of(certificates).map_err(|fault| unusable(fault.to_string()))?;
        Ok(Self {
            chain,
            key: pair.key,
        })
    }

    /// What is shown.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Signs `message`: the SignatureScheme (RFC 8446 section 4.2.3), and the signature.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<(u16, Vec<u8>), IdentityError> {
        let signer = self.key.choose_scheme(&SCHEMES);
        let signer = signer.expect("looked at when the key was read");
        Ok((signer.scheme().into(), signer.sign(message)?))
    }
}

fn refuse_encrypted(path: &Path) -> Result<(), IdentityError> {
    let text = std::fs::read(path).map_err(|source| IdentityError::File {
        path: path.to_owned(),
        source,
    })?;
    let text = zeroize::Zeroizing::new(text);
    let has = |mark: &str| text.windows(mark.len()).any(|part| part == mark.as_bytes());
    match ENCRYPTED.into_iter().any(has) {
        true => Err(IdentityError::Encrypted {
            path: path.to_owned(),
        }),
        false => Ok(()),
    }
}
