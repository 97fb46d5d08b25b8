//! Answers: which HTTP status says what, and what every answer has.
//!
//! All have a `Content-Length` and come whole, so HTTP/1.0 and proxies that hold responses do no harm.
//! A refusal carries its code in the header `Underpass-Code` too: what has none comes from a box on the
//! way and not from the relay.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use underpass_carrier::{DEFAULT_MEDIA_TYPE, Page};
use underpass_proto::Code;

use super::ask::{COOKIE, ROOT, SessionName, Unclear};
use crate::refusal::Refusal;

/// The longest media type that is taken over from a request, in bytes.
const LONGEST_MEDIA_TYPE: usize = 128;
/// Seconds after which a client may try again that was told of a limit.
const RETRY_AFTER: u64 = 1;

/// The session that was opened.
const SESSION: HeaderName = HeaderName::from_static("underpass-session");
/// The offset of the first byte in an answer.
const OFFSET: HeaderName = HeaderName::from_static("underpass-offset");
/// The offset from which the client goes on.
const NEXT: HeaderName = HeaderName::from_static("underpass-next");
/// The length of the whole stream, with its end.
const END: HeaderName = HeaderName::from_static("underpass-end");
/// The code of a refusal.
const CODE: HeaderName = HeaderName::from_static("underpass-code");

/// The status that goes with a code.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::NoError => StatusCode::OK,
        Code::InvalidToken | Code::NotEnrolled | Code::InvalidCode | Code::WrongPassword => {
            StatusCode::UNAUTHORIZED
        }
        Code::Denied
        | Code::KeyMismatch
        | Code::Ended
        | Code::Waiting
        | Code::ServiceWaiting
        | Code::ServiceRefused
        | Code::LastAdministrator
        | Code::MayNotRetarget
        | Code::HostNotListed
        | Code::PortNotListed
        | Code::HostForbidden
        | Code::NoRedial
        | Code::GradeRefused
        | Code::FtpAddress
        | Code::FtpNotAnnounced
        | Code::WrongCookie => StatusCode::FORBIDDEN,
        Code::NoService
        | Code::UnknownSession
        | Code::NoUser
        | Code::NoMachine
        | Code::NoGroup
        | Code::NoNetwork
        | Code::NoConnection => StatusCode::NOT_FOUND,
        Code::NameInvalid | Code::NameAmbiguous | Code::ProtocolViolation | Code::HostNeeded => {
            StatusCode::BAD_REQUEST
        }
        Code::WrongOffset
        | Code::Exists
        | Code::Decided
        | Code::OtherTransport
        | Code::Connected
        | Code::Oneself
        | Code::FtpNeedsHelp
        | Code::FtpTls => StatusCode::CONFLICT,
        Code::TooLarge | Code::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::TooManyAttempts
        | Code::AttachmentLimit
        | Code::SessionLimit
        | Code::ChannelLimit
        | Code::MonthLimit => StatusCode::TOO_MANY_REQUESTS,
        Code::Refused
        | Code::Unreachable
        | Code::ServiceAway
        | Code::PeerWaiting
        | Code::HostUnknown
        | Code::OtherProtocol => StatusCode::BAD_GATEWAY,
        Code::TimedOut | Code::NoMessage => StatusCode::GATEWAY_TIMEOUT,
        Code::Busy | Code::StoreUnavailable | Code::GoingAway | Code::AuthorityUnreachable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::NoReceiver
        | Code::ReceiverAway
        | Code::SenderRefused
        | Code::PathRefused
        | Code::DiskFull
        | Code::FileExists
        | Code::Checksum
        | Code::FileChanged
        | Code::Disconnected
        | Code::BadSetting
        | Code::CertificateUntrusted
        | Code::CertificateExpired
        | Code::CertificateEarly
        | Code::CertificateRevoked
        | Code::CertificatePurpose
        | Code::CertificateUser
        | Code::CertificateUnchecked
        | Code::CertificateProof
        | Code::Aborted
        | Code::Cancelled
        | Code::FlowControlViolation
        | Code::VersionUnsupported
        | Code::SessionExpired
        | Code::CorruptPath
        | Code::Internal
        | Code::StaleResume
        | Code::TicketUnknown
        | Code::ProxyUnreachable
        | Code::ProxyNeedsCredentials
        | Code::ProxyWrongCredentials
        | Code::ProxyRefused
        | Code::ProxyCannotReach
        | Code::PacUnusable
        | Code::Portal
        | Code::Certificate
        | Code::GroupUnreadable
        | Code::GroupSignature
        | Code::GroupKey
        | Code::GroupSerial => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn page(status: StatusCode, media_type: HeaderValue, body: Bytes) -> Page {
    let mut page = Response::new(
        Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    let uncached = HeaderValue::from_static("no-store, no-transform");
    headers.insert(header::CACHE_CONTROL, uncached);
    page
}

fn text(status: StatusCode, text: &str) -> Page {
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    page(status, media_type, Bytes::from(format!("{text}\n")))
}

/// A refusal with a status of its own.
fn refused_as(status: StatusCode, why: &Refusal) -> Page {
    let up = why.code.up();
    let said = why.text.strip_suffix(&format!(" [{up}]"));
    let mut page = text(status, &format!("{up} {}", said.unwrap_or(&why.text)));
    let headers = page.headers_mut();
    headers.insert(CODE, HeaderValue::from_static(up));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750 section 3.
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ]
    .contains(&status)
    {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    }
    page
}

/// A request that is not carried out.
pub(super) fn refused(why: &Refusal) -> Page {
    refused_as(status(why.code), why)
}

/// A request whose token is not even looked at before so much time has passed.
pub(super) fn too_many_attempts(wait: Duration) -> Page {
    let mut page = refused(&Refusal::of(Code::TooManyAttempts));
    // Whole seconds (RFC 9110 section 10.2.3); the last one has passed then.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let seconds = HeaderValue::from(seconds.max(RETRY_AFTER));
    page.headers_mut().insert(header::RETRY_AFTER, seconds);
    page
}

/// A request that nobody understands.
pub(super) fn unclear(why: &Unclear) -> Page {
    let refusal = Refusal::new(Code::ProtocolViolation, why.to_string());
    match why {
        Unclear::Elsewhere => refused_as(StatusCode::NOT_FOUND, &refusal),
        Unclear::NoSession | Unclear::Query(_) => refused(&refusal),
        Unclear::Method(method) => {
            let mut page = refused_as(StatusCode::METHOD_NOT_ALLOWED, &refusal);
            let method = HeaderValue::from_static(method);
            page.headers_mut().insert(header::ALLOW, method);
            page
        }
    }
}

/// The connection broke. A status that no box on the way makes up: what is missing will never come.
pub(super) fn broken(code: Code) -> Page {
    refused_as(StatusCode::GONE, &Refusal::of(code))
}

/// A session is open.
pub(super) fn opened(session: SessionName, prefix: &str, secure: bool) -> Page {
    let name = session.to_string();
    let mut page = text(StatusCode::CREATED, &name);
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={name}; Path={prefix}{ROOT}; HttpOnly; SameSite=Strict{secure}");
    let headers = page.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(SESSION, name);
    }
    // A prefix that cannot stand in a header cannot stand in a request either.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    page
}

/// Everything up to `next` was taken.
pub(super) fn taken(next: u64) -> Page {
    with(text(StatusCode::OK, &next.to_string()), NEXT, next)
}

/// A refusal that tells from where to go on.
pub(super) fn refused_at(next: u64, why: &Refusal) -> Page {
    with(refused(why), NEXT, next)
}

/// Bytes from the service from `offset` on, perhaps none; `end` is the length of the stream where it
/// ends behind them.
pub(super) fn bytes(media_type: HeaderValue, offset: u64, bytes: Bytes, end: Option<u64>) -> Page {
    let next = offset + bytes.len() as u64;
    let page = with(page(StatusCode::OK, media_type, bytes), OFFSET, offset);
    let page = with(page, NEXT, next);
    match end {
        Some(end) => with(page, END, end),
        None => page,
    }
}

/// The session is over.
pub(super) fn closed() -> Page {
    text(StatusCode::OK, "closed")
}

fn with(mut page: Page, name: HeaderName, value: u64) -> Page {
    page.headers_mut().insert(name, HeaderValue::from(value));
    page
}

/// The media type that the client wants for bytes: the one it accepts, if it names just one.
pub(super) fn media_type(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-+._".contains(byte);
    let sound = |value: &&HeaderValue| {
        value.len() <= LONGEST_MEDIA_TYPE
            && value.as_bytes().contains(&b'/')
            && value.as_bytes().iter().all(plain)
    };
    let wanted = headers.get(header::ACCEPT).filter(sound).cloned();
    wanted.unwrap_or(HeaderValue::from_static(DEFAULT_MEDIA_TYPE))
}

#[cfg(test)]
mod tests {
    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn no_refusal_looks_like_success() {
        for code in Code::ALL.iter().filter(|code| **code != Code::NoError) {
            let page = refused(&Refusal::of(*code));
            assert!(page.status().as_u16() >= 400, "{code:?}");
            assert_eq!(page.headers()[CODE], code.up());
            assert!(
                page.body().size_hint().exact().is_some(),
                "a length is known"
            );
            let later = page.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(
                later,
                [503, 429].contains(&page.status().as_u16()),
                "{code:?}"
            );
        }
    }

    #[test]
    fn the_wait_is_told_in_whole_seconds() {
        for (millis, told) in [(1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
            let page = too_many_attempts(Duration::from_millis(millis));
            assert_eq!(page.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(page.headers()[header::RETRY_AFTER], told);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_one_line_that_begins_with_its_code() {
        let page = refused(&Refusal::of(Code::NoService));
        let body = page.into_body().collect().await.unwrap().to_bytes();
        let line = std::str::from_utf8(&body).unwrap();
        assert!(
            line.starts_with("UP-NO-SERVICE there is no such service"),
            "{line}"
        );
        assert_eq!(line.matches("UP-").count(), 1, "{line}");
        assert!(line.ends_with('\n') && line.lines().count() == 1);
    }

    #[test]
    fn one_accepted_type_is_taken_over() {
        for (accept, expected) in [
            (None, "binary/tcp"),
            (Some("*/*"), "binary/tcp"),
            (Some("image/png"), "image/png"),
            (Some("text/html, image/png"), "binary/tcp"),
            (Some("none"), "binary/tcp"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(media_type(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_session_is_told_in_both_ways() {
        let name = SessionName::from_random(0xabc);
        let page = opened(name, "/at", true);
        let cookie = page.headers()[header::SET_COOKIE].to_str().unwrap();
        assert_eq!(page.headers()[SESSION], name.to_string());
        assert!(cookie.contains(&name.to_string()) && cookie.contains("Path=/at/plain;"));
        assert!(cookie.ends_with("; Secure"));
    }
}
