//! TLS: whom a client trusts, and who a server is.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::certificate::issuer;
use crate::dates::at_a_clock_that_may_be_off;
use crate::dial::Speech;
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
    /// This one; or one that the system's roots vouch for, as a box shows it that opens TLS on the
    /// way.
    PinnedCertificate(Fingerprint),
    /// Any; its fingerprint is reported in [`crate::CarrierInfo`], to be pinned once the relay has
    /// proved itself inside.
    AcceptAndReport,
}

/// Roots that are trusted beside those of the system: a company's, whose boxes open TLS on the way.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsRoots {
    extra: Arc<Vec<CertificateDer<'static>>>,
}

impl TlsRoots {
    /// All certificates of a file in PEM form.
    ///
    /// # Errors
    /// The file cannot be read, or has none.
    pub fn from_pem_file(path: &Path) -> Result<Self, IdentityError> {
        let extra = Arc::new(certificates_in(path)?);
        Ok(Self { extra })
    }

    /// What checks certificates by these roots and the system's.
    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Verifier, rustls::Error> {
        let extra = self.extra.iter().cloned();
        Verifier::new_with_extra_roots(extra, Arc::clone(provider))
    }
}

impl fmt::Debug for TlsRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { extra } = self;
        write!(f, "TlsRoots({} more)", extra.len())
    }
}

/// What TLS agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The version, such as `TLS 1.3`.
    pub version: &'static str,
    /// The SHA-256 of the other side's certificate, where it showed one.
    pub certificate_sha256: Option<Fingerprint>,
    /// Who signed that certificate: the common name, else the organization.
    pub issuer: Option<String>,
}

impl TlsInfo {
    /// What is told of a version and of the certificate that the other side showed.
    pub(crate) fn new(version: &'static str, certificate: Option<&CertificateDer<'_>>) -> Self {
        Self {
            version,
            certificate_sha256: certificate.map(fingerprint_of),
            issuer: certificate.and_then(|it| issuer(it)),
        }
    }
}

/// A fingerprint as people compare it: hexadecimal pairs with colons between.
#[must_use]
pub fn show_fingerprint(fingerprint: &Fingerprint) -> String {
    let pairs: Vec<String> = fingerprint.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// SHA-256 over the DER form.
pub(crate) fn fingerprint_of(certificate: &CertificateDer<'_>) -> Fingerprint {
    sha256(certificate.as_ref())
}

/// SHA-256, by the hash that the TLS library brings.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .expect("the suite is one of TLS 1.3");
    let output = suite.common.hash_provider.hash(bytes);
    output.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

pub(crate) fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a client offers and checks.
pub(crate) fn client_config(
    trust: &TlsTrust,
    roots: &TlsRoots,
    speech: Speech,
) -> Result<rustls::ClientConfig, CarrierError> {
    let (config, _) = client_config_that_tells(trust, roots, speech.alpn())?;
    Ok(config)
}

/// The same, and where it says which certificate was not accepted, for libraries that keep no more of
/// an error than its text.
pub(crate) fn client_config_that_tells(
    trust: &TlsTrust,
    roots: &TlsRoots,
    alpn: &[u8],
) -> Result<(rustls::ClientConfig, Arc<OnceLock<UntrustedCertificate>>), CarrierError> {
    let refused = Arc::new(OnceLock::new());
    let provider = provider();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(CarrierError::setting)?;
    let verifier = RelayVerifier {
        trust: trust.clone(),
        roots: roots.clone(),
        algorithms: provider.signature_verification_algorithms,
        provider,
        by_roots: OnceLock::new(),
        refused: Arc::clone(&refused),
    };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok((config, refused))
}

/// The same configuration for what is to be spoken now.
pub(crate) fn speaking(
    config: &Arc<rustls::ClientConfig>,
    speech: Speech,
) -> Arc<rustls::ClientConfig> {
    if config.alpn_protocols == [speech.alpn()] {
        return Arc::clone(config);
    }
    let mut other = rustls::ClientConfig::clone(config);
    other.alpn_protocols = vec![speech.alpn().to_vec()];
    Arc::new(other)
}

/// A certificate that is neither pinned nor vouched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} shows a certificate signed by {}, whom nobody vouches for here ({reason}); its fingerprint is \
     {}{}",
    .issuer.as_deref().unwrap_or("somebody unnamed"),
    show_fingerprint(shown),
    .pinned.as_ref().map(|it| format!(", the pinned one is {}", show_fingerprint(it))).unwrap_or_default()
)]
pub struct UntrustedCertificate {
    /// Whose it should be.
    pub host: String,
    /// The certificate that is expected, where one is.
    pub pinned: Option<Fingerprint>,
    /// The one that was shown.
    pub shown: Fingerprint,
    /// Who signed it.
    pub issuer: Option<String>,
    /// Why it is not trusted.
    pub reason: String,
}

/// The error that says which certificate was not accepted, if that was it.
pub(crate) fn untrusted(error: &io::Error) -> Option<CarrierError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    let untrusted = other.0.downcast_ref::<UntrustedCertificate>()?;
    Some(CarrierError::Certificate(Box::new(untrusted.clone())))
}

/// Accepts one certificate, or any, or those that roots vouch for; checks that the other side holds
/// its key.
///
/// Where one is pinned, another is accepted too that a trusted root has signed for the relay's name:
/// that is how a company's box shows itself that opens TLS on the way. The session inside tells it
/// from the relay.
///
/// This machine's clock may be off by a day, see [`at_a_clock_that_may_be_off`].
#[derive(Debug)]
struct RelayVerifier {
    trust: TlsTrust,
    roots: TlsRoots,
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
    /// Made when it is needed: loading the system's roots takes a while.
    by_roots: OnceLock<Result<Verifier, rustls::Error>>,
    /// The first certificate that was not accepted.
    refused: Arc<OnceLock<UntrustedCertificate>>,
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint_of(end_entity);
        let pinned = match self.trust {
            TlsTrust::AcceptAndReport => return Ok(ServerCertVerified::assertion()),
            TlsTrust::PinnedCertificate(pinned) if pinned == shown => {
                return Ok(ServerCertVerified::assertion());
            }
            TlsTrust::PinnedCertificate(pinned) => Some(pinned),
            TlsTrust::System => None,
        };
        let by_roots = || self.roots.verifier(&self.provider);
        let verified = match self.by_roots.get_or_init(by_roots) {
            Ok(verifier) => at_a_clock_that_may_be_off(now, |now| {
                verifier.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                )
            }),
            Err(error) => Err(error.clone()),
        };
        verified.map_err(|error| {
            let untrusted = UntrustedCertificate {
                host: server_name.to_str().into_owned(),
                pinned,
                shown,
                issuer: issuer(end_entity),
                reason: error.to_string(),
            };
            // Each connection may be refused; one reason is enough to tell.
            let _ = self.refused.set(untrusted.clone());
            let other = rustls::OtherError(Arc::new(untrusted));
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
        })
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

/// Why certificates or a key cannot be used.
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
    /// The key cannot be read without a passphrase, which nobody could type in when it is needed.
    #[error("the key in {path} is encrypted")]
    Encrypted {
        /// The file.
        path: PathBuf,
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
        Self::of(read_pem(certificates, key)?)
    }

    fn of((chain, private): ChainAndKey) -> Result<Self, IdentityError> {
        let fingerprint = fingerprint_of(&chain[0]);
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
        Self::of(kept_pem(directory, names)?)
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

/// At least one certificate, and the key of the first.
pub(crate) type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a chain of certificates and a private key, both in PEM form.
pub(crate) fn read_pem(certificates: &Path, key: &Path) -> Result<ChainAndKey, IdentityError> {
    let chain = certificates_in(certificates)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable_pem(key, error))?;
    Ok((chain, private))
}

/// All certificates of a file in PEM form, at least one.
pub(crate) fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    all_in(path, "no certificate in it")
}

/// Everything of one kind in a file in PEM form, at least one of it.
pub(crate) fn all_in<T: PemObject>(path: &Path, none: &str) -> Result<Vec<T>, IdentityError> {
    let found = T::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable_pem(path, error))?;
    if found.is_empty() {
        return Err(IdentityError::Pem {
            path: path.to_owned(),
            reason: none.to_owned(),
        });
    }
    Ok(found)
}

/// The self-signed certificate kept in `directory`, with its key; made there if it is not yet there.
pub(crate) fn kept_pem(directory: &Path, names: &[String]) -> Result<ChainAndKey, IdentityError> {
    let certificate = directory.join("tls-cert.pem");
    let key = directory.join("tls-key.pem");
    if !(certificate.exists() && key.exists()) {
        let made = rcgen::generate_simple_self_signed(names)?;
        write_file(&key, &made.signing_key.serialize_pem(), 0o600)?;
        write_file(&certificate, &made.cert.pem(), 0o644)?;
    }
    read_pem(&certificate, &key)
}

fn unusable_pem(path: &Path, error: rustls::pki_types::pem::Error) -> IdentityError {
    let path = path.to_owned();
    match error {
        rustls::pki_types::pem::Error::Io(source) => IdentityError::File { path, source },
        other => IdentityError::Pem {
            path,
            reason: other.to_string(),
        },
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
        let print = fingerprint_of(&CertificateDer::from(b"abc".to_vec()));
        let expected = "BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:\
                        B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD";
        assert_eq!(show_fingerprint(&print), expected);
    }
}
