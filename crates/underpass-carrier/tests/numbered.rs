//! Numbered POSTs and polls, asked for by hand: repeated, out of order, with gaps, lost.

mod rig;

use std::time::Duration;

use http_body_util::BodyExt as _;
use rig::http::Http;
use rig::{
    Rig, SCHEMES, Stream, check_stream, close, recv_error, recv_exactly, recv_to_end, send,
    send_stream, within,
};
use underpass_carrier::{Carrier, IdPlace, ServerSettings, kind_by_name};

const ID: &str = "00112233445566778899aabbccddeeff";

/// A server on which room and polls are held for a short time only.
async fn impatient(change: impl FnOnce(&mut ServerSettings)) -> Rig {
    let mut settings = ServerSettings::default();
    settings.longest_hold = Duration::from_millis(20);
    change(&mut settings);
    Rig::with(settings).await
}

/// Begins a carrier of several requests by hand; the answer's body, where it streams, is returned.
async fn begin(rig: &Rig, kind: &str) -> (Http, http::Response<hyper::body::Incoming>) {
    let mut http = Http::connect(rig.port(SCHEMES[0])).await;
    let last = if kind == "poll" { "down/0" } else { "down" };
    let path = format!("/{kind}/{ID}/{last}");
    let response = http.start("GET", &path, &[], b"").await;
    assert_eq!(response.status(), 200);
    (http, response)
}

async fn post(http: &mut Http, kind: &str, at: &str, body: &[u8]) -> u16 {
    let path = format!("/{kind}/{ID}/up/{at}");
    http.ask("POST", &path, body).await.status.as_u16()
}

#[tokio::test]
async fn bodies_repeated_and_out_of_order_are_read_once_and_in_order() {
    for kind in ["posts", "poll"] {
        let mut rig = Rig::new().await;
        let (_down, _response) = begin(&rig, kind).await;
        let mut http = Http::connect(rig.port(SCHEMES[0])).await;
        // Behind a gap, and answered at once all the same.
        assert_eq!(post(&mut http, kind, "5", b"world").await, 204);
        assert_eq!(post(&mut http, kind, "5", b"world").await, 204);
        assert_eq!(post(&mut http, kind, "0", b"hello").await, 204);
        assert_eq!(post(&mut http, kind, "0", b"hello").await, 204);
        let mut server = within(rig.server.accept()).await.expect("accepted");
        assert_eq!(recv_exactly(&mut server, 10).await, b"helloworld");
        assert_eq!(post(&mut http, kind, "3", b"loworld!").await, 204);
        assert_eq!(post(&mut http, kind, "11/end", b"").await, 204);
        assert_eq!(recv_to_end(&mut server).await.expect("clean end"), b"!");
        // The answer to the last one may have been lost.
        assert_eq!(post(&mut http, kind, "11/end", b"").await, 204);
        assert_eq!(post(&mut http, kind, "0", b"hello").await, 204);
    }
}

#[tokio::test]
async fn a_gap_that_is_never_filled_is_never_skipped() {
    for kind in ["posts", "poll"] {
        let mut rig = Rig::new().await;
        let (_down, _response) = begin(&rig, kind).await;
        let mut http = Http::connect(rig.port(SCHEMES[0])).await;
        assert_eq!(post(&mut http, kind, "0", b"a").await, 204);
        assert_eq!(post(&mut http, kind, "2/end", b"c").await, 204);
        let mut server = within(rig.server.accept()).await.expect("accepted");
        assert_eq!(recv_exactly(&mut server, 1).await, b"a");
        let path = format!("/{kind}/{ID}");
        assert_eq!(http.ask("DELETE", &path, b"").await.status, 204);
        assert_eq!(recv_error(&mut server).await.code(), "broken");
        assert_eq!(post(&mut http, kind, "1", b"b").await, 404);
    }
}

#[tokio::test]
async fn bodies_that_contradict_each_other_end_the_carrier() {
    for kind in ["posts", "poll"] {
        let mut rig = Rig::new().await;
        let (_down, _response) = begin(&rig, kind).await;
        let mut http = Http::connect(rig.port(SCHEMES[0])).await;
        assert_eq!(post(&mut http, kind, "0", b"abc").await, 204);
        let mut server = within(rig.server.accept()).await.expect("accepted");
        assert_eq!(recv_exactly(&mut server, 3).await, b"abc");
        assert_eq!(post(&mut http, kind, "9/end", b"").await, 204);
        assert_eq!(post(&mut http, kind, "9", b"more").await, 404);
        assert_eq!(recv_error(&mut server).await.code(), "protocol");
        rig::http::until(|| rig.server.load() == (0, 0)).await;
    }
}

#[tokio::test]
async fn a_body_without_room_is_asked_for_again_and_not_kept() {
    for kind in ["posts", "poll"] {
        let mut rig = impatient(|settings| settings.receive_window = 8).await;
        let (_down, _response) = begin(&rig, kind).await;
        let mut http = Http::connect(rig.port(SCHEMES[0])).await;
        assert_eq!(post(&mut http, kind, "0", b"hello").await, 204);
        let mut server = within(rig.server.accept()).await.expect("accepted");
        assert_eq!(recv_exactly(&mut server, 5).await, b"hello");
        assert_eq!(post(&mut http, kind, "5", b"12345678").await, 204);
        assert_eq!(post(&mut http, kind, "13", b"9").await, 202);
        assert_eq!(post(&mut http, kind, "1000000000", b"far").await, 202);
        assert_eq!(recv_exactly(&mut server, 8).await, b"12345678");
        assert_eq!(post(&mut http, kind, "13", b"9").await, 204);
        assert_eq!(recv_exactly(&mut server, 1).await, b"9");
    }
}

/// A carrier of kind `poll` begun by hand and greeted.
async fn poll_by_hand(rig: &mut Rig) -> (Http, Carrier) {
    let (mut http, response) = begin(rig, "poll").await;
    drop(within(response.into_body().collect()).await.expect("whole"));
    assert_eq!(post(&mut http, "poll", "0", b"hi").await, 204);
    let mut server = within(rig.server.accept()).await.expect("accepted");
    assert_eq!(recv_exactly(&mut server, 2).await, b"hi");
    (http, server)
}

async fn get(http: &mut Http, number: u64) -> (u16, Vec<u8>) {
    let path = format!("/poll/{ID}/down/{number}");
    let answer = http.ask("GET", &path, b"").await;
    (answer.status.as_u16(), answer.body.to_vec())
}

#[tokio::test]
async fn a_lost_answer_is_fetched_again_byte_for_byte() {
    let mut rig = Rig::new().await;
    let (mut http, mut server) = poll_by_hand(&mut rig).await;
    send_later(&mut server, b"first").await;
    let answer = get(&mut http, 1).await;
    assert!(answer.1.ends_with(b"first"));
    send_later(&mut server, b"second").await;
    assert_eq!(get(&mut http, 1).await, answer, "not what came since");
    let second = get(&mut http, 2).await;
    assert!(second.1.ends_with(b"second"));
    assert_eq!(get(&mut http, 1).await, answer);
    send_later(&mut server, b"third").await;
    // It waits for company, or for a sign that an earlier one has arrived: 5 shows that of 1.
    let mut beside = Http::connect(rig.port(SCHEMES[0])).await;
    let (third, ()) = tokio::join!(get(&mut http, 3), async {
        let path = format!("/poll/{ID}/down/5");
        tokio::spawn(beside.begin("GET", &path).await);
    });
    assert!(third.1.ends_with(b"third"));
    assert_eq!(get(&mut http, 1).await.0, 404, "5 shows that 1 has arrived");
    assert_eq!(get(&mut http, 2).await, second);
    assert_eq!(get(&mut http, 8).await.0, 404, "too far ahead");
}

#[tokio::test]
async fn a_poll_may_be_a_post() {
    let mut rig = Rig::new().await;
    rig.client.poll_by_post = true;
    let kind = kind_by_name("poll").expect("known");
    let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
    let (sent, ()) = tokio::join!(
        send_stream(&mut *server.sink, Stream::new(6, 3_000_000)),
        check_stream(&mut *client.source, Stream::new(6, 3_000_000)),
    );
    sent.expect("alive");
    let (mut http, mut server) = poll_by_hand(&mut rig).await;
    send_later(&mut server, b"first").await;
    let path = format!("/poll/{ID}/down/1");
    let by_post = http.ask("POST", &path, b"").await;
    assert_eq!(get(&mut http, 1).await.1, by_post.body.to_vec());
}

/// Hands bytes to the sink, which keeps them until a poll comes.
async fn send_later(carrier: &mut Carrier, bytes: &[u8]) {
    let mut queue = [bytes::Bytes::copy_from_slice(bytes)].into();
    let sent = rig::send_queue(&mut *carrier.sink, &mut queue);
    sent.await.expect("alive");
    let _ =
        std::future::poll_fn(|cx| std::task::Poll::Ready(carrier.sink.poll_flush(cx).map(drop)))
            .await;
}

#[tokio::test]
async fn an_idle_poll_is_answered_after_its_time() {
    let mut rig = impatient(|_| ()).await;
    let (mut http, _server) = poll_by_hand(&mut rig).await;
    let (status, first) = get(&mut http, 1).await;
    assert_eq!(
        (status, first.len()),
        (200, 12),
        "the poll's number and no more"
    );
    assert_eq!(get(&mut http, 1).await, (200, first));
    // One whose turn cannot come is told to come again.
    assert_eq!(get(&mut http, 5).await.0, 503);
}

#[tokio::test]
async fn answers_are_never_to_be_kept_or_changed_on_the_way() {
    let rig = Rig::new().await;
    let mut http = Http::connect(rig.port(SCHEMES[0])).await;
    let path = format!("/poll/{ID}/down/0");
    let accept = [("accept", "application/x-thing")];
    let answer = http.ask_with("GET", &path, &accept, b"").await;
    assert_eq!(answer.headers["cache-control"], "no-store, no-transform");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert_eq!(answer.headers["content-type"], "application/x-thing");
    assert_eq!(answer.headers["content-length"], "12");
    let odd = [("accept", "text/html, */*;q=0.8")];
    let path = path.replace("00", "11");
    let answer = http.ask_with("GET", &path, &odd, b"").await;
    assert_eq!(answer.headers["content-type"], "binary/tcp");
}

#[tokio::test]
async fn bodies_shrink_until_the_path_takes_them() {
    let mut settings = ServerSettings::default();
    settings.largest_body = 10_000;
    let mut rig = Rig::with(settings).await;
    for kind in ["posts", "h2posts", "poll", "text"] {
        let kind = kind_by_name(kind).expect("known");
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        let len = 1_500_000;
        let (sent, ()) = tokio::join!(
            send_stream(&mut *client.sink, Stream::new(4, len)),
            check_stream(&mut *server.source, Stream::new(4, len)),
        );
        sent.expect("smaller bodies pass");
    }
}

#[tokio::test]
async fn a_path_that_takes_hardly_anything_is_given_up() {
    let mut settings = ServerSettings::default();
    settings.largest_body = 100;
    let mut rig = Rig::with(settings).await;
    for kind in ["posts", "h2posts", "poll", "text"] {
        let kind = kind_by_name(kind).expect("known");
        let (mut client, _server) = rig.pair(kind, SCHEMES[0]).await;
        let error = send(&mut client, &[7; 5000]).await.expect_err("refused");
        assert_eq!(error.code(), "refused", "{error}");
    }
}

#[tokio::test]
async fn the_id_may_stand_in_a_cookie() {
    let mut rig = Rig::new().await;
    rig.client.id_place = IdPlace::Cookie;
    rig.client.media_type = http::HeaderValue::from_static("image/png");
    let theirs = http::HeaderValue::from_static("theme=dark");
    rig.client.headers.insert("cookie", theirs);
    for kind in ["stream", "posts", "h2posts", "poll"] {
        let kind = kind_by_name(kind).expect("known");
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        send(&mut server, b"down").await.expect("alive");
        assert_eq!(recv_exactly(&mut client, 4).await, b"down");
        let (closed, read) = tokio::join!(close(&mut client), recv_to_end(&mut server));
        closed.expect("closed");
        assert_eq!(read.expect("clean end"), b"");
    }
}

#[tokio::test]
async fn a_client_that_falls_silent_is_let_go() {
    let mut rig = impatient(|settings| settings.silence = Duration::from_millis(20)).await;
    let (_http, mut server) = poll_by_hand(&mut rig).await;
    assert_eq!(recv_error(&mut server).await.code(), "timed-out");
    assert_eq!(rig.server.load(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_carrier_leaves_nothing_behind() {
    for kind in ["h2", "stream", "posts", "h2posts", "poll", "text"] {
        let mut rig = Rig::new().await;
        let kind = kind_by_name(kind).expect("known");
        let (mut client, mut server) = rig.pair(kind, SCHEMES[0]).await;
        let (a, b) = tokio::join!(close(&mut client), recv_to_end(&mut server));
        a.and(b.map(|_| ())).expect("clean end");
        let (a, b) = tokio::join!(close(&mut server), recv_to_end(&mut client));
        a.and(b.map(|_| ())).expect("clean end");
        drop((client, server));
        rig::http::until(|| rig.server.load() == (0, 0)).await;
    }
}
