//! Scored blocks, kept while another group is expected to read them.
//!
//! A block is kept until every group that learns from this teacher has read it, or until all of them
//! are past it. Where the budget does not hold the distance between the fastest and the slowest, the
//! blocks that will be read last make room: those nearest to the slowest are of use first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::targets::{Targets, Terms};

/// A group that has asked for nothing this long is not waited for.
const SILENT: Duration = Duration::from_secs(30);
/// Blocks that a group may ask for again after it has passed them (leases that went back).
const BEHIND: u64 = 64;

/// What distinguishes one scored block from another; a wrong answer here teaches the wrong samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) epoch: u32,
    pub(crate) block: u64,
    /// Teacher, data set, order and views, in one hash.
    pub(crate) source: u64,
    pub(crate) version: u64,
    /// Where logits are too large to keep: the terms that the frame was made on.
    pub(crate) terms: Option<Terms>,
    /// Whose output comes with it: a hash of the layer's name; `None`: soft targets only.
    pub(crate) layer: Option<u64>,
}

impl Key {
    fn place(&self) -> (u32, u64) {
        (self.epoch, self.block)
    }
}

struct Entry {
    targets: Arc<Targets>,
    bytes: usize,
    /// Groups that have read it.
    read: BTreeSet<String>,
}

/// Where a group stands.
struct Front {
    place: (u32, u64),
    asked: Instant,
}

/// The cache of one teacher.
pub(crate) struct Cache {
    budget: usize,
    bytes: usize,
    entries: BTreeMap<Key, Entry>,
    /// Groups that learn from this teacher.
    expected: BTreeSet<String>,
    fronts: BTreeMap<String, Front>,
    evicted: u64,
}

impl Cache {
    /// Holds at most `budget` bytes for the groups that are expected.
    pub(crate) fn new(budget: usize, expected: BTreeSet<String>) -> Self {
        Self {
            budget,
            bytes: 0,
            entries: BTreeMap::new(),
            expected,
            fronts: BTreeMap::new(),
            evicted: 0,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Blocks that were dropped before every group had read them.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The block, if it is here; the group has read it then.
    pub(crate) fn read(&mut self, key: &Key, group: &str, now: Instant) -> Option<Arc<Targets>> {
        self.pass(key.place(), group, now);
        let entry = self.entries.get_mut(key)?;
        let targets = entry.targets.clone();
        if !entry.read.contains(group) {
            entry.read.insert(group.to_owned());
        }
        if !self.is_wanted(key, now) {
            self.remove(key);
        }
        Some(targets)
    }

    /// Keeps a block that these groups have read, if another is expected to.
    pub(crate) fn insert(&mut self, key: Key, targets: Arc<Targets>, read: BTreeSet<String>, now: Instant) {
        let bytes = targets.bytes();
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(key, Entry { targets, bytes, read }) {
            self.bytes -= old.bytes;
        }
        if !self.is_wanted(&key, now) {
            self.remove(&key);
        }
        self.make_room();
    }

    /// A frame was made of a block that may be here.
    pub(crate) fn grown(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            let bytes = entry.targets.bytes();
            self.bytes = self.bytes - entry.bytes + bytes;
            entry.bytes = bytes;
            self.make_room();
        }
    }

    /// Versions below this one are not served any more.
    pub(crate) fn keep_from(&mut self, version: u64) {
        let old: Vec<Key> = self
            .entries
            .keys()
            .filter(|k| k.version < version)
            .copied()
            .collect();
        for key in old {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// Whether a group that still asks has not read it.
    fn is_wanted(&self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get(key) else {
            return false;
        };
        self.expected
            .iter()
            .filter(|group| !entry.read.contains(*group))
            .any(|group| {
                let front = self.fronts.get(group);
                front.is_none_or(|f| now.duration_since(f.asked) < SILENT)
            })
    }

    /// A group asks for this place: what lies behind all groups is of no use any more.
    fn pass(&mut self, place: (u32, u64), group: &str, now: Instant) {
        if let Some(front) = self.fronts.get_mut(group) {
            front.place = front.place.max(place);
            front.asked = now;
        } else {
            let front = Front { place, asked: now };
            self.fronts.insert(group.to_owned(), front);
        }
        let live = |group: &String| match self.fronts.get(group) {
            // A group that never asked yet stands at the beginning.
            None => Some((0, 0)),
            Some(front) => (now.duration_since(front.asked) < SILENT).then_some(front.place),
        };
        let Some((epoch, block)) = self.expected.iter().filter_map(live).min() else {
            return;
        };
        let slowest = (epoch, block.saturating_sub(BEHIND));
        while let Some((key, _)) = self.entries.first_key_value()
            && key.place() < slowest
        {
            let key = *key;
            self.remove(&key);
            self.evicted += 1;
        }
    }

    fn make_room(&mut self) {
        while self.bytes > self.budget
            && let Some((_, entry)) = self.entries.pop_last()
        {
            self.bytes -= entry.bytes;
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests;
