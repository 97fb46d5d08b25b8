//! Requests with the whole address (RFC 9112 section 3.2.2), each passed on over a connection of its own.

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{Answer, refused, said};
use super::target::Asked;
use super::{Reached, Shared};

/// What is for the next one on the way alone (RFC 9110 section 7.6.1), and what we have done ourselves.
const OURS: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Passes a request on, and its answer back.
pub(super) async fn pass_on(shared: &Shared, request: Request<Incoming>) -> Answer {
    let authority = request.uri().authority();
    let asked = authority.and_then(|it| Asked::parse(it.as_str(), Some(80)));
    let Some(asked) = asked else {
        return said(
            StatusCode::BAD_REQUEST,
            "the address names no host".to_owned(),
        );
    };
    let Some(request) = outgoing(request) else {
        return said(
            StatusCode::BAD_REQUEST,
            "the address cannot be passed on".to_owned(),
        );
    };
    let answer = match shared.reach(&asked).await {
        Ok(Reached::Service(channel)) => exchange(*channel, request).await,
        Ok(Reached::Outside(tcp)) => exchange(tcp, request).await,
        Err(why) => return refused(&asked, &why),
    };
    answer.unwrap_or_else(|error| {
        tracing::info!("{asked}: no answer to a request: {error}");
        let text = format!("{asked} does not answer as a web server does: {error}");
        said(StatusCode::BAD_GATEWAY, text)
    })
}

/// The request as the server is to get it.
fn outgoing(request: Request<Incoming>) -> Option<Request<Incoming>> {
    let (mut head, body) = request.into_parts();
    let host = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
    head.uri = path.parse::<Uri>().ok()?;
    head.version = Version::HTTP_11;
    without_ours(&mut head.headers);
    // It is answered here, when the body is read.
    head.headers.remove(header::EXPECT);
    head.headers.insert(header::HOST, host);
    head.headers.append(header::VIA, via());
    Some(Request::from_parts(head, body))
}

/// RFC 9110 section 7.6.3.
fn via() -> HeaderValue {
    HeaderValue::from_static("1.1 underpass")
}

/// Takes out what is for the next one on the way alone, and what is named there as such.
fn without_ours(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OURS.iter().chain(&named) {
        headers.remove(name);
    }
}

async fn exchange<T>(io: T, request: Request<Incoming>) -> Result<Answer, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a request that was passed on: {error}");
        }
    });
    let answer = sender.send_request(request).await?;
    let (mut head, body) = answer.into_parts();
    without_ours(&mut head.headers);
    head.headers.append(header::VIA, via());
    head.version = Version::HTTP_11;
    // The connection is needed until the last of the body is there.
    let body = body.map_frame(move |frame| {
        let _needed = &sender;
        frame
    });
    Ok(Response::from_parts(
        head,
        body.map_err(Into::into).boxed_unsync(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_one_hop_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", " x-more ,,"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("x-secret", "1"),
            ("x-more", "1"),
            ("x-kept", "1"),
            ("content-length", "5"),
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_static(value));
        }
        without_ours(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-kept"]);
    }
}
