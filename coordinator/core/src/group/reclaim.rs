//! Losing a session is not death: a replica comes back with its state and asks to go on with it.
//!
//! A state is named by generation and round: every replica at the start of the same round of the
//! same generation holds the same weights. When the coordinator is lost between recording a merge
//! and answering it, nobody holds the merged state; the merge is undone then, and the contributors
//! bring their work again.

use retort_data::ranges::RangeSet;

use super::Group;
use crate::manifest::Merge;
use crate::round::Claim;

/// What is known of a replica of a former term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Former {
    /// It may hold the newest state.
    Unheard,
    /// It said that it holds the one before the newest merge.
    Older,
    /// It said that it holds nothing of use.
    Empty,
}

impl Group {
    /// Replicas of a former term hold what the coordinator has forgotten; they are given the time of
    /// a lease to come back.
    pub(crate) fn expect(&mut self, worker: &str) {
        self.expected.insert(worker.to_owned(), Former::Unheard);
    }

    /// Whether a registration has to wait for what former replicas may still bring.
    pub fn must_wait(&mut self, worker: &str, claim: Option<&Claim>) -> bool {
        // Alone it would take back what a manifest is about to say.
        let current = claim.is_some_and(|c| self.is_current(c));
        if self.committing && !current && !self.has_other_keeper(worker) {
            return true;
        }
        let others = |what: &[Former]| {
            let mut others = self.expected.iter().filter(|(w, _)| *w != worker);
            others.any(|(_, former)| what.contains(former))
        };
        let (wait, heard) = match claim {
            Some(claim) if self.is_current(claim) => return false,
            // Somebody may hold the state after the newest merge.
            Some(claim) if self.is_previous(claim) => (others(&[Former::Unheard]), Former::Older),
            _ => (others(&[Former::Unheard, Former::Older]), Former::Empty),
        };
        if let Some(former) = self.expected.get_mut(worker) {
            *former = heard;
        }
        wait
    }

    /// The claim is of the state at the start of this round.
    fn is_current(&self, claim: &Claim) -> bool {
        let state = (claim.generation, claim.round);
        claim.part == self.spec.name
            && (state == (self.plan.generation, self.plan.round) || self.alias == Some(state))
    }

    /// The claim is of the state before the newest merge, and no manifest contains that.
    fn is_previous(&self, claim: &Claim) -> bool {
        claim.part == self.spec.name
            && claim.generation == self.plan.generation
            && claim.round + 1 == self.plan.round
            && self.durable.is_none_or(|d| d.round <= claim.round)
    }

    /// Gives a replica its positions back if its state is the group's; else nothing changes.
    pub(super) fn reclaim(&mut self, worker: &str, claim: &Claim) -> Option<RangeSet> {
        let undo = !self.is_current(claim);
        if undo && !(self.is_previous(claim) && self.keepers() == 0) {
            return None;
        }
        let undone = if undo {
            self.newest_merge(claim.round)
        } else {
            RangeSet::new()
        };
        let this_epoch = claim.epoch == self.ledger.epoch();
        let free = |wanted: &RangeSet| self.ledger.free(wanted).union(&wanted.intersect(&undone));
        let intact = claim.trained.is_empty() || this_epoch && free(&claim.trained) == claim.trained;
        if !intact {
            return None;
        }
        if undo {
            self.undo_newest(claim.round);
        }
        let held = if this_epoch {
            self.ledger.free(&claim.held.difference(&claim.trained))
        } else {
            RangeSet::new()
        };
        self.ledger.claim(worker, &claim.trained);
        self.ledger.claim(worker, &held);
        Some(held)
    }

    fn newest_merge(&self, round: u64) -> RangeSet {
        let newest = self.pending.last().filter(|m| m.round == round);
        newest.into_iter().flat_map(Merge::ranges).collect()
    }

    /// Nobody holds the newest merge: back to the state before it, under a new generation.
    fn undo_newest(&mut self, round: u64) {
        if let Some(merge) = self.pending.pop_if(|m| m.round == round) {
            self.ledger.unmerge(merge.ranges());
            let steps: u64 = merge.contributions.iter().map(|c| u64::from(c.steps)).sum();
            self.steps -= steps;
            self.positions -= merge.ranges().map(|r| r.end - r.start).sum::<u64>();
            self.dirty
                .insert(crate::record::Key::Merge(self.spec.name.clone(), merge.round));
        }
        self.alias = Some((self.plan.generation, round));
        self.plan.generation += 1;
        self.publishing = None;
        self.touch();
    }

    /// Every holder of the merged state is gone: back to the newest durable version.
    pub(super) fn roll_back(&mut self) {
        self.ledger.unmerge(self.pending.iter().flat_map(Merge::ranges));
        let name = self.spec.name.clone();
        for merge in std::mem::take(&mut self.pending) {
            self.dirty
                .insert(crate::record::Key::Merge(name.clone(), merge.round));
        }
        let (steps, positions) = self.durable.map_or((0, 0), |d| (d.steps, d.positions));
        self.steps = steps;
        self.positions = positions;
        self.plan.positions = positions;
        self.forget_merges();
    }

    /// What follows when merges are taken back.
    pub(super) fn forget_merges(&mut self) {
        self.publishing = None;
        self.alias = None;
        self.plan.generation += 1;
        self.evaluated_at = None;
        self.plan.evaluate = true;
        let name = self.spec.name.clone();
        for round in self.curve.cut(self.steps) {
            self.dirty.insert(crate::record::Key::Point(name.clone(), round));
        }
        self.touch();
    }

    pub(super) fn merged_since_manifest(&self) -> RangeSet {
        self.pending.iter().flat_map(Merge::ranges).collect()
    }
}
