//! `underpass publish`

use clap::Args;
use underpass_agent::Publisher;
use underpass_agent::publish::{Limits, Listing, Offer, PublishEnd, Target};
use underpass_agent::status::{Board, OrderServer, StatusServer};
use underpass_proto::frame::ChannelKind;
use underpass_proto::{Code, names};
use underpass_seal::Fingerprint;

use super::signals::stop_asked;
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnPublish, Span};

/// Publish services that this machine can reach, until stopped
///
/// A service is private: only its owner may use it until `underpass services allow` lets others.
/// Prints one line when all of them are published. Where the relay wants a manager's approval this says
/// so, waits for it, and goes on by itself.
#[derive(Debug, Args)]
pub struct Publish {
    /// The service's name, and the host and port where this machine reaches it, for a service of UDP with udp: before
    /// them, for FTP with ftp:; any number of pairs
    #[arg(required = true, num_args = 2.., value_names = ["NAME", "HOST:PORT"])]
    services: Vec<String>,
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
        let offers = self.offers()?;
        let stop = stop_asked()?;
        let board = Board::new("publish");
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
        let started = Publisher::start(standings.clone(), offers, limits, board.clone()).await;
        let publisher = started.map_err(|error| errors::of_publish(&error))?;
        let listings = publisher.listings();
        for listing in &listings {
            board.show_entry(&listing.full_name, &listing.target);
        }
        let _orders = OrderServer::start(&context.home, publisher.steering())?;
        let live = async {
            self.wait_for_approval(&context, &publisher).await?;
            tell_ready(&context, &listings)?;
            ready::signal(self.ready_fd)?;
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

    /// Says what waits for a manager, and waits for that.
    async fn wait_for_approval(
        &self,
        context: &Context,
        publisher: &Publisher,
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
        let approved = match self.wait {
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

    fn offers(&self) -> Result<Vec<Offer>, Failure> {
        let (pairs, rest) = self.services.as_chunks::<2>();
        if let [name] = rest {
            return Err(Failure::usage(format!("{name} has no HOST:PORT")));
        }
        let offers = pairs.iter().map(|[name, target]| {
            names::check(name)
                .map_err(|error| Failure::usage(format!("the service {name:?}: {error}")))?;
            check_target(target)?;
            if self.plain_http && Target::read(target).kind == ChannelKind::Datagram {
                return Err(Failure::usage(format!(
                    "--plain-http is for connections, and {name} takes datagrams"
                )));
            }
            Ok(Offer {
                name: name.clone(),
                target: target.clone(),
                description: self.description.clone(),
                compression: !self.no_compression,
                plain_http: self.plain_http,
                redial: self.redial,
                retarget_by: self.retarget_by.clone(),
                only: self.only.clone(),
            })
        });
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

/// Whether a text can be dialled: a host, a colon, a port, and before them what [`Target::read`] knows.
pub(super) fn check_target(target: &str) -> Result<(), Failure> {
    let at = Target::read(target).at;
    let sound = at.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let address = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ']),
        };
        address && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if sound {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{target:?} is not HOST:PORT, udp:HOST:PORT or ftp:HOST:PORT (an IPv6 address stands in brackets)"
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
            "http://h:80",
            "[x]:1",
            "udp:",
            "udp:udp:h:1",
            "udp:h:0",
            "ftp:",
            "ftp:udp:h:1",
        ] {
            assert!(check_target(bad).is_err(), "{bad}");
        }
    }
}
