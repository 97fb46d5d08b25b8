//! A proxy on this machine for programs that can use one: services by their pseudo names, by SOCKS and by HTTP.
//!
//! | file | subject |
//! |---|---|
//! | `target.rs` | what a program asks for, and whether it leads to a service (pure) |
//! | `socks/` | SOCKS 5 with datagrams, 4 and 4a |
//! | `http.rs`, `forward.rs` | CONNECT, and requests that are passed on |
//! | `pac.rs` | the file that tells browsers what goes through it (pure) |

mod forward;
mod http;
mod pac;
mod socks;
mod target;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use underpass_endpoint::Channel;
use underpass_endpoint::dial::dial;
use underpass_endpoint::splice::{end_in_order, reset, splice};
use underpass_proto::Code;
use underpass_proto::names::Suffix;

use crate::connect::{Connector, FlowLimits, Sources};
use target::{Asked, Leads};

/// Connections of programs that are served at once by each of the two.
const MOST: usize = 4096;
/// Pause after the system refused a connection: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a host outside may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(20);

/// An address of the proxy cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ProxyError {
    /// The address.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

/// What the proxy does, and for whom.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where SOCKS is spoken, if it is; port 0 lets the system choose.
    pub socks: Option<SocketAddr>,
    /// Where HTTP is spoken, if it is.
    pub http: Option<SocketAddr>,
    /// Whether names and addresses that are none of ours are reached from this machine, instead of refused.
    pub direct: bool,
    /// What pseudo names end with.
    pub suffix: Suffix,
    /// Who may use it.
    pub sources: Sources,
    /// How flows of datagrams are kept.
    pub limits: FlowLimits,
}

/// The proxy, which listens.
#[derive(Debug)]
pub struct Proxy {
    socks: Option<(TcpListener, SocketAddr)>,
    http: Option<(TcpListener, SocketAddr)>,
    settings: ProxySettings,
}

/// What all its connections share.
struct Shared {
    connector: Connector,
    suffix: Suffix,
    direct: bool,
    limits: FlowLimits,
    /// Where SOCKS is spoken.
    socks: Option<SocketAddr>,
}

/// Why a program does not get where it wants to.
struct Refused {
    code: Code,
    text: String,
}

/// The way to where a program wants to go.
enum Reached {
    Service(Box<Channel>),
    Outside(TcpStream),
}

fn listen(at: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, ProxyError> {
    let bind = |address| {
        let listener = underpass_carrier::listen(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let listen = |address| bind(address).map_err(|source| ProxyError { address, source });
    at.map(listen).transpose()
}

impl Proxy {
    /// Listens. Must be called on a runtime.
    ///
    /// # Errors
    /// The system refuses an address.
    pub fn bind(settings: ProxySettings) -> Result<Self, ProxyError> {
        Ok(Self {
            socks: listen(settings.socks)?,
            http: listen(settings.http)?,
            settings,
        })
    }

    /// Where SOCKS is spoken.
    #[must_use]
    pub fn socks(&self) -> Option<SocketAddr> {
        self.socks.as_ref().map(|(_, at)| *at)
    }

    /// Where HTTP is spoken.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(_, at)| *at)
    }

    /// Serves programs for ever.
    pub async fn serve(self, connector: Connector) {
        let shared = Arc::new(Shared {
            connector,
            suffix: self.settings.suffix.clone(),
            direct: self.settings.direct,
            limits: self.settings.limits,
            socks: self.socks(),
        });
        let sources = &self.settings.sources;
        tokio::join!(
            take(self.socks, sources, |tcp| socks::serve(
                Arc::clone(&shared),
                tcp
            )),
            take(self.http, sources, |tcp| http::serve(
                Arc::clone(&shared),
                tcp
            )),
        );
    }
}

/// Takes connections for ever, where there is a listener, each to `serve`.
async fn take<F: Future<Output = ()> + Send + 'static>(
    listener: Option<(TcpListener, SocketAddr)>,
    sources: &Sources,
    serve: impl Fn(TcpStream) -> F,
) {
    let Some((listener, at)) = listener else {
        return;
    };
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        match listener.accept().await {
            Ok((tcp, from)) if sources.admit(from.ip()) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    tracing::warn!(%from, "the proxy at {at} has no place for one more connection");
                    reset(tcp);
                    continue;
                };
                if let Err(error) = tcp.set_nodelay(true) {
                    tracing::debug!(%from, "{error}");
                }
                let serving = serve(tcp);
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Ok((tcp, from)) => {
                tracing::warn!(%from, "a connection to the proxy is reset: only {sources} may");
                reset(tcp);
            }
            Err(error) => {
                tracing::warn!("the proxy at {at} cannot take a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// The way to what was asked for, once it answers.
    async fn reach(&self, asked: &Asked) -> Result<Reached, Refused> {
        let reached = match asked.leads(&self.suffix) {
            Leads::Service(service) => {
                let opened = self.connector.open(&service).await;
                let reached = opened.map(|channel| Reached::Service(Box::new(channel)));
                reached.map_err(|error| Refused {
                    code: error.code(),
                    text: error.to_string(),
                })
            }
            Leads::Nowhere(error) => Err(Refused {
                code: Code::NameInvalid,
                text: error.to_string(),
            }),
            Leads::Outside if self.direct => {
                let dialled = dial(&asked.to_string(), DIAL_LIMIT).await;
                dialled.map(Reached::Outside).map_err(|error| Refused {
                    code: error.code(),
                    text: error.to_string(),
                })
            }
            Leads::Outside => Err(Refused {
                code: Code::Denied,
                text: "it is no name of a service, and this proxy reaches nothing else \
                       (underpass proxy --direct does)"
                    .to_owned(),
            }),
        };
        reached.inspect_err(|Refused { code, text }| {
            tracing::info!("{asked} is not reached: {text} [{}]", code.up());
        })
    }
}

impl Reached {
    /// Joins it with a program that has already said something, until both have ended.
    async fn join(self, mut tcp: TcpStream, said: Bytes, asked: &Asked) {
        match self {
            Self::Service(mut channel) => {
                if let Err(error) = channel.write_all(&said).await {
                    tracing::info!("{asked}: broken off: {error}");
                    return;
                }
                let report = splice(*channel, tcp).await;
                let (sent, received) = (report.sent, report.received);
                match report.error {
                    None => tracing::debug!(sent, received, "{asked}: done"),
                    Some(error) => tracing::info!(sent, received, "{asked}: broken off: {error}"),
                }
            }
            Self::Outside(mut outside) => {
                let joined = async {
                    outside.write_all(&said).await?;
                    tokio::io::copy_bidirectional(&mut tcp, &mut outside).await
                };
                match joined.await {
                    Ok((sent, received)) => {
                        end_in_order(&tcp);
                        tracing::debug!(sent, received, "{asked}: done");
                    }
                    Err(error) => tracing::info!("{asked}: broken off: {error}"),
                }
            }
        }
    }
}
