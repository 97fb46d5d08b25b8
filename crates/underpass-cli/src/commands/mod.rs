//! One file for each command, and what they share.

pub mod authority;
pub mod chat;
pub mod completions;
pub mod connect;
pub mod connections;
pub mod doctor;
mod errors;
pub mod events;
pub mod group;
mod limit;
pub mod login;
pub mod machines;
pub mod meet;
pub mod names;
pub mod nc;
pub mod password;
pub mod path;
pub mod peers;
pub mod proxy;
pub mod publish;
pub mod receive;
pub mod redirector;
pub mod relay;
mod retarget;
pub mod run;
pub mod send;
pub mod services;
mod signals;
pub mod status;
pub mod usage;
pub mod users;
mod using;
pub mod via;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use underpass_agent::home::KnownRelay;
use underpass_agent::{Following, Home, Reach, Seen, Standing, Standings};
use underpass_carrier::{ClientSettings, RelayUrl, TlsTrust};
use underpass_endpoint::choice::RosterSettings;
use underpass_endpoint::{AscentSettings, FleetSettings};
use underpass_proto::Code;
use underpass_proto::control::{Control as Message, Identity};
use underpass_proto::session::Config;
use underpass_seal::Fingerprint;

use crate::cli::Cli;
use crate::failure::{Failure, NO_PATH, NO_RELAY};
use crate::logging;
use crate::output::{Output, printable};
use crate::settings::{Origin, PairSetting, Settings};
use path::PathSettings;

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Keys and what is known of others.
    pub home: Home,
    /// All settings.
    pub settings: Settings,
    /// Where they come from.
    pub origin: Origin,
    /// Who is to be kept connected, by the settings file.
    pub pairs: Vec<PairSetting>,
    /// Where results go.
    pub output: Output,
    /// Whether somebody may be asked on the terminal.
    may_ask: bool,
    /// Proxies and roots, once they are needed.
    path: OnceLock<PathSettings>,
}

/// Where there are several relays, one that does not answer is tried for so long before the next one is.
const NEXT_RELAY: Duration = Duration::from_secs(3);

/// All relays that are used at once, of which some may be away.
pub struct EnrolledAtAll {
    /// The ways to them.
    pub standings: Standings,
    /// The entry in the home of the one that was named first, or logged in to.
    pub first: KnownRelay,
}

/// A relay that this machine is enrolled with.
pub struct Enrolled {
    /// The way to it.
    pub standing: Standing,
    /// Its entry in the home.
    pub known: KnownRelay,
}

impl Context {
    /// Reads the settings and starts the log. `variable` looks variables up; one that is not text is
    /// an error.
    pub fn new(
        cli: &Cli,
        home: Home,
        variable: impl Fn(&str) -> Result<Option<String>, OsString>,
    ) -> Result<Self, Failure> {
        let mut flags = cli.everywhere.given.clone();
        flags.extend(cli.command.flags());
        // The settings of a relay and of an authority are of other kinds, and their files are their own.
        use crate::cli::Command;
        let is_own = matches!(cli.command, Command::Relay(_) | Command::Authority(_));
        let explicit = cli.config.as_deref().filter(|_| !is_own);
        let origin = Origin::new(flags, explicit, &home.config_file());
        let layers = origin.read()?;
        let settings = Settings::resolve(&layers, |name| {
            // What is no text is no valid value either, and is refused as such.
            variable(name).unwrap_or_else(|text| Some(text.to_string_lossy().into_owned()))
        })?;
        settings.proxy.mode()?;
        let pairs = layers.pairs()?;
        logging::start(&settings.log, settings.quiet.0, cli.command.usual_log())?;
        let output = Output::new(settings.json.0, settings.quiet.0);
        // Its time is bounded, and who is asked takes longer.
        let is_doctor = matches!(cli.command, crate::cli::Command::Doctor(_));
        Ok(Self {
            home,
            origin,
            may_ask: !is_doctor && !settings.quiet.0 && std::io::stderr().is_terminal(),
            settings,
            pairs,
            output,
            path: OnceLock::new(),
        })
    }

    /// Proxies and roots. The same ones each time, with what was learned about them.
    fn path(&self) -> Result<&PathSettings, Failure> {
        if let Some(path) = self.path.get() {
            return Ok(path);
        }
        let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        let path = PathSettings::new(&self.settings, &self.home, variable, self.may_ask)?;
        Ok(self.path.get_or_init(|| path))
    }

    /// The relays that were asked for, or those of the group of the first that is known; at least one.
    pub fn known_relays(&self) -> Result<Vec<KnownRelay>, Failure> {
        let relays = self.home.relays()?;
        let asked = &self.settings.relay.0;
        if asked.is_empty() {
            let first = self.known_relay()?;
            let group = self.group_of(&first);
            return Ok(group.unwrap_or_else(|| vec![first]));
        }
        let known = asked.iter().map(|asked| {
            let url = plain_url(asked);
            match (relays.find(&url), pinned_by(asked)?) {
                (Some(known), Some(expected)) if expected != known.key => {
                    Err(errors::other_key(&url, expected, known.key))
                }
                (Some(known), _) => Ok(known.clone()),
                // Who has logged in to one relay of a group is known to all of them.
                (None, Some(key)) if self.settings.relay.0.len() > 1 => {
                    Ok(KnownRelay::new(&url, key))
                }
                (None, _) => Err(Failure::local(
                    &NO_RELAY,
                    format!("this machine has not logged in to {url}"),
                )
                .with_next(format!("underpass login {url}"))),
            }
        });
        known.collect()
    }

    /// The first relay that was asked for, or that this machine has logged in to.
    pub fn known_relay(&self) -> Result<KnownRelay, Failure> {
        let first = match self.settings.relay.0.is_empty() {
            true => self.home.relays()?.list().first().cloned(),
            false => self.known_relays()?.into_iter().next(),
        };
        first
            .ok_or_else(|| Failure::local(&NO_RELAY, "this machine has not logged in to any relay"))
    }

    /// The relays of the group of one that was logged in to, as they were announced the last time, if they are to be
    /// used and were.
    pub fn group_of(&self, login: &KnownRelay) -> Option<Vec<KnownRelay>> {
        if !self.settings.follow_announced.0 {
            return None;
        }
        // A list that cannot be read must not keep anybody from the relay that is known without it.
        let list = self.home.group_of(login);
        let list = list.inspect_err(|error| tracing::error!("{error}"));
        Some(login.with_group(&list.ok()??))
    }

    /// How to reach a relay.
    pub fn reach(
        &self,
        relay: RelayUrl,
        relay_key: Option<Fingerprint>,
        tls: TlsTrust,
    ) -> Result<Reach, Failure> {
        let settings = &self.settings;
        let path = self.path()?;
        let mut client = ClientSettings::default();
        client.media_type = settings.media_type.0.clone();
        client.text_type = settings.text_type.0.clone();
        client.poll_by_post = settings.poll_method.0;
        client.quic_port = settings.quic_port.0.get();
        client.id_place = settings.id_place.0;
        client.tls = tls;
        client.proxies = path.proxies.clone();
        client.roots = path.roots.clone();
        let mut session = Config::default();
        session.params.keep_s = settings.keep.0.as_secs();
        session.params.split_ways = settings.split_ways.0;
        let mut ascent = AscentSettings {
            memory: Some(self.home.networks_file()),
            ..AscentSettings::default()
        };
        ascent.ladder.first_backoff = settings.carrier_retry.0;
        Ok(Reach {
            relay,
            relay_key,
            carriers: settings.carrier.0.clone(),
            ascent,
            client,
            session,
            patience: settings.patience.0,
            machine_name: machine_name(),
            announced_by: None,
        })
    }

    /// Attaches to a relay that is known, whether or not it still knows us.
    pub async fn attach(&self, known: &KnownRelay) -> Result<(Standing, Identity), Failure> {
        self.attach_within(known, self.settings.patience.0).await
    }

    async fn attach_within(
        &self,
        known: &KnownRelay,
        patience: Duration,
    ) -> Result<(Standing, Identity), Failure> {
        // A key that cannot be used is this machine's fault, and must not look like the relay's.
        let identity = self.home.machine_key()?;
        let mut reach = self.reach_known(known)?;
        reach.patience = patience;
        let attached = Standing::attach(&reach, Arc::new(identity)).await;
        attached.map_err(|error| errors::of_standing(&error, &known.url))
    }

    fn reach_known(&self, known: &KnownRelay) -> Result<Reach, Failure> {
        let url: RelayUrl = known
            .url
            .parse()
            .map_err(|error| Failure::local(&NO_PATH, format!("{}: {error}", known.url)))?;
        let reach = self.reach(url, Some(known.key), known.tls.into())?;
        Ok(Reach {
            announced_by: known.announced_by.clone(),
            ..reach
        })
    }

    /// Attaches to one of the relays that were asked for, which must know us.
    pub async fn enrolled(&self) -> Result<Enrolled, Failure> {
        let all = self.known_relays()?;
        let last = all.len() - 1;
        let mut first = None;
        for (at, known) in all.into_iter().enumerate() {
            // Where another one can do the same there is no need to wait for this one.
            let patience = match at == last {
                true => self.settings.patience.0,
                false => self.settings.patience.0.min(NEXT_RELAY),
            };
            let failed = match self.attach_within(&known, patience).await {
                Ok((standing, identity)) if !identity.user.is_empty() => {
                    return Ok(Enrolled { standing, known });
                }
                Ok((standing, _)) => {
                    standing.attachment().detach().await;
                    let trying = format!("cannot use {}", known.url);
                    Failure::of_code(Code::NotEnrolled, &trying)
                }
                Err(failed) => failed,
            };
            first.get_or_insert(failed);
        }
        Err(first.expect("none was returned, so one has failed"))
    }

    /// Attaches to each of the relays that were asked for, of which one at least must be there and know us; what they are
    /// called, and the ways to them. Of those that are not there a message tells.
    pub async fn enrolled_at_each(&self) -> Result<Vec<(String, Standing)>, Failure> {
        let all = self.known_relays()?;
        let patience = match all.len() {
            1 => self.settings.patience.0,
            _ => self.settings.patience.0.min(NEXT_RELAY),
        };
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for known in all {
            let failed = match self.attach_within(&known, patience).await {
                Ok((standing, identity)) if !identity.user.is_empty() => {
                    there.push((known.url, standing));
                    continue;
                }
                Ok((standing, _)) => {
                    standing.attachment().detach().await;
                    let trying = format!("cannot use {}", known.url);
                    Failure::of_code(Code::NotEnrolled, &trying)
                }
                Err(failed) => failed,
            };
            missing.push(failed);
        }
        if there.is_empty() {
            return Err(missing.swap_remove(0));
        }
        for failed in missing {
            self.output.message(&format!("left out: {}", failed.what));
        }
        Ok(there)
    }

    /// Attaches to the relays that were asked for, of which one at least must be there and know us: to all of them
    /// where others are to find us there, else to the best. Where none was asked for, what they announce is followed.
    pub async fn enrolled_at_all(&self, be_found: bool) -> Result<EnrolledAtAll, Failure> {
        let known = self.known_relays()?;
        let identity = Arc::new(self.home.machine_key()?);
        let reaches = known.iter().map(|known| self.reach_known(known));
        let reaches = reaches.collect::<Result<Vec<_>, _>>()?;
        let first = self.known_relay()?;
        let (vary, legs) = (self.settings.vary_path.0, self.settings.legs.0);
        let mut roster = RosterSettings::default();
        roster.warm = roster.warm.max(legs);
        let settings = FleetSettings {
            roster: (!be_found).then_some(roster),
            legs,
            vary: (!vary.is_zero()).then_some(vary),
            ..FleetSettings::default()
        };
        match Standings::attach(reaches, identity, settings).await {
            Ok(standings) => {
                self.follow(&standings, &first)?;
                Ok(EnrolledAtAll { standings, first })
            }
            Err(error) => Err(errors::of_standing(&error, &first.url)),
        }
    }

    /// Follows what the relays announce, where it is wanted, for as long as the program runs.
    fn follow(&self, standings: &Standings, login: &KnownRelay) -> Result<(), Failure> {
        let named = !self.settings.relay.0.is_empty();
        if named || !self.settings.follow_announced.0 {
            return Ok(());
        }
        let (home, reach) = (self.home.clone(), self.reach_known(login)?);
        let following = Following::new(home, login.clone(), standings.clone(), reach);
        tokio::spawn(following.run());
        Ok(())
    }
}

/// Logs what the relays say unasked, for as long as the program runs.
pub async fn log_notices(standings: Standings) {
    let mut seen = Seen::default();
    loop {
        let standing = standings.joined(&mut seen).await;
        tokio::spawn(log_notices_of(standing));
    }
}

async fn log_notices_of(standing: Standing) {
    while let Some(message) = standing.unasked().await {
        match message {
            Message::Going(going) => tracing::info!(
                "the relay is going ({}); this machine attaches again by itself",
                printable(&going.text)
            ),
            Message::Notice(notice) => {
                tracing::info!("the relay says: {}", printable(&notice.text))
            }
            Message::Ended(ended) => {
                tracing::warn!("ended by a manager: {}", printable(&ended.text))
            }
            _ => {}
        }
    }
}

/// A relay's address without the fingerprint that it may carry.
pub fn plain_url(url: &RelayUrl) -> String {
    format!(
        "{}://{}{}",
        url.scheme().as_str(),
        url.authority(),
        url.prefix()
    )
}

/// The fingerprint that a relay's address carries.
pub fn pinned_by(url: &RelayUrl) -> Result<Option<Fingerprint>, Failure> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|error| Failure::usage(format!("the fingerprint in {url}: {error}")))
    };
    url.fingerprint().map(parse).transpose()
}

/// What this machine calls itself, as far as that can be a name.
pub fn machine_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = host.split('.').next().unwrap_or_default();
    as_name(first).unwrap_or_else(|| "machine".to_owned())
}

/// The nearest name to a text, if there is any.
pub fn as_name(text: &str) -> Option<String> {
    let name: String = text
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(underpass_proto::names::MAX_NAME)
        .collect();
    let name = name.trim_matches('-');
    underpass_proto::names::check(name)
        .ok()
        .map(|()| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_there_is() {
        assert_eq!(as_name("Laptop_1\n").as_deref(), Some("laptop-1"));
        assert_eq!(as_name("--").as_deref(), None);
        assert_eq!(as_name(&"x".repeat(80)).unwrap().len(), 63);
        assert!(as_name(&machine_name()).is_some());
    }

    #[test]
    fn an_address_is_compared_without_its_fingerprint() {
        let key = Fingerprint::from_bytes([7; 32]);
        let url: RelayUrl = format!("http://Relay:8080/x/#{key}").parse().unwrap();
        assert_eq!(plain_url(&url), "http://relay:8080/x");
        assert_eq!(pinned_by(&url).unwrap(), Some(key));
        let url: RelayUrl = "http://relay#abc".parse().unwrap();
        assert_eq!(pinned_by(&url).unwrap_err().exit, 2);
        assert_eq!(pinned_by(&"http://relay".parse().unwrap()).unwrap(), None);
    }
}
