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
        if self.contains(number) {
            return false;
        }
        if number == self.floor {
            self.floor += 1;
            if let Some(end) = self.ranges.remove(&self.floor) {
                self.floor = end + 1;
            }
            return true;
        }
        let end = self.ranges.remove(&(number + 1)).unwrap_or(number);
        match self.ranges.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = end,
            _ => {
                self.ranges.insert(number, end);
            }
        }
        true
    }

    /// The ranges from the highest down, at most `limit` of them; what is left out is the lowest.
    pub(crate) fn descending(
        &self,
        limit: usize,
    ) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let below = self.floor.checked_sub(1).map(|last| 0..=last);
        self.ranges
            .iter()
            .rev()
            .map(|(start, end)| *start..=*end)
            .chain(below)
            .take(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_plain_set(numbers in prop::collection::vec(0u64..64, 0..200)) {
            let mut set = NumberSet::default();
            let mut model = BTreeSet::new();
            for n in numbers {
                prop_assert_eq!(set.insert(n), model.insert(n));
            }
            for n in 0..70 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
            }
            let listed: BTreeSet<u64> = set.descending(usize::MAX).flatten().collect();
            prop_assert_eq!(&listed, &model);
            let ranges: Vec<_> = set.descending(usize::MAX).collect();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].start() > &(pair[1].end() + 1));
            }
        }
    }
}
