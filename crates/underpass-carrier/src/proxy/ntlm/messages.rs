//! The three messages ([MS-NLMP] section 2.2.1), little endian throughout.

use zeroize::Zeroizing;

use super::keys::utf16;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Where the code over all messages stands in the third one.
pub(super) const MIC_AT: usize = 72;
/// Length of the third message without its payload.
const HEADER_LEN: usize = 88;

// Flags, section 2.2.2.5.
const UNICODE: u32 = 0x0000_0001;
const OEM: u32 = 0x0000_0002;
const REQUEST_TARGET: u32 = 0x0000_0004;
const NTLM: u32 = 0x0000_0200;
const ALWAYS_SIGN: u32 = 0x0000_8000;
const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
const TARGET_INFO: u32 = 0x0080_0000;
/// What the client asks for and can do.
const OURS: u32 = UNICODE | OEM | REQUEST_TARGET | NTLM | ALWAYS_SIGN | EXTENDED_SESSION_SECURITY;

// Kinds of entries in the target's information, section 2.2.2.1.
const AV_END: u16 = 0;
const AV_FLAGS: u16 = 6;
const AV_TIMESTAMP: u16 = 7;
/// The flag in `AV_FLAGS` that says that there is a code over all messages.
const HAS_MIC: u32 = 2;

/// Why a challenge cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MessageError {
    /// It is no challenge, or cut short.
    #[error("the proxy's NTLM challenge is malformed")]
    Malformed,
    /// It offers no Unicode, so that version 2 cannot be spoken.
    #[error("the proxy wants a version of NTLM that is too old to be safe")]
    TooOld,
}

/// The first message: what we can do, and no names.
pub(super) fn negotiate_message() -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&OURS.to_le_bytes());
    // Domain and workstation: none.
    out.extend_from_slice(&[0; 16]);
    out
}

/// The second message, as far as it matters.
pub(super) struct ChallengeMessage<'a> {
    pub(super) flags: u32,
    pub(super) challenge: [u8; 8],
    /// Kind and value, without the end.
    entries: Vec<(u16, &'a [u8])>,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], MessageError> {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().ok_or(MessageError::Malformed)
}

impl<'a> ChallengeMessage<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        if bytes.get(..8) != Some(SIGNATURE) || array(bytes, 8)? != 2u32.to_le_bytes() {
            return Err(MessageError::Malformed);
        }
        let flags = u32::from_le_bytes(array(bytes, 20)?);
        let challenge = array(bytes, 24)?;
        if flags & UNICODE == 0 {
            return Err(MessageError::TooOld);
        }
        if flags & TARGET_INFO == 0 {
            // A server of old says nothing about itself, and may still check the newer proof.
            let entries = Vec::new();
            return Ok(Self {
                flags,
                challenge,
                entries,
            });
        }
        let len = usize::from(u16::from_le_bytes(array(bytes, 40)?));
        let offset = u32::from_le_bytes(array(bytes, 44)?) as usize;
        let end = offset.checked_add(len).ok_or(MessageError::Malformed)?;
        let info = bytes.get(offset..end).ok_or(MessageError::Malformed)?;
        Ok(Self {
            flags,
            challenge,
            entries: entries(info)?,
        })
    }

    /// The server's time, where it tells it.
    pub(super) fn timestamp(&self) -> Option<u64> {
        let mut all = self.entries.iter();
        let (_, value) = all.find(|(kind, _)| *kind == AV_TIMESTAMP)?;
        Some(u64::from_le_bytes((*value).try_into().ok()?))
    }

    /// The target's information as the response repeats it; `with_mic` adds that there is a code over
    /// all messages.
    pub(super) fn info_for_response(&self, with_mic: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |kind: u16, value: &[u8]| {
            out.extend_from_slice(&kind.to_le_bytes());
            // Each value came with a length of two bytes.
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(value);
        };
        let mut flags = if with_mic { HAS_MIC } else { 0 };
        for (kind, value) in &self.entries {
            match (*kind, <[u8; 4]>::try_from(*value)) {
                (AV_FLAGS, Ok(theirs)) => flags |= u32::from_le_bytes(theirs),
                (kind, _) => put(kind, value),
            }
        }
        if flags != 0 {
            put(AV_FLAGS, &flags.to_le_bytes());
        }
        put(AV_END, &[]);
        out
    }
}

fn entries(info: &[u8]) -> Result<Vec<(u16, &[u8])>, MessageError> {
    let mut all = Vec::new();
    let mut at = 0;
    loop {
        let kind = u16::from_le_bytes(array(info, at)?);
        let len = usize::from(u16::from_le_bytes(array(info, at + 2)?));
        if kind == AV_END {
            return Ok(all);
        }
        at += 4;
        let value = info.get(at..at + len).ok_or(MessageError::Malformed)?;
        all.push((kind, value));
        at += len;
    }
}

/// The third message.
pub(super) struct AuthenticateMessage<'a> {
    pub(super) lm_response: [u8; 24],
    pub(super) nt_response: Zeroizing<Vec<u8>>,
    pub(super) domain: &'a str,
    pub(super) user: &'a str,
    /// Of the challenge.
    pub(super) flags: u32,
}

impl AuthenticateMessage<'_> {
    /// With room for the code over all messages, which is zero as yet.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Self {
            lm_response,
            nt_response,
            domain,
            user,
            flags,
        } = self;
        let names = [utf16(domain), utf16(user)];
        let fields: [&[u8]; 6] = [lm_response, nt_response, &names[0], &names[1], &[], &[]];
        let mut out = Zeroizing::new(Vec::with_capacity(HEADER_LEN + 512));
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(&3u32.to_le_bytes());
        let mut offset = HEADER_LEN;
        for field in fields {
            // Names come from a command line or file, responses from messages of 64 KiB at most.
            let len = u16::try_from(field.len()).unwrap_or(u16::MAX).to_le_bytes();
            out.extend_from_slice(&len);
            out.extend_from_slice(&len);
            out.extend_from_slice(&(offset as u32).to_le_bytes());
            offset += field.len();
        }
        let agreed = flags & (OURS | TARGET_INFO) & !OEM;
        out.extend_from_slice(&agreed.to_le_bytes());
        // Version (8 bytes, not told) and the code over all messages (16 bytes).
        out.extend_from_slice(&[0; HEADER_LEN - 64]);
        for field in fields {
            out.extend_from_slice(field);
        }
        out
    }
}
