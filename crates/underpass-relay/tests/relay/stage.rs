//! What the tests play on: a relay in a fresh folder, agents, services, and a path that can be cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use underpass_carrier::{ClientSettings, kind_by_name};
use underpass_endpoint::{
    AttachSettings, Attachment, Channel, ConnectError, ControlError, OpenOptions, PeerTrust,
    Session,
};
use underpass_proto::Code;
use underpass_proto::control::{
    Allow, Attach, CodeKind, Control, Deny, Enrol, Identity, Invite, Publish, Resolve, Resolved,
    WhoAmI,
};
use underpass_proto::session::Config;
use underpass_relay::authority::{Authority, InStore};
use underpass_relay::handed::Handed;
use underpass_relay::settings::Settings;
use underpass_relay::{Relay, RelayHandle};
use underpass_seal::{PublicKey, StaticKey};
use underpass_store::{DataFolder, SqliteStore};

/// Nothing in these tests takes as long; what does has hung.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Fails a test that hangs.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what} took longer than {LONG:?}"),
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    in_time(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A relay in a folder of its own.
pub(crate) struct Stage {
    pub(crate) relay: RelayHandle,
    pub(crate) settings: Settings,
    _folder: TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        // With RUST_LOG a failing test tells its story; a second call changes nothing.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            data: folder.path().join("data"),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ..Settings::default()
        };
        change(&mut settings);
        let relay = Relay::start(settings.clone()).await.unwrap();
        // A relay that is started again listens where this one did.
        settings.listen = vec![relay.addresses()[0].1];
        Self {
            relay,
            settings,
            _folder: folder,
        }
    }

    /// A relay with a ticket authority that `make` makes on the relay's store.
    pub(crate) async fn with_authority<A: Authority>(
        make: impl FnOnce(InStore) -> A,
    ) -> (Self, Arc<A>) {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            data: folder.path().join("data"),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ..Settings::default()
        };
        let data = DataFolder::open(&settings.data).unwrap();
        let store = SqliteStore::open(&data.database_file()).await.unwrap();
        let authority = Arc::new(make(InStore::begin(Arc::new(store)).await.unwrap()));
        let shared: Arc<dyn Authority> = authority.clone();
        let relay = Relay::start_with(settings.clone(), Handed::default(), Some(shared)).await;
        let relay = relay.unwrap();
        settings.listen = vec![relay.addresses()[0].1];
        let stage = Self {
            relay,
            settings,
            _folder: folder,
        };
        (stage, authority)
    }

    /// A further relay on the same data, as another process would be.
    pub(crate) async fn another_relay(&self) -> RelayHandle {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let settings = Settings {
            listen,
            ..self.settings.clone()
        };
        Relay::start(settings).await.unwrap()
    }

    /// The store that the relay uses, as another process would open it.
    pub(crate) async fn store(&self) -> SqliteStore {
        let data = DataFolder::open(&self.settings.data).unwrap();
        SqliteStore::open(&data.database_file()).await.unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.relay.addresses()[0].1
    }

    /// Ends the relay in order, and starts it again on the same data and port.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            relay,
            settings,
            _folder,
        } = self;
        relay.shutdown().await;
        let relay = Relay::start(settings.clone()).await.unwrap();
        Self {
            relay,
            settings,
            _folder,
        }
    }

    /// An agent with a fresh key that nobody has enrolled.
    pub(crate) async fn stranger(&self) -> Agent {
        Agent::attach(self.address(), StaticKey::generate()).await
    }

    /// The first administrator.
    pub(crate) async fn administrator(&self) -> Agent {
        let agent = self.stranger().await;
        let code = self.relay.setup_code().unwrap();
        agent
            .enrol(CodeKind::Setup, &code, "admin", "desk")
            .await
            .unwrap();
        agent
    }

    /// A user invited by `by`, with one machine.
    pub(crate) async fn invited(&self, by: &Agent, user: &str) -> Agent {
        self.invited_at(self.address(), by, user).await
    }

    /// The same, reaching the relay at another address.
    pub(crate) async fn invited_at(&self, at: SocketAddr, by: &Agent, user: &str) -> Agent {
        let code = by.invite(user).await.unwrap();
        let agent = Agent::attach(at, StaticKey::generate()).await;
        agent
            .enrol(CodeKind::Invite, &code, "", "laptop")
            .await
            .unwrap();
        agent
    }
}

/// An attached agent.
pub(crate) struct Agent {
    pub(crate) attachment: Attachment,
    pub(crate) control: underpass_endpoint::Control,
    pub(crate) key: Arc<StaticKey>,
}

/// Trusts one key.
pub(crate) struct Only(pub(crate) PublicKey);

impl PeerTrust for Only {
    fn check(&self, _service: &str, peer: &PublicKey) -> Result<(), String> {
        if *peer == self.0 {
            Ok(())
        } else {
            Err("another key".into())
        }
    }
}

impl Agent {
    pub(crate) async fn attach(relay: SocketAddr, key: StaticKey) -> Self {
        Self::attach_as(relay, key).await.unwrap()
    }

    pub(crate) async fn attach_as(
        relay: SocketAddr,
        key: StaticKey,
    ) -> Result<Self, underpass_endpoint::AttachError> {
        let key = Arc::new(key);
        let settings = attach_settings(relay);
        let attachment =
            in_time("attaching", Attachment::attach(settings, Arc::clone(&key))).await?;
        Ok(Self::of(attachment, &key))
    }

    /// One that is attached already.
    pub(crate) fn of(attachment: Attachment, key: &Arc<StaticKey>) -> Self {
        Self {
            control: attachment.control(),
            attachment,
            key: Arc::clone(key),
        }
    }

    pub(crate) async fn ask(
        &self,
        make: impl FnOnce(u64) -> Control,
    ) -> Result<Vec<Control>, Code> {
        let asked = in_time("a request", self.control.request(make)).await;
        asked.map_err(|error: ControlError| error.code())
    }

    pub(crate) async fn hello(&self) -> Result<Identity, Code> {
        let answer = self
            .ask(|request| {
                Attach {
                    request,
                    version: 1,
                    agent: "test".into(),
                    machine_name: "machine".into(),
                }
                .into()
            })
            .await?;
        Ok(identity(answer))
    }

    pub(crate) async fn who_am_i(&self) -> Result<Identity, Code> {
        Ok(identity(
            self.ask(|request| WhoAmI { request }.into()).await?,
        ))
    }

    pub(crate) async fn enrol(
        &self,
        kind: CodeKind,
        code: &str,
        user: &str,
        machine: &str,
    ) -> Result<Identity, Code> {
        let (code, user, machine) = (code.to_owned(), user.to_owned(), machine.to_owned());
        let make = |request| {
            Enrol {
                request,
                kind,
                code,
                user,
                machine,
            }
            .into()
        };
        Ok(identity(self.ask(make).await?))
    }

    pub(crate) async fn invite(&self, user: &str) -> Result<String, Code> {
        let user = user.to_owned();
        let lifetime_s = 0;
        let answer = self
            .ask(|request| {
                Invite {
                    request,
                    user,
                    lifetime_s,
                }
                .into()
            })
            .await?;
        match &answer[..] {
            [Control::Invited(it)] => Ok(it.code.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn publish(&self, name: &str) -> Result<String, Code> {
        let name = name.to_owned();
        let make = |request| {
            Publish {
                request,
                name,
                description: "127.0.0.1:1".into(),
                compression: true,
                plain_http: false,
            }
            .into()
        };
        match &self.ask(make).await?[..] {
            [Control::Published(it)] => Ok(it.full_name.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn allow(&self, who: &str, service: &str) -> Result<(), Code> {
        let (who, service) = (who.to_owned(), service.to_owned());
        self.ask(|request| {
            Allow {
                request,
                who,
                service,
            }
            .into()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn deny(&self, who: &str, service: &str) -> Result<(), Code> {
        let (who, service) = (who.to_owned(), service.to_owned());
        self.ask(|request| {
            Deny {
                request,
                who,
                service,
            }
            .into()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn resolve(&self, service: &str) -> Result<Resolved, Code> {
        let service = service.to_owned();
        match &self
            .ask(|request| Resolve { request, service }.into())
            .await?[..]
        {
            [Control::Resolved(it)] => Ok(it.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A session with the publisher of a service, which must show `key`.
    pub(crate) async fn connect(&self, service: &str, key: &StaticKey) -> Result<Session, Code> {
        let trust = Only(key.public());
        let connecting = self.attachment.connect(service, &trust);
        in_time("connecting", connecting)
            .await
            .map_err(|error: ConnectError| error.code())
    }

    /// Answers every channel of every session that comes in by sending back what came.
    pub(crate) fn serve_echo(&self) {
        serve_echo_at(&self.attachment);
    }
}

/// How an agent attaches to the relay at this address.
pub(crate) fn attach_settings(relay: SocketAddr) -> AttachSettings {
    AttachSettings {
        relay: format!("http://{relay}").parse().unwrap(),
        relay_key: None,
        carriers: vec![kind_by_name("upgrade").unwrap()],
        ascent: underpass_endpoint::AscentSettings::default(),
        client: ClientSettings::default(),
        session: Config::default(),
    }
}

/// Answers every channel of every session that comes in by this attachment by sending back what came.
pub(crate) fn serve_echo_at(attachment: &Attachment) {
    attachment.serve(|session, _peer| {
        tokio::spawn(async move {
            while let Some(incoming) = session.accept().await {
                tokio::spawn(echo(incoming.accept()));
            }
        });
    });
}

fn identity(mut answer: Vec<Control>) -> Identity {
    match answer.pop() {
        Some(Control::Identity(it)) if answer.is_empty() => it,
        other => panic!("{other:?}"),
    }
}

async fn echo(channel: Channel) {
    let (mut reader, mut writer) = channel.into_split();
    while let Ok(Some(chunk)) = reader.read_chunk().await {
        if writer.write_chunk(chunk).await.is_err() {
            return;
        }
    }
    let _ = writer.finish().await;
}

/// Bytes that repeat after no power of two, so that a shift shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8)
        .collect()
}

/// Sends `data` on a new channel, half-closes it, and reads the answer to its end.
pub(crate) async fn exchange(session: &Session, service: &str, data: Vec<u8>) -> Vec<u8> {
    let work = async {
        let channel = session.open(service, OpenOptions::default()).await.unwrap();
        let (mut reader, mut writer) = channel.into_split();
        let sending = async {
            let mut rest = Bytes::from(data);
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(64 * 1024));
                writer.write_chunk(piece).await.unwrap();
            }
            writer.finish().await.unwrap();
        };
        let receiving = async {
            let mut all = Vec::new();
            while let Some(chunk) = reader.read_chunk().await.unwrap() {
                all.extend_from_slice(&chunk);
            }
            all
        };
        tokio::join!(sending, receiving).1
    };
    in_time("an exchange", work).await
}

/// A TCP service on loopback that sends back what it gets, until the other side ends.
pub(crate) async fn echo_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    let _ = to.shutdown().await;
                }
            });
        }
    });
    address
}

/// A path to the relay that can be cut: TCP connections through it are broken by a reset.
pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    cuts: watch::Sender<u64>,
    open: Arc<Mutex<bool>>,
}

impl Path {
    pub(crate) async fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        let open = Arc::new(Mutex::new(true));
        let is_open = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *is_open.lock().unwrap() {
                    tokio::spawn(carry(near, relay, cut.clone()));
                }
            }
        });
        Self {
            address,
            cuts,
            open,
        }
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets no connection through any more, or again.
    pub(crate) fn set_open(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        if !open {
            self.cut();
        }
    }
}

async fn carry(near: TcpStream, relay: SocketAddr, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(far) = TcpStream::connect(relay).await else {
        return;
    };
    let (mut near, mut far) = (near, far);
    let broken = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        _ = cut.changed() => true,
    };
    if broken {
        near.set_zero_linger().unwrap();
        far.set_zero_linger().unwrap();
    }
}
