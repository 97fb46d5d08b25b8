//! `underpass publish`

use clap::Args;
use underpass_agent::Publisher;
use underpass_agent::publish::{
    Inside, KnownUsers, Limits, Listing, Network, Offer, PublishEnd, Target,
};
use underpass_agent::status::{Board, OrderServer, StatusServer};
use underpass_proto::frame::ChannelKind;
use underpass_proto::{Code, Grade, names};
use underpass_seal::Fingerprint;

use super::signals::stop_asked;
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnPublish, Span, Written, publishes};

/// Publish services that this machine can reach, until stopped
///
/// A service is private: only its owner may use it until `underpass services allow` lets others.
/// Prints one line when all of them are published. Where the relay wants a manager's approval this says
/// so, waits for it, and goes on by itself.
#[derive(Debug, Args)]
pub struct Publish {
    /// The service's name, and the host and port where this machine reaches it, for a service of UDP with udp: before
    /// them, for FTP with ftp:, for a web server that goes by its own name with http:; x11:HOST:DISPLAY for a display (x11::0
    /// is the first one here); any number of pairs. A network (10.0.0.0/8; several with commas between) publishes all of it
    /// at --ports
    #[arg(required_unless_present = "all", num_args = 2.., value_names = ["NAME", "HOST:PORT"])]
    services: Vec<String>,
    /// The services of the tables [[publish]] in the settings file, each with what its own table says in the place of the
    /// flags
    #[arg(long, conflicts_with_all = ["services", "ports", "hosts", "description", "no_compression", "plain_http", "redial", "retarget_by", "only"])]
    all: bool,
    /// The ports of a network that may be reached (22,443,8000-8099)
    #[arg(long, value_name = "PORTS")]
    ports: Option<String>,
    /// The hosts of a network that may also be named, and not only given by their addresses (db.corp,*.lab.corp, or * for
    /// all); this machine looks their names up
    #[arg(long, value_name = "HOSTS", requires = "ports")]
    hosts: Option<String>,
    /// What it is, for people who look for it
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Do not compress: for services where an attacker can mix its own text with secrets
    #[arg(long)]
    no_compression: bool,
    /// Let programs without an agent use it by plain HTTP; the relay can read what those send and receive
    #[arg(long)]
    plain_http: bool,
    /// Connections may be dialled anew, at another host, while they last (`services retarget --now`); for programs that
    /// bear it when the service forgets what was said before
    #[arg(long)]
    redial: bool,
    /// A machine that may lead the services elsewhere from wherever it is (`services retarget`), by the fingerprint that
    /// `underpass status` shows there; may be given several times. Nobody may unless it is given
    #[arg(long, value_name = "FINGERPRINT")]
    retarget_by: Vec<Fingerprint>,
    /// A machine that may use the services, by the fingerprint that `underpass status` shows there; may be given several
    /// times. No other machine may then, whatever the relay says
    #[arg(long, value_name = "FINGERPRINT")]
    only: Vec<Fingerprint>,
    /// How long to wait for a manager's approval, such as 10m, before this exits with 6; if not given, without a limit
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
    /// Write a newline to this file descriptor when ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnPublish>,
}

impl Publish {
    /// Publishes until it is told to stop, or the attachment ends for good.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let publishing = Publishing {
            command: "publish",
            offers: self.offers(&context)?,
            allow: &[],
            wait: self.wait,
            ready_fd: self.ready_fd,
        };
        let ready = |listings: &[Listing]| tell_ready(&context, listings);
        publishing.serve(&context, ready).await
    }

    /// What the arguments, or the tables of the settings file, say.
    fn written(&self, context: &Context) -> Result<Vec<Written>, Failure> {
        if self.all {
            let written = publishes(&context.origin.read()?)?;
            if written.is_empty() {
                let file = context.origin.file().display();
                return Err(Failure::usage(format!(
                    "{file} has no table [[publish]], which --all is for"
                )));
            }
            return Ok(written);
        }
        let (pairs, rest) = self.services.as_chunks::<2>();
        if let [name] = rest {
            return Err(Failure::usage(format!("{name} has no HOST:PORT")));
        }
        let is_network = |target: &str| target.contains('/');
        if self.ports.is_some() && !pairs.iter().any(|[_, target]| is_network(target)) {
            return Err(Failure::usage(
                "--ports is for a network, such as 10.0.0.0/8, of which none is named",
            ));
        }
        let written = pairs.iter().map(|[name, target]| Written {
            name: name.clone(),
            target: target.clone(),
            ports: self.ports.clone().filter(|_| is_network(target)),
            hosts: self.hosts.clone().filter(|_| is_network(target)),
            description: self.description.clone(),
            no_compression: self.no_compression,
            plain_http: self.plain_http,
            redial: self.redial,
            retarget_by: self.retarget_by.clone(),
            only: self.only.clone(),
        });
        Ok(written.collect())
    }

    fn offers(&self, context: &Context) -> Result<Vec<Offer>, Failure> {
        let lowest_grade = context.settings.lowest_grade.0;
        let written = self.written(context)?.into_iter();
        let offers = written.map(|it| offer(it, lowest_grade));
        let offers: Vec<Offer> = offers.collect::<Result<_, Failure>>()?;
        let twice = offers.iter().enumerate().find(|(at, offer)| {
            offers[..*at]
                .iter()
                .any(|earlier| earlier.name == offer.name)
        });
        match twice {
            Some((_, offer)) => Err(Failure::usage(format!("{} is named twice", offer.name))),
            None => Ok(offers),
        }
    }
}

/// A service to publish, if it can be.
fn offer(written: Written, lowest_grade: Grade) -> Result<Offer, Failure> {
    let network = network(&written)?;
    let Written {
        name,
        target,
        ports: _,
        hosts: _,
        description,
        no_compression,
        plain_http,
        redial,
        retarget_by,
        only,
    } = written;
    names::check(&name)
        .map_err(|error| Failure::usage(format!("the service {name:?}: {error}")))?;
    if network.is_none() {
        check_target(&target)?;
    }
    if plain_http && Target::read(&target).kind == ChannelKind::Datagram {
        return Err(Failure::usage(format!(
            "--plain-http is for connections, and {name} takes datagrams"
        )));
    }
    let shown = network.as_ref().map(ToString::to_string);
    Ok(Offer {
        name,
        target: shown.unwrap_or(target),
        network,
        description,
        compression: !no_compression,
        plain_http,
        redial,
        retarget_by,
        only,
        lowest_grade,
        inside: None,
    })
}

/// What may be reached of a target that is a network; none for one that is a host.
fn network(written: &Written) -> Result<Option<Network>, Failure> {
    let Written {
        name,
        target,
        ports,
        hosts,
        plain_http,
        redial,
        retarget_by,
        ..
    } = written;
    let usage = |what: String| Failure::usage(format!("{name}: {what}"));
    if !target.contains('/') || target.contains("://") {
        return match ports.is_some() || hosts.is_some() {
            true => Err(usage("ports and hosts are for a network".to_owned())),
            false => Ok(None),
        };
    }
    let Some(ports) = ports else {
        return Err(usage(
            "of a whole network the ports must be named that may be reached (--ports 22,443)"
                .to_owned(),
        ));
    };
    // A web request has no field for the host that is meant.
    if *plain_http || *redial || !retarget_by.is_empty() {
        return Err(usage(
            "a whole network goes with none of --plain-http, --redial and --retarget-by".to_owned(),
        ));
    }
    let network = Network::parse(target, ports, hosts.as_deref().unwrap_or_default());
    network.map(Some).map_err(|error| usage(error.to_string()))
}

/// Services that a command publishes until it is stopped.
pub(super) struct Publishing<'a> {
    /// What `underpass status` calls it.
    pub(super) command: &'static str,
    pub(super) offers: Vec<Offer>,
    /// Users who are let in to all of them.
    pub(super) allow: &'a [String],
    /// How long to wait for a manager's approval.
    pub(super) wait: Option<Span>,
    pub(super) ready_fd: Option<u32>,
}

impl Publishing<'_> {
    /// Publishes them until told to stop, or the attachment ends for good; `ready` is called once all of them are live.
    pub(super) async fn serve(
        self,
        context: &Context,
        ready: impl FnOnce(&[Listing]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self {
            command,
            offers,
            allow,
            wait,
            ready_fd,
        } = self;
        let stop = stop_asked()?;
        let board = Board::new(command);
        let EnrolledAtAll { standings, first } = tokio::select! {
            enrolled = context.enrolled_at_all(true) => enrolled?,
            () = stop_asked()? => return Ok(()),
        };
        board.show_standings(standings.clone());
        let _status = StatusServer::start(&context.home, board.clone())?;
        tokio::spawn(log_notices(standings.clone()));
        let limits = Limits {
            dial: context.settings.dial_timeout.0,
            flows: context.settings.flow_limits(),
        };
        let names: Vec<String> = offers.iter().map(|offer| offer.name.clone()).collect();
        let users = KnownUsers::new(context.home.clone(), first.key);
        let started =
            Publisher::start(standings.clone(), offers, limits, users, board.clone()).await;
        let publisher = started.map_err(|error| errors::of_publish(&error))?;
        let listings = publisher.listings();
        for listing in &listings {
            board.show_entry(&listing.full_name, &listing.target);
        }
        let (_, best) = standings.best();
        let pairs = allow
            .iter()
            .flat_map(|user| names.iter().map(move |name| (user, name)));
        for (user, name) in pairs {
            let trying = format!("cannot allow {user} to use {name}");
            let allowed = best.allow(user, name).await;
            allowed.map_err(|error| errors::of_request(&error, &trying))?;
        }
        let _orders = OrderServer::start(&context.home, publisher.steering())?;
        let live = async {
            wait_for_approval(context, &publisher, wait).await?;
            ready(&listings)?;
            ready::signal(ready_fd)?;
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = publisher.keep() => return Err(match &ended {
                PublishEnd::Attach(error) => errors::of_attach(error, &first.url),
                PublishEnd::Publish(error) => errors::of_publish(error),
            }),
            failed = live => failed,
            () = stop => Ok(()),
        };
        standings.detach().await;
        ended
    }
}

/// A service of a name of its own, which a command serves itself.
pub(super) fn inside(name: &str, description: &str, only: &[Fingerprint], inside: Inside) -> Offer {
    Offer {
        name: name.to_owned(),
        target: "this program".to_owned(),
        network: None,
        description: description.to_owned(),
        // What is sealed already gets no shorter.
        compression: false,
        plain_http: false,
        redial: false,
        retarget_by: Vec::new(),
        only: only.to_vec(),
        lowest_grade: Grade::Blind,
        inside: Some(inside),
    }
}

/// Says what waits for a manager, and waits for that.
async fn wait_for_approval(
    context: &Context,
    publisher: &Publisher,
    wait: Option<Span>,
) -> Result<(), Failure> {
    let waiting = publisher.waiting();
    if waiting.is_empty() {
        return Ok(());
    }
    let names = waiting.join(", ");
    context.output.message(&format!(
        "{names}: waiting for a manager's approval; a manager says: underpass services approve SERVICE.OWNER"
    ));
    let approved = publisher.approved();
    let approved = match wait {
        None => approved.await,
        Some(Span(limit)) => match tokio::time::timeout(limit, approved).await {
            Ok(approved) => approved,
            Err(_) => {
                let trying = format!("cannot publish {names} yet");
                return Err(Failure::of_code(Code::ServiceWaiting, &trying));
            }
        },
    };
    approved.map_err(|error| errors::of_publish(&error))
}

/// Whether a text can be dialled: a host, a colon, a port, and before them what [`Target::read`] knows.
pub(super) fn check_target(target: &str) -> Result<(), Failure> {
    if Target::read(target).is_sound() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{target:?} is not HOST:PORT, with udp:, ftp: or http: before it where that is spoken, or x11:HOST:DISPLAY (an IPv6 address stands in brackets)"
    )))
}

fn tell_ready(context: &Context, listings: &[Listing]) -> Result<(), Failure> {
    let texts: Vec<String> = listings
        .iter()
        .map(|listing| format!("{} at {}", listing.full_name, listing.target))
        .collect();
    let json: serde_json::Value = listings
        .iter()
        .map(|listing| {
            let Listing {
                name,
                full_name,
                target,
            } = listing;
            serde_json::json!({ "name": name, "full_name": full_name, "target": target })
        })
        .collect();
    context.output.result(
        &format!("published {}", texts.join(", ")),
        &serde_json::json!({ "published": json }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_networks() {
        let written = |target: &str, ports: Option<&str>| Written {
            name: "net".into(),
            target: target.into(),
            ports: ports.map(str::to_owned),
            ..Written::default()
        };
        let shown = |it: Written| {
            offer(it, Grade::Blind).map(|offer| (offer.target, offer.network.is_some()))
        };
        let host = shown(written("10.0.0.5:22", None)).unwrap();
        assert_eq!(host, ("10.0.0.5:22".to_owned(), false));
        let network = shown(written("10.0.0.0/8", Some("22"))).unwrap();
        assert_eq!(network, ("10.0.0.0/8 ports 22".to_owned(), true));
        let redial = Written {
            redial: true,
            ..written("10.0.0.0/8", Some("22"))
        };
        for bad in [
            written("10.0.0.0/8", None),
            written("10.0.0.0/8", Some("ssh")),
            written("10.0.0.5:22", Some("22")),
            written("127.0.0.0/8", Some("22")),
            written("http://10.0.0.5:80", None),
            redial,
        ] {
            assert_eq!(shown(bad.clone()).unwrap_err().exit, 2, "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        for good in [
            "localhost:1",
            "10.0.0.1:5432",
            "[::1]:80",
            "db.corp:65535",
            "udp:dns:53",
            "udp:[::1]:53",
            "udp:53",
            "ftp:files.corp:21",
            "ftp:[::1]:21",
            "http:wiki.corp:80",
            "x11::0",
            "x11:10.0.0.9:0.0",
        ] {
            assert!(check_target(good).is_ok(), "{good}");
        }
        for bad in [
            "db",
            ":80",
            "::1:80",
            "[::1:80",
            "a b:1",
            "h:0",
            "h:65536",
            "h:",
            "[x]:1",
            "udp:",
            "udp:udp:h:1",
            "udp:h:0",
            "ftp:",
            "ftp:udp:h:1",
            "x11::",
            "x11::x",
            "http:h:0",
            "http://h:80",
        ] {
            assert!(check_target(bad).is_err(), "{bad}");
        }
    }
}
