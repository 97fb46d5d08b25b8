//! From what was found to what is said about it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use underpass_carrier::probe::{Greeting, Measurements};
use underpass_carrier::proxy::{ProxyAsks, ProxyError, ProxyOrigin};
use underpass_carrier::{
    CarrierError, CarrierInfo, KINDS, ProxyUse, RelayUrl, Scheme, TlsInfo, TlsTrust,
    UntrustedCertificate,
};
use underpass_endpoint::{AttachError, Trial, TrialError};
use underpass_proto::Code;
use underpass_seal::Fingerprint;

use super::deadline::Step;
use super::findings::{CarrierFinding, Findings, HostFinding};
use super::row::{Check, Row, Verdict};
use super::{Report, carriers};
use crate::standing::StandingError;

const MS: Duration = Duration::from_millis(1);

fn key(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

fn info(relay: &RelayUrl) -> CarrierInfo {
    CarrierInfo {
        carrier: "probe",
        scheme: relay.scheme(),
        peer: None,
        local: None,
        tls: (relay.scheme() == Scheme::Https).then(|| TlsInfo {
            version: "TLS 1.3",
            certificate_sha256: Some([7; 32]),
            issuer: Some("Example Root".into()),
        }),
        proxy: None,
    }
}

fn host(proxy: Option<&str>) -> HostFinding {
    let at: SocketAddr = "192.0.2.1:80".parse().unwrap();
    HostFinding {
        proxy: proxy.map(str::to_owned),
        host: "host.example".into(),
        port: 80,
        addresses: Step::Done(vec![at]),
        connected: vec![(at, Step::Done(MS))],
    }
}

/// A path on which everything is as it should be.
fn good(url: &str) -> Findings {
    let relay: RelayUrl = url.parse().unwrap();
    let trial = |round_trip| Trial {
        info: info(&relay),
        made_in: MS,
        round_trip,
        relay_key: key(1),
        tls_opened_by: None,
    };
    Findings {
        relay_key: Some(key(1)),
        trust: TlsTrust::System,
        origin: ProxyOrigin::Nothing,
        hosts: Step::Done(vec![host(None)]),
        greeting: Step::Done(Greeting {
            info: info(&relay),
            opened_in: MS,
            answered_in: MS,
            status: 200,
            is_relay: true,
            date: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
            heard_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500),
        }),
        not_vouched: None,
        proxy_asks: None,
        carriers: KINDS
            .iter()
            .map(|kind| CarrierFinding {
                kind,
                tried: Step::Done(trial(MS)),
            })
            .collect(),
        measured: Step::Done(Measurements {
            intact: Some(true),
            streaming_down: Some(true),
            streaming_up: Some(true),
            largest_body: Some(1_000_000),
            body_time: Some(Duration::from_secs(2)),
            ..Measurements::default()
        }),
        silences: vec![(Duration::from_secs(11), Step::Done(true))],
        login: Step::Skipped("not logged in"),
        relay,
    }
}

/// The same path, where the first answer fails with this, and every carrier too.
fn failing(url: &str, error: CarrierError) -> Findings {
    let mut found = good(url);
    for carrier in &mut found.carriers {
        carrier.tried = Step::Failed(TrialError::Carrier(error.clone()));
    }
    found.greeting = Step::Failed(error);
    found.measured = Step::Skipped("no relay answers");
    found.silences = vec![(Duration::from_secs(11), Step::Skipped("no relay answers"))];
    found
}

fn row(report: &Report, check: Check) -> &Row {
    report.rows.iter().find(|row| row.check == check).unwrap()
}

#[test]
fn a_good_path_has_a_row_for_every_check_and_nothing_to_complain_of() {
    for url in ["http://relay.example", "https://relay.example"] {
        let report = Report::new(&good(url));
        for check in Check::ALL {
            assert!(
                report.rows.iter().any(|row| row.check == *check),
                "{check:?}"
            );
        }
        for row in &report.rows {
            let fine = matches!(row.verdict, Verdict::Pass | Verdict::Skipped);
            assert!(fine && row.next.is_none() && row.code.is_none(), "{row:?}");
        }
        assert_eq!(report.trouble, None);
        assert_eq!(report.carrier, Some(KINDS[0].name));
        assert_eq!(report.bytes_per_s, Some(1_000_000));
        let summary = format!(
            "{} will be used, straight: round trip 1.0 ms, at least 1000 kB/s each way",
            KINDS[0].name
        );
        assert_eq!(report.summary, summary);
    }
}

/// Rows do not come and go with what was found, so that programs can count on them.
#[test]
fn what_fails_has_the_same_rows() {
    let checks = |found: &Findings| {
        let rows = Report::new(found).rows;
        rows.into_iter()
            .map(|row| (row.check, row.subject))
            .collect::<Vec<_>>()
    };
    let url = "http://relay.example";
    let portal = CarrierError::Portal {
        status: 200,
        to: None,
    };
    assert_eq!(checks(&good(url)), checks(&failing(url, portal)));
}

#[test]
fn each_obstacle_has_its_code_its_row_and_a_way_on() {
    let proxy = || "http://proxy.example:3128".to_owned();
    let target = || "relay.example:80".to_owned();
    let cases = [
        (
            CarrierError::Portal {
                status: 302,
                to: None,
            },
            Check::Http,
            Some(Code::Portal),
        ),
        (
            CarrierError::Certificate(Box::new(UntrustedCertificate {
                host: "relay.example".into(),
                pinned: None,
                shown: [1; 32],
                issuer: Some("Box".into()),
                reason: "unknown issuer".into(),
            })),
            Check::Tls,
            Some(Code::Certificate),
        ),
        (
            CarrierError::Tls {
                address: "relay.example".into(),
                reason: "not TLS".into(),
            },
            Check::Tls,
            None,
        ),
        (
            ProxyError::NeedsCredentials {
                proxy: proxy(),
                offered: "Basic".into(),
            }
            .into(),
            Check::ProxyLogin,
            Some(Code::ProxyNeedsCredentials),
        ),
        (
            ProxyError::WrongCredentials {
                proxy: proxy(),
                scheme: "Digest",
            }
            .into(),
            Check::ProxyLogin,
            Some(Code::ProxyWrongCredentials),
        ),
        (
            ProxyError::Refused {
                proxy: proxy(),
                target: target(),
                status: 403,
            }
            .into(),
            Check::Proxy,
            Some(Code::ProxyRefused),
        ),
        (
            ProxyError::Beyond {
                proxy: proxy(),
                target: target(),
                status: 502,
            }
            .into(),
            Check::Proxy,
            Some(Code::ProxyCannotReach),
        ),
        (
            CarrierError::TimedOut {
                what: "the first answer",
                after: MS,
            },
            Check::Http,
            None,
        ),
    ];
    for (error, check, code) in cases {
        let mut found = failing("https://relay.example", error.clone());
        if matches!(error, CarrierError::Proxy(_)) {
            found.hosts = Step::Done(vec![host(Some("http://proxy.example:3128"))]);
            found.origin = ProxyOrigin::Variable("HTTPS_PROXY");
        }
        let report = Report::new(&found);
        let row = row(&report, check);
        assert_eq!((row.verdict, row.code), (Verdict::Blocked, code), "{error}");
        let next = row.next.as_deref().unwrap();
        let trouble = report.trouble.clone().unwrap();
        assert_eq!(
            (trouble.code, trouble.next.as_deref()),
            (code, Some(next)),
            "{error}"
        );
        assert!(
            report.summary.starts_with("no attachment is possible: "),
            "{error}"
        );
        assert!(report.summary.ends_with(next), "{error}");
        assert_eq!(report.carrier, None);
    }
}

#[test]
fn connections_that_fail_say_whether_it_was_a_firewall() {
    let connect = |kind: ErrorKind| CarrierError::Connect {
        address: "192.0.2.1:80".into(),
        kind,
        reason: kind.to_string(),
    };
    let cases = [
        (
            Step::Failed(connect(ErrorKind::TimedOut)),
            None,
            "firewall on the way drops",
            "--proxy",
        ),
        (Step::Late(MS), None, "firewall on the way drops", "--proxy"),
        (
            Step::Failed(connect(ErrorKind::ConnectionRefused)),
            None,
            "refused",
            "the relay runs",
        ),
        (
            Step::Failed(connect(ErrorKind::NetworkUnreachable)),
            None,
            "unreachable",
            "routes",
        ),
        (
            Step::Failed(connect(ErrorKind::TimedOut)),
            Some("http://p:1"),
            "drops",
            "proxy's address",
        ),
        (
            Step::Failed(connect(ErrorKind::ConnectionRefused)),
            Some("http://p:1"),
            "refused",
            "the proxy runs",
        ),
    ];
    for (step, proxy, reason, next) in cases {
        let mut found = failing("http://relay.example", connect(ErrorKind::TimedOut));
        found.greeting = Step::Skipped("there is no TCP connection");
        let mut host = host(proxy);
        host.connected[0].1 = step;
        found.hosts = Step::Done(vec![host]);
        let report = Report::new(&found);
        let row = row(&report, Check::Tcp);
        assert_eq!(row.verdict, Verdict::Blocked);
        assert!(row.reason.contains(reason), "{row:?}");
        assert!(row.next.as_ref().unwrap().contains(next), "{row:?}");
        let trouble = report.trouble.as_ref().unwrap();
        assert!(trouble.what.contains(&row.reason), "{trouble:?}");
        let code = proxy.map(|_| Code::ProxyUnreachable);
        assert_eq!((trouble.code, &trouble.next), (code, &row.next));
    }
}

/// One address of several that does not answer is told, and is no trouble.
#[test]
fn one_dead_address_does_no_harm() {
    let mut found = good("http://relay.example");
    let mut host = host(None);
    let dead: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
    host.addresses = Step::Done(vec![dead, host.connected[0].0]);
    host.connected.insert(0, (dead, Step::Late(MS)));
    found.hosts = Step::Done(vec![host]);
    let report = Report::new(&found);
    assert_eq!(row(&report, Check::Tcp).verdict, Verdict::Blocked);
    assert!(
        row(&report, Check::Names)
            .reason
            .ends_with("(1 of IPv4, 1 of IPv6)")
    );
    assert_eq!(report.trouble, None);
}

#[test]
fn names_that_are_not_found_are_told() {
    let error = CarrierError::Resolve {
        host: "host.example".into(),
        reason: "no such name".into(),
    };
    for step in [Step::Failed(error.clone()), Step::Late(MS)] {
        let mut found = failing("http://relay.example", error.clone());
        let mut host = host(None);
        (host.addresses, host.connected) = (step, Vec::new());
        found.hosts = Step::Done(vec![host]);
        found.greeting = Step::Skipped("there is no TCP connection");
        let report = Report::new(&found);
        let row = row(&report, Check::Names);
        assert_eq!(row.verdict, Verdict::Blocked);
        assert_eq!(report.trouble.as_ref().unwrap().next, row.next);
    }
}

#[test]
fn a_clock_that_is_wrong_is_told_with_its_sign() {
    let cases = [
        (0, Verdict::Pass, Some(500.0)),
        (59, Verdict::Pass, Some(59_500.0)),
        (7200, Verdict::Slow, Some(7_200_500.0)),
        (-7200, Verdict::Slow, Some(-7_199_500.0)),
    ];
    for (by, verdict, ms) in cases {
        let mut found = good("http://relay.example");
        if let Step::Done(greeting) = &mut found.greeting {
            let date = greeting.date.unwrap();
            let shift = Duration::from_secs(i64::unsigned_abs(by));
            greeting.date = Some(if by > 0 { date - shift } else { date + shift });
        }
        let report = Report::new(&found);
        let row = row(&report, Check::Clock);
        assert_eq!((row.verdict, row.ms), (verdict, ms), "{by}");
        assert_eq!(row.next.is_some(), verdict == Verdict::Slow);
        assert_eq!(report.trouble, None);
    }
}

#[test]
fn a_changed_key_is_worse_than_no_path() {
    let mut found = good("http://relay.example");
    found.relay_key = Some(key(2));
    let report = Report::new(&found);
    assert_eq!(row(&report, Check::Key).code, Some(Code::KeyMismatch));
    let trouble = report.trouble.unwrap();
    assert_eq!(trouble.code, Some(Code::KeyMismatch));
    assert!(
        trouble.what.contains(&key(1).to_string()) && trouble.what.contains(&key(2).to_string())
    );
    found.relay_key = None;
    let report = Report::new(&found);
    assert!(row(&report, Check::Key).reason.contains("first time"));
    assert_eq!(report.trouble, None);
}

#[test]
fn a_relay_that_does_not_know_us_is_told() {
    let mut found = good("http://relay.example");
    let refused = AttachError::Refused {
        code: Code::Denied.number(),
        text: "no".into(),
    };
    found.login = Step::Failed(StandingError::Attach(refused));
    let report = Report::new(&found);
    assert_eq!(report.trouble.unwrap().code, Some(Code::Denied));
    // That it took too long says nothing.
    found.login = Step::Late(MS);
    let report = Report::new(&found);
    assert_eq!(row(&report, Check::Login).verdict, Verdict::Skipped);
    assert_eq!(report.trouble, None);
}

#[test]
fn tls_says_who_signed_and_who_opens_it() {
    let mut found = good("https://relay.example");
    let reason = |found: &Findings| {
        let report = Report::new(found);
        let row = row(&report, Check::Tls);
        assert_eq!(row.verdict, Verdict::Pass);
        row.reason.clone()
    };
    assert!(reason(&found).ends_with("signed by Example Root: this system trusts the signer"));
    found.trust = TlsTrust::PinnedCertificate([7; 32]);
    assert!(reason(&found).contains("the pinned one"));
    found.trust = TlsTrust::PinnedCertificate([8; 32]);
    assert!(reason(&found).contains("not the pinned one"));
    found.not_vouched = Some(CarrierError::Closed);
    assert!(reason(&found).contains("login would pin 07:07"));
    if let Step::Done(trial) = &mut found.carriers[0].tried {
        trial.tls_opened_by = Some("Company Box".into());
    }
    assert!(reason(&found).contains("opened on the way by Company Box"));
}

#[test]
fn proxies_say_where_they_come_from_and_what_they_want() {
    let mut found = good("http://relay.example");
    let shown = "http://proxy.example:3128";
    found.hosts = Step::Done(vec![host(Some(shown))]);
    let use_of = |tunnel| ProxyUse {
        proxy: shown.into(),
        tunnel,
    };
    if let Step::Done(greeting) = &mut found.greeting {
        greeting.info.proxy = Some(use_of(false));
    }
    for carrier in &mut found.carriers {
        if let Step::Done(trial) = &mut carrier.tried {
            trial.info.proxy = Some(use_of(true));
        }
    }
    found.origin = ProxyOrigin::Variable("HTTP_PROXY");
    found.proxy_asks = Some(ProxyAsks {
        offered: vec!["digest".into(), "basic".into()],
        accepted: Some("Digest"),
    });
    let report = Report::new(&found);
    let reason = |check| row(&report, check).reason.clone();
    assert_eq!(
        reason(Check::Settings),
        format!("{shown}, by the variable HTTP_PROXY")
    );
    assert_eq!(reason(Check::Proxy), "it forwards requests to the relay");
    let login = "it offers digest, basic, and accepts the credentials by Digest";
    assert_eq!(reason(Check::ProxyLogin), login);
    assert!(
        report
            .summary
            .contains(&format!("will be used, through {shown}: "))
    );
    assert_eq!(report.trouble, None);

    let pac = ProxyError::Pac {
        place: "wpad.dat".into(),
        reason: "not JavaScript".into(),
    };
    found.origin = ProxyOrigin::Pac("wpad.dat".into());
    found.hosts = Step::Failed(pac.clone());
    found.greeting = Step::Skipped("it is not known which way to go");
    for carrier in &mut found.carriers {
        carrier.tried = Step::Failed(TrialError::Carrier(pac.clone().into()));
    }
    let report = Report::new(&found);
    assert_eq!(row(&report, Check::Settings).code, Some(Code::PacUnusable));
    assert_eq!(report.trouble.unwrap().code, Some(Code::PacUnusable));
}

#[test]
fn the_first_choice_that_works_is_used_and_the_others_say_why_not() {
    let mut found = good("http://relay.example");
    let refused = CarrierError::Refused {
        status: 403,
        what: "the upgrade",
    };
    let mut last = None;
    for carrier in &mut found.carriers {
        let needs = carrier.kind.abilities;
        if needs.needs_udp {
            carrier.tried = Step::Failed(TrialError::Path("no answer".into()));
        } else if needs.needs_upgrade {
            carrier.tried = Step::Failed(TrialError::Carrier(refused.clone()));
        } else if needs.needs_request_streaming {
            carrier.tried = Step::Failed(TrialError::TimedOut(MS));
        } else if let Step::Done(trial) = &mut carrier.tried {
            (trial.round_trip, last) = (MS, Some(carrier.kind.name));
        }
    }
    let slow = found
        .carriers
        .iter_mut()
        .rfind(|it| Some(it.kind.name) == last);
    if let Some(CarrierFinding {
        tried: Step::Done(trial),
        ..
    }) = slow
    {
        trial.round_trip = Duration::from_millis(105);
    }
    let report = Report::new(&found);
    assert_eq!(report.trouble, None);
    let mut first = None;
    for kind in KINDS {
        let mut rows = report.rows.iter();
        let row = rows.find(|row| row.check == Check::Carrier && row.subject == kind.name);
        let row = row.unwrap();
        let needs = kind.abilities;
        let (verdict, word) = match () {
            () if needs.needs_udp => (Verdict::Blocked, "firewall on the way drops it"),
            () if needs.needs_upgrade => (Verdict::Blocked, "does not pass upgrades on"),
            () if needs.needs_request_streaming => (Verdict::Blocked, "held on the way"),
            () if Some(kind.name) == last => (Verdict::Slow, "round trip 105.0 ms"),
            () => (Verdict::Pass, "round trip 1.0 ms"),
        };
        assert_eq!(row.verdict, verdict, "{row:?}");
        assert!(row.reason.contains(word) && row.next.is_none(), "{row:?}");
        if verdict != Verdict::Blocked {
            first.get_or_insert(kind.name);
        }
    }
    assert_eq!(report.carrier, first);
}

#[test]
fn carriers_that_may_not_be_used_are_left_out() {
    let mut found = good("http://relay.example");
    found.carriers.truncate(1);
    let rows = carriers::rows(&found);
    let skipped = rows
        .iter()
        .filter(|row| row.reason == "--carrier leaves it out");
    assert_eq!(skipped.count(), KINDS.len() - 1);
}

#[test]
fn an_address_where_no_relay_is() {
    let refused = CarrierError::Refused {
        status: 404,
        what: "a carrier",
    };
    let mut found = failing("http://relay.example", refused);
    found.greeting = good("http://relay.example").greeting;
    if let Step::Done(greeting) = &mut found.greeting {
        (greeting.status, greeting.is_relay) = (404, false);
    }
    let report = Report::new(&found);
    let http = row(&report, Check::Http);
    assert_eq!(http.verdict, Verdict::Blocked);
    assert!(
        http.reason.contains("no relay (HTTP status 404)"),
        "{http:?}"
    );
    assert_eq!(report.trouble.clone().unwrap().next, http.next);
    // Where carriers get through it was only the probe.
    found.carriers = good("http://relay.example").carriers;
    let report = Report::new(&found);
    assert_eq!(row(&report, Check::Http).verdict, Verdict::Slow);
    assert_eq!(report.trouble, None);
}

#[test]
fn without_any_answer_there_is_something_to_say() {
    let mut found = good("http://relay.example");
    found.hosts = Step::Late(MS);
    found.greeting = Step::NoTurn;
    for carrier in &mut found.carriers {
        carrier.tried = Step::NoTurn;
    }
    found.measured = Step::NoTurn;
    found.silences[0].1 = Step::NoTurn;
    let report = Report::new(&found);
    let tried = report
        .rows
        .iter()
        .filter(|row| row.check != Check::Settings);
    for row in tried {
        assert_eq!(row.verdict, Verdict::Skipped, "{row:?}");
        assert!(!row.reason.is_empty());
    }
    assert_eq!(report.trouble.unwrap().code, None);
    assert!(report.summary.contains("nothing was found out in time"));
}
