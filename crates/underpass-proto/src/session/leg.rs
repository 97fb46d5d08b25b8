//! One leg as the session sees it: what state it is in, and whether it still answers.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::path::Path;
use crate::time::Time;

/// Names a leg within its session. The driver chooses it and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u64);

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leg {}", self.0)
    }
}

/// Without an expected answer for longer than this (or three round trips), a leg is suspect.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// The same for a PING that asks what has become of the last records (or two round trips). Much
/// longer than an acknowledgement may be held back.
const PROBE_AFTER: Duration = Duration::from_millis(250);
/// The same for a leg that is late (or two round trips): another one may be made ready beside it, so
/// that it is there should this one become suspect.
const LATE_AFTER: Duration = Duration::from_millis(700);
/// The round trip of a leg at work beside others is measured this often, or once in each.
const MEASURE_AFTER: Duration = Duration::from_millis(20);
/// A suspect leg is asked again this often.
const ASK_SUSPECT_AFTER: Duration = Duration::from_secs(5);
/// PINGs that are remembered. Any answer also does for those before it.
const MAX_ASKED: usize = 8;
/// A leg that stays suspect for so long is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// The wait for a suspect is doubled at most so many times: a path that needs 32 seconds for one
/// record still gets it through.
pub(super) const MAX_PATIENCE: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LegState {
    /// RESUME went out, or has come in: not yet proven.
    Resuming,
    /// Carries the session.
    Active,
}

/// A PING that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    token: u64,
    /// Index of the packet that carried it.
    index: u64,
    at: Time,
}

/// How much a missing answer has been noted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    None,
    Missing,
    Late,
}

/// How fit a leg is for what is to be sent, the fittest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// It answers.
    Fit,
    /// So it does, and this side does not want to use it.
    Spare,
    /// It has not answered yet.
    Unproven,
    /// An answer is late.
    InDoubt,
}

/// What the time brought. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// An expected answer has just become overdue enough to be asked for.
    Missing,
    /// It is so late that a replacement may be prepared.
    Late,
    /// The leg has just become suspect.
    Suspect,
    /// It has been for too long.
    Hopeless,
}

#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) state: LegState,
    pub(crate) path: Path,
    /// RESUME, RESUMED or CONFIRM, to send before any record.
    pub(crate) first: VecDeque<Bytes>,
    /// The last of these that went out, and its index: sent again if a relay says it dropped it.
    opening: Option<(u64, Bytes)>,
    /// Packets handed out for this leg so far: the index of the next one.
    pub(crate) packets: u64,
    /// Those of them that a relay said it dropped.
    pub(crate) dropped: u64,
    last_sent: Time,
    /// The peer acknowledged or answered something that was sent on this leg.
    last_answer: Time,
    /// The oldest first.
    asked: VecDeque<Asked>,
    /// The token of the PING to be answered.
    pub(crate) pong_owed: Option<u64>,
    /// What was answered last, in which packet, and when.
    ponged: Option<(u64, u64, Time)>,
    /// Since when a PING is to go out. One that cannot is as bad as one that is not answered.
    ping_owed: Option<Time>,
    doubt: Doubt,
    suspect_since: Option<Time>,
    /// Something that was sent here was answered.
    proven: bool,
    /// See [`super::Session::set_spare`].
    pub(crate) spare: bool,
    /// There was nothing for it when it last asked; kept where several legs are active.
    pub(crate) hungry: bool,
    /// When its round trip was measured last.
    measured: Time,
    /// Its acknowledgements come by another leg, and its round trip is there and back by that one.
    detour: bool,
}

impl Leg {
    pub(crate) fn new(state: LegState, packets: u64, now: Time) -> Self {
        Leg {
            state,
            path: Path::new(now),
            first: VecDeque::new(),
            opening: None,
            packets,
            dropped: 0,
            last_sent: now,
            last_answer: now,
            asked: VecDeque::new(),
            pong_owed: None,
            ponged: None,
            ping_owed: None,
            doubt: Doubt::None,
            suspect_since: None,
            proven: false,
            spare: false,
            hungry: true,
            measured: now,
            detour: false,
        }
    }

    /// The leg carries the session from now on. What is owed on it is told at once, which also
    /// shows the peer that it works.
    pub(crate) fn activate(&mut self, now: Time) {
        self.state = LegState::Active;
        self.last_answer = now;
        self.owe_ping(now);
    }

    /// A PING is to go out as soon as the leg takes one.
    pub(crate) fn owe_ping(&mut self, now: Time) {
        self.ping_owed.get_or_insert(now);
    }

    pub(crate) fn owes_ping(&self) -> bool {
        self.ping_owed.is_some()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state == LegState::Active
    }

    pub(crate) fn fitness(&self) -> Fitness {
        if self.doubt == Doubt::Late || self.is_suspect() {
            Fitness::InDoubt
        } else if !self.proven {
            Fitness::Unproven
        } else if self.spare {
            Fitness::Spare
        } else {
            Fitness::Fit
        }
    }

    /// Whether it is under suspicion.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_since.is_some()
    }

    /// Takes a round trip.
    pub(crate) fn took(&mut self, rtt: Duration, now: Time) {
        self.measured = now;
        self.path.on_rtt(rtt);
    }

    /// An acknowledgement tells the round trip, which came by another leg (`detour`) or by this one. Where that
    /// is not as before what was measured tells nothing.
    pub(crate) fn acknowledged_after(&mut self, rtt: Duration, detour: bool, now: Time) {
        if self.detour != detour {
            self.detour = detour;
            self.path = Path::new(now);
        }
        self.took(rtt, now);
    }

    /// Asks for the round trip of a leg at work, once in each: acknowledgements take the way of the
    /// leg that leads and do not tell.
    pub(crate) fn measure(&mut self, now: Time) {
        if self.asked.is_empty() && now.since(self.measured) >= MEASURE_AFTER.max(self.path.rtt()) {
            self.owe_ping(now);
        }
    }

    /// Whether it was suspected just now: the leg that takes its place took no longer to be made
    /// than this one would have had to answer.
    pub(crate) fn rightly_suspected(&self, now: Time) -> bool {
        self.suspect_since
            .is_some_and(|since| now.since(since) < SUSPECT_AFTER)
    }

    /// The peer acknowledged something new that was sent here. True where that had been in doubt.
    pub(crate) fn answered(&mut self, now: Time) -> bool {
        self.last_answer = now;
        self.proven = true;
        self.doubt = Doubt::None;
        self.suspect_since.take().is_some()
    }

    pub(crate) fn sent(&mut self, now: Time) {
        self.packets += 1;
        self.last_sent = now;
    }

    /// The next packet that must go out before any record.
    pub(crate) fn next_opening(&mut self) -> Option<Bytes> {
        let packet = self.first.pop_front()?;
        self.opening = Some((self.packets, packet.clone()));
        Some(packet)
    }

    pub(crate) fn pinged(&mut self, token: u64, now: Time) {
        self.ping_owed = None;
        if self.asked.len() == MAX_ASKED {
            // The first one tells since when an answer is missing.
            self.asked.remove(1);
        }
        self.asked.push_back(Asked {
            token,
            index: self.packets,
            at: now,
        });
    }

    pub(crate) fn pong_sent(&mut self, token: u64, now: Time) {
        self.ponged = Some((token, self.packets, now));
    }

    /// The peer asks. One that asks again so soon seems not to get the answers; who makes the legs
    /// (`maker`) has to find out.
    pub(crate) fn handle_ping(&mut self, token: u64, now: Time, maker: bool, several: bool) {
        self.pong_owed = Some(token);
        let again = self
            .ponged
            .is_some_and(|(_, _, at)| now.since(at) < SUSPECT_AFTER);
        // Where several legs are at work the peer asks to measure, too.
        let known = several && now.since(self.last_answer) < PROBE_AFTER;
        if maker && again && !known && self.asked.is_empty() {
            self.owe_ping(now);
        }
    }

    /// The peer answered a PING. Returns the index of the packet that carried it: everything that
    /// was sent here before has arrived or is lost.
    pub(crate) fn ponged(&mut self, token: u64, now: Time) -> Option<u64> {
        let position = self.asked.iter().position(|a| a.token == token)?;
        let asked = self.asked.drain(..=position).next_back()?;
        // The answer came by this leg.
        match self.detour {
            true => self.measured = now,
            false => self.took(now.since(asked.at), now),
        }
        self.answered(now);
        Some(asked.index)
    }

    /// A relay dropped some packets: what of them was neither record nor datagram goes out again.
    pub(crate) fn dropped(&mut self, first: u64, count: u64, now: Time) {
        let hit = first..first.saturating_add(count);
        self.dropped += hit.end.min(self.packets).saturating_sub(first);
        if let Some((_, packet)) = self.opening.take_if(|(index, _)| hit.contains(index)) {
            self.first.push_back(packet);
        }
        let before = self.asked.len();
        self.asked.retain(|asked| !hit.contains(&asked.index));
        if self.asked.len() < before {
            self.owe_ping(now);
        }
        if let Some((token, ..)) = self.ponged.take_if(|(_, index, _)| hit.contains(index)) {
            self.pong_owed.get_or_insert(token);
        }
    }

    /// Since when an answer is expected, given when the oldest record under way was sent.
    fn waiting_since(&self, oldest: Option<Time>) -> Option<Time> {
        let asked = self.asked.front().map(|asked| asked.at);
        let since = [oldest, asked, self.ping_owed];
        Some(since.into_iter().flatten().min()?.max(self.last_answer))
    }

    /// When this leg becomes suspect, or is given up.
    fn verdict_at(&self, oldest: Option<Time>, patience: u32) -> Option<Time> {
        if let Some(since) = self.suspect_since {
            return Some(since + GIVE_UP_AFTER);
        }
        let wait = SUSPECT_AFTER.max(self.path.rtt() * 3) * (1 << patience.min(MAX_PATIENCE));
        Some(self.waiting_since(oldest)? + wait)
    }

    /// The next thing to note of a missing answer before the leg becomes suspect, and when.
    fn doubt_at(&self, oldest: Option<Time>, patience: u32) -> Option<(Time, Doubt)> {
        let trips = self.path.rtt() * 2;
        let (wait, doubt) = match self.doubt {
            _ if self.suspect_since.is_some() => return None,
            Doubt::None => (PROBE_AFTER.max(trips), Doubt::Missing),
            Doubt::Missing => {
                let wait = LATE_AFTER.max(trips) * (1 << patience.min(MAX_PATIENCE));
                (wait, Doubt::Late)
            }
            Doubt::Late => return None,
        };
        Some((self.waiting_since(oldest)? + wait, doubt))
    }

    /// When the next PING is due: the last records wait for their acknowledgement, the last PING
    /// for its answer, or all is quiet.
    fn ping_at(&self, oldest: Option<Time>, idle: Duration) -> Option<Time> {
        if self.owes_ping() {
            return None;
        }
        let wait = PROBE_AFTER.max(self.path.rtt() * 2);
        if let Some(last) = self.asked.back() {
            let again = match self.suspect_since {
                Some(_) => ASK_SUSPECT_AFTER.max(wait),
                None => wait,
            };
            return Some(last.at + again);
        }
        let quiet = self.last_answer.min(self.last_sent) + idle;
        let probe = oldest.map(|sent| sent.max(self.last_answer) + wait);
        Some(probe.map_or(quiet, |probe| probe.min(quiet)))
    }

    /// When something is to be done for this leg.
    pub(crate) fn timeout(
        &self,
        oldest: Option<Time>,
        idle: Duration,
        patience: u32,
    ) -> Option<Time> {
        if !self.is_active() {
            return None;
        }
        let verdict = self.verdict_at(oldest, patience);
        let doubt = self.doubt_at(oldest, patience).map(|(at, _)| at);
        let ping = self.ping_at(oldest, idle);
        [verdict, doubt, ping].into_iter().flatten().min()
    }

    /// Acts on the time.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Time,
        oldest: Option<Time>,
        idle: Duration,
        patience: u32,
    ) -> Verdict {
        if !self.is_active() {
            return Verdict::Fine;
        }
        if self.ping_at(oldest, idle).is_some_and(|at| at <= now) {
            self.owe_ping(now);
        }
        let before = self.doubt;
        while let Some((at, doubt)) = self.doubt_at(oldest, patience)
            && at <= now
        {
            self.doubt = doubt;
        }
        if self.verdict_at(oldest, patience).is_none_or(|at| at > now) {
            return match self.doubt {
                doubt if doubt == before => Verdict::Fine,
                Doubt::None => Verdict::Fine,
                Doubt::Missing => Verdict::Missing,
                Doubt::Late => Verdict::Late,
            };
        }
        if self.suspect_since.is_some() {
            return Verdict::Hopeless;
        }
        self.suspect_since = Some(now);
        Verdict::Suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(15);

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    fn leg() -> Leg {
        let mut leg = Leg::new(LegState::Active, 0, Time::ZERO);
        leg.path.on_rtt(Duration::from_millis(10));
        leg
    }

    #[test]
    fn a_silent_leg_is_asked_then_suspected_then_given_up() {
        let mut leg = leg();
        let oldest = Some(at(1000));
        assert_eq!(leg.timeout(oldest, IDLE, 0), Some(at(1250)));
        let verdict = leg.handle_timeout(at(1250), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Missing);
        assert!(leg.owes_ping());
        leg.pinged(7, at(1250));
        assert_eq!(leg.timeout(oldest, IDLE, 0), Some(at(1500)), "asks again");
        leg.pinged(8, at(1500));
        assert_eq!(leg.timeout(oldest, IDLE, 0), Some(at(1700)));
        let verdict = leg.handle_timeout(at(1700), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Late);
        assert_eq!(leg.handle_timeout(at(1800), oldest, IDLE, 0), Verdict::Fine);
        leg.ping_owed = None;
        leg.pinged(9, at(2900));
        assert_eq!(leg.timeout(oldest, IDLE, 0), Some(at(3000)));
        let verdict = leg.handle_timeout(at(3000), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Suspect);
        assert_eq!(leg.timeout(oldest, IDLE, 0), Some(at(7900)));
        let verdict = leg.handle_timeout(at(63_000), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Hopeless);
    }

    #[test]
    fn only_an_answer_clears_the_suspicion() {
        let mut leg = leg();
        leg.pinged(7, at(1000));
        let verdict = leg.handle_timeout(at(3000), None, IDLE, 0);
        assert_eq!(verdict, Verdict::Suspect);
        assert_eq!(leg.ponged(8, at(3100)), None, "another token");
        assert_eq!(leg.ponged(7, at(3100)), Some(0));
        assert!(leg.ping_owed.take().is_some(), "it was asked again");
        assert_eq!(leg.timeout(None, IDLE, 0), Some(at(15_000)));
    }

    #[test]
    fn acknowledgements_by_another_leg_tell_another_round_trip() {
        let mut leg = leg();
        let trip = |leg: &Leg| leg.path.rtt().as_millis();
        leg.acknowledged_after(Duration::from_millis(10), false, at(1));
        assert_eq!(trip(&leg), 10);
        leg.acknowledged_after(Duration::from_millis(60), true, at(2));
        assert_eq!(trip(&leg), 60, "not smoothed with what it was by itself");
        leg.pinged(7, at(3));
        assert_eq!(leg.ponged(7, at(4)), Some(0));
        assert_eq!(trip(&leg), 60);
        leg.acknowledged_after(Duration::from_millis(10), false, at(5));
        assert_eq!(trip(&leg), 10);
    }

    #[test]
    fn an_answer_in_time_ends_the_doubt() {
        let mut leg = leg();
        let oldest = Some(at(1000));
        let verdict = leg.handle_timeout(at(1700), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Late, "what came before it is not told");
        assert!(!leg.answered(at(1800)), "it was not suspect");
        leg.ping_owed = None;
        let oldest = Some(at(1900));
        let verdict = leg.handle_timeout(at(2149), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Fine);
        let verdict = leg.handle_timeout(at(2150), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Missing);
    }

    #[test]
    fn a_long_way_is_given_its_time() {
        let mut leg = Leg::new(LegState::Active, 0, Time::ZERO);
        leg.path.on_rtt(Duration::from_millis(600));
        let oldest = Some(at(1000));
        let verdict = leg.handle_timeout(at(2199), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Fine, "less than two round trips");
        let verdict = leg.handle_timeout(at(2200), oldest, IDLE, 0);
        assert_eq!(verdict, Verdict::Late);
    }

    #[test]
    fn a_leg_that_takes_no_packets_is_suspected() {
        let mut leg = leg();
        leg.owe_ping(at(5000));
        assert_eq!(leg.timeout(None, IDLE, 0), Some(at(5250)));
        let verdict = leg.handle_timeout(at(7000), None, IDLE, 0);
        assert_eq!(verdict, Verdict::Suspect);
    }

    #[test]
    fn patience_doubles_the_wait() {
        let mut leg = leg();
        leg.pinged(1, at(0));
        leg.owe_ping(at(0));
        assert_eq!(leg.verdict_at(None, 1), Some(at(4000)));
        assert_eq!(leg.verdict_at(None, 40), Some(at(32_000)));
        leg.doubt = Doubt::Missing;
        assert_eq!(leg.doubt_at(None, 1), Some((at(1400), Doubt::Late)));
    }

    #[test]
    fn what_a_relay_dropped_is_said_again() {
        let mut leg = leg();
        leg.first.push_back(Bytes::from_static(b"confirm"));
        assert_eq!(leg.next_opening().unwrap(), "confirm");
        leg.sent(at(0));
        leg.pinged(3, at(0));
        leg.sent(at(0));
        leg.pong_sent(9, at(0));
        leg.sent(at(0));
        leg.dropped(1, 2, at(0));
        assert_eq!(leg.dropped, 2);
        assert!(leg.owes_ping() && leg.first.is_empty());
        assert_eq!(leg.pong_owed, Some(9));
        leg.dropped(0, u64::MAX, at(0));
        assert_eq!(leg.dropped, 5, "no more than there were");
        assert_eq!(leg.next_opening().unwrap(), "confirm");
    }
}
