//! How often something must be said so that no box takes the leg for idle.
//!
//! Boxes count body bytes, and many tell nobody after how many seconds of silence they cut. It is
//! learnt by being cut: several legs in a row that died after about the same silence. And it is
//! unlearnt by trying: twice the time, after a while; a cut leads back, and to a longer while.

use std::time::Duration;

use underpass_proto::Time;

/// Nothing needs to be said oftener than this.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);
/// What dies after less silence was not idle.
const LEAST: Duration = Duration::from_millis(1500);
/// So many in a row are no accident.
const REGULAR: usize = 3;
/// Silences are the same where the longest is longer than the shortest by this part at most.
const SAME_PART: u32 = 5;
/// The silence that is kept is this part of what was seen to be cut: one of two keepalives may come
/// late, or be lost with what held it.
const SAFE_PART: u32 = 2;

/// What sessions say something after of themselves: no interval is kept beyond this.
const USUAL: Duration = Duration::from_secs(8);
/// A longer interval is tried after so long, and after twice that each time it was in vain ...
const FIRST_TRY: Duration = Duration::from_secs(30 * 60);
/// ... up to this.
const LAST_TRY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of idle limits on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdleCuts {
    silences: Vec<Duration>,
    interval: Option<Duration>,
    /// What is gone back to if the interval, which is being tried, is too long.
    shorter: Option<Duration>,
    /// How long an interval stands until a longer one is tried, and when that is.
    wait: Duration,
    try_at: Option<Time>,
}

impl IdleCuts {
    /// With what is remembered.
    pub(super) fn new(interval: Option<Duration>, now: Time) -> Self {
        IdleCuts {
            silences: Vec::new(),
            interval: interval.map(|it| it.max(SHORTEST_KEEPALIVE)),
            shorter: None,
            wait: FIRST_TRY,
            try_at: interval.map(|_| now + FIRST_TRY),
        }
    }

    /// How often something is to be said, where it is known that the usual is too seldom.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The same as far as it has proven itself: what is worth remembering.
    pub(super) fn proven(&self) -> Option<Duration> {
        self.shorter.or(self.interval)
    }

    /// When [`IdleCuts::handle_timeout`] is to be called.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.try_at
    }

    /// Tries a longer interval when its time has come. The one before has proven itself then.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        if self.try_at.is_none_or(|at| at > now) {
            return;
        }
        self.shorter = self.interval;
        self.interval = self.interval.map(|it| it * 2).filter(|it| *it < USUAL);
        self.try_at = self.shorter.map(|_| now + self.wait);
    }

    /// A leg was cut after so long without a byte either way. True if it was idle.
    pub(super) fn cut(&mut self, silence: Duration, now: Time) -> bool {
        if silence < LEAST {
            // Cut while it was in use: that has other reasons, and says nothing of idle limits.
            self.silences.clear();
            return false;
        }
        if let Some(shorter) = self.shorter.filter(|shorter| silence > *shorter) {
            self.shorter = None;
            self.stand(shorter, (self.wait * 2).min(LAST_TRY), now);
            return true;
        }
        self.silences.push(silence);
        if self.silences.len() > REGULAR {
            self.silences.remove(0);
        }
        let least = self.silences.iter().min().copied().unwrap_or(silence);
        let most = self.silences.iter().max().copied().unwrap_or(silence);
        if self.silences.len() == REGULAR && most - least <= most / SAME_PART {
            let safe = (least / SAFE_PART).max(SHORTEST_KEEPALIVE);
            let interval = self.interval.map_or(safe, |known| known.min(safe));
            self.stand(interval, self.wait, now);
        }
        true
    }

    fn stand(&mut self, interval: Duration, wait: Duration, now: Time) {
        self.interval = Some(interval);
        self.wait = wait;
        self.try_at = Some(now + wait);
        self.silences.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval after legs were cut after these silences, in milliseconds.
    fn learnt(silences: &[u64]) -> Option<u64> {
        let mut cuts = IdleCuts::new(None, Time::ZERO);
        for silence in silences {
            cuts.cut(Duration::from_millis(*silence), Time::ZERO);
        }
        let millis = |it: Duration| u64::try_from(it.as_millis()).unwrap();
        cuts.interval().map(millis)
    }

    #[test]
    fn a_regular_idle_cut_is_learnt_and_an_accident_is_not() {
        assert_eq!(learnt(&[5000, 5100]), None, "twice may be chance");
        assert_eq!(learnt(&[5000, 5100, 5040]), Some(2500));
        assert_eq!(learnt(&[7000, 2000, 5000, 3000, 7900]), None);
        assert_eq!(learnt(&[1000, 1000, 1000]), None, "they were in use");
        assert_eq!(learnt(&[5000, 5000, 20, 5000, 5000]), None);
        assert_eq!(learnt(&[5000, 5000, 20, 5000, 5000, 5000]), Some(2500));
    }

    #[test]
    fn it_is_never_more_than_one_in_a_second_and_never_seldomer_than_before() {
        assert_eq!(learnt(&[1600, 1600, 1600]), Some(1000));
        assert_eq!(
            learnt(&[4000, 4000, 4000, 7000, 7000, 7000]),
            Some(2000),
            "the narrower limit may be back at any time"
        );
        assert_eq!(
            learnt(&[7000, 7000, 7000, 3000, 3000, 3000]),
            Some(1500),
            "the first lesson was not enough"
        );
        let remembered = IdleCuts::new(Some(Duration::ZERO), Time::ZERO);
        assert_eq!(remembered.interval(), Some(SHORTEST_KEEPALIVE));
    }

    /// A box that cuts after `limit`, and a leg that says something as often as it is told and is
    /// otherwise idle. The intervals, and after how many minutes each of them began.
    fn behind(limit: Duration, hours: u64) -> Vec<(u64, Option<Duration>)> {
        let mut now = Time::ZERO;
        let mut cuts = IdleCuts::new(Some(limit / 2), now);
        let mut seen = vec![(0, cuts.interval())];
        while let Some(at) = cuts.timeout() {
            now = at;
            if now.since(Time::ZERO) > Duration::from_secs(hours * 3600) {
                break;
            }
            cuts.handle_timeout(now);
            let minute = |now: Time| now.since(Time::ZERO).as_secs() / 60;
            seen.push((minute(now), cuts.interval()));
            if cuts.interval().unwrap_or(USUAL) >= limit {
                now = now + limit;
                assert!(cuts.cut(limit, now), "it was idle");
                seen.push((minute(now), cuts.interval()));
            }
        }
        seen
    }

    #[test]
    fn a_longer_interval_is_tried_ever_more_seldom_where_the_limit_stays() {
        let limit = Duration::from_secs(5);
        let short = Some(limit / 2);
        let seen = behind(limit, 100);
        let tries: Vec<u64> = seen
            .iter()
            .filter(|it| it.1 != short)
            .map(|it| it.0)
            .collect();
        assert_eq!(tries, [30, 90, 210, 450, 930, 1890, 3330, 4770], "minutes");
        assert_eq!(seen.last().map(|it| it.1), Some(short));
    }

    #[test]
    fn a_limit_that_is_gone_is_forgotten() {
        let mut cuts = IdleCuts::new(Some(Duration::from_secs(2)), Time::ZERO);
        let mut seen = Vec::new();
        while let Some(at) = cuts.timeout() {
            cuts.handle_timeout(at);
            seen.push((cuts.interval(), cuts.proven()));
        }
        let secs = |secs| Some(Duration::from_secs(secs));
        let expected = [(secs(4), secs(2)), (None, secs(4)), (None, None)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_cut_in_use_does_not_lead_back() {
        let mut cuts = IdleCuts::new(Some(Duration::from_secs(2)), Time::ZERO);
        let at = cuts.timeout().unwrap();
        cuts.handle_timeout(at);
        assert!(!cuts.cut(Duration::from_millis(20), at));
        assert_eq!(cuts.interval(), Some(Duration::from_secs(4)));
    }
}
