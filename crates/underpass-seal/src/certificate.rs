//! What a machine signs with the key of its X.509 certificate.

use crate::key::PublicKey;
use crate::schedule::Label;

/// What a machine with this key signs to be let in by a certificate, in the hop session with this handshake hash.
///
/// It has the shape of what TLS 1.3 has signed (RFC 8446 section 4.4.3: 64 spaces, a text that says what for, a zero
/// byte), with a text of its own: a certificate's key may serve TLS too, and no signature made for one is worth
/// anything in the other. The hash covers both static keys, so that nobody who stands between an agent and a relay
/// passes the signature on.
#[must_use]
pub fn certificate_proof(handshake_hash: &[u8; 32], machine: &PublicKey) -> Vec<u8> {
    let label = Label::CertificateLogin.text().as_bytes();
    [&[b' '; 64], label, &[0], handshake_hash, &machine.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Samples;

    #[test]
    fn certificate_samples_agree() {
        let about = "What a machine signs that is let in by a certificate (docs/protocol-keys.md).";
        let mut samples = Samples::new("certificate.txt", about);
        let (hash, machine) = ([0xa5; 32], [0x5a; 32]);
        samples.add("handshake_hash", &hash);
        samples.add("machine", &machine);
        samples.add("signed", &certificate_proof(&hash, &PublicKey(machine)));
        samples.check();
    }

    #[test]
    fn every_session_and_machine_signs_something_else() {
        let proof = |hash, machine| certificate_proof(&[hash; 32], &PublicKey([machine; 32]));
        assert_ne!(proof(1, 1), proof(1, 2));
        assert_ne!(proof(1, 1), proof(2, 1));
        assert_ne!(proof(1, 2), proof(2, 1));
        // RFC 8446 section 4.4.3: what TLS has signed goes on otherwise.
        let text = &proof(1, 1)[64..];
        assert!(text.starts_with(b"underpass/1 ") && !text.starts_with(b"TLS 1.3"));
    }
}
