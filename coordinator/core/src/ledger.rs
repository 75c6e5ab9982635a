//! Which positions of the epoch are where. Conservation (P1) holds after every call:
//! available + leased + acked + committed + quarantined = positions.

use std::ops::Range;

use retort_data::ranges::RangeSet;
use serde::{Deserialize, Serialize};

use crate::names::ByName;

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
    leased: ByName<RangeSet>,
    acked: RangeSet,
    committed: RangeSet,
    quarantined: RangeSet,
    /// Available again because a holder was lost, and not leased since.
    returned: RangeSet,
    counts: Counts,
    totals: Totals,
}

/// How many positions are where; kept beside the sets, so that a billion positions among ten
/// thousand holders cost nothing to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    available: u64,
    leased: u64,
    acked: u64,
    committed: u64,
    quarantined: u64,
}

/// Counts over all epochs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Positions that were leased again because their holder was lost.
    pub redelivered: u64,
    /// Merged positions that were lost with every holder of the state.
    pub rolled_back: u64,
    /// In durable manifests, closed epochs only.
    pub committed: u64,
    /// Taken out, closed epochs only.
    pub quarantined: u64,
}

/// What of a ledger survives the coordinator: leases do not, their holders claim them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Current epoch.
    pub epoch: u32,
    /// In durable manifests, this epoch.
    pub committed: RangeSet,
    /// Taken out, this epoch.
    pub quarantined: RangeSet,
    /// Over all epochs.
    pub totals: Totals,
}

impl Ledger {
    /// A ledger at the start of epoch 0.
    pub fn new(positions: u64) -> Self {
        Self {
            positions,
            epoch: 0,
            available: RangeSet::from(0..positions),
            leased: ByName::default(),
            acked: RangeSet::new(),
            committed: RangeSet::new(),
            quarantined: RangeSet::new(),
            returned: RangeSet::new(),
            counts: Counts {
                available: positions,
                ..Counts::default()
            },
            totals: Totals::default(),
        }
    }

    /// The ledger that wrote `record`, with what was `merged` since the newest manifest.
    pub fn restore(positions: u64, record: &Record, merged: &RangeSet) -> Self {
        let mut ledger = Self::new(positions);
        ledger.epoch = record.epoch;
        ledger.totals = record.totals;
        ledger.committed = record.committed.clone();
        ledger.quarantined = record.quarantined.clone();
        ledger.acked = merged.clone();
        for taken in [merged, &record.committed, &record.quarantined] {
            for range in taken.iter() {
                ledger.available.remove(range);
            }
        }
        ledger.counts = ledger.recount();
        ledger.check();
        ledger
    }

    /// What survives the coordinator.
    pub fn record(&self) -> Record {
        Record {
            epoch: self.epoch,
            committed: self.committed.clone(),
            quarantined: self.quarantined.clone(),
            totals: self.totals,
        }
    }

    /// Leases up to `limit` blocks of `block` positions: the first run of available blocks.
    pub fn lease(&mut self, holder: &str, block: u32, limit: u32) -> Option<Range<u64>> {
        let first = self.available.iter().next()?;
        let block = u64::from(block);
        // Releases may start inside a block (a rejected position); the lease ends on the grid.
        let end = ((first.start / block + u64::from(limit.max(1))) * block).min(first.end);
        self.lease_range(holder, first.start..end);
        Some(first.start..end)
    }

    /// Leases an available range.
    ///
    /// # Panics
    /// If it is not available as a whole.
    pub fn lease_range(&mut self, holder: &str, range: Range<u64>) {
        let count = self.available.remove(range.clone());
        assert_eq!(count, range.end - range.start, "{range:?} is not available");
        self.totals.redelivered += self.returned.remove(range.clone());
        self.counts.available -= count;
        self.counts.leased += count;
        if let Some(held) = self.leased.get_mut(holder) {
            held.insert(range);
        } else {
            self.leased.insert(holder, RangeSet::from(range));
        }
        self.check();
    }

    /// The part of `wanted` that is available.
    pub fn free(&self, wanted: &RangeSet) -> RangeSet {
        wanted.intersect(&self.available)
    }

    /// The holder comes back for available positions that it held before.
    ///
    /// # Panics
    /// If they are not available as a whole.
    pub fn claim(&mut self, holder: &str, positions: &RangeSet) {
        for range in positions.iter() {
            // The same hands again: nothing was delivered twice.
            self.returned.remove(range.clone());
            self.lease_range(holder, range);
        }
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
        let count = self.take(holder, trained);
        for range in trained.iter() {
            self.acked.insert(range);
        }
        self.counts.acked += count;
        self.check();
        Ok(())
    }

    /// A durable manifest contains these merged positions.
    ///
    /// # Panics
    /// If they were not merged: the caller lists merges of this ledger only.
    pub fn commit(&mut self, merged: impl Iterator<Item = Range<u64>>) {
        for range in merged {
            let count = self.acked.remove(range.clone());
            assert_eq!(
                count,
                range.end - range.start,
                "commit of {range:?}, which is not merged"
            );
            self.counts.acked -= count;
            self.counts.committed += self.committed.insert(range);
        }
        self.check();
    }

    /// The holder gives some positions back.
    pub fn release(&mut self, holder: &str, epoch: u32, positions: &RangeSet) -> Result<(), Error> {
        self.holds(holder, epoch, positions)?;
        self.take(holder, positions);
        self.put_back(positions);
        self.check();
        Ok(())
    }

    /// The holder is gone: all it held is available again.
    pub fn expire(&mut self, holder: &str) -> RangeSet {
        let Some(held) = self.leased.remove(holder) else {
            return RangeSet::new();
        };
        self.counts.leased -= held.len();
        self.put_back(&held);
        for range in held.iter() {
            self.returned.insert(range);
        }
        self.check();
        held
    }

    /// The state behind these merged positions is gone: they are trained again.
    ///
    /// # Panics
    /// If they were not merged, or are durable.
    pub fn unmerge(&mut self, merged: impl Iterator<Item = Range<u64>>) {
        for range in merged {
            let count = self.acked.remove(range.clone());
            assert_eq!(count, range.end - range.start, "{range:?} is not merged");
            self.counts.acked -= count;
            self.totals.rolled_back += count;
            self.counts.available += self.available.insert(range);
        }
        self.check();
    }

    /// Back to a manifest's cut, forward or back; nobody may hold a lease.
    ///
    /// # Panics
    /// If leases are held.
    pub fn move_to(&mut self, cut: &Record) {
        assert_eq!(self.counts.leased, 0, "the ledger moves under its holders");
        let before = u64::from(self.epoch) * self.positions + self.counts.committed + self.counts.acked;
        let after = u64::from(cut.epoch) * self.positions + cut.committed.len();
        let mut totals = self.totals;
        totals.rolled_back += before.saturating_sub(after);
        totals.committed = cut.totals.committed;
        totals.quarantined = cut.totals.quarantined;
        let cut = Record {
            totals,
            ..cut.clone()
        };
        *self = Self::restore(self.positions, &cut, &RangeSet::new());
    }

    /// Takes one position out of the epoch; `holder` reported it and must hold it.
    pub fn quarantine(&mut self, holder: &str, epoch: u32, position: u64) -> Result<(), Error> {
        let one = RangeSet::from(position..position + 1);
        self.holds(holder, epoch, &one)?;
        self.take(holder, &one);
        self.counts.quarantined += self.quarantined.insert(position..position + 1);
        self.check();
        Ok(())
    }

    /// Takes one available position out of the epoch; false: it is not available.
    pub fn quarantine_free(&mut self, position: u64) -> bool {
        let count = self.available.remove(position..position + 1);
        self.returned.remove(position..position + 1);
        self.counts.available -= count;
        self.counts.quarantined += count;
        if count > 0 {
            self.quarantined.insert(position..position + 1);
        }
        self.check();
        count > 0
    }

    /// Nothing is left to lease or to merge in this epoch.
    pub fn all_merged(&self) -> bool {
        self.counts.available == 0 && self.counts.leased == 0
    }

    /// Every position is committed or quarantined.
    pub fn all_durable(&self) -> bool {
        self.all_merged() && self.counts.acked == 0
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
        let totals = Totals {
            committed: self.total_committed(),
            quarantined: self.total_quarantined(),
            ..self.totals
        };
        let epoch = self.epoch + 1;
        *self = Self::new(self.positions);
        self.epoch = epoch;
        self.totals = totals;
    }

    /// Current epoch, from 0.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Positions of one epoch.
    pub fn positions(&self) -> u64 {
        self.positions
    }

    /// Counts of this epoch: available, leased, acked, committed, quarantined.
    pub fn counts(&self) -> [u64; 5] {
        let c = self.counts;
        [c.available, c.leased, c.acked, c.committed, c.quarantined]
    }

    /// Positions held by one holder.
    pub fn held_by(&self, holder: &str) -> u64 {
        self.leased.get(holder).map_or(0, RangeSet::len)
    }

    /// What one holder holds.
    pub fn held(&self, holder: &str) -> Option<&RangeSet> {
        self.leased.get(holder)
    }

    /// The range that a lease would be cut from.
    pub fn first_available(&self) -> Option<Range<u64>> {
        self.available.first()
    }

    /// Positions of this epoch that were taken out.
    pub fn quarantined(&self) -> &RangeSet {
        &self.quarantined
    }

    /// Positions of this epoch in durable manifests.
    pub fn committed(&self) -> &RangeSet {
        &self.committed
    }

    /// Positions handed out in all epochs so far and not given back.
    pub fn granted(&self) -> u64 {
        u64::from(self.epoch) * self.positions + self.positions - self.counts.available
    }

    /// The first place in the order, over all epochs, that is neither committed nor taken out.
    pub fn settled(&self) -> u64 {
        let taken = self.committed.union(&self.quarantined);
        let open = taken.first_gap(0..self.positions);
        u64::from(self.epoch) * self.positions + open.map_or(self.positions, |gap| gap.start)
    }

    /// Places that are merged, committed or taken out, over all epochs.
    pub fn merged(&self) -> u64 {
        let c = self.counts;
        u64::from(self.epoch) * self.positions + c.acked + c.committed + c.quarantined
    }

    /// Committed over all epochs.
    pub fn total_committed(&self) -> u64 {
        self.totals.committed + self.counts.committed
    }

    /// Quarantined over all epochs.
    pub fn total_quarantined(&self) -> u64 {
        self.totals.quarantined + self.counts.quarantined
    }

    /// Positions that were leased again because their holder was lost.
    pub fn redelivered(&self) -> u64 {
        self.totals.redelivered
    }

    /// Merged positions that were lost with every holder of the state.
    pub fn rolled_back(&self) -> u64 {
        self.totals.rolled_back
    }

    /// Counts the sets themselves; equal to [`Ledger::counts`], which an oracle checks.
    pub fn counted(&self) -> [u64; 5] {
        let c = self.recount();
        [c.available, c.leased, c.acked, c.committed, c.quarantined]
    }

    fn recount(&self) -> Counts {
        Counts {
            available: self.available.len(),
            leased: self.leased.values().map(RangeSet::len).sum(),
            acked: self.acked.len(),
            committed: self.committed.len(),
            quarantined: self.quarantined.len(),
        }
    }

    fn take(&mut self, holder: &str, positions: &RangeSet) -> u64 {
        let Some(held) = self.leased.get_mut(holder) else {
            return 0;
        };
        let count: u64 = positions.iter().map(|range| held.remove(range)).sum();
        self.counts.leased -= count;
        count
    }

    fn put_back(&mut self, positions: &RangeSet) {
        for range in positions.iter() {
            self.counts.available += self.available.insert(range);
        }
    }

    /// P1, cheap enough to assert always.
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
    use std::collections::BTreeMap;

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
        l.commit(set(0..30).iter());
        assert_eq!(l.expire("b").len(), 70);
        assert_eq!(l.counts(), [70, 0, 0, 30, 0]);
    }

    #[test]
    fn rolling_back_returns_merged_but_not_committed_positions() {
        let mut l = Ledger::new(20);
        l.lease("a", 10, 2);
        l.ack("a", 0, &set(0..20)).unwrap();
        l.commit(set(0..10).iter());
        l.unmerge(set(10..20).iter());
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
        l.commit(set(0..4).iter());
        l.commit(set(5..10).iter());
        l.next_epoch();
        assert_eq!((l.epoch(), l.total_committed(), l.total_quarantined()), (1, 9, 1));
    }

    #[test]
    fn a_restored_ledger_has_everything_but_the_leases() {
        let mut l = Ledger::new(100);
        l.lease("a", 10, 4);
        l.ack("a", 0, &set(0..20)).unwrap();
        l.commit(set(0..10).iter());
        l.quarantine("a", 0, 25).unwrap();
        let r = Ledger::restore(100, &l.record(), &set(10..20));
        assert_eq!(r.counts(), [79, 0, 10, 10, 1]);
        assert_eq!(r.counts(), r.counted());
    }

    #[test]
    fn only_what_others_get_again_counts_as_redelivered() {
        let mut l = Ledger::new(40);
        l.lease("a", 10, 2);
        l.expire("a");
        l.claim("a", &set(0..10));
        assert_eq!(l.redelivered(), 0);
        l.lease("b", 10, 1);
        assert_eq!(l.redelivered(), 10);
    }

    #[test]
    fn moving_back_to_a_cut_counts_what_is_lost() {
        let mut l = Ledger::new(20);
        let start = l.record();
        l.lease("a", 10, 2);
        l.ack("a", 0, &set(0..20)).unwrap();
        l.commit(set(0..15).iter());
        l.move_to(&start);
        assert_eq!((l.counts(), l.rolled_back()), ([20, 0, 0, 0, 0], 20));
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
                    4 => { for r in merged.drain(..) { l.commit(set(r).iter()); } },
                    _ => { for r in merged.drain(..) { l.unmerge(set(r).iter()); } },
                }
                prop_assert_eq!(l.counts(), l.counted());
                if l.all_durable() {
                    l.next_epoch();
                    held.clear();
                }
            }
            prop_assert_eq!(l.total_committed() % n, l.counts()[3]);
        }
    }
}
