//! `underpass status`

use std::time::Duration;

use clap::Args;
use underpass_agent::home::KnownRelay;
use underpass_agent::status::{
    AgentReport, CarrierReport, LegReport, PairReport, RankReport, RelayReport, SessionReport,
    ask_all,
};
use underpass_proto::Grade;
use underpass_proto::control::Identity;

use super::Context;
use crate::commands::users::role_word;
use crate::failure::Failure;
use crate::output::{Rows, printable};
use crate::settings::{Flags, ToRelay};

/// A relay must answer within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// Show this machine's identity, its relays, and what its running agents do
///
/// Columns in a pipe: `machine` and its fingerprint; `relay`, address, reachable or why not, user,
/// machine, role, key, where it is known from (config: a login or --relay; or announced by another); `agent`, process, command, relay, carrier, seconds in use or missing, drops
/// survived, seconds of the last resume, round trip in ms; `rank`, process, place, address, carrier and the reason,
/// and where it is known from, for each relay where an agent uses several; `entry`, process, service, address; `pair`,
/// process, user, application, `waiting` or `connected` or what is in the way, local address, target;
/// `session`, process, service, user, round trip in ms, bytes per second, resumes, channels, peer, grade of secrecy; `leg`, process,
/// what carries it, what it does, round trip in ms, bytes per second, bytes sent, received, for each leg of the
/// session before it where several carry it at once; and
/// as the last column of `agent` and `session` the story of its path in words, which the log has too:
/// what carries it, since when, what it survived, what it waits for.
#[derive(Debug, Args)]
pub struct Status {
    /// Only what is known on this machine: do not ask the relays
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
}

/// What a relay said when it was asked.
struct Seen {
    relay: KnownRelay,
    /// Whom it takes us for, or why it could not be asked.
    answer: Option<Result<Identity, Failure>>,
}

impl Status {
    /// Gathers and prints it.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let fingerprint = context.home.fingerprint()?.to_string();
        let agents = ask_all(&context.home).await?;
        let mut relays = Vec::new();
        for relay in self.relays(&context)? {
            let answer = match self.offline {
                true => None,
                false => Some(ask(&context, &relay).await),
            };
            relays.push(Seen { relay, answer });
        }
        let json = serde_json::json!({
            "machine": fingerprint,
            "relays": relays.iter().map(Seen::to_json).collect::<Vec<_>>(),
            "agents": agents,
        });
        if context.output.for_people() {
            return context
                .output
                .result(&for_people(&fingerprint, &relays, &agents), &json);
        }
        let mut cells = vec![vec!["machine".to_owned(), fingerprint]];
        cells.extend(relays.iter().map(Seen::cells));
        cells.extend(agents.iter().flat_map(agent_cells));
        context.output.rows(&Rows {
            columns: &[],
            cells,
            json,
        })
    }

    /// All relays, or the one that was asked for.
    fn relays(&self, context: &Context) -> Result<Vec<KnownRelay>, Failure> {
        if !context.settings.relay.0.is_empty() {
            return context.known_relays();
        }
        let mut all = context.home.relays()?.list().to_vec();
        let groups = all.iter().filter_map(|login| context.group_of(login));
        for announced in groups.flatten().collect::<Vec<_>>() {
            if all.iter().all(|known| known.key != announced.key) {
                all.push(announced);
            }
        }
        Ok(all)
    }
}

async fn ask(context: &Context, relay: &KnownRelay) -> Result<Identity, Failure> {
    let limit = ANSWER_LIMIT.min(context.settings.patience.0);
    let asking = async {
        let (standing, identity) = context.attach(relay).await?;
        standing.attachment().detach().await;
        Ok(identity)
    };
    tokio::time::timeout(limit, asking)
        .await
        .unwrap_or_else(|_| {
            let what = format!("the relay {} did not answer within {limit:?}", relay.url);
            Err(Failure::local(&crate::failure::NO_PATH, what))
        })
}

impl Seen {
    fn state(&self) -> String {
        match &self.answer {
            None => "not asked".to_owned(),
            Some(Ok(identity)) if identity.user.is_empty() => "not enrolled".to_owned(),
            Some(Ok(_)) => "reachable".to_owned(),
            Some(Err(failure)) => failure.up.to_owned(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let Self { relay, answer } = self;
        let role = answer
            .as_ref()
            .and_then(|it| it.as_ref().ok())
            .map(|it| role_word(it.role));
        let error = answer
            .as_ref()
            .and_then(|it| it.as_ref().err())
            .map(Failure::to_json);
        serde_json::json!({
            "url": relay.url,
            "key": relay.key.to_string(),
            "user": relay.user,
            "machine": relay.machine,
            "role": role,
            "state": self.state(),
            "known_from": known_from(relay.announced_by.as_deref()),
            "announced_by": relay.announced_by,
            "group": relay.group.map(|group| group.to_string()),
            "error": error.map(|it| it["error"].clone()),
        })
    }

    fn cells(&self) -> Vec<String> {
        let relay = &self.relay;
        let role = match &self.answer {
            Some(Ok(identity)) => role_word(identity.role),
            _ => "",
        };
        vec![
            "relay".to_owned(),
            relay.url.clone(),
            self.state(),
            relay.user.clone(),
            relay.machine.clone(),
            role.to_owned(),
            relay.key.to_string(),
            known_from(relay.announced_by.as_deref()),
        ]
    }
}

/// Where a relay is known from: what somebody said on this machine, or whose list.
fn known_from(announced_by: Option<&str>) -> String {
    announced_by.map_or_else(|| "config".to_owned(), |by| format!("announced by {by}"))
}

fn number(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}")).unwrap_or_default()
}

fn agent_cells(agent: &AgentReport) -> Vec<Vec<String>> {
    let pid = agent.pid.to_string();
    let mut first = vec!["agent".to_owned(), pid.clone(), agent.command.clone()];
    if let Some(relay) = &agent.relay {
        first.extend([
            relay.url.clone(),
            relay.carrier.clone().unwrap_or_default(),
            number(Some(relay.since_s)),
            relay.drops.to_string(),
            number(relay.last_resume_s),
            number(relay.rtt_ms),
            relay.path.words.clone(),
        ]);
    }
    let mut rows = vec![first];
    let several = agent.relays.iter().filter(|_| agent.relays.len() > 1);
    rows.extend(several.zip(1..).map(|(relay, place): (_, usize)| {
        vec![
            "rank".to_owned(),
            pid.clone(),
            place.to_string(),
            relay.url.clone(),
            relay.carrier.clone().unwrap_or_default(),
            relay.why.clone(),
            known_from(relay.announced_by.as_deref()),
        ]
    }));
    rows.extend(agent.entries.iter().map(|entry| {
        vec![
            "entry".to_owned(),
            pid.clone(),
            entry.service.clone(),
            entry.address.clone(),
        ]
    }));
    rows.extend(agent.pairs.iter().map(|pair| {
        let PairReport {
            user,
            application,
            state,
            listen,
            target,
        } = pair.clone();
        vec![
            "pair".to_owned(),
            pid.clone(),
            user,
            application,
            state,
            listen,
            target,
        ]
    }));
    for session in &agent.sessions {
        rows.push(session_cells(session, &pid));
        let several = session.legs.iter().filter(|_| session.legs.len() > 1);
        rows.extend(several.map(|leg| leg_cells(leg, &pid)));
    }
    rows
}

fn session_cells(session: &SessionReport, pid: &str) -> Vec<String> {
    vec![
        "session".to_owned(),
        pid.to_owned(),
        session.service.clone(),
        session.user.clone().unwrap_or_default(),
        number(session.rtt_ms),
        session.bytes_per_s.to_string(),
        session.resumes.to_string(),
        session.channels.to_string(),
        session.peer.clone(),
        session.grade.clone(),
        session.path.words.clone(),
    ]
}

fn for_people(fingerprint: &str, relays: &[Seen], agents: &[AgentReport]) -> String {
    let mut lines = vec![format!("this machine's key is {fingerprint}")];
    if relays.is_empty() {
        lines.push("it has not logged in to any relay; next: underpass login RELAY".to_owned());
    }
    for seen in relays {
        let relay = &seen.relay;
        let from = relay
            .announced_by
            .as_deref()
            .map(|by| format!(", announced by {by}"));
        lines.push(format!(
            "\nrelay {}: {}{}",
            relay.url,
            seen.state(),
            from.unwrap_or_default()
        ));
        lines.push(format!(
            "  as {} on {}, relay's key {}",
            relay.user, relay.machine, relay.key
        ));
        if let Some(Err(failure)) = &seen.answer {
            lines.push(format!("  {}", failure.what));
        }
    }
    for agent in agents {
        let running = Duration::from_secs(agent.running_s as u64);
        lines.push(format!(
            "\nunderpass {} (process {}), running for {}",
            agent.command,
            agent.pid,
            humantime::format_duration(running)
        ));
        lines.extend(agent.relay.as_ref().map(relay_story));
        lines.extend(ranking(&agent.relays));
        lines.extend(agent.entries.iter().map(|entry| match &entry.trouble {
            None => format!("  {} at {}", entry.service, entry.address),
            Some(why) => format!("  {} is not at {}: {why}", entry.service, entry.address),
        }));
        lines.extend(agent.pairs.iter().map(pair_story));
        for session in &agent.sessions {
            lines.push(session_story(session));
            lines.extend(legs(&session.legs));
            let relays = ranking(&session.relays);
            lines.extend(relays.iter().map(|line| format!("  {line}")));
        }
    }
    if agents.is_empty() {
        lines.push("\nno agent is running for this home".to_owned());
    }
    let lines: Vec<String> = lines
        .iter()
        .flat_map(|line| line.split('\n'))
        .map(printable)
        .collect();
    lines.join("\n")
}

fn relay_story(relay: &RelayReport) -> String {
    let rtt = relay
        .rtt_ms
        .map(|rtt| format!("; round trip {rtt:.1} ms"))
        .unwrap_or_default();
    let opened = relay
        .tls_opened_by
        .as_ref()
        .map(|issuer| {
            format!("\n  outer TLS is opened on the way by {issuer}; what is inside stays sealed")
        })
        .unwrap_or_default();
    let mut story = format!("  {}{rtt}{opened}", relay.path.words);
    for carrier in &relay.carriers {
        story.extend(why_not(carrier).map(|line| format!("\n    {line}")));
    }
    story
}

/// What each leg carries, where there are several.
fn legs(legs: &[LegReport]) -> Vec<String> {
    let line = |leg: &LegReport| {
        let rtt = leg.rtt_ms.map(|rtt| format!(", round trip {rtt:.1} ms"));
        format!(
            "    {}: {}{}, {} bytes/s, {} bytes sent, {} received",
            leg.carried_by,
            leg_state(leg),
            rtt.unwrap_or_default(),
            leg.bytes_per_s,
            leg.sent,
            leg.received,
        )
    };
    let several = legs.iter().filter(|_| legs.len() > 1);
    several.map(line).collect()
}

fn leg_state(leg: &LegReport) -> &'static str {
    // Where each direction has legs of its own, one that sends takes nothing.
    match (leg.answers, leg.leads, leg.sends, leg.takes) {
        (false, ..) => "does not answer",
        (true, _, false, _) => "carries what comes in",
        (true, true, true, false) => "leads what goes out",
        (true, true, true, true) => "leads",
        (true, false, true, false) => "takes its share of what goes out",
        (true, false, true, true) => "takes its share of what is much",
    }
}

fn leg_cells(leg: &LegReport, pid: &str) -> Vec<String> {
    vec![
        "leg".to_owned(),
        pid.to_owned(),
        leg.carried_by.clone(),
        leg_state(leg).to_owned(),
        number(leg.rtt_ms),
        leg.bytes_per_s.to_string(),
        leg.sent.to_string(),
        leg.received.to_string(),
    ]
}

/// The place of each relay and why, where there are several.
fn ranking(relays: &[RankReport]) -> Vec<String> {
    let several = relays.iter().zip(1..).filter(|_| relays.len() > 1);
    let line = |(relay, place): (&RankReport, usize)| {
        let carrier = relay.carrier.as_ref();
        let by = carrier
            .map(|carrier| format!(" by {carrier}"))
            .unwrap_or_default();
        let from = relay
            .announced_by
            .as_ref()
            .map(|by| format!(", announced by {by}"));
        let from = from.unwrap_or_default();
        format!("  relay {place}: {}{by}: {}{from}", relay.url, relay.why)
    };
    several.map(line).collect()
}

/// Why a carrier is not in use, where something is known about it.
fn why_not(carrier: &CarrierReport) -> Option<String> {
    let name = &carrier.name;
    if let (Some(reason), Some(retry_s)) = (&carrier.reason, carrier.retry_s) {
        let retry = match retry_s {
            soon if soon < 1.0 => "next try soon".to_owned(),
            later => {
                let later = Duration::from_secs(later as u64);
                format!("next try in {}", humantime::format_duration(later))
            }
        };
        return Some(format!("not {name}: {reason}; {retry}"));
    }
    (carrier.state == "trying").then(|| format!("trying {name}"))
}

fn pair_story(pair: &PairReport) -> String {
    let PairReport {
        user,
        application,
        state,
        listen,
        target,
    } = pair;
    let place = |what: &str, place: &String| match place.as_str() {
        "" => String::new(),
        place => format!(", {what} {place}"),
    };
    let (listen, target) = (place("at", listen), place("leads to", target));
    format!("  {application} with {user}: {state}{listen}{target}")
}

fn session_story(session: &SessionReport) -> String {
    let who = session
        .user
        .as_ref()
        .map(|user| format!(" used by {user}"))
        .unwrap_or_default();
    let rtt = session
        .rtt_ms
        .map(|rtt| format!(", {rtt:.1} ms"))
        .unwrap_or_default();
    let readers = session.grade.parse().map(Grade::readers);
    format!(
        "  session: {}{who}, {} connections, {} B/s{rtt}\n    grade {}: {}\n    {}",
        session.service,
        session.channels,
        session.bytes_per_s,
        session.grade,
        readers.unwrap_or("not known to this version"),
        session.path.words
    )
}

#[cfg(test)]
mod tests {
    use underpass_agent::status::PathReport;

    use super::*;

    #[test]
    fn a_path_tells_its_story() {
        let words = "carried by ws for 1 min 1 s, no drops";
        let mut relay = RelayReport {
            url: "http://r".into(),
            key: String::new(),
            carrier: Some("ws".into()),
            tls: None,
            since_s: 61.5,
            drops: 0,
            last_resume_s: None,
            waiting_for: None,
            carriers: Vec::new(),
            proxy: None,
            tls_opened_by: None,
            rtt_ms: Some(12.34),
            path: PathReport {
                words: words.into(),
                ..PathReport::default()
            },
        };
        assert_eq!(
            relay_story(&relay),
            format!("  {words}; round trip 12.3 ms")
        );
        let carrier = |name: &str, state: &str, failed: Option<(&str, f64)>| CarrierReport {
            name: name.into(),
            state: state.into(),
            reason: failed.map(|it| it.0.into()),
            retry_s: failed.map(|it| it.1),
        };
        relay.carriers = vec![
            carrier(
                "upgrade",
                "failed",
                Some(("refused with HTTP status 403", 61.2)),
            ),
            carrier("posts", "trying", None),
            carrier("ws", "in use", None),
            carrier("poll", "untried", None),
        ];
        assert_eq!(
            relay_story(&relay),
            format!(
                "  {words}; round trip 12.3 ms\n    \
                 not upgrade: refused with HTTP status 403; next try in 1m 1s\n    trying posts"
            )
        );
        relay.carriers.clear();
        relay.tls_opened_by = Some("Box of Acme".into());
        assert_eq!(
            relay_story(&relay),
            format!(
                "  {words}; round trip 12.3 ms\n  \
                 outer TLS is opened on the way by Box of Acme; what is inside stays sealed"
            )
        );
    }

    #[test]
    fn several_relays_stand_in_their_order() {
        let relay = |url: &str, carrier: Option<&str>, why: &str| RankReport {
            url: url.into(),
            chosen: carrier.is_some(),
            reached: carrier.is_some(),
            why: why.into(),
            carrier: carrier.map(str::to_owned),
            announced_by: None,
        };
        let one = relay(
            "http://a",
            Some("ws"),
            "3.0 ms to the relay and back; in use",
        );
        assert_eq!(ranking(std::slice::from_ref(&one)), [""; 0]);
        assert_eq!(
            ranking(&[one, relay("http://b", None, "not reached")]),
            [
                "  relay 1: http://a by ws: 3.0 ms to the relay and back; in use",
                "  relay 2: http://b: not reached",
            ]
        );
    }

    #[test]
    fn a_session_tells_its_story() {
        let session = SessionReport {
            service: "db.alice".into(),
            user: Some("bob".into()),
            peer: String::new(),
            grade: "relay".into(),
            rtt_ms: Some(3.0),
            bytes_per_s: 7,
            resumes: 1,
            detached_for_s: None,
            channels: 2,
            unacknowledged: 0,
            unread: 0,
            path: PathReport {
                words: "no path for 3.0 s, waiting for the far end, no drops".into(),
                ..PathReport::default()
            },
            legs: Vec::new(),
            relays: Vec::new(),
        };
        let story = session_story(&session);
        let (first, second) = story.split_once('\n').unwrap();
        assert!(
            first.contains("db.alice") && first.contains("bob"),
            "{first}"
        );
        assert_eq!(
            second,
            "    grade relay: readable by the relay\n    \
             no path for 3.0 s, waiting for the far end, no drops"
        );
    }
    #[test]
    fn several_legs_tell_what_they_carry() {
        let leg = |carried_by: &str, leads, answers| LegReport {
            carried_by: carried_by.into(),
            leads,
            sends: true,
            takes: true,
            answers,
            rtt_ms: leads.then_some(3.0),
            bytes_per_s: 7,
            sent: 8,
            received: 9,
        };
        let first = leg("ws through a", true, true);
        assert_eq!(legs(std::slice::from_ref(&first)), [""; 0]);
        let lines = legs(&[first, leg("h2 through b", false, false)]);
        assert_eq!(
            lines,
            [
                "    ws through a: leads, round trip 3.0 ms, 7 bytes/s, 8 bytes sent, 9 received",
                "    h2 through b: does not answer, 7 bytes/s, 8 bytes sent, 9 received",
            ]
        );
        let state = |leads, sends, takes| {
            let leg = LegReport {
                sends,
                takes,
                ..leg("h2 through b", leads, true)
            };
            leg_state(&leg)
        };
        assert_eq!(state(false, true, true), "takes its share of what is much");
        assert_eq!(state(true, true, false), "leads what goes out");
        assert_eq!(
            state(false, true, false),
            "takes its share of what goes out"
        );
        assert_eq!(state(false, false, true), "carries what comes in");
    }
}
