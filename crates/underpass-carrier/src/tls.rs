//! TLS: whom a client trusts, and who a server is.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::error::CarrierError;

/// The SHA-256 of a certificate in DER form.
pub type Fingerprint = [u8; 32];

/// Which certificate of the relay is accepted.
///
/// The relay proves itself in the handshake inside the carrier in any case; TLS only has to look as
/// it should, and to keep onlookers from seeing more than sizes and times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TlsTrust {
    /// One that the system's roots vouch for.
    #[default]
    System,
    /// Exactly this one.
    PinnedCertificate(Fingerprint),
    /// Any; its fingerprint is reported in [`crate::CarrierInfo`], to be pinned once the relay has
    /// proved itself inside.
    AcceptAndReport,
}

/// What TLS agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The version, such as `TLS 1.3`.
    pub version: &'static str,
    /// The SHA-256 of the other side's certificate, where it showed one.
    pub certificate_sha256: Option<Fingerprint>,
}

/// A fingerprint as people compare it: hexadecimal pairs with colons between.
#[must_use]
pub fn show_fingerprint(fingerprint: &Fingerprint) -> String {
    let pairs: Vec<String> = fingerprint.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// SHA-256 over the DER form, by the hash that the TLS library brings.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .expect("the suite is one of TLS 1.3");
    let output = suite.common.hash_provider.hash(certificate.as_ref());
    output.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

pub(crate) fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a client offers and checks.
pub(crate) fn client_config(trust: &TlsTrust) -> Result<rustls::ClientConfig, CarrierError> {
    let provider = provider();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(CarrierError::setting)?;
    let pinned = |expected| {
        Arc::new(PinVerifier {
            expected,
            algorithms: provider.signature_verification_algorithms,
        })
    };
    let builder = match trust {
        TlsTrust::System => builder
            .with_platform_verifier()
            .map_err(CarrierError::setting)?,
        TlsTrust::PinnedCertificate(print) => builder
            .dangerous()
            .with_custom_certificate_verifier(pinned(Some(*print))),
        TlsTrust::AcceptAndReport => builder
            .dangerous()
            .with_custom_certificate_verifier(pinned(None)),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts one certificate, or any; checks that the other side holds its key.
#[derive(Debug)]
struct PinVerifier {
    expected: Option<Fingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint(end_entity);
        match self.expected {
            Some(expected) if expected != shown => Err(rustls::Error::General(format!(
                "the certificate's fingerprint is {}, the pinned one is {}; either the relay has a \
                 new certificate, or something on the way opens TLS",
                show_fingerprint(&shown),
                show_fingerprint(&expected),
            ))),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why a server has no TLS identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file holds no certificate or key in PEM form.
    #[error("{path} holds no usable PEM: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not fit together, or cannot be used.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// A self-signed certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<rustls::ServerConfig>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            config: _,
            fingerprint,
        } = self;
        write!(f, "TlsIdentity({})", show_fingerprint(fingerprint))
    }
}

impl TlsIdentity {
    /// From a chain of certificates and a private key, both in PEM form.
    ///
    /// # Errors
    /// A file is missing or holds something else, or the two do not fit together.
    pub fn from_pem_files(certificates: &Path, key: &Path) -> Result<Self, IdentityError> {
        let pem = |path: &Path, error: rustls::pki_types::pem::Error| match error {
            rustls::pki_types::pem::Error::Io(source) => IdentityError::File {
                path: path.to_owned(),
                source,
            },
            other => IdentityError::Pem {
                path: path.to_owned(),
                reason: other.to_string(),
            },
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| pem(certificates, error))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
        let Some(first) = chain.first() else {
            return Err(IdentityError::Pem {
                path: certificates.to_owned(),
                reason: "no certificate in it".to_owned(),
            });
        };
        let fingerprint = fingerprint(first);
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        config.alpn_protocols = vec![crate::http2::ALPN.to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }

    /// The self-signed identity kept in `directory` (`tls-cert.pem`, and `tls-key.pem` which only its
    /// owner may read), made there for `names` if it is not yet there.
    ///
    /// # Errors
    /// The folder cannot be written, or what lies there cannot be used.
    pub fn self_signed(directory: &Path, names: &[String]) -> Result<Self, IdentityError> {
        let certificate = directory.join("tls-cert.pem");
        let key = directory.join("tls-key.pem");
        if !(certificate.exists() && key.exists()) {
            let made = rcgen::generate_simple_self_signed(names)?;
            write_file(&key, &made.signing_key.serialize_pem(), 0o600)?;
            write_file(&certificate, &made.cert.pem(), 0o644)?;
        }
        Self::from_pem_files(&certificate, &key)
    }

    /// The SHA-256 of the certificate, for people to compare and clients to pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What a server offers.
    pub(crate) fn config(&self) -> rustls::ServerConfig {
        (*self.config).clone()
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let write = || options.open(path)?.write_all(text.as_bytes());
    write().map_err(|source| IdentityError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_identity_is_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let names = ["relay.example".to_owned()];
        let first = TlsIdentity::self_signed(dir.path(), &names).expect("made");
        let again = TlsIdentity::self_signed(dir.path(), &names).expect("read");
        assert_eq!(first.fingerprint(), again.fingerprint());
        let other = tempfile::tempdir().expect("temporary folder");
        let other = TlsIdentity::self_signed(other.path(), &names).expect("made");
        assert_ne!(first.fingerprint(), other.fingerprint());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_the_key() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("temporary folder");
        TlsIdentity::self_signed(dir.path(), &["h".to_owned()]).expect("made");
        let key = fs::metadata(dir.path().join("tls-key.pem")).expect("exists");
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let missing = dir.path().join("missing.pem");
        let error = TlsIdentity::from_pem_files(&missing, &missing).expect_err("missing");
        assert!(matches!(error, IdentityError::File { .. }), "{error}");
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "no pem").expect("written");
        let error = TlsIdentity::from_pem_files(&empty, &empty).expect_err("empty");
        assert!(matches!(error, IdentityError::Pem { .. }), "{error}");
    }

    #[test]
    fn the_fingerprint_is_sha256() {
        // FIPS 180-2, appendix B.1: the digest of "abc".
        let print = fingerprint(&CertificateDer::from(b"abc".to_vec()));
        let expected = "BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:\
                        B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD";
        assert_eq!(show_fingerprint(&print), expected);
    }
}
