//! `underpass meet`

use std::time::Duration;

use clap::Args;
use underpass_agent::connect::{Local, PinnedTrust};
use underpass_agent::meet::{Doors, Encounter, Meeting, Pair, keep_pair, serve_all};
use underpass_agent::publish::{Speech, Target};
use underpass_agent::status::{Board, PairReport, PairShown, StatusServer};
use underpass_agent::{Rendezvous, Standings};
use underpass_proto::Code;
use underpass_proto::frame::ChannelKind;
use underpass_proto::meeting::ANYBODY;
use underpass_proto::session::Closed;
use underpass_seal::Fingerprint;

use super::connect::check_reach;
use super::publish::check_target;
use super::signals::{stop_asked, stop_or_hang_up};
use super::{Context, EnrolledAtAll, errors, log_notices};
use crate::failure::Failure;
use crate::ready;
use crate::settings::{Flags, OnMeet, PairSetting, Span};
use crate::standard;

/// Meet another user for an application, where neither side publishes anything
///
/// Both sides name each other and the same application; whoever comes first waits. What one side writes the other one
/// reads: without --listen and --target from standard input to standard output, one connection, and this ends with it.
/// What the other user publishes under that name is met as well, where this user may use it. docs/rendezvous.md has all
/// answers and their exit codes.
#[derive(Debug, Args)]
pub struct Meet {
    /// The user to meet; or *: whoever wishes to meet this user for the application may come
    #[arg(
        value_name = "USER",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    user: Option<String>,
    /// What for: a name that both sides agree on
    #[arg(value_name = "APPLICATION", required_unless_present = "all")]
    application: Option<String>,
    /// Take connections of programs here, each of which leads to the other side's --target
    #[arg(long, value_name = "LOCAL", conflicts_with = "all")]
    listen: Option<Local>,
    /// Where the other side's connections lead to
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "all")]
    target: Option<String>,
    /// How long to wait for the other side, such as 30s, before this exits with 6; if not given, without a limit
    #[arg(long, value_name = "TIME", conflicts_with = "all")]
    wait: Option<Span>,
    /// Keep all pairs of the settings file connected ([[pair]], with user, application, and listen, target or both),
    /// until stopped
    #[arg(long)]
    all: bool,
    /// The fingerprint that the other side's machine must show, if it was learnt from its user; it takes the place of the
    /// one that is pinned
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "all")]
    peer_key: Option<Fingerprint>,
    /// Write a newline to this file descriptor when the other side is there; with *, or --all, when this side waits
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    pub flags: Flags<OnMeet>,
}

/// An agent that meets others.
struct Meeter {
    board: Board,
    rendezvous: Rendezvous,
    standings: Standings,
    relay: String,
    _status: StatusServer,
}

impl Meet {
    /// Meets, until it is over or told to stop.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let pairs = self.pairs(&context)?;
        for pair in &pairs {
            check(&context, pair)?;
        }
        let talks = !self.all && pairs.iter().all(PairSetting::has_no_doors);
        let board = Board::new("meet");
        let EnrolledAtAll { standings, first } = tokio::select! {
            enrolled = context.enrolled_at_all(true) => enrolled?,
            () = stop_asked()? => return Ok(()),
        };
        board.show_standings(standings.clone());
        let status = StatusServer::start(&context.home, board.clone())?;
        tokio::spawn(log_notices(standings.clone()));
        let trust = PinnedTrust::new(context.home.clone(), first.key, self.peer_key);
        let meeter = Meeter {
            rendezvous: Rendezvous::new(standings.clone(), trust, board.clone()),
            board,
            standings: standings.clone(),
            relay: first.url,
            _status: status,
        };
        let outcome = match &pairs[..] {
            [pair] if talks => {
                // What was stopped half way must not look complete to a shell.
                let cut_short = || Failure::of_code(Code::Cancelled, &trying(pair));
                tokio::select! {
                    outcome = self.talk(&context, &meeter, pair) => outcome,
                    () = stop_or_hang_up()? => Err(cut_short()),
                }
            }
            [pair] if !self.all => tokio::select! {
                outcome = self.once(&context, &meeter, pair) => outcome,
                () = stop_asked()? => Ok(()),
            },
            pairs => tokio::select! {
                outcome = self.keep(&context, &meeter, pairs) => outcome,
                () = stop_asked()? => Ok(()),
            },
        };
        standings.detach().await;
        outcome
    }

    /// The pair that was named, or those of the settings file.
    fn pairs(&self, context: &Context) -> Result<Vec<PairSetting>, Failure> {
        if self.all {
            let pairs = context.pairs.clone();
            if pairs.is_empty() {
                return Err(Failure::usage(
                    "the settings file has no [[pair]] to be kept connected",
                ));
            }
            if let Some(pair) = pairs.iter().find(|pair| pair.has_no_doors()) {
                return Err(Failure::usage(format!(
                    "the pair {} {} has neither listen nor target",
                    pair.user, pair.application
                )));
            }
            return Ok(pairs);
        }
        let (Some(user), Some(application)) = (&self.user, &self.application) else {
            return Err(Failure::usage("who is to be met, and what for?"));
        };
        Ok(vec![PairSetting {
            user: user.clone(),
            application: application.clone(),
            listen: self.listen,
            target: self.target.clone(),
        }])
    }

    fn limit(&self) -> Option<Duration> {
        self.wait.map(|Span(limit)| limit)
    }

    /// Standard input and output.
    async fn talk(
        &self,
        context: &Context,
        meeter: &Meeter,
        pair: &PairSetting,
    ) -> Result<(), Failure> {
        let shown = meeter.board.show_pair(report(pair));
        let mut meeting = begin(context, meeter, pair).await?;
        let met = meeting.next(self.limit()).await;
        let met = met.map_err(|error| meeter.failure(&error, pair))?;
        shown.set("connected");
        let service = format!("{} for {}", pair.user, pair.application);
        let mut signalled = Ok(());
        let ready = || signalled = ready::signal(self.ready_fd);
        let (input, output) = (tokio::io::stdin(), standard::Output::new());
        let done = met.talk(context.settings.class.0, ready, input, output);
        let done = done.await;
        meeting.part().await;
        done.map_err(|error| errors::of_nc(&error, &service))?;
        signalled
    }

    /// Local programs and hosts, until the other side ends it; for whoever comes, until stopped.
    async fn once(
        &self,
        context: &Context,
        meeter: &Meeter,
        pair: &PairSetting,
    ) -> Result<(), Failure> {
        let doors = doors(context, pair)?;
        let shown = meeter.show(pair, &doors);
        let mut meeting = begin(context, meeter, pair).await?;
        if pair.user == ANYBODY {
            tell_waiting(context, pair, &doors)?;
            ready::signal(self.ready_fd)?;
            let first = meeting.next(self.limit()).await;
            let first = first.map_err(|error| meeter.failure(&error, pair))?;
            let error = serve_all(&mut meeting, &doors, &shown, Some(first)).await;
            return Err(meeter.failure(&error, pair));
        }
        let met = meeting.next(self.limit()).await;
        let met = met.map_err(|error| meeter.failure(&error, pair))?;
        shown.set("connected");
        tell_met(context, pair, &doors, &met)?;
        ready::signal(self.ready_fd)?;
        let closed = doors.serve(met).await;
        meeting.part().await;
        over_for(context, pair, &closed)
    }

    /// All pairs of the settings file.
    async fn keep(
        &self,
        context: &Context,
        meeter: &Meeter,
        pairs: &[PairSetting],
    ) -> Result<(), Failure> {
        let mut keeping = tokio::task::JoinSet::new();
        for pair in pairs {
            let doors = doors(context, pair)?;
            tell_waiting(context, pair, &doors)?;
            let shown = meeter.show(pair, &doors);
            let rendezvous = meeter.rendezvous.clone();
            let pair = Pair {
                user: pair.user.clone(),
                application: pair.application.clone(),
            };
            keeping.spawn(async move { keep_pair(&rendezvous, &pair, &doors, &shown).await });
        }
        ready::signal(self.ready_fd)?;
        let ended = meeter.standings.fleet().ended().await;
        Err(errors::of_attach(&ended, &meeter.relay))
    }
}

/// Makes the wish, and says so where nobody is there yet.
async fn begin(context: &Context, meeter: &Meeter, pair: &PairSetting) -> Result<Meeting, Failure> {
    let PairSetting {
        user, application, ..
    } = pair;
    let meeting = meeter.rendezvous.meet(user, application).await;
    let meeting = meeting.map_err(|error| meeter.failure(&error, pair))?;
    if meeting.is_alone() {
        let whom = match user.as_str() {
            ANYBODY => "anybody",
            user => user,
        };
        context.output.message(&format!(
            "waiting for {whom} to come for {application}; there: underpass meet YOU {application}"
        ));
    }
    Ok(meeting)
}

impl Meeter {
    fn show(&self, pair: &PairSetting, doors: &Doors) -> PairShown {
        let listen = doors.local().map(|local| local.to_string());
        self.board.show_pair(PairReport {
            listen: listen.unwrap_or_default(),
            ..report(pair)
        })
    }

    fn failure(&self, error: &underpass_agent::meet::MeetError, pair: &PairSetting) -> Failure {
        errors::of_meet(error, &trying(pair), &self.relay)
    }
}

fn trying(pair: &PairSetting) -> String {
    let PairSetting {
        user, application, ..
    } = pair;
    format!("cannot meet {user} for {application}")
}

fn report(pair: &PairSetting) -> PairReport {
    PairReport {
        user: pair.user.clone(),
        application: pair.application.clone(),
        state: "waiting".to_owned(),
        listen: pair.listen.map(|it| it.to_string()).unwrap_or_default(),
        target: pair.target.clone().unwrap_or_default(),
    }
}

/// What does not fit is told before anything is tried.
fn check(context: &Context, pair: &PairSetting) -> Result<(), Failure> {
    if let Some(local) = pair.listen {
        if local.kind != ChannelKind::Stream {
            return Err(Failure::usage(format!(
                "{local}: those who meet exchange connections, not datagrams; for datagrams publish a service"
            )));
        }
        if pair.user == ANYBODY {
            return Err(Failure::usage(
                "with * several may come, and --listen would not know whom a program means: name the user, or use --target",
            ));
        }
        check_reach(context, local)?;
    }
    match &pair.target {
        Some(target) if Target::read(target).kind != ChannelKind::Stream => {
            Err(Failure::usage(format!(
                "{target}: those who meet exchange connections, not datagrams; for datagrams publish a service"
            )))
        }
        Some(target) if Target::read(target).speech != Speech::Any => Err(Failure::usage(format!(
            "{target}: those who meet exchange connections as they are; publish a service for what needs more"
        ))),
        Some(target) => check_target(target),
        None => Ok(()),
    }
}

fn doors(context: &Context, pair: &PairSetting) -> Result<Doors, Failure> {
    let settings = &context.settings;
    let listen = pair
        .listen
        .map(|it| (it.address, settings.allow_from.clone()));
    let target = pair.target.clone();
    let doors = Doors::new(listen, target, settings.dial_timeout.0, settings.class.0);
    doors.map_err(|error| Failure::local(&crate::failure::LISTEN, error.to_string()))
}

/// ` is at ADDRESS`, ` leads to HOST`, or both.
fn places(doors: &Doors) -> String {
    let local = doors.local().map(|local| format!(" is at {local}"));
    let target = doors.target().map(|target| format!(" leads to {target}"));
    let all: Vec<String> = target.into_iter().chain(local).collect();
    all.join(" and")
}

fn tell_met(
    context: &Context,
    pair: &PairSetting,
    doors: &Doors,
    met: &Encounter,
) -> Result<(), Failure> {
    let places = places(doors);
    let Encounter { user, machine, .. } = met;
    context.output.result(
        &format!("{} with {user}{places}", pair.application),
        &serde_json::json!({
            "application": pair.application,
            "user": user,
            "machine": machine.fingerprint().to_string(),
            "listen": doors.local().map(|it| it.to_string()),
            "target": doors.target(),
        }),
    )
}

fn tell_waiting(context: &Context, pair: &PairSetting, doors: &Doors) -> Result<(), Failure> {
    let places = places(doors);
    context.output.result(
        &format!("{} with {}{places}", pair.application, pair.user),
        &serde_json::json!({
            "application": pair.application,
            "user": pair.user,
            "listen": doors.local().map(|it| it.to_string()),
            "target": doors.target(),
        }),
    )
}

/// Whether the other side has ended it in order.
fn over_for(context: &Context, pair: &PairSetting, closed: &Closed) -> Result<(), Failure> {
    let PairSetting {
        user, application, ..
    } = pair;
    match Code::from_number(closed.code) {
        Some(Code::NoError | Code::GoingAway) => {
            context
                .output
                .message(&format!("{user} has ended {application}"));
            Ok(())
        }
        code => {
            let trying = format!("{application} with {user} broke");
            Err(Failure::of_code(code.unwrap_or(Code::Internal), &trying))
        }
    }
}
