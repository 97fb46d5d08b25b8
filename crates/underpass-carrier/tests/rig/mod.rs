//! A server on the loopback interface, and carriers to it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod http;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use underpass_carrier::{
    Carrier, CarrierError, ClientSettings, Kind, Listen, NotFound, RelayUrl, Scheme, Server,
    ServerSettings, Sink, Source, TlsIdentity, TlsTrust, connect,
};

/// No wait in a test lasts longer; reached only by a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SCHEMES: [Scheme; 2] = [Scheme::Http, Scheme::Https];

/// A server that listens with and without TLS.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) identity: TlsIdentity,
    pub(crate) client: ClientSettings,
    prefix: String,
    _folder: TempDir,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(ServerSettings::default()).await
    }

    pub(crate) async fn with(settings: ServerSettings) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let names = ["localhost".to_owned()];
        let identity = TlsIdentity::self_signed(folder.path(), &names).expect("identity");
        let address = "127.0.0.1:0".parse().expect("address");
        let listen = [None, Some(identity.clone())].map(|tls| Listen {
            address,
            tls,
            socket: None,
        });
        let prefix = settings.prefix.clone();
        let server = Server::bind(&listen, settings, Arc::new(NotFound))
            .await
            .expect("listening");
        let mut client = ClientSettings::default();
        client.tls = TlsTrust::PinnedCertificate(identity.fingerprint());
        let quic = server.listen_quic(address, &identity).expect("listening");
        client.quic_port = quic.port();
        client.quic_timeout = PATIENCE;
        client.connect_timeout = PATIENCE;
        client.proving_timeout = PATIENCE;
        Self {
            server,
            identity,
            client,
            prefix,
            _folder: folder,
        }
    }

    pub(crate) fn port(&self, scheme: Scheme) -> u16 {
        let mut all = self.server.addresses().iter();
        let (_, address) = all.find(|(s, _)| *s == scheme).expect("listens on both");
        address.port()
    }

    pub(crate) fn url(&self, scheme: Scheme) -> RelayUrl {
        let text = format!(
            "{}://127.0.0.1:{}{}",
            scheme.as_str(),
            self.port(scheme),
            self.prefix
        );
        text.parse().expect("valid address")
    }

    /// A carrier, both its ends; the client's greeting, which the server waits for, is read.
    pub(crate) async fn pair(&mut self, kind: &'static Kind, scheme: Scheme) -> (Carrier, Carrier) {
        let url = self.url(scheme);
        self.pair_to(kind, &url).await
    }

    pub(crate) async fn pair_to(
        &mut self,
        kind: &'static Kind,
        url: &RelayUrl,
    ) -> (Carrier, Carrier) {
        let client = connect(url, kind, &self.client);
        let mut client = within(client)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        send(&mut client, b"hello").await.expect("sent");
        let mut server = within(self.server.accept()).await.expect("accepted");
        assert_eq!(recv_exactly(&mut server, 5).await, b"hello");
        (client, server)
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

/// Hands over all of `bytes` and flushes.
pub(crate) async fn send(carrier: &mut Carrier, bytes: &[u8]) -> Result<(), CarrierError> {
    let mut queue = VecDeque::from([Bytes::copy_from_slice(bytes)]);
    send_queue(&mut *carrier.sink, &mut queue).await?;
    within(poll_fn(|cx| carrier.sink.poll_flush(cx))).await
}

pub(crate) async fn send_queue(
    sink: &mut dyn Sink,
    queue: &mut VecDeque<Bytes>,
) -> Result<(), CarrierError> {
    while !queue.is_empty() {
        within(poll_fn(|cx| sink.poll_send(cx, queue))).await?;
    }
    Ok(())
}

pub(crate) async fn close(carrier: &mut Carrier) -> Result<(), CarrierError> {
    within(poll_fn(|cx| carrier.sink.poll_close(cx))).await
}

pub(crate) async fn recv(source: &mut dyn Source) -> Option<Result<Bytes, CarrierError>> {
    within(poll_fn(|cx| source.poll_recv(cx))).await
}

pub(crate) async fn recv_exactly(carrier: &mut Carrier, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let chunk = recv(&mut *carrier.source).await.expect("not the end");
        all.extend_from_slice(&chunk.expect("alive"));
    }
    assert_eq!(all.len(), count, "no more than was sent");
    all
}

/// Reads up to the clean end.
pub(crate) async fn recv_to_end(carrier: &mut Carrier) -> Result<Vec<u8>, CarrierError> {
    let mut all = Vec::new();
    while let Some(chunk) = recv(&mut *carrier.source).await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// The error that a carrier ends with, whatever came before.
pub(crate) async fn recv_error(carrier: &mut Carrier) -> CarrierError {
    loop {
        match recv(&mut *carrier.source).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("a clean end where a break was expected"),
        }
    }
}

/// Pseudo-random bytes in chunks of all sizes, the same for the same seed.
pub(crate) struct Stream {
    random: ChaCha8Rng,
    left: usize,
}

impl Stream {
    pub(crate) fn new(seed: u64, len: usize) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            left: len,
        }
    }

    pub(crate) fn next_chunk(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let bits = self.random.next_u32();
        let size = match bits % 4 {
            0 => 1 + bits as usize / 4 % 64,
            1 => 1 + bits as usize / 4 % 4096,
            _ => 1 + bits as usize / 4 % 65536,
        };
        let mut chunk = vec![0; size.min(self.left)];
        self.random.fill_bytes(&mut chunk);
        self.left -= chunk.len();
        Some(chunk.into())
    }
}

/// Sends a whole stream and closes.
pub(crate) async fn send_stream(
    sink: &mut dyn Sink,
    mut stream: Stream,
) -> Result<(), CarrierError> {
    let mut queue = VecDeque::new();
    while let Some(chunk) = stream.next_chunk() {
        queue.push_back(chunk);
        if queue.len() >= 4 {
            send_queue(sink, &mut queue).await?;
        }
    }
    send_queue(sink, &mut queue).await?;
    within(poll_fn(|cx| sink.poll_close(cx))).await
}

/// Reads to the clean end and compares with the stream byte for byte.
pub(crate) async fn check_stream(source: &mut dyn Source, mut stream: Stream) {
    let mut expected = Bytes::new();
    let mut read = 0;
    while let Some(chunk) = recv(source).await {
        let mut chunk = chunk.unwrap_or_else(|error| panic!("after {read} bytes: {error}"));
        while !chunk.is_empty() {
            if expected.is_empty() {
                expected = stream.next_chunk().expect("no more than was sent");
            }
            let step = expected.len().min(chunk.len());
            assert!(
                expected.split_to(step) == chunk.split_to(step),
                "bytes differ near {read}"
            );
            read += step;
        }
    }
    assert!(expected.is_empty() && stream.left == 0, "ended at {read}");
}
