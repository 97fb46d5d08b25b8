//! What stands on the way in each row of the table.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use underpass_lab::boxes::{
    Asks, Buffering, Connects, Haproxy, Installed, Login, Manners, NginxFront, Place, Squid,
    SquidRules, Stubborn, Tinyproxy, Unusual,
};
use underpass_lab::{Host, Policy};

/// One row.
pub(crate) struct Row {
    /// What stands there, as the table says it.
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// Whether the relay is reached by `https://`.
    pub(crate) tls: bool,
    /// The carriers that may be in use in the end: the best that passes there.
    pub(crate) settles: &'static [&'static str],
    /// Bytes per second, each way, that have to be reached.
    pub(crate) at_least: Option<u64>,
}

/// Where the proxies listen.
const PORT: u16 = 3128;
/// The user of the NTLM proxy, and of those of squid.
const USER: &str = "clerk";
const PASSWORD: &str = "Tr0ub4dor&3";

const HOLDING: &[&str] = &["poll"];

/// Every row, in the order of the table.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "nothing; UDP is blocked",
            Place::Nowhere(Policy::web()),
            &["upgrade"],
        ),
        row(
            "nothing; UDP to port 443 passes",
            Place::Nowhere(Policy::web_and_quic()),
            &["quic"],
        ),
    ];
    rows.extend(squids());
    rows.extend([
        row("tinyproxy", Place::Gateway(tinyproxy), &["upgrade"]),
        row(
            "nginx in front of the relay, its defaults",
            Place::Front(nginx),
            &["posts"],
        ),
        row(
            "nginx in front of the relay, buffering off",
            Place::Front(nginx_unbuffered),
            &["stream"],
        ),
        row(
            "haproxy in front of the relay, its defaults",
            Place::Front(haproxy),
            &["upgrade"],
        ),
    ]);
    rows.extend(stubborn_ones());
    rows
}

fn row(name: &'static str, place: Place, settles: &'static [&'static str]) -> Row {
    Row {
        name,
        place,
        tls: false,
        settles,
        at_least: None,
    }
}

fn squids() -> Vec<Row> {
    let squid = |name, start, settles| row(name, Place::Gateway(start), settles);
    vec![
        squid(
            "squid",
            |gate| start_squid(gate, &SquidRules::open()),
            &["upgrade"],
        ),
        squid(
            "squid that asks by Basic",
            |gate| start_squid(gate, &asking(Asks::Basic)),
            &["upgrade"],
        ),
        squid(
            "squid that asks by Digest",
            |gate| start_squid(gate, &asking(Asks::Digest)),
            &["upgrade"],
        ),
        squid(
            "squid that refuses CONNECT",
            |gate| start_squid(gate, &without_connect()),
            &["stream"],
        ),
        Row {
            tls: true,
            ..squid(
                "squid that allows CONNECT only to port 443 (relay by HTTPS)",
                |gate| {
                    let connects = Connects::Port443;
                    start_squid(
                        gate,
                        &SquidRules {
                            connects,
                            ..SquidRules::open()
                        },
                    )
                },
                &["upgrade"],
            )
        },
        Row {
            tls: true,
            ..squid(
                "squid that opens TLS (relay by HTTPS)",
                |gate| {
                    start_squid(
                        gate,
                        &SquidRules {
                            intercepts: true,
                            ..SquidRules::open()
                        },
                    )
                },
                &["stream"],
            )
        },
        squid(
            "squid that refuses CONNECT and bodies beyond 64 KB",
            |gate| {
                let body_limit = Some(64 << 10);
                start_squid(
                    gate,
                    &SquidRules {
                        body_limit,
                        ..without_connect()
                    },
                )
            },
            &["posts"],
        ),
    ]
}

fn without_connect() -> SquidRules {
    SquidRules {
        connects: Connects::Refused,
        ..SquidRules::open()
    }
}

fn asking(how: Asks) -> SquidRules {
    SquidRules {
        user: USER.into(),
        password: PASSWORD.into(),
        ..SquidRules::asking(how)
    }
}

fn start_squid(gate: &Host, rules: &SquidRules) -> Result<Installed> {
    let squid = Squid::start(gate, PORT, rules)?;
    let login = rules.asks.map(|_| (USER, PASSWORD));
    let authority = squid.authority().map(|it| it.certificate());
    let installed = Installed::proxy(squid.address(), login, squid);
    Ok(match authority {
        Some(file) => installed.with("UNDERPASS_CA", &file.to_string_lossy()),
        None => installed,
    })
}

fn tinyproxy(gate: &Host) -> Result<Installed> {
    let proxy = Tinyproxy::start(gate, 8888)?;
    Ok(Installed::proxy(proxy.address(), None, proxy))
}

fn nginx(host: &Host, onward: SocketAddr) -> Result<Installed> {
    let front = NginxFront::start(host, 8080, onward, Buffering::Default)?;
    Ok(Installed::front(front.address(), front))
}

fn nginx_unbuffered(host: &Host, onward: SocketAddr) -> Result<Installed> {
    let front = NginxFront::start(host, 8080, onward, Buffering::Off)?;
    Ok(Installed::front(front.address(), front))
}

fn haproxy(host: &Host, onward: SocketAddr) -> Result<Installed> {
    let front = Haproxy::start(host, 8080, onward)?;
    Ok(Installed::front(front.address(), front))
}

/// The proxy that was written for the tests. Without tunnels, where a tunnel would be a way around what the row is
/// about.
fn stubborn_ones() -> Vec<Row> {
    let at_least = Some(10_000_000);
    let proxy = |name, start, settles| row(name, Place::Gateway(start), settles);
    vec![
        Row {
            at_least,
            ..proxy(
                "a proxy that holds answers until they are complete",
                |gate| stubborn(gate, |it| it.holds_answers = true),
                HOLDING,
            )
        },
        Row {
            at_least,
            ..proxy(
                "a proxy that holds answers and requests",
                |gate| {
                    stubborn(gate, |it| {
                        it.holds_answers = true;
                        it.holds_requests = true;
                    })
                },
                HOLDING,
            )
        },
        proxy(
            "a proxy of HTTP 1.0",
            |gate| stubborn(gate, |it| it.only_http10 = true),
            &["posts"],
        ),
        proxy(
            "a proxy that passes only GET and POST",
            |gate| stubborn(gate, |it| it.only_get_and_post = true),
            &["stream"],
        ),
        proxy(
            "a proxy that cuts idle bodies after 10 s",
            |gate| {
                stubborn(gate, |it| {
                    *it = Manners::polite();
                    it.idle_limit = Some(Duration::from_secs(10));
                })
            },
            &["upgrade"],
        ),
        proxy(
            "a proxy that cuts connections after 60 s or 100 requests",
            |gate| {
                stubborn(gate, |it| {
                    it.lifetime = Some(Duration::from_secs(60));
                    it.requests = Some(100);
                })
            },
            &["stream"],
        ),
        proxy(
            "a proxy that gathers POSTs and delivers each twice",
            |gate| {
                stubborn(gate, |it| {
                    it.holds_requests = true;
                    it.repeats_posts = true;
                })
            },
            &["posts"],
        ),
        proxy(
            "a proxy that strips unusual headers",
            |gate| stubborn(gate, |it| it.unusual = Unusual::Stripped),
            &["stream"],
        ),
        proxy(
            "a proxy that corrupts unusual headers",
            |gate| stubborn(gate, |it| it.unusual = Unusual::Corrupted),
            &["stream"],
        ),
        proxy(
            "a proxy that refuses binary bodies",
            |gate| stubborn(gate, |it| it.only_text = true),
            &["text"],
        ),
        proxy(
            "a proxy that asks by NTLM",
            |gate| {
                let manners = Manners {
                    ntlm: Some(Login {
                        domain: "LAB".into(),
                        user: USER.into(),
                        password: PASSWORD.into(),
                    }),
                    ..Manners::polite()
                };
                let proxy = Stubborn::start(gate, PORT, manners, 1)?;
                Ok(Installed::stubborn(
                    proxy,
                    Some((&format!("LAB\\{USER}"), PASSWORD)),
                ))
            },
            &["upgrade"],
        ),
    ]
}

fn stubborn(gate: &Host, change: fn(&mut Manners)) -> Result<Installed> {
    let mut manners = Manners::without_tunnels();
    change(&mut manners);
    let proxy = Stubborn::start(gate, PORT, manners, 1)?;
    Ok(Installed::stubborn(proxy, None))
}
