//! Whole messages, in order, exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use underpass::{Code, Messages};

use crate::cuts::Path;
use crate::running::{LIMIT, Relay, echo_service};
use crate::{client, connected, enrolled, soon, two_clients};

/// How often the path is cut.
const CUTS: u64 = 6;
/// So briefly that most waiting is given up and begun again.
const BRIEF: Duration = Duration::from_millis(5);

/// The `n`th message: its number and bytes that follow from it; of many lengths, and now and then larger than any window
/// at the beginning.
fn message(n: u64) -> Bytes {
    let repeats = match n % 40 {
        0 => 200_000,
        1 => 1,
        _ => n * 7919 % 4000,
    };
    (n + 1).to_be_bytes().repeat(repeats as usize).into()
}

/// Sends messages until it is told to stop, then ends; gives how many there were. Each is given up and begun again until
/// it goes.
async fn send(messages: &Messages, stop: &AtomicBool) -> u64 {
    let (mut n, mut next) = (0, message(0));
    while !stop.load(Ordering::Relaxed) {
        let sending = messages.send_data(next.clone());
        if let Ok(sent) = tokio::time::timeout(BRIEF, sending).await {
            sent.unwrap();
            n += 1;
            next = message(n);
            // The machine has other things to do as well.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    messages.finish().await.unwrap();
    n
}

/// Takes messages to the end, each of which must be the next one; gives how many there were.
async fn take(messages: &Messages, seen: &AtomicU64) -> u64 {
    let mut n = 0;
    loop {
        match messages.get_data(BRIEF).await {
            Ok(Some(data)) => {
                assert!(data == message(n), "message {n} is another one");
                n += 1;
                seen.store(n, Ordering::Relaxed);
            }
            Ok(None) => return n,
            Err(error) => assert_eq!(error.code(), Code::NO_MESSAGE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_once_and_in_order_however_often_the_path_is_cut() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let path = Path::to(&relay.url).await;
    let bob = client(&relay, &alice, "bob").await;
    let through = underpass::Client::builder().relay(path.url()).proxy("none");
    let carol = enrolled(through, &alice, "carol").await;
    let (hers, his) = connected(&bob, &carol, "talk").await;
    let (hers, his) = (
        Arc::new(hers.into_messages()),
        Arc::new(his.into_messages()),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let mut sending = Vec::new();
    let mut taking = Vec::new();
    let mut seen = Vec::new();
    for messages in [hers, his] {
        let (from, stop) = (messages.clone(), stop.clone());
        sending.push(tokio::spawn(async move { send(&from, &stop).await }));
        let count = Arc::new(AtomicU64::new(0));
        seen.push(count.clone());
        taking.push(tokio::spawn(async move { take(&messages, &count).await }));
    }
    for _ in 0..CUTS {
        let before: Vec<u64> = seen.iter().map(|it| it.load(Ordering::Relaxed)).collect();
        let moved = || {
            seen.iter()
                .zip(&before)
                .all(|(now, before)| now.load(Ordering::Relaxed) > *before)
        };
        soon(until(moved)).await;
        soon(until(|| path.living() > 0)).await;
        path.cut();
    }
    stop.store(true, Ordering::Relaxed);
    let mut counts = [Vec::new(), Vec::new()];
    for (tasks, counts) in [sending, taking].into_iter().zip(&mut counts) {
        for task in tasks {
            counts.push(soon(task).await.unwrap());
        }
    }
    let [sent, mut taken] = counts;
    taken.reverse();
    assert_eq!(sent, taken);
    assert!(sent.iter().all(|sent| *sent > CUTS), "{sent:?}");
    assert!(carol.status().drops > 0);
}

async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_finished_arrives_although_the_sender_disconnects() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let (hers, his) = connected(&bob, &carol, "letters").await;
    let (hers, his) = (hers.into_messages(), his.into_messages());
    for n in 0..100 {
        hers.send_data(message(n)).await.unwrap();
    }
    let taking = tokio::spawn(async move { take(&his, &AtomicU64::new(0)).await });
    hers.finish().await.unwrap();
    let late = hers.send_data("too late").await.unwrap_err();
    assert_eq!(late.code(), Code::CANCELLED);
    carol.disconnect().await;
    assert_eq!(soon(taking).await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_learn_that_a_message_is_too_large() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let (hers, his) = connected(&bob, &carol, "small").await;
    let (hers, his) = (hers.into_messages(), his.into_messages_up_to(1000));
    assert_eq!(his.max_message(), 1000);
    for length in [0, 1000, 1001] {
        hers.send_data(vec![7; length]).await.unwrap();
    }
    assert_eq!(his.get_data(LIMIT).await.unwrap().unwrap().len(), 0);
    assert_eq!(his.get_data(None).await.unwrap().unwrap().len(), 1000);
    for _ in 0..2 {
        let refused = his.get_data(LIMIT).await.unwrap_err();
        assert_eq!(refused.code(), Code::MESSAGE_TOO_LARGE);
    }
    let told = async {
        loop {
            match hers.send_data("more").await {
                Ok(()) => tokio::time::sleep(BRIEF).await,
                Err(error) => return error,
            }
        }
    };
    assert_eq!(soon(told).await.code(), Code::MESSAGE_TOO_LARGE);
    assert_eq!(
        hers.flush().await.unwrap_err().code(),
        Code::MESSAGE_TOO_LARGE
    );
    // The other direction is none the worse.
    his.send_data("still here").await.unwrap();
    assert_eq!(hers.get_data(LIMIT).await.unwrap().unwrap(), "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_is_no_message() {
    let relay = Relay::start();
    let (bob, carol) = two_clients(&relay).await;
    let (mut hers, his) = connected(&bob, &carol, "half").await;
    let his = his.into_messages();
    hers.write_all(&[0, 0, 0, 9, b'h', b'a']).await.unwrap();
    let none = his.get_data(BRIEF).await.unwrap_err();
    assert_eq!(none.code(), Code::NO_MESSAGE);
    hers.shutdown().await.unwrap();
    let cut_short = his.get_data(LIMIT).await.unwrap_err();
    assert_eq!(cut_short.code(), Code::PROTOCOL_VIOLATION);
    drop(his);
    let (hers, his) = connected(&bob, &carol, "dropped").await;
    let his = his.into_messages();
    drop(hers.into_messages());
    let broken = his.get_data(LIMIT).await.unwrap_err();
    assert_eq!(broken.code(), Code::CANCELLED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_program_speaks_messages_too() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let _publish = alice.start(&["publish", "echo", &echo_service().to_string()]);
    let bob = client(&relay, &alice, "bob").await;
    alice.ok(&["services", "allow", "bob", "echo"]);
    let messages = bob.connect("alice", "echo").await.unwrap().into_messages();
    for n in 0..50 {
        messages.send_data(message(n)).await.unwrap();
        assert!(messages.get_data(LIMIT).await.unwrap().unwrap() == message(n));
    }
    messages.finish().await.unwrap();
    assert_eq!(messages.get_data(LIMIT).await.unwrap(), None);
    assert_eq!(messages.get_data(None).await.unwrap(), None);
}
