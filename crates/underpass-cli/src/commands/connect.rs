//! `underpass connect`

mod all;

use std::path::Path;

use clap::Args;
use underpass_agent::Connector;
use underpass_agent::connect::{Change, Listener, Listeners, Local, LocalError, Wanted};
use underpass_seal::Fingerprint;

use super::signals::{hang_ups, stop_asked};
use super::using::{Using, bare};
use super::{Context, errors};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnListen, reachable};

/// Listen on this machine for programs that want to use a service, until stopped
///
/// Prints one line for each service when it is ready: its name and the local address. With --all the services are those
/// of the tables [[connect]] in the settings file, which is read again whenever it changes and on SIGHUP; connections that
/// there are go on.
#[derive(Debug, Args)]
pub struct Connect {
    /// The service and, optionally, the local address or port (127.0.0.1:0 if not given, which is a
    /// free port), for a service of UDP with udp: before it, for a display x11:NUMBER; or any number of NAME=LOCAL. A host
    /// of a published network is HOST.SERVICE:PORT
    #[arg(required_unless_present = "all", num_args = 1.., value_names = ["NAME", "LOCAL"])]
    services: Vec<String>,
    /// The local address, as after the service
    #[arg(long, value_name = "LOCAL")]
    bind: Option<Local>,
    /// All services of the settings file
    #[arg(long, conflicts_with_all = ["services", "bind", "peer_key"])]
    all: bool,
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
        if self.all {
            return self.run_all(context).await;
        }
        let wanted = self.wanted(&context)?;
        if self.peer_key.is_some() && wanted.len() > 1 {
            return Err(Failure::usage("--peer-key is for one service at a time"));
        }
        let stop = stop_asked()?;
        let Some(using) = Using::start(&context, "connect", self.peer_key).await? else {
            return Ok(());
        };
        let connector = &using.connector;
        let mut listeners = Vec::new();
        for wanted in wanted {
            listeners.push(prepare(&context, connector, wanted).await?);
        }
        for listener in listeners {
            let wanted = listener.wanted();
            let address = wanted.local.to_string();
            using.board.show_entry(&wanted.service, &address);
            tell_ready(&context, wanted, listener.xauthority())?;
            tokio::spawn(listener.serve(connector.clone()));
        }
        ready::signal(self.ready_fd)?;
        using.until_stopped(stop, std::future::pending()).await
    }

    /// The same for the services of the settings file, as long as it names them.
    async fn run_all(self, context: Context) -> Result<(), Failure> {
        let wanted = all::wanted_first(&context)?;
        let (stop, hang_ups) = (stop_asked()?, hang_ups()?);
        let Some(using) = Using::start(&context, "connect", None).await? else {
            return Ok(());
        };
        let (connector, limits) = (using.connector.clone(), context.settings.flow_limits());
        let folder = context.home.run_folder()?.to_owned();
        let mut listeners = Listeners::new(connector.clone(), limits, using.board.clone(), folder);
        let changes = listeners.change(&wanted).await;
        for change in &changes {
            match change {
                Change::Failed(_, error) => return Err(errors::of_listen(error)),
                Change::Opened(wanted) => tell_ready(&context, wanted, None)?,
                Change::Changed(_) | Change::Closed(_) => {}
            }
        }
        all::look_for(&connector, &changes);
        ready::signal(self.ready_fd)?;
        let keeping = all::keep(listeners, connector, context.origin, hang_ups);
        using.until_stopped(stop, keeping).await
    }

    /// What the arguments name.
    fn wanted(&self, context: &Context) -> Result<Vec<Wanted>, Failure> {
        let sources = &context.settings.allow_from;
        let pairs = pairs(&self.services, self.bind)?;
        let wanted = pairs.into_iter().map(|(service, local)| {
            check_reach(context, local)?;
            Ok(Wanted {
                service: bare(context, &service),
                local,
                sources: sources.clone(),
            })
        });
        wanted.collect()
    }
}

/// Makes sure that the service can be used, and listens for it.
async fn prepare(
    context: &Context,
    connector: &Connector,
    wanted: Wanted,
) -> Result<Listener, Failure> {
    let service = &wanted.service;
    let resolved = connector.resolve(service).await;
    let resolved = resolved
        .map_err(|error| errors::of_request(&error, &format!("cannot connect to {service}")))?;
    if !resolved.present {
        context.output.message(&format!(
            "{service} is published by a machine that is away; connections will wait for it a little"
        ));
    }
    let folder = context.home.run_folder()?;
    let listener = Listener::bind(wanted, context.settings.flow_limits(), folder).await;
    listener.map_err(|error| errors::of_listen(&error))
}

/// What other machines can reach is offered only to those that are named.
pub(super) fn check_reach(context: &Context, local: Local) -> Result<(), Failure> {
    let sources = &context.settings.allow_from;
    reachable(local, sources, "--allow-from").map_err(Failure::usage)
}

fn tell_ready(
    context: &Context,
    wanted: &Wanted,
    xauthority: Option<&Path>,
) -> Result<(), Failure> {
    let (service, address) = (&wanted.service, wanted.local);
    if let (Some(number), Some(cookies)) = (address.display, xauthority) {
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

/// The services and local addresses that the arguments name.
fn pairs(arguments: &[String], bind: Option<Local>) -> Result<Vec<(String, Local)>, Failure> {
    if let Some(bind) = bind {
        return match arguments {
            [service] if !service.contains('=') => Ok(vec![(service.clone(), bind)]),
            _ => Err(Failure::usage(
                "--bind is for one service, and in the place of its local address",
            )),
        };
    }
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
        let pairs = pairs(&arguments, None)?;
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

    #[test]
    fn the_address_by_name() {
        let read = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            let bind = "0.0.0.0:80".parse().ok();
            let pairs = pairs(&arguments, bind).map_err(|failure| failure.exit)?;
            Ok(format!("{} {}", pairs[0].0, pairs[0].1))
        };
        assert_eq!(read(&["web"]), Ok("web 0.0.0.0:80".to_owned()));
        for bad in [&["web", "1"][..], &["web=1"], &["a", "b", "c"]] {
            assert_eq!(read(bad), Err(2), "{bad:?}");
        }
    }
}
