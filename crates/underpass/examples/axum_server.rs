//! A web application that is reached through the relay only: it listens on no port.
//!
//! ```text
//! axum_server RELAY KEYFILE APPLICATION USER   (USER may use it)
//! ```

mod attached;

use std::process::ExitCode;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::routing::get;
use axum::serve::IncomingStream;
use underpass::{Channel, Listener, Peer};

/// A listener as axum wants one.
struct Tunnel(Listener);

impl axum::serve::Listener for Tunnel {
    type Io = Channel;
    type Addr = Option<Peer>;

    async fn accept(&mut self) -> (Channel, Option<Peer>) {
        match self.0.accept().await {
            Some((channel, peer)) => (channel, Some(peer)),
            // The client has disconnected: nobody will come any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Option<Peer>> {
        Ok(None)
    }
}

/// The user who asks, as handlers see it.
#[derive(Clone)]
struct User(String);

impl Connected<IncomingStream<'_, Tunnel>> for User {
    fn connect_info(stream: IncomingStream<'_, Tunnel>) -> Self {
        let peer = stream.remote_addr().as_ref();
        Self(peer.map(|peer| peer.user.clone()).unwrap_or_default())
    }
}

async fn hello(ConnectInfo(User(name)): ConnectInfo<User>) -> String {
    format!("hello {name}")
}

#[tokio::main]
async fn main() -> ExitCode {
    attached::end(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [relay, key, application, user] = &arguments[..] else {
        return Err("usage: axum_server RELAY KEYFILE APPLICATION USER".into());
    };
    let client = attached::attach(relay, key).await?;
    let listener = client.listen(application).await?;
    client.allow(user, application).await?;
    println!("{} is served", listener.full_name());
    let pages = Router::new()
        .route("/", get(hello))
        .route("/health", get(|| async { "well" }));
    let service = pages.into_make_service_with_connect_info::<User>();
    Ok(axum::serve(Tunnel(listener), service).await?)
}
