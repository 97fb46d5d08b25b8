//! Which channel may send next: classes by weight, channels of a class in turn.
//!
//! Deficit round robin in bytes (Shreedhar and Varghese, 1995), twice: the class with the highest
//! priority that has credit left goes first, and credit is renewed when no waiting class has any,
//! so that bulk keeps a small share. A channel that had nothing to send goes in front of those that
//! always have, once per turn of theirs (as the new flows of RFC 8290 §4.1): its few bytes delay
//! them by little and it would feel every one of theirs.

use std::collections::{BTreeSet, VecDeque};

use crate::frame::{ChannelId, Class};

/// Bytes that a channel may send before the next one of its class has its turn.
const QUANTUM: i64 = 16 * 1024;
/// A channel that nobody waits behind may fill a record.
const ALONE: i64 = 64 * 1024;
/// Credit of interactive, normal and bulk per round, in quanta.
const WEIGHTS: [i64; 3] = [16, 4, 1];

#[derive(Debug, Default)]
struct Queue {
    credit: i64,
    /// Waiting channels with what is left of their turn.
    waiting: VecDeque<(ChannelId, i64)>,
    /// Channels that ran dry since somebody else last had a full turn: they queue at the back.
    served: BTreeSet<ChannelId>,
}

/// The channels that have something to send.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    queues: [Queue; 3],
    /// Whose class's turn it is.
    turn: usize,
}

fn position(class: Class) -> usize {
    match class {
        Class::Interactive => 0,
        Class::Normal => 1,
        Class::Bulk => 2,
    }
}

impl Schedule {
    /// A channel that was not waiting has something to send.
    pub(crate) fn add(&mut self, channel: ChannelId, class: Class) {
        let queue = &mut self.queues[position(class)];
        if queue.served.contains(&channel) {
            queue.waiting.push_back((channel, QUANTUM));
        } else {
            queue.waiting.push_front((channel, QUANTUM));
        }
    }

    /// How many channels wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.waiting.is_empty())
    }

    /// Whose turn it is, and for how many bytes at the most; without `interactive` those channels
    /// are passed over. The caller answers with [`Schedule::sent`] if it took anything.
    pub(crate) fn next(&mut self, interactive: bool) -> Option<(ChannelId, usize)> {
        let first = usize::from(!interactive);
        let alone = match self.queues[first..].iter().map(|q| q.waiting.len()).sum() {
            0usize => return None,
            1 => ALONE,
            _ => 1,
        };
        loop {
            let next = self.queues[first..]
                .iter()
                .position(|queue| !queue.waiting.is_empty() && queue.credit > 0);
            if let Some(next) = next {
                self.turn = first + next;
                let (channel, turn) = *self.queues[self.turn].waiting.front()?;
                return Some((channel, usize::try_from(turn.max(alone)).unwrap_or(1)));
            }
            for (queue, weight) in self.queues.iter_mut().zip(WEIGHTS) {
                queue.credit = (queue.credit + weight * QUANTUM).min(weight * QUANTUM);
            }
        }
    }

    /// The channel that [`Schedule::next`] named sent `bytes`; `more` tells whether it still waits.
    pub(crate) fn sent(&mut self, bytes: usize, more: bool) {
        let queue = &mut self.queues[self.turn];
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        queue.credit -= bytes;
        let Some((channel, turn)) = queue.waiting.pop_front() else {
            return;
        };
        match (more, turn - bytes) {
            (false, _) if queue.waiting.is_empty() => queue.served.clear(),
            (false, _) => {
                queue.served.insert(channel);
            }
            (true, left @ 1..) => queue.waiting.push_front((channel, left)),
            (true, _) => {
                queue.served.clear();
                queue.waiting.push_back((channel, QUANTUM));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const I: ChannelId = ChannelId(0);
    const N: ChannelId = ChannelId(2);
    const B: ChannelId = ChannelId(4);

    fn run(schedule: &mut Schedule, total: usize) -> BTreeMap<ChannelId, usize> {
        let mut shares = BTreeMap::new();
        let mut sent = 0;
        while sent < total {
            let (channel, most) = schedule.next(true).unwrap();
            let bytes = most.min(5000);
            schedule.sent(bytes, true);
            *shares.entry(channel).or_default() += bytes;
            sent += bytes;
        }
        shares
    }

    #[test]
    fn classes_share_by_weight_and_bulk_is_never_starved() {
        let mut schedule = Schedule::default();
        schedule.add(B, Class::Bulk);
        schedule.add(N, Class::Normal);
        schedule.add(I, Class::Interactive);
        let shares = run(&mut schedule, 21 * 16 * 1024 * 10);
        assert!(shares[&I] > 3 * shares[&N], "{shares:?}");
        assert!(shares[&N] > 3 * shares[&B], "{shares:?}");
        assert!(shares[&B] > 16 * 1024 * 8, "{shares:?}");
    }

    #[test]
    fn channels_of_a_class_share_evenly() {
        let mut schedule = Schedule::default();
        let ids: Vec<_> = (0..7).map(|i| ChannelId(i * 2)).collect();
        for id in &ids {
            schedule.add(*id, Class::Normal);
        }
        let shares = run(&mut schedule, 7 * 1024 * 1024);
        for id in ids {
            assert!(shares[&id].abs_diff(1024 * 1024) < 32 * 1024, "{shares:?}");
        }
    }

    #[test]
    fn running_dry_again_and_again_does_not_starve_the_others() {
        let mut schedule = Schedule::default();
        schedule.add(B, Class::Normal);
        schedule.add(N, Class::Normal);
        let (mut b, mut n) = (0, 0);
        for _ in 0..10_000 {
            let (channel, most) = schedule.next(true).unwrap();
            schedule.sent(most.min(4000), channel == B);
            if channel == N {
                n += most.min(4000);
                schedule.add(N, Class::Normal);
            } else {
                b += most.min(4000);
            }
        }
        assert!(b * 2 > n && n * 6 > b, "{b} {n}");
    }

    #[test]
    fn interactive_channels_may_be_passed_over() {
        let mut schedule = Schedule::default();
        schedule.add(I, Class::Interactive);
        assert_eq!(schedule.next(false), None);
        schedule.add(B, Class::Bulk);
        for _ in 0..100 {
            let (channel, most) = schedule.next(false).unwrap();
            assert_eq!(channel, B);
            schedule.sent(most, true);
        }
        assert_eq!(schedule.next(true).unwrap().0, I);
        schedule.sent(10, false);
        assert_eq!(schedule.next(true).unwrap().0, B);
    }

    #[test]
    fn who_had_nothing_to_send_goes_first() {
        let mut schedule = Schedule::default();
        schedule.add(B, Class::Normal);
        schedule.next(true).unwrap();
        schedule.sent(16 * 1024, true);
        schedule.add(N, Class::Normal);
        assert_eq!(schedule.next(true).unwrap().0, N);
        schedule.sent(10, false);
        assert_eq!(schedule.next(true).unwrap().0, B);
    }
}
