//! Coming in by an X.509 certificate.

use bytes::Bytes;
use thiserror::Error;
use underpass_carrier::IdentityError;
use underpass_carrier::x509::OwnCertificate;
use underpass_proto::Code;
use underpass_proto::control::{Certify, Control as Message, Identity};
use underpass_seal::certificate_proof;

use crate::standing::{RequestError, Standing};

/// Why a login by certificate failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateLoginError {
    /// The relay refused it, or could not be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The certificate's key cannot sign.
    #[error(transparent)]
    Key(#[from] IdentityError),
}

impl Standing {
    /// Proves to the relay that this machine holds the key of a certificate, and enrols it under the user whom the
    /// certificate names; or gives the relay a new certificate of that user. The proof holds in this one session with
    /// this one relay.
    ///
    /// # Errors
    /// The relay refuses, or cannot be asked; the key cannot sign.
    pub async fn certify(
        &self,
        certificate: &OwnCertificate,
        machine: &str,
    ) -> Result<Identity, CertificateLoginError> {
        let key = self.attachment().machine_key();
        loop {
            let session = self.attachment().session();
            let message = certificate_proof(&session.handshake_hash(), &key);
            let (scheme, signature) = certificate.sign(&message)?;
            let asked = self.request(|request| {
                Certify {
                    request,
                    machine: machine.to_owned(),
                    chain: certificate.chain().to_der().into(),
                    scheme,
                    signature: Bytes::from(signature),
                }
                .into()
            });
            match asked.await {
                Ok(mut answer) => {
                    return match answer.pop() {
                        Some(Message::Identity(identity)) => Ok(identity),
                        _ => Err(RequestError::Unexpected.into()),
                    };
                }
                // The attachment went on in another session meanwhile, of which the signature does not speak.
                Err(error)
                    if error.code() == Code::CertificateProof
                        && self.attachment().session().id() != session.id() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
