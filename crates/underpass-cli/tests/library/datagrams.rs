//! Flows of datagrams.

use std::net::UdpSocket;
use std::time::Duration;

use underpass::{Code, ConnectOptions, Datagrams};

use crate::running::{LIMIT, Relay};
use crate::{client, two_clients};

const LATE: Duration = Duration::from_secs(5);

/// Asks until there is an answer: any datagram may be lost.
async fn ask(flow: &Datagrams, question: &'static str) -> String {
    let end = tokio::time::Instant::now() + LIMIT;
    while tokio::time::Instant::now() < end {
        flow.send_data(question, LATE).unwrap();
        match flow.get_data(Duration::from_millis(500)).await {
            Ok(Some(answer)) => return String::from_utf8(answer.to_vec()).unwrap(),
            Ok(None) => panic!("the flow has ended"),
            Err(error) => assert_eq!(error.code(), Code::NO_MESSAGE),
        }
    }
    panic!("no answer came")
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_pass_between_two_programs() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let mut listener = bob.listen_datagrams("voice").await.unwrap();
    assert_eq!(listener.full_name(), "voice.bob.underpass.internal");
    bob.allow("carol", "voice").await.unwrap();
    let stream = carol.connect("bob", "voice").await.unwrap_err();
    assert_eq!(stream.code(), Code::OTHER_TRANSPORT);
    let hers = carol
        .connect_datagrams("bob", "voice", &ConnectOptions::new())
        .await
        .unwrap();
    let (his, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.user, "carol");
    let answering = tokio::spawn(async move {
        while let Some(question) = his.get_data(None).await.unwrap() {
            his.send_data([&b"re "[..], &question[..]].concat(), LATE)
                .unwrap();
        }
    });
    assert_eq!(ask(&hers, "what").await, "re what");
    let large = vec![0; hers.max_size() + 1];
    let refused = hers.send_data(large, LATE).unwrap_err();
    assert_eq!(refused.code(), Code::MESSAGE_TOO_LARGE);
    // Dropping one end is the other one's end.
    drop(hers);
    tokio::time::timeout(LIMIT, answering)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_reach_a_plain_program() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("udp:{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut room) {
            room[..length].make_ascii_uppercase();
            if socket.send_to(&room[..length], from).is_err() {
                return;
            }
        }
    });
    let _publish = alice.start(&["publish", "shout", &target]);
    let bob = client(&relay, &alice, "bob").await;
    alice.ok(&["services", "allow", "bob", "shout"]);
    let options = ConnectOptions::new();
    let flow = bob
        .connect_datagrams("alice", "shout", &options)
        .await
        .unwrap();
    assert_eq!(ask(&flow, "quiet").await, "QUIET");
}
