//! A relay as a program starts and stops it.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use underpass_carrier::mutual::MutualIdentity;
use underpass_carrier::{
    Doors, Fingerprint as TlsFingerprint, IdentityError, Listen, Scheme, Server, ServerError,
    ServerSettings, Sources, TlsIdentity, Watcher,
};
use underpass_endpoint::Acceptor;
use underpass_proto::Code;
use underpass_proto::control::Going;
use underpass_proto::params::Params;
use underpass_proto::session::{Budget, Config};
use underpass_seal::{Fingerprint, StaticKey};
use underpass_store::{
    DataFolder, DataFolderError, Fault, OpenError, SetupCodeError, SqliteStore, Store,
};

use crate::announced::{AnnounceError, Announced};
use crate::authority::{Authority, InStore, Remote};
use crate::certificates::Certificates;
use crate::clock;
use crate::code::OneTimeCode;
use crate::desk::{Desk, Passwords, Rules};
use crate::group;
use crate::handed::Handed;
use crate::hub::Load;
use crate::limits::{UserLimits, Usual};
use crate::log::{self, Destination, Keep, Kind, Ledger, Log, Note, WeakLog};
use crate::plain::{Plain, PlainFront};
use crate::reception::Reception;
use crate::seen::Seen;
use crate::settings::{SettingError, Settings};
use crate::switch::Switch;
use crate::turn::Succession;
use crate::usage::Sweeper;

/// The relay's key in its data folder.
const KEY_FILE: &str = "relay.key";
/// The folder in it with the certificate for the ticket authority.
const AUTHORITY_FOLDER: &str = "authority";
/// When agents should come back after an orderly shutdown: a restart takes about as long.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// What one hop session may buffer for readers that are slow. It carries control messages and what
/// the relay itself dials; packets of routes pass beside it.
const HOP_SESSION_WINDOW: u64 = 8 << 20;
/// The same of one channel.
const HOP_CHANNEL_WINDOW: u64 = 4 << 20;

/// Agents are asked to move at random times within this part of what a shutdown may take, and within so
/// much for each of them.
const MOVES_WITHIN: f64 = 0.25;
const MOVE_EACH: Duration = Duration::from_millis(2);
/// How often it is looked whether all have moved.
const MOVE_LOOK: Duration = Duration::from_millis(20);

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The data folder or the relay's key in it cannot be used.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] Fault),
    /// The list of relays to announce cannot be used.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// The certificate for HTTPS cannot be used.
    #[error(transparent)]
    Tls(#[from] IdentityError),
    /// The authorities whose certificates let machines in, or their revocation lists, cannot be used.
    #[error("{0}")]
    Certificates(IdentityError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServerError),
    /// The lock by which processes take turns cannot be used.
    #[error("cannot use the lock in the data folder: {0}")]
    Turn(io::Error),
    /// The setup code could not be written to its file.
    #[error("cannot write the setup code to {}: {source}; check that the folder exists and is writable", path.display())]
    SetupFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something that may change while a relay runs was not read again. It stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The list of relays to announce cannot be used.
    #[error("what is announced stays as it was: {0}")]
    Announce(#[from] AnnounceError),
    /// The authorities whose certificates let machines in, or their revocation lists, cannot be used.
    #[error("which certificates let machines in stays as it was: {0}")]
    Certificates(IdentityError),
}

/// Starts relays.
#[derive(Debug)]
pub struct Relay;

/// A running relay. Dropping it ends it at once; [`RelayHandle::shutdown`] ends it in order.
pub struct RelayHandle {
    addresses: Vec<(Scheme, SocketAddr)>,
    urls: Vec<String>,
    fingerprint: Fingerprint,
    tls_fingerprint: Option<TlsFingerprint>,
    authority_certificate: Option<Fingerprint>,
    quic_addresses: Vec<SocketAddr>,
    setup_code: Option<OneTimeCode>,
    shutdown_within: Duration,
    doors: Doors,
    /// Where another process may be waiting for the sockets: ours to use them.
    succession: Option<Succession>,
    announced: Arc<Announced>,
    certificates: Arc<Certificates>,
    switch: Arc<Switch>,
    reception: Arc<Reception>,
    store: Arc<dyn Store>,
    log: Log,
    log_writer: JoinHandle<()>,
    seen_writer: JoinHandle<()>,
    usage_writer: JoinHandle<()>,
    /// Once nobody attaches any more.
    seen_stop: DropGuard,
    running: JoinHandle<Server>,
    stop: DropGuard,
}

impl std::fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayHandle")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Starts a relay on the tokio runtime it is called on.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(settings: Settings) -> Result<RelayHandle, StartError> {
        Self::start_with(settings, Handed::default(), None).await
    }

    /// The same with sockets that were handed to this process, and with a ticket authority of the caller's.
    /// Without sockets the relay opens those of its settings. Handed ones are used once no process before
    /// this one, with the same data folder, takes clients in on them any more; until then clients wait in
    /// their queues. Without an authority the relay has its own, in its store.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start_with(
        mut settings: Settings,
        handed: Handed,
        authority: Option<Arc<dyn Authority>>,
    ) -> Result<RelayHandle, StartError> {
        settings.check()?;
        let succeeds = !handed.is_empty();
        if succeeds {
            settings.listen.clear();
            settings.tls_listen.clear();
            settings.quic_listen.clear();
        }
        let folder = DataFolder::open(&settings.data)?;
        let secret = folder.load_or_create_secret(KEY_FILE, || StaticKey::generate().to_bytes())?;
        let identity = Arc::new(StaticKey::from_bytes(*secret));
        let own_key = identity.public().fingerprint();
        let announced = Arc::new(Announced::read(settings.announce.clone(), own_key)?);
        let certificates = Certificates::read(&settings).map_err(StartError::Certificates)?;
        let certificates = Arc::new(certificates);
        let database = settings.database.clone();
        let database = database.unwrap_or_else(|| folder.database_file());
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&database).await?);
        let setup_code = prepare_setup(store.as_ref(), settings.setup_file.as_deref()).await?;
        let certificate = certificate(&settings, &handed, &folder)?;
        let tls_fingerprint = certificate.as_ref().map(TlsIdentity::fingerprint);
        let Handed { http, https, quic } = handed;
        let mut listen = listeners(&settings, certificate.as_ref());
        listen.extend(taken_up(http, None));
        listen.extend(taken_up(https, certificate.as_ref()));
        let plain = Plain::new(&settings);
        let pages = Arc::new(PlainFront(Arc::clone(&plain)));
        let (log, writer) = Log::new(settings.events_queue);
        let server = server_settings(&settings, succeeds, log.weak());
        let server = Server::bind(&listen, server, pages).await?;
        let mut quic_addresses = Vec::new();
        for (address, certificate) in settings.quic_listen.iter().zip(certificate.iter().cycle()) {
            quic_addresses.push(server.listen_quic(*address, certificate)?);
        }
        for (socket, certificate) in quic.into_iter().zip(certificate.iter().cycle()) {
            quic_addresses.push(server.listen_quic_on(socket, certificate)?);
        }
        let addresses = server.addresses().to_vec();
        let doors = server.doors();
        let succession = match succeeds {
            true => {
                Some(Succession::begin(folder.path(), doors.clone()).map_err(StartError::Turn)?)
            }
            false => None,
        };

        let destination = destination(&store, &folder, &identity.public().fingerprint());
        let unclean = !succeeds && log::ended_unclean(store.as_ref(), &destination.relay).await?;
        let name = destination.relay.clone();
        let log_writer = tokio::spawn(writer.run(destination));
        let memory = settings.route_memory.0;
        let switch = Switch::new(settings.limits(), settings.marks(), memory, log.clone());
        let limits = UserLimits::new(Usual::of(&settings));
        let rules = Rules {
            limits: limits.clone(),
            relay_key: identity.public(),
            suffix: settings.suffix.clone(),
            invitation: settings.invitation.0,
            approval: settings.approve_services,
            services: settings.services.clone(),
            certificates: Arc::clone(&certificates),
        };
        // A relay that takes no new users has room for none that wait.
        let places = match settings.registration {
            true => Some(settings.users_waiting),
            false => None,
        };
        let passwords = Passwords::begin(store.as_ref(), places).await?;
        let (to_store, to_switch) = (Arc::clone(&store), Arc::clone(&switch));
        let to_desk = Arc::clone(&announced);
        let seen = Seen::default();
        let desk = Desk::new(
            to_store,
            to_switch,
            log.clone(),
            seen.clone(),
            rules,
            passwords,
            to_desk,
        );
        // Before anybody is served: a session that was ended must not come back while the relay starts.
        desk.take_up_limits(clock::calendar()).await?;
        let config = session_config(&settings, tls_fingerprint);
        let acceptor = Acceptor::new(Arc::clone(&identity), config.clone(), switch.clone());
        let stop = CancellationToken::new();
        let forgetting = log::forget_old(Arc::clone(&store), keep(&settings));
        let forgetting = stop.clone().run_until_cancelled_owned(forgetting);
        let sweeper = Sweeper {
            store: Arc::clone(&store),
            switch: Arc::clone(&switch),
            meters: switch.meters().clone(),
            limits,
            log: log.clone(),
            every: settings.usage_every.0,
            keep: settings.usage_keep.0,
        };
        let seen_stop = CancellationToken::new();
        let usage_writer = tokio::spawn(sweeper.run(seen_stop.clone()));
        let seen_writer = tokio::spawn(seen.write(Arc::clone(&store), seen_stop.clone()));
        let desk = Arc::new(desk);
        let (to_group, looking) = (Arc::clone(&desk), Arc::clone(&certificates));
        let watching = group::watch(Arc::clone(&store), to_group, looking, stop.clone());
        let (to_switch, to_log) = (Arc::clone(&switch), log.clone());
        let own = Arc::new(InStore::begin(Arc::clone(&store)).await?);
        let keeping_tickets = Arc::clone(&own).keep_time(stop.clone());
        let remote = remote(&settings, &folder)?;
        let authority_certificate = remote.as_ref().map(|it| it.own_certificate());
        let keeping_connected = remote.clone().map(|it| it.keep_connected(stop.clone()));
        let remote = remote.map(|it| it as Arc<dyn Authority>);
        let authority = authority.or(remote).unwrap_or(own);
        let handshakes = Sources::new(settings.handshakes_per_source);
        let reception = Reception::new(
            acceptor,
            to_switch,
            desk,
            authority,
            to_log,
            handshakes,
            stop.clone(),
        );
        reception.tasks.spawn(keeping_tickets);
        if let Some(keeping_connected) = keeping_connected {
            reception.tasks.spawn(keeping_connected);
        }
        plain.begin(&reception, identity.public(), config, stop.clone());
        let keeping_time = Arc::clone(&switch).keep_time(stop.clone());
        reception.tasks.spawn(keeping_time);
        reception.tasks.spawn(watching);
        reception.tasks.spawn(forgetting);
        let running = tokio::spawn(Arc::clone(&reception).run(server));
        let started = Note::new(Kind::Start).with("version", env!("CARGO_PKG_VERSION"));
        let started = started.with("unclean", unclean);
        log.write_now(store.as_ref(), &name, started).await;
        let fingerprint = identity.public().fingerprint();
        Ok(RelayHandle {
            urls: urls(&settings, &addresses, &fingerprint),
            addresses,
            fingerprint,
            tls_fingerprint,
            authority_certificate,
            quic_addresses,
            setup_code,
            shutdown_within: settings.shutdown_within.0,
            doors,
            succession,
            announced,
            certificates,
            switch,
            reception,
            store,
            log,
            log_writer,
            seen_writer,
            usage_writer,
            seen_stop: seen_stop.drop_guard(),
            running,
            stop: stop.drop_guard(),
        })
    }
}

impl RelayHandle {
    /// Where it listens, in the order of the settings, plain addresses first.
    #[must_use]
    pub fn addresses(&self) -> &[(Scheme, SocketAddr)] {
        &self.addresses
    }

    /// What clients log in to: address and fingerprint in one, one for each address.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The fingerprint of the relay's key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The SHA-256 of the certificate for HTTPS, where there is one.
    #[must_use]
    pub fn tls_fingerprint(&self) -> Option<TlsFingerprint> {
        self.tls_fingerprint
    }

    /// The SHA-256 of the certificate that it shows to the ticket authority of its settings, which has to
    /// allow it.
    #[must_use]
    pub fn authority_certificate(&self) -> Option<Fingerprint> {
        self.authority_certificate
    }

    /// The UDP addresses at which it speaks QUIC.
    #[must_use]
    pub fn quic_addresses(&self) -> &[SocketAddr] {
        &self.quic_addresses
    }

    /// The one-time code for the first administrator, while there is none. It is not kept anywhere
    /// else: each start of the relay makes a new one.
    #[must_use]
    pub fn setup_code(&self) -> Option<String> {
        self.setup_code.as_ref().map(ToString::to_string)
    }

    /// How much there is at the moment, and how many bytes wait in the queues of routes.
    #[must_use]
    pub fn load(&self) -> (Load, usize) {
        self.switch.load()
    }

    /// Reads again what may change while the relay runs: the list of relays to announce, of which agents are told where
    /// it is another one; and the authorities whose certificates let machines in, with their revocation lists. Who is not
    /// let in by those any more is ended within half a second.
    ///
    /// # Errors
    /// One cannot be used, and stays as it was; each of the two is read whatever becomes of the other.
    pub fn reload(&self) -> Result<(), ReloadError> {
        let certificates = self.certificates.read_again();
        if let Some(changed) = self.announced.read_again()? {
            for attached in self.switch.all_attached() {
                attached.tell_group(changed.clone());
            }
        }
        certificates.map_err(ReloadError::Certificates)
    }

    /// Ends the relay in order: agents are told when to come back, what was sent to them goes out,
    /// the database is closed. Where another process may go on with its sockets, agents are asked to
    /// move to it first. Takes no longer than the settings allow, and a little.
    pub async fn shutdown(mut self) {
        let now = tokio::time::Instant::now();
        let deadline = now + self.shutdown_within;
        if let Some(succession) = self.succession.take() {
            self.doors.close().await;
            succession.end().await;
            // The rest is for telling those who have not moved.
            self.ask_to_move(now + self.shutdown_within.mul_f64(0.8))
                .await;
        }
        // Nobody new is taken in from here on.
        self.stop.token().cancel();
        let farewell = self.farewell();
        let told = tokio::time::timeout_at(deadline, farewell).await.is_ok();
        if !told {
            tracing::warn!("some agents were not told of the shutdown in time");
        }
        if let Ok(server) = (&mut self.running).await {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            server.shutdown(left.max(Duration::from_millis(100))).await;
        }
        self.reception.tasks.close();
        let _ = tokio::time::timeout_at(deadline, self.reception.tasks.wait()).await;
        self.log.write(Note::new(Kind::Stop));
        self.close_store().await;
    }

    /// Asks every agent to attach to the process that goes on with the sockets, and waits until all have
    /// left, or until `deadline`. What they have here carries on meanwhile.
    async fn ask_to_move(&self, deadline: tokio::time::Instant) {
        let mut asked = HashSet::new();
        let spread = self.shutdown_within.mul_f64(MOVES_WITHIN);
        loop {
            // One without a link cannot be told, and finds the next process by itself.
            let mut attached = self.switch.all_attached();
            attached.retain(|one| one.session.status().detached_for.is_none());
            if attached.is_empty() {
                tracing::info!("all {} agents have moved", asked.len());
                return;
            }
            // All at once would be a wave for whoever comes next.
            let spread = spread.min(MOVE_EACH * u32::try_from(attached.len()).unwrap_or(u32::MAX));
            for one in &attached {
                if asked.contains(&one.id) {
                    continue;
                }
                let after = spread.mul_f64(rand::random());
                let going = Going {
                    code: Code::GoingAway.number(),
                    text: "another process takes this relay's place".to_owned(),
                    retry_after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                };
                if one.ask_to_move(going) {
                    asked.insert(one.id);
                }
            }
            if tokio::time::Instant::now() >= deadline {
                tracing::info!("{} agents have not moved in time", attached.len());
                return;
            }
            tokio::time::sleep(MOVE_LOOK).await;
        }
    }

    /// Tells every attachment, ends its session, and waits until its links have sent that.
    async fn farewell(&self) {
        let text = "the relay is shutting down; agents connect again by themselves";
        let going = Going {
            code: Code::GoingAway.number(),
            text: text.to_owned(),
            retry_after_ms: u64::try_from(RETRY_AFTER.as_millis()).unwrap_or(u64::MAX),
        };
        let attached = self.switch.all_attached();
        join_all(
            attached
                .iter()
                .map(|attached| attached.tell_going(going.clone())),
        )
        .await;
        for attached in &attached {
            attached.session.close(Code::GoingAway, text);
        }
        let links = self.switch.links();
        for link in &links {
            link.close();
        }
        join_all(links.iter().map(|link| link.ended())).await;
    }

    /// Lets the log write what it has, then closes the database.
    async fn close_store(self) {
        let Self {
            store,
            log,
            log_writer,
            seen_writer,
            usage_writer,
            seen_stop,
            switch,
            reception,
            ..
        } = self;
        drop(seen_stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), usage_writer).await;
        // The writer ends with the last log. Tasks that outlive the deadline may hold one, so it is
        // not waited for without end.
        drop((log, switch, reception));
        let _ = tokio::time::timeout(Duration::from_secs(1), log_writer).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), seen_writer).await;
        store.close().await;
    }
}

/// Where events go, and what this relay is called in them: the beginning of its fingerprint.
fn destination(store: &Arc<dyn Store>, folder: &DataFolder, key: &Fingerprint) -> Destination {
    let ledger = Ledger::open(folder.path());
    let ledger = ledger.inspect_err(|error| {
        tracing::warn!("a gap in the events would not outlive this process: {error}");
    });
    Destination {
        store: Arc::clone(store),
        ledger: ledger.ok(),
        relay: key.to_string().chars().take(9).collect(),
    }
}

fn keep(settings: &Settings) -> Keep {
    Keep {
        age: settings.events_keep.0,
        count: u64::try_from(settings.events_most).unwrap_or(u64::MAX),
    }
}

/// Makes the one-time setup code while nobody administers the relay.
async fn prepare_setup(
    store: &dyn Store,
    file: Option<&Path>,
) -> Result<Option<OneTimeCode>, StartError> {
    if store.has_administrator().await? {
        return Ok(None);
    }
    let code = OneTimeCode::new(rand::random());
    match store.set_setup_code(code.digest(), clock::calendar()).await {
        Ok(()) => {}
        Err(SetupCodeError::AdministratorExists) => return Ok(None),
        Err(SetupCodeError::Fault(fault)) => return Err(fault.into()),
    }
    if let Some(path) = file {
        write_secret(path, &format!("{code}\n")).map_err(|source| StartError::SetupFile {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(Some(code))
}

/// Writes a file that only its owner may read. It appears whole, whatever was there before.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&draft)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// The authority that the settings name, where they name one. What this relay shows to it is of no other use,
/// and lies in a folder of its own.
fn remote(settings: &Settings, folder: &DataFolder) -> Result<Option<Arc<Remote>>, StartError> {
    let Some(address) = &settings.authority else {
        return Ok(None);
    };
    let folder = DataFolder::open(&folder.path().join(AUTHORITY_FOLDER))?;
    let identity = MutualIdentity::kept_in(folder.path())?;
    Ok(Some(Arc::new(Remote::new(address.clone(), &identity)?)))
}

/// The certificate for HTTPS and QUIC, where one of them is served.
fn certificate(
    settings: &Settings,
    handed: &Handed,
    folder: &DataFolder,
) -> Result<Option<TlsIdentity>, StartError> {
    let own = !settings.tls_listen.is_empty() || !settings.quic_listen.is_empty();
    if !own && handed.https.is_empty() && handed.quic.is_empty() {
        return Ok(None);
    }
    Ok(Some(match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => TlsIdentity::from_pem_files(cert, key)?,
        _ => TlsIdentity::self_signed(folder.path(), &settings.tls_names)?,
    }))
}

fn taken_up(
    sockets: Vec<std::net::TcpListener>,
    certificate: Option<&TlsIdentity>,
) -> impl Iterator<Item = Listen> {
    let tls = certificate.cloned();
    sockets.into_iter().map(move |socket| Listen {
        address: socket.local_addr().unwrap_or(SocketAddr::from(([0; 4], 0))),
        tls: tls.clone(),
        socket: Some(Arc::new(socket)),
    })
}

fn listeners(settings: &Settings, certificate: Option<&TlsIdentity>) -> Vec<Listen> {
    let plain = settings.listen.iter().map(|address| Listen {
        address: *address,
        tls: None,
        socket: None,
    });
    let tls = settings.tls_listen.iter().map(|address| Listen {
        address: *address,
        tls: certificate.cloned(),
        socket: None,
    });
    plain.chain(tls).collect()
}

fn server_settings(settings: &Settings, begin_closed: bool, log: WeakLog) -> ServerSettings {
    let mut server = ServerSettings::default();
    server.begin_closed = begin_closed;
    server.prefix.clone_from(&settings.prefix);
    server.max_connections = settings.connections;
    server.max_half_open_per_source = settings.half_open_per_source;
    server.watcher = Some(Watcher::new(move |limit, from| {
        let Some(log) = log.upgrade() else {
            return;
        };
        log.write(Note::of_source(limit, Some(from.ip())));
    }));
    server
}

fn session_config(settings: &Settings, certificate: Option<TlsFingerprint>) -> Config {
    Config {
        params: Params {
            keep_s: settings.keep.0.as_secs(),
            agent: concat!("underpass relay ", env!("CARGO_PKG_VERSION")).to_owned(),
            certificate,
            ..Params::default()
        },
        max_channel_window: HOP_CHANNEL_WINDOW,
        max_session_window: HOP_SESSION_WINDOW,
        budget: Budget::new(settings.replay_memory.0 as u64),
        ..Config::default()
    }
}

/// What clients log in to. An address that stands for all of them is shown as this machine.
fn urls(
    settings: &Settings,
    addresses: &[(Scheme, SocketAddr)],
    fingerprint: &Fingerprint,
) -> Vec<String> {
    if let Some(url) = &settings.public_url {
        return vec![format!("{}#{fingerprint}", url.trim_end_matches('/'))];
    }
    let url = |(scheme, address): &(Scheme, SocketAddr)| {
        let host = if address.ip().is_unspecified() {
            format!("localhost:{}", address.port())
        } else {
            address.to_string()
        };
        format!(
            "{}://{host}{}#{fingerprint}",
            scheme.as_str(),
            settings.prefix
        )
    };
    addresses.iter().map(url).collect()
}
