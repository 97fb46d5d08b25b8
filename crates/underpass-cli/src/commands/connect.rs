//! `underpass connect`

use clap::Args;
use underpass_agent::Connector;
use underpass_agent::connect::{Listener, Local, LocalError};
use underpass_seal::Fingerprint;

use super::signals::stop_asked;
use super::using::Using;
use super::{Context, errors};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnListen};

/// Listen on this machine for programs that want to use a service, until stopped
///
/// Prints one line for each service when it is ready: its name and the local address.
#[derive(Debug, Args)]
pub struct Connect {
    /// The service and, optionally, the local address or port (127.0.0.1:0 if not given, which is a
    /// free port), for a service of UDP with udp: before it, for a display x11:NUMBER; or any number of NAME=LOCAL
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
    pub flags: Flags<OnListen>,
}

impl Connect {
    /// Listens until it is told to stop, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let pairs = pairs(&self.services)?;
        for (_, local) in &pairs {
            check_reach(&context, *local)?;
        }
        if self.peer_key.is_some() && pairs.len() > 1 {
            return Err(Failure::usage("--peer-key is for one service at a time"));
        }
        let stop = stop_asked()?;
        let Some(using) = Using::start(&context, "connect", self.peer_key).await? else {
            return Ok(());
        };
        let connector = &using.connector;
        let mut listeners = Vec::new();
        for (service, local) in &pairs {
            listeners.push(prepare(&context, connector, service, *local).await?);
        }
        for listener in listeners {
            using
                .board
                .show_entry(listener.service(), &listener.local().to_string());
            tell_ready(&context, &listener)?;
            tokio::spawn(listener.serve(connector.clone()));
        }
        ready::signal(self.ready_fd)?;
        using.until_stopped(stop, std::future::pending()).await
    }
}

/// Makes sure that the service can be used, and listens for it.
async fn prepare(
    context: &Context,
    connector: &Connector,
    service: &str,
    local: Local,
) -> Result<Listener, Failure> {
    let resolved = connector.resolve(service).await;
    let resolved = resolved
        .map_err(|error| errors::of_request(&error, &format!("cannot connect to {service}")))?;
    if !resolved.present {
        context.output.message(&format!(
            "{service} is published by a machine that is away; connections will wait for it a little"
        ));
    }
    let sources = context.settings.allow_from.clone();
    let limits = context.settings.flow_limits();
    let folder = context.home.run_folder()?;
    let listener = Listener::bind(service, local, sources, limits, folder).await;
    listener.map_err(|error| errors::of_listen(&error))
}

fn tell_ready(context: &Context, listener: &Listener) -> Result<(), Failure> {
    let (service, address) = (listener.service(), listener.local());
    if let (Some(number), Some(cookies)) = (address.display, listener.xauthority()) {
        let cookies = cookies.display();
        return context.output.result(
            &format!("{service} is at DISPLAY=:{number} XAUTHORITY={cookies}"),
            &serde_json::json!({
                "service": service, "address": address.to_string(),
                "display": format!(":{number}"), "xauthority": cookies.to_string(),
            }),
        );
    }
    context.output.result(
        &format!("{service} is at {address}"),
        &serde_json::json!({ "service": service, "address": address.to_string() }),
    )
}

/// What other machines can reach is offered only to those that are named.
pub(super) fn check_reach(context: &Context, local: Local) -> Result<(), Failure> {
    if local.is_loopback() || !context.settings.allow_from.is_loopback_only() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{local} can be reached from other machines: name those that may use it with --allow-from, as in \
         --allow-from 192.168.1.0/24 (0.0.0.0/0,::/0 lets all of them)"
    )))
}

/// The services and local addresses that the arguments name.
fn pairs(arguments: &[String]) -> Result<Vec<(String, Local)>, Failure> {
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

fn local_address(text: &str) -> Result<Local, Failure> {
    text.parse()
        .map_err(|error: LocalError| Failure::usage(error.to_string()))
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
            read(&["db=1", "web=0.0.0.0:80", "dns=udp:53"]).unwrap(),
            ["db 127.0.0.1:1", "web 0.0.0.0:80", "dns udp:127.0.0.1:53"]
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
