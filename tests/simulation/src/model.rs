//! Symbolic weights: what a state contains, and which state it grew from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use retort_data::ranges::RangeSet;

/// A model's state. Two states are the same weights if and only if their `id`s are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) id: u64,
    /// Positions whose effect it contains, by epoch.
    pub(crate) contents: BTreeMap<u32, RangeSet>,
    /// Positions that it contains more than once.
    pub(crate) twice: BTreeMap<u32, RangeSet>,
}

impl Model {
    /// Initial weights of a group, a function of its name.
    pub(crate) fn initial(group: &str) -> Rc<Self> {
        let id = group.bytes().fold(1, |h, b| mix(h, b.into()));
        Rc::new(Self {
            id,
            contents: BTreeMap::new(),
            twice: BTreeMap::new(),
        })
    }

    /// After one more step.
    pub(crate) fn step(&self, epoch: u32, positions: Range<u64>) -> Rc<Self> {
        let mut next = self.clone();
        next.id = mix(mix(self.id, positions.start), positions.end);
        next.add(epoch, positions);
        Rc::new(next)
    }

    /// The mean of replicas that started from `base`.
    pub(crate) fn merge(base: &Self, parts: &[Rc<Self>]) -> Rc<Self> {
        let mut next = base.clone();
        for part in parts {
            next.id = mix(next.id, part.id);
            for (epoch, positions) in &part.contents {
                let old = base.contents.get(epoch).cloned().unwrap_or_default();
                for range in positions.difference(&old).iter() {
                    next.add(*epoch, range);
                }
            }
            for (epoch, positions) in &part.twice {
                let all = next.twice.entry(*epoch).or_default();
                *all = all.union(positions);
            }
        }
        Rc::new(next)
    }

    fn add(&mut self, epoch: u32, positions: Range<u64>) {
        let known = self.contents.entry(epoch).or_default();
        let again = known.intersect(&RangeSet::from(positions.clone()));
        if !again.is_empty() {
            let twice = self.twice.entry(epoch).or_default();
            *twice = twice.union(&again);
        }
        known.insert(positions);
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let z = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}
