//! NTLM version 2 over HTTP ([MS-NLMP], [MS-NTHT]): three messages on one connection. Pure.
//!
//! Only what proves a password: nothing is signed or sealed, so no key is exchanged. The older
//! versions, which give the password away to whoever listens, are not spoken.

mod keys;
mod messages;

use zeroize::Zeroizing;

use super::credentials::Credentials;
pub(crate) use messages::MessageError;
use messages::{AuthenticateMessage, ChallengeMessage, negotiate_message};

/// The client's side of one exchange; the first message was made.
#[derive(Debug)]
pub(crate) struct Ntlm {
    negotiate: Vec<u8>,
}

impl Ntlm {
    /// Begins, and gives the first message.
    #[must_use]
    pub(crate) fn begin() -> (Self, Vec<u8>) {
        let negotiate = negotiate_message();
        let first = negotiate.clone();
        (Self { negotiate }, first)
    }

    /// The third message, in answer to the proxy's `challenge`. `random` is to be new each time;
    /// `now` is in units of 100 ns since 1601 and only counts where the proxy tells no time.
    ///
    /// # Errors
    /// The challenge is malformed, or asks for a version that is not spoken.
    pub(crate) fn answer(
        self,
        challenge: &[u8],
        credentials: &Credentials,
        random: [u8; 8],
        now: u64,
    ) -> Result<Zeroizing<Vec<u8>>, MessageError> {
        let Self { negotiate } = self;
        let parsed = ChallengeMessage::parse(challenge)?;
        let (domain, user) = split_user(credentials.user());
        let key = keys::response_key(credentials.password(), user, domain);
        let time = parsed.timestamp();
        let info = parsed.info_for_response(time.is_some());
        let response = keys::respond(&key, parsed.challenge, random, time.unwrap_or(now), &info);
        let message = AuthenticateMessage {
            // [MS-NLMP] 3.1.5.1.2: where the server tells the time, the older response is left empty.
            lm_response: match time {
                Some(_) => [0; 24],
                None => keys::lm_response(&key, parsed.challenge, random),
            },
            nt_response: response.message,
            domain,
            user,
            flags: parsed.flags,
        };
        let mut bytes = message.encode();
        if time.is_some() {
            let all = [&negotiate[..], challenge, &bytes[..]];
            let mic = keys::hmac_md5(&*response.session_key, &all);
            bytes[messages::MIC_AT..messages::MIC_AT + mic.len()].copy_from_slice(&*mic);
        }
        Ok(bytes)
    }
}

/// Domain and user out of `DOMAIN\user`; `user@domain` stays whole.
fn split_user(text: &str) -> (&str, &str) {
    text.split_once('\\').unwrap_or(("", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        let pairs = (0..hex.len()).step_by(2);
        pairs
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect()
    }

    /// [MS-NLMP] section 4.2.4.3: the challenge of the NTLMv2 example.
    pub(super) const CHALLENGE: &str = "4e544c4d53535000 02000000 0c000c00 38000000 33828ae2 \
        0123456789abcdef 0000000000000000 24002400 44000000 060070170000000f \
        530065007200760065007200 02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000";

    #[test]
    fn the_example_of_the_specification() {
        let (ntlm, first) = Ntlm::begin();
        assert_eq!(&first[..12], b"NTLMSSP\0\x01\0\0\0");
        let who = Credentials::new("Domain\\User", "Password");
        let third = ntlm
            .answer(&bytes(CHALLENGE), &who, [0xaa; 8], 0)
            .expect("valid");
        // Section 4.2.4.2.1 and 4.2.4.2.2.
        let lm = bytes("86c35097ac9cec102554764a57cccc19 aaaaaaaaaaaaaaaa");
        let nt = bytes("68cd0ab851e51c96aabc927bebef6a1c");
        let has = |wanted: &[u8]| third.windows(wanted.len()).any(|part| part == wanted);
        assert!(has(&lm) && has(&nt));
        assert!(has(&bytes("55007300650072 00")), "the user's name");
        assert!(
            third
                .iter()
                .skip(messages::MIC_AT)
                .take(16)
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn a_server_that_tells_the_time_gets_a_code_over_all_messages() {
        let mut challenge = bytes(CHALLENGE);
        let end = challenge.len() - 4;
        // A timestamp before the list's end.
        challenge.splice(end..end, bytes("0700 0800 1122334455667788"));
        challenge[40] = 0x30;
        challenge[42] = 0x30;
        let who = Credentials::new("Domain\\User", "Password");
        let (ntlm, first) = Ntlm::begin();
        let third = ntlm.answer(&challenge, &who, [0xaa; 8], 0).expect("valid");
        let at = messages::MIC_AT;
        let mic: Vec<u8> = third[at..at + 16].to_vec();
        assert!(mic.iter().any(|byte| *byte != 0));
        // Worked out from the message itself, as a server would.
        let key = keys::response_key("Password", "User", "Domain");
        let offset = u32::from_le_bytes(third[24..28].try_into().expect("4")) as usize;
        let session_key = keys::hmac_md5(&*key, &[&third[offset..offset + 16]]);
        let mut without = third.to_vec();
        without[at..at + 16].fill(0);
        let wanted = keys::hmac_md5(&*session_key, &[&first, &challenge, &without]);
        assert_eq!(mic, *wanted);
        let time = bytes("1122334455667788");
        assert!(third.windows(8).any(|part| part == time));
    }

    #[test]
    fn a_server_that_says_nothing_about_itself_gets_the_same_proof() {
        let mut challenge = bytes(CHALLENGE)[..32].to_vec();
        challenge[22] &= !0x80;
        let who = Credentials::new("User", "Password");
        let (ntlm, _) = Ntlm::begin();
        let third = ntlm.answer(&challenge, &who, [0xaa; 8], 7).expect("valid");
        assert!(
            third
                .windows(8)
                .any(|part| part == [7, 0, 0, 0, 0, 0, 0, 0])
        );
    }

    #[test]
    fn domains_stand_before_a_backslash() {
        assert_eq!(split_user("CORP\\anna"), ("CORP", "anna"));
        assert_eq!(split_user("anna@corp.example"), ("", "anna@corp.example"));
    }

    #[test]
    fn broken_challenges_are_refused() {
        let whole = bytes(CHALLENGE);
        let who = Credentials::new("u", "p");
        for len in 0..whole.len() {
            let (ntlm, _) = Ntlm::begin();
            let answer = ntlm.answer(&whole[..len], &who, [0; 8], 0);
            assert!(answer.is_err(), "cut to {len} bytes");
        }
        let mut offset = whole.clone();
        offset[47] = 0xff;
        let (ntlm, _) = Ntlm::begin();
        assert!(ntlm.answer(&offset, &who, [0; 8], 0).is_err());
    }
}
