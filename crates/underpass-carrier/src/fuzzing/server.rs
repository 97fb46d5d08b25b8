//! The whole server, from the bytes of two connections.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Script;
use crate::Carrier;
use crate::dial::{Connection, ReadHalf, WriteHalf};
use crate::front::{ConnectedPeer, Front, Line, NotFound};
use crate::server::{Listening, ServerSettings};
use crate::streams::PREFACE;
use crate::url::Scheme;

/// Turns of the scheduler in which everything that can happen without time passing has happened.
const TURNS: usize = 100;
/// Bytes that a connection in memory holds; answers of the server stay below.
const IN_MEMORY: usize = 1 << 20;
/// Every status that the server, or the HTTP library under it, answers with.
const STATUSES: [&str; 13] = [
    "100", "101", "200", "202", "204", "400", "404", "408", "413", "414", "426", "431", "503",
];

impl Connection for DuplexStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

/// Two connections to a server: the first two bytes are the length of what comes on the first one,
/// the rest comes on the second. Carriers that come about are read and closed; nothing of anything
/// may be left afterwards.
pub fn server(data: &[u8]) {
    let mut script = Script::new(data);
    let len = usize::from(script.pair());
    let first = script.take(len).to_vec();
    let second = script.take(usize::MAX).to_vec();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without IO needs nothing that may be missing");
    runtime.block_on(run(first, second));
}

async fn run(first: Vec<u8>, second: Vec<u8>) {
    let (accepted, mut carriers) = mpsc::channel(64);
    let sent = first.len() + second.len();
    let front = Front::new(ServerSettings::default(), Arc::new(NotFound), accepted);
    let front = Arc::new(front);
    let connections = [first, second].map(|input| tokio::spawn(talk(Arc::clone(&front), input)));
    turns().await;
    let mut received = 0;
    while let Ok(carrier) = carriers.try_recv() {
        received += read_and_close(carrier).await;
        turns().await;
    }
    assert!(received <= sent, "{received} bytes out of {sent}");
    front.stop.cancel();
    front.tasks.close();
    front.tasks.wait().await;
    for connection in connections {
        let (http2, answer) = connection.await.expect("no panic");
        if !http2 {
            check_answer(&answer);
        }
    }
    assert_eq!((front.known(), front.half_made()), (0, 0), "left behind");
    let budget = front.settings.body_budget / 1024 + 1;
    assert_eq!(front.budget.available_permits(), budget);
}

async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Sends `input` and returns what the server answers until it has closed, and whether that is HTTP/2.
async fn talk(front: Arc<Front>, input: Vec<u8>) -> (bool, Vec<u8>) {
    let (ours, theirs) = tokio::io::duplex(IN_MEMORY);
    let stop = CancellationToken::new();
    let line = Line {
        peer: ConnectedPeer {
            scheme: Scheme::Http,
            peer: None,
            local: None,
            tls: None,
        },
        stop: stop.clone(),
        opening: Arc::default(),
    };
    let listening = Listening {
        front: Arc::clone(&front),
        connections: Arc::new(Semaphore::new(1)),
        closing: CancellationToken::new(),
        tls: None,
    };
    let http2 = input.starts_with(PREFACE);
    let serving = tokio::spawn(async move {
        if http2 {
            listening.speak_http2(Box::new(theirs), line).await;
        } else {
            listening.speak_http(Box::new(theirs), line).await;
        }
    });
    let (mut read, mut write) = tokio::io::split(ours);
    let _ = write.write_all(&input).await;
    // What the other connection sends may belong to this one's carrier.
    turns().await;
    turns().await;
    let _ = write.shutdown().await;
    let stopping = async {
        front.stop.cancelled().await;
        stop.cancel();
    };
    let mut answer = Vec::new();
    let reading = async {
        // Errors are ends here.
        let _ = read.read_to_end(&mut answer).await;
    };
    let serving = async { serving.await.expect("no panic") };
    tokio::join!(stopping, reading, serving);
    (http2, answer)
}

/// Reads what is there without waiting for more, and ends the carrier on our side.
async fn read_and_close(carrier: Carrier) -> usize {
    let Carrier {
        mut sink,
        mut source,
        ..
    } = carrier;
    let mut received = 0;
    let reading = async {
        while let Some(Ok(bytes)) = poll_fn(|cx| source.poll_recv(cx)).await {
            assert!(!bytes.is_empty());
            received += bytes.len();
        }
    };
    tokio::select! {
        () = reading => {}
        () = turns() => {}
    }
    tokio::select! {
        _ = poll_fn(|cx| sink.poll_close(cx)) => {}
        () = turns() => {}
    }
    received
}

fn check_answer(answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let head = answer
        .get(..12)
        .and_then(|head| std::str::from_utf8(head).ok());
    let status = head.and_then(|head| head.strip_prefix("HTTP/1.").map(|rest| &rest[2..]));
    assert!(
        status.is_some_and(|status| STATUSES.contains(&status)),
        "{head:?}"
    );
}
