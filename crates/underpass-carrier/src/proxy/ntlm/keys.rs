//! The hashes of NTLMv2 ([MS-NLMP] section 3.3.2).

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;
use zeroize::Zeroizing;

/// 128 bits that are wiped when dropped.
pub(super) type Key = Zeroizing<[u8; 16]>;

/// What answers a challenge.
pub(super) struct Response {
    /// Proof and what it is over.
    pub(super) message: Zeroizing<Vec<u8>>,
    /// The session's base key.
    pub(super) session_key: Key,
}

/// Text as UTF-16, little endian.
pub(super) fn utf16(text: &str) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2));
    for unit in text.encode_utf16() {
        out.extend_from_slice(&unit.to_le_bytes());
    }
    out
}

pub(super) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// NTOWFv2: the key that stands for the password.
pub(super) fn response_key(password: &str, user: &str, domain: &str) -> Key {
    let hash: Key = Zeroizing::new(Md4::digest(&*utf16(password)).into());
    let name = utf16(&(user.to_uppercase() + domain));
    hmac_md5(&*hash, &[&name])
}

/// The response of version 2, over the server's challenge and what it said about itself.
pub(super) fn respond(
    key: &Key,
    server: [u8; 8],
    client: [u8; 8],
    time: u64,
    info: &[u8],
) -> Response {
    let mut blob = Vec::with_capacity(32 + info.len());
    blob.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
    blob.extend_from_slice(&time.to_le_bytes());
    blob.extend_from_slice(&client);
    blob.extend_from_slice(&[0; 4]);
    blob.extend_from_slice(info);
    blob.extend_from_slice(&[0; 4]);
    let proof = hmac_md5(&key[..], &[&server, &blob]);
    let session_key = hmac_md5(&key[..], &[&proof[..]]);
    let mut message = Zeroizing::new(proof.to_vec());
    message.extend_from_slice(&blob);
    Response {
        message,
        session_key,
    }
}

/// The response that older servers look at, made from the same key.
pub(super) fn lm_response(key: &Key, server: [u8; 8], client: [u8; 8]) -> [u8; 24] {
    let proof = hmac_md5(&key[..], &[&server, &client]);
    let mut out = [0; 24];
    out[..16].copy_from_slice(&proof[..]);
    out[16..].copy_from_slice(&client);
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::bytes;
    use super::*;

    /// [MS-NLMP] sections 4.2.4.1.1, 4.2.4.1.2 and 4.2.4.2.
    #[test]
    fn the_keys_of_the_specification() {
        let key = response_key("Password", "User", "Domain");
        assert_eq!(key[..], bytes("0c868a403bfd7a93a3001ef22ef02e3f"));
        let info =
            bytes("02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000");
        let server = 0x0123_4567_89ab_cdef_u64.to_be_bytes();
        let response = respond(&key, server, [0xaa; 8], 0, &info);
        assert_eq!(
            response.message[..16],
            bytes("68cd0ab851e51c96aabc927bebef6a1c")
        );
        assert_eq!(
            response.session_key[..],
            bytes("8de40ccadbc14a82f15cb0ad0de95ca3")
        );
        let lm = lm_response(&key, server, [0xaa; 8]);
        assert_eq!(
            lm[..],
            bytes("86c35097ac9cec102554764a57cccc19 aaaaaaaaaaaaaaaa")
        );
    }
}
