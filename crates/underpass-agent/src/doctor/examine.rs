//! Tries everything on the way to a relay: side by side where one thing does not need the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use underpass_carrier::probe::{
    Greeting, ProbeSettings, greet, knock, measure, resolve, survives_silence,
};
use underpass_carrier::proxy::ProxyUrl;
use underpass_carrier::{CarrierError, Kind, TlsTrust};
use underpass_endpoint::{AscentSettings, TrialError, try_carrier};
use underpass_seal::StaticKey;

use super::deadline::{Deadline, Step};
use super::findings::{CarrierFinding, Findings, HostFinding, LoginFinding};
use crate::standing::{Reach, Standing, StandingError};

/// Names, and then connections to their addresses, may take so long each. The times of all that comes one after the
/// other sum up to less than the half minute that the whole may take: 3 + 3 + 6 + 13 + 3 s.
const HOST_LIMIT: Duration = Duration::from_secs(3);
/// The first answer may take so long.
const GREETING_LIMIT: Duration = Duration::from_secs(6);
/// Each carrier, and the measurements beside them, may take so long.
const CARRIER_LIMIT: Duration = Duration::from_secs(13);
/// The measurements end before that, with what they know by then.
const MEASURE_LIMIT: Duration = Duration::from_secs(12);
/// The login may take so long.
const LOGIN_LIMIT: Duration = Duration::from_secs(3);
/// Addresses of one host that are tried.
const MOST_ADDRESSES: usize = 8;
/// Proxies that are tried.
const MOST_HOSTS: usize = 4;
/// The silence that is tried always: some boxes cut after 10 s.
const SILENCE: Duration = Duration::from_secs(11);
/// The connection and the answers around a silence may take so long.
const SPARE: Duration = Duration::from_secs(2);
/// Those tried beside it where there is time: a little longer than what many boxes have as their limit.
const LONG_SILENCES: [Duration; 4] = [
    Duration::from_secs(31),
    Duration::from_secs(61),
    Duration::from_secs(126),
    LONGEST_SILENCE,
];
/// The longest silence that is tried.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(301);

/// What is examined.
#[derive(Debug)]
pub struct Subject {
    /// How the relay is reached.
    pub reach: Reach,
    /// This machine's key, where it has logged in to the relay.
    pub identity: Option<Arc<StaticKey>>,
    /// Whether any certificate does, as at the first login, where the relay's own key is what counts.
    pub any_certificate: bool,
    /// Whether longer silences are tried too, beyond the deadline.
    pub long: bool,
}

/// Tries everything. Ends by `deadline`; where long silences are tried, these alone may go on until a
/// few seconds after the longest.
pub async fn examine(subject: &Subject, deadline: Deadline) -> Findings {
    let mut reach = subject.reach.clone();
    // One that does not answer must not take the time of the others.
    reach.client.connect_timeout = reach.client.connect_timeout.min(GREETING_LIMIT);
    let trust = reach.client.tls.clone();
    let hosts = hosts(&reach, deadline).await;
    let (greeting, not_vouched) = match is_hopeless(&hosts) {
        Some(reason) => (Step::Skipped(reason), None),
        None => greeting(&mut reach, subject.any_certificate, deadline).await,
    };
    let proxy = greeting.done().and_then(|it| it.info.proxy.as_ref());
    let proxy_asks = proxy.and_then(|used| reach.client.proxies.asks(&used.proxy));
    let is_relay = greeting.done().is_some_and(|it| it.is_relay);
    let silences = match subject.long {
        true => [&[SILENCE], &LONG_SILENCES[..]].concat(),
        false => vec![SILENCE],
    };
    let (carriers, measured, silences) = tokio::join!(
        carriers(&reach, deadline),
        measured(&reach, is_relay, deadline),
        silent(&reach, is_relay, silences, deadline),
    );
    let login = login(subject, &reach, &carriers, deadline).await;
    Findings {
        relay: reach.relay.clone(),
        relay_key: reach.relay_key,
        trust,
        origin: reach.client.proxies.origin(&reach.relay),
        hosts,
        greeting,
        not_vouched,
        proxy_asks,
        carriers,
        measured,
        silences,
        login,
    }
}

type Hosts = Step<Vec<HostFinding>, underpass_carrier::proxy::ProxyError>;

/// Why nothing beyond the hosts can be reached by TCP.
fn is_hopeless(hosts: &Hosts) -> Option<&'static str> {
    match hosts {
        Step::Done(hosts) if hosts.iter().any(HostFinding::is_reached) => None,
        Step::Done(_) => Some("there is no TCP connection"),
        _ => Some("it is not known which way to go"),
    }
}

/// The hosts that connections are made to, all at once.
async fn hosts(reach: &Reach, deadline: Deadline) -> Hosts {
    let ways = reach.client.proxies.ways(&reach.relay, &reach.client.roots);
    let ways = match deadline.step(HOST_LIMIT, ways).await {
        Step::Done(ways) => ways,
        Step::Failed(error) => return Step::Failed(error),
        Step::Late(limit) => return Step::Late(limit),
        Step::NoTurn | Step::Skipped(_) => return Step::NoTurn,
    };
    let examined = ways.into_iter().take(MOST_HOSTS).map(|proxy| {
        let (host, port) = match &proxy {
            Some(proxy) => (proxy.host().to_owned(), proxy.port()),
            None => (reach.relay.host().to_owned(), reach.relay.port()),
        };
        host_of(proxy, host, port, deadline)
    });
    Step::Done(all(examined).await)
}

async fn host_of(
    proxy: Option<ProxyUrl>,
    host: String,
    port: u16,
    deadline: Deadline,
) -> HostFinding {
    let addresses = deadline.step(HOST_LIMIT, resolve(&host, port)).await;
    let some = addresses.done().map_or(&[][..], Vec::as_slice);
    let knocked = some.iter().take(MOST_ADDRESSES).map(|&address| async move {
        // The step ends a little later, so that it is the connection that says why.
        let limit = HOST_LIMIT - HOST_LIMIT / 10;
        let step = deadline.step(HOST_LIMIT, knock(address, limit)).await;
        (address, step)
    });
    let connected: Vec<(SocketAddr, _)> = all(knocked).await;
    HostFinding {
        proxy: proxy.map(|proxy| proxy.to_string()),
        host,
        port,
        connected,
        addresses,
    }
}

/// Does all at once; the results in the order of the work.
async fn all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks: JoinSet<(usize, T)> = JoinSet::new();
    for (index, work) in work.enumerate() {
        tasks.spawn(async move { (index, work.await) });
    }
    let mut done = tasks.join_all().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, value)| value).collect()
}

/// The first answer. Where any certificate does, that one is accepted from then on.
async fn greeting(
    reach: &mut Reach,
    any_certificate: bool,
    deadline: Deadline,
) -> (Step<Greeting, CarrierError>, Option<CarrierError>) {
    let greeting = greet(&reach.relay, &reach.client);
    let first = deadline.step(GREETING_LIMIT, greeting).await;
    match first {
        Step::Failed(error @ CarrierError::Certificate(_)) if any_certificate => {
            reach.client.tls = TlsTrust::AcceptAndReport;
            let again = greet(&reach.relay, &reach.client);
            let again = deadline.step(GREETING_LIMIT, again).await;
            (again, Some(error))
        }
        first => (first, None),
    }
}

/// Each carrier, all at once. Also where no answer was had: some do not need TCP.
async fn carriers(reach: &Reach, deadline: Deadline) -> Vec<CarrierFinding> {
    let tried = reach.carriers.iter().map(|&kind: &&'static Kind| {
        let (relay, client) = (reach.relay.clone(), reach.client.clone());
        async move {
            let limit = CARRIER_LIMIT.min(deadline.left());
            let trial = try_carrier(&relay, kind, &client, limit);
            // Its own limit says more than the deadline's.
            let tried = deadline.step(CARRIER_LIMIT * 2, trial).await;
            let tried = match tried {
                Step::Late(limit) => Step::Failed(TrialError::TimedOut(limit)),
                tried => tried,
            };
            CarrierFinding { kind, tried }
        }
    });
    all(tried).await
}

const NO_RELAY: &str = "no relay answers";

async fn measured(
    reach: &Reach,
    is_relay: bool,
    deadline: Deadline,
) -> Step<underpass_carrier::probe::Measurements, CarrierError> {
    if !is_relay {
        return Step::Skipped(NO_RELAY);
    }
    let settings = ProbeSettings {
        limit: MEASURE_LIMIT.min(deadline.left()),
        ..ProbeSettings::default()
    };
    let measuring = measure(&reach.relay, &reach.client, settings);
    deadline.step(CARRIER_LIMIT, measuring).await
}

async fn silent(
    reach: &Reach,
    is_relay: bool,
    lengths: Vec<Duration>,
    deadline: Deadline,
) -> Vec<(Duration, Step<bool, CarrierError>)> {
    let tried = lengths.into_iter().map(|length| {
        let (relay, client) = (reach.relay.clone(), reach.client.clone());
        async move {
            if !is_relay {
                return (length, Step::Skipped(NO_RELAY));
            }
            let limit = length + SPARE;
            let deadline = match length <= SILENCE {
                true => deadline,
                false => Deadline::after(limit),
            };
            let surviving = survives_silence(&relay, &client, length);
            (length, deadline.step(limit, surviving).await)
        }
    });
    all(tried).await
}

/// Attaches by the best carrier, and asks whom the relay takes this machine for.
async fn login(
    subject: &Subject,
    reach: &Reach,
    carriers: &[CarrierFinding],
    deadline: Deadline,
) -> Step<LoginFinding, StandingError> {
    let Some(identity) = &subject.identity else {
        return Step::Skipped("this machine has not logged in to this relay");
    };
    let best = carriers.iter().find(|it| it.tried.done().is_some());
    let Some(best) = best else {
        return Step::Skipped("no carrier reaches the relay");
    };
    let mut reach = reach.clone();
    reach.carriers = vec![best.kind];
    reach.ascent = AscentSettings::default();
    reach.patience = Duration::ZERO;
    let attaching = async {
        let (standing, identity) = Standing::attach(&reach, Arc::clone(identity)).await?;
        Ok((standing, LoginFinding { identity }))
    };
    // After long silences the deadline is over, and the login was not what took the time.
    let deadline = match subject.long {
        true => Deadline::after(LOGIN_LIMIT),
        false => deadline,
    };
    match deadline.step(LOGIN_LIMIT, attaching).await {
        Step::Done((standing, found)) => {
            let parting = async {
                standing.attachment().detach().await;
                Ok::<_, ()>(())
            };
            deadline.step(LOGIN_LIMIT, parting).await;
            Step::Done(found)
        }
        Step::Failed(error) => Step::Failed(error),
        Step::Late(limit) => Step::Late(limit),
        Step::NoTurn | Step::Skipped(_) => Step::NoTurn,
    }
}
