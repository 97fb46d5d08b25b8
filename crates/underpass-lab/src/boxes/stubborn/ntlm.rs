//! The server's side of NTLM over HTTP: a challenge, and the check of what comes back ([MS-NLMP], [MS-NTHT]).
//!
//! Only NTLMv2 is let in. Written from the specification and checked against its examples, so that a client is not
//! tested against itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;

use super::manners::Login;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
const NEGOTIATE: u32 = 1;
const CHALLENGE: u32 = 2;
const AUTHENTICATE: u32 = 3;

/// What the box offers ([MS-NLMP] section 2.2.2.5): Unicode, target name and information, NTLM with extended session
/// security, signing, keys of 128 and 56 bits.
const FLAGS: u32 = 0x0000_0001
    | 0x0000_0004
    | 0x0000_0200
    | 0x0000_8000
    | 0x0001_0000
    | 0x0008_0000
    | 0x0080_0000
    | 0x2000_0000
    | 0x8000_0000;
/// The client will exchange a key of its own ([MS-NLMP] section 2.2.2.5, bit V).
const KEY_EXCHANGE: u32 = 0x4000_0000;

/// Ids of the pairs in the target information ([MS-NLMP] section 2.2.2.1).
const AV_END: u16 = 0;
const AV_COMPUTER: u16 = 1;
const AV_DOMAIN: u16 = 2;
const AV_FLAGS: u16 = 6;
const AV_TIMESTAMP: u16 = 7;
/// The client's message carries a MIC.
const AV_FLAG_MIC: u32 = 2;
/// Where the MIC stands in the client's last message ([MS-NLMP] section 2.2.1.3).
const MIC: std::ops::Range<usize> = 72..88;

/// How far one connection is.
#[derive(Debug, Default)]
pub(super) enum Door {
    /// Nobody has asked.
    #[default]
    Shut,
    /// The client has been given a challenge.
    Challenged {
        /// The client's first message and the box's answer, which the MIC covers.
        said: Vec<u8>,
        challenge: [u8; 8],
    },
    /// Every request on this connection passes.
    Open,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It passes.
    Granted,
    /// 407 with this value of `Proxy-Authenticate`.
    Asked(String),
}

impl Door {
    /// Looks at the value of `Proxy-Authorization`. `challenge` is used when one is to be given.
    pub(super) fn knock(
        &mut self,
        value: Option<&str>,
        login: &Login,
        challenge: [u8; 8],
    ) -> Entry {
        let begin = || Entry::Asked("NTLM".into());
        let message = value.and_then(token);
        let message = match (&*self, message) {
            (Self::Open, None) => return Entry::Granted,
            (_, None) => {
                *self = Self::Shut;
                return begin();
            }
            (_, Some(message)) => message,
        };
        match (std::mem::take(self), kind(&message)) {
            (_, Some(NEGOTIATE)) => {
                let answer = challenge_message(challenge, &login.domain);
                let entry = Entry::Asked(format!("NTLM {}", STANDARD.encode(&answer)));
                let said = [message, answer].concat();
                *self = Self::Challenged { said, challenge };
                entry
            }
            (Self::Challenged { said, challenge }, Some(AUTHENTICATE))
                if proves(&message, login, challenge, &said).is_some() =>
            {
                *self = Self::Open;
                Entry::Granted
            }
            _ => begin(),
        }
    }
}

/// The message in the value of a header field.
fn token(value: &str) -> Option<Vec<u8>> {
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("NTLM") {
        return None;
    }
    STANDARD.decode(token.trim()).ok()
}

fn kind(message: &[u8]) -> Option<u32> {
    message.strip_prefix(SIGNATURE)?;
    u32_at(message, 8)
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The payload that the field of eight bytes at `at` points to (length, room, offset).
fn payload(message: &[u8], at: usize) -> Option<&[u8]> {
    let field = message.get(at..at + 8)?;
    let length = usize::from(u16::from_le_bytes([field[0], field[1]]));
    let offset = u32_at(field, 4)? as usize;
    message.get(offset..offset.checked_add(length)?)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn from_utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

fn pair(id: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("the box's own values are short");
    [&id.to_le_bytes()[..], &length.to_le_bytes(), value].concat()
}

/// [MS-NLMP] section 2.2.1.2.
fn challenge_message(challenge: [u8; 8], domain: &str) -> Vec<u8> {
    let target = utf16(domain);
    // A time makes clients protect their messages by a MIC. Any time will do: nothing here expires.
    let time = 133_000_000_000_000_000u64.to_le_bytes();
    let info = [
        pair(AV_DOMAIN, &target),
        pair(AV_COMPUTER, &utf16("STUBBORN")),
        pair(AV_TIMESTAMP, &time),
        pair(AV_END, &[]),
    ]
    .concat();
    let head = 56u32;
    let field = |length: usize, offset: u32| {
        let length = u16::try_from(length).expect("the box's own values are short");
        [
            &length.to_le_bytes()[..],
            &length.to_le_bytes(),
            &offset.to_le_bytes(),
        ]
        .concat()
    };
    let after = head + u32::try_from(target.len()).expect("a domain's name is short");
    [
        &SIGNATURE[..],
        &CHALLENGE.to_le_bytes(),
        &field(target.len(), head),
        &FLAGS.to_le_bytes(),
        &challenge,
        &[0; 8],
        &field(info.len(), after),
        // The version of Windows that it might be.
        &[10, 0, 0, 0, 0, 0, 0, 15],
        &target,
        &info,
    ]
    .concat()
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("any length is a key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// `NTOWFv2` ([MS-NLMP] section 3.3.2).
fn owner_key(password: &str, user: &str, domain: &str) -> [u8; 16] {
    let hash = Md4::digest(utf16(password));
    hmac_md5(&hash, &[&utf16(&user.to_uppercase()), &utf16(domain)])
}

/// Whether a client's last message proves that it knows the password.
fn proves(message: &[u8], login: &Login, challenge: [u8; 8], said: &[u8]) -> Option<()> {
    let response = payload(message, 20)?;
    let domain = from_utf16(payload(message, 28)?);
    let user = from_utf16(payload(message, 36)?);
    let flags = u32_at(message, 60)?;
    // NTLMv1 answers in 24 bytes, which anybody who listens can take apart.
    if response.len() <= 24 {
        return None;
    }
    let known = user.to_uppercase() == login.user.to_uppercase()
        && (domain.is_empty() || domain == login.domain);
    let (proof, client) = response.split_at_checked(16)?;
    let key = owner_key(&login.password, &user, &domain);
    let right = hmac_md5(&key, &[&challenge, client]);
    // A response's own version, twice ([MS-NLMP] section 2.2.2.7).
    if !known || proof != right || !client.starts_with(&[1, 1]) {
        return None;
    }
    let has_mic = av_flags(client.get(28..)?)? & AV_FLAG_MIC != 0;
    // With a key exchange the MIC is made with a key that the box does not unwrap.
    if has_mic && flags & KEY_EXCHANGE == 0 {
        let session_key = hmac_md5(&key, &[proof]);
        let mut unsigned = message.to_vec();
        unsigned.get_mut(MIC)?.fill(0);
        let right = hmac_md5(&session_key, &[said, &unsigned]);
        return (message.get(MIC)? == right).then_some(());
    }
    Some(())
}

/// The flags among the client's pairs, 0 when they are not given.
fn av_flags(mut pairs: &[u8]) -> Option<u32> {
    loop {
        let (head, rest) = pairs.split_at_checked(4)?;
        let id = u16::from_le_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length)?;
        match id {
            AV_END => return Some(0),
            AV_FLAGS => return u32_at(value, 0),
            _ => pairs = rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the specification's examples ([MS-NLMP] section 4.2.1).
    const EXAMPLE_CHALLENGE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

    fn example() -> Login {
        Login {
            domain: "Domain".into(),
            user: "User".into(),
            password: "Password".into(),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What the client of the example adds to its proof ([MS-NLMP] section 4.2.4.1.3).
    fn example_client() -> Vec<u8> {
        let pairs = [
            pair(AV_DOMAIN, &utf16("Domain")),
            pair(AV_COMPUTER, &utf16("Server")),
            pair(AV_END, &[]),
        ];
        let begin = [&[1, 1, 0, 0, 0, 0, 0, 0][..], &[0; 8], &[0xaa; 8], &[0; 4]];
        [begin.concat(), pairs.concat(), vec![0; 4]].concat()
    }

    /// A last message of a client with this response.
    fn authenticate(login: &Login, response: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut payload = Vec::new();
        let (domain, user) = (utf16(&login.domain), utf16(&login.user));
        for part in [&[][..], response, &domain, &user, &[], &[]] {
            let length = (part.len() as u16).to_le_bytes();
            let offset = (88 + payload.len() as u32).to_le_bytes();
            fields.extend([&length[..], &length, &offset].concat());
            payload.extend_from_slice(part);
        }
        let kind = AUTHENTICATE.to_le_bytes();
        let head = [
            &SIGNATURE[..],
            &kind,
            &fields,
            &FLAGS.to_le_bytes(),
            &[0; 24],
        ]
        .concat();
        assert_eq!(head.len(), 88);
        [head, payload].concat()
    }

    #[test]
    fn the_examples_of_the_specification_come_out() {
        let key = owner_key("Password", "User", "Domain");
        assert_eq!(hex(&key), "0c868a403bfd7a93a3001ef22ef02e3f");
        let proof = hmac_md5(&key, &[&EXAMPLE_CHALLENGE, &example_client()]);
        assert_eq!(hex(&proof), "68cd0ab851e51c96aabc927bebef6a1c");
        let session_key = hmac_md5(&key, &[&proof]);
        assert_eq!(hex(&session_key), "8de40ccadbc14a82f15cb0ad0de95ca3");
        let response = [&proof[..], &example_client()].concat();
        let message = authenticate(&example(), &response);
        assert!(proves(&message, &example(), EXAMPLE_CHALLENGE, &[]).is_some());
    }

    #[test]
    fn what_proves_nothing_is_turned_away() {
        let client = example_client();
        let answer = |login: &Login, challenge: [u8; 8]| {
            let key = owner_key(&login.password, &login.user, &login.domain);
            let proof = hmac_md5(&key, &[&challenge, &client]);
            authenticate(login, &[&proof[..], &client].concat())
        };
        let passes = |message: &[u8]| proves(message, &example(), EXAMPLE_CHALLENGE, &[]).is_some();
        let upper = Login {
            user: "uSER".into(),
            ..example()
        };
        assert!(passes(&answer(&upper, EXAMPLE_CHALLENGE)));
        for (why, wrong) in [
            (
                "password",
                Login {
                    password: "password".into(),
                    ..example()
                },
            ),
            (
                "user",
                Login {
                    user: "Other".into(),
                    ..example()
                },
            ),
            (
                "domain",
                Login {
                    domain: "Else".into(),
                    ..example()
                },
            ),
        ] {
            assert!(!passes(&answer(&wrong, EXAMPLE_CHALLENGE)), "another {why}");
        }
        assert!(!passes(&answer(&example(), [0; 8])), "an old challenge");
        assert!(!passes(&authenticate(&example(), &[7; 24])), "version 1");
        let whole = answer(&example(), EXAMPLE_CHALLENGE);
        (0..whole.len()).for_each(|length| assert!(!passes(&whole[..length]), "{length} bytes"));
    }

    #[test]
    fn the_door_opens_for_its_connection_only_after_a_challenge() {
        let negotiate = [
            &SIGNATURE[..],
            &NEGOTIATE.to_le_bytes(),
            &FLAGS.to_le_bytes(),
            &[0; 16],
        ]
        .concat();
        let said = |message: &[u8]| format!("NTLM {}", STANDARD.encode(message));
        let mut door = Door::default();
        let login = example();
        let mut knock = |value: Option<&str>| door.knock(value, &login, EXAMPLE_CHALLENGE);
        assert_eq!(knock(None), Entry::Asked("NTLM".into()));
        let key = owner_key("Password", "User", "Domain");
        let proof = hmac_md5(&key, &[&EXAMPLE_CHALLENGE, &example_client()]);
        let last = said(&authenticate(
            &login,
            &[&proof[..], &example_client()].concat(),
        ));
        assert_eq!(
            knock(Some(&last)),
            Entry::Asked("NTLM".into()),
            "nobody was challenged"
        );
        let Entry::Asked(challenge) = knock(Some(&said(&negotiate))) else {
            panic!("a first message opens nothing")
        };
        let challenge = token(&challenge).unwrap();
        assert_eq!(kind(&challenge), Some(CHALLENGE));
        assert_eq!(&challenge[24..32], EXAMPLE_CHALLENGE);
        assert_eq!(from_utf16(payload(&challenge, 12).unwrap()), "Domain");
        assert_eq!(av_flags(payload(&challenge, 40).unwrap()), Some(0));
        assert_eq!(knock(Some(&last)), Entry::Granted);
        assert_eq!(knock(None), Entry::Granted);
        assert_eq!(
            knock(Some("NTLM bm9uc2Vuc2U=")),
            Entry::Asked("NTLM".into())
        );
        assert_eq!(
            knock(None),
            Entry::Asked("NTLM".into()),
            "what was open is shut"
        );
    }
}
