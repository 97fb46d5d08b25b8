//! What running agents tell `underpass status`, and take from other commands.

mod ask;
mod board;
mod socket;
mod steer;

use serde::{Deserialize, Serialize};
use underpass_carrier::ladder::{RungState, RungStory};
use underpass_endpoint::choice::Presence;
use underpass_endpoint::story::Told;
use underpass_endpoint::{AttachStatus, LegStatus, MemberStatus};

pub use ask::{StatusServer, ask_all};
pub use board::{Board, PairShown, SessionEntry, Shown};
pub use steer::{Order, OrderServer, retarget};

/// One running agent. Times are in seconds, rates in bytes per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its process.
    pub pid: u32,
    /// What it does: `publish`, `connect` or `nc`.
    pub command: String,
    /// For how long it has been running.
    pub running_s: f64,
    /// Its way to the relay that it uses, once there was one.
    pub relay: Option<RelayReport>,
    /// All its relays, the one in use first, then the next best.
    #[serde(default)]
    pub relays: Vec<RankReport>,
    /// What it publishes: full name and target; or listens for: service and local address.
    pub entries: Vec<EntryReport>,
    /// Whom it meets, or waits for.
    #[serde(default)]
    pub pairs: Vec<PairReport>,
    /// Its sessions from end to end.
    pub sessions: Vec<SessionReport>,
}

/// A service that is published, or a local listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// The service's name.
    pub service: String,
    /// The published host, or the local address.
    pub address: String,
    /// Why nothing is taken there; none where it is as it should be.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Somebody whom an agent meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairReport {
    /// The user, or `*`.
    pub user: String,
    /// What for.
    pub application: String,
    /// `waiting`, `connected`, or what is in the way.
    pub state: String,
    /// The local address that leads there, or nothing.
    pub listen: String,
    /// The host that the other side is led to, or nothing.
    pub target: String,
}

/// The place of one relay among those of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// Its address.
    pub url: String,
    /// Whether it is the one to use.
    pub chosen: bool,
    /// Whether it is attached to, and a carrier works.
    pub reached: bool,
    /// Why it has this place, in words.
    pub why: String,
    /// The carrier in use.
    pub carrier: Option<String>,
    /// The relay whose signed list it was learnt from; none where it was logged in to, or named.
    #[serde(default)]
    pub announced_by: Option<String>,
}

impl RankReport {
    pub(crate) fn new(member: &MemberStatus, announced_by: Option<String>) -> Self {
        let MemberStatus {
            name,
            ranked,
            attachment,
            ended,
            retired,
        } = member;
        let carrier = attachment.as_ref().and_then(|it| it.carrier.as_ref());
        Self {
            url: name.clone(),
            chosen: ranked.chosen,
            reached: ranked.presence == Presence::Alive,
            why: match ended {
                Some(ended) => format!("given up: {ended}"),
                None if *retired => "being left: its group does not name it any more".to_owned(),
                None => ranked.words.clone(),
            },
            carrier: carrier.map(|info| info.carrier.to_owned()),
            announced_by,
        }
    }
}

/// The way to the relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    /// Address.
    pub url: String,
    /// Fingerprint of its key.
    pub key: String,
    /// The carrier in use; none while a new one is sought.
    pub carrier: Option<String>,
    /// What TLS agreed on, for https.
    pub tls: Option<String>,
    /// For how long the carrier has been in use, or missing.
    pub since_s: f64,
    /// How often the path was lost and made anew.
    pub drops: u64,
    /// How long that took the last time.
    pub last_resume_s: Option<f64>,
    /// Why there is no carrier at the moment.
    pub waiting_for: Option<String>,
    /// What is known of each carrier that may be used, the first choice first.
    #[serde(default)]
    pub carriers: Vec<CarrierReport>,
    /// The proxy that is passed, and whether by a tunnel or by requests.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Who opens TLS on the way.
    #[serde(default)]
    pub tls_opened_by: Option<String>,
    /// Round trip to the relay, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Its story.
    #[serde(default)]
    pub path: PathReport,
}

/// The story of a path: what carries it, what it survived, what it waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// All of it in words, as the log has them.
    pub words: String,
    /// What carries it; none while nothing does.
    pub carried_by: Option<String>,
    /// For how long it is carried, or not.
    pub since_s: f64,
    /// How often it was lost and made anew.
    pub survived: u64,
    /// How often it went over to another path while the one before worked.
    pub moved: u64,
    /// How it came to the present path.
    pub last_resume: Option<ResumeReport>,
    /// What a path that is missing waits for.
    pub waiting: Option<WaitingReport>,
}

/// How a path came to go on the last time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResumeReport {
    /// How long ago.
    pub ago_s: f64,
    /// For how long nothing carried it before.
    pub took_s: f64,
    /// Why.
    pub because: String,
}

/// What a path waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingReport {
    /// `the relay`, `the far end`, `a login` or `an approval`.
    pub r#for: String,
    /// More about it; may be empty.
    pub reason: String,
    /// In how many seconds the next attempt follows.
    pub next_try_s: Option<f64>,
}

impl From<&Told> for PathReport {
    fn from(told: &Told) -> Self {
        let Told {
            by,
            since,
            drops,
            moves,
            last,
            waiting,
        } = told;
        Self {
            words: told.to_string(),
            carried_by: by.clone(),
            since_s: since.as_secs_f64(),
            survived: *drops,
            moved: *moves,
            last_resume: last.map(|last| ResumeReport {
                ago_s: last.ago.as_secs_f64(),
                took_s: last.took.as_secs_f64(),
                because: last.why.words().to_owned(),
            }),
            waiting: waiting.as_ref().map(|waiting| WaitingReport {
                r#for: waiting.what.words().to_owned(),
                reason: waiting.reason.clone(),
                next_try_s: waiting.next_try.map(|time| time.as_secs_f64()),
            }),
        }
    }
}

/// What is known of one carrier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarrierReport {
    /// Its name.
    pub name: String,
    /// `in use`, `trying`, `untried` or `failed`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// In how many seconds it may be tried again.
    pub retry_s: Option<f64>,
}

impl From<&RungStory> for CarrierReport {
    fn from(story: &RungStory) -> Self {
        let (state, failed) = match &story.state {
            RungState::InUse => ("in use", None),
            RungState::Trying => ("trying", None),
            RungState::Untried => ("untried", None),
            RungState::Failed { reason, retry_in } => ("failed", Some((reason, retry_in))),
        };
        Self {
            name: story.name.to_owned(),
            state: state.to_owned(),
            reason: failed.map(|(reason, _)| reason.clone()),
            retry_s: failed.map(|(_, retry_in)| retry_in.as_secs_f64()),
        }
    }
}

/// A session from end to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionReport {
    /// The service.
    pub service: String,
    /// Who came, for a published service.
    pub user: Option<String>,
    /// Fingerprint of the key at the other end.
    pub peer: String,
    /// Its grade of secrecy: `blind`, `relay` or `none`.
    #[serde(default)]
    pub grade: String,
    /// Round trip from end to end, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What the path was seen to deliver; 0 before it was measured.
    pub bytes_per_s: u64,
    /// How many times it went on over another leg.
    pub resumes: u64,
    /// For how long it has had no leg.
    pub detached_for_s: Option<f64>,
    /// Connections in it.
    pub channels: usize,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: u64,
    /// Bytes received and not taken by the program here.
    pub unread: u64,
    /// Its story.
    #[serde(default)]
    pub path: PathReport,
    /// What carries it, leg by leg.
    #[serde(default)]
    pub legs: Vec<LegReport>,
    /// The relays in the order in which they are best for it, where it was made from here.
    #[serde(default)]
    pub relays: Vec<RankReport>,
}

/// One of the legs that carry a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegReport {
    /// What carries it, in words.
    pub carried_by: String,
    /// What must not wait goes on it.
    pub leads: bool,
    /// This side sends on it, as far as there is something for it.
    #[serde(default)]
    pub sends: bool,
    /// The peer may send on it.
    #[serde(default)]
    pub takes: bool,
    /// Whether it answers.
    pub answers: bool,
    /// Its round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What it was seen to deliver; 0 before it was measured.
    pub bytes_per_s: u64,
    /// Bytes that were sent on it.
    pub sent: u64,
    /// Bytes that came in on it.
    pub received: u64,
}

impl From<&LegStatus> for LegReport {
    fn from(status: &LegStatus) -> Self {
        let LegStatus {
            by,
            leads,
            sends,
            takes,
            suspect,
            rtt,
            rate,
            sent,
            received,
        } = status;
        Self {
            carried_by: by.clone(),
            leads: *leads,
            sends: *sends,
            takes: *takes,
            answers: !suspect,
            rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            bytes_per_s: *rate,
            sent: *sent,
            received: *received,
        }
    }
}

impl From<&AttachStatus> for RelayReport {
    fn from(status: &AttachStatus) -> Self {
        let AttachStatus {
            relay,
            relay_key,
            carrier,
            since,
            drops,
            last_resume,
            waiting_for,
            carriers,
            tls_opened_by,
            session,
            told,
        } = status;
        Self {
            url: relay.clone(),
            key: relay_key.to_string(),
            carrier: carrier.as_ref().map(|info| info.carrier.to_owned()),
            tls: carrier
                .as_ref()
                .and_then(|info| Some(info.tls.as_ref()?.version.to_owned())),
            since_s: since.as_secs_f64(),
            drops: *drops,
            last_resume_s: last_resume.map(|time| time.as_secs_f64()),
            waiting_for: waiting_for.clone(),
            carriers: carriers.iter().map(CarrierReport::from).collect(),
            proxy: carrier.as_ref().and_then(|info| {
                let way = info.proxy.as_ref()?;
                Some(match way.tunnel {
                    true => format!("{} (tunnel)", way.proxy),
                    false => format!("{} (requests)", way.proxy),
                })
            }),
            tls_opened_by: tls_opened_by.clone(),
            rtt_ms: session.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            path: told.into(),
        }
    }
}
