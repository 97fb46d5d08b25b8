//! What a relay between two agents can do to them, and what each grade of secrecy lets it read: every manipulation is
//! found, or does no harm.

use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use underpass_endpoint::{ConnectError, OpenOptions, PeerTrust, Session};
use underpass_proto::grade::RecordKeys;
use underpass_proto::handshake::{Accepting, Answered, Connecting};
use underpass_proto::packet::{HelloTarget, Packet, PacketKind};
use underpass_proto::session::{Config, LegId};
use underpass_proto::{Code, Grade, Role, Time};
use underpass_seal::{ComparisonCode, Fingerprint, PublicKey, StaticKey};

use crate::between::{Between, Passing, Way, holds};
use crate::stage::{Agent, Only, in_time};

/// What the user says, again and again, among other bytes. The answer is the same with one bit of each byte turned.
const QUESTION: &[u8] = b"a canary that only two may hear sing";
/// Questions in one conversation.
const ROUNDS: usize = 40;
/// Bytes of each.
const SIZE: usize = 3000;

fn answer_to(question: &[u8]) -> Vec<u8> {
    question.iter().map(|byte| byte ^ 1).collect()
}

/// A user and the publisher of "db", with a relay between them that has its own mind.
struct Play {
    between: Between,
    user: Agent,
    publisher: Agent,
    /// The services that channels named, as the publisher saw them, and of which grade the session was.
    asked: Arc<Mutex<Vec<(String, Grade)>>>,
}

impl Play {
    async fn new(lowest: Grade, mischief: impl FnMut(&mut Passing) + Send + 'static) -> Self {
        let between = Between::start(mischief).await;
        let user = Agent::attach(between.address, StaticKey::generate()).await;
        let publisher = Agent::attach(between.address, StaticKey::generate()).await;
        between.attached(user.key.public()).await;
        between.lead("db", publisher.key.public()).await;
        let asked = serve(&publisher, lowest);
        Self {
            between,
            user,
            publisher,
            asked,
        }
    }

    /// The user talks with the publisher of "db", whose key it knows. What comes back must be right to the last byte.
    async fn talk(&self, grade: Grade) -> Result<(), Code> {
        self.talk_with(&Only(self.publisher.key.public()), grade)
            .await
    }

    async fn talk_with(&self, trust: &dyn PeerTrust, grade: Grade) -> Result<(), Code> {
        let connecting = self.user.attachment.connect_graded("db", trust, grade);
        let session = in_time("connecting", connecting).await;
        let session = session.map_err(|error: ConnectError| error.code())?;
        let talked = in_time("a conversation", converse(&session)).await;
        session.close(Code::NoError, "done");
        talked
    }

    fn sessions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn converse(session: &Session) -> Result<(), Code> {
    let channel = session.open("db", OpenOptions::default()).await;
    let channel = channel.map_err(|error| error.code())?;
    let (mut reader, mut writer) = channel.into_split();
    for round in 0..ROUNDS {
        let mut question = vec![round as u8; SIZE];
        question[round..round + QUESTION.len()].copy_from_slice(QUESTION);
        let expected = answer_to(&question);
        let wrote = writer.write_chunk(question.into()).await;
        wrote.map_err(|error| error.code())?;
        let mut got = Vec::new();
        while got.len() < SIZE {
            let chunk = reader.read_chunk().await.map_err(|error| error.code())?;
            got.extend_from_slice(&chunk.ok_or(Code::Aborted)?);
        }
        assert!(got == expected, "wrong bytes in round {round}");
    }
    Ok(())
}

fn serve(publisher: &Agent, lowest: Grade) -> Arc<Mutex<Vec<(String, Grade)>>> {
    let asked: Arc<Mutex<Vec<(String, Grade)>>> = Arc::default();
    let noted = asked.clone();
    publisher.attachment.serve_graded(
        move |_| lowest,
        move |session, peer| {
            let noted = noted.clone();
            tokio::spawn(async move {
                while let Some(incoming) = session.accept().await {
                    let name = incoming.service().to_owned();
                    noted.lock().unwrap().push((name, peer.grade));
                    let (mut reader, mut writer) = incoming.accept().into_split();
                    tokio::spawn(async move {
                        while let Ok(Some(chunk)) = reader.read_chunk().await {
                            let answer = Bytes::from(answer_to(&chunk));
                            if writer.write_chunk(answer).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        },
    );
    asked
}

/// One way to manipulate what passes, and what comes of it.
struct Case {
    name: &'static str,
    mischief: Box<dyn FnMut(&mut Passing) + Send>,
    /// What the user sees: all bytes right, or why not.
    user: Result<(), Code>,
    /// What the publisher says, where it refuses something.
    publisher: Option<Code>,
}

fn case(
    name: &'static str,
    user: Result<(), Code>,
    publisher: Option<Code>,
    mischief: impl FnMut(&mut Passing) + Send + 'static,
) -> Case {
    Case {
        name,
        mischief: Box::new(mischief),
        user,
        publisher,
    }
}

/// The first and the thirtieth of both ways' records, at which the session is young, and well under way.
fn at_times(it: &Passing) -> bool {
    it.is_record() && [1, 30].contains(&it.nth)
}

fn cases() -> Vec<Case> {
    use PacketKind::{Answer, Finish, Hello, Resume};
    let protocol = Code::ProtocolViolation;
    let mut held: Option<Vec<u8>> = None;
    let mut old: Option<Vec<u8>> = None;
    vec![
        case("nothing", Ok(()), None, |_| ()),
        case(
            "a record is changed",
            Ok(()),
            Some(Code::CorruptPath),
            |it| {
                if at_times(it) {
                    it.flip();
                }
            },
        ),
        case(
            "a record's header is changed",
            Ok(()),
            Some(Code::CorruptPath),
            |it| {
                if at_times(it) {
                    it.packets[0][2] ^= 1;
                }
            },
        ),
        case(
            "a record is cut short",
            Ok(()),
            Some(Code::CorruptPath),
            |it| {
                if at_times(it) {
                    let half = it.packets[0].len() / 2;
                    it.packets[0].truncate(half);
                }
            },
        ),
        case("every tenth record is lost", Ok(()), None, |it| {
            if it.is_record() && it.nth % 10 == 9 {
                it.packets.clear();
            }
        }),
        case("every record comes twice", Ok(()), None, |it| {
            if it.is_record() {
                it.packets.push(it.packets[0].clone());
            }
        }),
        case("records overtake each other", Ok(()), None, move |it| {
            if it.way != Way::There || !it.is_record() {
                return;
            }
            match held.take() {
                Some(earlier) => it.packets.push(earlier),
                None if it.nth % 10 == 5 => held = it.packets.pop(),
                None => {}
            }
        }),
        case(
            "a request to resume comes again later",
            Ok(()),
            Some(Code::StaleResume),
            move |it| {
                if it.is_record() && it.way == Way::There && [5, 20].contains(&it.nth) {
                    it.flip();
                }
                if it.is(Way::There, Resume) && it.nth < 2 {
                    let this = it.packets[0].clone();
                    match old.take() {
                        Some(earlier) => it.packets[0] = earlier,
                        None => old = Some(this),
                    }
                }
            },
        ),
        case(
            "the first message is changed",
            Err(protocol),
            Some(protocol),
            |it| {
                if it.kind == Hello {
                    it.flip();
                }
            },
        ),
        case("the second message is changed", Err(protocol), None, |it| {
            if it.kind == Answer {
                it.flip();
            }
        }),
        case(
            "the third message is changed once",
            Ok(()),
            Some(protocol),
            |it| {
                if it.kind == Finish && it.nth == 0 {
                    it.flip();
                }
            },
        ),
        case(
            "the user is announced with another key",
            Err(Code::KeyMismatch),
            Some(Code::KeyMismatch),
            |it| {
                if let Some(incoming) = &mut it.incoming {
                    incoming.machine = [7; 32];
                }
            },
        ),
        case(
            "the user is announced for another service",
            Ok(()),
            None,
            |it| {
                if let Some(incoming) = &mut it.incoming {
                    incoming.service = "web".into();
                }
            },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_to_packets_is_found_or_does_no_harm() {
    println!(
        "{:40} | the user sees     | the publisher says",
        "manipulation"
    );
    for case in cases() {
        let Case {
            name,
            mischief,
            user,
            publisher,
        } = case;
        let play = Play::new(Grade::Blind, mischief).await;
        let saw = play.talk(Grade::Blind).await;
        let said = play.between.seen(|seen| seen.gone.clone());
        let word = |saw: &Result<(), Code>| saw.map_or_else(Code::up, |()| "every byte right");
        println!("{name:40} | {:17} | {said:?}", word(&saw));
        assert_eq!(saw, user, "{name}");
        if let Some(code) = publisher {
            assert!(said.contains(&code), "{name}: {said:?}");
        }
        // Whatever the relay says, the publisher serves what the user asked for, and only to whom it was asked by.
        let asked = play.asked.lock().unwrap().clone();
        let expected = saw.map(|()| ("db".to_owned(), Grade::Blind)).ok();
        assert_eq!(asked, Vec::from_iter(expected), "{name}");
        let heard = [QUESTION.to_vec(), answer_to(QUESTION)];
        for canary in heard {
            assert!(!play.between.seen(|seen| seen.holds(&canary)), "{name}");
        }
    }
}

/// Answers every handshake in the publisher's place with a key of the relay's own, and makes one of its own with the
/// publisher: the man in the middle.
fn man_in_the_middle(
    key: Arc<StaticKey>,
    own: Arc<OnceLock<Fingerprint>>,
) -> impl FnMut(&mut Passing) + Send {
    let mut answer: Option<Vec<u8>> = None;
    let mut connecting: Option<Connecting> = None;
    let mut answered: Option<Answered> = None;
    let bytes = |packet: &Packet| [&[packet.kind.code()], &packet.body[..]].concat();
    move |it| {
        let relay = own.get().unwrap().as_bytes();
        let packet = Packet::parse_unframed(it.packets[0].clone().into()).unwrap();
        let (config, end, mut rng) = (Config::default, HelloTarget::Endpoint, rand::rng());
        match (it.way, it.kind) {
            (Way::There, PacketKind::Hello) => {
                let fake = Accepting::start(config(), &key, end, relay, packet.body, &mut rng);
                answer = Some(bytes(&fake.unwrap().1));
                let (begun, hello) =
                    Connecting::start(config(), &key, end, relay, &mut rng).unwrap();
                connecting = Some(begun);
                it.packets[0] = bytes(&hello);
            }
            (Way::Back, PacketKind::Answer) => {
                let begun = connecting.take().unwrap();
                answered = Some(begun.handle_answer(packet).unwrap());
                it.packets[0] = answer.take().unwrap();
            }
            (Way::There, PacketKind::Finish) => {
                let (_, finish) = answered
                    .take()
                    .unwrap()
                    .finish(LegId(0), Time::ZERO)
                    .unwrap();
                it.packets[0] = bytes(&finish);
            }
            _ => {}
        }
    }
}

/// Trusts whoever comes first, as nobody should who can do better; and tells who it was.
#[derive(Default)]
struct Anyone(Mutex<Option<PublicKey>>);

impl PeerTrust for Anyone {
    fn check(&self, _service: &str, peer: &PublicKey) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(*peer);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_swapped_are_not_those_that_are_known() {
    let (evil, own) = (Arc::new(StaticKey::generate()), Arc::new(OnceLock::new()));
    let play = Play::new(Grade::Blind, man_in_the_middle(evil.clone(), own.clone())).await;
    own.set(play.between.fingerprint).unwrap();
    // Who knows the publisher's key turns away before having said who it is.
    assert_eq!(play.talk(Grade::Blind).await, Err(Code::KeyMismatch));
    assert_eq!(play.sessions(), 0);
    // Who does not is let in by the relay, but not by the publisher: it expects the key that it was told of.
    let anyone = Anyone::default();
    assert!(play.talk_with(&anyone, Grade::Blind).await.is_err());
    assert_eq!(play.sessions(), 0);
    assert!(
        play.between
            .seen(|seen| seen.gone.contains(&Code::KeyMismatch))
    );
    // And two people who compare what they see at both ends see two codes.
    let shown = anyone.0.lock().unwrap().unwrap();
    assert_eq!(shown, evil.public());
    let code = |one: PublicKey, other: PublicKey| {
        ComparisonCode::of(&one.fingerprint(), &other.fingerprint())
    };
    let (user, publisher) = (play.user.key.public(), play.publisher.key.public());
    assert_ne!(code(user, shown), code(publisher, evil.public()));
    assert_eq!(code(user, publisher), code(publisher, user));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_publisher_is_not_the_one_that_is_known() {
    let play = Play::new(Grade::Blind, |_| ()).await;
    let mallory = Agent::attach(play.between.address, StaticKey::generate()).await;
    let asked = serve(&mallory, Grade::None);
    play.between.lead("db", mallory.key.public()).await;
    assert_eq!(play.talk(Grade::Blind).await, Err(Code::KeyMismatch));
    assert_eq!(asked.lock().unwrap().len(), 0);
    play.between.lead("db", play.publisher.key.public()).await;
    assert_eq!(play.talk(Grade::Blind).await, Ok(()));
}

/// In whatever direction the relay changes the grade, and whatever the publisher allows: nobody gets a session of
/// another grade than the user chose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grade_cannot_be_changed_on_the_way() {
    for (chosen, made) in [
        (Grade::Blind, Grade::None),
        (Grade::Blind, Grade::Relay),
        (Grade::Relay, Grade::None),
        (Grade::None, Grade::Blind),
    ] {
        let was = chosen.target();
        let play = Play::new(Grade::None, move |it| {
            if it.kind != PacketKind::Hello {
                return;
            }
            // Behind kind, magic, two versions of one byte each, and the session.
            let at = 1 + 4 + 2 + 16;
            assert_eq!(it.packets[0][at], was.code());
            it.packets[0][at] = made.target().code();
        })
        .await;
        let saw = play.talk(chosen).await;
        assert_eq!(saw, Err(Code::ProtocolViolation), "{chosen} to {made}");
        assert_eq!(play.sessions(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_takes_no_grade_that_it_does_not_allow() {
    for lowest in Grade::ALL {
        let play = Play::new(lowest, |_| ()).await;
        for grade in Grade::ALL {
            let expected = if grade >= lowest {
                Ok(())
            } else {
                Err(Code::GradeRefused)
            };
            assert_eq!(play.talk(grade).await, expected, "{grade}, lowest {lowest}");
        }
        let grades: Vec<Grade> = play.asked.lock().unwrap().iter().map(|it| it.1).collect();
        let allowed = Grade::ALL.into_iter().filter(|grade| *grade >= lowest);
        assert!(grades.into_iter().eq(allowed));
    }
}

/// The frames in all records of one way that these keys open, one after the other.
fn opened(play: &Play, keys: &RecordKeys, way: Way) -> Vec<u8> {
    let sender = match way {
        Way::There => Role::Initiator,
        Way::Back => Role::Responder,
    };
    let mut reader = keys.reader(sender);
    play.between.seen(|seen| {
        let of_way = seen.packets.iter().filter(|(it, _)| *it == way);
        let frames = of_way.filter_map(|(_, packet)| reader.open(packet));
        frames.flat_map(Vec::from).collect()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_grade_lets_the_relay_read_what_it_says_and_no_more() {
    let canaries = [QUESTION.to_vec(), answer_to(QUESTION)];
    for grade in Grade::ALL {
        let play = Play::new(Grade::None, |_| ()).await;
        assert_eq!(play.talk(grade).await, Ok(()));
        let seen = |canary: &[u8]| play.between.seen(|seen| seen.holds(canary));
        let in_clear = canaries.each_ref().map(|canary| seen(canary));
        assert_eq!(in_clear, [grade == Grade::None; 2], "{grade}");
        let graded = play.between.seen(|seen| seen.graded.clone());
        match &graded[..] {
            [] => assert_eq!(grade, Grade::Blind),
            [told] => {
                assert_eq!(told.grade, grade);
                assert_eq!(told.keys.is_empty(), grade == Grade::None);
            }
            several => panic!("{several:?}"),
        }
        if grade != Grade::Relay {
            continue;
        }
        let keys = RecordKeys::decode(graded[0].keys.clone()).unwrap();
        let [there, back] = [Way::There, Way::Back].map(|way| opened(&play, &keys, way));
        assert!(holds(&there, &canaries[0]) && !holds(&there, &canaries[1]));
        assert!(holds(&back, &canaries[1]) && !holds(&back, &canaries[0]));
    }
}

/// Keys that were updated are read too, and a session that goes on by another route tells the keys again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_given_the_keys_reads_on() {
    let play = Play::new(Grade::Relay, |it| {
        if it.is_record() && it.way == Way::There && it.nth == 60 {
            it.flip();
        }
    })
    .await;
    let trust = Only(play.publisher.key.public());
    let connecting = play
        .user
        .attachment
        .connect_graded("db", &trust, Grade::Relay);
    let session = in_time("connecting", connecting).await.unwrap();
    assert_eq!(session.status().grade, Grade::Relay);
    for _ in 0..3 {
        in_time("talking", converse(&session)).await.unwrap();
        session.update_keys();
    }
    assert!(session.status().resumes >= 1);
    let graded = play.between.seen(|seen| seen.graded.clone());
    assert!(graded.len() >= 2, "{} times", graded.len());
    for told in [&graded[0], &graded[graded.len() - 1]] {
        let keys = RecordKeys::decode(told.keys.clone()).unwrap();
        let there = opened(&play, &keys, Way::There);
        let last = [ROUNDS as u8 - 1; 16];
        assert!(holds(&there, QUESTION) && holds(&there, &last));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everybody_may_read_nobody_can_change() {
    let play = Play::new(Grade::None, |it| {
        if !it.is_record() || ![2, 30].contains(&it.nth) {
            return;
        }
        // What a user says is plain to see, and to change.
        let packet = &mut it.packets[0];
        let at = packet.windows(QUESTION.len()).position(|it| it == QUESTION);
        let at = at.unwrap_or(packet.len() / 2);
        packet[at..at + 4].copy_from_slice(b"evil");
    })
    .await;
    assert_eq!(play.talk(Grade::None).await, Ok(()));
    assert!(
        play.between
            .seen(|seen| seen.gone.contains(&Code::CorruptPath))
    );
}
