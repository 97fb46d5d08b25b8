//! Fetches a page of a web application that is reached through the relay only.
//!
//! ```text
//! hyper_client RELAY KEYFILE PEER APPLICATION PATH
//! ```

mod attached;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use underpass::ConnectOptions;

#[tokio::main]
async fn main() -> ExitCode {
    attached::end(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [relay, key, peer, application, path] = &arguments[..] else {
        return Err("usage: hyper_client RELAY KEYFILE PEER APPLICATION PATH".into());
    };
    let client = attached::attach(relay, key).await?;
    let options = ConnectOptions::new().wait(Duration::from_secs(30));
    let channel = client.connect_with(peer, application, &options).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(channel)).await?;
    tokio::spawn(connection);
    let request = Request::get(path.as_str())
        .header(HOST, format!("{application}.{peer}.underpass.internal"))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    eprintln!("{}", response.status());
    let page = response.into_body().collect().await?.to_bytes();
    println!("{}", String::from_utf8_lossy(&page));
    client.disconnect().await;
    Ok(())
}
