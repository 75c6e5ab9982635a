//! Which positions of the epoch are where. Conservation (P1) holds after every call:
//! available + leased + acked + committed + quarantined = positions.

use std::collections::BTreeMap;
use std::ops::Range;

use retort_data::ranges::RangeSet;

/// Why positions could not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The holder does not hold all of them.
    #[error("{holder} does not hold positions {begin}..{end}")]
    NotLeased {
        /// Who claimed them.
        holder: String,
        /// First position of the offending range.
        begin: u64,
        /// One past its last.
        end: u64,
    },
    /// The claim is about another epoch.
    #[error("epoch {claimed} is not the current epoch {current}")]
    OtherEpoch {
        /// Epoch of the claim.
        claimed: u32,
        /// Epoch of the ledger.
        current: u32,
    },
}

/// The ledger of one group over one epoch at a time, as interval sets.
#[derive(Debug, Clone)]
pub struct Ledger {
    positions: u64,
    epoch: u32,
    available: RangeSet,
    leased: BTreeMap<String, RangeSet>,
    acked: RangeSet,
    committed: RangeSet,
    quarantined: RangeSet,
    redelivered: u64,
    rolled_back: u64,
    total_committed: u64,
    total_quarantined: u64,
}

impl Ledger {
    /// A ledger at the start of epoch 0.
    pub fn new(positions: u64) -> Self {
        let mut ledger = Self {
            positions,
            epoch: 0,
            available: RangeSet::new(),
            leased: BTreeMap::new(),
            acked: RangeSet::new(),
            committed: RangeSet::new(),
            quarantined: RangeSet::new(),
            redelivered: 0,
            rolled_back: 0,
            total_committed: 0,
            total_quarantined: 0,
        };
        ledger.available.insert(0..positions);
        ledger
    }

    /// Leases up to `limit` blocks of `block` positions: the first run of available blocks.
    pub fn lease(&mut self, holder: &str, block: u32, limit: u32) -> Option<Range<u64>> {
        let first = self.available.iter().next()?;
        let block = u64::from(block);
        // Releases may start inside a block (a rejected position); the lease ends on the grid.
        let end = ((first.start / block + u64::from(limit.max(1))) * block).min(first.end);
        let range = first.start..end;
        self.available.remove(range.clone());
        self.leased
            .entry(holder.to_owned())
            .or_default()
            .insert(range.clone());
        self.check();
        Some(range)
    }

    /// Checks that `holder` holds all of `claim` in `epoch`.
    pub fn holds(&self, holder: &str, epoch: u32, claim: &RangeSet) -> Result<(), Error> {
        if epoch != self.epoch {
            return Err(Error::OtherEpoch {
                claimed: epoch,
                current: self.epoch,
            });
        }
        let held = self.leased.get(holder);
        for range in claim.iter() {
            if !held.is_some_and(|h| h.contains_range(range.clone())) {
                return Err(Error::NotLeased {
                    holder: holder.to_owned(),
                    begin: range.start,
                    end: range.end,
                });
            }
        }
        Ok(())
    }

    /// The holder's contribution was merged.
    pub fn ack(&mut self, holder: &str, epoch: u32, trained: &RangeSet) -> Result<(), Error> {
        self.holds(holder, epoch, trained)?;
        self.take(holder, trained);
        for range in trained.iter() {
            self.acked.insert(range);
        }
        self.check();
        Ok(())
    }

    /// A durable manifest contains these merged positions.
    ///
    /// # Panics
    /// If they were not merged: the caller lists merges of this ledger only.
    pub fn commit(&mut self, merged: &RangeSet) {
        for range in merged.iter() {
            assert!(
                self.acked.contains_range(range.clone()),
                "commit of {range:?}, which is not merged"
            );
            self.acked.remove(range.clone());
            self.committed.insert(range);
        }
        self.check();
    }

    /// The holder gives some positions back.
    pub fn release(&mut self, holder: &str, epoch: u32, positions: &RangeSet) -> Result<(), Error> {
        self.holds(holder, epoch, positions)?;
        self.take(holder, positions);
        for range in positions.iter() {
            self.available.insert(range);
        }
        self.check();
        Ok(())
    }

    /// The holder is gone: all it held is available again.
    pub fn expire(&mut self, holder: &str) -> u64 {
        let Some(held) = self.leased.remove(holder) else {
            return 0;
        };
        for range in held.iter() {
            self.available.insert(range);
        }
        self.redelivered += held.len();
        self.check();
        held.len()
    }

    /// The merged state is gone: back to the newest durable manifest.
    pub fn roll_back(&mut self) -> u64 {
        let lost = std::mem::take(&mut self.acked);
        for range in lost.iter() {
            self.available.insert(range);
        }
        self.rolled_back += lost.len();
        self.check();
        lost.len()
    }

    /// Takes one position out of the epoch; `holder` reported it and must hold it.
    pub fn quarantine(&mut self, holder: &str, epoch: u32, position: u64) -> Result<(), Error> {
        let mut one = RangeSet::new();
        one.insert(position..position + 1);
        self.holds(holder, epoch, &one)?;
        self.take(holder, &one);
        self.quarantined.insert(position..position + 1);
        self.check();
        Ok(())
    }

    /// Nothing is left to lease or to merge in this epoch.
    pub fn all_merged(&self) -> bool {
        self.available.is_empty() && self.leased.is_empty()
    }

    /// Every position is committed or quarantined.
    pub fn all_durable(&self) -> bool {
        self.all_merged() && self.acked.is_empty()
    }

    /// Opens the next epoch.
    ///
    /// # Panics
    /// If the current one is not durable as a whole.
    pub fn next_epoch(&mut self) {
        assert!(
            self.all_durable(),
            "epoch {} closes before it is durable",
            self.epoch
        );
        self.total_committed += self.committed.len();
        self.total_quarantined += self.quarantined.len();
        self.committed = RangeSet::new();
        self.quarantined = RangeSet::new();
        self.epoch += 1;
        self.available.insert(0..self.positions);
        self.check();
    }

    /// Current epoch, from 0.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Counts of this epoch: available, leased, acked, committed, quarantined.
    pub fn counts(&self) -> [u64; 5] {
        let leased = self.leased.values().map(RangeSet::len).sum();
        [
            self.available.len(),
            leased,
            self.acked.len(),
            self.committed.len(),
            self.quarantined.len(),
        ]
    }

    /// Positions held by one holder.
    pub fn held_by(&self, holder: &str) -> u64 {
        self.leased.get(holder).map_or(0, RangeSet::len)
    }

    /// First position that a lease would start at.
    pub fn first_available(&self) -> Option<u64> {
        self.available.iter().next().map(|r| r.start)
    }

    /// Positions of this epoch that were taken out.
    pub fn quarantined(&self) -> &RangeSet {
        &self.quarantined
    }

    /// Positions handed out in all epochs so far and not given back.
    pub fn granted(&self) -> u64 {
        u64::from(self.epoch) * self.positions + self.positions - self.available.len()
    }

    /// Committed over all epochs.
    pub fn total_committed(&self) -> u64 {
        self.total_committed + self.committed.len()
    }

    /// Quarantined over all epochs.
    pub fn total_quarantined(&self) -> u64 {
        self.total_quarantined + self.quarantined.len()
    }

    /// Positions that were leased again because their holder was lost.
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Merged positions that were lost with every holder of the state.
    pub fn rolled_back(&self) -> u64 {
        self.rolled_back
    }

    fn take(&mut self, holder: &str, positions: &RangeSet) {
        if let Some(held) = self.leased.get_mut(holder) {
            for range in positions.iter() {
                held.remove(range);
            }
            if held.is_empty() {
                self.leased.remove(holder);
            }
        }
    }

    /// P1. Interval sets make it cheap enough to assert always.
    fn check(&self) {
        let sum: u64 = self.counts().iter().sum();
        assert_eq!(
            sum,
            self.positions,
            "conservation of positions is broken: {:?}",
            self.counts()
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(range: Range<u64>) -> RangeSet {
        let mut s = RangeSet::new();
        s.insert(range);
        s
    }

    #[test]
    fn a_position_goes_its_way_once() {
        let mut l = Ledger::new(100);
        assert_eq!(l.lease("a", 10, 3), Some(0..30));
        assert_eq!(l.lease("b", 10, 100), Some(30..100));
        assert!(l.ack("a", 0, &set(0..31)).is_err(), "b holds 30");
        l.ack("a", 0, &set(0..30)).unwrap();
        assert!(l.ack("a", 0, &set(0..30)).is_err(), "merged twice");
        l.commit(&set(0..30));
        assert_eq!(l.expire("b"), 70);
        assert_eq!(l.counts(), [70, 0, 0, 30, 0]);
    }

    #[test]
    fn rolling_back_returns_merged_but_not_committed_positions() {
        let mut l = Ledger::new(20);
        l.lease("a", 10, 2);
        l.ack("a", 0, &set(0..20)).unwrap();
        l.commit(&set(0..10));
        assert_eq!(l.roll_back(), 10);
        assert_eq!(l.counts(), [10, 0, 0, 10, 0]);
        assert_eq!(l.rolled_back(), 10);
    }

    #[test]
    fn an_epoch_closes_only_when_durable() {
        let mut l = Ledger::new(10);
        l.lease("a", 10, 1);
        l.quarantine("a", 0, 4).unwrap();
        assert!(l.ack("a", 0, &set(0..10)).is_err(), "position 4 is out");
        l.ack("a", 0, &set(0..4)).unwrap();
        l.ack("a", 0, &set(5..10)).unwrap();
        assert!(l.all_merged() && !l.all_durable());
        l.commit(&set(0..4));
        l.commit(&set(5..10));
        l.next_epoch();
        assert_eq!((l.epoch(), l.total_committed(), l.total_quarantined()), (1, 9, 1));
    }

    proptest! {
        /// Any sequence of calls keeps P1 (asserted inside) and commits nothing twice.
        #[test]
        fn conservation_holds_for_any_history(n in 1u64..500, block in 1u32..40, calls in prop::collection::vec((0u8..6, 0usize..3, 1u32..5), 1..200)) {
            let holders = ["a", "b", "c"];
            let mut held: BTreeMap<&str, Vec<Range<u64>>> = BTreeMap::new();
            let mut merged: Vec<Range<u64>> = Vec::new();
            let mut l = Ledger::new(n);
            for (call, who, size) in calls {
                let who = holders[who];
                match call {
                    0 | 1 => if let Some(r) = l.lease(who, block, size) {
                        held.entry(who).or_default().push(r);
                    },
                    2 => if let Some(r) = held.entry(who).or_default().pop() {
                        l.ack(who, l.epoch(), &set(r.clone())).unwrap();
                        prop_assert!(l.ack(who, l.epoch(), &set(r.clone())).is_err());
                        merged.push(r);
                    },
                    3 => { l.expire(who); held.remove(who); },
                    4 => { for r in merged.drain(..) { l.commit(&set(r)); } },
                    _ => { l.roll_back(); merged.clear(); },
                }
                if l.all_durable() {
                    l.next_epoch();
                    held.clear();
                }
            }
            prop_assert_eq!(l.total_committed() % n, l.counts()[3]);
        }
    }
}
