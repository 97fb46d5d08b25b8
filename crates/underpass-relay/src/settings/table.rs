//! The table of settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use underpass_carrier::x509::NamedBy;
use underpass_proto::Grade;

use super::value::{ByteSize, Count, Span, Value};
use super::{Setting, SettingError};
use crate::authority::AuthorityAddress;
use crate::certificates::CertificateUsers;
use crate::hub::Limits;
use crate::queue::Marks;
use crate::target::RelayService;

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr; )*) => {
        /// A relay's settings.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: $type, )*
            /// Services that the relay dials itself: the `[[service]]` tables of the file.
            pub services: Vec<RelayService>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $name: $default, )* services: Vec::new() }
            }
        }

        impl Settings {
            /// The table, for help and manual.
            #[must_use]
            pub fn table() -> Vec<Setting> {
                let default = Self::default();
                vec![$( Setting {
                    name: stringify!($name),
                    kind: <$type as Value>::KIND,
                    several: <$type as Value>::SEVERAL,
                    default: default.$name.show(),
                    doc: [$( $doc.trim() ),+].join(" "),
                } ),*]
            }

            /// Sets one setting by its exact name.
            pub(super) fn set_toml(
                &mut self,
                name: &str,
                value: &toml::Value,
            ) -> Result<(), SettingError> {
                match name {
                    $( stringify!($name) => {
                        self.$name = <$type as Value>::from_toml(value)
                            .map_err(|reason| SettingError::value(name, reason))?;
                    } )*
                    _ => return Err(SettingError::Unknown {
                        name: name.to_owned(),
                        known: [$( stringify!($name) ),*, "service"].join(", "),
                    }),
                }
                Ok(())
            }
        }
    };
}

/// Where agents expect a relay that says nothing else.
const DEFAULT_PORT: u16 = 8080;

settings! {
    /// Where to listen for plain HTTP.
    listen: Vec<SocketAddr> = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))];
    /// Where to listen for HTTPS.
    tls_listen: Vec<SocketAddr> = vec![];
    /// Where to listen for QUIC, on UDP; agents expect it on port 443. With the certificate of HTTPS.
    quic_listen: Vec<SocketAddr> = vec![];
    /// The certificate chain for HTTPS, in PEM. Without one the relay makes a self-signed certificate,
    /// whose fingerprint it shows and clients pin.
    tls_cert: Option<PathBuf> = None;
    /// The private key that goes with it, in PEM.
    tls_key: Option<PathBuf> = None;
    /// Host names in a self-signed certificate.
    tls_names: Vec<String> = vec!["localhost".to_owned()];
    /// The path under which the relay answers, such as /tunnel; the rest of the site is not its own.
    prefix: String = String::new();
    /// The address that clients are told to use, where it is not the one that the relay listens on.
    public_url: Option<String> = None;
    /// The folder with the relay's key and database.
    data: PathBuf = default_data_folder();
    /// The file of the database, where it is not in the data folder. Relays of one group share it, each with a data
    /// folder of its own; it must be on a local disk.
    database: Option<PathBuf> = None;
    /// The ticket authority that is a process of its own, as it shows itself at its start. Without one the relay is its
    /// own authority.
    authority: Option<AuthorityAddress> = None;
    /// The signed list of the relays of this one's group (underpass relay group sign), which agents are told. It is read
    /// again on SIGHUP.
    announce: Option<PathBuf> = None;
    /// A file to which the one-time setup code is written as well, readable for its owner only.
    setup_file: Option<PathBuf> = None;
    /// The suffix of pseudo DNS names.
    suffix: String = underpass_proto::names::DEFAULT_SUFFIX.to_owned();
    /// How long an attachment is kept while its agent is away.
    keep: Span = Span(Duration::from_secs(600));
    /// How long a connection waits for the publisher of its service to come back.
    wait_for_publisher: Span = Span(Limits::default().wait_for_publisher);
    /// How long a publisher may take to answer a new connection.
    answer_within: Span = Span(Limits::default().answer_within);
    /// The least secrecy that a session between two agents may have: blind (only they can read it), relay (they may give
    /// this relay the key), or none (everybody on the way can read it). Its user and the service's publisher must want it too.
    lowest_grade: Grade = Limits::default().lowest_grade;
    /// How long a machine may stay attached without being enrolled.
    enrol_within: Span = Span(Limits::default().enrol_within);
    /// How long an invitation is good for unless its maker says otherwise.
    invitation: Span = Span(Duration::from_secs(24 * 3600));
    /// Whether strangers may register by name and password; they then wait for a manager's approval.
    registration: bool = true;
    /// The most users that wait for approval at once; further ones cannot register until somebody has decided.
    users_waiting: Count = 1000;
    /// The certificates, in PEM, of the authorities whose X.509 certificates let machines in (underpass login
    /// --certificate). They are read again when the file changes, and on SIGHUP. Without them no certificate does.
    certificate_authorities: Option<PathBuf> = None;
    /// What these authorities have revoked: a list (CRL), in PEM, of each one that has issued a certificate in use. A
    /// certificate that no list speaks of, or only one that is out of date, is refused. They are read again when the file
    /// changes, and on SIGHUP. Without the file nothing counts as revoked.
    certificate_revocations: Option<PathBuf> = None;
    /// How a certificate names its user: cn, the common name; uri:PREFIX, what follows PREFIX in a URI; or email:DOMAIN,
    /// what precedes @DOMAIN in an e-mail address, both among the subject alternative names.
    certificate_name: NamedBy = NamedBy::CommonName;
    /// Whose certificates let machines in: known, users that there are; or make, whomever they name, who is made as a user
    /// where there is none.
    certificate_users: CertificateUsers = CertificateUsers::Known;
    /// Whether a service of a user waits for a manager's approval before anybody may use it. `underpass users publishing`
    /// makes exceptions; managers need no approval.
    approve_services: bool = false;
    /// How long a shutdown may take.
    shutdown_within: Span = Span(Duration::from_secs(5));
    /// The most attachments altogether.
    attachments: Count = Limits::default().attachments;
    /// The most attachments from one address.
    attachments_per_source: Count = Limits::default().attachments_per_source;
    /// The most attachments of one user.
    attachments_per_user: Count = Limits::default().attachments_per_user;
    /// The most sessions through this relay that one user has begun. This and what follows for one user
    /// `underpass users limit` changes for some.
    sessions_per_user: Count = Limits::default().sessions_per_user;
    /// The most channels of one user that this relay is an end of: to services that it dials, or by plain HTTP.
    channels_per_user: Count = 1_000;
    /// How many bytes per second one user may pass through this relay, each way; 0 for as many as there is room for.
    rate_per_user: ByteSize = ByteSize(0);
    /// How many bytes one user may pass in a month (UTC), through all relays on the same database; 0 for any number.
    month_per_user: ByteSize = ByteSize(0);
    /// How often what users have used is written to the database. What was used since then is not known after a crash.
    usage_every: Span = Span(Duration::from_secs(10));
    /// How long it is kept what users have used.
    usage_keep: Span = Span(Duration::from_secs(400 * 24 * 3600));
    /// The most attachments of machines that are not enrolled.
    strangers: Count = Limits::default().strangers;
    /// The same from one address.
    strangers_per_source: Count = Limits::default().strangers_per_source;
    /// The most services that one agent publishes.
    services_per_attachment: Count = Limits::default().services_per_attachment;
    /// The most routes altogether.
    routes: Count = Limits::default().routes;
    /// The most routes that end at one agent.
    routes_per_attachment: Count = Limits::default().routes_per_attachment;
    /// The most routes that wait for their publisher.
    waiting: Count = Limits::default().waiting;
    /// The most routes of one agent that wait.
    waiting_per_attachment: Count = Limits::default().waiting_per_attachment;
    /// The most connections at a time; carriers of several requests use several.
    connections: Count = 10_000;
    /// The most connections from one address (of IPv6: from one /64) at a time on which no whole request has come, and the
    /// most carriers on which no byte has come. Where a proxy stands before the relay, everybody comes from there.
    half_open_per_source: Count = 800;
    /// The most handshakes from one address at a time; further ones are told to come again.
    handshakes_per_source: Count = 2048;
    /// The most plain HTTP sessions altogether: those of clients without an agent.
    plain_sessions: Count = 500;
    /// The most plain HTTP sessions of one user.
    plain_sessions_per_user: Count = 50;
    /// What a plain HTTP session may keep in each direction.
    plain_buffer: ByteSize = ByteSize(1024 * 1024);
    /// The longest time for which a plain HTTP request is held until there is something to answer.
    plain_hold: Span = Span(Duration::from_secs(25));
    /// A plain HTTP session ends when no request came for this long.
    plain_idle: Span = Span(Duration::from_secs(120));
    /// At or below so many bytes in its queue the sender of a route is told to go on.
    route_low: ByteSize = ByteSize(Marks::default().low);
    /// Above so many bytes in its queue the sender of a route is told to wait.
    route_high: ByteSize = ByteSize(Marks::default().high);
    /// Above so many bytes in its queue packets of a route are dropped, and the sender is told which.
    route_hard: ByteSize = ByteSize(Marks::default().hard);
    /// What the queues of all routes may hold together.
    route_memory: ByteSize = ByteSize(256 * 1024 * 1024);
    /// What the relay may hold together for attachments that have not acknowledged it.
    replay_memory: ByteSize = ByteSize(256 * 1024 * 1024);
    /// How long events are kept.
    events_keep: Span = Span(Duration::from_secs(90 * 24 * 3600));
    /// The most events that are kept.
    events_most: Count = 1_000_000;
    /// The most events that wait while the database cannot take them; further ones are only counted, and the gap is
    /// written down.
    events_queue: Count = 4096;
}

/// `underpass/relay` in the folder for state that the XDG Base Directory Specification names.
fn default_data_folder() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = state
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/var/lib"));
    state.join("underpass/relay")
}

impl Settings {
    /// The hub's part of the settings.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            attachments: self.attachments,
            attachments_per_source: self.attachments_per_source,
            attachments_per_user: self.attachments_per_user,
            sessions_per_user: self.sessions_per_user,
            strangers: self.strangers,
            strangers_per_source: self.strangers_per_source,
            enrol_within: self.enrol_within.0,
            services_per_attachment: self.services_per_attachment,
            routes: self.routes,
            routes_per_attachment: self.routes_per_attachment,
            waiting: self.waiting,
            waiting_per_attachment: self.waiting_per_attachment,
            wait_for_publisher: self.wait_for_publisher.0,
            answer_within: self.answer_within.0,
            lowest_grade: self.lowest_grade,
        }
    }

    /// The queues' part of the settings.
    pub(crate) fn marks(&self) -> Marks {
        Marks {
            low: self.route_low.0,
            high: self.route_high.0,
            hard: self.route_hard.0,
        }
    }
}
