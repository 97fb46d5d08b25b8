//! The table.

use super::kinds::{
    CarrierIdPlace, Carriers, Count, Legs, MediaType, PollMethod, Port, Priority, ProxySetting,
    RelayChoice, Secrecy, Span, Switch, Text, TlsMode,
};
use underpass_agent::connect::{FlowLimits, Sources};
use underpass_endpoint::flow::FlowSettings;
use underpass_proto::names::Suffix;

use super::{Layers, Row};
use crate::failure::Failure;

/// Which commands have the flag of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// All.
    Everywhere,
    /// Those that talk to a relay.
    Path,
    /// Those that talk to a relay that is known already.
    ToRelay,
    /// `login`.
    OnLogin,
    /// Those that use services.
    OnSession,
    /// `connect`, `nc` and `publish`: whoever is one end of sessions.
    AtEnds,
    /// Those that use services, by sessions of whatever grade they like.
    Choosing,
    /// `publish`.
    OnPublish,
    /// `publish`, which says what grades it takes.
    Allowing,
    /// Those that take or show pseudo names.
    Named,
    /// Those that carry datagrams.
    Datagrams,
    /// Those that listen for programs.
    Listening,
}

macro_rules! settings {
    ($(
        #[doc = $help:literal]
        $name:ident: $type:ty = $default:literal, $group:ident $value:literal;
    )*) => {
        /// All settings, with their values.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $( #[doc = $help] pub $name: $type, )*
        }

        /// One row for each setting.
        pub static TABLE: &[Row] = &[$(
            Row {
                name: stringify!($name),
                group: Group::$group,
                value: $value,
                default: $default,
                help: $help,
                check: |text| text.parse::<$type>().map(|_| ()).map_err(|error| error.to_string()),
            },
        )*];

        impl Settings {
            /// Reads each setting from the first layer that has it; `variable` looks variables up.
            pub fn resolve(
                layers: &Layers,
                variable: impl Fn(&str) -> Option<String>,
            ) -> Result<Self, Failure> {
                let mut rows = TABLE.iter();
                let mut next = || rows.next().expect("one row for each field, in the same order");
                Ok(Self {
                    $( $name: layers.value(next(), &variable)?, )*
                })
            }
        }
    };
}

impl Settings {
    /// How flows of datagrams are kept.
    pub fn flow_limits(&self) -> FlowLimits {
        FlowLimits {
            settings: FlowSettings {
                idle: self.udp_idle.0,
                late: self.udp_late.0,
            },
            most: self.udp_flows.0,
        }
    }
}

settings! {
    #[doc = "Print results as JSON, and errors too"]
    json: Switch = "false", Everywhere "";
    #[doc = "Print results and errors only"]
    quiet: Switch = "false", Everywhere "";
    #[doc = "What to log: error, warn, info, debug, trace, or rules such as underpass_endpoint=debug; if not given, RUST_LOG, else info for commands that keep running and warn for others"]
    log: String = "", Everywhere "RULES";
    #[doc = "The relays to use, all of one group: each one that `underpass login` was run for, or, where there are several, given with its key as URL#FINGERPRINT; if not given, the first that was logged in to"]
    relay: RelayChoice = "", ToRelay "URL,...";
    #[doc = "Where no relay is named: use the relays that the one that was logged in to announces, as the key of its group has signed them: true or false"]
    follow_announced: Switch = "true", ToRelay "BOOL";
    #[doc = "The carriers that may be used, the first choice first; auto: all, the best that works is found by trying"]
    carrier: Carriers = "auto", Path "NAME,...";
    #[doc = "How long a carrier that failed is left alone before it is tried again, the first time; then twice as long each time, up to an hour"]
    carrier_retry: Span = "1m", Path "TIME";
    #[doc = "How long to try to reach the relay before giving up, unless it was reached before"]
    patience: Span = "20s", Path "TIME";
    #[doc = "The media type that HTTP bodies are labelled with"]
    media_type: MediaType = "binary/tcp", Path "TYPE";
    #[doc = "The media type that HTTP bodies of text are labelled with, which carrier text uses"]
    text_type: MediaType = "text/plain", Path "TYPE";
    #[doc = "How polls are asked: get, or post where a box answers GETs from a cache or refuses them"]
    poll_method: PollMethod = "get", Path "METHOD";
    #[doc = "The UDP port at which the relay speaks QUIC"]
    quic_port: Port = "443", Path "PORT";
    #[doc = "Where the id of a carrier stands that takes several requests: url or cookie"]
    id_place: CarrierIdPlace = "url", Path "PLACE";
    #[doc = "The proxy on the way to the relay: http://HOST:PORT (also https:// and socks5://), none, or auto: as --pac, HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say"]
    proxy: ProxySetting = "auto", Path "URL";
    #[doc = "A PAC file that says which proxy leads to the relay: a file, or an http:// or https:// address"]
    pac: Text = "", Path "FILE";
    #[doc = "A file with credentials for proxies, in lines `machine HOST login USER password SECRET`; if not given, `proxy-credentials` in the home, where there is one"]
    proxy_credentials: Text = "", Path "FILE";
    #[doc = "Root certificates to trust beside the system's, as of a company whose boxes open TLS on the way (PEM)"]
    ca: Text = "", Path "FILE";
    #[doc = "How the relay's TLS certificate is checked at login: system, pinned, or auto to try them in this order"]
    tls: TlsMode = "auto", OnLogin "CHECK";
    #[doc = "How long a session is kept while no path leads to its peer"]
    keep: Span = "10m", Path "TIME";
    #[doc = "Where there are several relays that are as good as each other: after this time on average, at irregular intervals, go over to another one of them; 0s: never"]
    vary_path: Span = "0s", OnSession "TIME";
    #[doc = "Where there are several relays: so many of them carry a session at once (1 to 4), so that it gets more than the path through one of them carries; what must not wait goes by the quickest"]
    legs: Legs = "1", OnSession "N";
    #[doc = "Where there are several relays: what goes out in a session and what comes in go through different ones; one end that asks for it is enough"]
    split_ways: Switch = "false", AtEnds "";
    #[doc = "The priority of connections: interactive, normal or bulk"]
    class: Priority = "normal", OnSession "CLASS";
    #[doc = "How much of a session others can read: blind (only its two ends can), relay (the relay is given the key), or none (everybody on the way can, and nobody can change it unnoticed; for programs that encrypt themselves); service and relay must allow the lower ones"]
    grade: Secrecy = "blind", Choosing "GRADE";
    #[doc = "The least secrecy that a session with the services may have: blind, relay (the relay may read it), or none (everybody on the way may)"]
    lowest_grade: Secrecy = "blind", Allowing "GRADE";
    #[doc = "What pseudo names end with on this machine, as in SERVICE.underpass.internal"]
    suffix: Suffix = "underpass.internal", Named "SUFFIX";
    #[doc = "How long to try to connect to a published service's host"]
    dial_timeout: Span = "10s", OnPublish "TIME";
    #[doc = "A client's flow of datagrams to a service of UDP ends when nothing has passed for so long"]
    udp_idle: Span = "2m", Datagrams "TIME";
    #[doc = "Datagrams that could not be sent within this are too late, and are dropped"]
    udp_late: Span = "1s", Datagrams "TIME";
    #[doc = "So many flows of datagrams there may be at once: at each local address, or of all services that are published"]
    udp_flows: Count = "1024", Datagrams "N";
    #[doc = "Other machines that may use local addresses which they can reach, as addresses and networks (192.168.1.7,10.0.0.0/8); if not given, only this machine may"]
    allow_from: Sources = "", Listening "NETWORKS";
}
