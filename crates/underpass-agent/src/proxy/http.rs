//! The proxy for HTTP: CONNECT, requests with the whole address, and the PAC file.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::uri::Scheme;
use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use underpass_proto::Code;

use super::target::Asked;
use super::{Refused, Shared, forward, pac};

/// A request's head must be there within this, also on a connection that stays for more of them.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// The most bytes of a request's head, and of a body that wait in memory.
const BUFFER: usize = 64 * 1024;
/// Where the PAC file is; the second one is where programs look by themselves.
const PAC_PATHS: [&str; 2] = ["/proxy.pac", "/wpad.dat"];

/// What is answered.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// One connection of a program.
struct Connection {
    shared: Arc<Shared>,
    /// Where the program reached us.
    at: SocketAddr,
    /// What the connection turned into.
    tunnel: Mutex<Option<JoinHandle<()>>>,
}

/// Serves one connection until it ends, whatever it turns into.
pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream) {
    let Ok(at) = tcp.local_addr() else {
        return;
    };
    let connection = Arc::new(Connection {
        shared,
        at: SocketAddr::new(at.ip().to_canonical(), at.port()),
        tunnel: Mutex::default(),
    });
    let service = service_fn(|request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER)
        .preserve_header_case(true)
        .half_close(true)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades();
    if let Err(error) = serving.await {
        tracing::debug!("a connection to the HTTP proxy broke: {error}");
    }
    let tunnel = connection.tunnel().take();
    if let Some(tunnel) = tunnel {
        // It says itself how it went.
        let _ = tunnel.await;
    }
}

impl Connection {
    fn tunnel(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() == Method::CONNECT {
            return self.connect(request).await;
        }
        match request.uri().scheme() {
            None => self.own_page(&request),
            Some(scheme) if *scheme == Scheme::HTTP => {
                forward::pass_on(&self.shared, request).await
            }
            Some(scheme) => said(
                StatusCode::BAD_REQUEST,
                format!("addresses that begin with {scheme}: go through CONNECT"),
            ),
        }
    }

    /// The connection becomes one to where the program wants to go.
    async fn connect(&self, mut request: Request<Incoming>) -> Answer {
        let authority = request.uri().authority();
        let asked = authority.and_then(|it| Asked::parse(it.as_str(), None));
        let Some(asked) = asked else {
            return said(
                StatusCode::BAD_REQUEST,
                "CONNECT names no HOST:PORT".to_owned(),
            );
        };
        let reached = match self.shared.reach(&asked).await {
            Ok(reached) => reached,
            Err(why) => return refused(&asked, &why),
        };
        let upgrade = hyper::upgrade::on(&mut request);
        *self.tunnel() = Some(tokio::spawn(async move {
            match upgrade.await.map(|it| it.downcast::<TokioIo<TcpStream>>()) {
                Ok(Ok(parts)) => {
                    reached
                        .join(parts.io.into_inner(), parts.read_buf, &asked)
                        .await
                }
                Ok(Err(_)) => tracing::error!("{asked}: the connection is of another kind"),
                Err(error) => tracing::debug!("{asked}: the program went away: {error}"),
            }
        }));
        said(StatusCode::OK, String::new())
    }

    /// A request for this proxy itself.
    fn own_page(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if !PAC_PATHS.contains(&path) || ![Method::GET, Method::HEAD].contains(request.method()) {
            return said(
                StatusCode::NOT_FOUND,
                format!(
                    "This is a proxy of underpass. Browsers take it from http://{}{}, other programs as \
                     http_proxy=http://{}.",
                    self.at, PAC_PATHS[0], self.at
                ),
            );
        }
        // Whoever reached us at this address of ours also reaches SOCKS there.
        let socks = self.shared.socks;
        let socks = socks.map(|socks| SocketAddr::new(self.at.ip(), socks.port()));
        let mut answer = said(
            StatusCode::OK,
            pac::script(self.at, socks, &self.shared.suffix),
        );
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(pac::MEDIA_TYPE),
        );
        answer
    }
}

/// An answer in words of ours.
pub(super) fn said(status: StatusCode, mut text: String) -> Answer {
    let empty = text.is_empty();
    if !empty && !text.ends_with('\n') {
        text.push('\n');
    }
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    if !empty {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}

/// The answer to who does not get where he wants to.
pub(super) fn refused(asked: &Asked, why: &Refused) -> Answer {
    let Refused { code, text } = why;
    let general = code.explain();
    let (up, next) = (general.up, general.next);
    let next = match code {
        // What it says besides is for services.
        Code::Denied | Code::NameInvalid => String::new(),
        _ => format!("; {next}"),
    };
    said(
        status(*code),
        format!("cannot reach {asked}: {text}{next} [{up}]"),
    )
}

fn status(code: Code) -> StatusCode {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied, TimedOut};
    match code.io_kind() {
        PermissionDenied => StatusCode::FORBIDDEN,
        InvalidInput => StatusCode::BAD_REQUEST,
        TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_has_a_status() {
        for (code, expected) in [
            (Code::Denied, 403),
            (Code::NameInvalid, 400),
            (Code::NoService, 502),
            (Code::Refused, 502),
            (Code::TimedOut, 504),
        ] {
            assert_eq!(status(code), expected, "{code:?}");
        }
    }
}
