//! What a login by password tells whoever has none.

use std::time::Instant;

use underpass_proto::control::{Prove, SignIn};
use underpass_seal::password::{Login, Registration, Server};
use underpass_store::PasswordFile;

use super::*;

/// Logins of each kind that are measured.
const LOGINS: usize = 200;
/// The most rounds of measuring: what is different is so in every one, what the machine does otherwise is not.
const ROUNDS: usize = 5;

/// An office in which bob has a password.
async fn office() -> Arc<Office> {
    let office = Office::new().await;
    let fresh = underpass_store::PasswordSecret([0; 128]);
    let kept = office.store.password_secret(&fresh);
    let server = Server::from_bytes(&kept.await.unwrap().0).unwrap();
    let (registration, message) = Registration::start(b"correct horse").unwrap();
    let answer = server.register("bob", &message).unwrap();
    let file = PasswordFile(registration.finish("bob", &answer).unwrap());
    let bob = Name::new("bob").unwrap();
    let bob = office.store.user_by_name(&bob).await.unwrap().unwrap();
    office.store.set_password(bob.id, &file, NOW).await.unwrap();
    Arc::new(office)
}

fn caller(attachment: u64, address: Option<String>) -> Caller {
    Caller {
        attachment: AttachmentId(attachment),
        key: [90; 32],
        origin: Origin::Agent,
        handshake_hash: [90; 32],
        address,
    }
}

async fn answer(office: &Office, caller: &Caller, request: Control) -> Vec<Control> {
    let draw: Box<Draw> = Box::new(|| [0; 16]);
    office.desk.answer(caller, request, NOW, &draw).await
}

fn sign_in(user: &str, message: [u8; 96]) -> Control {
    SignIn {
        request: 1,
        user: user.to_owned(),
        message,
    }
    .into()
}

/// A login as `user` without the password: what is answered, the challenge apart, and how long both answers took.
async fn guess(office: &Office, user: &str, message: [u8; 96]) -> (Vec<Control>, Duration) {
    let caller = caller(90, None);
    let proof = Prove {
        request: 2,
        machine: "laptop".to_owned(),
        message: [7; 64],
    };
    let begun = Instant::now();
    let challenge = answer(office, &caller, sign_in(user, message)).await;
    let refused = answer(office, &caller, proof.into()).await;
    let took = begun.elapsed();
    assert!(
        matches!(challenge[..], [Control::Challenge(_)]),
        "{challenge:?}"
    );
    (refused, took)
}

fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

#[tokio::test]
async fn an_unknown_user_is_answered_as_a_wrong_password_is_and_as_fast() {
    let office = office().await;
    let (_, message) = Login::start(b"guess").unwrap();
    // bob has a password, alice is known and has none, nobody is there.
    let users = ["bob", "alice", "nobody"];
    let mut told = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = [const { Vec::new() }; 3];
        for n in 0..LOGINS * 3 {
            let which = (n + n / 3) % 3;
            let (refused, took) = guess(&office, users[which], message).await;
            let [Control::Failed(failed)] = &refused[..] else {
                panic!("{refused:?}");
            };
            let expected = Refusal::of(Code::WrongPassword);
            assert_eq!(
                (failed.code, &failed.text),
                (expected.code.number(), &expected.text)
            );
            times[which].push(took);
        }
        let medians = times.map(|mut times| quantile(&mut times, 0.5).as_secs_f64());
        let ratios = [medians[1] / medians[0], medians[2] / medians[0]];
        if ratios.iter().all(|ratio| (0.95..1.05).contains(ratio)) {
            return;
        }
        told.push((medians, ratios));
    }
    panic!("times tell which users exist: medians in s and ratios to a wrong password {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_guesses_of_one_address_slow_nobody_else() {
    let office = office().await;
    let (_, message) = Login::start(b"guess").unwrap();
    // The others come from an address each, as their counting is by address.
    let others = async |round: usize| {
        let mut times = Vec::new();
        for n in 0..LOGINS {
            let other = caller(91, Some(format!("10.{round}.{}.{}:1", n / 250, n % 250)));
            let begun = Instant::now();
            let answers = answer(&office, &other, sign_in("bob", message)).await;
            times.push(begun.elapsed());
            assert!(
                matches!(answers[..], [Control::Challenge(_)]),
                "{answers:?}"
            );
        }
        quantile(&mut times, 0.99)
    };
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let alone = others(2 * round).await;
        let guessing = tokio::spawn({
            let office = Arc::clone(&office);
            async move {
                let eve = caller(92, Some("198.51.100.7:1".to_owned()));
                let mut challenged = 0;
                for _ in 0..10_000 {
                    match &answer(&office, &eve, sign_in("bob", message)).await[..] {
                        [Control::Challenge(_)] => challenged += 1,
                        [Control::Failed(failed)] => {
                            assert_eq!(failed.code, Code::TooManyAttempts.number());
                        }
                        other => panic!("{other:?}"),
                    }
                }
                challenged
            }
        });
        let beside = others(2 * round + 1).await;
        let challenged = guessing.await.unwrap();
        assert!(challenged < 20, "{challenged} of 10,000 were looked at");
        if beside <= alone * 2 {
            return;
        }
        told.push((alone, beside));
    }
    panic!("others are slowed: their p99 alone and beside the guesses {told:?}");
}
