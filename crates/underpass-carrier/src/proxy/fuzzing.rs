//! What proxies, PAC files and people write, for the fuzzer; see [`crate::fuzzing`].

use std::sync::Arc;

use http::HeaderValue;
use proxy_watch::pac::parse_find_proxy_result;

use super::Route;
use super::address::ProxyUrl;
use super::auth::{Authenticator, Gate};
use super::bypass::Bypass;
use super::challenge::{Challenge, parse_challenges};
use super::credentials::Credentials;
use super::digest::DigestChallenge;
use super::error::ProxyError;
use super::ntlm::Ntlm;
use super::pac::{MOST_STEPS, ways};
use crate::authority::Authority;

const USER: &str = "LAB\\an\"na";
const PASSWORD: &str = "canary, \"of\" the fuzzer";

/// What can stand in a header that is looked at: the rest is left out before anything is parsed.
fn header(bytes: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(bytes).ok()?;
    value.to_str().ok().map(str::to_owned)
}

/// A challenge as we would write it.
fn written(challenge: &Challenge) -> String {
    let Challenge {
        scheme,
        token,
        parameters,
    } = challenge;
    let mut out = scheme.clone();
    let mut between = " ";
    if let Some(token) = token {
        out += &format!(" {token}");
        between = ", ";
    }
    for (name, value) in parameters {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        out += &format!("{between}{name}=\"{value}\"");
        between = ", ";
    }
    out
}

/// The `Proxy-Authenticate` headers of one answer, a line each; and what we answer to Digest.
pub fn challenge(data: &[u8]) {
    let headers = data.split(|byte| *byte == b'\n').filter_map(header);
    let mut all = Vec::new();
    for header in headers {
        let challenges = parse_challenges(&header);
        let again: Vec<String> = challenges.iter().map(written).collect();
        assert_eq!(parse_challenges(&again.join(", ")), challenges, "{header}");
        all.extend(challenges);
    }
    let Some(mut digest) = DigestChallenge::strongest(&all) else {
        return;
    };
    let who = Credentials::new(USER, PASSWORD);
    let answer = digest.answer(&who, "CONNECT", "relay.example:443", 7);
    assert!(HeaderValue::from_str(&answer).is_ok(), "{}", *answer);
    assert!(!answer.contains("canary"));
    let read = parse_challenges(&answer);
    assert!(read.len() == 1 && read[0].scheme == "digest", "{read:?}");
    let theirs = all.iter().any(|challenge| {
        ["realm", "nonce"].iter().all(|name| {
            let sent = challenge.parameter(name).unwrap_or_default();
            let shown: String = sent.chars().filter(|c| !c.is_control()).collect();
            read[0].parameter(name) == Some(shown.as_str())
        })
    });
    assert!(theirs, "{}", *answer);
    let response = read[0].parameter("response").unwrap_or_default();
    let hex = response.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(hex && [32, 64].contains(&response.len()), "{response}");
}

/// A proxy that answers as it likes, a line for each answer: `7` and challenges (with tabs between),
/// `1` (unauthorized), `2` (passed), `0` (cut off), `n` (on a new connection). Negotiate is left out,
/// which is the system's library.
pub fn login(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without IO needs nothing that may be missing");
    runtime.block_on(converse(data));
}

async fn converse(data: &[u8]) {
    let proxy: ProxyUrl = "http://proxy.example:3128".parse().expect("valid");
    let who = Credentials::new(USER, PASSWORD);
    let gate = Arc::new(Gate::new(proxy, Some(who)));
    let mut auth = Authenticator::new(Arc::clone(&gate));
    let mut refused = false;
    for line in data.split(|byte| *byte == b'\n') {
        let said = auth.authorization("CONNECT", "relay.example:443").await;
        if let Ok(Some(value)) = &said {
            assert!(!refused, "shown again after it was refused: {value:?}");
            assert!(value.is_sensitive(), "it would be logged");
            let clear = value.as_bytes().windows(6).any(|part| part == b"canary");
            assert!(!clear, "the password in clear");
        }
        let (what, rest) = line.split_first().unwrap_or((&b'2', &[]));
        let outcome = match (said, what) {
            (Err(error), _) => Err(error),
            (Ok(_), b'7') => {
                let headers = rest.split(|byte| *byte == b'\t').filter_map(header);
                let all = headers.flat_map(|header| parse_challenges(&header));
                let known: Vec<_> = all.filter(|it| it.scheme != "negotiate").collect();
                auth.challenged(&known).await
            }
            (Ok(_), b'1') => auth.unauthorized(),
            (Ok(_), b'0') => {
                auth.unheard();
                Ok(())
            }
            (Ok(_), b'n') => {
                auth = Authenticator::new(Arc::clone(&gate));
                Ok(())
            }
            (Ok(_), _) => {
                auth.accepted();
                Ok(())
            }
        };
        if let Err(error) = outcome {
            refused |= matches!(error, ProxyError::WrongCredentials { .. });
            assert!(!error.to_string().contains("canary"), "{error}");
            auth = Authenticator::new(Arc::clone(&gate));
        }
    }
}

/// A proxy's NTLM challenge, behind the eight bytes that are our own random ones.
pub fn ntlm(data: &[u8]) {
    let Some((random, challenge)) = data.split_first_chunk() else {
        return;
    };
    let (ntlm, _) = Ntlm::begin();
    let who = Credentials::new(USER, PASSWORD);
    let Ok(message) = ntlm.answer(challenge, &who, *random, 1) else {
        return;
    };
    assert!(message.starts_with(b"NTLMSSP\0\x03\0\0\0"));
    // [MS-NLMP] section 2.2.1.3: six fields, of which the first two are the responses.
    let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().expect("four"));
    let field = |index: usize| {
        let at = 12 + 8 * index;
        let len = (number(at) & 0xffff) as usize;
        let from = number(at + 4) as usize;
        message.get(from..from + len).expect("inside the message")
    };
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    assert_eq!(field(0).len(), 24);
    assert!(field(1).len() >= 16 + 28, "a proof and what it is over");
    assert_eq!(
        (field(2), field(3)),
        (&wide("LAB")[..], &wide("an\"na")[..])
    );
    assert!(field(4).is_empty() && field(5).is_empty());
    assert!(message.len() <= challenge.len() + 512, "it does not swell");
    let secret = wide(PASSWORD);
    assert!(!message.windows(secret.len()).any(|part| part == secret));
}

/// What a PAC file's function returns.
pub fn pac(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(steps) = parse_find_proxy_result(text) else {
        return;
    };
    let ways = ways(&steps);
    assert!(ways.len() <= MOST_STEPS);
    for way in ways {
        let Route::Proxy(proxy) = way else { continue };
        assert_eq!(proxy.credentials(), None);
        let again = proxy.to_string().parse();
        assert_eq!(again.as_ref(), Ok(&proxy));
    }
}

/// The address of a proxy, as settings and variables have it.
pub fn proxy_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(url) = text.parse::<ProxyUrl>() else {
        return;
    };
    let shown = url.to_string();
    assert!(!shown.contains('@'), "credentials are not shown");
    let again: ProxyUrl = shown.parse().expect("shown in full");
    assert_eq!(again.to_string(), shown);
    assert_eq!(
        (again.scheme(), again.host(), again.port()),
        (url.scheme(), url.host(), url.port())
    );
    // It goes into the heads of requests.
    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown}");
}

/// The rules of `NO_PROXY` in the first line, a host and its port in the second one.
pub fn bypass(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (rules, target) = text.split_once('\n').unwrap_or((text, "relay"));
    let Ok(Authority { host, port }) = Authority::parse(target) else {
        return;
    };
    let port = port.unwrap_or(80);
    let matched = Bypass::parse(rules).matches(host, port);
    assert_eq!(
        Bypass::parse(rules).matches(&format!("{}.", host.to_ascii_uppercase()), port),
        matched,
        "case and a dot at the end mean nothing"
    );
    // More rules never take a host back in.
    for more in [host, "*"] {
        let all = Bypass::parse(&format!("{rules},{more}"));
        let named = host.contains(|c: char| c.is_ascii_alphanumeric());
        assert!(!named || all.matches(host, port), "{rules:?} and {more}");
    }
    let others = Bypass::parse(&format!("{rules},somewhere.else"));
    let other = !host.to_ascii_lowercase().contains("somewhere.else");
    assert!(!other || others.matches(host, port) == matched, "{rules:?}");
}
