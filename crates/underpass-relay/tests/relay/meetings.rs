//! Meeting by user and application, with what a relay alone decides.

use std::time::Duration;

use tokio::sync::mpsc;
use underpass_endpoint::{PeerInfo, Session};
use underpass_proto::Code;
use underpass_proto::control::{CodeKind, Control, Meet, Met, Part};

use crate::stage::{Agent, Stage, exchange, in_time, until};

fn wish(peer: &str) -> Meet {
    Meet {
        request: 0,
        application: "chat".into(),
        peer: peer.into(),
        holder: [1; 16],
        only: [0; 32],
    }
}

/// Whom the relay says is there.
async fn meet(who: &Agent, wish: &Meet) -> Result<Option<Met>, Code> {
    let make = |request| {
        Meet {
            request,
            ..wish.clone()
        }
        .into()
    };
    match &who.ask(make).await?[..] {
        [Control::Met(met)] => Ok(Some(met.clone())),
        [Control::Done(_)] => Ok(None),
        other => panic!("{other:?}"),
    }
}

async fn part(who: &Agent, wish: &Meet) {
    let Meet {
        application,
        peer,
        holder,
        ..
    } = wish.clone();
    let make = |request| {
        Part {
            request,
            application,
            peer,
            holder,
        }
        .into()
    };
    who.ask(make).await.unwrap();
}

/// The sessions that come to where an agent waits; its channels send back what came.
fn waits(who: &Agent) -> mpsc::UnboundedReceiver<(Session, PeerInfo)> {
    let (sender, sessions) = mpsc::unbounded_channel();
    who.attachment.serve_meetings(move |session, peer| {
        sender.send((session.clone(), peer)).unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = session.accept().await {
                let (mut reader, mut writer) = incoming.accept().into_split();
                while let Ok(Some(chunk)) = reader.read_chunk().await {
                    writer.write_chunk(chunk).await.unwrap();
                }
                writer.finish().await.unwrap();
            }
        });
    });
    sessions
}

/// One who opens, one who waits, and what the first one was told.
async fn in_parts<'a>(one: &'a Agent, other: &'a Agent) -> (&'a Agent, &'a Agent, Met) {
    let names = [
        one.who_am_i().await.unwrap().user,
        other.who_am_i().await.unwrap().user,
    ];
    let wishes = names.map(|name| wish(&name));
    meet(one, &wishes[1]).await.unwrap();
    let last = meet(other, &wishes[0]).await.unwrap().unwrap();
    match last.opens {
        true => (other, one, last),
        false => (one, other, meet(one, &wishes[1]).await.unwrap().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_reaches_who_waits_and_nobody_else_does() {
    let stage = Stage::new().await;
    let alice = stage.administrator().await;
    let bob = stage.invited(&alice, "bob").await;
    let carol = stage.invited(&alice, "carol").await;
    let (opens, waiting, met) = in_parts(&alice, &bob).await;
    assert!(met.opens && met.machine == waiting.key.public().0);
    let mut came = waits(waiting);
    let session = opens.connect(&met.service, &waiting.key).await.unwrap();
    let (_, peer) = in_time("the session", came.recv()).await.unwrap();
    assert_eq!(peer.machine, opens.key.public(), "the key is proven");
    assert_eq!(peer.service, met.service);
    assert_eq!(
        exchange(&session, "chat", vec![7; 100_000]).await.len(),
        100_000
    );

    let refused = carol.connect(&met.service, &waiting.key).await;
    assert_eq!(refused.err(), Some(Code::Denied));
    let oneself = waiting.connect(&met.service, &waiting.key).await;
    assert_eq!(oneself.err(), Some(Code::Oneself));
    let wrong = opens.connect("@meet/chat/x/y", &waiting.key).await;
    assert_eq!(wrong.err(), Some(Code::NameInvalid));

    // Another machine of whoever has met somebody comes too late.
    let user = opens.who_am_i().await.unwrap().user;
    let code = alice.invite(&user).await.unwrap();
    let second = stage.stranger().await;
    second
        .enrol(CodeKind::Invite, &code, "", "second")
        .await
        .unwrap();
    let refused = second.connect(&met.service, &waiting.key).await;
    assert_eq!(refused.err(), Some(Code::Connected));
    let other = waiting.who_am_i().await.unwrap().user;
    assert_eq!(meet(&second, &wish(&other)).await, Ok(None));
    // Until the first one is done.
    let mut changes = second.control.meetings();
    part(opens, &wish(&other)).await;
    in_time("the relay's word", changes.changed())
        .await
        .unwrap();
    let met = meet(&second, &wish(&other)).await.unwrap().unwrap();
    assert_eq!(met.machine, waiting.key.public().0);
}

/// Of two that wish at the same moment each is told of the other, and one of them that it opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_wish_at_the_same_moment_meet() {
    let stage = Stage::new().await;
    let alice = stage.administrator().await;
    let bob = stage.invited(&alice, "bob").await;
    for round in 0..20 {
        let wishes = ["bob", "admin"].map(|peer| Meet {
            application: format!("chat-{round}"),
            ..wish(peer)
        });
        let mut told = [alice.control.meetings(), bob.control.meetings()];
        let (first, second) = tokio::join!(meet(&alice, &wishes[0]), meet(&bob, &wishes[1]));
        let mut met = [first.unwrap(), second.unwrap()];
        for (at, who) in [&alice, &bob].into_iter().enumerate() {
            if met[at].is_none() {
                in_time("the relay's word", told[at].changed())
                    .await
                    .unwrap();
                met[at] = meet(who, &wishes[at]).await.unwrap();
            }
        }
        let [alices, bobs] = met.map(Option::unwrap);
        assert_eq!(alices.service, bobs.service, "round {round}");
        assert_ne!(alices.opens, bobs.opens, "round {round}");
        assert_eq!(alices.machine, bob.key.public().0);
    }
}

/// Two users may publish the same name: both do, and who may use both has to say which. Of two machines of one user
/// one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_published_by_two_at_the_same_moment() {
    let stage = Stage::new().await;
    let admin = stage.administrator().await;
    let bob = stage.invited(&admin, "bob").await;
    let carol = stage.invited(&admin, "carol").await;
    let code = admin.invite("carol").await.unwrap();
    let second = stage.stranger().await;
    second
        .enrol(CodeKind::Invite, &code, "", "second")
        .await
        .unwrap();
    for round in 0..10 {
        let name = format!("db-{round}");
        let (by_bob, by_carol, by_second) = tokio::join!(
            bob.publish(&name),
            carol.publish(&name),
            second.publish(&name)
        );
        assert!(by_bob.is_ok(), "round {round}");
        let codes = [by_carol.err(), by_second.err()];
        let one = codes == [None, Some(Code::Exists)] || codes == [Some(Code::Exists), None];
        assert!(one, "round {round}: {codes:?}");
        bob.allow("admin", &name).await.unwrap();
        carol.allow("admin", &name).await.unwrap();
        assert_eq!(admin.resolve(&name).await.err(), Some(Code::NameAmbiguous));
        assert!(admin.resolve(&format!("{name}.bob")).await.is_ok());
    }
}

/// Whoever opens a route in the moment in which the wish is taken back is refused, or led there and then cut: no route
/// is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_open_while_a_wish_is_taken_back_has_one_outcome() {
    let stage = Stage::new().await;
    let alice = stage.administrator().await;
    let bob = stage.invited(&alice, "bob").await;
    let _came = waits(&bob);
    // Bob waits, whoever has the smaller key.
    let anybody = wish("*");
    for round in 0..10 {
        meet(&bob, &anybody).await.unwrap();
        let met = meet(&alice, &wish("bob")).await.unwrap().unwrap();
        let parting = async {
            // From well before the route is there to well after.
            tokio::time::sleep(Duration::from_micros(round * 800)).await;
            part(&bob, &anybody).await;
        };
        let connecting = alice.connect(&met.service, &bob.key);
        let outcome = async {
            tokio::select! {
                outcome = connecting => Some(outcome),
                // What was refused is tried again for a while: somebody may wait there soon.
                () = tokio::time::sleep(Duration::from_millis(300)) => None,
            }
        };
        let (outcome, ()) = tokio::join!(outcome, parting);
        if let Some(outcome) = outcome {
            let session = outcome.unwrap();
            session.close(Code::NoError, "seen");
        }
        until("routes to go", || stage.relay.load().0.routes == 0).await;
        part(&alice, &wish("bob")).await;
    }
}
