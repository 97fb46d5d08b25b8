//! Reading a PAC file: from this machine, or by one plain HTTP request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proxy_watch::Url;
use tokio::io::AsyncReadExt as _;

use crate::body::read_whole;
use crate::dial::{BoxedConnection, Speech, connect_tcp, start_tls};
use crate::tls::{self, TlsRoots, TlsTrust};

/// PAC files are a few KiB, large ones some hundred.
const LONGEST: usize = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(5);
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 3;

/// Reads a file of this machine.
pub(super) async fn file(path: &Path) -> Result<String, String> {
    let reading = async {
        let file = tokio::fs::File::open(path).await?;
        let mut text = String::new();
        file.take(LONGEST as u64).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    reading.await.map_err(|error| error.to_string())
}

/// Fetches a file by HTTP or HTTPS.
pub(super) async fn web(url: &str, roots: &TlsRoots) -> Result<String, String> {
    let fetching = async {
        let mut url = Url::parse(url).map_err(|error| error.to_string())?;
        for _ in 0..=MOST_REDIRECTS {
            match get(&url, roots).await? {
                Got::Text(text) => return Ok(text),
                Got::Elsewhere(location) => {
                    url = url.join(&location).map_err(|error| error.to_string())?;
                }
            }
        }
        Err("it is moved in a circle".to_owned())
    };
    tokio::time::timeout(LIMIT, fetching)
        .await
        .unwrap_or_else(|_| Err(format!("its server did not answer within {LIMIT:?}")))
}

enum Got {
    Text(String),
    Elsewhere(String),
}

async fn get(url: &Url, roots: &TlsRoots) -> Result<Got, String> {
    let host = url.host_str().ok_or("its address has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let text = |error: crate::CarrierError| error.to_string();
    let stream = connect_tcp(bare, port, LIMIT).await.map_err(text)?;
    let connection: BoxedConnection = match url.scheme() {
        "https" => {
            let config =
                tls::client_config(&TlsTrust::System, roots, Speech::Http1).map_err(text)?;
            let (stream, _) = start_tls(bare, &Arc::new(config), stream)
                .await
                .map_err(text)?;
            Box::new(stream)
        }
        "http" => Box::new(stream),
        _ => return Err("its address is neither http nor https".to_owned()),
    };
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection))
        .await
        .map_err(text)?;
    let driving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(driver));
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = Request::get(target)
        .header(header::HOST, host_header(url, host))
        .header(header::ACCEPT, "application/x-ns-proxy-autoconfig, */*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        return Ok(Got::Elsewhere(
            location.ok_or("it is moved to nowhere")?.to_owned(),
        ));
    }
    if status != StatusCode::OK {
        return Err(format!("its server answers with HTTP status {status}"));
    }
    let body = read_whole(response.into_body(), LONGEST).await;
    drop(driving);
    let body = body.map_err(|_| "it did not come whole, or is too long")?;
    String::from_utf8(body.to_vec())
        .map(Got::Text)
        .map_err(|_| "it is no text".to_owned())
}

fn host_header(url: &Url, host: &str) -> String {
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
