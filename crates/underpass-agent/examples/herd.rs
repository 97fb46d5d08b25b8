//! Many agents in one process, each with an attachment of its own, to see what a relay bears and how they
//! come back to it. Five of them share a machine's key, as the programs that run on one machine do.
//!
//! `herd URL COUNT CODE`, COUNT being a multiple of five and CODE being the relay's setup code: its first administrator invites the others.
//! Prints `attached COUNT`. A line on standard input begins a count; from then on it prints `back N` when
//! N agents, each counted once, have introduced themselves in a new hop session.

use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use underpass_agent::{Reach, RequestError, Standing, StandingError};
use underpass_carrier::{ClientSettings, KINDS, RelayUrl};
use underpass_endpoint::AscentSettings;
use underpass_proto::control::CodeKind;
use underpass_proto::session::Config;
use underpass_seal::{Fingerprint, StaticKey};

/// Agents with the same key.
const EACH: usize = 5;
/// A machine that a slow relay does not enrol in time tries so often.
const TRIES: usize = 5;
/// Machines that enrol at a time: fewer than a relay takes of strangers from one address.
const AT_ONCE: usize = 12;
/// How often it is told how many are back.
const TELL: Duration = Duration::from_millis(50);
/// Between attempts to introduce oneself.
const AGAIN: Duration = Duration::from_millis(200);

/// Where all of them go.
#[derive(Clone)]
struct Way {
    relay: RelayUrl,
    relay_key: Option<Fingerprint>,
}

impl Way {
    async fn attach(
        &self,
        number: usize,
        identity: &Arc<StaticKey>,
    ) -> Result<Standing, StandingError> {
        let reach = Reach {
            relay: self.relay.clone(),
            relay_key: self.relay_key,
            carriers: KINDS.iter().collect(),
            ascent: AscentSettings::default(),
            client: ClientSettings::default(),
            session: Config::default(),
            patience: Duration::from_secs(60),
            machine_name: format!("m{number}"),
            announced_by: None,
        };
        let attached = Standing::attach(&reach, Arc::clone(identity)).await;
        attached.map(|(standing, _)| standing)
    }

    /// The other agents of a machine that has one.
    async fn attach_others(
        &self,
        first: Standing,
        number: usize,
        identity: &Arc<StaticKey>,
    ) -> Result<Vec<Standing>, Error> {
        let mut all = vec![first];
        while all.len() < EACH {
            let standing = self.attach(number, identity).await?;
            standing.who_am_i().await?;
            all.push(standing);
        }
        Ok(all)
    }

    /// Enrols a machine and attaches its agents.
    async fn enrol(&self, root: &Standing, number: usize) -> Result<Vec<Standing>, Error> {
        let identity = Arc::new(StaticKey::generate());
        let invited = root.invite("herd", 0).await?;
        let standing = self.attach(number, &identity).await?;
        let (code, machine) = (&invited.code, format!("m{number}"));
        standing
            .enrol(CodeKind::Invite, code, "herd", &machine)
            .await?;
        self.attach_others(standing, number, &identity).await
    }
}

/// Who has come back since the count was begun.
struct Count {
    /// How many times a count was begun.
    begun: watch::Sender<usize>,
    back: AtomicUsize,
}

/// Keeps an agent introduced, and counts it once in each count.
async fn stay(standing: Standing, count: Arc<Count>) {
    let mut counted_in = 0;
    let mut session = standing.attachment().session();
    while standing.attachment().session_changed(&session).await {
        session = standing.attachment().session();
        while let Err(error) = standing.who_am_i().await {
            if !matches!(error, RequestError::Control(_)) || !error.code().retry_helps() {
                eprintln!("an agent is refused: {error}");
            }
            tokio::time::sleep(AGAIN).await;
        }
        let begun = *count.begun.borrow();
        if counted_in < begun {
            counted_in = begun;
            count.back.fetch_add(1, Ordering::AcqRel);
        }
    }
    eprintln!(
        "an agent has ended: {}",
        standing.attachment().ended().await
    );
}

async fn enrol_all(url: &str, count: usize, code: &str) -> Result<Vec<Standing>, Error> {
    let mut way = Way {
        relay: url.parse()?,
        relay_key: None,
    };
    let identity = Arc::new(StaticKey::generate());
    let root = way.attach(0, &identity).await?;
    way.relay_key = Some(root.attachment().relay_key().fingerprint());
    root.enrol(CodeKind::Setup, code, "root", "m0").await?;
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut coming = tokio::task::JoinSet::new();
    for number in 1..count / EACH {
        let (way, root, gate) = (way.clone(), root.clone(), Arc::clone(&gate));
        coming.spawn(async move {
            let _turn = gate.acquire().await;
            let mut tried = 1;
            loop {
                // A name that an earlier try may have taken is not used again.
                match way.enrol(&root, number + tried * count).await {
                    Err(error) if tried < TRIES => eprintln!("trying again: {error}"),
                    outcome => return outcome,
                }
                tried += 1;
            }
        });
    }
    let mut all = way.attach_others(root, 0, &identity).await?;
    while let Some(some) = coming.join_next().await {
        all.extend(some??);
    }
    Ok(all)
}

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, count, code] = &arguments[..] else {
        return Err("herd URL COUNT CODE".into());
    };
    let all = enrol_all(url, count.parse()?, code).await?;
    println!("attached {}", all.len());
    let count = Arc::new(Count {
        begun: watch::Sender::new(0),
        back: AtomicUsize::new(0),
    });
    for standing in all {
        tokio::spawn(stay(standing, Arc::clone(&count)));
    }
    let counting = Arc::clone(&count);
    tokio::task::spawn_blocking(move || {
        for _ in std::io::stdin().lock().lines() {
            counting.back.store(0, Ordering::Release);
            counting.begun.send_modify(|begun| *begun += 1);
        }
        // Whoever started it is gone.
        std::process::exit(0);
    });
    let mut told = 0;
    loop {
        tokio::time::sleep(TELL).await;
        let back = count.back.load(Ordering::Acquire);
        if back != told {
            println!("back {back}");
            told = back;
        }
    }
}
