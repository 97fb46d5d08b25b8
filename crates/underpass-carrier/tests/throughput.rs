//! What numbered requests bring through a box that holds every request until it is whole, and every
//! answer: throughput is bytes in flight by round trip, so what counts is how much is in flight.

mod rig;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rig::{Rig, SCHEMES, recv, send_queue, within};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use underpass_carrier::answers::{Answers, Ask, DEPTH};
use underpass_carrier::uplink::{Post, Uplink};
use underpass_carrier::{KINDS, RelayUrl};

/// The round trip of the goal: 50 ms each way.
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// The goal: 10 MB/s.
const WANTED: f64 = 10e6;
/// What the path's slowest link carries, in bytes per second.
const LINK: f64 = 40e6;
/// What TCP has under way on a new connection (RFC 6928): ten segments.
const FIRST_FLIGHT: usize = 14_600;

/// TCP connections over one link, in virtual time: each one doubles what it has under way with every
/// round trip in which it was full, and all share the link.
struct Path {
    flights: Vec<usize>,
    idle: Vec<usize>,
    link_free: Duration,
}

impl Path {
    fn new() -> Self {
        Self {
            flights: Vec::new(),
            idle: Vec::new(),
            link_free: Duration::ZERO,
        }
    }

    /// When a body sent at `now` has arrived whole, and the connection that carries it.
    fn send(&mut self, now: Duration, len: usize) -> (Duration, usize) {
        let connection = self.idle.pop().unwrap_or_else(|| {
            self.flights.push(FIRST_FLIGHT);
            self.flights.len() - 1
        });
        let flight = &mut self.flights[connection];
        let (mut sent, mut waits) = (*flight, 0);
        while sent < len {
            *flight *= 2;
            sent += *flight;
            waits += 1;
        }
        let on_the_link = Duration::from_secs_f64(len as f64 / LINK);
        self.link_free = self.link_free.max(now) + on_the_link;
        let arrival = (now + ROUND_TRIP * waits + on_the_link).max(self.link_free);
        (arrival + ROUND_TRIP / 2, connection)
    }
}

fn bulk() -> VecDeque<Bytes> {
    VecDeque::from([(); 2].map(|()| Bytes::from_static(&[7; 64 * 1024])))
}

/// Bytes per second between the third and the eighth second.
fn rate(arrived: &[(Duration, usize)]) -> f64 {
    let seconds = 3..8u64;
    let counted = arrived
        .iter()
        .filter(|(at, _)| seconds.contains(&at.as_secs()));
    counted.map(|(_, len)| *len as f64).sum::<f64>() / seconds.count() as f64
}

#[test]
fn posts_reach_the_goal_over_a_long_way() {
    for largest in [1_000_000, 250_000] {
        let mut up = Uplink::new(largest, 8, 4 * 1024 * 1024);
        let mut path = Path::new();
        let mut under_way: BinaryHeap<Reverse<(Duration, u64)>> = BinaryHeap::new();
        let mut posts: HashMap<u64, (Post, Duration, usize)> = HashMap::new();
        let mut now = Duration::ZERO;
        let mut arrived = Vec::new();
        while now < Duration::from_secs(8) {
            loop {
                let taken = up.offer(&mut bulk());
                while let Some(post) = up.next_post() {
                    let (at, connection) = path.send(now, post.len);
                    under_way.push(Reverse((at + ROUND_TRIP / 2, post.offset)));
                    posts.insert(post.offset, (post, now, connection));
                }
                if taken == 0 {
                    break;
                }
            }
            let Reverse((at, offset)) = under_way.pop().expect("something is under way");
            now = at;
            let (post, began, connection) = posts.remove(&offset).expect("posted once");
            path.idle.push(connection);
            arrived.push((now, post.len));
            up.delivered(&post, now - began);
        }
        let rate = rate(&arrived);
        println!("posts of up to {largest}: {:.1} MB/s", rate / 1e6);
        assert!(rate >= WANTED, "{rate} bytes/s in bodies of {largest}");
    }
}

#[test]
fn polls_reach_the_goal_over_a_long_way() {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum Event {
        Asked(u64),
        Arrived(u64, usize, usize),
    }
    let mut answers = Answers::new(1_000_000);
    let mut path = Path::new();
    let mut events: BinaryHeap<Reverse<(Duration, Event)>> = BinaryHeap::new();
    let mut held = Vec::new();
    for number in 0..DEPTH {
        events.push(Reverse((Duration::ZERO, Event::Asked(number))));
    }
    let mut arrived = Vec::new();
    let mut complete = Vec::new();
    while let Some(Reverse((now, event))) = events.pop() {
        if now > Duration::from_secs(8) {
            break;
        }
        match event {
            Event::Asked(number) => held.push(number),
            Event::Arrived(number, len, connection) => {
                path.idle.push(connection);
                arrived.push((now, len));
                complete.push(number);
                complete.sort_unstable();
                // The client asks on in order.
                while complete.first().is_some_and(|first| {
                    let next = arrived.len() - complete.len();
                    *first == next as u64
                }) {
                    let number = complete.remove(0);
                    let at = now + ROUND_TRIP / 2;
                    events.push(Reverse((at, Event::Asked(number + DEPTH))));
                }
            }
        }
        loop {
            let taken = answers.offer(&mut bulk());
            held.retain(|number| match answers.ask(*number, now).expect("in turn") {
                Ask::Wait => true,
                Ask::Answer(answer) => {
                    let (at, connection) = path.send(now, answer.data_len);
                    let event = Event::Arrived(*number, answer.data_len, connection);
                    events.push(Reverse((at, event)));
                    false
                }
            });
            if taken == 0 {
                break;
            }
        }
    }
    let rate = rate(&arrived);
    println!("polls: {:.1} MB/s", rate / 1e6);
    assert!(rate >= WANTED, "{rate} bytes/s");
}

/// What passes through a holding box at one time, in bytes.
#[derive(Default)]
struct Held {
    up: AtomicUsize,
    down: AtomicUsize,
    most_up: AtomicUsize,
    most_down: AtomicUsize,
    changed: Notify,
}

/// Counts bytes for as long as it lives.
struct Counted<'a>(&'a AtomicUsize, usize);

impl<'a> Counted<'a> {
    fn new(now: &'a AtomicUsize, most: &AtomicUsize, len: usize) -> Self {
        let all = now.fetch_add(len, Ordering::Relaxed) + len;
        most.fetch_max(all, Ordering::Relaxed);
        Self(now, len)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Held {
    /// Passes one exchange on, each part only when it is whole, and some time late.
    async fn pass(
        self: Arc<Self>,
        request: Request<Incoming>,
        upstream: u16,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let held = Counted::new(&self.up, &self.most_up, body.len());
        tokio::time::sleep(ROUND_TRIP / 4).await;
        let stream = TcpStream::connect(("127.0.0.1", upstream)).await;
        let io = TokioIo::new(stream.expect("connected"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        drop(held);
        let held = Counted::new(&self.down, &self.most_down, body.len());
        tokio::time::sleep(ROUND_TRIP / 4).await;
        drop(held);
        self.changed.notify_waiters();
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn listen(self: Arc<Self>, upstream: u16, http2: bool) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let held = Arc::clone(&self);
                let service = service_fn(move |request| Arc::clone(&held).pass(request, upstream));
                let io = TokioIo::new(stream);
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(io, service));
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(server.serve_connection(io, service));
                }
            }
        });
        port
    }

    /// Waits until so many bytes were held at one time, each way.
    async fn reached(&self, up: usize, down: usize) {
        loop {
            let changed = self.changed.notified();
            let most_up = self.most_up.load(Ordering::Relaxed);
            if most_up >= up && self.most_down.load(Ordering::Relaxed) >= down {
                return;
            }
            changed.await;
        }
    }
}

/// Every kind that survives such a box puts twice as much in flight each way as the goal needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enough_is_in_flight_both_ways_through_a_box_that_holds_everything() {
    let enough = 2 * (WANTED * ROUND_TRIP.as_secs_f64()) as usize;
    let kinds = KINDS
        .iter()
        .filter(|kind| kind.abilities.survives_holding_proxy);
    for kind in kinds {
        let mut rig = Rig::new().await;
        let held = Arc::new(Held::default());
        let http2 = kind.abilities.needs_http2;
        let upstream = rig.port(SCHEMES[0]);
        let port = Arc::clone(&held).listen(upstream, http2).await;
        let url: RelayUrl = format!("http://127.0.0.1:{port}").parse().expect("valid");
        let (client, server) = rig.pair_to(kind, &url).await;
        let streams = [(client.sink, server.source), (server.sink, client.source)];
        let tasks = streams.map(|(mut sink, mut source)| {
            let sending =
                tokio::spawn(
                    async move { while send_queue(&mut *sink, &mut bulk()).await.is_ok() {} },
                );
            let reading =
                tokio::spawn(async move { while let Some(Ok(_)) = recv(&mut *source).await {} });
            [sending, reading]
        });
        within(held.reached(enough, enough)).await;
        for task in tasks.iter().flatten() {
            task.abort();
        }
    }
}
