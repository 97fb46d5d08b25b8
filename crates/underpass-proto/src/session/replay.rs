//! The replay queue: sealed records that the peer has not acknowledged.
//!
//! A leg keeps order, so an acknowledged record proves that every record sent on the same leg before
//! it either arrived or was dropped on the way: no timer is needed to call it lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::LegId;
use super::budget::Budget;
use super::ranges::NumberSet;
use crate::time::Time;

/// One record that may have to be sent again.
#[derive(Debug)]
struct Sent {
    /// The whole packet as it went out; empty once acknowledged.
    packet: Bytes,
    leg: LegId,
    /// Index of the packet on its leg, over packets of every kind.
    index: u64,
    sent_at: Time,
    state: State,
    /// Sent more than once: its acknowledgement measures no round trip (Karn's rule).
    repeated: bool,
    /// Sent again although it may still arrive where it was: which of the two did, nobody knows.
    moved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Lost,
    Acknowledged,
}

/// What is under way on one leg, in the order sent.
#[derive(Debug, Default)]
struct Flight {
    order: VecDeque<(u64, u64)>,
    bytes: u64,
    records: usize,
    largest_acknowledged: Option<u64>,
}

/// Newly acknowledged bytes and the leg that carried them last.
type BytesByLeg = SmallVec<[(LegId, u64); 2]>;

/// What an acknowledgement brought, per leg.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) bytes: BytesByLeg,
    /// Time since the largest newly acknowledged record was sent, if it was sent once.
    pub(crate) rtt: Option<(LegId, Duration)>,
    /// The number of that record.
    pub(crate) newest: u64,
}

/// The peer claims records that were never sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NeverSent;

#[derive(Debug)]
pub(crate) struct Replay {
    /// Number of the first entry in `records`.
    base: u64,
    records: VecDeque<Sent>,
    /// Numbers that were acknowledged: what an acknowledgement repeats costs nothing.
    acknowledged: NumberSet,
    flights: BTreeMap<LegId, Flight>,
    lost: BTreeSet<u64>,
    unacknowledged: u64,
    budget: Budget,
}

impl Replay {
    pub(crate) fn new(budget: Budget) -> Self {
        Replay {
            base: 0,
            records: VecDeque::new(),
            acknowledged: NumberSet::default(),
            flights: BTreeMap::new(),
            lost: BTreeSet::new(),
            unacknowledged: 0,
            budget,
        }
    }

    /// The number that the next record gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    /// Every record below this number was acknowledged.
    pub(crate) fn floor(&self) -> u64 {
        self.base
    }

    /// Bytes of records that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    /// Bytes under way on a leg.
    pub(crate) fn under_way(&self, leg: LegId) -> u64 {
        self.flights.get(&leg).map_or(0, |flight| flight.bytes)
    }

    /// Records under way on a leg.
    pub(crate) fn records_under_way(&self, leg: LegId) -> usize {
        self.flights.get(&leg).map_or(0, |flight| flight.records)
    }

    /// The latest packet of a leg that was acknowledged.
    pub(crate) fn newest_acknowledged(&self, leg: LegId) -> u64 {
        self.flights
            .get(&leg)
            .and_then(|flight| flight.largest_acknowledged)
            .unwrap_or(0)
    }

    /// When the oldest record that is under way on a leg was sent.
    pub(crate) fn oldest_under_way(&self, leg: LegId) -> Option<Time> {
        let flight = self.flights.get(&leg)?;
        flight
            .order
            .iter()
            .filter_map(|(index, number)| self.on_leg(*number, leg, *index))
            .map(|sent| sent.sent_at)
            .next()
    }

    /// Whether one more record of this size has room in the process-wide budget.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.budget.has_room(self.unacknowledged, bytes)
    }

    /// Keeps a record that goes out now as [`Replay::next_number`].
    pub(crate) fn push(&mut self, packet: Bytes, leg: LegId, index: u64, now: Time) {
        let number = self.next_number();
        let size = packet.len() as u64;
        self.unacknowledged += size;
        self.budget.take(size);
        self.records.push_back(Sent {
            packet,
            leg,
            index,
            sent_at: now,
            state: State::UnderWay,
            repeated: false,
            moved: false,
        });
        let flight = self.flights.entry(leg).or_default();
        flight.order.push_back((index, number));
        flight.bytes += size;
        flight.records += 1;
    }

    /// The lowest record that was lost.
    pub(crate) fn next_lost(&self) -> Option<(u64, Bytes)> {
        let number = *self.lost.first()?;
        Some((number, self.get(number)?.packet.clone()))
    }

    /// The lost record goes out again, on `leg`.
    pub(crate) fn resent(&mut self, number: u64, leg: LegId, index: u64, now: Time) {
        self.lost.remove(&number);
        let Some(sent) = self.get_mut(number) else {
            return;
        };
        sent.leg = leg;
        sent.index = index;
        sent.sent_at = now;
        sent.state = State::UnderWay;
        sent.repeated = true;
        let size = sent.packet.len() as u64;
        let flight = self.flights.entry(leg).or_default();
        flight.order.push_back((index, number));
        flight.bytes += size;
        flight.records += 1;
    }

    /// Takes the ranges of an acknowledgement, from the highest down.
    ///
    /// # Errors
    /// [`NeverSent`] for a number that no record had; nothing was changed.
    pub(crate) fn acknowledge(
        &mut self,
        ranges: &[RangeInclusive<u64>],
        now: Time,
    ) -> Result<Acknowledged, NeverSent> {
        if ranges
            .iter()
            .any(|range| *range.end() >= self.next_number())
        {
            return Err(NeverSent);
        }
        let mut outcome = Acknowledged::default();
        let mut new = SmallVec::<[RangeInclusive<u64>; 4]>::new();
        for range in ranges {
            self.acknowledged
                .insert_range(range.clone(), |part| new.push(part));
            // The newest first: it measures the round trip.
            for number in new.drain(..).rev().flat_map(Iterator::rev) {
                self.acknowledge_one(number, now, &mut outcome);
            }
        }
        while self.base < self.acknowledged.floor() {
            self.records.pop_front();
            self.base += 1;
        }
        for (leg, _) in &outcome.bytes {
            self.find_lost(*leg);
        }
        Ok(outcome)
    }

    /// Whether the peer said that this record has arrived.
    pub(crate) fn is_acknowledged(&self, number: u64) -> bool {
        self.acknowledged.contains(number)
    }

    fn acknowledge_one(&mut self, number: u64, now: Time, outcome: &mut Acknowledged) {
        let Some(sent) = self.get_mut(number) else {
            return;
        };
        if sent.state == State::Acknowledged {
            return;
        }
        let under_way = sent.state == State::UnderWay;
        sent.state = State::Acknowledged;
        let size = std::mem::take(&mut sent.packet).len() as u64;
        let (leg, index, moved) = (sent.leg, sent.index, sent.moved);
        // Ranges come from the highest down: the first one is the newest.
        if outcome.rtt.is_none() && !sent.repeated {
            outcome.rtt = Some((leg, now.since(sent.sent_at)));
            outcome.newest = number;
        }
        match outcome.bytes.iter_mut().find(|(known, _)| *known == leg) {
            _ if moved => {}
            Some((_, bytes)) => *bytes += size,
            None => outcome.bytes.push((leg, size)),
        }
        self.unacknowledged -= size;
        self.budget.give(size);
        if under_way {
            if let Some(flight) = self.flights.get_mut(&leg) {
                flight.bytes -= size;
                flight.records -= 1;
                if !moved {
                    flight.largest_acknowledged = flight.largest_acknowledged.max(Some(index));
                }
            }
        } else {
            self.lost.remove(&number);
        }
    }

    /// Whatever was sent on `leg` up to the packet `index` and not acknowledged is lost: the peer
    /// answered that packet, and told what had arrived before it.
    pub(crate) fn answered(&mut self, leg: LegId, index: u64) {
        self.lose_while(leg, |at| at <= index);
    }

    /// Calls lost what was sent on `leg` before something that arrived.
    fn find_lost(&mut self, leg: LegId) {
        let Some(limit) = self.flights.get(&leg).and_then(|f| f.largest_acknowledged) else {
            return;
        };
        self.lose_while(leg, |index| index <= limit);
        self.prune(leg);
    }

    /// Keeps something that is under way in front, where [`Replay::oldest_under_way`] looks first.
    fn prune(&mut self, leg: LegId) {
        while let Some(&(index, number)) = self.flights.get(&leg).and_then(|f| f.order.front()) {
            if self.on_leg(number, leg, index).is_some() {
                return;
            }
            if let Some(flight) = self.flights.get_mut(&leg) {
                flight.order.pop_front();
            }
        }
    }

    /// The relay said that it dropped packets of a leg: `first` and the ones that follow it.
    pub(crate) fn dropped(&mut self, leg: LegId, first: u64, count: u64) {
        let Some(flight) = self.flights.get(&leg) else {
            return;
        };
        let end = first.saturating_add(count);
        let from = flight.order.partition_point(|(index, _)| *index < first);
        let to = flight.order.partition_point(|(index, _)| *index < end);
        let hit: Vec<(u64, u64)> = flight.order.range(from..to).copied().collect();
        for (index, number) in hit {
            self.lose(number, leg, index);
        }
        self.prune(leg);
    }

    /// Forgets everything: nothing will be sent again.
    pub(crate) fn clear(&mut self) {
        self.budget.give(std::mem::take(&mut self.unacknowledged));
        self.base += self.records.len() as u64;
        self.records.clear();
        self.flights.clear();
        self.lost.clear();
    }

    /// A leg is in doubt and others are not: what is under way on it counts as lost, and may arrive
    /// all the same.
    pub(crate) fn doubted(&mut self, leg: LegId) {
        let Some(flight) = self.flights.get_mut(&leg) else {
            return;
        };
        for (index, number) in std::mem::take(&mut flight.order) {
            self.lose(number, leg, index);
            if let Some(sent) = self
                .get_mut(number)
                .filter(|sent| sent.state == State::Lost)
            {
                sent.moved = true;
            }
        }
    }

    /// A leg is no more: whatever was under way on it counts as lost.
    pub(crate) fn leg_gone(&mut self, leg: LegId) {
        self.lose_while(leg, |_| true);
        self.flights.remove(&leg);
    }

    fn lose_while(&mut self, leg: LegId, is_lost: impl Fn(u64) -> bool) {
        while let Some(&(index, number)) = self
            .flights
            .get(&leg)
            .and_then(|flight| flight.order.front())
        {
            if !is_lost(index) {
                return;
            }
            if let Some(flight) = self.flights.get_mut(&leg) {
                flight.order.pop_front();
            }
            self.lose(number, leg, index);
        }
    }

    fn lose(&mut self, number: u64, leg: LegId, index: u64) {
        if self.on_leg(number, leg, index).is_none() {
            return;
        }
        let Some(sent) = self.get_mut(number) else {
            return;
        };
        sent.state = State::Lost;
        let size = sent.packet.len() as u64;
        self.lost.insert(number);
        if let Some(flight) = self.flights.get_mut(&leg) {
            flight.bytes -= size;
            flight.records -= 1;
        }
    }

    /// The record, if it is under way and this was its last sending.
    fn on_leg(&self, number: u64, leg: LegId, index: u64) -> Option<&Sent> {
        self.get(number)
            .filter(|sent| sent.state == State::UnderWay && sent.leg == leg && sent.index == index)
    }

    fn position(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.base)?).ok()
    }

    fn get(&self, number: u64) -> Option<&Sent> {
        self.records.get(self.position(number)?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Sent> {
        let position = self.position(number)?;
        self.records.get_mut(position)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.budget.give(self.unacknowledged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LegId = LegId(1);
    const B: LegId = LegId(2);

    fn filled(count: u64) -> Replay {
        let mut replay = Replay::new(Budget::unlimited());
        for index in 0..count {
            replay.push(Bytes::from(vec![0; 10]), A, index, Time::ZERO);
        }
        replay
    }

    #[test]
    fn a_gap_on_one_leg_is_a_loss_at_once() {
        let mut replay = filled(5);
        let outcome = replay
            .acknowledge(&[3..=3, 0..=0], Time::from_micros(7))
            .unwrap();
        assert_eq!(outcome.bytes.as_slice(), [(A, 20)]);
        assert_eq!(outcome.rtt, Some((A, Duration::from_micros(7))));
        assert_eq!(replay.next_lost().unwrap().0, 1);
        replay.resent(1, A, 5, Time::ZERO);
        assert_eq!(replay.next_lost().unwrap().0, 2);
        assert_eq!(replay.under_way(A), 20, "number 4 and the repeated 1");
    }

    #[test]
    fn what_was_resent_elsewhere_is_not_lost_with_the_old_leg() {
        let mut replay = filled(3);
        replay.leg_gone(A);
        for index in 0..3 {
            let (number, _) = replay.next_lost().unwrap();
            replay.resent(number, B, index, Time::ZERO);
        }
        assert!(replay.next_lost().is_none());
        replay.leg_gone(A);
        assert!(replay.next_lost().is_none());
        replay.acknowledge(&[0..=2], Time::ZERO).unwrap();
        assert_eq!((replay.floor(), replay.unacknowledged()), (3, 0));
    }

    /// The second sending of a record that was moved is acknowledged by its first: that says nothing
    /// about what went before the second.
    #[test]
    fn what_was_moved_proves_nothing_where_it_went() {
        let mut replay = filled(2);
        replay.push(Bytes::from(vec![0; 10]), B, 0, Time::ZERO);
        replay.doubted(A);
        assert_eq!((replay.under_way(A), replay.records_under_way(A)), (0, 0));
        for index in 1..3 {
            let (number, _) = replay.next_lost().unwrap();
            replay.resent(number, B, index, Time::ZERO);
        }
        assert_eq!(replay.records_under_way(B), 3);
        let outcome = replay.acknowledge(&[0..=1], Time::ZERO).unwrap();
        assert!(outcome.bytes.is_empty() && outcome.rtt.is_none());
        assert!(replay.next_lost().is_none(), "number 2 is under way");
        assert_eq!((replay.under_way(B), replay.records_under_way(B)), (10, 1));
        replay.acknowledge(&[0..=2], Time::ZERO).unwrap();
        assert_eq!((replay.floor(), replay.unacknowledged()), (3, 0));
    }

    #[test]
    fn claims_of_what_was_never_sent_change_nothing() {
        let mut replay = filled(2);
        assert_eq!(replay.acknowledge(&[2..=2], Time::ZERO), Err(NeverSent));
        assert_eq!(
            replay.acknowledge(&[0..=u64::MAX], Time::ZERO),
            Err(NeverSent)
        );
        assert_eq!(replay.unacknowledged(), 20);
    }

    #[test]
    fn a_drop_notice_hits_just_its_packets() {
        let mut replay = filled(6);
        replay.dropped(A, 2, 2);
        let mut lost = Vec::new();
        while let Some((number, _)) = replay.next_lost() {
            lost.push(number);
            replay.resent(number, A, 10 + number, Time::ZERO);
        }
        assert_eq!(lost, [2, 3]);
        replay.acknowledge(&[0..=5], Time::ZERO).unwrap();
        assert_eq!(replay.under_way(A), 0);
    }
}
