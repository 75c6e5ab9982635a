//! Exact sets of positions, stored as intervals: a billion positions in a few runs cost a few bytes.

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
/// Serialises as `[[low, high], ...]`; what is not in this one canonical form is refused on reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RangeSet {
    /// `(low, high)` with `low < high`, and each `low` above the `high` before it.
    spans: Vec<(u64, u64)>,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// Adds a range; says how many of its values are new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let added = range.end - range.start - self.count(range.clone());
        // Those that touch the range are merged with it, neighbours included.
        let from = self.spans.partition_point(|span| span.1 < range.start);
        let to = self.spans.partition_point(|span| span.0 <= range.end);
        let merged = self.spans[from..to]
            .iter()
            .fold((range.start, range.end), |merged, span| {
                (merged.0.min(span.0), merged.1.max(span.1))
            });
        self.spans.splice(from..to, [merged]);
        added
    }

    /// Adds a range that must be new as a whole; else changes nothing.
    pub fn insert_disjoint(&mut self, range: Range<u64>) -> Result<(), Error> {
        if let Some(&(low, high)) = self.touched(&range).first() {
            let held = low.max(range.start)..high.min(range.end);
            return Err(Error::Overlap { range, held });
        }
        self.insert(range);
        Ok(())
    }

    /// Removes a range; says how many values went.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let removed = self.count(range.clone());
        if removed > 0 {
            let (from, to) = self.touched_indices(&range);
            let left = (self.spans[from].0, range.start);
            let right = (range.end, self.spans[to - 1].1);
            let rest = [left, right].into_iter().filter(|span| span.0 < span.1);
            self.spans.splice(from..to, rest);
        }
        removed
    }

    /// Whether the set holds this value.
    pub fn contains(&self, value: u64) -> bool {
        let at = self.spans.partition_point(|span| span.1 <= value);
        self.spans.get(at).is_some_and(|span| span.0 <= value)
    }

    /// Whether the set holds the whole range.
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        self.count(range.clone()) == range.end.saturating_sub(range.start)
    }

    /// Whether the set holds any value of the range.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        !self.touched(&range).is_empty()
    }

    /// How many values of the range the set holds.
    pub fn count(&self, range: Range<u64>) -> u64 {
        self.touched(&range)
            .iter()
            .map(|&(low, high)| high.min(range.end) - low.max(range.start))
            .sum()
    }

    /// What both sets hold.
    pub fn intersect(&self, other: &Self) -> Self {
        let mut spans = Vec::new();
        for &(low, high) in &self.spans {
            for span in other.touched(&(low..high)) {
                spans.push((low.max(span.0), high.min(span.1)));
            }
        }
        Self { spans }
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
        self.spans.iter().map(|span| span.1 - span.0).sum()
    }

    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The intervals in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.spans.iter().map(|&(low, high)| low..high)
    }

    /// The lowest interval.
    pub fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// The lowest interval within `bounds` that the set lacks, as long as possible.
    pub fn first_gap(&self, bounds: Range<u64>) -> Option<Range<u64>> {
        let mut gap = bounds;
        for &(low, high) in self.touched(&gap) {
            if low > gap.start {
                gap.end = low;
                break;
            }
            gap.start = high;
        }
        (gap.start < gap.end).then_some(gap)
    }

    /// Removes the lowest `count` values, or all if there are fewer, and returns them.
    pub fn take_first(&mut self, count: u64) -> Self {
        let mut left = count;
        let mut whole = 0;
        while let Some(&(low, high)) = self.spans.get(whole).filter(|s| s.1 - s.0 <= left) {
            left -= high - low;
            whole += 1;
        }
        let mut spans: Vec<_> = self.spans.drain(..whole).collect();
        if let Some(span) = self.spans.first_mut().filter(|_| left > 0) {
            spans.push((span.0, span.0 + left));
            span.0 += left;
        }
        Self { spans }
    }

    /// The intervals that share a value with the range.
    fn touched(&self, range: &Range<u64>) -> &[(u64, u64)] {
        let (from, to) = self.touched_indices(range);
        &self.spans[from..to]
    }

    fn touched_indices(&self, range: &Range<u64>) -> (usize, usize) {
        if range.is_empty() {
            return (0, 0);
        }
        let from = self.spans.partition_point(|span| span.1 <= range.start);
        let to = self.spans.partition_point(|span| span.0 < range.end);
        (from, to)
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
        Ok(Self { spans })
    }
}

impl From<RangeSet> for Vec<(u64, u64)> {
    fn from(set: RangeSet) -> Self {
        set.spans
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
