//! `underpass connect`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use underpass_agent::Connector;
use underpass_agent::connect::{Listener, PinnedTrust};
use underpass_agent::status::{Board, StatusServer};
use underpass_endpoint::AttachError;
use underpass_seal::Fingerprint;

use super::signals::stop_asked;
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnSession};

/// Listen on this machine for programs that want to use a service, until stopped
///
/// Prints one line for each service when it is ready: its name and the local address.
#[derive(Debug, Args)]
pub struct Connect {
    /// The service and, optionally, the local address or port (127.0.0.1:0 if not given, which is a
    /// free port); or any number of NAME=LOCAL
    #[arg(required = true, num_args = 1.., value_names = ["NAME", "LOCAL"])]
    services: Vec<String>,
    /// The fingerprint that the service's publisher must show, if it was learnt from its owner; it
    /// takes the place of the one that is pinned
    #[arg(long, value_name = "FINGERPRINT")]
    peer_key: Option<Fingerprint>,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnSession>,
}

impl Connect {
    /// Listens until it is told to stop, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let pairs = pairs(&self.services)?;
        if self.peer_key.is_some() && pairs.len() > 1 {
            return Err(Failure::usage("--peer-key is for one service at a time"));
        }
        let stop = stop_asked()?;
        let board = Board::new("connect");
        let EnrolledAtAll { standings, first } = tokio::select! {
            enrolled = context.enrolled_at_all() => enrolled?,
            () = stop_asked()? => return Ok(()),
        };
        board.show_standings(standings.clone());
        let _status = StatusServer::start(&context.home, board.clone())?;
        tokio::spawn(log_notices(standings.clone()));
        let trust = PinnedTrust::new(context.home.clone(), first.key, self.peer_key);
        let class = context.settings.class.0;
        let connector = Connector::new(standings.clone(), trust, class, board.clone());
        let mut listeners = Vec::new();
        for (service, address) in &pairs {
            listeners.push(prepare(&context, &connector, service, *address).await?);
        }
        for listener in listeners {
            board.show_entry(listener.service(), &listener.address().to_string());
            tell_ready(&context, &listener)?;
            tokio::spawn(listener.serve(connector.clone()));
        }
        ready::signal(self.ready_fd)?;
        let ended: AttachError = tokio::select! {
            ended = standings.fleet().ended() => ended,
            () = stop => {
                connector.close().await;
                standings.detach().await;
                return Ok(());
            }
        };
        Err(errors::of_attach(&ended, &first.url))
    }
}

/// Makes sure that the service can be used, and listens for it.
async fn prepare(
    context: &Context,
    connector: &Connector,
    service: &str,
    address: SocketAddr,
) -> Result<Listener, Failure> {
    let resolved = connector.resolve(service).await;
    let resolved = resolved
        .map_err(|error| errors::of_request(&error, &format!("cannot connect to {service}")))?;
    if !resolved.present {
        context.output.message(&format!(
            "{service} is published by a machine that is away; connections will wait for it a little"
        ));
    }
    let listener = Listener::bind(service, address).await;
    listener.map_err(|error| errors::of_listen(&error))
}

fn tell_ready(context: &Context, listener: &Listener) -> Result<(), Failure> {
    let (service, address) = (listener.service(), listener.address());
    context.output.result(
        &format!("{service} is at {address}"),
        &serde_json::json!({ "service": service, "address": address.to_string() }),
    )
}

/// The services and local addresses that the arguments name.
fn pairs(arguments: &[String]) -> Result<Vec<(String, SocketAddr)>, Failure> {
    if arguments.iter().any(|argument| argument.contains('=')) {
        return arguments
            .iter()
            .map(|argument| match argument.split_once('=') {
                Some((service, local)) => Ok((service.to_owned(), local_address(local)?)),
                None => Err(Failure::usage(format!(
                    "{argument}: expected NAME=LOCAL, as for the others"
                ))),
            })
            .collect();
    }
    match arguments {
        [service] => Ok(vec![(service.clone(), local_address("0")?)]),
        [service, local] => Ok(vec![(service.clone(), local_address(local)?)]),
        _ => Err(Failure::usage(
            "several services are written NAME=LOCAL NAME=LOCAL",
        )),
    }
}

/// An address, or a port on the loopback address.
fn local_address(text: &str) -> Result<SocketAddr, Failure> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let text = text
        .strip_prefix("localhost:")
        .map_or(text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| {
        Failure::usage(format!(
            "{text:?} is not a local address: IP:PORT, localhost:PORT or PORT"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Vec<String>, Failure> {
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let pairs = pairs(&arguments)?;
        Ok(pairs
            .iter()
            .map(|(service, local)| format!("{service} {local}"))
            .collect())
    }

    #[test]
    fn services_and_addresses() {
        assert_eq!(read(&["db"]).unwrap(), ["db 127.0.0.1:0"]);
        assert_eq!(read(&["db", "15432"]).unwrap(), ["db 127.0.0.1:15432"]);
        assert_eq!(read(&["db", "localhost:1"]).unwrap(), ["db 127.0.0.1:1"]);
        assert_eq!(read(&["db.bob", "[::1]:9"]).unwrap(), ["db.bob [::1]:9"]);
        assert_eq!(
            read(&["db=1", "web=0.0.0.0:80"]).unwrap(),
            ["db 127.0.0.1:1", "web 0.0.0.0:80"]
        );
        for bad in [
            &["db", "somewhere"][..],
            &["db", "70000"],
            &["a", "1", "b"],
            &["a=1", "b"],
            &["a="],
        ] {
            assert_eq!(read(bad).unwrap_err().exit, 2, "{bad:?}");
        }
    }
}
