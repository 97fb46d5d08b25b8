//! TLS between two machines of one operator: each knows the other's certificate beforehand, by its
//! SHA-256, and nothing else in it means anything. So no clock has to be right, and no authority of
//! the web's has a say.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
};
use tokio::net::TcpStream;

use crate::tls::{Fingerprint, IdentityError, fingerprint_of, kept_pem, provider};

/// A connection whose two ends have shown each other the right certificates.
pub type MutualStream = tokio_rustls::TlsStream<TcpStream>;

/// One machine's certificate and key.
pub struct MutualIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for MutualIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print = crate::tls::show_fingerprint(&self.fingerprint);
        write!(f, "MutualIdentity({print})")
    }
}

impl MutualIdentity {
    /// The identity kept in `directory` (`tls-cert.pem`, and `tls-key.pem` which only its owner may
    /// read), made there if it is not yet there.
    ///
    /// # Errors
    /// The folder cannot be written, or what lies there cannot be used.
    pub fn kept_in(directory: &Path) -> Result<Self, IdentityError> {
        let (chain, key) = kept_pem(directory, &["underpass".to_owned()])?;
        let fingerprint = fingerprint_of(&chain[0]);
        Ok(Self {
            chain,
            key,
            fingerprint,
        })
    }

    /// The SHA-256 of the certificate, by which the other side knows it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What accepts connections in the protocol `alpn` from those whose certificates are `known` when they
    /// connect, and from nobody else.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn acceptor(
        &self,
        known: impl Fn(&Fingerprint) -> bool + Send + Sync + 'static,
        alpn: &[u8],
    ) -> Result<MutualAcceptor, IdentityError> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Known::new(known)))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        // Who is known is asked at each connection.
        config.send_tls13_tickets = 0;
        Ok(MutualAcceptor(Arc::new(config).into()))
    }

    /// What connects in the protocol `alpn` to the one whose certificate is `expected`.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn connector(
        &self,
        expected: Fingerprint,
        alpn: &[u8],
    ) -> Result<MutualConnector, IdentityError> {
        let known = Known::new(move |shown| *shown == expected);
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(known))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(MutualConnector(Arc::new(config).into()))
    }
}

/// The accepting side.
#[derive(Clone)]
pub struct MutualAcceptor(tokio_rustls::TlsAcceptor);

impl fmt::Debug for MutualAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutualAcceptor")
    }
}

impl MutualAcceptor {
    /// The connection, and whose it is. Sets no limit to how long that takes.
    ///
    /// # Errors
    /// The other side shows no certificate, an unknown one, or speaks something else.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(MutualStream, Fingerprint)> {
        let stream = self.0.accept(tcp).await?;
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let shown = shown.map(fingerprint_of);
        let speaks = connection.alpn_protocol().is_some();
        match shown {
            Some(shown) if speaks => Ok((stream.into(), shown)),
            _ => Err(io::Error::other("the other side speaks another protocol")),
        }
    }
}

/// The connecting side.
#[derive(Clone)]
pub struct MutualConnector(tokio_rustls::TlsConnector);

impl fmt::Debug for MutualConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutualConnector")
    }
}

impl MutualConnector {
    /// The connection. Whether the other side knows us shows only when something is read from it:
    /// see [`unknown_there`]. Sets no limit to how long that takes.
    ///
    /// # Errors
    /// The other side shows another certificate, or speaks something else.
    pub async fn connect(&self, tcp: TcpStream) -> io::Result<MutualStream> {
        let name = ServerName::try_from("underpass").expect("it is a host name");
        let stream = self.0.connect(name, tcp).await?;
        if stream.get_ref().1.alpn_protocol().is_none() {
            return Err(io::Error::other("the other side speaks another protocol"));
        }
        Ok(stream.into())
    }
}

/// Whether an error says that the other side does not know our certificate.
#[must_use]
pub fn unknown_there(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::AlertReceived(
            AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
        ))
    )
}

/// Accepts certificates that are known; checks that the other side holds the key.
struct Known {
    known: Box<dyn Fn(&Fingerprint) -> bool + Send + Sync>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    fn new(known: impl Fn(&Fingerprint) -> bool + Send + Sync + 'static) -> Self {
        Self {
            known: Box::new(known),
            algorithms: provider().signature_verification_algorithms,
        }
    }

    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match (self.known)(&fingerprint_of(shown)) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}

/// What both sides ask of the other's signature, in the same words, though by two traits: that it is of TLS 1.3, since
/// neither offers an older one, and made by the certificate's key.
macro_rules! signatures_of_tls13 {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
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
    };
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!();
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of_tls13!();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const ALPN: &[u8] = b"underpass-test";

    fn identity() -> MutualIdentity {
        let folder = tempfile::tempdir().expect("temporary folder");
        MutualIdentity::kept_in(folder.path()).expect("made")
    }

    /// What the client reads, where both sides accept each other; and what each says otherwise.
    async fn meet(
        acceptor: MutualAcceptor,
        connector: MutualConnector,
    ) -> (io::Result<Fingerprint>, io::Result<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await;
        let tcp = tcp.expect("connected");
        let server = async {
            let (tcp, _) = listener.accept().await?;
            let (mut stream, shown) = acceptor.accept(tcp).await?;
            stream.write_all(b"welcome").await?;
            stream.shutdown().await?;
            Ok(shown)
        };
        let client = async {
            let mut stream = connector.connect(tcp).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn who_knows_whom_decides() {
        let (server, client, stranger) = (identity(), identity(), identity());
        let known = client.fingerprint();
        let accepts = || {
            let acceptor = server.acceptor(move |it| *it == known, ALPN);
            acceptor.expect("usable")
        };
        let to = |expected| client.connector(expected, ALPN).expect("usable");
        let (shown, read) = meet(accepts(), to(server.fingerprint())).await;
        assert_eq!(shown.expect("accepted"), client.fingerprint());
        assert_eq!(read.expect("accepted"), "welcome");

        let (shown, read) = meet(accepts(), to(stranger.fingerprint())).await;
        assert!(shown.is_err() && read.is_err(), "another server's");

        let wrong = stranger.connector(server.fingerprint(), ALPN);
        let (shown, read) = meet(accepts(), wrong.expect("usable")).await;
        assert!(shown.is_err());
        assert!(unknown_there(&read.expect_err("nobody knows it")));

        let nobody = server.acceptor(|_| false, ALPN).expect("usable");
        let (shown, read) = meet(nobody, to(server.fingerprint())).await;
        assert!(shown.is_err() && unknown_there(&read.expect_err("closed by default")));

        let other = client.connector(server.fingerprint(), b"h2");
        let (shown, read) = meet(accepts(), other.expect("usable")).await;
        assert!(shown.is_err() && read.is_err(), "another protocol");
    }

    #[tokio::test]
    async fn without_a_certificate_nobody_gets_in() {
        let server = identity();
        let acceptor = server.acceptor(|_| true, ALPN).expect("usable");
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the usual versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Known::new(|_| true)))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let (shown, read) = meet(acceptor, MutualConnector(Arc::new(config).into())).await;
        assert!(shown.is_err() && read.is_err());
    }
}
