//! Telling the relay's answers from the pages of whoever stands in the way. Pure.
//!
//! A network that wants people to log in first (a captive portal) answers everything with its own page,
//! or sends elsewhere. A relay answers in the media type that it was asked in, and sends nobody
//! anywhere.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Uri};
use underpass_proto::code::Code;

use crate::error::CarrierError;

/// Carries the code of a refusal: what has none comes from a box on the way.
const CODE: HeaderName = HeaderName::from_static("underpass-code");
/// After how many seconds it is worth to ask again, for boxes that know no better.
const RETRY_AFTER: u16 = 1;

/// Marks an answer 503 as the relay's own: it has no room for another carrier.
pub(crate) fn mark_busy(headers: &mut HeaderMap) {
    headers.insert(CODE, HeaderValue::from_static(Code::Busy.up()));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
}

/// Whether an answer is marked so.
pub(crate) fn is_busy<B>(response: &Response<B>) -> bool {
    let code = response.headers().get(CODE);
    response.status() == StatusCode::SERVICE_UNAVAILABLE
        && code.is_some_and(|code| code.as_bytes() == Code::Busy.up().as_bytes())
}

/// The error for an answer that is a web page in the relay's place. `asked` is the media type of the
/// request.
pub(crate) fn recognise(
    status: StatusCode,
    headers: &HeaderMap,
    asked: Option<&HeaderValue>,
) -> Option<CarrierError> {
    let kind = headers.get(header::CONTENT_TYPE);
    let is_page = kind.is_some_and(|kind| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        kind.starts_with(b"text/html") || kind.starts_with(b"application/xhtml")
    });
    let sent_elsewhere = status.is_redirection() && headers.contains_key(header::LOCATION);
    let instead = status.is_success() && is_page && kind != asked;
    // RFC 6585 section 6.
    let told = status == StatusCode::NETWORK_AUTHENTICATION_REQUIRED;
    if !(sent_elsewhere || instead || told) {
        return None;
    }
    let location = headers
        .get(header::LOCATION)
        .and_then(|it| it.to_str().ok());
    Some(CarrierError::Portal {
        status: status.as_u16(),
        to: location.map(place),
    })
}

/// Scheme and host of an address: the rest may hold what identifies somebody.
fn place(location: &str) -> String {
    match location.parse::<Uri>() {
        Ok(uri) => match (uri.scheme_str(), uri.host()) {
            (Some(scheme), Some(host)) => format!("{scheme}://{host}"),
            _ => "a page on the same host".to_owned(),
        },
        Err(_) => "somewhere".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_pages() {
        let html = "text/html; charset=utf-8";
        let ours = "binary/tcp";
        for (status, kind, location, asked, portal) in [
            (200, Some(ours), None, ours, false),
            (204, None, None, ours, false),
            (101, None, None, ours, false),
            (200, Some(html), None, ours, true),
            (200, Some("TEXT/HTML"), None, ours, true),
            (200, Some("text/html"), None, "text/html", false),
            (404, Some(html), None, ours, false),
            (403, Some(html), None, ours, false),
            (503, Some(html), None, ours, false),
            (511, Some(html), None, ours, true),
            (302, None, Some("http://login.hotel/?mac=1"), ours, true),
            (308, None, Some("https://relay/"), ours, true),
            (304, None, None, ours, false),
        ] {
            let mut headers = HeaderMap::new();
            let value = |text: &str| HeaderValue::from_str(text).expect("valid");
            headers.extend(kind.map(|kind| (header::CONTENT_TYPE, value(kind))));
            headers.extend(location.map(|it| (header::LOCATION, value(it))));
            let status = StatusCode::from_u16(status).expect("valid");
            let found = recognise(status, &headers, Some(&value(asked)));
            assert_eq!(found.is_some(), portal, "{status} {kind:?}");
        }
    }

    #[test]
    fn only_the_relay_is_busy() {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let retry = HeaderValue::from_static("5");
        response.headers_mut().insert(header::RETRY_AFTER, retry);
        assert!(!is_busy(&response), "a box that is busy");
        mark_busy(response.headers_mut());
        assert!(is_busy(&response));
        *response.status_mut() = StatusCode::OK;
        assert!(!is_busy(&response));
    }

    #[test]
    fn where_it_sends_is_told_without_what_identifies() {
        assert_eq!(place("http://login.hotel/?mac=1"), "http://login.hotel");
        assert_eq!(place("/login?mac=1"), "a page on the same host");
    }
}
