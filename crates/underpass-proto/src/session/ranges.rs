//! A set of record numbers kept as ranges.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Record numbers that arrived: everything below `floor`, and the ranges above it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NumberSet {
    /// Every number below this one is in the set.
    floor: u64,
    /// Start to end, inclusive; disjoint, not adjacent, all starts above `floor`.
    ranges: BTreeMap<u64, u64>,
}

impl NumberSet {
    /// The lowest number that is not in the set.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// How many separate ranges stand above the floor.
    pub(crate) fn gaps(&self) -> usize {
        self.ranges.len()
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        number < self.floor
            || self
                .ranges
                .range(..=number)
                .next_back()
                .is_some_and(|(_, end)| number <= *end)
    }

    /// Adds a number; false when it was there already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        // What arrives in order is by far the most common.
        if number == self.floor && self.ranges.is_empty() {
            self.floor += 1;
            return true;
        }
        let mut added = false;
        self.insert_range(number..=number, |_| added = true);
        added
    }

    /// Adds a range and names the parts of it that were not there, from the lowest up. The work is
    /// in proportion to the ranges that it touches.
    pub(crate) fn insert_range(
        &mut self,
        range: RangeInclusive<u64>,
        mut added: impl FnMut(RangeInclusive<u64>),
    ) {
        let (start, end) = ((*range.start()).max(self.floor), *range.end());
        if start > end {
            return;
        }
        let (mut low, mut high, mut next) = (start, end, start);
        if let Some((before, last)) = self.ranges.range(..start).next_back()
            && last + 1 >= start
        {
            low = *before;
            high = high.max(*last);
            next = last + 1;
        }
        while let Some((&first, &last)) = self.ranges.range(start..=end.saturating_add(1)).next() {
            if first > next {
                added(next..=first - 1);
            }
            next = next.max(last.saturating_add(1));
            high = high.max(last);
            self.ranges.remove(&first);
        }
        if next <= end {
            added(next..=end);
        }
        if low == self.floor {
            self.floor = high + 1;
        } else {
            self.ranges.insert(low, high);
        }
    }

    /// Whether a number would begin a range of its own, away from all others.
    pub(crate) fn is_apart(&self, number: u64) -> bool {
        number > self.floor
            && !self.contains(number)
            && !self.contains(number - 1)
            && !self.contains(number.saturating_add(1))
    }

    /// The ranges from the highest down.
    pub(crate) fn descending(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        let below = self.floor.checked_sub(1).map(|last| 0..=last);
        self.ranges
            .iter()
            .rev()
            .map(|(start, end)| *start..=*end)
            .chain(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_plain_set(ranges in prop::collection::vec((0u64..64, 0u64..5), 0..100)) {
            let mut set = NumberSet::default();
            let mut model = BTreeSet::new();
            for (start, length) in ranges {
                let apart = set.is_apart(start);
                let neighbours = start.saturating_sub(1)..=start + 1;
                let expected = start > 0 && !neighbours.clone().any(|n| model.contains(&n));
                prop_assert_eq!(apart, expected);
                if length == 0 {
                    prop_assert_eq!(set.insert(start), model.insert(start));
                    continue;
                }
                let range = start..=start + length;
                let mut added = Vec::new();
                set.insert_range(range.clone(), |part| added.extend(part));
                let new: Vec<u64> = range.filter(|n| model.insert(*n)).collect();
                prop_assert_eq!(added, new);
            }
            for n in 0..80 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
            }
            let listed: BTreeSet<u64> = set.descending().flatten().collect();
            prop_assert_eq!(&listed, &model);
            let ranges: Vec<_> = set.descending().collect();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].start() > &(pair[1].end() + 1));
            }
        }
    }

    #[test]
    fn the_highest_number_does_not_overflow() {
        let mut set = NumberSet::default();
        assert!(set.insert((1 << 62) - 1));
        assert!(set.is_apart((1 << 62) - 3));
        assert!(!set.is_apart((1 << 62) - 2));
        assert!(set.insert((1 << 62) - 2));
        assert_eq!(set.gaps(), 1);
    }
}
