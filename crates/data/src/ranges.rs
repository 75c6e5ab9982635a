//! Exact sets of positions, stored as intervals: a billion positions in a few runs cost a few bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What is wrong with a range or a stored set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The range holds values that the set already has.
    #[error("range {range:?} overlaps {held:?}, which is already in the set")]
    Overlap {
        /// The range that was to be added.
        range: Range<u64>,
        /// The first part of it that the set already holds.
        held: Range<u64>,
    },
    /// A stored interval holds nothing.
    #[error("interval [{low}, {high}] is empty: its low end must be below its high end")]
    Empty {
        /// Low end as stored.
        low: u64,
        /// High end as stored.
        high: u64,
    },
    /// A stored interval is not strictly after the one before it.
    #[error("interval starts at {low}, expected more than {previous}, where the one before it ends")]
    Unordered {
        /// Low end as stored.
        low: u64,
        /// High end of the interval before.
        previous: u64,
    },
}

/// A set of `u64` as sorted, disjoint, coalesced half-open intervals. Empty and inverted ranges hold nothing.
///
/// Changing it costs the logarithm of the number of intervals, whatever their lengths.
///
/// Serialises as `[[low, high], ...]`; what is not in this one canonical form is refused on reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RangeSet {
    /// Low end to high end, with `low < high`, and each `low` above the `high` before it.
    spans: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            spans: BTreeMap::new(),
        }
    }

    /// Adds a range; says how many of its values are new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut low, mut high) = (range.start, range.end);
        let mut held = 0;
        // Those that touch the range are merged with it, neighbours included.
        while let Some((&from, &to)) = self.spans.range(..=high).next_back().filter(|s| *s.1 >= low) {
            self.spans.remove(&from);
            held += to.min(range.end).saturating_sub(from.max(range.start));
            (low, high) = (low.min(from), high.max(to));
        }
        self.spans.insert(low, high);
        range.end - range.start - held
    }

    /// Adds a range that must be new as a whole; else changes nothing.
    pub fn insert_disjoint(&mut self, range: Range<u64>) -> Result<(), Error> {
        if let Some(held) = self.within(&range).next() {
            return Err(Error::Overlap { range, held });
        }
        self.insert(range);
        Ok(())
    }

    /// Removes a range; says how many values went.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let mut removed = 0;
        while let Some((&low, &high)) = self
            .spans
            .range(..range.end)
            .next_back()
            .filter(|s| *s.1 > range.start)
        {
            self.spans.remove(&low);
            if low < range.start {
                self.spans.insert(low, range.start);
            }
            if high > range.end {
                self.spans.insert(range.end, high);
            }
            removed += high.min(range.end) - low.max(range.start);
        }
        removed
    }

    /// Whether the set holds this value.
    pub fn contains(&self, value: u64) -> bool {
        let below = self.spans.range(..=value).next_back();
        below.is_some_and(|(_, high)| *high > value)
    }

    /// Whether the set holds the whole range.
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        // Intervals do not touch one another: one holds it all.
        let below = self.spans.range(..=range.start).next_back();
        range.is_empty() || below.is_some_and(|(_, high)| *high >= range.end)
    }

    /// Whether the set holds any value of the range.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.within(&range).next().is_some()
    }

    /// How many values of the range the set holds.
    pub fn count(&self, range: Range<u64>) -> u64 {
        self.within(&range).map(|held| held.end - held.start).sum()
    }

    /// What both sets hold.
    pub fn intersect(&self, other: &Self) -> Self {
        let spans = self.iter().flat_map(|range| other.within(&range));
        Self {
            spans: spans.map(|held| (held.start, held.end)).collect(),
        }
    }

    /// What either set holds.
    pub fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for range in other.iter() {
            union.insert(range);
        }
        union
    }

    /// What this set holds and the other does not.
    pub fn difference(&self, other: &Self) -> Self {
        let mut difference = self.clone();
        for range in other.iter() {
            difference.remove(range);
        }
        difference
    }

    /// Number of values.
    pub fn len(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The intervals in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.spans.iter().map(|(&low, &high)| low..high)
    }

    /// The lowest interval.
    pub fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// The lowest interval within `bounds` that the set lacks, as long as possible.
    pub fn first_gap(&self, bounds: Range<u64>) -> Option<Range<u64>> {
        let mut gap = bounds.clone();
        for held in self.within(&bounds) {
            if held.start > gap.start {
                gap.end = held.start;
                break;
            }
            gap.start = held.end;
        }
        (gap.start < gap.end).then_some(gap)
    }

    /// Removes the lowest `count` values, or all if there are fewer, and returns them.
    pub fn take_first(&mut self, count: u64) -> Self {
        let mut taken = Self::new();
        let mut left = count;
        while let Some(first) = self.first().filter(|_| left > 0) {
            let end = first.end.min(first.start.saturating_add(left));
            left -= end - first.start;
            self.remove(first.start..end);
            taken.insert(first.start..end);
        }
        taken
    }

    /// The parts of the range that the set holds, in ascending order.
    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let (start, end) = (range.start, range.end.max(range.start));
        let before = self.spans.range(..start).next_back();
        before
            .into_iter()
            .chain(self.spans.range(start..end))
            .map(move |(&low, &high)| low.max(start)..high.min(end))
            .filter(|held| held.start < held.end)
    }
}

impl TryFrom<Vec<(u64, u64)>> for RangeSet {
    type Error = Error;

    fn try_from(spans: Vec<(u64, u64)>) -> Result<Self, Error> {
        if let Some(&(low, high)) = spans.iter().find(|span| span.0 >= span.1) {
            return Err(Error::Empty { low, high });
        }
        if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            let (low, previous) = (pair[1].0, pair[0].1);
            return Err(Error::Unordered { low, previous });
        }
        Ok(Self {
            spans: spans.into_iter().collect(),
        })
    }
}

impl From<RangeSet> for Vec<(u64, u64)> {
    fn from(set: RangeSet) -> Self {
        set.spans.into_iter().collect()
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        Self::from_iter([range])
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

/// `{0..4, 7..9}`.
impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;
