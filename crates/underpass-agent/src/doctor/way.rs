//! Rows about the way to the relay, up to its first answer. Pure.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use underpass_carrier::probe::Greeting;
use underpass_carrier::proxy::{ProxyError, ProxyOrigin};
use underpass_carrier::{CarrierError, Scheme, TlsInfo, TlsTrust, show_fingerprint};
use underpass_proto::Code;

use super::deadline::Step;
use super::findings::{Findings, HostFinding};
use super::row::{Check, Row, Verdict, show};

/// Clocks may differ by so much: one-time codes and young certificates allow for as much.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// The first answer should not take longer.
const SLOW_ANSWER: Duration = Duration::from_secs(2);

/// All of them.
pub(super) fn rows(found: &Findings) -> Vec<Row> {
    let mut rows = vec![settings(found)];
    match &found.hosts {
        Step::Done(hosts) => rows.extend(hosts.iter().flat_map(host_rows)),
        step => rows.push(Row::open(Check::Names, found.relay.host(), step)),
    }
    rows.push(proxy(found));
    rows.push(proxy_login(found));
    rows.push(tls(found));
    rows.push(http(found));
    rows.push(clock(found));
    rows
}

fn host_rows(host: &HostFinding) -> Vec<Row> {
    let mut rows = vec![names(host)];
    rows.extend(host.connected.iter().map(|(at, step)| tcp(host, at, step)));
    let blocked = rows.iter_mut().filter(|it| it.verdict == Verdict::Blocked);
    for row in blocked.filter(|_| host.proxy.is_some()) {
        row.code = Some(Code::ProxyUnreachable);
    }
    rows
}

fn settings(found: &Findings) -> Row {
    let row = |reason: String| Row::new(Check::Settings, "", Verdict::Pass, reason);
    let proxies = match &found.hosts {
        Step::Done(hosts) => {
            let named = hosts
                .iter()
                .map(|it| it.proxy.as_deref().unwrap_or("no proxy"));
            named.collect::<Vec<_>>().join(", then ")
        }
        _ => "a proxy".to_owned(),
    };
    match &found.origin {
        ProxyOrigin::Nothing => row("no proxy: no setting and no variable names one".into()),
        ProxyOrigin::Setting => row(format!("{proxies}, by the setting `proxy`")),
        ProxyOrigin::Variable(name) => row(format!("{proxies}, by the variable {name}")),
        ProxyOrigin::Bypassed(name) => row(format!(
            "no proxy: the variable {name} names one, and NO_PROXY leaves this relay out"
        )),
        ProxyOrigin::Pac(place) => match found.hosts.failed() {
            Some(error) => Row::barred(Check::Settings, "", error.to_string(), error.code()),
            None => row(format!("{proxies}, by the PAC file {place}")),
        },
    }
}

fn names(host: &HostFinding) -> Row {
    let addresses = match &host.addresses {
        Step::Done(addresses) => addresses,
        Step::Failed(error) => {
            let row = Row::new(
                Check::Names,
                &*host.host,
                Verdict::Blocked,
                error.to_string(),
            );
            return row
                .next("look at the name, and whether this machine has a DNS server that answers");
        }
        Step::Late(limit) => {
            let reason = format!("no answer from the DNS server within {limit:.0?}");
            let row = Row::new(Check::Names, &*host.host, Verdict::Blocked, reason);
            return row.next("ask whoever runs this network which DNS server it has, or name the host by its address");
        }
        step => return Row::open(Check::Names, &*host.host, step),
    };
    if host
        .host
        .trim_matches(['[', ']'])
        .parse::<std::net::IpAddr>()
        .is_ok()
    {
        let reason = "an address, which needs no DNS";
        return Row::new(Check::Names, &*host.host, Verdict::Pass, reason);
    }
    let v6 = addresses.iter().filter(|it| it.is_ipv6()).count();
    let list: Vec<String> = addresses.iter().map(|it| it.ip().to_string()).collect();
    let reason = format!(
        "{} ({} of IPv4, {v6} of IPv6)",
        list.join(", "),
        addresses.len() - v6
    );
    Row::new(Check::Names, &*host.host, Verdict::Pass, reason)
}

fn tcp(host: &HostFinding, at: &SocketAddr, step: &Step<Duration, CarrierError>) -> Row {
    let what = match &host.proxy {
        Some(_) => "the proxy",
        None => "the relay",
    };
    let blocked = |reason: String| Row::new(Check::Tcp, at.to_string(), Verdict::Blocked, reason);
    let silent = || {
        blocked("no answer: a firewall on the way drops what is sent there, or the host is off".into())
            .next(match host.proxy {
                Some(_) => "ask whoever runs this network whether this is still the proxy's address".to_owned(),
                None => format!(
                    "name a proxy with --proxy, if this network has one; or let the relay listen on port 443 \
                     if {} is not let out here",
                    host.port
                ),
            })
    };
    match step {
        Step::Done(time) => {
            let reason = format!("{what} takes connections, in {}", show(*time));
            Row::new(Check::Tcp, at.to_string(), Verdict::Pass, reason).ms(*time)
        }
        Step::Failed(CarrierError::Connect { kind, reason, .. }) => match kind {
            ErrorKind::TimedOut => silent(),
            ErrorKind::ConnectionRefused => blocked(format!(
                "refused: nothing listens on port {}, or a firewall answers in the host's place",
                host.port
            ))
            .next(format!(
                "look whether {what} runs, and at the port in its address"
            )),
            _ => blocked(reason.clone())
                .next("look at this machine's network connection and its routes"),
        },
        Step::Failed(error) => blocked(error.to_string()),
        Step::Late(_) => silent(),
        step => Row::open(Check::Tcp, at.to_string(), step),
    }
}

/// The proxy's error, if that was it.
fn proxy_error(found: &Findings) -> Option<&ProxyError> {
    match found.greeting.failed() {
        Some(CarrierError::Proxy(error)) => Some(error),
        _ => None,
    }
}

fn first_proxy(found: &Findings) -> Option<&str> {
    found
        .hosts
        .done()?
        .iter()
        .find_map(|it| it.proxy.as_deref())
}

fn is_about_login(error: &ProxyError) -> bool {
    matches!(
        error,
        ProxyError::NeedsCredentials { .. }
            | ProxyError::WrongCredentials { .. }
            | ProxyError::NoScheme { .. }
    )
}

fn proxy(found: &Findings) -> Row {
    let Some(first) = first_proxy(found) else {
        return Row::new(Check::Proxy, "", Verdict::Skipped, "there is no proxy");
    };
    if let Some(error) = proxy_error(found) {
        return match is_about_login(error) {
            true => Row::new(
                Check::Proxy,
                first,
                Verdict::Skipped,
                "it wants to know who asks",
            ),
            false => Row::barred(Check::Proxy, first, error.to_string(), error.code()),
        };
    }
    match &found.greeting {
        Step::Done(greeting) => match &greeting.info.proxy {
            Some(used) => {
                let how = match used.tunnel {
                    true => "it passes bytes on to the relay (CONNECT)",
                    false => "it forwards requests to the relay",
                };
                Row::new(Check::Proxy, &*used.proxy, Verdict::Pass, how)
            }
            None => Row::new(
                Check::Proxy,
                first,
                Verdict::Skipped,
                "the way without it was taken",
            ),
        },
        Step::Failed(_) => Row::new(
            Check::Proxy,
            first,
            Verdict::Skipped,
            "not known, see below",
        ),
        step => Row::open(Check::Proxy, first, step),
    }
}

fn proxy_login(found: &Findings) -> Row {
    let check = Check::ProxyLogin;
    let Some(first) = first_proxy(found) else {
        return Row::new(check, "", Verdict::Skipped, "there is no proxy");
    };
    if let Some(error) = proxy_error(found).filter(|error| is_about_login(error)) {
        return Row::barred(check, first, error.to_string(), error.code());
    }
    let Some(asks) = &found.proxy_asks else {
        return Row::new(
            check,
            first,
            Verdict::Skipped,
            "it was not asked for anything",
        );
    };
    let offered = asks.offered.join(", ");
    let reason = match asks.accepted {
        None => "it does not want to know who asks".to_owned(),
        Some(scheme) if offered.is_empty() => format!("it accepts the credentials, by {scheme}"),
        Some(scheme) => format!("it offers {offered}, and accepts the credentials by {scheme}"),
    };
    Row::new(check, first, Verdict::Pass, reason)
}

/// The carriers prove themselves inside, and learn there which certificate is the relay's own.
fn opened_by(found: &Findings) -> Option<&str> {
    let mut trials = found.carriers.iter().filter_map(|it| it.tried.done());
    trials.find_map(|trial| trial.tls_opened_by.as_deref())
}

fn tls(found: &Findings) -> Row {
    let (check, host) = (Check::Tls, found.relay.host());
    if found.relay.scheme() == Scheme::Http {
        let reason = "http:// has none; what passes is sealed from end to end all the same";
        return Row::new(check, host, Verdict::Skipped, reason);
    }
    match &found.greeting {
        Step::Done(Greeting { info, .. }) => match &info.tls {
            Some(agreed) => tls_agreed(found, agreed),
            None => Row::new(check, host, Verdict::Skipped, "the first answer came without"),
        },
        Step::Failed(error @ CarrierError::Certificate(_)) => {
            Row::barred(check, host, error.to_string(), Code::Certificate)
        }
        Step::Failed(error @ CarrierError::Tls { .. }) => {
            Row::new(check, host, Verdict::Blocked, error.to_string()).next(
                "look whether the relay speaks https:// on this port; if it does, something on the way breaks it",
            )
        }
        Step::Failed(_) => Row::new(check, host, Verdict::Skipped, "it did not come to that"),
        step => Row::open(check, host, step),
    }
}

fn tls_agreed(found: &Findings, agreed: &TlsInfo) -> Row {
    let issuer = agreed.issuer.as_deref().unwrap_or("somebody unnamed");
    let shown = agreed.certificate_sha256;
    let fingerprint = shown.as_ref().map(show_fingerprint).unwrap_or_default();
    let trusted = match (&found.trust, &found.not_vouched) {
        (_, Some(_)) => {
            format!("this system does not know the signer, login would pin {fingerprint}")
        }
        (TlsTrust::PinnedCertificate(pin), None) if Some(*pin) == shown => {
            "it is the pinned one".to_owned()
        }
        (TlsTrust::PinnedCertificate(_), None) => {
            "it is not the pinned one, but this system trusts the signer".to_owned()
        }
        (TlsTrust::AcceptAndReport, None) => format!("any would do, it is {fingerprint}"),
        (TlsTrust::System, None) => "this system trusts the signer".to_owned(),
    };
    let opened = match opened_by(found) {
        Some(by) => format!("; opened on the way by {by}: what is inside stays sealed"),
        None => String::new(),
    };
    let version = agreed.version;
    let reason = format!("{version}, certificate signed by {issuer}: {trusted}{opened}");
    Row::new(Check::Tls, found.relay.host(), Verdict::Pass, reason)
}

fn http(found: &Findings) -> Row {
    let (check, subject) = (Check::Http, found.relay.authority());
    let carried = found.carriers.iter().any(|it| it.tried.done().is_some());
    match &found.greeting {
        Step::Done(greeting) if greeting.is_relay => {
            let time = greeting.opened_in + greeting.answered_in;
            let verdict = match time > SLOW_ANSWER {
                true => Verdict::Slow,
                false => Verdict::Pass,
            };
            let reason = format!("a relay answers, after {}", show(time));
            Row::new(check, subject, verdict, reason).ms(time)
        }
        Step::Done(greeting) if carried => {
            let reason = format!(
                "the relay does not answer probes (HTTP status {}): it is busy, or an older one",
                greeting.status
            );
            Row::new(check, subject, Verdict::Slow, reason)
        }
        Step::Done(greeting) => {
            let reason = format!(
                "something answers that is no relay (HTTP status {})",
                greeting.status
            );
            Row::new(check, subject, Verdict::Blocked, reason)
                .next("look at the relay's address: its port, and the prefix if it has one")
        }
        Step::Failed(error @ CarrierError::Portal { .. }) => {
            Row::barred(check, subject, error.to_string(), Code::Portal)
        }
        Step::Failed(error) if error.is_about_the_host() || before_http(error) => {
            Row::new(check, subject, Verdict::Skipped, "it did not come to that")
        }
        Step::Failed(error) => no_answer(Row::new(
            check,
            subject,
            Verdict::Blocked,
            error.to_string(),
        )),
        Step::Late(limit) => {
            let reason = format!("no answer within {limit:.0?}");
            no_answer(Row::new(check, subject, Verdict::Blocked, reason))
        }
        step => Row::open(check, subject, step),
    }
}

fn before_http(error: &CarrierError) -> bool {
    matches!(error, CarrierError::Proxy(_) | CarrierError::Tls { .. })
}

fn no_answer(row: Row) -> Row {
    row.next("look whether a relay listens there, and whether with https:// or http://")
}

fn clock(found: &Findings) -> Row {
    let (check, host) = (Check::Clock, found.relay.host());
    let greeting = match &found.greeting {
        Step::Done(greeting) => greeting,
        Step::Failed(_) => return Row::new(check, host, Verdict::Skipped, "no relay answers"),
        step => return Row::open(check, host, step),
    };
    let Some(theirs) = greeting.date else {
        return Row::new(
            check,
            host,
            Verdict::Skipped,
            "the answer does not say what time it is",
        );
    };
    let (apart, ahead) = match greeting.heard_at.duration_since(theirs) {
        Ok(ahead) => (ahead, true),
        Err(behind) => (behind.duration(), false),
    };
    let sign = if ahead { 1.0 } else { -1.0 };
    let mut row = if apart <= CLOCKS_APART {
        let reason = "this machine's clock and the relay's agree";
        Row::new(check, host, Verdict::Pass, reason)
    } else {
        let way = if ahead { "ahead of" } else { "behind" };
        let by = humantime::format_duration(Duration::from_secs(apart.as_secs()));
        let reason = format!(
            "this machine's clock is {by} {way} the relay's: certificates and one-time codes may be taken for outdated"
        );
        Row::new(check, host, Verdict::Slow, reason).next("set the clock of the one that is wrong")
    };
    row = row.ms(apart);
    row.ms = row.ms.map(|ms| ms * sign);
    row
}
