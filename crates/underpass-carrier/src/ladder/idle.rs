//! How often something must be said so that no box takes the leg for idle.
//!
//! Boxes count body bytes, and many tell nobody after how many seconds of silence they cut. It is
//! learnt by being cut: several legs in a row that died after about the same silence.

use std::time::Duration;

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

/// What is known of idle limits on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IdleCuts {
    silences: Vec<Duration>,
    interval: Option<Duration>,
}

impl IdleCuts {
    /// With what is remembered.
    pub(super) fn new(interval: Option<Duration>) -> Self {
        IdleCuts {
            silences: Vec::new(),
            interval: interval.map(|it| it.max(SHORTEST_KEEPALIVE)),
        }
    }

    /// How often something is to be said, where it is known that the usual is too seldom.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// A leg was cut after so long without a byte either way. True if it was idle.
    pub(super) fn cut(&mut self, silence: Duration) -> bool {
        if silence < LEAST {
            // Cut while it was in use: that has other reasons, and says nothing of idle limits.
            self.silences.clear();
            return false;
        }
        self.silences.push(silence);
        if self.silences.len() > REGULAR {
            self.silences.remove(0);
        }
        let least = self.silences.iter().min().copied().unwrap_or(silence);
        let most = self.silences.iter().max().copied().unwrap_or(silence);
        if self.silences.len() == REGULAR && most - least <= most / SAME_PART {
            let safe = (least / SAFE_PART).max(SHORTEST_KEEPALIVE);
            self.interval = Some(self.interval.map_or(safe, |known| known.min(safe)));
            self.silences.clear();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval after legs were cut after these silences, in milliseconds.
    fn learnt(silences: &[u64]) -> Option<u64> {
        let mut cuts = IdleCuts::default();
        for silence in silences {
            cuts.cut(Duration::from_millis(*silence));
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
        let remembered = IdleCuts::new(Some(Duration::ZERO));
        assert_eq!(remembered.interval(), Some(SHORTEST_KEEPALIVE));
    }
}
